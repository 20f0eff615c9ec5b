import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { createSqliteStore, type SqliteStore } from "../../../../primary/stores/sqlite/sqlite-store.ts";
import { Follower, Writer } from "./follower.ts";

describe("the sqlite store", () => {
  let directory: string;
  let path: string;
  let copy: string;
  const stores: SqliteStore[] = [];

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-sqlite-"));
    path = join(directory, "app.db");
    copy = join(directory, "copy.db");
  });

  afterEach(async () => {
    for (const store of stores.splice(0)) await store.close();
    rmSync(directory, { recursive: true });
  });

  async function follow(options: { holdSecondsMax?: number; walBytesMax?: number; wake?: () => void } = {}) {
    const { wake = () => {}, ...rest } = options;
    const store = createSqliteStore({ path, holdSecondsMax: 30, ...rest });
    stores.push(store);
    await store.start(wake);
    return { store, follower: new Follower(store, copy) };
  }

  it("tells all of a database first and then only the pages of each commit", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    const first = await writer.write(200);
    const { follower } = await follow();
    await follower.cut();
    expect(follower.audited()).to.equal(first);
    expect(follower.consistency).to.equal("transactional");
    const whole = follower.bytesTaken;

    await writer.write(1);
    await follower.cut();
    expect(follower.audited()).to.equal(first + 1);
    expect(follower.bytesTaken)
      .to.be.greaterThan(0)
      .and.lessThan(whole / 4);
    expect(follower.position).to.match(/^[0-9a-f]{8}-[0-9a-f]{8}:\d+\/\d+$/);

    await follower.cut();
    expect(follower.found).to.deep.equal([]);
  });

  it("follows a live writer that checkpoints every 100 pages, over many generations", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=100");
    await writer.write(50);
    const { store, follower } = await follow({ walBytesMax: 512 * 1024 });
    await writer.do({ op: "begin", gapMs: 0 });
    let audited = 0;
    const end = performance.now() + 3000;
    let cuts = 0;
    while (performance.now() < end) {
      await follower.cut();
      cuts++;
      if (cuts % 20 === 0) {
        const now = follower.audited();
        expect(now).to.be.greaterThan(audited);
        audited = now;
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    const { last } = await writer.do({ op: "end" });
    await follower.cut();
    expect(follower.audited()).to.equal(last);
    console.log("      ", cuts, "cuts", last, "transactions", JSON.stringify(store.counters()));
    expect(store.counters().turns).to.be.greaterThan(2);
    expect(store.counters().everythingFound).to.equal(1);
  });
});
