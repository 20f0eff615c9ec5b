import { expect } from "chai";
import { pruneSuperseded } from "../../../primary/plan/prune.ts";
import { Catalog } from "../../../shared/catalog/catalog.ts";
import { collapse, touched } from "../../../shared/catalog/collapse.ts";
import { ContentChange } from "../../../shared/catalog/content-change.ts";
import { Manifest } from "../../../shared/catalog/manifest.ts";
import { blockHash, blocksPerRun, equalBytes, hashInRun } from "../../../shared/manifest/block-hash.ts";
import { hex } from "../../../shared/manifest/digest.ts";
import type { ObjectRow } from "../../../shared/wire/messages.ts";
import { wholeObject } from "../../../shared/wire/touched-list.ts";
import { type ObjectId, type Seq, type StorePath, seq } from "../../../shared/words.ts";

const blockSize = 512;

/** A catalog that is written as a primary's plan writes it, or a replica's receive. */
class History {
  readonly catalog = new Catalog(":memory:");
  readonly manifest = new Manifest(this.catalog);
  readonly #births: boolean;
  digest: Uint8Array = new Uint8Array(32);
  #objects = 0;
  last = seq(0);

  constructor(by: "primary" | "replica") {
    this.#births = by === "primary";
    this.catalog.transaction("stores", () => this.catalog.storeNumber("tree", "files"));
  }

