import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type ControlHandler, cutRefText, type GroupStatus } from "../../deploy/control/api.ts";
import { ControlTimedOut } from "../../deploy/control/client.ts";
import type { ForkDescription } from "../../deploy/control/fork-answers.ts";
import type { CutRef } from "../../deploy/control/json-names.ts";
import { explain } from "../../shared/errors.ts";
import { seededRandom } from "../crash/seeded-random.ts";
import { type ClusterNode, until } from "../end-to-end/harness.ts";
import { type Contents, contentsInUse, contentsOfCopy, difference } from "./contents.ts";
import { forksOf, type KeptFork } from "./forks-of.ts";
import { Life, names, type Recorded } from "./life.ts";
import { type Kept, lastInCommon, lineage, wrongly } from "./losses.ts";
import { Metronome } from "./metronome.ts";
import { epochsOfTwo, overlaps, type Permission, runOn, timeText } from "./outside-checks.ts";

/**
 * Histories of three real agents: whatever their machines, links and operators do, in any order, ends in one primary that has
 * everything, but for what somebody accepted to lose, and that is in a fork. Judged by what can be seen from outside.
 */
export interface HistoriesOptions {
  readonly seed: number;
  /** At most. */
  readonly histories: number;
  /** Whether there shall be one more. */
  readonly goesOn?: () => boolean;
  readonly say: (line: string) => void;
  /** Of the agents, in place of this checkout's. */
  readonly launcher?: string;
}

export interface Histories {
  histories: number;
  readonly actions: Map<string, number>;
  entries: number;
  forks: number;
  lost: number;
  /** Promotions and moves of which it is known when the cut was taken that they go on from: what is lost was held to it. */
  exact: number;
  /** The longest that a service ran on after its node had met a higher epoch. */
  stoppedAfterMs: number;
}

const stopMsMax = 2000;
const waitMs = 3000;
/** Each look costs the agents more than most of what they do. */
const lookMs = 150;
const readMsMax = 15_000;

const deadlineMs = 120_000;
/** Of what an agent said at last, where a history has failed. */
const lastWordsMax = 60;

