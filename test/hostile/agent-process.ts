import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { connectControl } from "../../deploy/control/client.ts";
import { controlSocketPath } from "../../deploy/control/state-layout.ts";
import { cpuMsOfProcess } from "../cpu-time.ts";
import { until } from "../until.ts";

export interface LogLine {
  readonly level: string;
  readonly event: string;
  readonly [field: string]: unknown;
}

const launcher = fileURLToPath(new URL("../../deploy/understudy", import.meta.url));

/** A real agent in a process of its own, with the lines of its log. */
export class AgentProcess implements AsyncDisposable {
  readonly stateDirectory: string;
  readonly lines: LogLine[] = [];
  readonly #process: ReturnType<typeof spawn>;
  readonly #ended: Promise<void>;
  exit: string | undefined;

  private constructor(configPath: string, node: string, stateDirectory: string) {
    this.stateDirectory = stateDirectory;
    const words = ["run", "-c", configPath, "--node", node, "--state", stateDirectory];
    this.#process = spawn(launcher, words, {
      stdio: ["ignore", "inherit", "pipe"],
      env: { ...process.env, UNDERSTUDY_LOG: "debug" },
    });
    const lines = createInterface({ input: this.#process.stderr! });
    lines.on("line", (line) => this.lines.push(parse(line)));
    this.#ended = once(this.#process, "exit").then(([code, signal]) => {
      this.exit = `exit code ${code}, signal ${signal}`;
    });
  }

  static async start(configPath: string, node: string, stateDirectory: string): Promise<AgentProcess> {
    await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
    const agent = new AgentProcess(configPath, node, stateDirectory);
    await until(() => {
      if (agent.exit !== undefined) throw new Error(`the agent ended: ${agent.exit}\n${agent.tail()}`);
      return agent.has("agent.started") && agent.has("listener.opened");
    }, "the agent starts");
    return agent;
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  has(event: string): boolean {
    return this.lines.some((line) => line.event === event);
  }

  tail(): string {
    return this.lines
      .slice(-12)
      .map((line) => JSON.stringify(line))
      .join("\n");
  }

  /** In MiB, as the kernel counts it: now, and the highest since it was last reset. */
  memory(): { residentMiB: number; highestMiB: number } {
    const text = readFileSync(`/proc/${this.pid}/status`, "latin1");
    const kib = (name: string): number => Number(new RegExp(`^${name}:\\s*(\\d+) kB`, "m").exec(text)?.[1]);
    return { residentMiB: kib("VmRSS") / 1024, highestMiB: kib("VmHWM") / 1024 };
  }

  /** Processor time so far, in ms. */
  cpuMs(): ReturnType<typeof cpuMsOfProcess> {
    return cpuMsOfProcess(this.pid);
  }

  async status(): ReturnType<ReturnType<typeof connectControl>["status"]> {
    return await connectControl(controlSocketPath(this.stateDirectory)).status();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.exit === undefined) this.#process.kill("SIGKILL");
    await this.#ended;
  }
}

function parse(line: string): LogLine {
  try {
    return JSON.parse(line) as LogLine;
  } catch {
    // What Node itself prints when it ends a process, for one.
    return { level: "error", event: "text.printed", text: line };
  }
}
