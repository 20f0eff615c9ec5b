import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import fc from "fast-check";
import { parseDatabaseHeader } from "../../../../primary/stores/sqlite/database-header.ts";
import { PageSet } from "../../../../primary/stores/sqlite/page-set.ts";
import { dueStep, type LogState, turnLimits } from "../../../../primary/stores/sqlite/turning.ts";
import { watchHotFiles } from "../../../../primary/watch/hot-files.ts";
import { until } from "../../../until.ts";

describe("a set of pages", () => {
  it("holds what was added, in order, and tells it as ranges below the end of the database", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 5000 })), fc.integer({ min: 1, max: 5000 }), (added, end) => {
        const set = new PageSet();
        for (const page of added) set.add(page);
        const expected = [...new Set(added)].sort((a, b) => a - b);
        expect([...set.pages()]).to.deep.equal(expected);
        expect(set.empty).to.equal(expected.length === 0);
        const inRanges: number[] = [];
        let before = -1;
        for (const { offset, length } of set.ranges(512, end)) {
          expect(offset, "a gap between ranges").to.be.greaterThan(before);
          before = offset + length;
          for (let at = offset; at < before; at += 512) inRanges.push(at / 512 + 1);
        }
        expect(inRanges).to.deep.equal(expected.filter((page) => page <= end));
      }),
    );
  });

  it("takes in another, up to the largest page that SQLite has", () => {
    const one = new PageSet();
    const other = new PageSet();
    one.add(1);
    other.add(2);
    other.add(0xfffffffe);
    one.addAll(other);
    expect([...one.pages()]).to.deep.equal([1, 2, 0xfffffffe]);
    expect(one.has(0xfffffffe)).to.equal(true);
    expect(one.has(3)).to.equal(false);
  });
});

describe("what is done about the length of a log", () => {
  const quiet: LogState = {
    logBytes: 0,
    grownBytes: 0,
    anchored: true,
    sinceAdvanceMs: 0,
    sinceTurnMs: Number.POSITIVE_INFINITY,
    lockedMs: 0,
    advancesInVain: 0,
    prevented: 0,
  };
  const table: [string, Partial<LogState>, string][] = [
    ["nothing happened", {}, "rest"],
    ["little happened just now", { logBytes: 100, grownBytes: 100 }, "rest"],
    ["little happened, long ago", { logBytes: 100, grownBytes: 100, sinceAdvanceMs: 20_000 }, "advance"],
    ["a new generation began", { logBytes: 10, grownBytes: 10, anchored: false }, "anchor"],
    ["the new generation has no commit yet", { anchored: false }, "rest"],
    ["a generation reached the bound at once", { logBytes: 1000, grownBytes: 1000, anchored: false }, "turn"],
    ["an eighth of the bound came", { logBytes: 200, grownBytes: 125 }, "advance"],
    ["it came, but the writer never pauses", { logBytes: 200, grownBytes: 125, advancesInVain: 9 }, "rest"],
    ["half of the bound came though it never does", { logBytes: 600, grownBytes: 500, advancesInVain: 9 }, "advance"],
    ["the bound is reached", { logBytes: 1000, grownBytes: 1 }, "turn"],
    ["the bound is reached and all is in the file", { logBytes: 1000, sinceAdvanceMs: 20_000 }, "rest"],
    ["a turn was just made", { logBytes: 1000, grownBytes: 1, sinceTurnMs: 20 }, "rest"],
    ["writers waited long the last time", { logBytes: 1000, grownBytes: 1, sinceTurnMs: 300, lockedMs: 10 }, "rest"],
    ["that is a while ago", { logBytes: 1000, grownBytes: 1, sinceTurnMs: 500, lockedMs: 10 }, "turn"],
    ["it was prevented three times", { logBytes: 1000, grownBytes: 1, sinceTurnMs: 300, prevented: 3 }, "rest"],
    ["a hundred times", { logBytes: 1000, grownBytes: 1, sinceTurnMs: 10_000, prevented: 100 }, "turn"],
  ];
  for (const [when, state, step] of table) {
    it(`${step} when ${when}`, () => expect(dueStep({ ...quiet, ...state }, 1000)).to.equal(step));
  }
});

