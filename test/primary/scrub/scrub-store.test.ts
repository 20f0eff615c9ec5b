import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { type ScrubbedContent, type ScrubFinding, scrubStore } from "../../../primary/scrub/scrub-store.ts";
import { Breath } from "../../../shared/breath.ts";
import { Catalog } from "../../../shared/catalog/catalog.ts";
import { ContentChange } from "../../../shared/catalog/content-change.ts";
import { Manifest } from "../../../shared/catalog/manifest.ts";
import { systemError } from "../../../shared/durable/system-error.ts";
import { blockHash } from "../../../shared/manifest/block-hash.ts";
import { type ObjectId, type StorePath, seq } from "../../../shared/words.ts";

const blockSize = 4096;
/** More than a run of blocks, and more than one piece that is read. */
const size = 300 * blockSize + 100;
const shipped = Buffer.alloc(size, 1);
const rotten = Buffer.from(shipped);
rotten[290 * blockSize + 7] = 2;

type Meanwhile = (catalog: Catalog, manifest: Manifest) => void;

class Memory implements ScrubbedContent {
  readonly blockSize = blockSize;
  readonly ranges = "all";
  failure: Error | undefined;
  settled = 0;
  readonly #bytes: Buffer;
  readonly #end: "stable" | "moved" | "fails";
  readonly #meanwhile: () => void;

  constructor(bytes: Buffer, end: "stable" | "moved" | "fails", meanwhile: () => void) {
    this.#bytes = bytes;
    this.#end = end;
    this.#meanwhile = meanwhile;
  }

  read(buffer: Uint8Array, offset: number): number {
    if (this.#end === "fails" && offset > 0) {
      this.failure = new Error("input/output error");
      return 0;
    }
    return this.#bytes.copy(buffer, 0, offset, offset + buffer.length);
  }

  settle(): "stable" | "moved" {
    this.settled++;
    this.#meanwhile();
    return this.#end === "stable" ? "stable" : "moved";
  }
}

describe("source scrub", () => {
  let directory: string;
  let catalogs = 0;
  before(() => {
    directory = mkdtempSync(join(tmpdir(), "us-scrub-"));
  });
  after(() => rmSync(directory, { recursive: true }));

  /** Three files of the same content; what is done with the second one is the case's own. */
  async function scrub(
    second: () => Memory | undefined,
    options: { after?: number; prepare?: Meanwhile } = {},
  ): Promise<{ findings: ScrubFinding[]; opened: string[]; last: number | undefined }> {
    using catalog = new Catalog(join(directory, `${catalogs++}.db`), { synchronous: "OFF" });
    const manifest = new Manifest(catalog);
    const store = catalog.transaction("cut", () => {
      const number = catalog.storeNumber("tree", "files");
      for (const object of [1, 2, 3]) write(catalog, manifest, object, shipped, 1);
      options.prepare?.(catalog, manifest);
      return number;
    });
    opened = { catalog, manifest };
    const findings: ScrubFinding[] = [];
    const paths: string[] = [];
    let last: number | undefined;
    await scrubStore(
      { catalog, manifest, store },
      {
        open: (path) => {
          paths.push(path);
          return path === "file 2" ? second() : new Memory(shipped, "stable", () => {});
        },
      },
      (options.after ?? 0) as ObjectId | 0,
      new Breath(undefined, new AbortController().signal),
      (finding) => findings.push(finding),
      ({ object }) => {
        last = object;
      },
    );
    return { findings, opened: paths, last };
  }
  let opened: { catalog: Catalog; manifest: Manifest } | undefined;
  const meanwhile = (change: Meanwhile) => () => {
    const { catalog, manifest } = opened!;
    catalog.transaction("cut", () => change(catalog, manifest));
  };

  function write(
    catalog: Catalog,
    manifest: Manifest,
    object: number,
    bytes: Buffer,
    birth: number,
    ctimeNs = 5n,
  ): void {
    const id = object as ObjectId;
    const known = manifest.object(id, seq(birth));
    const change = new ContentChange(manifest, id, seq(birth), known?.content ?? new Uint8Array(0), { births: true });
    for (let block = 0; block * blockSize < bytes.length; block++)
      change.set(block, blockHash(bytes.subarray(block * blockSize, (block + 1) * blockSize)));
    const meta = { mode: 0o644, uid: 0, gid: 0, mtimeUs: 1, size: bytes.length, blockSize, target: "" };
    manifest.putObject({ object: id, type: "file", ...meta, content: change.finish() }, seq(birth));
    manifest.putPath(1, `file ${object}` as StorePath, id, seq(birth));
    catalog.run(
      "INSERT OR REPLACE INTO seen (object, store, inode, size, mtime_ns, ctime_ns) VALUES (?,1,?,?,3,?)",
      object,
      100 + object,
      bytes.length,
      ctimeNs,
    );
  }

  it("reports a file whose bytes are others under the same stamps, with the first block that is", async () => {
    const { findings, opened, last } = await scrub(() => new Memory(rotten, "stable", () => {}));
    expect(findings).to.deep.equal([
      { kind: "differs", path: "file 2", object: 2, detail: `first at byte ${290 * blockSize} of ${size}` },
    ]);
    expect(opened).to.deep.equal(["file 1", "file 2", "file 3"]);
    expect(last).to.equal(3);
  });

  const quiet: readonly (readonly [string, () => Memory | undefined, Meanwhile?])[] = [
    ["is as it was shipped", () => new Memory(shipped, "stable", () => {})],
    ["is not what was seen by its stamps", () => undefined],
    ["moved while it was read", () => new Memory(rotten, "moved", () => {})],
    [
      "was cut anew meanwhile",
      () =>
        new Memory(
          rotten,
          "stable",
          meanwhile((catalog, manifest) => write(catalog, manifest, 2, rotten, 2, 9n)),
        ),
    ],
    [
      "was cut anew meanwhile under the same stamps",
      () =>
        new Memory(
          rotten,
          "stable",
          meanwhile((catalog, manifest) => write(catalog, manifest, 2, rotten, 2)),
        ),
    ],
    [
      "is seen under other stamps by a cut in the making",
      () =>
        new Memory(
          rotten,
          "stable",
          meanwhile((catalog) => catalog.run("UPDATE seen SET ctime_ns = 9 WHERE object = 2")),
        ),
    ],
    [
      "is to be read again by the next cut",
      () => expect.fail("was opened"),
      (catalog) => catalog.run("UPDATE seen SET ctime_ns = 0 WHERE object = 2"),
    ],
  ];
  for (const [what, second, prepare] of quiet) {
    it(`says nothing of a file that ${what}`, async () => {
      const { findings, last } = await scrub(second, prepare === undefined ? {} : { prepare });
      expect(findings).to.deep.equal([]);
      expect(last).to.equal(3);
    });
  }

  it("reports what cannot be opened, or not be read to its end, and goes on", async () => {
    const refused = (): never => {
      throw systemError("EIO", "open", "file 2");
    };
    const broken = new Memory(shipped, "fails", () => {});
    for (const second of [refused, () => broken]) {
      const { findings, last } = await scrub(second);
      expect(findings.map(({ kind, path }) => [kind, path])).to.deep.equal([["unreadable", "file 2"]]);
      expect(last).to.equal(3);
    }
    expect(broken.settled, "it is closed").to.equal(1);
  });

  it("goes on behind the object where it ended", async () => {
    expect((await scrub(() => undefined, { after: 2 })).opened).to.deep.equal(["file 3"]);
  });
});
