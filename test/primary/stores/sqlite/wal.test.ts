import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import fc from "fast-check";
import {
  beforeFirstFrame,
  endOffset,
  frameHeaderBytes,
  parseWalHeader,
  positionText,
  scanWal,
  type WalPosition,
  walHeaderBytes,
} from "../../../../primary/stores/sqlite/wal.ts";

const pageSize = 512;
const frameBytes = frameHeaderBytes + pageSize;

interface Recovered {
  end: WalPosition | undefined;
  database: Buffer;
}

/** The database file after all committed frames of the log were written into it, as a replica does. */
function recover(database: Buffer, log: Buffer): Recovered {
  const header = parseWalHeader(log.subarray(0, walHeaderBytes));
  if (header === undefined) return { end: undefined, database };
  let folded = Buffer.from(database);
  let pagesNow = database.length / pageSize;
  const end = scanWal(beforeFirstFrame(header), readerOf(log), (pages, firstFrame, databasePages) => {
    if (databasePages * pageSize > folded.length) {
      folded = Buffer.concat([folded, Buffer.alloc(databasePages * pageSize - folded.length)]);
    }
    pages.forEach((page, index) => {
      const at = walHeaderBytes + (firstFrame - 1 + index) * frameBytes + frameHeaderBytes;
      if (page <= databasePages) log.copy(folded, (page - 1) * pageSize, at, at + pageSize);
    });
    pagesNow = databasePages;
  });
  return { end, database: folded.subarray(0, pagesNow * pageSize) };
}

function readerOf(log: Buffer) {
  return (buffer: Uint8Array, position: number) =>
    position >= log.length ? 0 : log.copy(buffer, 0, position, position + buffer.length);
}