  cut(change: (at: Seq) => void, forgottenUpTo?: Seq): void {
    const base = this.last;
    this.last = seq(base + 1n);
    const at = this.last;
    this.catalog.transaction("cut", () => {
      change(at);
      this.manifest.settleDeaths(at, base);
      this.digest = this.manifest.digestAfter(base, this.digest, at);
      const { catalog, manifest } = this;
      if (this.#births && forgottenUpTo !== undefined)
        pruneSuperseded({ catalog, manifest, stores: [], incarnation: "", nowUs: () => 0 }, at, forgottenUpTo);
    });
  }

  /** Blocks that are given get new bytes; the object is made where there is none. */
  write(at: Seq, path: string, blocks: readonly number[], sizeBlocks: number): ObjectId {
    const known = this.manifest.objectAtPath(1, path as StorePath, at);
    const object = known ?? (++this.#objects as ObjectId);
    const before = known === undefined ? undefined : this.manifest.object(known, at);
    const change = new ContentChange(this.manifest, object, at, before?.content ?? new Uint8Array(0), {
      births: this.#births,
      fresh: before === undefined,
    });
    if (before !== undefined && sizeBlocks * blockSize < before.size) change.truncate(sizeBlocks);
    for (const block of blocks) change.set(block, blockHash(Buffer.from(`${object} ${block} ${at}`)));
    const content = change.finish();
    this.manifest.putObject(
      {
        ...{ object, type: "file", mode: 0o644, uid: 0, gid: 0, mtimeUs: Number(at), target: "" },
        ...{ size: sizeBlocks * blockSize, blockSize, content },
      },
      at,
    );
    if (known === undefined) this.manifest.putPath(1, path as StorePath, object, at);
    return object;
  }

  remove(at: Seq, path: string): void {
    if (this.manifest.objectAtPath(1, path as StorePath, at) !== undefined)
      this.manifest.putPath(1, path as StorePath, undefined, at);
  }

  rename(at: Seq, from: string, to: string): void {
    const object = this.manifest.objectAtPath(1, from as StorePath, at);
    if (object === undefined || from === to) return;
    this.manifest.putPath(1, to as StorePath, object, at);
    this.manifest.putPath(1, from as StorePath, undefined, at);
  }

  collapse(common: number): void {
    this.catalog.transaction("collapse", () => collapse(this.catalog, seq(common)));
  }

  touchedPaths(): string[] {
    return this.catalog.all("SELECT name FROM touched_paths ORDER BY name").map((row) => String(row.name));
  }

  /** By object: `gone`, or the blocks. */
  touchedBlocks(): Map<number, "gone" | number[]> {
    const found = new Map<number, "gone" | number[]>();
    for (const row of this.catalog.all("SELECT * FROM touched_blocks ORDER BY object, run")) {
      const object = Number(row.object);
      if (row.run === wholeObject) {
        found.set(object, "gone");
        continue;
      }
      const blocks = (found.get(object) ?? []) as number[];
      const bits = row.blocks as Uint8Array;
      for (let index = 0; index < blocksPerRun; index++)
        if (bits[index >> 3]! & (1 << (index & 7))) blocks.push(Number(row.run) * blocksPerRun + index);
      found.set(object, blocks);
    }
    return found;
  }

  /** Everything that a manifest says at a cut, with its rows' own words. */
  state(at: Seq): unknown {
    const entries = [...this.manifest.entries(1, at)].map(({ path, object: { birth: _, ...version } }) => ({
      path,
      version,
      content: hex(this.manifest.contentOf(version.object, at)),
    }));
    return entries.sort((a, b) => (a.path < b.path ? -1 : 1));
  }

  rows(): Record<string, number> {
    const count = (table: string): number => Number(this.catalog.get(`SELECT count(*) AS n FROM ${table}`)?.n);
    return { paths: count("path_versions"), objects: count("object_versions"), runs: count("run_versions") };
  }
}

describe("what a fork has beyond the common cut", () => {
  it("is told by paths, by blocks with births of their own, by rows alone, and by what is gone", () => {
    const history = new History("primary");
    const first = Array.from({ length: 200 }, (_, index) => index);
    let [a, b, c, d] = [0, 0, 0, 0];
    history.cut((at) => {
      history.manifest.putObject(directory(100), at);
      history.manifest.putPath(1, "" as StorePath, 100 as ObjectId, at);
      a = history.write(at, "a", first, 200);
      b = history.write(at, "b", [0], 1);
      c = history.write(at, "c", [0], 1);
      d = history.write(at, "d", first, 200);
    });
    history.cut((at) => {
      history.write(at, "a", [5], 200);
    });
    // From here on it is a fork.
    history.cut((at) => {
      history.write(at, "a", [130, 131], 200);
      history.write(at, "b", [], 1);
      history.remove(at, "c");
      history.write(at, "d", [], 150);
    }, seq(0));
    let e = 0;
    history.cut((at) => {
      e = history.write(at, "e", [0, 2], 3);
      history.rename(at, "b", "moved");
    }, seq(0));
    const { digest } = history;
    const state = history.state(seq(4));
    history.collapse(2);

    expect(history.touchedPaths()).to.deep.equal(["b", "c", "e", "moved"]);
    expect(Object.fromEntries(history.touchedBlocks())).to.deep.equal({
      [a]: [130, 131],
      [b]: [],
      [c]: "gone",
      [d]: Array.from({ length: 50 }, (_, index) => 150 + index),
      [e]: Array.from({ length: blocksPerRun }, (_, index) => index),
    });
    expect(touched(history.catalog)).to.deep.equal({ paths: 4, objects: 5, blocks: 2 + 50 + blocksPerRun });
    expect(history.state(seq(2)), "what is here counts as of the common cut").to.deep.equal(state);
    const again = new Manifest(history.catalog);
    expect(hex(again.digestAfter(seq(2), digest, seq(3))), "nothing was born since").to.equal(hex(digest));
    const births = ["path_versions", "object_versions", "run_versions"].map((table) =>
      Number(history.catalog.get(`SELECT max(birth) AS last FROM ${table}`)?.last),
    );
    expect(births).to.deep.equal([2, 2, 2]);
    expect(again.runWithBirths(a as ObjectId, 1, seq(2))?.births).to.not.equal(undefined);
  });

  it("is told twice as the union, when it is a fork once more", () => {
    const history = new History("primary");
    const blocks = Array.from({ length: 20 }, (_, index) => index);
    let object = 0;
    history.cut((at) => {
      object = history.write(at, "a", blocks, 20);
    });
    for (const block of [3, 4, 5])
      history.cut((at) => {
        history.write(at, "a", [block], 20);
      }, seq(0));
    history.collapse(3);
    expect(history.touchedBlocks().get(object)).to.deep.equal([5]);
    history.collapse(2);
    expect(history.touchedBlocks().get(object)).to.deep.equal([4, 5]);
  });

  for (const by of ["primary", "replica"] as const) {
    it(`covers every difference, ${by === "primary" ? "exactly, on a primary" : "by whole runs, on a replica"}`, () => {
      const first = Number(process.env.UNDERSTUDY_SEED ?? Math.floor(Math.random() * 2 ** 31));
      for (let seed = first; seed < first + 20; seed++) {
        const random = randomOf(seed);
        const history = new History(by);
        history.cut((at) => {
          history.manifest.putObject(directory(100_000), at);
          history.manifest.putPath(1, "" as StorePath, 100_000 as ObjectId, at);
        });
        const common = 2 + random(4);
        const changedBlocks = new Map<number, Set<number>>();
        let before: Look | undefined;
        for (let cut = 2; cut <= 8; cut++) {
          history.cut(
            (at) => {
              for (let step = random(6); step >= 0; step--) {
                const path = `p${random(5)}`;
                const kind = random(6);
                if (kind === 0) history.remove(at, path);
                else if (kind === 1) history.rename(at, path, `p${random(5)}`);
                else {
                  const size = 1 + random(300);
                  const blocks = Array.from({ length: random(6) }, () => random(size)).sort((x, y) => x - y);
                  const known = history.manifest.objectAtPath(1, path as StorePath, at);
                  const was = known === undefined ? 0 : (history.manifest.object(known, at)?.size ?? 0) / blockSize;
                  const object = history.write(at, path, [...new Set(blocks)], size);
                  const changed = changedBlocks.get(object) ?? new Set();
                  changedBlocks.set(object, changed);
                  if (cut > common) {
                    for (const block of blocks) changed.add(block);
                    for (let block = size; block < was; block++) changed.add(block);
                  }
                }
              }
            },
            cut > common ? seq(0) : undefined,
          );
          if (cut === common) before = look(history, seq(common));
        }
        const after = look(history, history.last);
        const state = history.state(history.last);
        const { digest } = history;
        history.collapse(common);
        const words = `seed ${seed}, common ${common}`;
        expect(history.state(seq(common)), words).to.deep.equal(state);
        expect(hex(digestOf(history, seq(common))), words).to.equal(hex(digest));
        const paths = new Set(history.touchedPaths());
        const blocks = history.touchedBlocks();
        for (const path of new Set([...before!.paths.keys(), ...after.paths.keys()])) {
          if (before!.paths.get(path) !== after.paths.get(path))
            expect(paths.has(path), `${words}: ${path}`).to.equal(true);
        }
        for (const [object, was] of before!.objects) {
          const is = after.objects.get(object);
          const told = blocks.get(object);
          if (is === undefined) {
            expect(told, `${words}: object ${object} is gone`).to.equal("gone");
            continue;
          }
          if (was.row !== is.row) expect(told, `${words}: object ${object}`).to.be.an("array");
          for (const block of differingBlocks(was.runs, is.runs))
            expect(told, `${words}: object ${object} block ${block}`).to.include(block);
          if (by === "primary" && Array.isArray(told)) {
            // A run without births was written whole, at its first block.
            const exact = told.filter((block) => changedBlocks.get(object)?.has(block) !== true);
            const fresh = exact.filter((block) => was.runs[Math.floor(block / blocksPerRun)] !== undefined);
            expect(fresh, `${words}: object ${object}, told and not changed`).to.deep.equal([]);
          }
        }
        const { paths: pathRows, ...rows } = history.rows();
        const live = after.objects.size;
        expect(rows.objects, `${words}: one version of each`).to.be.at.least(live);
        expect(pathRows).to.be.at.least(after.paths.size);
        expect(
          history.catalog.get("SELECT 1 AS found FROM run_versions GROUP BY object, run HAVING count(*) > 1"),
        ).to.equal(undefined);
        history.catalog.close();
      }
    });
  }
});

interface Look {
  readonly paths: Map<string, number>;
  readonly objects: Map<number, { readonly row: string; readonly runs: (Uint8Array | undefined)[] }>;
}

function look({ manifest }: History, at: Seq): Look {
  const paths = new Map<string, number>();
  const objects: Look["objects"] = new Map();
  for (const { path, object } of manifest.entries(1, at)) {
    paths.set(path, object.object);
    const { birth: _, content, ...row } = object;
    const runs = Array.from({ length: 4 }, (_, run) => manifest.run(object.object, run, at));
    objects.set(object.object, { row: JSON.stringify({ ...row, content: hex(content) }), runs });
  }
  return { paths, objects };
}

function differingBlocks(a: readonly (Uint8Array | undefined)[], b: readonly (Uint8Array | undefined)[]): number[] {
  const found: number[] = [];
  for (let block = 0; block < a.length * blocksPerRun; block++) {
    const [run, index] = [Math.floor(block / blocksPerRun), block % blocksPerRun];
    if (!equalBytes(hashInRun(a[run], index), hashInRun(b[run], index))) found.push(block);
  }
  return found;
}

/** Added up anew: everything was born in one cut. */
function digestOf(history: History, at: Seq): Uint8Array {
  const anew = new History("replica");
  anew.cut((birth) => {
    for (const { path, object } of history.manifest.entries(1, at)) {
      anew.manifest.putObject(object, birth);
      anew.manifest.putPath(1, path, object.object, birth);
    }
  });
  return anew.digest;
}

function directory(object: number): Omit<ObjectRow, "store"> {
  return {
    ...{ object: object as ObjectId, type: "directory" as const, mode: 0o755, uid: 0, gid: 0, mtimeUs: 0, target: "" },
    ...{ size: 0, blockSize: 0, content: new Uint8Array(32) },
  };
}

function randomOf(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}
