import { resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Argument, Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { type ExitCode, exitCodes, explain, UnderstudyError } from "../../shared/errors.ts";
import { parseDurationMs, UnitInvalid } from "../../shared/units.ts";
import {
  type AgentStatus,
  acceptances,
  type ControlHandler,
  cutRefText,
  type GroupStatus,
  GroupUnknown,
  type SwitchoverProgress,
  type SwitchoverStep,
} from "../control/api.ts";
import { connectControl } from "../control/client.ts";
import { bridgeSocketPath, controlSocketPath, eventLogPath, identityDirectory } from "../control/state-layout.ts";
import { callerName } from "./caller.ts";
import { droppedText, exportedText, forksText, forkText, rejoinedText, shownFork } from "./fork-text.ts";
import { type HaOptions, haActions, haRequest, haText } from "./ha.ts";
import { parsePlannedTime } from "./planned-time.ts";
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
import { confirmed, type Terminal } from "./terminal.ts";
import {
  brokenPromises,
  pausedSentence,
  pointsText,
  promotedText,
  promotionText,
  reasonText,
  restoredText,
  statusText,
  takenText,
  verifiedText,
  waitText,
} from "./text.ts";
import { softwareVersion } from "./version.ts";

/** Something that the command needs was not said. */
class OptionMissing extends UnderstudyError {
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

class NotAnsweredYes extends UnderstudyError {
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

interface CommonOptions {
  readonly config?: string;
  readonly node?: string;
  readonly state?: string;
  readonly json?: boolean;
}

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
  return `understudy: ${explain(error)}\n  ${error.state}\n  ${error.hint}\n`;
}

class CommandLine {
  readonly #terminal: Terminal;
  #exitCode: ExitCode = exitCodes.done;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
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
    this.#forkVerbs(program);
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
        const node = this.#need("node", options);
        const state = this.#state(options);
        const { ensureIdentity } = await import("../../shared/link/identity.ts");
        const { publicKey } = await ensureIdentity(identityDirectory(state));
        if (options.json) this.#json({ node, key: publicKey });
        else this.#out(`${node}: { key: "${publicKey}" }\n`);
      });

    common(program.command("run"))
      .summary("be the agent, in the foreground")
      .description("Runs the agent of this node until it is ended by SIGTERM or SIGINT. Logs lines of JSON to stderr.")
      .option("--log <level>", "debug, info, warn or error (UNDERSTUDY_LOG; info)")
      .action(async (options: CommonOptions & { log?: string }) => {
        const [configPath, node, stateDirectory] = [
          resolve(this.#need("config", options)),
          this.#need("node", options),
          this.#state(options),
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
            configPath: resolve(this.#need("config", options)),
            node: this.#need("node", options),
            stateDirectory: this.#state(options),
          },
          this.#terminal.signal,
        );
        if (options.json) this.#json({ findings });
        else this.#out(findingsText(findings));
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
        else this.#showStatus(await this.#statusOf(this.#agent(options), options), options);
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
        const config = await loadConfig(this.#need("config", options));
        const lines = authorizedLines(config, peer, this.#state(options));
        if (!options.install) {
          this.#out(lines.map((line) => `${line}\n`).join(""));
          return;
        }
        const { path, changed } = await installAuthorizedLines(peer, lines, this.#terminal.environment.HOME);
        this.#out(changed ? `${peer} may now reach this agent through ${path}\n` : `${path} is as it should be\n`);
      });

    common(program.command("bridge", { hidden: true }))
      .description("What sshd runs for a peer's key: joins it to the agent.")
      .requiredOption("--peer <node>", "whose key it is")
      .action(async (options: CommonOptions & { peer: string }) => {
        const { bridge } = await import("../../shared/link/bridge.ts");
        await bridge(bridgeSocketPath(this.#state(options)), options.peer, process.stdin, process.stdout);
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
        const { agent, group } = await this.#group(name, options);
        const by = callerName(this.#terminal.environment);
        const cut = { accept: acceptedIn(options, "cut"), by, ...(options.prune === true ? { prune: true } : {}) };
        this.#answer(options, await agent.cut(group, cut, this.#terminal.signal), takenText);
      });

    verb("wait")
      .summary("wait until everything written so far is durable on the replicas")
      .addOption(durationOption("--timeout <duration>", "how long at most", "1m"))
      .option("--replica <node...>", "wait for these only")
      .option("--replicas <count>", "wait for so many of them, whichever", wholeCount)
      .action(async (name: string | undefined, options: CommonOptions & WaitFlags) => {
        const { agent, group } = await this.#group(name, options);
        const count = options.replicas === undefined ? {} : { count: options.replicas };
        const waiting = { timeoutMs: options.timeout, replicas: options.replica ?? [], ...count };
        const answer = await agent.wait(group, waiting, this.#terminal.signal);
        this.#answer(options, answer, waitText);
        if (answer.degraded) this.#exitCode = exitCodes.promiseBroken;
      });

    verb("points")
      .summary("list the cuts that can be restored")
      .action(async (name: string | undefined, options: CommonOptions) => {
        const { agent, group } = await this.#group(name, options);
        this.#answer(options, await agent.points(group), pointsText);
      });

    verb("restore")
      .summary("write a former state into a directory")
      .requiredOption("--at <point>", "a cut (1.42), a time, or `5m ago`: the newest cut that is not younger")
      .requiredOption("--to <directory>", "does not exist yet, or is empty")
      .option("--only <path>", "a store, or what is at or below a path in one: uploads/reports")
      .action(async (name: string | undefined, options: CommonOptions & { at: string; to: string; only?: string }) => {
        const at = parseRestorePoint(options.at, Date.now());
        const { agent, group } = await this.#group(name, options);
        const part = options.only === undefined ? {} : { only: options.only };
        const answer = await agent.restore(group, { at, to: resolve(options.to), ...part }, this.#terminal.signal);
        this.#answer(options, answer, restoredText);
      });

    verb("verify")
      .summary("read the copy and compare it with the manifest and the other side")
      .option("--quick", "compare digests only, read no disk")
      .action(async (name: string | undefined, options: CommonOptions & { quick?: boolean }) => {
        const { agent, group } = await this.#group(name, options);
        const answer = await agent.verify(group, { quick: options.quick === true }, this.#terminal.signal);
        this.#answer(options, answer, verifiedText);
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
        await this.#promote(name, options);
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
        const { agent, group } = await this.#group(name, options);
        const answer = await agent.isPrimary(group);
        const { primary, why } = answer;
        this.#answer(options, answer, ({ role, epoch }) => `${role} epoch ${epoch}\n`);
        if (primary) return;
        this.#exitCode = exitCodes.failed;
        if (why !== null && !options.json) this.#terminal.err.write(`not in service: ${reasonText(why)}\n`);
      });

    verb("form")
      .summary("give birth to a group on its first primary")
      .option("--alone", "without the answer of replicas that cannot be reached")
      .action(async (name: string | undefined, options: CommonOptions & { alone?: boolean }) => {
        const { agent, group } = await this.#group(name, options);
        const by = callerName(this.#terminal.environment);
        const answer = await agent.form(group, { alone: options.alone === true, by });
        this.#answer(options, answer, ({ role, epoch }) => `${group}: ${role} in epoch ${epoch}\n`);
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
            const asked = await this.#group(group, options);
            const answer = await asked.agent[name](asked.group, {
              shipping: options.shipping === true,
              failover: options.failover === true,
              by: callerName(this.#terminal.environment),
            });
            this.#answer(options, answer, ({ paused }) => `${pausedSentence(asked.group, paused)}\n`);
          },
        );

    verb("confirm")
      .summary("say that this node is the only primary")
      .description(
        "Starts the service of a primary whose machine was started anew, where not all other nodes have answered whether one of them was promoted meanwhile. Refused where one of them was.",
      )
      .option("--accept-unreachable", "go on although other nodes of the group did not answer")
      .action(async (name: string | undefined, options: CommonOptions & { acceptUnreachable?: boolean }) => {
        const { agent, group } = await this.#group(name, options);
        const by = callerName(this.#terminal.environment);
        const answer = await agent.confirm(group, { acceptUnreachable: options.acceptUnreachable === true, by });
        this.#answer(options, answer, ({ role, epoch }) => `${group}: in service as ${role} of epoch ${epoch}\n`);
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
        const { agent, group } = await this.#group(name, options);
        this.#answer(options, await agent.ha(group, request), haText);
      });

    verb("adopt")
      .summary("take over what lies in a replica's paths already")
      .description(
        "Lets this replica begin from the files that are in its paths: they are compared, only the difference is shipped, and what the first cut lacks is kept aside.",
      )
      .action(async (name: string | undefined, options: CommonOptions) => {
        const { agent, group } = await this.#group(name, options);
        const answer = await agent.adopt(group, { by: callerName(this.#terminal.environment) });
        this.#answer(options, answer, () => `${group}: what is in its paths is compared with the next cut\n`);
      });
  }

  /** What former primaries had beyond the last common cut. */
  #forkVerbs(program: Command): void {
    groupVerb(program, "rejoin")
      .summary("let a former primary follow the one that was promoted")
      .description(
        "Stops the service here, keeps what only this node has as a fork, and lets it follow the primary from the last common cut: only what differs is shipped.",
      )
      .action(async (name: string | undefined, options: CommonOptions) => {
        const { agent, group } = await this.#group(name, options);
        this.#answer(options, await agent.rejoin(group, { by: callerName(this.#terminal.environment) }), (answer) =>
          rejoinedText(group, answer),
        );
      });

    common(program.command("forks"))
      .summary("list, show, give out or drop what is kept of forks")
      .description(
        "What this node had beyond the last common cut when another one was promoted: list (the default), show NAME, export NAME --to DIR, drop NAME.",
      )
      .addArgument(new Argument("[action]").choices(["list", "show", "export", "drop"]).default("list"))
      .argument("[name]", "as `forks list` shows it")
      .option("--to <directory>", "of an export: does not exist yet, or is empty")
      .option("--yes", "of drop: answer the question with yes")
      .option("--json", "print JSON")
      .action(async (action: string, name: string | undefined, options: CommonOptions & ForkFlags) => {
        await this.#forks(action, name, options);
      });
  }

  async #forks(action: string, name: string | undefined, options: CommonOptions & ForkFlags): Promise<void> {
    const agent = this.#agent(options);
    if (options.node !== undefined) await this.#statusOf(agent, options);
    if (action === "list") {
      this.#answer(options, await agent.forks(), forksText);
      return;
    }
    if (name === undefined) throw new OptionMissing("the name of the fork", "`understudy forks list` shows them.");
    if (action === "show") {
      this.#answer(options, await agent.showFork(name), forkText);
    } else if (action === "export") {
      if (options.to === undefined) throw new OptionMissing("where to export it to", "Give it with --to DIR.");
      const to = resolve(options.to);
      this.#answer(options, await agent.exportFork(name, { to }, this.#terminal.signal), exportedText);
    } else {
      if (!options.yes) {
        const kept = "The fork is kept.";
        this.#terminal.err.write(await shownFork(agent, name));
        if (!this.#terminal.interactive) throw new NotAnsweredYes("nobody is here to confirm that", kept);
        if (!(await confirmed(this.#terminal, "Drop it for ever?")))
          throw new NotAnsweredYes("dropping the fork was not confirmed", kept);
      }
      this.#answer(options, await agent.dropFork(name, { by: callerName(this.#terminal.environment) }), droppedText);
    }
  }

  async #promote(name: string | undefined, options: CommonOptions & PromoteFlags): Promise<void> {
    const { agent, group, status } = await this.#group(name, options, "with status");
    if (options.abort) {
      this.#answer(
        options,
        await agent.abortPromotion(group),
        ({ role, epoch }) => `${group}: ${role} in epoch ${epoch}\n`,
      );
      return;
    }
    const state = groupIn(status, group);
    const accept = acceptedIn(options, "promote");
    let { acceptLoss } = options;
    if (state.role !== "primary") {
      this.#terminal.err.write(promotionText(group, status.node, state, accept, new Date()));
      if (!options.yes) {
        if (!this.#terminal.interactive) throw new NotAnsweredYes("nobody is here to confirm the promotion");
        if (!(await confirmed(this.#terminal, "Promote it?")))
          throw new NotAnsweredYes("the promotion was not confirmed");
        // Who has read what is lost by going on from this cut, and says yes, has accepted just that; --yes has read nothing.
        if (state.cut) acceptLoss ??= cutRefText(state.cut);
      }
    }
    const loss = acceptLoss === undefined ? {} : { acceptLoss };
    this.#answer(
      options,
      await agent.promote(group, { accept, ...loss, by: callerName(this.#terminal.environment) }),
      (answer) => promotedText(group, answer),
    );
  }

  async #switchover(name: string | undefined, options: CommonOptions & SwitchoverFlags): Promise<void> {
    const { agent, group } = await this.#group(name, options);
    const accept = acceptedIn(options, "switchover");
    const by = callerName(this.#terminal.environment);
    let progress: SwitchoverProgress;
    if (options.abort) {
      const { cancelled, ended } = await agent.abortSwitchover(group, { accept, by });
      if (ended === null || (cancelled !== null && !options.json)) {
        this.#answer(options, { cancelled, ended }, () => cancelledText(group, cancelled));
        if (ended === null) return;
      }
      progress = ended;
      this.#exitCode = abortCode(progress);
    } else {
      const { to } = options;
      if (to === undefined) throw new OptionMissing("the node that is to be primary", "Give it with --to NODE.");
      if (options.dryRun) {
        const plan = await agent.planSwitchover(group, { to, accept, by });
        this.#answer(options, plan, (answer) => planText(group, answer));
        if (plan.obstacles.length > 0) this.#exitCode = exitCodes.refused;
        return;
      }
      if (options.at !== undefined) {
        const at = parsePlannedTime(options.at, new Date());
        const plan = await agent.scheduleSwitchover(group, { to, accept, by }, at);
        this.#answer(options, plan, (answer) => scheduledText(group, answer));
        return;
      }
      const begun = await agent.switchover(group, { to, accept, by });
      const told = (step: SwitchoverStep): void => {
        if (!options.json) this.#out(stepText(step));
      };
      progress = await followSwitchover(agent, group, begun, told, this.#terminal.signal);
      this.#exitCode = outcomeCode(progress);
    }
    this.#answer(options, progress, (answer) => outcomeText(group, answer));
    if (!options.json && progress.hint !== "") this.#terminal.err.write(`${progress.hint}\n`);
  }

  async #events(group: string | undefined, options: CommonOptions & { follow?: boolean }): Promise<void> {
    const { eventLines, eventText } = await import("./event-lines.ts");
    const path = eventLogPath(this.#state(options));
    for await (const found of eventLines(path, options.follow === true, this.#terminal.signal)) {
      if (found.kind === "unreadable") {
        this.#terminal.err.write(`not an event: ${JSON.stringify(found.line.slice(0, 200))}\n`);
        continue;
      }
      if (group !== undefined && found.event.group !== group) continue;
      this.#out(`${options.json ? found.line : eventText(found.event)}\n`);
    }
  }

  #showStatus(status: AgentStatus, options: CommonOptions): void {
    if (options.json) this.#json(status);
    else this.#out(statusText(status));
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
        const status = await this.#statusOf(this.#agent(options), options);
        this.#out(options.json ? `${JSON.stringify(status)}\n` : `${clear}${statusText(status)}`);
      } catch (error) {
        if (!(error instanceof UnderstudyError) || error.exitCode === exitCodes.usage) throw error;
        this.#terminal.err.write(`${clear}${failureText(error)}`);
      }
      await delay(1000, undefined, { signal }).catch((error: unknown) => {
        if (!signal.aborted) throw error;
      });
    }
  }

  /** The agent and the group that is meant: the one that was named, or the only one that there is. */
  async #group(name: string | undefined, options: CommonOptions, _status: "with status"): Promise<WithStatus>;
  async #group(name: string | undefined, options: CommonOptions): Promise<Omit<WithStatus, "status">>;
  async #group(name: string | undefined, options: CommonOptions, withStatus?: "with status") {
    const agent = this.#agent(options);
    const named = await this.#checkedByFile(name, options);
    if (named !== undefined && options.node === undefined && !withStatus) return { agent, group: named };
    const status = await this.#statusOf(agent, options);
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

  #agent(options: CommonOptions): ControlHandler {
    return connectControl(controlSocketPath(this.#state(options)));
  }

  async #statusOf(agent: ControlHandler, options: CommonOptions): Promise<AgentStatus> {
    const status = await agent.status();
    const node = options.node ?? this.#terminal.environment.UNDERSTUDY_NODE;
    if (node !== undefined && node !== "" && node !== status.node) throw new OtherNode(node, status.node);
    return status;
  }

  #state(options: CommonOptions): string {
    return resolve(this.#need("state", options));
  }

  #need(what: "config" | "node" | "state", options: CommonOptions): string {
    const value = options[what] ?? this.#terminal.environment[`UNDERSTUDY_${what.toUpperCase()}`];
    if (value !== undefined && value !== "") return value;
    const flag = { config: "-c FILE", node: "--node NAME", state: "--state DIR" }[what];
    const noun = { config: "the configuration", node: "the node", state: "the state directory" }[what];
    throw new OptionMissing(noun, `Give it with ${flag} or UNDERSTUDY_${what.toUpperCase()}.`);
  }

  #answer<T>(options: CommonOptions, answer: T, text: (answer: T) => string): void {
    if (options.json) this.#json(answer);
    else this.#out(text(answer));
  }

  #json(value: unknown): void {
    this.#out(`${JSON.stringify(value)}\n`);
  }

  #out(text: string): void {
    this.#terminal.out.write(text);
  }
}

interface WithStatus {
  readonly agent: ControlHandler;
  readonly group: string;
  readonly status: AgentStatus;
}

interface ForkFlags {
  readonly to?: string;
  readonly yes?: boolean;
}

interface WaitFlags {
  readonly timeout: number;
  readonly replica?: string[];
  readonly replicas?: number;
}

interface PromoteFlags extends Record<string, unknown> {
  readonly yes?: boolean;
  readonly acceptLoss?: true | string;
  readonly abort?: boolean;
}

interface SwitchoverFlags extends Record<string, unknown> {
  readonly to?: string;
  readonly dryRun?: boolean;
  readonly at?: string;
  readonly abort?: boolean;
}

function common(command: Command): Command {
  return command
    .option("-c, --config <file>", "the cluster's configuration (UNDERSTUDY_CONFIG)")
    .option("--node <name>", "which of its nodes this is (UNDERSTUDY_NODE)")
    .option("--state <directory>", "where this node keeps its state (UNDERSTUDY_STATE)");
}

/** One that asks the agent about one group. */
function groupVerb(program: Command, name: string): Command {
  return common(program.command(name))
    .argument("[group]", "may be left out where there is only one")
    .option("--json", "print JSON");
}

function accepting(command: Command, verb: keyof typeof acceptances): Command {
  for (const [name, meaning] of Object.entries(acceptances[verb])) {
    command.option(`--accept-${name}`, `go on although ${meaning}`);
  }
  return command;
}

function acceptedIn(options: Record<string, unknown>, verb: keyof typeof acceptances): string[] {
  return Object.keys(acceptances[verb]).filter((name) => options[camelCase(`accept-${name}`)] === true);
}

/** As commander names an option's value. */
function camelCase(flag: string): string {
  return flag.replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function groupIn(status: AgentStatus, name: string): GroupStatus {
  const group = Object.hasOwn(status.groups, name) ? status.groups[name] : undefined;
  if (!group) throw new GroupUnknown(name, Object.keys(status.groups));
  return group;
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
