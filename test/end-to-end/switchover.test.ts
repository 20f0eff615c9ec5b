import { chmod, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { type Cluster, type ClusterNode, type ClusterPaths, startCluster, until } from "./harness.ts";

const deadlineMs = 120_000;
const serviceFile = fileURLToPath(new URL("./moving-service.ts", import.meta.url));

async function script(path: string, text: string): Promise<string> {
  await writeFile(path, `#!/bin/sh\nset -eu\n${text}`);
  await chmod(path, 0o755);
  return JSON.stringify(path);
}

async function endService(directory: string): Promise<void> {
  const pid = Number(await readFile(join(directory, "pid"), "utf8").catch(() => "0"));
  const state = async (): Promise<string> => await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  // Who has ended counts as ended, also where nobody has asked about it yet.
  const runs = async (): Promise<boolean> => pid !== 0 && /^State:\s*[^ZX\s]/m.test(await state());
  if (await runs()) process.kill(pid, "SIGTERM");
  await until(async () => !(await runs()), deadlineMs, "the service has ended");
}

interface Event extends Record<string, unknown> {
  readonly event: string;
}

async function events(node: ClusterNode): Promise<Event[]> {
  const text = await readFile(join(node.stateDirectory, "events.jsonl"), "utf8");
  return text.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line) as Event]));
}

describe("a switchover under a service that writes", function () {
  this.timeout(600_000);

  it("goes there and back three times: every commit once, both digests equal, the others follow, nothing is copied", async () => {
    let log = "";
    await using cluster = await startCluster({
      nodes: ["alpha", "bravo", "charlie"],
      groupYaml: async ({ directory, data }) => {
        log = join(directory, "confirmed");
        const start = await script(
          join(directory, "start"),
          `cd ${directory}
          setsid ${process.execPath} ${serviceFile} "$UNDERSTUDY_NODE/data/numbers.db" ${log} 2 </dev/null >/dev/null 2>&1 &
          echo $! > pid
          `,
        );
        const stop = await script(
          join(directory, "stop"),
          `cd ${directory}
          [ -e pid ] || exit 0
          kill "$(cat pid)" || true
          while grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$(cat pid)/status"; do sleep 0.01; done
          rm pid
          `,
        );
        using database = new DatabaseSync(join(data("alpha"), "numbers.db"));
        database.exec("PRAGMA journal_mode = WAL; CREATE TABLE numbers(number INTEGER)");
        const at = (name: string): string => JSON.stringify(join(data(name), "numbers.db"));
        return `  app:
    primary: alpha
    replicas: [bravo, charlie]
    rpo: 1h
    stores:
      numbers: { kind: sqlite, path: ${at("alpha")}, at: { bravo: ${at("bravo")}, charlie: ${at("charlie")} } }
    hooks: { start_service: [${start}], stop_service: [${stop}] }`;
      },
    });
    // Before the directory goes: a service is nobody's child.
    await using _ = { [Symbol.asyncDispose]: async () => await endService(cluster.directory) };
    const [alpha, bravo, charlie] = ["alpha", "bravo", "charlie"].map((name) => cluster.node(name)) as [
      ClusterNode,
      ClusterNode,
      ClusterNode,
    ];
    for (const node of [bravo, charlie]) await node.until(({ cut }) => cut !== null, deadlineMs);
    for (const [index, [from, to]] of [
      [alpha, bravo],
      [bravo, alpha],
      [alpha, bravo],
      [bravo, alpha],
      [alpha, bravo],
      [bravo, alpha],
    ].entries() as ArrayIterator<[number, [ClusterNode, ClusterNode]]>) {
      await from.until(({ peers }) => peers[to.name]?.state === "streaming", deadlineMs);
      const moved = await from.cli("switchover", "app", "--to", to.name);
      expect(moved, moved.stdout + moved.stderr).to.include({ code: 0 });
      const handed = (await events(from)).findLast(({ event }) => event === "switchover.handed_over");
      expect(handed?.digest)
        .to.equal(handed?.digestThere)
        .and.match(/^[0-9a-f]{64}$/);
      expect(handed?.epoch).to.be.above(index + 1);
      const demoted = (await events(from)).findLast(({ event }) => event === "primary.demoted");
      expect(demoted).to.include({ touchedPaths: 0, touchedBlocks: 0 });
    }
    await alpha.until(({ peers }) => Object.values(peers).every(({ state }) => state === "streaming"), deadlineMs);
    expect(await alpha.control.metrics()).to.include('understudy_group_rpo_broken{group="app",peer="charlie"}');
    // Still, so that all can be compared.
    const stopped = await alpha.cli("switchover", "app", "--to", "bravo");
    expect(stopped, stopped.stderr).to.include({ code: 0 });
    await endService(cluster.directory);
    await alpha.until(({ peers }) => peers.bravo !== undefined, deadlineMs);
    expect(await alpha.control.metrics(), "it leads charlie no more")
      .to.include('understudy_replication_lag_seconds{group="app",peer="bravo"}')
      .and.not.match(/understudy_(replication_lag|group_rpo)_\w+\{group="app",peer="charlie"\}/);
    await until(
      async () => {
        const groups = await Promise.all([alpha, bravo, charlie].map(async (node) => await node.group()));
        const digests = new Set(groups.map((group) => group?.cut?.digest));
        return digests.size === 1 && groups[1]?.peers.alpha?.lag.cuts === 0;
      },
      deadlineMs,
      "all have the same digest",
    );
    const confirmed = (await readFile(log, "utf8"))
      .trim()
      .split("\n")
      .map((line) => line.split(" ").map(Number));
    using database = new DatabaseSync(join(bravo.dataDirectory, "numbers.db"), { readOnly: true });
    const held = database
      .prepare("SELECT number FROM numbers ORDER BY number")
      .all()
      .map(({ number }) => Number(number));
    expect(held, "each exactly once").to.deep.equal(held.map((_, index) => index + 1));
    expect(confirmed.length).to.be.above(100);
    expect(confirmed.map(([number]) => number)).to.deep.equal(held.slice(0, confirmed.length));
    const promoted = [...(await events(alpha)), ...(await events(bravo))].filter(
      ({ event }) => event === "replica.promoted",
    );
    expect(new Set(promoted.map(({ epoch }) => epoch)).size, "no epoch twice").to.equal(7);
    for (const node of [alpha, bravo, charlie])
      expect((await node.log()).filter(({ level }) => level === "error")).to.deep.equal([], "nobody has to look at it");
  });
});

