import { appendFileSync, linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { seenIndex } from "../../../primary/plan/seen-index.ts";
import { createFilesStore } from "../../../primary/stores/files/files-store.ts";
import { type StorePath, seq } from "../../../shared/words.ts";
import { cutInto, openPrimary } from "../../model/in-process.ts";

describe("what was seen of a store", () => {
  it("says of a directory's children, read at once, what it says of each by its path", async () => {
    const scratch = mkdtempSync(join(tmpdir(), "understudy-seen-"));
    const root = join(scratch, "tree");
    mkdirSync(join(root, "d/e"), { recursive: true });
    for (const name of ["changed", "gone", "stays"]) writeFileSync(join(root, "d", name), name);
    linkSync(join(root, "d/stays"), join(root, "d/link"));
    symlinkSync("stays", join(root, "d/symlink"));
    const adapter = createFilesStore({ path: root, exclude: [], now: () => Date.now() + 10_000 });
    await adapter.start(() => {});
    const primary = openPrimary(join(scratch, "catalog.db"), { tree: adapter });
    try {
      const { catalog, manifest, stores } = primary;
      await cutInto(primary, []);
      expect((await cutInto(primary, [])).fresh).to.equal(false);
      appendFileSync(join(root, "d/changed"), ".");
      rmSync(join(root, "d/gone"));
      await cutInto(primary, []);
      const index = seenIndex(catalog, manifest, stores[0]!.number, seq(2));
      const children = new Map([...index.children("d" as StorePath)].map(({ name, entry }) => [name, entry]));
      expect([...children.keys()].sort()).to.deep.equal(["changed", "e", "link", "stays", "symlink"]);
      for (const [name, entry] of children) expect(entry).to.deep.equal(index.byPath(`d/${name}` as StorePath));
      expect(children.get("changed")?.size).to.equal(8);
      catalog.begin(); // A cut in the making knows what it has found so far.
      manifest.putPath(stores[0]!.number, "d/stays" as StorePath, undefined, seq(3));
      const later = seenIndex(catalog, manifest, stores[0]!.number, seq(3));
      expect([...later.children("d" as StorePath)].map(({ name }) => name)).to.not.include("stays");
      expect([...index.children("d" as StorePath)].map(({ name }) => name)).to.include("stays");
      catalog.rollback();
      expect([...index.children("" as StorePath)].map(({ name }) => name)).to.deep.equal(["d"]);
    } finally {
      await adapter.close();
      primary.catalog.close();
      rmSync(scratch, { recursive: true });
    }
  });
});
