import fs, { copyFileSync, mkdtempSync, readlinkSync, rmSync, statSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { Catalog } from "../../../shared/catalog/catalog.ts";

describe("a catalog's commits that are not synced", () => {
  let directory: string;
  let catalog: Catalog;
  const heard: string[] = [];
  before(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-catalog-"));
    catalog = new Catalog(join(directory, "catalog.db"), {
      observer: (when, purpose, durable) => heard.push(`${when} ${purpose}${durable ? ", durable" : ""}`),
    });
  });
  after(() => {
    catalog.close();
    rmSync(directory, { recursive: true });
  });

  /** 1: only checkpoints sync; 2: every commit does, and with it the whole log. */
  const synchronous = (): unknown => catalog.get("PRAGMA synchronous")?.synchronous;
  const logBytes = (): number => statSync(join(directory, "catalog.db-wal")).size;
  /** Gives how much longer the log became by it. */
  const write = (end: "commit" | "commitUnsynced"): number => {
    const before = logBytes();
    catalog.begin();
    catalog.event("written", {}, 0);
    catalog[end](end);
    return logBytes() - before;
  };

  it("are followed by one that syncs the log with all of them in it", () => {
    write("commit");
    const ordinary = write("commit");
    expect(synchronous(), "after an ordinary commit").to.equal(2);
    write("commitUnsynced");
    expect(write("commitUnsynced")).to.equal(ordinary);
    expect(synchronous(), "after unsynced ones").to.equal(1);
    expect(write("commit"), "with a transaction of its own, synced").to.be.above(ordinary);
    expect(synchronous(), "after the commit that ends them").to.equal(2);
    expect(write("commit"), "the next one").to.equal(ordinary);
    expect(heard.slice(2, -2)).to.deep.equal([
      "before commit, durable",
      "after commit, durable",
      "before commitUnsynced",
      "after commitUnsynced",
      "before commitUnsynced",
      "after commitUnsynced",
      "before commit, durable",
      "after commit, durable",
    ]);
  });

  it("go before a transaction that begins synced", () => {
    write("commitUnsynced");
    catalog.begin();
    catalog.beginSynced("rows");
    expect(synchronous()).to.equal(2);
    catalog.commit("commit");
    expect(heard.slice(-4)).to.deep.equal([
      "before rows",
      "after rows",
      "before commit, durable",
      "after commit, durable",
    ]);
  });

  it("are seen by another connection at once", () => {
    write("commitUnsynced");
    using reader = new Catalog(join(directory, "catalog.db"), { readOnly: true });
    expect(Number(reader.get("SELECT count(*) AS n FROM events")?.n)).to.equal(8);
  });
});

describe("a catalog that a killed process left", () => {
  it("has its log synced before anything is read out of it", () => {
    const directory = mkdtempSync(join(tmpdir(), "understudy-catalog-"));
    const { fdatasyncSync } = fs;
    const synced: string[] = [];
    try {
      const left = new Catalog(join(directory, "catalog.db"));
      left.transaction("written", () => left.event("written", {}, 0));
      for (const name of ["catalog.db", "catalog.db-wal"])
        copyFileSync(join(directory, name), join(directory, `left-${name}`));
      left.close();
      fs.fdatasyncSync = (file) => {
        synced.push(readlinkSync(`/proc/self/fd/${file}`));
        fdatasyncSync(file);
      };
      syncBuiltinESMExports();
      new Catalog(join(directory, "left-catalog.db")).close();
      expect(synced).to.deep.equal([join(directory, "left-catalog.db-wal")]);
    } finally {
      fs.fdatasyncSync = fdatasyncSync;
      syncBuiltinESMExports();
      rmSync(directory, { recursive: true });
    }
  });
});