describe("the write-ahead log of SQLite", () => {
  let directory: string;
  let base: Buffer;
  let log: Buffer;
  let frames: number;

  before(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-wal-"));
    const path = join(directory, "made.db");
    const database = new DatabaseSync(path);
    database.exec(`PRAGMA page_size=${pageSize}; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
      CREATE TABLE t (id INTEGER PRIMARY KEY, value INTEGER, filling BLOB); CREATE INDEX v ON t (value)`);
    const insert = database.prepare("INSERT OR REPLACE INTO t VALUES (?, ?, ?)");
    const transactions = (count: number, seed: number) => {
      for (let n = 0; n < count; n++) {
        database.exec("BEGIN");
        for (let row = 0; row < 3; row++)
          insert.run((n * 7 + row * 13 + seed) % 60, n, Buffer.alloc((n * 37) % 700, n));
        database.exec("COMMIT");
      }
    };
    transactions(40, 0);
    // From here on the log is written from its start again, over frames that are older and longer.
    database.exec("PRAGMA wal_checkpoint(RESTART)");
    transactions(12, 5);
    database.exec("DELETE FROM t WHERE id > 30; VACUUM");
    transactions(6, 9);
    base = readFileSync(path);
    log = readFileSync(`${path}-wal`);
    database.close();
    frames = (log.length - walHeaderBytes) / frameBytes;
  });

  after(() => rmSync(directory, { recursive: true }));

  function recoverBySqlite(mutated: Buffer): Buffer {
    const path = join(directory, "recovered.db");
    writeFileSync(path, base);
    writeFileSync(`${path}-wal`, mutated);
    rmSync(`${path}-shm`, { force: true });
    const database = new DatabaseSync(path);
    database.exec("PRAGMA synchronous=OFF; PRAGMA wal_checkpoint(TRUNCATE)");
    database.close();
    return readFileSync(path);
  }

  it("ends where SQLite's own recovery does, with what is left over from an older generation behind it", () => {
    const { end, database } = recover(base, log);
    expect(end!.commits).to.equal(20);
    expect(endOffset(end!)).to.be.lessThan(log.length);
    expect(database.equals(recoverBySqlite(log))).to.equal(true);
    expect(positionText(end!)).to.match(new RegExp(`^[0-9a-f]{8}-[0-9a-f]{8}:${end!.frame}/20$`));
  });

  it("ends where SQLite's own recovery does, wherever it is cut, flipped or mixed up", () => {
    const end = recover(base, log).end!;
    const mutation = fc.oneof(
      fc.record({ kind: fc.constant("cut" as const), at: fc.nat(log.length) }),
      fc.record({ kind: fc.constant("flip" as const), at: fc.nat(endOffset(end)), bit: fc.nat(7) }),
      fc.record({ kind: fc.constant("copy" as const), from: fc.nat(frames - 1), to: fc.nat(frames - 1) }),
      fc.record({ kind: fc.constant("zero" as const), at: fc.nat(log.length - 1), length: fc.nat(600) }),
    );
    fc.assert(
      fc.property(fc.array(mutation, { minLength: 1, maxLength: 3 }), (mutations) => {
        let mutated = Buffer.from(log);
        for (const one of mutations) {
          if (one.kind === "cut") mutated = mutated.subarray(0, Math.min(one.at, mutated.length));
          else if (one.kind === "flip" && one.at < mutated.length) mutated[one.at]! ^= 1 << one.bit;
          else if (one.kind === "zero") mutated.subarray(one.at, one.at + one.length).fill(0);
          else if (one.kind === "copy") {
            const at = walHeaderBytes + one.from * frameBytes;
            log.copy(mutated, walHeaderBytes + one.to * frameBytes, at, at + frameBytes);
          }
        }
        const ours = recover(base, mutated);
        expect(ours.end?.commits ?? 0).to.be.at.most(20);
        expect(ours.database.equals(recoverBySqlite(mutated))).to.equal(true);
      }),
      { numRuns: 120 },
    );
  });

  it("is read on from any commit as if it were read from its start", () => {
    const whole = recover(base, log).end!;
    fc.assert(
      fc.property(fc.array(fc.nat(log.length), { maxLength: 8 }), (cuts) => {
        let position = beforeFirstFrame(parseWalHeader(log)!);
        for (const cut of [...cuts.sort((a, b) => a - b), log.length]) {
          position = scanWal(position, readerOf(log.subarray(0, cut)), () => {});
        }
        expect(position).to.deep.equal(whole);
      }),
    );
  });

  it("is read with checksums of either byte order, as SQLite reads it", () => {
    const swappedOrder = inOtherByteOrder(log, recover(base, log).end!.frame);
    const { end, database } = recover(base, swappedOrder);
    expect(end!.header.bigEndian).to.equal(true);
    expect(end!.commits).to.equal(20);
    expect(database.equals(recoverBySqlite(swappedOrder))).to.equal(true);
  });

  it("never throws and never ends beyond what was given, whatever that is", () => {
    const header = parseWalHeader(log)!;
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 4000 }), fc.boolean(), (noise, framed) => {
        parseWalHeader(noise);
        const bytes = Buffer.concat([log.subarray(0, walHeaderBytes + (framed ? 8 : 0)), noise]);
        const end = scanWal(beforeFirstFrame(header), readerOf(bytes), () => expect.fail("noise was committed"));
        expect(end.frame).to.equal(0);
      }),
    );
  });

  it("can be folded into a copy commit by commit", () => {
    const path = join(directory, "folded.db");
    const at: number[] = [];
    scanWal(beforeFirstFrame(parseWalHeader(log)!), readerOf(log), (pages, firstFrame) =>
      at.push(walHeaderBytes + (firstFrame - 1 + pages.length) * frameBytes),
    );
    expect(at).to.have.length(20);
    for (const end of at) {
      writeFileSync(path, recover(base, log.subarray(0, end)).database);
      const database = new DatabaseSync(path);
      expect(database.prepare("PRAGMA integrity_check").get()).to.deep.include({ integrity_check: "ok" });
      database.close();
      for (const left of ["-wal", "-shm"]) rmSync(path + left, { force: true });
    }
  });
});

/** The same log as a machine of the other byte order would have summed it. */
function inOtherByteOrder(log: Buffer, frames: number): Buffer {
  const bytes = Buffer.from(log.subarray(0, walHeaderBytes + frames * frameBytes));
  bytes.writeUInt32BE(0x377f0683, 0);
  let a = 0;
  let b = 0;
  const sum = (from: number, to: number) => {
    for (let at = from; at < to; at += 8) {
      a = (a + bytes.readUInt32BE(at) + b) | 0;
      b = (b + bytes.readUInt32BE(at + 4) + a) | 0;
    }
  };
  sum(0, 24);
  bytes.writeInt32BE(a, 24);
  bytes.writeInt32BE(b, 28);
  for (let frame = 0; frame < frames; frame++) {
    const at = walHeaderBytes + frame * frameBytes;
    sum(at, at + 8);
    sum(at + frameHeaderBytes, at + frameBytes);
    bytes.writeInt32BE(a, at + 16);
    bytes.writeInt32BE(b, at + 20);
  }
  return bytes;
}
