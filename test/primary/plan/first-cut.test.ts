import {
  appendFileSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { CutRequest } from "../../../primary/plan/take-cut.ts";
import type { PrimaryContext } from "../../../primary/primary-context.ts";
import { HeldBlocks } from "../../../primary/ship/held-blocks.ts";
import type { ReplicaSink } from "../../../primary/ship/shipment.ts";
import { createFilesStore } from "../../../primary/stores/files/files-store.ts";
import { hex } from "../../../shared/manifest/digest.ts";
import { adapterAround } from "../../../shared/ports/adapter-around.ts";
import type { Found, StoreAdapter } from "../../../shared/ports/store-adapter.ts";
import type { BulkMessage } from "../../../shared/wire/messages.ts";
import { type CutId, epoch, type StorePath, seq } from "../../../shared/words.ts";
import { cutInto, openPrimary, randomBytes } from "../../model/in-process.ts";

type Way = "anew" | "compared";

/** What is found, and what somebody does just before it is handed on. */
type Between = (found: Found) => Found[];

describe("the first cut of a store", () => {
  let scratch = "";
  let root = "";

  beforeEach(() => {
    scratch = mkdtempSync(join(tmpdir(), "understudy-first-cut-"));
    root = join(scratch, "tree");
    mkdirSync(join(root, "deep/er"), { recursive: true });
    writeFileSync(join(root, "empty"), "");
    writeFileSync(join(root, "small"), "of a few bytes");
    writeFileSync(join(root, "zeros"), Buffer.alloc(20_000));
    writeFileSync(join(root, "ends in zeros"), Buffer.concat([randomBytes(5000), Buffer.alloc(9000)]));
    writeFileSync(join(root, "deep/two runs"), randomBytes(700_000));
    writeFileSync(join(root, "deep/er/hole"), randomBytes(100));
    truncateSync(join(root, "deep/er/hole"), 600_000);
    appendFileSync(join(root, "deep/er/hole"), "end");
    writeFileSync(join(root, "more than a frame"), randomBytes(1_200_000));
    writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from("caf\xe9", "latin1")]), "latin1");
    linkSync(join(root, "small"), join(root, "deep/link"));
    symlinkSync("../small", join(root, "deep/symlink"));
    for (let n = 0; n < 300; n++) writeFileSync(join(root, "deep/er", `file-${n}`), randomBytes(n * 7));
  });

  afterEach(() => rmSync(scratch, { recursive: true, force: true }));

  /** The same first cut, with and without what the adapter says to be anew: what was sent, and all rows. */
  async function bothWays(
    between: () => Between,
    request: Partial<CutRequest> = {},
  ): Promise<Record<Way, { sent: unknown[]; rows: unknown }>> {
    const taken = async (way: Way): Promise<{ sent: unknown[]; rows: unknown }> => {
      const adapter = createFilesStore({ path: root, exclude: [], now: () => Date.now() + 10_000 });
      await adapter.start(() => {});
      const primary = openPrimary(join(scratch, `${way}.db`), { tree: interposed(adapter, way, between()) });
      const { sink, sent } = recordingSink();
      try {
        await cutInto(primary, [sink], request);
        expect(hex(primary.catalog.standing.digest)).to.equal(hex(digestOfRows(primary)));
        expect(primary.catalog.cut(seq(1))?.stores[0]).to.include(countedRows(primary));
        return { sent, rows: rowsOf(primary) };
      } finally {
        await adapter.close();
        primary.catalog.close();
      }
    };
    return { anew: await taken("anew"), compared: await taken("compared") };
  }

  it("is the same, message for message and row for row, whether its files are compared or known to be new", async () => {
    const { anew, compared } = await bothWays(() => (found) => [found]);
    expect(anew).to.deep.equal(compared);
    expect(anew.sent).to.have.lengthOf.above(5);
  });

  const freezing = { freeze: { freeze: async () => {}, thaw: async () => 1 }, preCopyRounds: 1 };
  for (const [how, request] of [
    ["as it is", {}],
    ["in rounds before a freeze", freezing],
  ] as const) {
    it(`is whole when files move and come twice while it is taken ${how}`, async () => {
      const { anew, compared } = await bothWays(() => {
        let appended = false;
        return (found) => {
          if (found.path === "ends in zeros" && !appended) appendFileSync(join(root, "ends in zeros"), ".");
          if (found.path === "ends in zeros") appended = true;
          return found.path === "deep/symlink" ? [found, withoutNews(found)] : [found];
        };
      }, request);
      // The file grows once for each way, so what was sent differs; that each is whole was looked at on the way.
      expect(anew.sent.length).to.equal(compared.sent.length);
    });

    it(`is whole when a directory goes away again while it is taken ${how}`, async () => {
      const { anew, compared } = await bothWays(
        () => (found) =>
          found.path === "deep/er/file-250" ? [found, { kind: "gone", path: "deep/er" as StorePath }] : [found],
        request,
      );
      expect(anew).to.deep.equal(compared);
    });
  }

  it("leaves nothing behind when it fails, and is taken again from nothing", async () => {
    const adapter = createFilesStore({ path: root, exclude: [], now: () => Date.now() + 10_000 });
    await adapter.start(() => {});
    let failing = true;
    const primary = openPrimary(join(scratch, "failing.db"), {
      tree: interposed(adapter, "anew", (found) => {
        if (failing && found.path === "deep/er/file-77") throw new Error("stopped here");
        return [found];
      }),
    });
    try {
      const error: unknown = await cutInto(primary, []).catch((cause: unknown) => cause);
      expect(String(error)).to.contain("stopped here");
      expect(rowsOf(primary)).to.deep.equal({ paths: [], objects: [], runs: [], seen: [] });
      failing = false;
      await cutInto(primary, []);
      expect(hex(primary.catalog.standing.digest)).to.equal(hex(digestOfRows(primary)));
    } finally {
      await adapter.close();
      primary.catalog.close();
    }
  });

  it("begins totals that later cuts keep up through removals and restarts", async () => {
    const totals: unknown[] = [];
    const counted: unknown[] = [];
    const take = async (change: () => void): Promise<void> => {
      change();
      const adapter = createFilesStore({ path: root, exclude: [], now: () => Date.now() + 10_000 });
      await adapter.start(() => {});
      const primary = openPrimary(join(scratch, "totals.db"), { tree: adapter });
      try {
        for (let cuts = 0; cuts < 2; cuts++) {
          const { stores } = await cutInto(primary, []);
          totals.push({ files: stores[0]?.files, bytes: stores[0]?.bytes });
          counted.push(countedRows(primary));
          rmSync(join(root, "deep/er", `file-${totals.length}`));
          appendFileSync(join(root, "deep/er/file-200"), "a few more bytes");
        }
      } finally {
        await adapter.close();
        primary.catalog.close();
      }
    };
    await take(() => {});
    await take(() => rmSync(join(root, "deep/two runs")));
    await take(() => writeFileSync(join(root, "one more"), "one more"));
    expect(totals).to.deep.equal(counted);
  });
});

