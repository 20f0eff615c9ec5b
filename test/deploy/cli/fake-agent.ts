import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, Writable } from "node:stream";
import type { Terminal } from "../../../deploy/cli/terminal.ts";
import type {
  AgentStatus,
  ControlHandler,
  GroupStatus,
  PeerStatus,
  SwitchoverPlan,
  SwitchoverProgress,
} from "../../../deploy/control/api.ts";
import type { ForkDescription } from "../../../deploy/control/fork-answers.ts";
import type { HaAnswer } from "../../../deploy/control/ha-api.ts";
import { serveControl } from "../../../deploy/control/server.ts";
import { controlSocketPath } from "../../../deploy/control/state-layout.ts";

export const peerStreaming: PeerStatus = {
  state: "streaming",
  reason: "",
  lag: { bytes: 0, cuts: 0, seconds: 0.1, basis: "log" },
  received: { epoch: 1, seq: 42 },
  durable: { epoch: 1, seq: 42 },
  applied: { epoch: 1, seq: 41 },
  rpo: { seconds: 5, broken: false },
};

export const replicaGroup: GroupStatus = {
  id: "00112233445566778899aabbccddeeff",
  role: "replica",
  epoch: 1,
  cut: { epoch: 1, seq: 42, takenAt: "2026-11-21T09:00:00.000Z", coherency: "independent", digest: "ab".repeat(32) },
  peers: { alpha: peerStreaming },
  promotable: {
    ok: true,
    why: [],
    loss: { bytes: 4096, cuts: 1, seconds: 0.1, basis: "log" },
    rtoEstimateSeconds: 0.3,
  },
  durability: { mode: "async", replicas: null, timeoutSeconds: null, degraded: null, degradedSince: null },
  takeover: {
    node: "bravo",
    ok: true,
    why: "",
    loss: { bytes: 4096, cuts: 1, seconds: 0.1, basis: "log" },
    rtoEstimateSeconds: 0.3,
    verified: { at: "2026-11-21T02:10:00.000Z", ok: true },
    forks: 0,
  },
  stores: {
    db: {
      kind: "sqlite",
      path: "/srv/db",
      position: "salt 1 frame 7",
      consistency: "transactional",
      bytes: 8192,
      files: 1,
      behind: 0,
    },
    up: {
      kind: "files",
      path: "/srv/up",
      position: "",
      consistency: "whole",
      bytes: 3 * 2 ** 20,
      files: 12,
      behind: 2,
    },
  },
  waitingFor: [],
  paused: null,
  service: {
    running: false,
    why: {
      code: "NOT_PRIMARY",
      message: "this node is replica",
      hint: "Ask the node that is primary.",
      flag: null,
    },
  },
  halted: null,
  history: { points: 3, bytes: 4096, oldestAt: "2026-11-21T08:00:00.000Z" },
  forks: { count: 0, names: [] },
};

export const forkDescription: ForkDescription = {
  name: "app-1.44-20261121T090000",
  group: "app",
  node: "alpha",
  madeAt: "2026-11-21T10:00:00.000Z",
  common: { epoch: 1, seq: 42 },
  last: { epoch: 1, seq: 44, takenAt: "2026-11-21T09:00:00.000Z" },
  epochs: [{ epoch: 1, firstSeq: 1 }],
  promotion: { node: "bravo", epoch: 2 },
  counts: { created: 1, changed: 1, removed: 1, files: 2, bytes: 8200 },
};

export const inService: GroupStatus["service"] = { running: true, why: null };

export function statusWith(groups: Record<string, GroupStatus>): AgentStatus {
  return { schema: 1, node: "bravo", software: "0.1.0", startedAt: "2026-11-21T07:00:00.000Z", groups };
}

/** Answers what it is given and remembers what it was asked. */
export class FakeAgent implements ControlHandler {
  readonly calls: unknown[] = [];
  current: AgentStatus = statusWith({ app: replicaGroup });
  failure: Error | undefined;
  equal = true;
  /** Never answers `wait` by itself; aborted when the caller goes. */
  waited = Promise.withResolvers<unknown>();
  hang = false;
  degraded = false;