describe("what a turn may ask of the writers", () => {
  it("is a few milliseconds, more when it was prevented, and always less than the watchdog bears", () => {
    expect(turnLimits(0)).to.deep.include({ roundMsMax: 4, lockWaitMs: 5 });
    expect(turnLimits(1)).to.deep.include({ roundMsMax: 8, lockWaitMs: 10 });
    const { roundMsMax, lockWaitMs } = turnLimits(1000);
    expect(roundMsMax + lockWaitMs).to.be.lessThan(80);
  });
});

describe("the header of a database file", () => {
  it("is told from what is none", () => {
    expect(parseDatabaseHeader(Buffer.alloc(0))).to.equal("empty");
    expect(parseDatabaseHeader(Buffer.alloc(100))).to.equal(undefined);
    expect(parseDatabaseHeader(Buffer.from("SQLite format 3\0"))).to.equal(undefined);
  });

  it("gives page size, journal and pages as SQLite has them", () => {
    const directory = mkdtempSync(join(tmpdir(), "understudy-header-"));
    for (const [pageSize, journal] of [
      [512, "wal"],
      [65536, "delete"],
    ] as const) {
      const path = join(directory, journal);
      const database = new DatabaseSync(path);
      database.exec(`PRAGMA page_size=${pageSize}; PRAGMA journal_mode=${journal}; CREATE TABLE t (id)`);
      database.close();
      expect(parseDatabaseHeader(readFileSync(path))).to.deep.include({
        pageSize,
        journal: journal === "wal" ? "wal" : "rollback",
        pages: 2,
      });
    }
    rmSync(directory, { recursive: true });
  });
});

describe("the watchdog of a holder", () => {
  function sleeper(...orders: string[]): ChildProcess {
    return spawn(process.execPath, [fileURLToPath(new URL("./sleeper.ts", import.meta.url)), ...orders], {
      stdio: ["ignore", "pipe", "inherit"],
    });
  }

  it("kills a process that sits on the lock for too long, though it does nothing at all", async () => {
    const stuck = sleeper("arm", "block");
    const [, signal] = await once(stuck, "exit");
    expect(signal).to.equal("SIGKILL");
  });

  it("leaves one alone that lets go in time, and ends with it", async () => {
    const quick = sleeper("arm", "disarm", "arm", "disarm", "block");
    const [code, signal] = await once(quick, "exit");
    expect({ code, signal }).to.deep.equal({ code: 0, signal: null });
  });
});

describe("a watch on hot files", () => {
  it("tells of each write, appearance, removal and replacement", async () => {
    const directory = mkdtempSync(join(tmpdir(), "understudy-hot-"));
    const path = join(directory, "app.db");
    writeFileSync(path, "a");
    let woken = 0;
    const told = async (what: string, act: () => void) => {
      const before = woken;
      act();
      await until(() => woken > before, what);
      // What follows of the same act, such as the look at the name, is not taken for the next one.
      let settled: number;
      do {
        settled = woken;
        await new Promise((resolve) => setTimeout(resolve, 150));
      } while (woken > settled);
    };
    {
      await using _watch = await watchHotFiles([path, `${path}-wal`], () => woken++);
      await told("a write", () => appendFileSync(path, "b"));
      await told("a log that appears", () => writeFileSync(`${path}-wal`, "a"));
      await told("a write to it", () => appendFileSync(`${path}-wal`, "a"));
      await told("its removal", () => rmSync(`${path}-wal`));
      await told("another log", () => writeFileSync(`${path}-wal`, "a"));
      await told("a write to that", () => appendFileSync(`${path}-wal`, "a"));
      writeFileSync(`${path}.new`, "n");
      await told("a replacement", () => renameSync(`${path}.new`, path));
      await told("a write to what replaced it", () => appendFileSync(path, "b"));
    }
    const before = woken;
    let others = 0;
    {
      await using _other = await watchHotFiles([path], () => others++);
      appendFileSync(path, "c");
      await until(() => others > 0, "another watch tells of a write");
    }
    expect(woken, "one that has ended does not").to.equal(before);
    rmSync(directory, { recursive: true });
  });
});
