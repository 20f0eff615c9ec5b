import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { AgentStatus, ControlHandler, GroupStatus } from "../../deploy/control/api.ts";
import { connectControl } from "../../deploy/control/client.ts";
import { controlSocketPath, identityDirectory } from "../../deploy/control/state-layout.ts";
import { ensureIdentity } from "../../shared/link/identity.ts";
import { nodePorts } from "../end-to-end/node-ports.ts";
import { childrenOf, procNumber, until } from "./scratch.ts";

/** What is run: the checkout's program, or the bundle that is installed, once it was made. */
export const agentProgram = { path: fileURLToPath(new URL("../../deploy/understudy", import.meta.url)) };
/** The bundle takes the Node that it finds. */
export const agentEnvironment = { ...process.env, PATH: `${dirname(process.execPath)}:${process.env.PATH}` };

const sampleMs = 100;
const linesKept = 30;
const ticksPerSecond = 100;

/** One line of an agent's log, with the monotonic time at which it was read here. */
export interface LogLine {
  readonly event: string;
  readonly atMs: number;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** An agent as a process of its own, as an operator runs it; what it logs and what it costs. */
export class Agent {
  readonly name: string;
  readonly state: string;
  readonly process: ChildProcess;
  readonly control: ControlHandler;
  readonly #listeners = new Set<(line: LogLine) => void>();
  readonly #last: string[] = [];
  readonly #peakKiB = new Map<number, number>();
  readonly #timer: NodeJS.Timeout;

