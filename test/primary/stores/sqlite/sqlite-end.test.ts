import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { StoreInUse } from "../../../../primary/stores/source-unusable.ts";
import { createSqliteStore, type SqliteStore } from "../../../../primary/stores/sqlite/sqlite-store.ts";
import { Follower, Writer } from "./follower.ts";

/** A service that was stopped, or killed. */
type Leaves = "stopped" | "killed";

describe("a sqlite store's orderly end", () => {
  let directory: string;
  let path: string;
  const stores: SqliteStore[] = [];

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-sqlite-end-"));
    path = join(directory, "app.db");
  });

  afterEach(async () => {
    for (const store of stores.splice(0)) await store.close();
    rmSync(directory, { recursive: true });
  });

  async function follow(): Promise<{ store: SqliteStore; follower: Follower }> {
    const store = createSqliteStore({ path, holdSecondsMax: 30 });
    stores.push(store);
    await store.start(() => {});
    return { store, follower: new Follower(store, join(directory, "copy.db")) };
  }

  async function leave(writer: Writer, how: Leaves): Promise<void> {
    if (how === "killed") await writer.kill();
    else await writer[Symbol.asyncDispose]();
  }

  function expectOneFile(): void {
    for (const suffix of ["-wal", "-shm"]) expect(existsSync(path + suffix), suffix).to.equal(false);
  }

  for (const [journal, how] of [
    ["WAL", "stopped"],
    ["WAL", "killed"],
    ["DELETE", "stopped"],
  ] as const) {
    it(`has all in the file and proves that the last view told it (${journal}, the service ${how})`, async () => {
      const writer = await Writer.on(path, `journal_mode=${journal}`);
      await writer.write(50);
      const { store, follower } = await follow();
      await follower.cut();
      const last = await writer.write(20);
      await leave(writer, how);
      await follower.cut();
      expect(await store.end!()).to.deep.equal({ covered: true });
      expectOneFile();
      expect(follower.audited()).to.equal(last);
      const size = statSync(follower.copy).size;
      expect(readFileSync(path).equals(readFileSync(follower.copy).subarray(0, size)), "to the byte").to.equal(true);
    });
  }

  const beyond: readonly (readonly [string, "WAL" | "DELETE", (path: string) => Promise<void>])[] = [
    ["a commit", "WAL", async (at) => await commitAt(at)],
    [
      "a commit, and a log that was brought into the file",
      "WAL",
      async (at) => await commitAt(at, "wal_checkpoint(TRUNCATE)"),
    ],
    ["a commit", "DELETE", async (at) => await commitAt(at)],
    ["another journal mode", "DELETE", async (at) => await commitAt(at, "journal_mode=WAL")],
    [
      "another file of the same content",
      "DELETE",
      async (at) => {
        copyFileSync(at, `${at}.other`);
        rmSync(at);
        copyFileSync(`${at}.other`, at);
      },
    ],
    ["another time stamp", "DELETE", async (at) => utimesSync(at, 1, 1)],
  ];
  for (const [what, journal, change] of beyond) {
    it(`proves nothing after ${what} since the last view (${journal})`, async () => {
      {
        await using writer = await Writer.on(path, `journal_mode=${journal}`);
        await writer.write(10);
      }
      const { store, follower } = await follow();
      await follower.cut();
      await change(path);
      expect(await store.end!()).to.deep.equal({ covered: false });
      expectOneFile();
      const { follower: again } = await follow();
      await again.cut();
      expect(again.audited(), "nothing is lost").to.be.at.least(10);
    });
  }

  it("proves nothing where the last view was dropped, and nothing without a view", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(10);
    const { store, follower } = await follow();
    await follower.cut();
    await writer.write(1);
    const dropped = await follower
      .cut("changes", async () => {
        throw new Error("no room");
      })
      .then(
        () => "taken",
        (error: Error) => error.message,
      );
    expect(dropped).to.equal("no room");
    await leave(writer, "stopped");
    expect(await store.end!()).to.deep.equal({ covered: false });
    const { store: other } = await follow();
    expect(await other.end!()).to.deep.equal({ covered: false });
  });

  it("is refused while somebody else has the database open, who goes on unharmed, and so does the log", async () => {
    await using writer = await Writer.on(path, "journal_mode=WAL");
    await writer.write(30);
    const { store, follower } = await follow();
    await follower.cut();
    const refusal = await store.end!().then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(refusal).to.be.instanceOf(StoreInUse);
    expect((refusal as StoreInUse).message).to.match(/is open in another process/);
    expect(existsSync(`${path}-wal`)).to.equal(true);
    await store.close();
    const last = await writer.write(5);
    const { store: again, follower: follows } = await follow();
    await follows.cut();
    expect(follows.audited()).to.equal(last);
    await leave(writer, "stopped");
    expect(await again.end!()).to.deep.equal({ covered: true });
    expectOneFile();
  });

  it("takes back what a killed service had begun, and leaves an empty database alone", async () => {
    const writer = await Writer.on(path, "journal_mode=DELETE", "cache_size=2", "cache_spill=1");
    await writer.write(30);
    const { store, follower } = await follow();
    await follower.cut();
    await writer.sql("BEGIN; UPDATE item SET filling = randomblob(2000); UPDATE item SET value = value + 1");
    expect(existsSync(`${path}-journal`), "pages went to the file before the end").to.equal(true);
    await writer.kill();
    await store.end!();
    copyFileSync(path, follower.copy);
    expect(follower.audited()).to.equal(30);

    const empty = join(directory, "empty.db");
    writeFileSync(empty, "");
    const nothing = createSqliteStore({ path: empty, holdSecondsMax: 30 });
    stores.push(nothing);
    await nothing.start(() => {});
    await nothing.end!();
    expect(statSync(empty).size).to.equal(0);
  });

  async function commitAt(at: string, ...pragmas: string[]): Promise<void> {
    await using writer = await Writer.on(at, ...pragmas);
    await writer.write(1);
    for (const pragma of pragmas) await writer.sql(`PRAGMA ${pragma}`);
  }
});
