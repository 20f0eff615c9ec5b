import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { FilesystemSync } from "../../../../primary/stores/files/filesystem-sync.ts";

describe("syncing a few files ahead", () => {
  it("opens nothing but files, takes what is gone for synced, and tells what failed", async () => {
    const directory = mkdtempSync(join(tmpdir(), "understudy-sync-"));
    try {
      const at = (name: string): string => join(directory, name);
      for (const name of ["a", "b"]) writeFileSync(at(name), name);
      mkdirSync(at("directory"));
      symlinkSync("/dev/zero", at("symlink"));
      execFileSync("mkfifo", [at("fifo")]); // Opened to be read, it would wait for a writer.
      const names = ["a", "b", "directory", "symlink", "fifo", "gone", "a/below a file", "x".repeat(300)];
      const failed = await new FilesystemSync(Date.now).ahead(names.map(at));
      expect([...failed.keys()]).to.deep.equal([at("x".repeat(300))]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
