import { open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { cutRefText } from "../../deploy/control/api.ts";
import type { CutRef } from "../../deploy/control/json-names.ts";
import { auditCopy, type CopyAudit, isWhole } from "../../deploy/demo/application/audit-copy.ts";
import { Confirmations } from "../../deploy/demo/application/confirmations.ts";
import { coveredUpTo } from "../../deploy/demo/application/documents.ts";
import { startWriter } from "../../deploy/demo/application/start-application.ts";
import type { Child } from "../../deploy/demo/child-process.ts";
import {
  applicationData,
  applicationYaml,
  type Cluster,
  type ClusterNode,
  promote,
  startCluster,
  until,
} from "../end-to-end/harness.ts";
import { OutsideRecorder, PromiseBroken, type Promised, precedes } from "./outside-recorder.ts";
import { seededRandom } from "./seeded-random.ts";

/**
 * Kills agents with SIGKILL at random instants under an application that goes on writing, and holds them to their word.
 * A life is a cluster from its birth to the promotion of its replica; each life has some rounds, in each of them the
 * primary's agent, the replica's or both are killed and started again.
 */
export interface KillRoundsOptions {
  readonly rounds: number;
  readonly seed: number;
  readonly roundsPerLife: number;
  /** A recovery point is restored and checked in every so-many-th round. */
  readonly restoreEvery: number;
  /** How long an agent is stopped and looked at, until it stands at a stage at which few died so far. */
  readonly aimMs: number;
  /** Ends after the round in which the time is over, whatever `rounds` says. */
  readonly endsAt?: number;
  readonly say: (line: string) => void;
}

export interface KillRounds {
  rounds: number;
  promotions: number;
  promotionsKilled: number;
  restores: number;
  waits: number;
  /** How often who was killed at which step. */
  readonly histogram: Map<string, number>;
}

const deadlineMs = 30_000;
const rates = { commitsPerSecond: 40, stepsPerSecond: 25 };

export async function killRounds(options: KillRoundsOptions): Promise<KillRounds> {
  const random = seededRandom(options.seed);
  const totals: KillRounds = {
    rounds: 0,
    promotions: 0,
    promotionsKilled: 0,
    restores: 0,
    waits: 0,
    histogram: new Map(),
  };
  const goesOn = (): boolean =>
    totals.rounds < options.rounds && performance.now() < (options.endsAt ?? Number.POSITIVE_INFINITY);
  while (goesOn()) {
    await using life = await Life.begin(options, random, totals);
    for (let round = 0; round < options.roundsPerLife && goesOn(); round++) {
      totals.rounds++;
      await life.round();
      if (totals.rounds % options.restoreEvery === 0) await life.restore();
    }
    await life.end();
    totals.waits += life.recorder.waits;
  }
  return totals;
}

type Victim = "alpha" | "bravo";

/** The data's way: what the workers say they are about to do. */
const primaryStages = ["alpha wait", "alpha snapshot", "alpha plan", "alpha record", "alpha ship"];
const replicaStages = [
  "bravo wait",
  "bravo receive",
  "bravo commit",
  "bravo acknowledge",
  "bravo apply",
  "bravo write copy",
];
const recoverStage = "bravo recover";
const promoteStage = "bravo promote";
export const pipeline = [...primaryStages, ...replicaStages, recoverStage, promoteStage];

/** The stage to which a step belongs: `bravo commit: sync` is in `bravo commit`. */
function stageOf(step: string): string {
  if (step.startsWith("alpha") && step.includes("catalog cut")) return "alpha record";
  if (step.startsWith("alpha ship")) return "alpha ship";
  return step.replace(/:.*/, "");
}

function victimOf(stage: string): Victim {
  return stage.startsWith("alpha") ? "alpha" : "bravo";
}

export function stageHits({ histogram }: Pick<KillRounds, "histogram">): Map<string, number> {
  const hits = new Map(pipeline.map((stage) => [stage, 0]));
  for (const [step, count] of histogram) hits.set(stageOf(step), (hits.get(stageOf(step)) ?? 0) + count);
  return hits;
}

class Life implements AsyncDisposable {
  readonly cluster: Cluster;
  readonly recorder: OutsideRecorder;
  readonly #writer: Child;
  readonly #confirmations: Confirmations;
  readonly #options: KillRoundsOptions;
  readonly #random: () => number;
  readonly #totals: KillRounds;
  readonly #resources: AsyncDisposableStack;

  constructor(
    parts: { cluster: Cluster; recorder: OutsideRecorder; writer: Child; confirmations: Confirmations },
    options: KillRoundsOptions,
    random: () => number,
    totals: KillRounds,
    resources: AsyncDisposableStack,
  ) {
    this.cluster = parts.cluster;
    this.recorder = parts.recorder;
    this.#writer = parts.writer;
    this.#confirmations = parts.confirmations;
    this.#options = options;
    this.#random = random;
    this.#totals = totals;
    this.#resources = resources;
  }

  static async begin(options: KillRoundsOptions, random: () => number, totals: KillRounds): Promise<Life> {
    await using resources = new AsyncDisposableStack();
    const cluster = resources.use(
      await startCluster({
        groupYaml: (paths) => applicationYaml(paths, { more: "    retention: { keep: { all: 5m } }\n" }),
        start: [],
      }),
    );
    const confirmations = new Confirmations();
    const writer = resources.use(startWriter(applicationData(cluster.node("alpha")), rates));
    writer.process.stdout?.setEncoding("utf8").on("data", (text: string) => confirmations.add(text));
    await until(
      () => confirmations.commits.last > 0 && confirmations.steps.last > 0,
      deadlineMs,
      "the application works",
    );
    for (const node of cluster.nodes.values()) await startTraced(node);
    const recorder = resources.use(new OutsideRecorder(cluster, confirmations));
    const life = new Life({ cluster, recorder, writer, confirmations }, options, random, totals, resources.move());
    return life;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources.disposeAsync();
  }

  /** One kill and one restart: the replica comes back with what it had promised, and follows again. */
  async round(): Promise<void> {
    await this.#following();
    await sleep(this.#random() * 250);
    const aim = this.#aim([...primaryStages, ...replicaStages, recoverStage]);
    const chosen: Victim = aim !== undefined ? victimOf(aim) : this.#random() < 0.5 ? "bravo" : "alpha";
    const victims: Victim[] = this.#random() < 0.1 ? ["alpha", "bravo"] : [chosen];
    const steps = await this.#kill(victims, aim === recoverStage ? undefined : aim);
    if (aim === recoverStage) {
      await startTraced(this.cluster.node("bravo"));
      steps.push(...(await this.#kill(["bravo"], aim)));
    }
    const promised = this.recorder.promised();
    this.#options.say(
      `round ${this.#totals.rounds}: killed ${steps.join(" and ")}; durable ${cutRefText(promised.durable)}, waited for commit ${promised.commits} and step ${promised.steps}`,
    );
    for (const victim of victims) await startTraced(this.cluster.node(victim));
    const { cut } = await this.cluster.node("bravo").until((group) => group.role === "replica", deadlineMs);
    keeps(cut ?? { epoch: 0, seq: 0 }, promised, "the replica started again");
  }

  /** A recovery point that is promised holds what was promised with it. */
  async restore(): Promise<void> {
    await this.#following();
    const bravo = this.cluster.node("bravo");
    const before = this.recorder.promised();
    // The promise may be of a cut that is durable and not yet in the copy: a point is what was applied.
    const newest = await until(
      async () => (await bravo.control.points("app")).points.find((point) => !precedes(point, before.durable)),
      deadlineMs,
      `a recovery point at or after ${cutRefText(before.durable)}`,
    );
    const { points } = await bravo.control.points("app");
    const chosen = this.#random() < 0.5 ? newest : points[Math.floor(this.#random() * points.length)]!;
    const to = join(this.cluster.directory, `restored-${this.#totals.rounds}`);
    await bravo.control.restore("app", { at: { cut: { epoch: chosen.epoch, seq: chosen.seq } }, to });
    const file = applicationData(bravo).database.slice(bravo.dataDirectory.length + 1);
    const found = auditCopy(join(to, "ledger", file), join(to, "files"));
    const least = precedes(chosen, before.durable) ? undefined : before;
    this.#judge(found, least, `the restored point ${cutRefText(chosen)}`);
    this.#totals.restores++;
  }

  /** The primary and the application die for good; the replica, sometimes killed too, is promoted. */
  async end(): Promise<void> {
    await this.#following();
    await sleep(this.#random() * 250);
    const [alpha, bravo] = [this.cluster.node("alpha"), this.cluster.node("bravo")];
    const both = this.#random() < 0.5;
    const steps = await this.#kill(both ? ["alpha", "bravo"] : ["alpha"], undefined, () => this.#writer.kill9());
    await this.#writer.ended;
    const promised = this.recorder.promised();
    if (both) await startTraced(bravo);
    await bravo.until((group) => group.role === "replica", deadlineMs);
    const promoted = await this.#promote(bravo);
    keeps(promoted, promised, "the replica was promoted");
    const data = applicationData(bravo);
    this.#judge(auditCopy(data.database, data.files), promised, "the promoted copy");
    this.#totals.promotions++;
    this.#options.say(`killed ${steps.join(" and ")} for good; promoted bravo from ${cutRefText(promoted)}`);
    await alpha.kill9();
  }

  /** Each second promotion is killed at some instant: it is either none, or done. */
  async #promote(bravo: ClusterNode): Promise<CutRef> {
    if (this.#random() < 0.4) return (await promote(bravo, "app", deadlineMs)).cut;
    const begun = promote(bravo, "app", deadlineMs).catch(() => undefined);
    await this.#kill(["bravo"], promoteStage);
    await begun;
    await startTraced(bravo);
    this.#totals.promotionsKilled++;
    const group = await bravo.until(({ role }) => role === "replica" || role === "primary", deadlineMs);
    if (group.role === "replica") return (await promote(bravo, "app", deadlineMs)).cut;
    return group.cut ?? { epoch: 0, seq: 0 };
  }

  async #following(): Promise<void> {
    const [alpha, bravo] = [this.cluster.node("alpha"), this.cluster.node("bravo")];
    await bravo.until((group) => group.role === "replica" && group.cut !== null, deadlineMs);
    await alpha.until((group) => group.peers.bravo?.state === "streaming", deadlineMs);
    this.recorder.promised();
  }

  /** Kills all of them at once, at an instant that chance or the aim chooses. Gives where each died. */
  async #kill(
    victims: readonly Victim[],
    aim: string | undefined,
    also: () => void = () => undefined,
  ): Promise<string[]> {
    const aimed = aim === undefined ? undefined : this.cluster.node(victimOf(aim));
    if (aim !== undefined && aimed !== undefined) await this.#stopAt(aimed, aim);
    also();
    await Promise.all(victims.map(async (victim) => await this.cluster.node(victim).kill9()));
    const { histogram } = this.#totals;
    const steps: string[] = [];
    for (const victim of victims) {
      const step = await stepOf(this.cluster.node(victim));
      histogram.set(step, (histogram.get(step) ?? 0) + 1);
      steps.push(step);
    }
    return steps;
  }

  /** Stops the agent again and again, looks where it stands, and lets it go on until it stands where it is wanted. */
  async #stopAt(node: ClusterNode, aim: string): Promise<void> {
    // One that starts is let alone until its worker runs: being stopped all the time it would take for ever.
    await until(
      async () => stageOf(await stepOf(node)) !== `${node.name} ${notYet}`,
      deadlineMs,
      `${node.name} runs`,
      1,
    );
    const end = performance.now() + this.#options.aimMs;
    for (;;) {
      node.signal("SIGSTOP");
      await stopped(node.pid);
      if (performance.now() > end || stageOf(await stepOf(node)) === aim) return;
      node.signal("SIGCONT");
      await sleep(this.#random() * 4);
    }
  }

  /** The stage at which the fewest died so far, now and then; chance decides the other half. */
  #aim(among: readonly string[]): string | undefined {
    if (this.#random() < 0.4) return undefined;
    const hits = stageHits(this.#totals);
    const least = Math.min(...among.map((stage) => hits.get(stage) ?? 0));
    const rare = among.filter((stage) => (hits.get(stage) ?? 0) === least);
    return rare[Math.floor(this.#random() * rare.length)];
  }

  #judge(found: CopyAudit, promised: Promised | undefined, what: string): void {
    const { ledger, files } = found;
    const confirmed = { commits: this.#confirmations.commits.last, steps: this.#confirmations.steps.last };
    if (!isWhole(found)) throw new PromiseBroken(`${what} is torn: ${JSON.stringify({ ledger, torn: files.torn })}`);
    // One of each may be done and not yet confirmed.
    const ahead = Math.max(0, ...files.standing.values());
    if (ledger.last > confirmed.commits + 1 || ahead > confirmed.steps + 1)
      throw new PromiseBroken(`${what} has what never was`);
    if (promised === undefined) return;
    if (ledger.last < promised.commits)
      throw new PromiseBroken(`${what} ends at commit ${ledger.last}, ${promised.commits} was waited for`);
    const covered = coveredUpTo(files, confirmed.steps);
    if (covered < promised.steps)
      throw new PromiseBroken(`${what} has the files up to step ${covered}, ${promised.steps} was waited for`);
  }
}

function keeps(cut: CutRef, { durable }: Promised, what: string): void {
  if (precedes(cut, durable))
    throw new PromiseBroken(`${what} with cut ${cutRefText(cut)}, and ${cutRefText(durable)} was durable`);
}

function stepFile(node: ClusterNode): string {
  return join(node.dataDirectory, "..", "step");
}

async function startTraced(node: ClusterNode): Promise<void> {
  // Not what the one before was about to do when it died.
  await writeFile(stepFile(node), notYet.padEnd(64));
  await node.start({ environment: { UNDERSTUDY_STEP_FILE: stepFile(node) } });
}

const notYet = "start";

/** Who is where, as `replica commit: sync`. */
async function stepOf(node: ClusterNode): Promise<string> {
  await using file = await open(stepFile(node), "r");
  const { buffer, bytesRead } = await file.read(Buffer.alloc(64), 0, 64, 0);
  return `${node.name} ${buffer.toString("latin1", 0, bytesRead).trim()}`;
}

/** A signal is delivered, not obeyed, when kill returns. */
async function stopped(pid: number): Promise<void> {
  await until(
    async () => {
      await using file = await open(`/proc/${pid}/stat`, "r");
      const text = (await file.readFile("latin1")).toString();
      return text.slice(text.lastIndexOf(")") + 2).startsWith("T");
    },
    5000,
    `process ${pid} stands still`,
    1,
  );
}

/** Each stage with its steps below it. */
export function histogramText(totals: Pick<KillRounds, "histogram">): string {
  const steps = [...totals.histogram].toSorted();
  const line = (hits: number, name: string): string => `${String(hits).padStart(6)}  ${name}`;
  return [...stageHits(totals)]
    .flatMap(([stage, hits]) => [
      line(hits, stage),
      ...steps
        .filter(([step]) => step !== stage && stageOf(step) === stage)
        .map(([step, count]) => line(count, `    ${step}`)),
    ])
    .join("\n");
}
