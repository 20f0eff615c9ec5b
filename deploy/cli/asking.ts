import { resolve } from "node:path";
import type { Command } from "commander";
import { exitCodes, UnderstudyError } from "../../shared/errors.ts";
import { type AgentStatus, acceptances, type ControlHandler } from "../control/api.ts";
import { connectControl } from "../control/client.ts";
import { controlSocketPath } from "../control/state-layout.ts";
import type { Terminal } from "./terminal.ts";

/** Something that the command needs was not said. */
export class OptionMissing extends UnderstudyError {
  readonly code = "OPTION_MISSING";
  readonly remedy = "stop";
  readonly state = "Nothing was done.";
  readonly hint: string;
  override readonly exitCode = exitCodes.usage;

  constructor(what: string, hint: string) {
    super(`${what} is not given`);
    this.hint = hint;
  }
}

/** The agent at this state directory is another node's. */
class OtherNode extends UnderstudyError {
  readonly code = "OTHER_NODE";
  readonly remedy = "stop";
  readonly state = "Nothing was asked of it.";
  readonly hint = "Give the --state of the node that is meant, or its --node.";
  override readonly exitCode = exitCodes.usage;

  constructor(asked: string, found: string) {
    super(`the agent there is ${found}, not ${asked}`);
  }
}

export class NotAnsweredYes extends UnderstudyError {
  readonly code = "UNANSWERED";
  readonly remedy = "stop";
  readonly state: string;
  readonly hint = "Answer y, or give --yes where nobody can be asked.";
  override readonly exitCode = exitCodes.refused;

  constructor(message: string, state = "Nothing was done: this node is no primary.") {
    super(message);
    this.state = state;
  }
}

export interface CommonOptions {
  readonly config?: string;
  readonly node?: string;
  readonly state?: string;
  readonly json?: boolean;
}

interface WithStatus {
  readonly agent: ControlHandler;
  readonly group: string;
  readonly status: AgentStatus;
}

/** Whom a command asks about what, and how it prints the answer. */
export class Asking {
  readonly terminal: Terminal;

  constructor(terminal: Terminal) {
    this.terminal = terminal;
  }

  /** The agent and the group that is meant: the one that was named, or the only one that there is. */
  async group(name: string | undefined, options: CommonOptions, _status: "with status"): Promise<WithStatus>;
  async group(name: string | undefined, options: CommonOptions): Promise<Omit<WithStatus, "status">>;
  async group(name: string | undefined, options: CommonOptions, withStatus?: "with status") {
    const agent = this.agent(options);
    const named = await this.#checkedByFile(name, options);
    if (named !== undefined && options.node === undefined && !withStatus) return { agent, group: named };
    const status = await this.statusOf(agent, options);
    const names = Object.keys(status.groups);
    const group = named ?? (names.length === 1 ? names[0] : undefined);
    if (group === undefined) throw new OptionMissing("the group", `Name one of ${names.join(", ")}.`);
    return { agent, group, status };
  }

  /** With -c on the command line a group is what that file says; its name is found wrong before the agent is asked. */
  async #checkedByFile(name: string | undefined, options: CommonOptions): Promise<string | undefined> {
    if (options.config === undefined) return name;
    const { loadConfig } = await import("../../shared/config/load.ts");
    const { groupNamed } = await import("../../shared/config/config.ts");
    const config = await loadConfig(options.config);
    if (name !== undefined) return groupNamed(config, name).name;
    const names = [...config.groups.keys()];
    return names.length === 1 ? names[0] : undefined;
  }

  agent(options: CommonOptions): ControlHandler {
    return connectControl(controlSocketPath(this.state(options)));
  }

  async statusOf(agent: ControlHandler, options: CommonOptions): Promise<AgentStatus> {
    const status = await agent.status();
    const node = options.node ?? this.terminal.environment.UNDERSTUDY_NODE;
    if (node !== undefined && node !== "" && node !== status.node) throw new OtherNode(node, status.node);
    return status;
  }

  state(options: CommonOptions): string {
    return resolve(this.need("state", options));
  }

  need(what: "config" | "node" | "state", options: CommonOptions): string {
    const value = options[what] ?? this.terminal.environment[`UNDERSTUDY_${what.toUpperCase()}`];
    if (value !== undefined && value !== "") return value;
    const flag = { config: "-c FILE", node: "--node NAME", state: "--state DIR" }[what];
    const noun = { config: "the configuration", node: "the node", state: "the state directory" }[what];
    throw new OptionMissing(noun, `Give it with ${flag} or UNDERSTUDY_${what.toUpperCase()}.`);
  }

  answer<T>(options: CommonOptions, answer: T, text: (answer: T) => string): void {
    if (options.json) this.json(answer);
    else this.out(text(answer));
  }

  json(value: unknown): void {
    this.out(`${JSON.stringify(value)}\n`);
  }

  out(text: string): void {
    this.terminal.out.write(text);
  }
}

export function common(command: Command): Command {
  return command
    .option("-c, --config <file>", "the cluster's configuration (UNDERSTUDY_CONFIG)")
    .option("--node <name>", "which of its nodes this is (UNDERSTUDY_NODE)")
    .option("--state <directory>", "where this node keeps its state (UNDERSTUDY_STATE)");
}

/** One that asks the agent about one group. */
export function groupVerb(program: Command, name: string): Command {
  return common(program.command(name))
    .argument("[group]", "may be left out where there is only one")
    .option("--json", "print JSON");
}

export function accepting(command: Command, verb: keyof typeof acceptances): Command {
  for (const [name, meaning] of Object.entries(acceptances[verb])) {
    command.option(`--accept-${name}`, `go on although ${meaning}`);
  }
  return command;
}

export function acceptedIn(options: Record<string, unknown>, verb: keyof typeof acceptances): string[] {
  return Object.keys(acceptances[verb]).filter((name) => options[camelCase(`accept-${name}`)] === true);
}

/** As commander names an option's value. */
function camelCase(flag: string): string {
  return flag.replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