  async #called<T>(call: unknown[], answer: T): Promise<T> {
    this.calls.push(call);
    if (this.failure) throw this.failure;
    return answer;
  }

  status = async () => this.current;
  metrics = async () => "understudy_cuts_total 1\n";
  isPrimary = async (group: string) => {
    const { role, epoch, service } = this.current.groups[group]!;
    return this.#called(["isPrimary", group], { primary: service.running, role, epoch, why: service.why });
  };
  cut: ControlHandler["cut"] = (group, options) =>
    this.#called(["cut", group, options], { cut: replicaGroup.cut!, stores: { db: "transactional", up: "whole" } });
  wait: ControlHandler["wait"] = async (group, options, signal) => {
    if (this.hang) {
      signal?.addEventListener("abort", () => this.waited.resolve(signal.reason));
      await this.waited.promise;
    }
    return this.#called(["wait", group, options], {
      cut: { epoch: 1, seq: 43 },
      replicas: { alpha: { epoch: 1, seq: 44 } },
      degraded: this.degraded,
      seconds: 0.004,
    });
  };
  points: ControlHandler["points"] = (group) =>
    this.#called(["points", group], {
      group,
      points: [
        {
          epoch: 1,
          seq: 42,
          takenAt: "2026-11-21T09:00:00.000Z",
          coherency: "independent",
          stores: { db: "transactional" },
        },
      ],
    });
  restore: ControlHandler["restore"] = (group, options) =>
    this.#called(["restore", group, options], {
      cut: { epoch: 1, seq: 40, takenAt: "2026-11-21T08:59:00.000Z" },
      to: options.to,
      files: 1,
      bytes: 8192,
    });
  verify: ControlHandler["verify"] = (group, { quick }) =>
    this.#called(["verify", group, { quick }], {
      ok: this.equal,
      cut: { epoch: 1, seq: 42 },
      quick,
      files: 13,
      bytes: 8192,
      seconds: 1.5,
      differences: this.equal ? [] : [{ store: "up", path: "a\nb", what: "content" }],
      differencesTotal: this.equal ? 0 : 2,
    });
  /** It was primary before. */
  reinstated = false;
  promote: ControlHandler["promote"] = (group, options) =>
    this.#called(["promote", group, options], {
      epoch: 2,
      cut: { epoch: 1, seq: 42 },
      loss: { bytes: 0, cuts: 0, seconds: 0, basis: "log" },
      reinstated: this.reinstated,
      seconds: 0.25,
    });
  abortPromotion: ControlHandler["abortPromotion"] = (group) =>
    this.#called(["abortPromotion", group], { role: "replica", epoch: 1 });
  plan: SwitchoverPlan = {
    from: "alpha",
    to: "bravo",
    steps: [
      { text: "stop the service on alpha", ms: 800 },
      { text: "start the service on bravo", ms: null },
    ],
    pauseMs: null,
    roundTripMs: 0.4,
    obstacles: [],
  };
  /** What each question after the first is answered with, one after the other. */
  progress: Partial<SwitchoverProgress>[] = [{ outcome: "done" }];
  #told: SwitchoverProgress = {
    id: "0011223344556677",
    from: "alpha",
    to: "bravo",
    steps: [],
    next: 0,
    outcome: null,
    reason: "",
    hint: "",
    pauseMs: null,
  };
  planSwitchover: ControlHandler["planSwitchover"] = (group, options) =>
    this.#called(["planSwitchover", group, options], this.plan);
  switchover: ControlHandler["switchover"] = (group, options) =>
    this.#called(["switchover", group, options], { ...this.#told, ...this.progress.shift() });
  switchoverProgress: ControlHandler["switchoverProgress"] = (group, after) =>
    this.#called(["switchoverProgress", group, after], { ...this.#told, next: after, ...this.progress.shift() });
  scheduleSwitchover: ControlHandler["scheduleSwitchover"] = (group, options, at) =>
    this.#called(["scheduleSwitchover", group, options, at], { to: options.to, at, by: options.by ?? "" });
  /** How a switchover that is aborted has ended; null: not yet. */
  aborted: SwitchoverProgress["outcome"] = "rolled-back";
  abortSwitchover: ControlHandler["abortSwitchover"] = (group, options) =>
    this.#called(["abortSwitchover", group, options], {
      cancelled: { to: "bravo", at: "2026-11-22T02:30:00.000Z", by: "root" },
      ended: { ...this.#told, outcome: this.aborted, reason: this.aborted === null ? "" : "it was aborted" },
    });
  form: ControlHandler["form"] = (group, options) =>
    this.#called(["form", group, options], { role: "primary", epoch: 1 });
  pause: ControlHandler["pause"] = (group, { by, ...parts }) =>
    this.#called(["pause", group, parts], { paused: { ...parts, by, since: "2026-11-21T09:00:00.000Z" } });
  resume: ControlHandler["resume"] = (group, { by: _, ...parts }) =>
    this.#called(["resume", group, parts], { paused: null });
  confirm: ControlHandler["confirm"] = (group, options) =>
    this.#called(["confirm", group, options], { role: "primary", epoch: 1 });
  ha: ControlHandler["ha"] = (group, request) => this.#called(["ha", group, request], haAnswer);
  adopt: ControlHandler["adopt"] = (group, caller) =>
    this.#called(["adopt", group, caller], { role: "replica", epoch: 1 });
  rejoin: ControlHandler["rejoin"] = (group, caller) =>
    this.#called(["rejoin", group, caller], { peer: "bravo", cut: forkDescription.common, fork: forkDescription });
  forks = () => this.#called(["forks"], { forks: [forkDescription], damaged: [] });
  showFork: ControlHandler["showFork"] = (name) =>
    this.#called(["showFork", name], {
      fork: forkDescription,
      paths: [
        { store: "db", path: "app.db", what: "changed", type: "file", size: 8192, content: "whole" },
        { store: "up", path: "a\nb", what: "created", type: "file", size: 8, content: "whole" },
      ],
    });
  exportFork: ControlHandler["exportFork"] = (name, { to }) =>
    this.#called(["exportFork", name, to], { name, to, files: 2, bytes: 8200, metadataPartial: 0 });
  dropFork: ControlHandler["dropFork"] = (name, caller) =>
    this.#called(["dropFork", name, caller], { name, fork: forkDescription });
}

