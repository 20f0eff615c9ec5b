import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type ControlHandler, cutRefText, type GroupStatus } from "../../deploy/control/api.ts";
import type { ForkDescription } from "../../deploy/control/fork-answers.ts";
import type { CutRef } from "../../deploy/control/json-names.ts";
import { explain } from "../../shared/errors.ts";
import { seededRandom } from "../crash/seeded-random.ts";
import { until } from "../end-to-end/harness.ts";
import { idsIn } from "./application.ts";
import { forkedIds } from "./forked-ids.ts";
import { Life, names } from "./life.ts";
import { epochsOf, overlaps, type Permission, stoppedAfter } from "./outside-checks.ts";

/**
 * Histories of three real agents: whatever their machines, links and operators do, in any order, ends in one primary that has
 * everything, but for what somebody accepted to lose, and that is in a fork. Judged by what can be seen from outside.
 */
export interface HistoriesOptions {
  readonly seed: number;
  readonly histories: number;
  readonly say: (line: string) => void;
}

export interface Histories {
  histories: number;
  readonly actions: Map<string, number>;
  entries: number;
  forks: number;
  lost: number;
  /** The longest that a service ran on after its node had met a higher epoch. */
  stoppedAfterMs: number;
}

const stopMsMax = 2000;
const waitMs = 3000;

const deadlineMs = 60_000;

export async function runHistories({ seed, histories, say }: HistoriesOptions): Promise<Histories> {
  const random = seededRandom(seed);
  const totals: Histories = { histories: 0, actions: new Map(), entries: 0, forks: 0, lost: 0, stoppedAfterMs: 0 };
  const auto = random() < 0.5;
  await using life = await Life.begin(
    `    rejoin: ${auto ? "auto" : "manual"}\n    retention: { keep: { all: 1m } }\n    limits: { switchover_step: 3s }`,
  );
  const run = new Run(life, random, totals, say);
  try {
    await run.heal();
    while (totals.histories < histories) {
      totals.histories++;
      await run.history();
    }
    totals.entries = life.written.length;
    return totals;
  } catch (error) {
    for (const line of run.story) say(line);
    throw new Error(`seed ${seed}, history ${totals.histories} (rejoin ${auto ? "auto" : "manual"})`, { cause: error });
  }
}

class Run {
  readonly story: string[] = [];
  readonly #life: Life;
  readonly #random: () => number;
  readonly #totals: Histories;
  readonly #say: (line: string) => void;
  /** What was durable on all nodes once. */
  readonly #acknowledged = new Set<string>();
  readonly #inForks = new Set<string>();
  /** When a person has said that a primary that cannot be reached is no primary any more. Wall clock, ms. */
  readonly #permissions: Permission[] = [];
  /** What each promotion said that it goes on from, by its epoch. */
  readonly #stated = new Map<number, CutRef>();
  readonly #begun: Promise<unknown>[] = [];

  constructor(life: Life, random: () => number, totals: Histories, say: (line: string) => void) {
    this.#life = life;
    this.#random = random;
    this.#totals = totals;
    this.#say = say;
  }

  async history(): Promise<void> {
    this.story.length = 0;
    this.#life.setQuiet(false);
    const steps = 2 + Math.floor(this.#random() * 5);
    for (let step = 0; step < steps; step++) await this.#act();
    await this.heal();
    await this.#judge();
  }

  #pick<T>(from: readonly T[]): T {
    return from[Math.floor(this.#random() * from.length)]!;
  }

  #note(action: string, detail: string): void {
    this.#totals.actions.set(action, (this.#totals.actions.get(action) ?? 0) + 1);
    this.story.push(`${new Date().toISOString()} ${action} ${detail}`);
  }

  /** Who says that it is, if anybody; else anyone. */
  async #primary(): Promise<string> {
    const states = await this.#states();
    return states.find(([, group]) => group?.role === "primary")?.[0] ?? this.#pick(names);
  }

  /** The primary dies, or nobody hears it any more while it goes on; somebody else takes over. */
  async #failover(): Promise<void> {
    const life = this.#life;
    const primary = await this.#primary();
    const dies = this.#random() < 0.5;
    const next = this.#pick(names.filter((name) => name !== primary));
    this.#note(dies ? "death" : "isolation", primary);
    if (dies) await life.node(primary).kill9();
    else for (const [name, link] of life.links) if (name.split("-").includes(primary)) link.state = "refused";
    await sleep(this.#random() * 300);
    await this.#promote(next);
  }

