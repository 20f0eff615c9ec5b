import { resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { type ExitCode, exitCodes, explain, UnderstudyError } from "../../shared/errors.ts";
import { parseDurationMs, UnitInvalid } from "../../shared/units.ts";
import type { AgentStatus, SwitchoverProgress, SwitchoverStep } from "../control/api.ts";
import { bridgeSocketPath, eventLogPath, identityDirectory } from "../control/state-layout.ts";
import { Asking, acceptedIn, accepting, type CommonOptions, common, groupVerb, OptionMissing } from "./asking.ts";
import { callerName } from "./caller.ts";
import { forkVerbs } from "./forks.ts";
import { type HaOptions, haActions, haRequest, haText } from "./ha.ts";
import { parsePlannedTime } from "./planned-time.ts";
import { type PromoteFlags, promote } from "./promote.ts";
import { parseRestorePoint } from "./restore-point.ts";
import {
  abortCode,
  cancelledText,
  followSwitchover,
  outcomeCode,
  outcomeText,
  planText,
  scheduledText,
  stepText,
} from "./switchover.ts";
import type { Terminal } from "./terminal.ts";
import {
  brokenPromises,
  pausedSentence,
  pointsText,
  reasonText,
  restoredText,
  statusText,
  takenText,
  verifiedText,
  waitText,
} from "./text.ts";
import { softwareVersion } from "./version.ts";

/** Runs one command; never throws. The process ends with the exit code that this gives. */
export async function runCommandLine(words: readonly string[], terminal: Terminal): Promise<ExitCode> {
  const commandLine = new CommandLine(terminal);
  try {
    return await commandLine.run(words);
  } catch (error) {
    // Its text is already on the terminal.
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.done : exitCodes.usage;
    terminal.err.write(failureText(error));
    return error instanceof UnderstudyError ? error.exitCode : exitCodes.failed;
  }
}

function failureText(error: unknown): string {
  if (!(error instanceof UnderstudyError)) {
    const stack = error instanceof Error && error.stack !== undefined ? `${error.stack}\n` : "";
    return `understudy: ${explain(error)}\n${stack}`;
  }
  return `understudy: ${explain(error)}\n  ${error.state}\n  ${error.hint.replaceAll("\n", "\n  ")}\n`;
}

class CommandLine {
  readonly #terminal: Terminal;
  readonly #asking: Asking;
  #exitCode: ExitCode = exitCodes.done;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    this.#asking = new Asking(terminal);
  }

  async run(words: readonly string[]): Promise<ExitCode> {
    // An optional value is only taken behind "=": `promote --accept-loss app` names the group.
    const separated = words.map((word) => (word === "--accept-loss" ? "--accept-loss=" : word));
    await this.#program().parseAsync(separated, { from: "user" });
    return this.#exitCode;
  }

  #program(): Command {
    const program = new Command("understudy")
      .description("A hot, verified, promotable copy of anything that lives in files, on another machine.")
      .version(softwareVersion)
      .exitOverride()
      .showHelpAfterError("(see understudy help, and understudy help COMMAND)")
      .configureOutput({
        writeOut: (text) => void this.#terminal.out.write(text),
        writeErr: (text) => void this.#terminal.err.write(text),
      });
    this.#nodeVerbs(program);
    this.#groupVerbs(program);
    this.#roleVerbs(program);
    forkVerbs(program, this.#asking);
    return program;
  }

  /** What concerns a node as a whole. */
  #nodeVerbs(program: Command): void {
    common(program.command("init"))
      .summary("make the node's identity")
      .description(
        "Makes the node's identity in its state directory (once; again it is only shown) and prints its key.",
      )
      .option("--json", "print JSON")
      .action(async (options: CommonOptions) => {
        const node = this.#asking.need("node", options);
        const state = this.#asking.state(options);
        const { ensureIdentity } = await import("../../shared/link/identity.ts");
        const { publicKey } = await ensureIdentity(identityDirectory(state));
        if (options.json) this.#asking.json({ node, key: publicKey });
        else this.#asking.out(`${node}: { key: "${publicKey}" }\n`);
      });

    common(program.command("run"))
      .summary("be the agent, in the foreground")
      .description("Runs the agent of this node until it is ended by SIGTERM or SIGINT. Logs lines of JSON to stderr.")
      .option("--log <level>", "debug, info, warn or error (UNDERSTUDY_LOG; info)")
      .action(async (options: CommonOptions & { log?: string }) => {
        const [configPath, node, stateDirectory] = [
          resolve(this.#asking.need("config", options)),
          this.#asking.need("node", options),
          this.#asking.state(options),
        ];
        if (options.log !== undefined) {
          const { parseLogLevel } = await import("../../shared/log.ts");
          this.#terminal.environment.UNDERSTUDY_LOG = parseLogLevel(options.log);
        }
        const { runAgent } = await import("../agent/run.ts");
        await runAgent({ configPath, node, stateDirectory }, this.#terminal.signal);
      });

    common(program.command("check"))
      .summary("look for what would go wrong, before starting")
      .description(
        "Checks the configuration, this node's identity, permissions, disk space, hooks, addon and versions, and whether its peers can be reached.",
      )
      .option("--json", "print JSON")
      .action(async (options: CommonOptions) => {
        const { checkNode, exitCodeOf, findingsText } = await import("./check.ts");
        const findings = await checkNode(
          {
            configPath: resolve(this.#asking.need("config", options)),
            node: this.#asking.need("node", options),
            stateDirectory: this.#asking.state(options),
          },
          this.#terminal.signal,
        );
        if (options.json) this.#asking.json({ findings });
        else this.#asking.out(findingsText(findings));
        this.#exitCode = exitCodeOf(findings);
      });

    common(program.command("status"))
      .summary("what each group is, holds and lacks")
      .description(
        "Shows every group of this node. Ends with 6 when a promised RPO is broken, or durability is degraded.",
      )
      .option("--json", "print JSON (schema 1)")
      .option("--watch", "show it again each second, until interrupted")
      .action(async (options: CommonOptions & { watch?: boolean }) => {
        if (options.watch) await this.#watchStatus(options);
        else this.#showStatus(await this.#asking.statusOf(this.#asking.agent(options), options), options);
      });

    common(program.command("events"))
      .summary("who was what, and what was overridden, from the beginning")
      .description(
        "Prints the node's log of events: changes of role, steps of a switchover, refusals that were overridden and by whom, forks, pauses. Reads the file in the state directory, whether the agent runs or not.",
      )
      .argument("[group]", "only of this group")
      .option("--json", "print the lines as they are in the file")
      .option("--follow", "go on with what comes, until interrupted")
      .action(async (group: string | undefined, options: CommonOptions & { follow?: boolean }) => {
        await this.#events(group, options);
      });

    common(program.command("authorize"))
      .summary("let a node in through this machine's OpenSSH")
      .description(
        "Prints the line for ~/.ssh/authorized_keys that lets NODE reach this node's agent through the system's OpenSSH, and nothing else.",
      )
      .argument("<peer>", "a node of the configuration")
      .option("--install", "put it into this user's authorized_keys")
      .action(async (peer: string, options: CommonOptions & { install?: boolean }) => {
        const { loadConfig } = await import("../../shared/config/load.ts");
        const { authorizedLines, installAuthorizedLines } = await import("./authorize.ts");
        const config = await loadConfig(this.#asking.need("config", options));
        const lines = authorizedLines(config, peer, this.#asking.state(options));
        if (!options.install) {
          this.#asking.out(lines.map((line) => `${line}\n`).join(""));
          return;
        }
        const { path, changed } = await installAuthorizedLines(peer, lines, this.#terminal.environment.HOME);
        this.#asking.out(
          changed ? `${peer} may now reach this agent through ${path}\n` : `${path} is as it should be\n`,
        );
      });

    common(program.command("bridge", { hidden: true }))
      .description("What sshd runs for a peer's key: joins it to the agent.")
      .requiredOption("--peer <node>", "whose key it is")
      .action(async (options: CommonOptions & { peer: string }) => {
        const { bridge } = await import("../../shared/link/bridge.ts");
        await bridge(bridgeSocketPath(this.#asking.state(options)), options.peer, process.stdin, process.stdout);
      });

    program
      .command("demo")
      .summary("see it work, on this machine alone")
      .description(
        "Two nodes in a scratch directory, a writer, real SSH on loopback; the primary is killed on Enter or after --seconds, the replica promoted and its copy audited.",
      )
      .option("--seconds <number>", "kill the primary after this many seconds", wholeSeconds)
      .option("--json", "print the findings as JSON")
      .action(async (options: { seconds?: number; json?: boolean }) => {
        const { runDemo } = await import("../demo/demo.ts");
        const json = options.json === true;
        this.#exitCode = exitCodeFrom(
          await runDemo(options.seconds === undefined ? { json } : { seconds: options.seconds, json }),
        );
      });
  }

  /** What a group can be asked at any time. */
  #groupVerbs(program: Command): void {
    const verb = (name: string) => groupVerb(program, name);

    accepting(verb("cut"), "cut")
      .summary("take a cut now")
      .option("--prune", "without what `exclude` leaves out by now: it goes from the copies, too")
      .action(async (name: string | undefined, options: CommonOptions & Record<string, unknown>) => {
        const { agent, group } = await this.#asking.group(name, options);
        const by = callerName(this.#terminal.environment);
        const cut = { accept: acceptedIn(options, "cut"), by, ...(options.prune === true ? { prune: true } : {}) };
        this.#asking.answer(options, await agent.cut(group, cut, this.#terminal.signal), takenText);
      });

    verb("wait")
      .summary("wait until everything written so far is durable on the replicas")
      .addOption(durationOption("--timeout <duration>", "how long at most", "1m"))
      .option("--replica <node...>", "wait for these only")
      .option("--replicas <count>", "wait for so many of them, whichever", wholeCount)
      .action(async (name: string | undefined, options: CommonOptions & WaitFlags) => {
        const { agent, group } = await this.#asking.group(name, options);
        const count = options.replicas === undefined ? {} : { count: options.replicas };
        const waiting = { timeoutMs: options.timeout, replicas: options.replica ?? [], ...count };
        const answer = await agent.wait(group, waiting, this.#terminal.signal);
        this.#asking.answer(options, answer, waitText);
        if (answer.degraded) this.#exitCode = exitCodes.promiseBroken;
      });

    verb("points")
      .summary("list the cuts that can be restored")
      .action(async (name: string | undefined, options: CommonOptions) => {
        const { agent, group } = await this.#asking.group(name, options);
        this.#asking.answer(options, await agent.points(group), pointsText);
      });

    verb("restore")
      .summary("write a former state into a directory")
      .requiredOption("--at <point>", "a cut (1.42), a time, or `5m ago`: the newest cut that is not younger")
      .requiredOption("--to <directory>", "does not exist yet, or is empty")
      .option("--only <path>", "a store, or what is at or below a path in one: uploads/reports")
      .action(async (name: string | undefined, options: CommonOptions & { at: string; to: string; only?: string }) => {
        const at = parseRestorePoint(options.at, Date.now());
        const { agent, group } = await this.#asking.group(name, options);
        const part = options.only === undefined ? {} : { only: options.only };
        const answer = await agent.restore(group, { at, to: resolve(options.to), ...part }, this.#terminal.signal);
        this.#asking.answer(options, answer, restoredText);
      });

    verb("verify")
      .summary("read the copy and compare it with the manifest and the other side")
      .option("--quick", "compare digests only, read no disk")
      .action(async (name: string | undefined, options: CommonOptions & { quick?: boolean }) => {
        const { agent, group } = await this.#asking.group(name, options);
        const answer = await agent.verify(group, { quick: options.quick === true }, this.#terminal.signal);
        this.#asking.answer(options, answer, verifiedText);
        if (!answer.ok) this.#exitCode = exitCodes.failed;
      });
  }

  /** What decides who is what. */
  #roleVerbs(program: Command): void {
    const verb = (name: string) => groupVerb(program, name);

    accepting(verb("promote"), "promote")
      .summary("make this node the primary")
      .description(
        "Makes this replica the primary. Says first what would be lost. Each refusal names the flag that would pass it; --yes passes none.",
      )
      .option("--yes", "answer the question with yes")
      .option(
        "--accept-loss [=cut]",
        "go on although changes are lost: all, or exactly those after this cut",
        lossArgument,
      )
      .option("--abort", "undo a promotion that has not reached its epoch")
      .action(async (name: string | undefined, options: CommonOptions & PromoteFlags) => {
        await promote(this.#asking, name, options);
      });

    accepting(verb("switchover"), "switchover")
      .summary("move the group to another node, losing nothing")
      .description(
        "Asked of the primary: stops its service, hands over exactly the last cut and starts the service there. Whatever fails goes back to the primary as it was. It goes on when this command is interrupted.",
      )
      .option("--to <node>", "who is to be primary")
      .option("--dry-run", "only say what would happen, how long nobody would be served and what stands in the way")
      .option("--at <time>", "have it begin by itself: 02:30, or a date and time")
      .option("--abort", "take back the one that is under way, or planned")
      .action(async (name: string | undefined, options: CommonOptions & SwitchoverFlags) => {
        await this.#switchover(name, options);
      });

    common(program.command("is-primary"))
      .summary("end with 0 where the group's service may run on this node, else with 1")
      .description(
        "Ends with 0 where this node is the group's primary and known to be the only one, else with 1, and says why.",
      )
      .argument("<group>")
      .option("--json", "print JSON")
      .action(async (name: string, options: CommonOptions) => {
        const { agent, group } = await this.#asking.group(name, options);
        const answer = await agent.isPrimary(group);
        const { primary, why } = answer;
        this.#asking.answer(options, answer, ({ role, epoch }) => `${role} epoch ${epoch}\n`);
        if (primary) return;
        this.#exitCode = exitCodes.failed;
        if (why !== null && !options.json) this.#terminal.err.write(`not in service: ${reasonText(why)}\n`);
      });

    verb("form")
      .summary("give birth to a group on its first primary")
      .option("--alone", "without the answer of replicas that cannot be reached")
      .action(async (name: string | undefined, options: CommonOptions & { alone?: boolean }) => {
        const { agent, group } = await this.#asking.group(name, options);
        const by = callerName(this.#terminal.environment);
        const answer = await agent.form(group, { alone: options.alone === true, by });
        this.#asking.answer(options, answer, ({ role, epoch }) => `${group}: ${role} in epoch ${epoch}\n`);
      });

    for (const [name, summary, description] of [
      [
        "pause",
        "hold back shipping, failover, or both",
        "For maintenance, durably until `resume`. Shipping (on the primary): no cut leaves it, and its lag grows. Failover: no cluster promotes this node, and `promote` asks for more. A switchover is refused while either is paused. Neither named: what this node has of both.",
      ],
      ["resume", "let go on what was paused", "Lets go on what `pause` held back: all of it, or what is named."],
    ] as const)
      verb(name)
        .summary(summary)
        .description(description)
        .option("--shipping", "of cuts to the replicas")
        .option("--failover", "promotion of this node by a cluster")
        .action(
          async (group: string | undefined, options: CommonOptions & { shipping?: boolean; failover?: boolean }) => {
            const asked = await this.#asking.group(group, options);
            const answer = await asked.agent[name](asked.group, {
              shipping: options.shipping === true,
              failover: options.failover === true,
              by: callerName(this.#terminal.environment),
            });
            this.#asking.answer(options, answer, ({ paused }) => `${pausedSentence(asked.group, paused)}\n`);
          },
        );

    verb("confirm")
      .summary("say that this node is the only primary")
      .description(
        "Starts the service of a primary whose machine was started anew, where not all other nodes have answered whether one of them was promoted meanwhile. Refused where one of them was.",
      )
      .option("--accept-unreachable", "go on although other nodes of the group did not answer")
      .action(async (name: string | undefined, options: CommonOptions & { acceptUnreachable?: boolean }) => {
        const { agent, group } = await this.#asking.group(name, options);
        const by = callerName(this.#terminal.environment);
        const answer = await agent.confirm(group, { acceptUnreachable: options.acceptUnreachable === true, by });
        this.#asking.answer(
          options,
          answer,
          ({ role, epoch }) => `${group}: in service as ${role} of epoch ${epoch}\n`,
        );
      });

    common(program.command("ha"))
      .summary("what the resource agent of a cluster manager asks")
      .description(
        "For ocf:understudy:understudy, which keeps what is asked with here in the cluster: see deploy/docs/commands.md.",
      )
      .argument("<action>", haActions.join(", "))
      .argument("<group>")
      .option(
        "--epoch <number>",
        "the epoch that the cluster has granted last; of promote: the one that it grants",
        epochNumber,
      )
      .option("--mark <text>", "what the last primary has said of this node's copy")
      .addOption(durationOption("--max-lag <duration>", "how far behind a replica may be that takes over", "10s"))
      .option("--vote <node=vote...>", "what the others have that could be promoted")
      .option("--seal <text>", "what the primary before had last")
      .addOption(durationOption("--ship <duration>", "how long a demotion waits for replicas at most", "20s"))
      .option("--json", "print JSON")
      .action(async (action: string, name: string, options: CommonOptions & HaOptions) => {
        const request = haRequest(action, options);
        const { agent, group } = await this.#asking.group(name, options);
        this.#asking.answer(options, await agent.ha(group, request), haText);
      });

    verb("adopt")
      .summary("take over what lies in a replica's paths already")
      .description(
        "Lets this replica begin from the files that are in its paths: they are compared, only the difference is shipped, and what the first cut lacks is kept aside.",
      )
      .action(async (name: string | undefined, options: CommonOptions) => {
        const { agent, group } = await this.#asking.group(name, options);
        const answer = await agent.adopt(group, { by: callerName(this.#terminal.environment) });
        this.#asking.answer(options, answer, () => `${group}: what is in its paths is compared with the next cut\n`);
      });
  }

  async #switchover(name: string | undefined, options: CommonOptions & SwitchoverFlags): Promise<void> {
    const { agent, group } = await this.#asking.group(name, options);
    const accept = acceptedIn(options, "switchover");
    const by = callerName(this.#terminal.environment);
    let progress: SwitchoverProgress;
    if (options.abort) {
      const { cancelled, ended } = await agent.abortSwitchover(group, { accept, by });
      if (ended === null || (cancelled !== null && !options.json)) {
        this.#asking.answer(options, { cancelled, ended }, () => cancelledText(group, cancelled));
        if (ended === null) return;
      }
      progress = ended;
      this.#exitCode = abortCode(progress);
    } else {
      const { to } = options;
      if (to === undefined) throw new OptionMissing("the node that is to be primary", "Give it with --to NODE.");
      if (options.dryRun) {
        const plan = await agent.planSwitchover(group, { to, accept, by });
        this.#asking.answer(options, plan, (answer) => planText(group, answer));
        if (plan.obstacles.length > 0) this.#exitCode = exitCodes.refused;
        return;
      }
      if (options.at !== undefined) {
        const at = parsePlannedTime(options.at, new Date());
        const plan = await agent.scheduleSwitchover(group, { to, accept, by }, at);
        this.#asking.answer(options, plan, (answer) => scheduledText(group, answer));
        return;
      }
      const begun = await agent.switchover(group, { to, accept, by });
      const told = (step: SwitchoverStep): void => {
        if (!options.json) this.#asking.out(stepText(step));
      };
      progress = await followSwitchover(agent, group, begun, told, this.#terminal.signal);
      this.#exitCode = outcomeCode(progress);
    }
    this.#asking.answer(options, progress, (answer) => outcomeText(group, answer));
    if (!options.json && progress.hint !== "") this.#terminal.err.write(`${progress.hint}\n`);
  }

  async #events(group: string | undefined, options: CommonOptions & { follow?: boolean }): Promise<void> {
    const { eventLines, eventText } = await import("./event-lines.ts");
    const path = eventLogPath(this.#asking.state(options));
    for await (const found of eventLines(path, options.follow === true, this.#terminal.signal)) {
      if (found.kind === "unreadable") {
        this.#terminal.err.write(`not an event: ${JSON.stringify(found.line.slice(0, 200))}\n`);
        continue;
      }
      if (group !== undefined && found.event.group !== group) continue;
      this.#asking.out(`${options.json ? found.line : eventText(found.event)}\n`);
    }
  }

  #showStatus(status: AgentStatus, options: CommonOptions): void {
    if (options.json) this.#asking.json(status);
    else this.#asking.out(statusText(status));
    const broken = brokenPromises(status);
    if (broken.length === 0) return;
    if (!options.json) this.#terminal.err.write(`promise broken: ${broken.join("; ")}\n`);
    this.#exitCode = exitCodes.promiseBroken;
  }

  /** Goes on over a restart of the agent: who watches wants to see just that. */
  async #watchStatus(options: CommonOptions): Promise<void> {
    const clear = options.json ? "" : "\u001b[H\u001b[2J";
    const { signal } = this.#terminal;
    while (!signal.aborted) {
      try {
        const status = await this.#asking.statusOf(this.#asking.agent(options), options);
        this.#asking.out(options.json ? `${JSON.stringify(status)}\n` : `${clear}${statusText(status)}`);
      } catch (error) {
        if (!(error instanceof UnderstudyError) || error.exitCode === exitCodes.usage) throw error;
        this.#terminal.err.write(`${clear}${failureText(error)}`);
      }
      await delay(1000, undefined, { signal }).catch((error: unknown) => {
        if (!signal.aborted) throw error;
      });
    }
  }
}

interface WaitFlags {
  readonly timeout: number;
  readonly replica?: string[];
  readonly replicas?: number;
}

interface SwitchoverFlags extends Record<string, unknown> {
  readonly to?: string;
  readonly dryRun?: boolean;
  readonly at?: string;
  readonly abort?: boolean;
}

function lossArgument(value: string): true | string {
  if (value === "") return true;
  if (/^\d+\.\d+$/.test(value)) return value;
  throw new InvalidArgumentError("Write --accept-loss, or --accept-loss=EPOCH.SEQ as the refusal named it.");
}

/** Shown with its default as it would be written. */
function durationOption(flags: string, description: string, byDefault: string): Option {
  return new Option(flags, description).argParser(duration).default(duration(byDefault), byDefault);
}

function duration(value: string): number {
  try {
    return parseDurationMs(value);
  } catch (error) {
    if (error instanceof UnitInvalid) throw new InvalidArgumentError(`${error.message}. ${error.hint}`);
    throw error;
  }
}

function epochNumber(value: string): number {
  if (!/^\d{1,15}$/.test(value)) throw new InvalidArgumentError("Write the number of an epoch.");
  return Number(value);
}

function wholeSeconds(value: string): number {
  if (!/^[1-9]\d{0,5}$/.test(value)) throw new InvalidArgumentError("Write a whole number of seconds.");
  return Number(value);
}

function wholeCount(value: string): number {
  if (!/^[1-9]\d{0,3}$/.test(value)) throw new InvalidArgumentError("Write a whole number of replicas.");
  return Number(value);
}

function exitCodeFrom(code: number): ExitCode {
  return Object.values(exitCodes).find((known) => known === code) ?? exitCodes.failed;
}
