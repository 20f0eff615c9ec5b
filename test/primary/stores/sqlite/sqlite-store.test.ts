import { spawn } from "node:child_process";
import { once } from "node:events";
import fs, {
  chmodSync,
  chownSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { build } from "esbuild";
import { SourceUnusable } from "../../../../primary/stores/source-unusable.ts";
import {
  createSqliteStore,
  type SqliteStore,
  type SqliteStoreOptions,
} from "../../../../primary/stores/sqlite/sqlite-store.ts";
import { watchHotFiles } from "../../../../primary/watch/hot-files.ts";
import type { StorePath } from "../../../../shared/words.ts";
import { until } from "../../../until.ts";
import { Follower, quantile, Writer } from "./follower.ts";

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

  async function follow(options: Partial<SqliteStoreOptions> & { wake?: () => void } = {}) {
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

  it("follows a live writer that checkpoints every 100 pages, over many generations, and keeps its log short", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=100");
    await writer.write(50);
    const { store, follower } = await follow({ walBytesMax: 512 * 1024 });
    await writer.do({ op: "begin", gapMs: 0 });
    let audited = 0;
    const deadline = performance.now() + 30_000;
    for (let cuts = 1; store.counters().turns <= 4 && performance.now() < deadline; cuts++) {
      await follower.cut();
      if (cuts % 50 === 0) {
        const now = follower.audited();
        expect(now).to.be.at.least(audited);
        audited = now;
      }
      await nextTick();
    }
    const { last, tookMs } = await writer.do({ op: "end" });
    await follower.cut();
    expect(follower.audited()).to.equal(last);
    const { turns, turnsLocked, lockedMs, everythingFound, holdersLost } = store.counters();
    console.log(`      ${last} transactions, ${turns} generations turned, ${turnsLocked} with writers shut out:`);
    console.log(`      p50 ${quantile(lockedMs, 0.5).toFixed(1)} ms, p99 ${quantile(lockedMs, 0.99).toFixed(1)} ms;`);
    console.log(`      writer p50 ${quantile(tookMs, 0.5).toFixed(2)} ms, p99 ${quantile(tookMs, 0.99).toFixed(2)} ms`);
    expect(turns).to.be.greaterThan(4);
    // On a crowded machine a holder may sit on the lock for too long, and is ended.
    expect(everythingFound).to.be.within(1, 1 + holdersLost);
  });

  it("turns generations without shutting anybody out where the writer pauses", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL", "synchronous=NORMAL");
    const { store, follower } = await follow({ walBytesMax: 1024 * 1024 });
    await writer.do({ op: "begin", gapMs: 10 });
    const alone = () => store.counters().turns - store.counters().turnsLocked;
    await until(() => alone() >= 3, "three generations turned with nobody shut out", 30_000);
    const { last } = await writer.do({ op: "end" });
    await follower.cut();
    expect(follower.audited()).to.equal(last);
  });

  it("loses no frame of generations that turn while no view is taken", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL", "synchronous=NORMAL");
    await writer.write(20);
    const { store, follower } = await follow({ walBytesMax: 256 * 1024 });
    await follower.cut();
    for (const gapMs of [1, 3, 5]) {
      const { turns } = store.counters();
      await writer.do({ op: "begin", gapMs });
      await until(() => store.counters().turns >= turns + 5, "five generations turned", 30_000);
      const { last } = await writer.do({ op: "end" });
      await until(() => store.backlogBytes() > 0, "a backlog");
      await follower.cut();
      expect(follower.found).to.have.length(1);
      expect(follower.found[0]).to.have.nested.property("content.ranges").that.is.an("array");
      expect(follower.audited()).to.equal(last);
      expect(store.backlogBytes()).to.equal(0);
    }
  });

  it("tells again what a dropped view has told", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(20);
    const { follower } = await follow();
    await follower.cut();
    const last = await writer.write(20);
    await follower
      .cut("changes", () => Promise.reject(new Error("the link broke")))
      .then(
        () => expect.fail("was taken"),
        (error: Error) => expect(error.message).to.equal("the link broke"),
      );
    await follower.cut();
    expect(follower.audited()).to.equal(last);
  });

  it("gives one commit for as long as a view is open, whatever is committed and checkpointed meanwhile", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL", "wal_autocheckpoint=10");
    const first = await writer.write(50);
    const { follower } = await follow({ walBytesMax: 64 * 1024 });
    await follower.cut("changes", async () => {
      await writer.write(100);
      await writer.sql("PRAGMA wal_checkpoint(PASSIVE)");
    });
    expect(follower.audited()).to.equal(first);
    const second = await writer.write(0);
    await follower.cut("changes", async () => {
      await writer.sql("PRAGMA wal_checkpoint(TRUNCATE)");
      await writer.write(100);
    });
    expect(follower.audited()).to.equal(second);
    await follower.cut();
    expect(follower.audited()).to.equal(second + 100);
  });

  it("goes over its hold's limit by telling in further rounds what has changed since", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL", "synchronous=NORMAL");
    await writer.write(300);
    const { store, follower } = await follow({ holdSecondsMax: 0.1, walBytesMax: 128 * 1024 });
    await writer.do({ op: "begin", gapMs: 1 });
    let rounds = 0;
    await follower.cut("changes", async () => {
      const { turns } = store.counters();
      if (++rounds <= 2) await until(() => store.counters().turns > turns + 1, "generations turn under the view");
    });
    expect(rounds).to.equal(3);
    expect(follower.consistency).to.equal("transactional");
    const { last } = await writer.do({ op: "end" });
    expect(follower.audited()).to.be.greaterThan(300).and.at.most(last);
    await follower.cut();
    expect(follower.audited()).to.equal(last);
  });

  it("gives what changed since in another round of the same view", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(20);
    const { store, follower } = await follow();
    await follower.cut();
    await writer.write(1);
    const view = await store.enter(follower, { depth: "changes", frozen: false }, new AbortController().signal);
    await follower.take(view);
    const last = await writer.write(1);
    await follower.take(view);
    expect(follower.found).to.have.length(1);
    await follower.take(view);
    expect(follower.found).to.have.length(0);
    await view.leave("taken");
    expect(follower.audited()).to.equal(last);
    await follower.cut();
    expect(follower.found).to.have.length(0);
  });

  it("follows a VACUUM that makes the database smaller, and its growth after that", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(400);
    const { follower } = await follow();
    await follower.cut();
    const before = statSync(copy).size;
    await writer.sql("DELETE FROM item; UPDATE state SET sum = 0; VACUUM");
    await follower.cut();
    expect(statSync(copy).size).to.be.lessThan(before / 2);
    expect(follower.audited()).to.equal(400);
    const last = await writer.write(200);
    await follower.cut();
    expect(follower.audited()).to.equal(last);
  });

  it("stays right when the database shrinks and grows between two views", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(200);
    const { follower } = await follow();
    await follower.cut();
    await writer.sql("DELETE FROM item; UPDATE state SET sum = 0; VACUUM");
    const last = await writer.write(300);
    await follower.cut();
    expect(follower.audited()).to.equal(last);
  });

  it("finds everything in a database that was made anew under its name", async () => {
    const { store, follower } = await (async () => {
      await using writer = await Writer.on(path, "journal_mode=WAL");
      await writer.write(100);
      const following = await follow();
      await following.follower.cut();
      return following;
    })();
    for (const end of ["", "-wal", "-shm"]) rmSync(path + end, { force: true });
    await using writer = await Writer.on(path, "journal_mode=WAL");
    const last = await writer.write(7);
    await follower.cut();
    expect(follower.audited()).to.equal(last);
    await writer.write(1);
    await until(() => store.dirty(), "the new file is watched");
    await follower.cut();
    expect(follower.audited()).to.equal(last + 1);
    expect(store.counters().everythingFound).to.equal(2);
  });

  it("says that the source is unusable when the database vanishes, is emptied or is something else", async () => {
    const store = createSqliteStore({ path, holdSecondsMax: 30 });
    expect(await failure(store.start(() => {}))).to.be.instanceOf(SourceUnusable);
    writeFileSync(path, "not a database".repeat(100));
    expect(await failure(store.start(() => {}))).to.be.instanceOf(SourceUnusable);
    rmSync(path);

    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(5);
    const { follower } = await follow();
    await follower.cut();
    renameSync(path, `${path}.away`);
    expect(await failure(follower.cut())).to.be.instanceOf(SourceUnusable);
    writeFileSync(path, "");
    expect(await failure(follower.cut())).to.be.instanceOf(SourceUnusable);
    const { length } = readFileSync(`${path}-wal`);
    expect(await failure(follow())).to.be.instanceOf(SourceUnusable);
    expect(readFileSync(`${path}-wal`)).to.have.length(length);
    rmSync(path);
    renameSync(`${path}.away`, path);
    const last = await writer.write(5);
    await follower.cut();
    expect(follower.audited()).to.equal(last);
  });

  it("follows a database from nothing into rollback mode, into WAL mode and, where nobody holds it, back", async () => {
    writeFileSync(path, "");
    const { store, follower } = await follow();
    await follower.cut();
    expect(statSync(copy).size).to.equal(0);
    await follower.cut();
    expect(follower.found).to.deep.equal([]);

    await using writer = await Writer.on(path, "journal_mode=DELETE");
    await until(() => store.dirty(), "the first transaction is seen");
    let last = await writer.write(5);
    await follower.cut();
    expect(follower.audited()).to.equal(last);
    expect(follower.position).to.match(/^rollback:\d+$/);
    expect(follower.consistency).to.equal("transactional");
    await follower.cut();
    expect(follower.found).to.deep.equal([]);
    last = await writer.write(1);
    await follower.cut();
    expect(follower.audited()).to.equal(last);

    await writer.sql("PRAGMA journal_mode=WAL");
    last = await writer.write(5);
    await follower.cut();
    expect(follower.position).to.match(/^[0-9a-f]{8}-/);
    expect(follower.audited()).to.equal(last);
    await store.close();

    await writer.sql("PRAGMA journal_mode=TRUNCATE; PRAGMA page_size=1024; VACUUM");
    last = await writer.write(5);
    const again = createSqliteStore({ path, holdSecondsMax: 30 });
    stores.push(again);
    await again.start(() => {});
    const second = new Follower(again, copy);
    await second.cut();
    expect(second.audited()).to.equal(last);
    expect(second.found[0]).to.have.nested.property("content.blockSize", 1024);
    // Nobody is told "locked" between two views, nor does a page size that changes there go unseen.
    await writer.sql("PRAGMA page_size=2048; VACUUM");
    await second.cut();
    expect(second.audited()).to.equal(last);
    expect(second.found[0]).to.have.nested.property("content.blockSize", 2048);
  });

  it("lets writers of a database in rollback mode wait only while it is read", async () => {
    await using writer = await Writer.on(path, "journal_mode=DELETE", "busy_timeout=0");
    await writer.write(5);
    const { store, follower } = await follow();
    let within: string | undefined;
    await follower.cut("changes", async () => {
      within = (await writer.try({ op: "write", transactions: 1 })).error;
    });
    expect(within).to.match(/locked/);
    expect(store.costs?.().writerWaitsMs).to.have.length(1);
    await writer.sql("ROLLBACK");
    expect(await writer.write(1)).to.equal(6);
  });

  it("says torn when a database in rollback mode cannot be read within the hold", async () => {
    await using writer = await Writer.on(path, "journal_mode=DELETE");
    await writer.write(5);
    const { follower } = await follow({ holdSecondsMax: 0.1 });
    const error = await failure(follower.cut("changes", async () => void (await writer.write(1))));
    expect(error.message).to.equal("moved");
    await follower.cut();
    expect(follower.audited()).to.equal(6);
  });

  it("goes on where it was when a holder is killed and its log was not started anew", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(50);
    const { store, follower } = await follow();
    await follower.cut();
    await writer.write(3);
    await killHolder(store);
    const last = await writer.write(3);
    await follower.cut();
    expect(follower.audited()).to.equal(last);
    expect(store.counters()).to.include({ holdersLost: 1, holdersReplaced: 1, everythingFound: 1 });
  });

  it("finds everything when a holder is killed and its log went through other generations meanwhile", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL", "wal_autocheckpoint=1");
    await writer.write(50);
    const { store, follower } = await follow();
    await follower.cut();
    follower.forget();
    await follower
      .cut("changes", async () => {
        await killHolder(store);
        for (let round = 0; round < 5; round++) await writer.write(5);
      })
      .then(
        () => expect.fail("was taken"),
        (error: Error) => expect(error.message).to.equal("moved"),
      );
    await follower.cut();
    expect(follower.audited()).to.equal(75);
    expect(store.counters()).to.include({ holdersLost: 1, holdersReplaced: 0 });
  });

  it("puts another holder in place of a lost one although no view is taken", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(5);
    const { store, follower } = await follow();
    await follower.cut();
    await killHolder(store);
    await until(() => store.counters().holdersReplaced === 1, "another holder");
    const last = await writer.write(5);
    await follower.cut();
    expect(follower.audited()).to.equal(last);
    expect(store.counters().everythingFound).to.equal(1);
  });

  it("keeps the log when the last connection of the application closes, however often the file was read meanwhile", async () => {
    const { store, follower } = await (async () => {
      await using writer = await Writer.on(path, "journal_mode=WAL");
      await writer.write(10);
      const following = await follow();
      for (let cut = 0; cut < 3; cut++) {
        following.follower.forget();
        await following.follower.cut();
      }
      await writer.write(10);
      await writer.do({ op: "close" });
      return following;
    })();
    expect(statSync(`${path}-wal`).size).to.be.greaterThan(0);
    await using writer = await Writer.on(path);
    const last = await writer.write(1);
    await follower.cut();
    expect(follower.found[0]).to.have.nested.property("content.ranges").that.is.an("array");
    expect(follower.audited()).to.equal(last);
    expect(store.counters().opened).to.equal(1);
  });

  it("begins again beside a log of which a predecessor has told a part", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(30);
    const { store, follower } = await follow();
    await follower.cut();
    await store.close();
    const last = await writer.write(3);
    const { follower: next } = await follow();
    await next.cut();
    expect(next.audited()).to.equal(last);
  });

  it("follows a database in WAL mode that its application closed cleanly, without a log beside it", async () => {
    {
      await using writer = await Writer.on(path, "journal_mode=WAL");
      await writer.write(10);
      await writer.do({ op: "close" });
    }
    expect(existsSync(`${path}-wal`)).to.equal(false);
    const { follower } = await follow();
    await follower.cut();
    expect(follower.audited()).to.equal(10);
    await using writer = await Writer.on(path);
    const last = await writer.write(10);
    await follower.cut();
    expect(follower.audited()).to.equal(last);
    expect(follower.found[0]).to.have.nested.property("content.ranges").that.is.an("array");
  });

  it("leaves a log alone, and loses nothing, while another reader keeps its generation from ending", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL", "synchronous=NORMAL");
    await writer.write(20);
    await using reader = await Writer.on(path);
    await reader.sql("BEGIN; SELECT * FROM state");
    const { store, follower } = await follow({ walBytesMax: 128 * 1024 });
    await follower.cut();
    await writer.do({ op: "begin", gapMs: 1 });
    await until(() => store.counters().turnsPrevented >= 2, "turns are tried");
    expect(store.counters().turns).to.equal(0);
    await follower.cut();
    await reader.sql("COMMIT");
    await until(() => store.counters().turns >= 1, "a generation turned");
    const { last } = await writer.do({ op: "end" });
    await follower.cut();
    expect(follower.audited()).to.equal(last);
    expect(store.counters().everythingFound).to.equal(1);
  });

  it("lets the application's own checkpoints copy its first commits soon after a generation began", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(20);
    await writer.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    await follow();
    await writer.write(5);
    using checkpointer = new DatabaseSync(path);
    const copied = () => Number(checkpointer.prepare("PRAGMA wal_checkpoint(PASSIVE)").get()?.checkpointed);
    // Until then each of them sorts the whole log for nothing.
    await until(() => copied() > 0, "the reader stands on a frame", 3000);
  });

  it("counts the commits that come", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(20);
    const { store, follower } = await follow();
    await follower.cut();
    const before = store.commitsCounted?.() ?? 0;
    await writer.write(3);
    await until(() => store.commitsCounted?.() === before + 3, "three commits are counted");
    await follower.cut();
    expect(store.commitsCounted?.()).to.equal(before + 3);
  });

  describe("tells what changed to its end only when that is durable here", () => {
    const { fdatasync } = fs;
    let finish: PromiseWithResolvers<Error | null>;

    beforeEach(() => {
      finish = Promise.withResolvers();
      fs.fdatasync = Object.assign((_file: number, done: (error: Error | null) => void) => {
        void finish.promise.then(done);
      }, fdatasync);
      syncBuiltinESMExports();
    });
    afterEach(() => {
      fs.fdatasync = fdatasync;
      syncBuiltinESMExports();
    });

    it("and waits until then", async () => {
      await using writer = await Writer.on(path, "journal_mode=WAL", "synchronous=NORMAL");
      await writer.write(20);
      const { follower } = await follow();
      const before = follower.position;
      const cut = follower.cut();
      await until(() => follower.found.length > 0, "something was told");
      for (let turn = 0; turn < 100; turn++) await nextTick();
      expect(follower.position, "the view was not read to its end").to.equal(before);
      finish.resolve(null);
      await cut;
      expect(follower.position).not.to.equal(before);
    });

    it("and fails with the sync", async () => {
      await using writer = await Writer.on(path, "journal_mode=WAL", "synchronous=NORMAL");
      await writer.write(20);
      const { follower } = await follow();
      finish.resolve(new Error("EIO"));
      expect((await failure(follower.cut())).message).to.equal("EIO");
    });
  });

  it("cuts a long transaction only when it is committed, and none that is rolled back", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL", "cache_size=10");
    const before = await writer.write(20);
    const { store, follower } = await follow();
    await follower.cut();
    const many = "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 3000)";
    const fill = `${many} INSERT INTO item SELECT 10000 + n, 0, zeroblob(2000) FROM i`;
    await writer.sql(`BEGIN; ${fill}`);
    expect(statSync(`${path}-wal`).size).to.be.greaterThan(4 * 1024 * 1024);
    await follower.cut();
    expect(follower.found).to.deep.equal([]);
    await writer.sql("ROLLBACK");
    let last = await writer.write(1);
    await follower.cut();
    expect(follower.audited()).to.equal(last);
    await writer.sql(`BEGIN; ${fill}; COMMIT`);
    await until(() => store.dirty(), "the commit is seen");
    last = await writer.write(1);
    await follower.cut();
    expect(follower.audited()).to.equal(last);
    expect(last).to.equal(before + 2);
  });

  it("ends its holder with the agent, whatever ends that", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(1);
    const agent = spawn(process.execPath, [fileURLToPath(new URL("./agent.ts", import.meta.url)), path], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [said] = await once(agent.stdout, "data");
    const pid = Number(said);
    expect(ended(pid)).to.equal(false);
    agent.kill("SIGKILL");
    await until(() => ended(pid), "the holder ended");
  });

  it("holds as the database's owner, from a bundle too", async () => {
    const holderFile = join(directory, "holder.js");
    await build({
      entryPoints: [fileURLToPath(new URL("../../../../primary/stores/sqlite/holder.ts", import.meta.url))],
      bundle: true,
      platform: "node",
      format: "esm",
      outfile: holderFile,
      logLevel: "silent",
    });
    writeFileSync(join(directory, "package.json"), '{"type":"module"}');
    {
      await using writer = await Writer.on(path, "journal_mode=WAL");
      await writer.write(5);
    }
    const root = process.getuid?.() === 0;
    const owner = root ? 65534 : process.getuid!();
    if (root) {
      chownSync(directory, owner, owner);
      chownSync(path, owner, owner);
    }
    const { store, follower } = await follow({ holderFile });
    const status = readFileSync(`/proc/${store.holderPid()}/status`, "latin1");
    expect(status).to.match(new RegExp(`^Uid:\\t${owner}\\t${owner}\\t${owner}\\t${owner}$`, "m"));
    expect(statSync(`${path}-wal`).uid).to.equal(owner);
    await follower.cut();
    expect(follower.audited()).to.equal(5);
  });

  it("ends at the last commit whatever writer, checkpoints, VACUUM, readers and killed holders do at once", async () => {
    const seed = Number(process.env.UNDERSTUDY_SEED ?? Date.now() % 1_000_000);
    let random = seed;
    const chance = (below: number) => {
      random = (random * 1103515245 + 12345) & 0x7fffffff;
      return (random >>> 8) % below;
    };
    console.log(`      UNDERSTUDY_SEED=${seed}`);
    await using writer = await Writer.on(path, "journal_mode=WAL", "synchronous=NORMAL", "page_size=1024");
    await writer.write(20);
    await using other = await Writer.on(path, "busy_timeout=100");
    const { store, follower } = await follow({ holdSecondsMax: 0.05, walBytesMax: 128 * 1024 });
    await writer.do({ op: "begin", gapMs: chance(2) });
    const disturbances = ["wal_checkpoint(PASSIVE)", "wal_checkpoint(TRUNCATE)", "wal_checkpoint(RESTART)"];
    const expected = ["moved", "dropped", "HOLDER_LOST", "DATABASE_BUSY", "VIEW_OUTRUN"];
    let audited = 0;
    for (let step = 0; step < 60; step++) {
      const what = chance(8);
      // Busy or locked is an answer like any other here.
      if (what < 3) await other.try({ op: "sql", sql: `PRAGMA ${disturbances[what]}` });
      else if (what === 3) await other.try({ op: "sql", sql: "VACUUM" });
      else if (what === 4) await other.try({ op: "sql", sql: "BEGIN; SELECT * FROM state" });
      else if (what === 5) await other.try({ op: "sql", sql: "COMMIT" });
      else if (what === 6 && chance(4) === 0) await killHolder(store);
      const dropped = chance(6) === 0;
      const waitMs = chance(3) === 0 ? chance(80) : 0;
      try {
        if (chance(10) === 0) follower.forget();
        await follower.cut("changes", async () => {
          await new Promise((resolve) => setTimeout(resolve, waitMs));
          if (dropped) throw new Error("dropped");
        });
      } catch (error) {
        const { message, code } = error as Error & { code?: string };
        expect(code ?? message, `UNDERSTUDY_SEED=${seed}`).to.be.oneOf(expected);
        continue;
      }
      const now = follower.audited();
      expect(now, `UNDERSTUDY_SEED=${seed}`).to.be.at.least(audited);
      audited = now;
    }
    await other.try({ op: "sql", sql: "COMMIT" });
    const { last } = await writer.do({ op: "end" });
    await follower.cut();
    expect(follower.audited(), `UNDERSTUDY_SEED=${seed}`).to.equal(last);
  });

  it("tells new permissions without content", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(10);
    const { follower } = await follow();
    await follower.cut();
    chmodSync(path, 0o640);
    await follower.cut();
    expect(follower.found).to.have.length(1);
    expect(follower.found[0]).to.not.have.property("content");
    expect(follower.found[0]).to.have.nested.property("entry.mode", 0o640);
  });

  it("wakes at each commit, although nobody looks from time to time", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(10);
    let wokenAt = 0;
    const { follower } = await follow({
      maintenanceMs: 600_000,
      wake: () => {
        wokenAt ||= performance.timeOrigin + performance.now();
      },
    });
    await follower.cut();
    const latencies: number[] = [];
    for (let commit = 0; commit < 30; commit++) {
      wokenAt = 0;
      const { committedAt } = await writer.do({ op: "write", transactions: 1 });
      await until(() => wokenAt > 0, "woken");
      latencies.push(wokenAt - committedAt);
      await follower.cut();
    }
    console.log(`      woken ${quantile(latencies, 0.5).toFixed(2)} ms after the commit (p50)`);
  });

  it("does not wake for a checkpoint", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(10);
    let wakes = 0;
    const { store, follower } = await follow({ wake: () => wakes++ });
    await follower.cut();
    await writer.write(10);
    await until(() => store.dirty(), "the commits are seen");
    await follower.cut();
    const before = wakes;
    let written = 0;
    await using _database = await watchHotFiles([path], () => written++);
    // Before the store has moved its reader up, there is nothing to copy.
    while (written === 0) {
      await writer.sql("PRAGMA wal_checkpoint(PASSIVE)");
      await nextTick();
    }
    expect(store.dirty()).to.equal(false);
    expect(wakes).to.equal(before);
  });

  it("gives a lagging replica any bytes of its view", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(30);
    const { store, follower } = await follow();
    await follower.cut();
    await writer.write(3);
    await follower.cut();
    const view = await store.enter(follower, { depth: "changes", frozen: false }, new AbortController().signal);
    await follower.take(view);
    const expected = readFileSync(copy);
    const bytes = view.read(follower.path as StorePath, 1000, 9000);
    expect(Buffer.from(bytes!).equals(expected.subarray(1000, 10000))).to.equal(true);
    expect(view.read(follower.path as StorePath, expected.length - 10, 100)).to.have.length(10);
    expect(view.read("other" as StorePath, 0, 10)).to.equal(undefined);
    await view.leave("taken");
  });
});

async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error("did not fail");
}

async function nextTick(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

async function killHolder(store: SqliteStore): Promise<void> {
  const pid = store.holderPid();
  // None while another one takes its place.
  if (pid === undefined || ended(pid)) return;
  process.kill(pid, "SIGKILL");
  await until(() => ended(pid), "the holder is dead");
}

/** Also when nobody has yet asked how. */
function ended(pid: number): boolean {
  if (!existsSync(`/proc/${pid}/stat`)) return true;
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  return stat.charAt(stat.lastIndexOf(")") + 2) === "Z";
}