const stepMs = 4000;

describe("a switchover that fails", function () {
  this.timeout(600_000);
  let cluster: Cluster;
  let control: string;
  let alpha: ClusterNode;
  let bravo: ClusterNode;
  let written = 0;
  /** Commands that follow what nobody will tell them. */
  const following: Promise<unknown>[] = [];

  /** Hooks say what they do in `control/said`, and do it badly where `control/NODE-HOOK` says how. */
  async function groupYaml({ directory, data }: ClusterPaths): Promise<string> {
    control = join(directory, "control");
    for (const folder of [control, join(data("alpha"), "files")]) await mkdir(folder, { recursive: true });
    await writeFile(join(data("alpha"), "files", "text"), "first");
    const hook = await script(
      join(control, "hook"),
      `cd ${control}
      echo "$UNDERSTUDY_NODE $1 $UNDERSTUDY_ROLE $UNDERSTUDY_EPOCH $UNDERSTUDY_REASON" >> said
      mode=$(cat "$UNDERSTUDY_NODE-$1" 2>/dev/null || true)
      case "$mode" in
        fail) echo 'not now' >&2; exit 3 ;;
        late) until [ -e "$UNDERSTUDY_NODE-$1-late" ]; do sleep 0.05; done; exit 3 ;;
        hang) exec sleep 600 ;;
        kill) rm "$UNDERSTUDY_NODE-$1"; kill -9 $PPID ;;
        freeze) rm "$UNDERSTUDY_NODE-$1"; kill -STOP $PPID ;;
        "freeze "*)
          kill -STOP "$(echo "$mode" | cut -d ' ' -f 2)"
          echo "its last words" > "../$UNDERSTUDY_NODE/data/files/late" ;;
      esac
      `,
    );
    const at = (node: string): string => JSON.stringify(join(data(node), "files"));
    return `  app:
    primary: alpha
    replicas: [bravo]
    stores:
      files: { kind: files, path: ${at("alpha")}, at: { bravo: ${at("bravo")} } }
    hooks:
      stop_service: { run: [${hook}, stop], timeout: 2s }
      start_service: { run: [${hook}, start], timeout: 15s }
      before_promote: { run: [${hook}, before], timeout: 1s }
    limits: { switchover_step: ${stepMs}ms }`;
  }

  before(async () => {
    cluster = await startCluster({ groupYaml, start: [] });
    [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
    await Promise.all([start(alpha), start(bravo)]);
    await bravo.until(({ cut }) => cut !== null, deadlineMs);
  });
  after(async () => {
    await cluster?.[Symbol.asyncDispose]();
    await Promise.all(following);
  });

  async function start(node: ClusterNode): Promise<void> {
    await node.start({
      environment: {
        UNDERSTUDY_STEP_FILE: join(control, `step-${node.name}`),
        UNDERSTUDY_KILL_FILE: join(control, `kill-${node.name}`),
      },
    });
  }

  async function mode(node: ClusterNode, hook: "stop" | "start" | "before", how: string): Promise<void> {
    await writeFile(join(control, `${node.name}-${hook}`), how);
  }

  async function dieAt(node: ClusterNode, step: string): Promise<void> {
    await writeFile(join(control, `kill-${node.name}`), step);
  }

  async function wellAgain(): Promise<void> {
    for (const { name } of [alpha, bravo]) {
      for (const hook of ["stop", "start", "before"]) await rm(join(control, `${name}-${hook}`), { force: true });
      await rm(join(control, `kill-${name}`), { force: true });
    }
  }

  async function said(): Promise<string[]> {
    const text = await readFile(join(control, "said"), "utf8").catch(() => "");
    return text.split("\n").filter((line) => line !== "");
  }

  async function textOf(node: ClusterNode): Promise<string> {
    return await readFile(join(node.dataDirectory, "files", "text"), "utf8").catch(() => "");
  }

  /** Who is who once everything is settled: one in service, the other follows it. */
  async function settled(): Promise<{ readonly primary: ClusterNode; readonly replica: ClusterNode }> {
    return await until(
      async () => {
        const groups = await Promise.all([alpha.group(), bravo.group()]);
        const inService = await Promise.all(
          [alpha, bravo].map(async (node, index) =>
            groups[index] === undefined ? false : (await node.control.isPrimary("app")).primary,
          ),
        );
        if (inService.filter(Boolean).length !== 1) return undefined;
        const [primary, replica] = inService[0] ? ([alpha, bravo] as const) : ([bravo, alpha] as const);
        const [mine, theirs] = inService[0] ? groups : groups.toReversed();
        const follows = mine?.peers[replica.name]?.state === "streaming" && theirs?.role === "replica";
        return follows && mine.switchover === undefined ? { primary, replica } : undefined;
      },
      deadlineMs,
      () => "one is primary and in service, the other follows",
    );
  }

  /** Nobody starts a service before whoever had it has stopped it, and it runs where the primary is. */
  async function onlyServedBy(primary: ClusterNode): Promise<void> {
    const serving = new Set<string>();
    for (const line of await said()) {
      const [node = "", hook] = line.split(" ");
      if (hook === "start") serving.add(node);
      if (hook === "stop") serving.delete(node);
      expect(serving.size, (await said()).join("\n")).to.be.below(2);
    }
    expect([...serving]).to.deep.equal([primary.name]);
  }

  /** What is asked for a switchover with, and what has to be there after it whatever happens. */
  async function begin(): Promise<{ readonly from: ClusterNode; readonly to: ClusterNode; readonly text: string }> {
    await wellAgain();
    const { primary: from, replica: to } = await settled();
    const text = `text ${++written}`;
    await writeFile(join(from.dataDirectory, "files", "text"), text);
    return { from, to, text };
  }

  async function kept(text: string): Promise<{ readonly primary: ClusterNode; readonly replica: ClusterNode }> {
    const roles = await settled();
    await onlyServedBy(roles.primary);
    expect(await textOf(roles.primary)).to.equal(text);
    await until(async () => (await textOf(roles.replica)) === text, deadlineMs, `${roles.replica.name} holds ${text}`);
    return roles;
  }

  it("is refused where it makes no sense, and changes nothing", async () => {
    const { from, to } = await begin();
    const before = await said();
    for (const [node, target, reason] of [
      [from, from.name, /is the primary already/],
      [from, "nobody", /is no node of group app/],
      [to, from.name, /this node is replica/],
    ] as const) {
      const refused = await node.cli("switchover", "app", "--to", target);
      expect(refused.code, refused.stderr).to.equal(3);
      expect(refused.stderr).to.match(reason);
    }
    expect((await from.cli("switchover", "app")).code, "nobody is named").to.equal(2);
    expect((await from.cli("switchover", "app", "--abort")).code, "there is none").to.equal(3);
    await to.stop();
    await from.until(({ peers }) => peers[to.name]?.state === "connecting", deadlineMs);
    const refused = await from.cli("switchover", "app", "--to", to.name, "--dry-run");
    expect(refused.code).to.equal(3);
    expect(refused.stdout).to.match(/is not connected/);
    await start(to);
    await settled();
    expect(await said()).to.deep.equal(before);
  });

  for (const [circumstance, at, hook, how, reason] of [
    ["stop_service fails", "from", "stop", "fail", /hook stop_service exited with 3/],
    ["stop_service hangs", "from", "stop", "hang", /hook stop_service did not end within 2000 ms/],
    ["before_promote fails there", "to", "before", "fail", /hook before_promote exited with 3/],
    ["before_promote hangs there", "to", "before", "hang", /hook before_promote did not end within 1000 ms/],
  ] as const) {
    it(`goes back when ${circumstance}`, async () => {
      const { from, to, text } = await begin();
      const { epoch } = (await from.group()) ?? {};
      await mode(at === "from" ? from : to, hook, how);
      const failed = await from.cli("switchover", "app", "--to", to.name);
      expect(failed.code, failed.stdout + failed.stderr).to.equal(1);
      expect(failed.stdout, failed.stdout)
        .to.match(reason)
        .and.match(/going back.*the service runs here again/s)
        .and.match(/is primary as before/);
      expect((await said()).at(-1)).to.equal(`${from.name} start primary ${epoch} rollback`);
      await wellAgain();
      const { primary } = await kept(text);
      expect(primary.name).to.equal(from.name);
      expect((await from.group())?.epoch).to.equal(epoch);
    });
  }

  it("goes back when somebody writes on", async () => {
    const { from, to, text } = await begin();
    const { epoch } = (await from.group()) ?? {};
    // What the service writes as it ends is not applied there before somebody has written once more.
    await mode(from, "stop", `freeze ${to.pid}`);
    await from.control.switchover("app", { to: to.name, accept: [] });
    const steps = async (): Promise<string> =>
      (await from.control.switchoverProgress("app", 0)).steps.map((step) => step.text).join("\n");
    try {
      await until(async () => /last cut/.test(await steps()), deadlineMs, "the last cut is taken", 5);
      await writeFile(join(from.dataDirectory, "files", "late"), "after the last cut");
    } finally {
      to.signal("SIGCONT");
    }
    const rolledBack = async (): Promise<boolean> =>
      (await from.control.switchoverProgress("app", 0)).outcome === "rolled-back";
    await until(rolledBack, deadlineMs, "it went back");
    expect(await steps())
      .to.match(/somebody wrote after the last cut/)
      .and.match(/going back.*the service runs here again/s);
    expect((await said()).at(-1)).to.equal(`${from.name} start primary ${epoch} rollback`);
    await wellAgain();
    const { primary } = await kept(text);
    expect(primary.name).to.equal(from.name);
    expect((await from.group())?.epoch).to.equal(epoch);
  });

  it("comes back where the service does not start there, though that takes longer than a step may", async () => {
    const { from, to, text } = await begin();
    const since = Date.now();
    await mode(to, "start", "late");
    const asked = from.cli("switchover", "app", "--to", to.name);
    const demoted = async (): Promise<boolean> =>
      (await events(from)).some(({ event, at }) => event === "switchover.demoted" && Date.parse(String(at)) > since);
    await until(demoted, deadlineMs, `${from.name} follows`);
    const overdue = performance.now() + stepMs + 500;
    await until(() => performance.now() > overdue, deadlineMs, "a step would be over by now");
    await writeFile(join(control, `${to.name}-start-late`), "");
    const failed = await asked;
    expect(failed.code, failed.stdout + failed.stderr).to.equal(1);
    expect(failed.stdout).to.match(
      /could not be started on .*, which hands it back: .*is primary again, and its service runs/s,
    );
    await wellAgain();
    expect((await kept(text)).primary.name).to.equal(from.name);
  });

  it("comes back the same from the node that dials, which its former primary follows while the service is being started", async () => {
    const { from: alphaFirst } = await begin();
    expect(alphaFirst.name).to.equal("alpha");
    expect((await alpha.cli("switchover", "app", "--to", "bravo")).code).to.equal(0);
    const { from, to, text } = await begin();
    expect([from.name, to.name]).to.deep.equal(["bravo", "alpha"]);
    await mode(to, "start", "late");
    const asked = from.cli("switchover", "app", "--to", to.name);
    await until(async () => (await said()).at(-1)?.startsWith(`${to.name} start`), deadlineMs, "it is being started");
    await until(async () => (await to.group())?.peers[from.name]?.state === "streaming", deadlineMs, "it is followed");
    expect((await said()).at(-1), "and is still being started").to.match(/^alpha start/);
    await writeFile(join(control, `${to.name}-start-late`), "");
    const failed = await asked;
    expect(failed.code, failed.stdout + failed.stderr).to.equal(1);
    expect(failed.stdout).to.match(
      /could not be started on .*, which hands it back: .*is primary again, and its service runs/s,
    );
    await wellAgain();
    expect((await kept(text)).primary.name).to.equal(from.name);
    expect((await bravo.cli("switchover", "app", "--to", "alpha")).code).to.equal(0);
    await settled();
  });

  it("is taken back before anything is written down, and changes nothing", async () => {
    const { from, to, text } = await begin();
    const before = await said();
    to.signal("SIGSTOP");
    try {
      await from.control.switchover("app", { to: to.name, accept: [] });
      const { ended } = await from.control.abortSwitchover("app", { accept: [], by: "somebody" });
      expect(ended).to.include({ outcome: "refused", reason: "it was aborted" });
      expect((await from.cli("switchover", "app", "--abort")).code, "there is none any more").to.equal(3);
    } finally {
      to.signal("SIGCONT");
    }
    expect((await kept(text)).primary.name).to.equal(from.name);
    expect(await said(), "no service was stopped").to.deep.equal(before);
  });

  it("is taken back while the service is being stopped, and is not begun twice", async () => {
    const { from, to, text } = await begin();
    await mode(from, "stop", "hang");
    await from.control.switchover("app", { to: to.name, accept: [] });
    await until(async () => (await said()).at(-1)?.includes(" stop "), deadlineMs, "the service is being stopped", 5);
    const second = await from.control.switchover("app", { to: to.name, accept: [] }).catch((error: unknown) => error);
    expect(String(second)).to.match(/is under way/);
    expect((await from.control.isPrimary("app")).primary, "nobody is served").to.equal(false);
    expect((await from.group())?.switchover).to.deep.equal({ to: to.name, step: "stopping", reason: "" });
    const { ended } = await from.control.abortSwitchover("app", { accept: [], by: "somebody" });
    expect(ended).to.include({ outcome: "rolled-back", reason: "it was aborted" });
    expect(ended?.steps.map((step) => step.text).join("\n")).to.match(/somebody aborts it/);
    expect((await kept(text)).primary.name).to.equal(from.name);
  });

  it("begins by itself at the time that was said, also after a restart, unless it is taken back", async () => {
    const { from, to, text } = await begin();
    const at = new Date(Date.now() + 3600_000).toISOString();
    const planned = await from.cli("switchover", "app", "--to", to.name, "--at", at);
    expect(planned.stdout, planned.stderr).to.include(at);
    await from.kill9();
    await start(from);
    const group = await from.until(({ plannedSwitchover }) => plannedSwitchover !== undefined, deadlineMs);
    expect(group.plannedSwitchover).to.include({ to: to.name, at });
    const second = await from.cli("switchover", "app", "--to", to.name, "--at", at);
    expect(second.code, second.stdout).to.equal(3);
    expect((await from.cli("switchover", "app", "--abort")).stdout).to.match(/is not moved to .* any more/);
    await settled();
    const soon = new Date(Date.now() + 300).toISOString();
    await from.control.scheduleSwitchover("app", { to: to.name, accept: [] }, soon);
    await until(async () => (await to.group())?.role === "primary", deadlineMs, `${to.name} took over`);
    expect((await kept(text)).primary.name).to.equal(to.name);
    for (const name of ["switchover.planned", "switchover.cancelled", "switchover.done"])
      await until(async () => (await events(from)).some(({ event }) => event === name), deadlineMs, `${name} is told`);
  });

  it("goes back after an orderly end of the agent in the middle, and what its hook was at is ended with it", async () => {
    const { from, to, text } = await begin();
    await mode(from, "stop", "hang");
    await from.control.switchover("app", { to: to.name, accept: [] });
    await until(async () => (await said()).at(-1)?.includes(" stop "), deadlineMs, "the service is being stopped", 5);
    await from.stop();
    await wellAgain();
    await start(from);
    expect((await kept(text)).primary.name).to.equal(from.name);
    expect((await events(from)).some(({ event }) => event === "switchover.restarted")).to.equal(true);
  });

  it("waits for a target that hangs, which takes over or not when it goes on", async () => {
    const { from, to, text } = await begin();
    await mode(to, "before", "freeze");
    const asked = from.cli("switchover", "app", "--to", to.name);
    await until(async () => (await said()).at(-1)?.includes(" before "), deadlineMs, "it is handed over", 5);
    await from.until(({ switchover }) => switchover?.reason !== "", deadlineMs, "it is late");
    expect((await from.control.isPrimary("app")).primary, "nobody goes back by himself").to.equal(false);
    to.signal("SIGCONT");
    await asked;
    await kept(text);
  });

  it("is in doubt while the target is away, until a person gives it up in an epoch that fences it", async () => {
    const { from, to, text } = await begin();
    await mode(to, "before", "kill");
    const doubted = await from.cli("switchover", "app", "--to", to.name);
    expect(doubted.code, doubted.stdout).to.equal(1);
    expect(doubted.stderr).to.match(/--accept-unreachable-target/);
    expect((await from.cli("is-primary", "app")).code).to.equal(1);
    expect((await from.cli("cut", "app")).stderr).to.match(/is being handed over/);
    const refused = await from.cli("switchover", "app", "--abort");
    expect(refused.code).to.equal(3);
    expect(refused.stderr).to.match(/whether .* has taken over is not known/);
    const given = await from.cli("switchover", "app", "--abort", "--accept-unreachable-target");
    expect(given.stdout, given.stderr).to.match(/is primary as before/);
    expect((await from.cli("is-primary", "app")).code).to.equal(0);
    await start(to);
    expect((await kept(text)).primary.name).to.equal(from.name);
  });

  for (const [who, step, outcome, more] of [
    ["from", "switchover: catalog stopping", "back"],
    ["from", "switchover: after catalog stopping", "back"],
    ["from", "in stop_service", "back"],
    ["from", "switchover: catalog cutting", "back"],
    ["from", "switchover: after catalog cutting", "back"],
    ["from", "switchover: catalog handing", "back"],
    ["from", "switchover: after catalog handing", "back"],
    ["from", "switchover: after catalog rolling-back", "back", "refused"],
    ["from", "in start_service", "back", "refused"],
    ["from", "switchover: catalog in service", "back", "refused"],
    ["from", "demote: catalog demote", "there"],
    ["from", "demote: after catalog demote", "there"],
    ["to", "in before_promote", "either"],
    ["to", "handover: catalog epoch", "either"],
    ["to", "handover: after catalog epoch", "there"],
    ["to", "in start_service", "there"],
  ] as readonly (readonly ["from" | "to", string, "back" | "there" | "either", string?])[]) {
    const whose = who === "from" ? "the primary" : "the target";
    it(`killed at ${whose}, ${step}${more === undefined ? "" : ` after it was ${more}`}: it ends ${outcome}`, async () => {
      const { from, to, text } = await begin();
      const victim = who === "from" ? from : to;
      if (more === "refused") await mode(to, "before", "fail");
      const hook = /^in (stop|start|before)_/.exec(step)?.[1];
      if (hook === undefined) await dieAt(victim, step);
      else await mode(victim, hook as "stop" | "start" | "before", "kill");
      const asked = from.cli("switchover", "app", "--to", to.name);
      await until(() => !victim.running, deadlineMs, `${victim.name} is killed at ${step}`);
      await start(victim);
      // One that took over and was killed tells nobody any more whether its service runs.
      if (who === "to" && outcome === "there") following.push(asked);
      else await asked;
      const { primary } = await kept(text);
      if (outcome !== "either") expect(primary.name).to.equal(outcome === "back" ? from.name : to.name);
    });
  }

  it("has left no epoch to two nodes", async () => {
    const promoted = [...(await events(alpha)), ...(await events(bravo))].filter(
      ({ event }) => event === "replica.promoted" || event === "switchover.abandoned",
    );
    const epochs = promoted.flatMap(({ epoch }) => (epoch === undefined ? [] : [epoch]));
    expect(new Set(epochs).size).to.equal(epochs.length);
  });
});