  constructor(name: string, state: string, config: string) {
    this.name = name;
    this.state = state;
    const options = ["run", "-c", config, "--node", name, "--state", state, "--log", "debug"];
    this.process = spawn(agentProgram.path, options, { stdio: ["ignore", "ignore", "pipe"], env: agentEnvironment });
    this.control = connectControl(controlSocketPath(state));
    let rest = "";
    this.process.stderr!.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) this.#hear(line);
    });
    this.#timer = setInterval(() => this.#sample(), sampleMs);
  }

  get pid(): number {
    const { pid } = this.process;
    if (pid === undefined) throw new Error(`agent ${this.name} did not start`);
    return pid;
  }

  onLog(listen: (line: LogLine) => void): () => void {
    this.#listeners.add(listen);
    return () => this.#listeners.delete(listen);
  }

  /** The next line with this event that fits. */
  async event(event: string, limitMs: number, fits: (line: LogLine) => boolean = () => true): Promise<LogLine> {
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        stop();
        reject(new Error(`agent ${this.name}: no ${event} within ${limitMs} ms; it said last:\n${this.lastLines()}`));
      }, limitMs);
      const stop = this.onLog((line) => {
        if (line.event !== event || !fits(line)) return;
        clearTimeout(timer);
        stop();
        resolve(line);
      });
    });
  }

  lastLines(): string {
    return this.#last.join("\n");
  }

  async group(): Promise<GroupStatus> {
    const status: AgentStatus = await this.control.status();
    const group = status.groups.app;
    if (group === undefined) throw new Error(`agent ${this.name} has no group app`);
    return group;
  }

  async ready(): Promise<void> {
    await until(`agent ${this.name} answers`, () => this.#answers(), 20_000);
    // What the launcher itself had started is gone.
    this.#peakKiB.clear();
  }

  async #answers(): Promise<boolean> {
    if (this.process.exitCode !== null) throw new Error(`agent ${this.name} ended:\n${this.lastLines()}`);
    try {
      await this.control.status();
      return true;
    } catch {
      return false; // Not listening yet; the caller has a limit.
    }
  }

  /** Sum over the agent and its children of the most memory that each had, in MiB. */
  peakMiB(): number {
    this.#sample();
    return [...this.#peakKiB.values()].reduce((sum, kib) => sum + kib, 0) / 1024;
  }

  /** From here on the peak counts anew. */
  forgetPeak(): void {
    for (const pid of [this.pid, ...childrenOf(this.pid)]) writeFileSync(`/proc/${pid}/clear_refs`, "5");
    this.#peakKiB.clear();
  }

  /** Bytes that the agent caused to be written to disks so far. */
  writtenBytes(): number {
    return procNumber(this.pid, "io", /^write_bytes: (\d+)$/m) ?? 0;
  }

  /** Seconds of processor time so far. */
  cpuSeconds(): number {
    const user = procNumber(this.pid, "stat", /\) \S+(?: \S+){10} (\d+) /) ?? 0;
    const system = procNumber(this.pid, "stat", /\) \S+(?: \S+){10} \d+ (\d+)/) ?? 0;
    return (user + system) / ticksPerSecond;
  }

  /** A counter or gauge of `/metrics`, summed over its labels but for those that are named. */
  async metric(name: string, label = ""): Promise<number> {
    return metricIn(await this.control.metrics(), name, label);
  }

  async stop(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
    clearInterval(this.#timer);
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const exited = once(this.process, "exit");
    this.process.kill(signal);
    const timer = setTimeout(() => this.process.kill("SIGKILL"), 20_000);
    await exited;
    clearTimeout(timer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  #hear(text: string): void {
    this.#last.push(text);
    if (this.#last.length > linesKept) this.#last.shift();
    const atMs = performance.now();
    let fields: Record<string, unknown>;
    try {
      fields = JSON.parse(text) as Record<string, unknown>;
    } catch {
      return; // Not a line of the log: a crash writes plain text, which `lastLines` shows.
    }
    for (const listener of [...this.#listeners]) listener({ event: String(fields.event), atMs, fields });
  }

  #sample(): void {
    for (const pid of [this.pid, ...childrenOf(this.pid)]) {
      const kib = procNumber(pid, "status", /^VmHWM:\s+(\d+) kB$/m);
      if (kib !== undefined) this.#peakKiB.set(pid, Math.max(kib, this.#peakKiB.get(pid) ?? 0));
    }
  }
}

export function metricIn(text: string, name: string, label = ""): number {
  let sum = 0;
  for (const line of text.split("\n")) {
    if (!line.startsWith(`understudy_${name}`) || !line.includes(label)) continue;
    sum += Number(line.slice(line.lastIndexOf(" ") + 1));
  }
  return sum;
}

/**
 * Two nodes on this machine, joined over loopback, with one group `app`: alpha has the data, bravo follows. Elsewhere a
 * replica has a disk of its own: give it a directory on another filesystem where that matters.
 */
export interface Pair {
  readonly config: string;
  start(node: "alpha" | "bravo"): Agent;
  readonly copies: Readonly<Record<string, string>>;
}

export interface StoreSpec {
  readonly kind: "files" | "sqlite";
  readonly path: string;
}

export async function preparePair(
  directory: string,
  stores: Readonly<Record<string, StoreSpec>>,
  more = "",
  replicaDirectory = directory,
): Promise<Pair> {
  const states = { alpha: join(directory, "state-alpha"), bravo: join(replicaDirectory, "state-bravo") };
  const nodes: string[] = [];
  const ports = await nodePorts(2);
  for (const [name, state] of Object.entries(states)) {
    mkdirSync(state, { recursive: true, mode: 0o700 });
    const identity = await ensureIdentity(identityDirectory(state));
    nodes.push(`  ${name}: { address: "127.0.0.1:${ports[nodes.length]}", key: "${identity.publicKey}" }`);
  }
  const copies: Record<string, string> = {};
  const lines = Object.entries(stores).map(([name, { kind, path }]) => {
    const copy = join(replicaDirectory, `copy-${name}`, kind === "sqlite" ? "copy.db" : "");
    copies[name] = copy.replace(/\/$/, "");
    if (kind === "sqlite") mkdirSync(join(replicaDirectory, `copy-${name}`), { recursive: true });
    return `      ${name}: { kind: ${kind}, path: "${path}", at: { bravo: "${copies[name]}" } }`;
  });
  const config = join(directory, "understudy.yaml");
  writeFileSync(
    config,
    `nodes:\n${nodes.join("\n")}\ngroups:\n  app:\n    primary: alpha\n    replicas: [bravo]\n    stores:\n${lines.join("\n")}\n    limits: { staging: 100GiB }\n${more}`,
  );
  return { config, copies, start: (node) => new Agent(node, states[node], config) };
}

/** True when the replica has applied the primary's last cut and both have the same manifest. */
export async function inStep(primary: Agent, replica: Agent): Promise<boolean> {
  const ours = await primary.group();
  const theirs = await replica.group();
  const applied = Object.values(theirs.peers)[0]?.applied;
  return ours.cut !== null && theirs.cut?.digest === ours.cut.digest && applied?.seq === ours.cut.seq;
}

/** Milliseconds between the birth of the group and the end of the last batch of apply that made both equal. */
export async function firstCopy(
  primary: Agent,
  replica: Agent,
  limitMs: number,
): Promise<{ ms: number; formedAt: number }> {
  const formed = primary.event("group.formed", limitMs);
  let appliedAt = 0;
  const stop = replica.onLog((line) => {
    if (line.event === "batch.applied") appliedAt = line.atMs;
  });
  try {
    const { atMs: formedAt } = await formed;
    await until("first copy", async () => appliedAt > 0 && (await inStep(primary, replica)), limitMs, 100);
    return { ms: appliedAt - formedAt, formedAt };
  } finally {
    stop();
  }
}