  async #act(): Promise<void> {
    const life = this.#life;
    const node = life.node(this.#pick(names));
    const [linkName, link] = this.#pick([...life.links]);
    const chance = this.#random();
    const pauseMs = this.#random() * 150;
    if (chance < 0.2) {
      this.#note("kill", node.name);
      await node.kill9();
    } else if (chance < 0.25) {
      this.#note("stop", node.name);
      await node.stop();
    } else if (chance < 0.35) {
      this.#note("start", node.name);
      if (!node.running) await node.start();
    } else if (chance < 0.55) {
      link.state = this.#pick(["refused", "silent", "slow"] as const);
      this.#note("link", `${linkName} ${link.state}`);
    } else if (chance < 0.6) {
      this.#note("link", `${linkName} up`);
      link.state = "up";
    } else if (chance < 0.72) {
      const primary = await this.#primary();
      const to = this.#pick(names);
      this.#note("switchover", `on ${primary} to ${to}`);
      this.#begin(switched(life.node(primary).control, to));
    } else if (chance < 0.78) {
      await this.#promote(node.name);
    } else if (chance < 0.93) {
      await this.#failover();
    } else {
      this.#note("rejoin", node.name);
      this.#begin(node.control.rejoin("app"));
    }
    await sleep(pauseMs);
  }

