import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { Catalog } from "../../../shared/catalog/catalog.ts";
import { Manifest } from "../../../shared/catalog/manifest.ts";
import { type ObjectId, type StorePath, seq } from "../../../shared/words.ts";

describe("manifest", () => {
  let directory: string;
  before(() => {
    directory = mkdtempSync(join(tmpdir(), "us-manifest-"));
  });
  after(() => rmSync(directory, { recursive: true }));

  for (const base of [0n, 1n]) {
    it(`lets an object die that was born and superseded in one cut, on base ${base}`, () => {
      using catalog = new Catalog(join(directory, `catalog-${base}.db`), { synchronous: "OFF" });
      const manifest = new Manifest(catalog);
      const file = (object: number) =>
        ({
          object: object as ObjectId,
          store: 0,
          type: "file",
          mode: 0o644,
          uid: 0,
          gid: 0,
          mtimeUs: 1,
          size: 0,
          blockSize: 4096,
          target: "",
          content: new Uint8Array(32),
        }) as const;
      const birth = seq(base + 1n);
      catalog.transaction("cut", () => {
        catalog.storeNumber("tree", "files");
        if (base > 0n) {
          manifest.putObject(file(1), seq(base));
          manifest.putPath(1, "a" as StorePath, 1 as ObjectId, seq(base));
        }
        // The path was replaced while the cut was taken, so that it was found a second time.
        for (const object of [2, 3]) {
          manifest.putObject(file(object), birth);
          manifest.putPath(1, "a" as StorePath, object as ObjectId, birth);
        }
        manifest.settleDeaths(birth, seq(base));
      });
      const alive = [...manifest.objectsBorn(seq(0), birth)].filter(({ version }) => version !== undefined);
      expect(alive.map(({ object }) => object)).to.deep.equal([3]);
      expect(manifest.object(2 as ObjectId, birth)).to.equal(undefined);
    });
  }
});