export async function runHistories({
  seed,
  histories,
  goesOn = () => true,
  say,
  launcher,
}: HistoriesOptions): Promise<Histories> {
  const random = seededRandom(seed);
  const totals: Histories = {
    ...{ histories: 0, actions: new Map(), entries: 0, forks: 0, lost: 0, exact: 0, stoppedAfterMs: 0 },
  };
  const rejoin = random() < 0.5 ? "auto" : "manual";
  await using life = await Life.begin(
    // A cut that is common must be known still when a slow machine comes to it, whatever was cut since.
    `    rejoin: ${rejoin}\n    retention: { keep: { all: 15m } }\n    limits: { switchover_step: 3s }`,
    launcher,
  );
  using metronome = new Metronome();
  const run = new Run(life, random, totals, say, metronome);
  try {
    await run.heal();
    while (totals.histories < histories && goesOn()) {
      totals.histories++;
      await run.history();
    }
    totals.entries = life.written.length;
    return totals;
  } catch (error) {
    life.keeps = true;
    const words = await life.lastWords(lastWordsMax);
    const late = `this process stood still for ${metronome.latestMs} ms at most; all is kept in ${life.directory}`;
    const head = `UNDERSTUDY_SEED=${seed}, history ${totals.histories} (rejoin: ${rejoin}) at ${new Date().toISOString()}: ${explain(error)}`;
    // The whole in one, and the head at both ends: where it is read, little else may be shown.
    throw new Error([head, ...words, ...run.story, late, head].join("\n"), { cause: error });
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
  /** Entries in forks, with the nodes that kept them. */
  readonly #inForks = new Map<string, Set<string>>();
  /** When a person has said that a primary that cannot be reached is no primary any more. Wall clock, ms. */
  readonly #permissions: Permission[] = [];
  /** What each promotion said that it goes on from, by its epoch. */
  readonly #stated = new Map<number, CutRef>();
  readonly #begun: Promise<unknown>[] = [];
  readonly #metronome: Metronome;
  /** Up to this reign everything was judged. */
  #settledEpoch = 0;

  constructor(life: Life, random: () => number, totals: Histories, say: (line: string) => void, metronome: Metronome) {
    this.#metronome = metronome;
    this.#life = life;
    this.#random = random;
    this.#totals = totals;
    this.#say = say;
  }

  async history(): Promise<void> {
    this.story.length = 0;
    this.#life.setQuiet(false);
    const steps = 2 + Math.floor(this.#random() * 5);
    const begun = performance.now();
    for (let step = 0; step < steps; step++) await this.#act();
    const acted = performance.now();
    const primary = await this.heal().catch(async (error: unknown) => {
      // It may be known why.
      this.#judgeReigns(await this.#life.recorded());
      throw error;
    });
    const healed = performance.now();
    await this.#judge(primary);
    const seconds = [acted - begun, healed - acted, performance.now() - healed].map((ms) => (ms / 1000).toFixed(1));
    this.#say(
      `${this.#totals.histories}: ${primary.name}, ${this.#life.written.length} entries, ${this.#inForks.size} in forks; ${seconds.join(" + ")} s`,
    );
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
  async heal(): Promise<ClusterNode> {
    const life = this.#life;
    for (const link of life.links.values()) link.state = "up";
    for (const node of life.nodes.values()) if (!node.running) await node.start();
    await Promise.all(this.#begun.splice(0));
    life.setQuiet(true);
    let seen: Record<string, string> = {};
    return await until(
      async () => {
        const healed = await this.#healed();
        if (healed !== undefined) return healed;
        const states = await this.#states();
        seen = Object.fromEntries(states.map(([name, group]) => [name, describeGroup(group)]));
        for (const [name, group] of states) await this.#helpAlong(name, group);
        return false;
      },
      deadlineMs,
      () => `healed: ${JSON.stringify(seen, undefined, 1)}`,
      lookMs,
    );
  }

  /** The primary, where everything is right. */
  async #healed(): Promise<ClusterNode | undefined> {
    const nodes = [...this.#life.nodes.values()];
    // What costs an agent little is asked first.
    const roles = await Promise.all(
      nodes.map(async (node) => ({ node, is: await node.control.isPrimary("app").catch(() => undefined) })),
    );
    const primaries = roles.filter(({ is }) => is?.role === "primary");
    const replicas = roles.filter(({ is }) => is?.role === "replica").map(({ node }) => node.name);
    const [primary] = primaries;
    if (primaries.length !== 1 || replicas.length !== names.length - 1 || primary?.is?.primary !== true)
      return undefined;
    try {
      // Everything that was written until now is on all nodes, whatever they had in common before.
      await primary.node.control.wait("app", { timeoutMs: waitMs, replicas });
    } catch {
      return undefined; // It is no primary any more, or somebody is not there yet: it is looked at again.
    }
    const states = await this.#states();
    if (states.some(([, group]) => group === undefined || group.switchover !== undefined)) return undefined;
    const digests = new Set(states.map(([, group]) => `${group?.cut?.epoch}.${group?.cut?.seq} ${group?.cut?.digest}`));
    return digests.size === 1 ? primary.node : undefined;
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

  /** From outside: what every node has now, what was lost and why, who was primary and in service when. */
  async #judge(primary: ClusterNode): Promise<void> {
    const life = this.#life;
    const nodes = [...life.nodes.values()];
    const answers = await Promise.all(nodes.map((node) => answered(async () => await node.control.isPrimary("app"))));
    const claims = nodes.filter((_, index) => answers[index]?.primary === true).map(({ name }) => name);
    if (claims.join() !== primary.name)
      throw new Error(`${primary.name} was healed, primary is ${claims.join()}: ${JSON.stringify(answers)}`);
    const scratch = await mkdtemp(join(life.directory, "judge-"));
    try {
      const final = await contentsInUse(primary);
      await this.#judgeCopies(primary, final, scratch);
      const forks: KeptFork[] = [];
      for (const node of nodes) forks.push(...(await answered(async () => await forksOf(node, scratch))));
      const recorded = await life.recorded();
      const epoch = Math.max(...answers.map((answer) => answer.epoch));
      this.#judgeLoss(final.ids, forks, recorded, epoch);
      this.#judgeReigns(recorded);
      this.#settledEpoch = epoch;
    } finally {
      await rm(scratch, { recursive: true });
    }
  }

  /** Equal digests are what the nodes say: an application finds the same on each of them. */
  async #judgeCopies(primary: ClusterNode, final: Contents, scratch: string): Promise<void> {
    for (const node of this.#life.nodes.values()) {
      if (node === primary) continue;
      let differs = "";
      // What is durable on a replica is in its copy a moment later.
      await until(
        async () => {
          try {
            // A reading that does not come to its end was met once, with all agents well: it is read again, until the deadline.
            const late = sleep(readMsMax, undefined, { ref: false }).then((): never => {
              throw new Error(`it was not read within ${readMsMax} ms`);
            });
            differs = difference(final, await Promise.race([contentsOfCopy(node, scratch), late]));
          } catch (error) {
            differs = explain(error); // It was read while it was being written.
          }
          return differs === "";
        },
        deadlineMs,
        () => `${node.name} has what ${primary.name} has; it differs in ${differs}`,
      );
    }
  }

  /** Nothing is lost but what was stated to be, all of that is, and it is in a fork of the node that had it. */
  #judgeLoss(final: ReadonlySet<string>, forks: readonly KeptFork[], { begun, taken }: Recorded, epoch: number): void {
    const { written } = this.#life;
    for (const { epoch: of, from } of begun) {
      const stated = this.#stated.get(of);
      if (stated !== undefined && from !== undefined && cutRefText(stated) !== cutRefText(from))
        throw new Error(`epoch ${of} begins after ${cutRefText(from)}, the promotion said ${cutRefText(stated)}`);
    }
    const kept = lineage(begun, epoch, this.#settledEpoch);
    const known = new Set(written.map(({ id }) => id));
    const invented = [...final].filter((id) => !known.has(id));
    if (invented.length > 0) throw new Error(`nobody wrote ${some(invented)}`);
    this.#totals.forks += forks.length;
    for (const { fork, ids } of forks) {
      this.#isAsStated(fork, ids, final, kept);
      for (const id of ids) this.#inForks.set(id, (this.#inForks.get(id) ?? new Set()).add(fork.node));
    }
    const missing = written.filter(({ id }) => !final.has(id));
    const nowhere = missing.filter(({ id, node }) => this.#inForks.get(id)?.has(node) !== true);
    if (nowhere.length > 0) throw new Error(`gone, and in no fork of its node: ${some(nowhere.map(({ id }) => id))}`);
    const broken = missing.filter(({ id }) => this.#acknowledged.has(id));
    if (broken.length > 0) throw new Error(`was durable everywhere and is gone: ${some(broken.map(({ id }) => id))}`);
    const wrong = wrongly(written, final, kept, taken);
    if (wrong.length > 0) throw new Error(`not what was stated is lost: ${some(wrong)}`);
    const cuts = new Set(taken.map(cutRefText));
    this.#totals.exact += kept.filter(({ upTo }) => upTo !== undefined && cuts.has(cutRefText(upTo))).length;
    this.#totals.lost = missing.length;
    for (const id of final) this.#acknowledged.add(id);
  }

  /**
   * What a fork begins after is what its promotion said it went on from, or an earlier one where the node never had that; and what only
   * the fork has is all that was written last there, and nothing before that.
   */
  #isAsStated(fork: ForkDescription, ids: readonly string[], final: ReadonlySet<string>, kept: readonly Kept[]): void {
    const { name, common, promotion } = fork;
    const stated = this.#stated.get(promotion.epoch);
    if (stated !== undefined && stated.epoch === common.epoch && common.seq > lastInCommon(fork, stated))
      throw new Error(`fork ${name} begins after ${cutRefText(common)}, the promotion said ${cutRefText(stated)}`);
    // Where that promotion was given up itself, what was common is a fork in its turn.
    if (!kept.some(({ epoch }) => epoch === promotion.epoch)) return;
    const firstLost = ids.findIndex((id) => !final.has(id));
    const after = firstLost < 0 ? [] : ids.slice(firstLost).filter((id) => final.has(id));
    if (after.length > 0)
      throw new Error(`fork ${name}: ${ids[firstLost]} is gone, and written after it but there is ${some(after)}`);
  }

  #judgeReigns({ intervals, begun, contacts, fenced }: Recorded): void {
    const twice = epochsOfTwo(this.#life.records);
    if (twice.length > 0) throw new Error(`cuts of one epoch on two nodes: ${twice.join("; ")}`);
    const beside = overlaps(intervals, this.#permissions, begun);
    if (beside.length > 0) throw new Error(`two services at once: ${beside.join("; ")}`);
    for (const { node, from, to } of runOn(intervals, contacts, fenced)) {
      const ms = this.#metronome.judged(from, to);
      this.#totals.stoppedAfterMs = Math.max(this.#totals.stoppedAfterMs, ms);
      if (ms > stopMsMax)
        throw new Error(`the service of ${node} ran until ${timeText(to)}, it met a higher epoch at ${timeText(from)}`);
    }
  }
}

/** A machine that stands still for some seconds is asked again. */
async function answered<T>(ask: () => Promise<T>): Promise<T> {
  let silence: unknown;
  const { answer } = await until(
    async () => {
      try {
        return { answer: await ask() };
      } catch (error) {
        if (!(error instanceof ControlTimedOut)) throw error;
        silence = error;
        return undefined;
      }
    },
    deadlineMs,
    () => explain(silence),
  );
  return answer;
}

/** Until it is over, or in doubt, or the other one is primary: whether the service runs there is looked at there. */
async function switched(control: ControlHandler, to: string): Promise<void> {
  let progress = await control.switchover("app", { to, accept: [] });
  while (progress.outcome === null && !progress.steps.some(({ step }) => step === "demoted"))
    progress = await control.switchoverProgress("app", progress.next);
  if (progress.outcome !== null && progress.outcome !== "done")
    throw new Error(`${progress.outcome}: ${progress.reason}`);
}

/** The first of them: a message is read where little is shown. */
function some(found: readonly string[]): string {
  const shown = found.slice(0, 4).join(", ");
  return found.length > 4 ? `${shown} and ${found.length - 4} more` : shown;
}

function describeGroup(group: GroupStatus | undefined): string {
  if (group === undefined) return "no answer";
  const peers = Object.entries(group.peers).map(([name, peer]) => `${name} ${peer.state} ${peer.reason}`);
  const cut = group.cut === null ? "none" : `${group.cut.epoch}.${group.cut.seq} ${group.cut.digest.slice(0, 8)}`;
  return `${group.role} epoch ${group.epoch}, cut ${cut}, ${group.halted?.message ?? ""} [${peers.join(", ")}]`;
}
