import { execFileSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import type { Directory } from "../../../shared/ports/disk.ts";
import { seededRandom } from "../../crash/seeded-random.ts";

describe("the real disk alone", () => {
  const disk = new RealDisk();
  let path: string;
  let root: Directory;
  beforeEach(() => {
    path = mkdtempSync(join(tmpdir(), "understudy-real-disk-"));
    root = disk.openRoot(path);
  });
  afterEach(() => {
    disk.closeDirectory(root);
    rmSync(path, { recursive: true });
  });

  it("keeps every microsecond of a time, and whole seconds to the nanosecond", () => {
    const random = seededRandom(1);
    const between = (from: number, to: number) => Math.floor(from + random() * (to - from));
    const times = [0, 1, -1, 499_999, 999_999, 1_000_000, -999_999, -1_000_000, -1_000_001, 2 ** 31 * 1e6, 2 ** 52 + 1];
    for (let count = 0; count < 2000; count++) {
      // From 1903, as far back as ext4 goes, over the present to the end of what is exact.
      times.push(between(-2.1e15, 0), between(1.7e15, 1.9e15), between(0, 2 ** 33 * 1e6));
    }
    const file = disk.openFile(root, "file", "create");
    disk.makeSymlink(root, "symlink", "nowhere");
    for (const mtimeUs of times) {
      disk.setFileMeta(file, { mtimeUs });
      const stat = disk.statFile(file);
      expect(stat.mtimeUs).to.equal(mtimeUs);
      if (mtimeUs % 1_000_000 === 0) expect(stat.mtimeNs).to.equal(BigInt(mtimeUs) * 1000n);
      disk.setMeta(root, "symlink", { mtimeUs });
      expect(disk.stat(root, "symlink")?.mtimeUs).to.equal(mtimeUs);
    }
    disk.closeFile(file);
    expect(() => disk.setMeta(root, "symlink", { mtimeUs: 0.5 })).to.throw("whole number");
    expect(() => disk.setMeta(root, "symlink", { mtimeUs: Number.NaN })).to.throw("whole number");
  });

  it("does not wait for the other end of a fifo, and calls it neither file nor directory", () => {
    execFileSync("mkfifo", [join(path, "fifo")]);
    expect(disk.stat(root, "fifo")?.type).to.equal("other");
    expect(() => disk.openFile(root, "fifo", "read"))
      .to.throw()
      .with.property("code", "EINVAL");
    expect(() => disk.openFile(root, "fifo", "write"))
      .to.throw()
      .with.property("code", "EINVAL");
    expect(() => disk.openDirectory(root, "fifo"))
      .to.throw()
      .with.property("code", "ENOTDIR");
    disk.setMeta(root, "fifo", { mode: 0o640 });
    expect(disk.stat(root, "fifo")?.mode).to.equal(0o640);
  });

  it("sets the mode of a file that it may not open", () => {
    disk.closeFile(disk.openFile(root, "file", "create"));
    disk.setMeta(root, "file", { mode: 0 });
    disk.setMeta(root, "file", { mode: 0o400 });
    expect(disk.stat(root, "file")?.mode).to.equal(0o400);
  });

  it("does not change the mode of what a symlink leads to", () => {
    disk.closeFile(disk.openFile(root, "file", "create"));
    disk.makeSymlink(root, "symlink", "file");
    disk.setMeta(root, "symlink", { mode: 0o777, mtimeUs: 5 });
    expect(disk.stat(root, "file")?.mode).to.equal(0o600);
    expect(disk.stat(root, "file")?.mtimeUs).to.not.equal(5);
  });

  it("writes past the page cache what is aligned, and gives a plain write the rest", () => {
    const bytes = Buffer.alloc(3 * 1024 * 1024, "what is long and not read soon ");
    const file = disk.openFile(root, "file", "create");
    disk.write(file, bytes.subarray(0, 100_000), 0);
    expect(disk.writeUncached(file, bytes.subarray(4096, 4096 + 100_000), 4096), "a length within a page").to.equal(
      false,
    );
    expect(disk.writeUncached(file, bytes.subarray(512, 512 + 65_536), 512), "an offset within a page").to.equal(false);
    expect(disk.writeUncached(file, bytes.subarray(0, 4096), 0), "a page").to.equal(false);
    expect(disk.statFile(file).size).to.equal(100_000);
    // On a filesystem without O_DIRECT all of it goes through the cache.
    const rest = bytes.subarray(65_536);
    if (!disk.writeUncached(file, rest, 65_536)) disk.write(file, rest, 65_536);
    disk.write(file, Buffer.from("end"), bytes.length);
    disk.syncFile(file);
    disk.closeFile(file);
    const found = readFileSync(join(path, "file"));
    expect(found.equals(Buffer.concat([bytes, Buffer.from("end")]))).to.equal(true);
  });

  it("leaves no descriptor behind, whatever fails", () => {
    const openDescriptors = () => {
      const directory = disk.openRoot("/proc/self/fd");
      const { length } = disk.list(directory);
      disk.closeDirectory(directory);
      return length;
    };
    const before = openDescriptors();
    disk.makeDirectory(root, "directory", 0o1777);
    disk.makeSymlink(root, "symlink", "x");
    for (const mode of ["read", "write", "create"] as const) {
      expect(() => disk.openFile(root, "directory", mode)).to.throw();
      expect(() => disk.openFile(root, "symlink", mode)).to.throw();
    }
    disk.setMeta(root, "symlink", { mode: 0o600 });
    const file = disk.openFile(root, "file", "create");
    disk.writeUncached(file, new Uint8Array(1 << 20), 0);
    disk.closeFile(file);
    expect(openDescriptors()).to.equal(before);
  });

  describe("with another `sync` in the path", () => {
    const { PATH } = process.env;
    let programs: string;
    beforeEach(() => {
      programs = mkdtempSync(join(tmpdir(), "understudy-sync-"));
      process.env.PATH = `${programs}:${PATH}`;
    });
    afterEach(() => {
      process.env.PATH = PATH;
      rmSync(programs, { recursive: true });
    });
    const syncIs = (script: string) => {
      writeFileSync(join(programs, "sync"), `#!/bin/sh\n${script}\n`);
      chmodSync(join(programs, "sync"), 0o755);
    };

    it("syncs the filesystem of the directory that was opened, whatever has its path by now", () => {
      disk.makeDirectory(root, "inner", 0o755);
      const inner = disk.openDirectory(root, "inner");
      disk.rename(root, "inner", root, "moved");
      syncIs(`[ "$1" = -f ] && stat -L -c %i "$2" > ${programs}/synced`);
      disk.syncFilesystem(inner);
      const synced = disk.openRoot(programs);
      const file = disk.openFile(synced, "synced", "read");
      const buffer = Buffer.alloc(100);
      const text = buffer.toString("utf8", 0, disk.read(file, buffer, 0, 100, 0)).trim();
      expect(Number(text)).to.equal(statSync(join(path, "moved")).ino);
      disk.closeFile(file);
      disk.closeDirectory(synced);
      disk.closeDirectory(inner);
    });

    it("takes a failure, a signal and a missing program for EIO, and says which", () => {
      for (const [script, said] of [
        ["echo the disk is gone >&2; exit 1", "ended with 1: the disk is gone"],
        ["kill -9 $$", "ended with SIGKILL"],
      ] as const) {
        syncIs(script);
        expect(() => disk.syncFilesystem(root))
          .to.throw(said)
          .with.property("code", "EIO");
      }
      process.env.PATH = "/nowhere";
      expect(() => disk.syncFilesystem(root))
        .to.throw("could not be run")
        .with.property("code", "EIO");
    });
  });
});