function interposed(adapter: StoreAdapter, way: Way, between: Between): StoreAdapter {
  return adapterAround(adapter, {
    async enter(seen, request, signal) {
      const view = await adapter.enter(seen, request, signal);
      return {
        async *changes() {
          for await (const found of view.changes()) {
            for (const given of between(found)) yield way === "anew" ? given : withoutNews(given);
          }
        },
        read: (path, offset, length) => view.read(path, offset, length),
        summary: () => view.summary(),
        leave: async (outcome) => await view.leave(outcome),
      };
    },
  });
}

function withoutNews(found: Found): Found {
  return found.kind === "entry" ? { ...found, anew: false } : found;
}

function recordingSink(): { sink: ReplicaSink; sent: unknown[] } {
  const sent: unknown[] = [];
  const base: CutId = { epoch: epoch(1), seq: seq(0) };
  const sink: ReplicaSink = {
    name: "replica",
    base,
    lastObject: 0,
    compress: false,
    resuming: false,
    damaged: [],
    gone: false,
    takesAhead: false,
    held: new HeldBlocks(),
    catchUpBytesMax: Number.POSITIVE_INFINITY,
    late: false,
    full: false,
    async listStaged() {},
    async send(message: BulkMessage, payload: Uint8Array) {
      sent.push(plain({ message, payload }));
    },
    async stagedRuns() {
      return { blockSize: 0, digests: new Uint8Array(0) };
    },
  };
  return { sink, sent };
}

function digestOfRows({ manifest }: PrimaryContext): Uint8Array {
  return manifest.digestAfter(seq(0), new Uint8Array(32), seq(1));
}

function countedRows({ catalog }: PrimaryContext): { files: number; bytes: number } {
  const row = catalog.get(
    `SELECT count(*) AS files, sum(size) AS bytes FROM object_versions o WHERE type = 1 AND NOT EXISTS (
       SELECT 1 FROM object_versions n WHERE n.object = o.object AND n.birth > o.birth)
     AND EXISTS (SELECT 1 FROM path_versions p WHERE p.object = o.object)`,
  );
  return { files: Number(row?.files), bytes: Number(row?.bytes) };
}

function rowsOf({ catalog }: PrimaryContext): Record<"paths" | "objects" | "runs" | "seen", unknown[]> {
  const times = "CAST(mtime_ns AS TEXT) AS mtime_ns, CAST(ctime_ns AS TEXT) AS ctime_ns";
  return {
    paths: plain(catalog.all("SELECT * FROM path_versions ORDER BY store, dir, name, birth")) as unknown[],
    objects: plain(catalog.all("SELECT * FROM object_versions ORDER BY object, birth")) as unknown[],
    runs: plain(catalog.all("SELECT * FROM run_versions ORDER BY object, run, birth")) as unknown[],
    seen: plain(catalog.all(`SELECT object, store, inode, size, ${times} FROM seen ORDER BY object`)) as unknown[],
  };
}

/** Comparable whatever memory bytes lie in. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return hex(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
}
