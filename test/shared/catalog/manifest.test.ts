import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { pruneSuperseded } from "../../../primary/plan/prune.ts";
import { Catalog } from "../../../shared/catalog/catalog.ts";
import { Manifest, type ObjectVersion } from "../../../shared/catalog/manifest.ts";
import { hex, pathTerm, Sum256 } from "../../../shared/manifest/digest.ts";
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

  it("keeps the set's digest up through whatever a cut does to paths and objects, whether old rows are pruned or not", () => {
    const first = Number(process.env.UNDERSTUDY_SEED ?? Math.floor(Math.random() * 2 ** 31));
    for (let seed = first; seed < first + 40; seed++) {
      const random = randomOf(seed);
      using catalog = new Catalog(":memory:");
      const manifest = new Manifest(catalog);
      const paths = new Map<StorePath, ObjectId>();
      const sizes = new Map<ObjectId, number>();
      let digest: Uint8Array = new Uint8Array(32);
      let objects = 0;
      const isPruned = random(2) === 0;
      const context = { catalog, manifest, stores: [], incarnation: "", nowUs: () => 0 };
      catalog.begin();
      catalog.storeNumber("tree", "files");
      for (let cut = 1; cut <= 8; cut++) {
        const birth = seq(cut);
        const base = seq(cut - 1);
        const put = (path: StorePath, object: ObjectId | undefined): void => {
          manifest.putPath(1, path, object, birth);
          if (object === undefined) paths.delete(path);
          else paths.set(path, object);
        };
        const change = (object: ObjectId): void => {
          const size = random(1_000_000);
          manifest.putObject(fileOf(object, size), birth);
          sizes.set(object, size);
        };
        for (let step = random(12); step >= 0; step--) {
          const path = `p${random(6)}` as StorePath;
          const other = `p${random(6)}` as StorePath;
          const object = paths.get(path);
          const kind = random(5);
          if (object === undefined || kind === 0) {
            const created = ++objects as ObjectId;
            change(created);
            put(path, created);
          } else if (kind === 1) change(object);
          else if (kind === 2) put(path, undefined);
          else if (kind === 3) put(other, object);
          else if (path !== other) {
            put(other, object);
            put(path, undefined);
          }
        }
        manifest.settleDeaths(birth, base);
        digest = manifest.digestAfter(base, digest, birth);
        const expected = new Sum256();
        for (const [path, object] of paths) expected.add(pathTerm("tree", path, fileOf(object, sizes.get(object)!)));
        expect(hex(digest), `seed ${seed}, cut ${cut}`).to.equal(hex(expected.bytes()));
        if (isPruned) pruneSuperseded(context, birth, base);
        const since = seq(random(cut));
        const changed = [...manifest.objectsChanged(since, birth)].map(({ object }) => object);
        const born = manifest.objectsBorn(since, birth).filter(({ version }) => version !== undefined);
        expect(changed.sort((a, b) => a - b)).to.deep.equal(born.map(({ object }) => object));
      }
      catalog.rollback();
    }
    console.log(`      seeds ${first} to ${first + 39}`);
  });

  it("gives what a cut of any size brought page by page, each path and object once", () => {
    using catalog = new Catalog(":memory:");
    const manifest = new Manifest(catalog);
    catalog.transaction("cuts", () => {
      catalog.storeNumber("tree", "files");
      for (let n = 1; n <= 1700; n++) {
        for (const birth of n % 3 === 0 ? [1, 2] : [1]) {
          manifest.putObject(fileOf(n as ObjectId, birth), seq(birth));
          manifest.putPath(1, `d${n % 7}/${n}` as StorePath, n as ObjectId, seq(birth));
        }
      }
    });
    const objects = [...manifest.objectsChanged(seq(0), seq(2))];
    expect(new Set(objects.map(({ object }) => object)).size)
      .to.equal(objects.length)
      .and.to.equal(1700);
    expect(objects.map(({ birth }) => birth)).to.deep.equal(objects.map(({ birth }) => birth).sort((a, b) => b - a));
    expect([...manifest.pathsBorn(seq(0), seq(2))].map((row) => row.object)).to.have.lengthOf(1700);
    expect([...manifest.pathsBorn(seq(1), seq(2))]).to.have.lengthOf(566);
    expect([...manifest.objectsChanged(seq(1), seq(2))]).to.have.lengthOf(566);
  });
});

function fileOf(object: ObjectId, size: number): Omit<ObjectVersion, "birth"> {
  const type = "file";
  const content = new Uint8Array(32);
  return { object, type, mode: 0o644, uid: 0, gid: 0, mtimeUs: 0, size, blockSize: 4096, target: "", content };
}

/** Numbers below `below`, the same for the same seed. */
function randomOf(seed: number): (below: number) => number {
  let state = (seed | 1) >>> 0;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}
