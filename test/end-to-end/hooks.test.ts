import { chmod, mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { Child } from "../../deploy/demo/child-process.ts";
import { type Cluster, type ClusterPaths, promote, startCluster, until } from "./harness.ts";

const deadlineMs = 120_000;
const writerFile = fileURLToPath(new URL("./pausing-writer.ts", import.meta.url));

/** A hook of this cluster: a shell script in `control`, which every hook gets as its first argument. */
async function script(control: string, name: string, text: string): Promise<string> {
  const path = join(control, name);
  await writeFile(path, `#!/bin/sh\nset -eu\ncd ${control}\n${text}`);
  await chmod(path, 0o755);
  return JSON.stringify(path);
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}

describe("hooks around a cut", function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let writer: Child;
  let control: string;
  const pauses: number[] = [];

  async function groupYaml({ directory, data }: ClusterPaths): Promise<string> {
    control = join(directory, "control");
    const at = (name: string): string => JSON.stringify(join(data("alpha"), name));
    const copy = (name: string): string => `at: { bravo: ${JSON.stringify(join(data("bravo"), name))} }`;
    for (const folder of [control, join(data("alpha"), "files"), join(data("alpha"), "listed")])
      await mkdir(folder, { recursive: true });
    await writeFile(join(data("alpha"), "files", "large"), Buffer.alloc(64 * 1024 * 1024, "x"));
    await writeFile(join(data("alpha"), "listed", "file"), "listed");
    await writeFile(join(control, "mode"), "good");
    const freeze = await script(
      control,
      "freeze",
      `case $(cat mode) in
        fails) echo 'the application is busy' >&2; exit 1 ;;
        hangs) touch pause; exec sleep 600 ;;
      esac
      touch pause
      while [ ! -e paused ]; do sleep 0.005; done
      `,
    );
    const thaw = await script(
      control,
      "thaw",
      `echo "$UNDERSTUDY_REASON" >> thawed
      if [ "$(cat mode)" = stays ]; then rm mode; echo good > mode; echo 'not now' >&2; exit 1; fi
      rm -f pause
      while [ -e paused ]; do sleep 0.005; done
      `,
    );
    // What makes a cut slow while the application stands still.
    const list = await script(
      control,
      "list",
      `if [ "$(cat mode)" = slow ] && [ -e paused ]; then sleep 4; fi\necho file`,
    );
    return `  app:
    primary: alpha
    replicas: [bravo]
    freeze_every: 400ms
    stores:
      files: { kind: files, path: ${at("files")}, ${copy("files")} }
      listed: { kind: files, path: ${at("listed")}, ${copy("listed")}, list: [${list}] }
      numbers: { kind: sqlite, path: ${at("numbers.db")}, ${copy("numbers.db")} }
    hooks:
      freeze: { run: [${freeze}], timeout: 1s }
      thaw: { run: [${thaw}], timeout: 5s }
    limits: { snapshot_hold: 2s }`;
  }

  before(async () => {
    cluster = await startCluster({ groupYaml, start: [] });
    const source = cluster.node("alpha").dataDirectory;
    writer = new Child(process.execPath, [writerFile, join(source, "numbers.db"), join(source, "files"), control], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    writer.process.stdout?.setEncoding("utf8").on("data", (text: string) => {
      for (const line of text.split("\n")) if (line !== "") pauses.push(Number(line));
    });
    await until(async () => await exists(join(source, "files", "two.txt")), deadlineMs, "the application writes");
    await Promise.all([...cluster.nodes.values()].map(async (node) => await node.start()));
    await cluster.node("bravo").until((group) => group.cut !== null, deadlineMs);
  });
  after(async () => {
    await writer?.[Symbol.asyncDispose]();
    await cluster?.[Symbol.asyncDispose]();
  });

  async function mode(name: "good" | "fails" | "hangs" | "slow" | "stays"): Promise<void> {
    await writeFile(join(control, "mode"), name);
  }

  /** That the application runs: its number goes up. */
  async function writes(): Promise<void> {
    const file = join(cluster.node("alpha").dataDirectory, "files", "two.txt");
    const before = await readFile(file, "utf8");
    await until(async () => (await readFile(file, "utf8")) !== before, deadlineMs, "the application writes on");
  }

  it("cuts all stores at one instant, and freezes only while the rest is read", async () => {
    const alpha = cluster.node("alpha");
    const group = await alpha.until(
      ({ cut, peers }) => (peers.bravo?.durable?.seq ?? 0) >= 4 && cut !== null,
      deadlineMs,
    );
    expect(group.cut?.coherency).to.equal("instant");
    expect(group.stores.files?.consistency).to.equal("quiesced");
    expect(group.stores.listed?.consistency).to.equal("quiesced");
    expect(group.lastFreezeMs).to.be.within(0.1, 2000);
    const [first] = (await alpha.log()).filter(({ event }) => event === "cut.taken");
    // The large file was read and shipped while the application ran.
    expect(first?.payloadBytes).to.be.above(64 * 1024);
    expect(first?.freezeMs).to.be.below(Number(first?.ms));
    expect(pauses).to.have.length.above(2);
    expect(Math.max(...pauses), "what the application felt").to.be.below(2500);
    expect(await alpha.control.metrics()).to.match(/understudy_freeze_milliseconds_count\{group="app"\} [1-9]/);
  });

  it("keeps what the application never breaks in every recovery point", async () => {
    const bravo = cluster.node("bravo");
    const points = await until(
      async () => {
        const answer = await bravo.control.points("app");
        return answer.points.length > 3 ? answer.points : undefined;
      },
      deadlineMs,
      "there are points",
    );
    const numbers: number[] = [];
    for (const { epoch, seq } of points.slice(0, 6)) {
      const to = join(cluster.directory, `restored-${seq}`);
      await bravo.control.restore("app", { at: { cut: { epoch, seq } }, to });
      const one = Number(await readFile(join(to, "files", "one.txt"), "utf8"));
      const two = Number(await readFile(join(to, "files", "two.txt"), "utf8"));
      using database = new DatabaseSync(join(to, "numbers", "numbers.db"));
      const row = database.prepare("SELECT number FROM numbers").get()?.number;
      expect([one, two, row], `cut ${seq}`).to.deep.equal([one, one, one]);
      numbers.push(one);
      await rm(to, { recursive: true });
    }
    expect(new Set(numbers).size, "the application went on").to.equal(numbers.length);
  });

  for (const { name, as, error } of [
    { name: "a freeze hook that fails", as: "fails", error: /hook freeze exited with 1.*the application is busy/s },
    { name: "a freeze hook that hangs", as: "hangs", error: /hook freeze did not end within 1000 ms/ },
    { name: "a cut that takes too long", as: "slow", error: /the freeze took longer than 2000 ms.*snapshot_hold/s },
    { name: "a thaw hook that fails once", as: "stays", error: /hook thaw exited with 1.*not now/s },
  ] as const) {
    it(`${name} costs that cut, not the application or the replica`, async () => {
      const [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
      const taken = async (): Promise<number> => (await alpha.group())?.cut?.seq ?? 0;
      const known = (await alpha.log()).length;
      await mode(as);
      const failed = await until(
        async () => (await alpha.log()).slice(known).find(({ event }) => event === "cut.failed"),
        deadlineMs,
        "a cut failed",
      );
      expect(JSON.stringify(failed)).to.match(error);
      expect((await alpha.group())?.halted?.message).to.be.a("string");
      if (as === "fails") {
        const [before, told] = [await taken(), await alpha.cli("cut", "app")];
        expect(told.code).to.equal(1);
        expect(told.stderr.replaceAll("\n", " ")).to.match(error);
        expect(await taken(), "no cut came of it").to.equal(before);
      }
      const at = await bravo.group();
      expect(at?.role).to.equal("replica");
      expect(at?.promotable.ok).to.equal(true);
      await writes();
      await mode("good");
      const waited = await alpha.cli("wait", "app", "--timeout", "30s");
      expect(waited, waited.stderr).to.include({ code: 0 });
      await alpha.until((group) => group.halted === null, deadlineMs);
      await bravo.until((group) => (group.cut?.seq ?? 0) > (at?.cut?.seq ?? 0), deadlineMs);
    });
  }

  it("thaws what an agent that was killed has left frozen", async () => {
    const alpha = cluster.node("alpha");
    await mode("slow");
    await until(async () => await exists(join(control, "paused")), deadlineMs, "the application is frozen");
    await alpha.kill9();
    expect(await exists(join(control, "paused"))).to.equal(true);
    await mode("good");
    await alpha.start();
    await writes();
    expect((await readFile(join(control, "thawed"), "utf8")).split("\n")).to.include("recover");
    const taken = await until(
      async () => {
        const waited = await alpha.cli("wait", "app", "--timeout", "30s");
        return waited.code === 0 ? waited : undefined;
      },
      deadlineMs,
      "cuts are taken again",
    );
    expect(taken.stdout).to.match(/durable on bravo/);
  });
});

describe("hooks around a change of roles", function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let control: string;

  before(async () => {
    cluster = await startCluster({
      groupYaml: async ({ directory, data }) => {
        control = join(directory, "control");
        for (const folder of [control, join(data("alpha"), "files")]) await mkdir(folder, { recursive: true });
        await writeFile(join(data("alpha"), "files", "file"), "first");
        await writeFile(join(control, "refuse"), "");
        const said = `echo "$1 $UNDERSTUDY_GROUP $UNDERSTUDY_NODE $UNDERSTUDY_ROLE $UNDERSTUDY_EPOCH $UNDERSTUDY_CUT $UNDERSTUDY_REASON" >> said\n`;
        const before = await script(
          control,
          "before",
          `${said}if [ -e refuse ]; then echo 'not on my watch' >&2; exit 7; fi\nif [ -e wait ]; then exec sleep 60; fi\n`,
        );
        const note = await script(control, "note", said);
        return `  app:
    primary: alpha
    replicas: [bravo]
    stores:
      files: { kind: files, path: ${JSON.stringify(join(data("alpha"), "files"))}, at: { bravo: ${JSON.stringify(join(data("bravo"), "files"))} } }
    hooks:
      before_promote: [${before}, before_promote]
      after_promote: [${note}, after_promote]
      start_service: [${note}, start_service]
      stop_service: [${note}, stop_service]
      on_fenced: [${note}, on_fenced]`;
      },
    });
    await cluster.node("bravo").until((group) => group.cut !== null, deadlineMs);
  });
  after(async () => await cluster?.[Symbol.asyncDispose]());

  async function said(): Promise<string[]> {
    const text = await readFile(join(control, "said"), "utf8").catch(() => "");
    return text.split("\n").filter((line) => line !== "");
  }

  it("before_promote that fails refuses the promotion, and the replica follows on", async () => {
    const [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
    const refused = await bravo.cli("promote", "app", "--yes", "--accept-loss", "--accept-live-primary");
    expect(refused.code, refused.stderr).to.equal(1);
    expect(refused.stderr)
      .to.match(/hook before_promote exited with 7/)
      .and.match(/not on my watch/);
    expect(await said()).to.deep.equal([
      "start_service app alpha primary 1 1.0 form",
      "before_promote app bravo replica 1 1.1 promote",
    ]);
    expect((await bravo.group())?.role).to.equal("replica");
    await writeFile(join(alpha.dataDirectory, "files", "file"), "second");
    const waited = await alpha.cli("wait", "app", "--timeout", "30s");
    expect(waited, waited.stderr).to.include({ code: 0 });
    expect(await readFile(join(bravo.dataDirectory, "files", "file"), "utf8")).to.equal("second");
  });

  it("before_promote that takes its time can be aborted: nothing was changed", async () => {
    const bravo = cluster.node("bravo");
    await rename(join(control, "refuse"), join(control, "wait"));
    await rm(join(control, "said"));
    const promotion = bravo.cli("promote", "app", "--yes", "--accept-loss", "--accept-live-primary");
    await until(async () => (await said()).length > 0, deadlineMs, "the hook runs");
    const aborted = await bravo.cli("promote", "app", "--abort");
    expect(aborted, aborted.stderr).to.include({ code: 0, stdout: "app: replica in epoch 1\n" });
    const ended = await promotion;
    expect(ended.code, ended.stderr).to.equal(3);
    expect(ended.stderr).to.match(/the promotion was aborted/);
    expect((await bravo.group())?.role).to.equal("replica");
    await rename(join(control, "wait"), join(control, "refuse"));
  });

  it("after_promote and start_service run on the new primary, knowing what it is", async () => {
    await rm(join(control, "refuse"));
    await rm(join(control, "said"));
    const bravo = cluster.node("bravo");
    await cluster.node("alpha").kill9();
    const { cut } = await promote(bravo, "app", deadlineMs);
    const at = `${cut.epoch}.${cut.seq}`;
    expect(await said()).to.deep.equal([
      `before_promote app bravo replica 1 ${at} promote`,
      `after_promote app bravo primary 2 ${at} promote`,
      `start_service app bravo primary 2 ${at} promote`,
    ]);
  });

  it("on_fenced runs where the old primary meets the higher epoch, and at each start while it is fenced", async () => {
    const alpha = cluster.node("alpha");
    for (const start of [1, 2]) {
      await rm(join(control, "said"), { force: true });
      await alpha.start();
      await alpha.until(({ role }) => role === "fenced", deadlineMs);
      await until(async () => (await said()).length > 0, deadlineMs, `on_fenced ran at start ${start}`);
      const group = await alpha.group();
      const at = `${group?.cut?.epoch}.${group?.cut?.seq}`;
      expect(await said()).to.deep.equal([`on_fenced app alpha fenced 1 ${at} fenced by epoch 2`]);
      expect((await alpha.cli("is-primary", "app")).code).to.equal(1);
      await alpha.kill9();
    }
    // Alone, with nobody to tell it, it stays so.
    await cluster.node("bravo").kill9();
    await alpha.start();
    await alpha.until(({ role }) => role === "fenced", deadlineMs);
  });
});