const haAnswer: HaAnswer = {
  schema: 1,
  group: "app",
  node: "alpha",
  role: "replica",
  inService: false,
  epoch: 1,
  cut: "1.42",
  seal: "",
  vote: "1#42",
  claim: "keep",
  why: "",
  decision: "",
  granted: 0,
  giveWayTo: "",
  giveWayMark: "",
  seconds: 0,
  members: [],
};

/** A state directory with the agent's socket in it. */
export async function serveFake(agent: ControlHandler) {
  const state = await mkdtemp(join(tmpdir(), "us-cli-"));
  const server = await serveControl(controlSocketPath(state), agent);
  return {
    state,
    stop: () => server[Symbol.asyncDispose](),
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      await rm(state, { recursive: true });
    },
  };
}

/** A terminal that keeps what is written; `answer` is typed where somebody is asked. */
export function fakeTerminal(options: { answer?: string; environment?: NodeJS.ProcessEnv; signal?: AbortSignal } = {}) {
  const written = { out: "", err: "" };
  const keep = (where: "out" | "err") =>
    new Writable({
      write(chunk, _encoding, done) {
        written[where] += String(chunk);
        done();
      },
    });
  const input = new PassThrough();
  if (options.answer !== undefined) input.end(`${options.answer}\n`);
  const terminal: Terminal = {
    out: keep("out"),
    err: keep("err"),
    input,
    interactive: options.answer !== undefined,
    environment: options.environment ?? {},
    signal: options.signal ?? new AbortController().signal,
  };
  return { terminal, written };
}