  #begin<T>(work: Promise<T>, then: (answer: T) => void = () => undefined): void {
    const line = this.story.length - 1;
    const [action = ""] = this.story[line]!.split(" ").slice(1);
    const noteOutcome = (outcome: string, detail: string): void => {
      const counted = `${action} ${outcome}`;
      this.#totals.actions.set(counted, (this.#totals.actions.get(counted) ?? 0) + 1);
      this.story[line] += ` -> ${outcome} ${detail}`;
    };
    this.#begun.push(
      work.then(
        (answer) => {
          noteOutcome("done", "");
          then(answer);
        },
        // Whatever is refused, or is asked of nobody: that is a part of the history.
        (error: unknown) => noteOutcome("refused", explain(error)),
      ),
    );
  }

  async #promote(name: string): Promise<void> {
    this.#note("promote", name);
    const permission: Permission = { from: Date.now(), node: name };
    this.#permissions.push(permission);
    const accept = ["unreachable-primary", ...(this.#random() < 0.3 ? ["live-primary"] : [])];
    const promotion = this.#life.node(name).control.promote("app", { acceptLoss: true, accept });
    promotion.catch((error: unknown) => {
      // What was refused permits nothing; of what was cut off nobody knows.
      if (error instanceof Error && error.name === "PROMOTION_REFUSED")
        this.#permissions.splice(this.#permissions.indexOf(permission), 1);
    });
    this.#begin(promotion, ({ epoch, cut }) => this.#stated.set(epoch, cut));
  }

  /** Everything runs and hears each other; ends when one is primary and in service and the others have what it has. */
  async heal(): Promise<void> {
    const life = this.#life;
    for (const link of life.links.values()) link.state = "up";
    for (const node of life.nodes.values()) if (!node.running) await node.start();
    await Promise.all(this.#begun.splice(0));
    life.setQuiet(true);
    let seen: Record<string, string> = {};
    await until(
      async () => {
        const states = await this.#states();
        seen = Object.fromEntries(states.map(([name, group]) => [name, describeGroup(group)]));
        for (const [name, group] of states) await this.#helpAlong(name, group);
        const primaries = states.filter(([, group]) => group?.role === "primary");
        const replicas = states.flatMap(([name, group]) => (group?.role === "replica" ? [name] : []));
        const [primary] = primaries;
        if (primary === undefined || primaries.length + replicas.length < names.length || primaries.length > 1)
          return false;
        if (states.some(([, group]) => group?.switchover !== undefined)) return false;
        const { control } = life.node(primary[0]);
        try {
          if (!(await control.isPrimary("app")).primary) return false;
          // Everything that was written until now is on all nodes, whatever they had in common before.
          await control.wait("app", { timeoutMs: waitMs, replicas });
        } catch {
          return false; // It is no primary any more, or somebody is not there yet: it is looked at again.
        }
        const cuts = (await this.#states()).map(([, group]) => group?.cut);
        const digests = new Set(cuts.map((cut) => `${cut?.epoch}.${cut?.seq} ${cut?.digest}`));
        return digests.size === 1;
      },
      deadlineMs,
      () => `healed: ${JSON.stringify(seen, undefined, 1)}`,
      50,
    );
  }

  async #states(): Promise<(readonly [string, GroupStatus | undefined])[]> {
    const state = async (name: string): Promise<GroupStatus | undefined> =>
      await this.#life
        .node(name)
        .group("app")
        .catch(() => undefined);
    return await Promise.all(names.map(async (name) => [name, await state(name)] as const));
  }

  /** What an operator would do who reads the status: a fork that waits for its rejoin. */
  async #helpAlong(name: string, group: GroupStatus | undefined): Promise<void> {
    if (group === undefined) return;
    const said = [...Object.values(group.peers).map(({ reason }) => reason), group.halted?.hint ?? ""];
    const waits = group.role === "fenced" || said.some((text) => /understudy rejoin/.test(text));
    if (waits)
      await this.#life
        .node(name)
        .control.rejoin("app")
        .catch(() => undefined);
  }

  /** What a fork begins after is what its promotion said it went on from, but for cuts that this node never had. */
  #isAsStated({ name, common, last, promotion }: ForkDescription): void {
    const stated = this.#stated.get(promotion.epoch);
    if (stated === undefined || stated.epoch !== common.epoch) return;
    const expected = Math.min(stated.seq, last.epoch === stated.epoch ? last.seq : stated.seq);
    if (common.seq !== expected)
      throw new Error(`fork ${name} begins after ${cutRefText(common)}, the promotion said ${cutRefText(stated)}`);
  }

  async #judge(): Promise<void> {
    const life = this.#life;
    const nodes = [...life.nodes.values()];
    const primary = await Promise.any(
      nodes.map(async (node) => {
        if (!(await node.control.isPrimary("app")).primary) throw new Error("another one is");
        return node;
      }),
    );
    const scratch = await mkdtemp(join(life.directory, "judge-"));
    try {
      const final = idsIn(life.databaseOf(primary.name));
      for (const node of nodes) {
        const { ids, forks } = await forkedIds(node, scratch);
        this.#totals.forks += forks.length;
        for (const fork of forks) this.#isAsStated(fork);
        for (const id of ids) this.#inForks.add(id);
      }
      const missing = life.written.filter(({ id }) => !final.has(id));
      const nowhere = missing.filter(({ id }) => !this.#inForks.has(id));
      if (nowhere.length > 0)
        throw new Error(`in no fork and not in ${primary.name}: ${nowhere.map(({ id }) => id).join(", ")}`);
      const broken = missing.filter(({ id }) => this.#acknowledged.has(id));
      if (broken.length > 0)
        throw new Error(`was durable everywhere and is gone: ${broken.map(({ id }) => id).join(", ")}`);
      this.#totals.lost = missing.length;
      for (const id of final) this.#acknowledged.add(id);
    } finally {
      await rm(scratch, { recursive: true });
    }
    const logs = await Promise.all(nodes.map(async (node) => [node.name, await node.log()] as const));
    const twice = epochsOf(logs);
    if (twice.length > 0) throw new Error(`cuts of one epoch on two nodes: ${twice.join("; ")}`);
    const outside = await life.outside();
    const beside = overlaps(outside, this.#permissions);
    if (beside.length > 0) throw new Error(`two services at once: ${beside.join("; ")}`);
    this.#totals.stoppedAfterMs = Math.max(0, ...stoppedAfter(outside, logs));
    if (this.#totals.stoppedAfterMs > stopMsMax)
      throw new Error(`a service ran ${this.#totals.stoppedAfterMs} ms on after its node had met a higher epoch`);
    this.#say(
      `${this.#totals.histories}: ${primary.name}, ${life.written.length} entries, ${this.#inForks.size} in forks`,
    );
  }
}

/** Until it is over, or in doubt, or the other one is primary: whether the service runs there is looked at there. */
async function switched(control: ControlHandler, to: string): Promise<void> {
  let progress = await control.switchover("app", { to, accept: [] });
  while (progress.outcome === null && !progress.steps.some(({ step }) => step === "demoted"))
    progress = await control.switchoverProgress("app", progress.next);
  if (progress.outcome !== null && progress.outcome !== "done")
    throw new Error(`${progress.outcome}: ${progress.reason}`);
}

function describeGroup(group: GroupStatus | undefined): string {
  if (group === undefined) return "no answer";
  const peers = Object.entries(group.peers).map(([name, peer]) => `${name} ${peer.state} ${peer.reason}`);
  const cut = group.cut === null ? "none" : `${group.cut.epoch}.${group.cut.seq} ${group.cut.digest.slice(0, 8)}`;
  return `${group.role} epoch ${group.epoch}, cut ${cut}, ${group.halted?.message ?? ""} [${peers.join(", ")}]`;
}
