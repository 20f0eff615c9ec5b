import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { applyNext } from "../../replica/apply/apply.ts";
import { commit } from "../../replica/commit/commit.ts";
import { RealDisk } from "../../shared/durable/real-disk.ts";
import { UnderstudyError } from "../../shared/errors.ts";
import { cutInto, openPrimary, openReplica, receiverOf, sinkInto } from "../model/in-process.ts";
import { ModelSource } from "../model/model-store.ts";
import { until } from "../until.ts";
import { treeDigest } from "./footprint.ts";
import { HostileStage } from "./hostile-stage.ts";

const racer = fileURLToPath(new URL("./symlink-racer.ts", import.meta.url));
const cutsMin = 15;
const raceMs = 4000;

/**
 * Who may write into the copy can make it useless; but the agent, which may be root, must never be led to touch anything
 * else by it, and must not end for it.
 */
describe("a replica whose directories are swapped with symlinks while cuts are applied", () => {
  let stage: HostileStage;
  let attacker: ChildProcess | undefined;

  before(async () => {
    stage = await HostileStage.open();
    await stage.seed();
  });

  afterEach(async () => await endAttacker());

  after(async () => {
    await stage[Symbol.asyncDispose]();
  });

  async function endAttacker(): Promise<void> {
    const process = attacker;
    attacker = undefined;
    if (process === undefined || process.exitCode !== null) return;
    const ended = once(process, "exit");
    process.kill("SIGKILL");
    await ended;
  }

  it("changes nothing outside, stays alive, and says that somebody else writes into the copy", async function () {
    this.timeout(300_000);
    const outside = treeDigest(stage.outside);
    const docs = join(stage.uploads, "docs");
    const hidden = mkdtempSync(join(stage.directory, "hidden-"));
    let swaps = 0;
    attacker = spawn(process.execPath, [racer, docs, hidden, stage.outside], { stdio: ["ignore", "pipe", "inherit"] });
    attacker.stdout!.on("data", () => swaps++);
    await until(() => swaps > 0, "the attacker swaps");
    const end = performance.now() + raceMs;
    let cuts = 0;
    for (; performance.now() < end || cuts < cutsMin; cuts++) {
      // As a primary does, which dials again.
      const conversation = await until(
        async () =>
          await stage.alpha.follow().catch((error: unknown) => {
            const lost = error instanceof UnderstudyError && error.code === "LINK_LOST";
            if (lost && stage.agent.exit === undefined) return undefined;
            throw new Error(`${stage.agent.exit ?? "the agent runs"}\n${stage.agent.tail()}`, { cause: error });
          }),
        "a session",
      );
      const draft = stage.alpha.draft();
      draft.rewrite("uploads", "docs/a.txt", randomBytes(9000));
      draft.file("uploads", `docs/new-${cuts}`, randomBytes(100));
      draft.directory("uploads", `docs/sub/d${cuts}`);
      draft.symlink("uploads", `docs/sub/l${cuts}`, "x");
      if (cuts % 3 === 2) draft.remove("uploads", `docs/new-${cuts - 1}`);
      await stage.alpha.shipDurably(conversation, draft);
      conversation.channel.close();
      await conversation.end();
      expect(stage.agent.exit, stage.agent.tail()).to.equal(undefined);
      expect(treeDigest(stage.outside), "what lies outside").to.equal(outside);
    }
    await endAttacker();
    expect(statSync(stage.outside).isDirectory()).to.equal(true);
    expect(treeDigest(stage.outside), "what lies outside").to.equal(outside);
    // By now it may have been mended; that it was not as it should be has been said.
    const told = stage.agent.lines.some((line) => /stranger|suspect/.test(line.event));
    expect(told, stage.agent.tail()).to.equal(true);
  });

  it("is led nowhere by it in hundreds of batches either, each begun anew after what it met", async function () {
    this.timeout(300_000);
    const outside = treeDigest(stage.outside);
    const place = join(stage.directory, "in-process");
    mkdirSync(place);
    const source = new ModelSource();
    for (const path of ["docs", "docs/sub"]) source.makeDirectory(path);
    source.write("docs/a.txt", randomBytes(9000));
    source.write("docs/sub/c.txt", "gamma");
    const primary = openPrimary(join(place, "primary.db"), { tree: source.adapter() });
    const replica = openReplica(join(place, "replica.db"), new RealDisk(), { tree: join(place, "copy") });
    const receiver = receiverOf(replica);
    const sink = sinkInto(replica, receiver);
    const met = new Map<string, number>();
    /** As the agent does, and as a person who says each time that the copy is to be trusted again. */
    const apply = (): boolean => {
      try {
        while (applyNext(replica, true) !== undefined);
        return true;
      } catch (error) {
        const code = error instanceof Error ? String((error as { code?: unknown }).code ?? error.message) : "";
        met.set(code, (met.get(code) ?? 0) + 1);
        replica.catalog.rollback();
        for (const home of replica.homes.values()) home.tree.forget();
        replica.catalog.transaction("trust", () => replica.catalog.stand({ suspect: "" }));
        return false;
      }
    };
    await cutInto(primary, [sink]);
    commit(replica, receiver);
    expect(apply()).to.equal(true);
    const hidden = mkdtempSync(join(stage.directory, "hidden-"));
    let swaps = 0;
    attacker = spawn(process.execPath, [racer, join(place, "copy", "docs"), hidden, stage.outside], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    attacker.stdout!.on("data", () => swaps++);
    await until(() => swaps > 0, "the attacker swaps");
    const end = performance.now() + raceMs;
    let batches = 0;
    for (; performance.now() < end; batches++) {
      source.write("docs/a.txt", randomBytes(2000), 3000);
      source.write(`docs/new-${batches}`, "new");
      source.makeDirectory(`docs/sub/d${batches}`);
      source.symlink(`docs/sub/l${batches}`, "x");
      if (batches % 3 === 2) source.remove(`docs/new-${batches - 1}`);
      if (batches % 5 === 4) source.remove(`docs/sub/d${batches - 1}`);
      await cutInto(primary, [sink]);
      commit(replica, receiver);
      apply();
      if (batches % 20 === 0) expect(treeDigest(stage.outside), "what lies outside").to.equal(outside);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await endAttacker();
    expect(treeDigest(stage.outside), "what lies outside").to.equal(outside);
    expect(batches).to.be.greaterThan(20);
    // What the agent takes for a stranger's doing: anything else would end it.
    for (const code of met.keys())
      expect(code).to.be.oneOf(["FOREIGN_CHANGE", "EEXIST", "ENOENT", "ENOTDIR", "ENOTEMPTY"]);
    expect(met.get("FOREIGN_CHANGE"), "batches that met the attacker").to.be.greaterThan(5);
  });
});
