import { resolve } from "node:path";
import { Argument, type Command } from "commander";
import { type Asking, type CommonOptions, common, groupVerb, NotAnsweredYes, OptionMissing } from "./asking.ts";
import { callerName } from "./caller.ts";
import { droppedText, exportedText, forksText, forkText, rejoinedText, shownFork } from "./fork-text.ts";
import { confirmed } from "./terminal.ts";

interface ForkFlags {
  readonly to?: string;
  readonly yes?: boolean;
}

/** What former primaries had beyond the last common cut. */
export function forkVerbs(program: Command, asking: Asking): void {
  groupVerb(program, "rejoin")
    .summary("let a former primary follow the one that was promoted")
    .description(
      "Stops the service here, keeps what only this node has as a fork, and lets it follow the primary from the last common cut: only what differs is shipped.",
    )
    .action(async (name: string | undefined, options: CommonOptions) => {
      const { agent, group } = await asking.group(name, options);
      asking.answer(options, await agent.rejoin(group, { by: callerName(asking.terminal.environment) }), (answer) =>
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
      await forks(asking, action, name, options);
    });
}

async function forks(
  asking: Asking,
  action: string,
  name: string | undefined,
  options: CommonOptions & ForkFlags,
): Promise<void> {
  const agent = asking.agent(options);
  if (options.node !== undefined) await asking.statusOf(agent, options);
  if (action === "list") {
    asking.answer(options, await agent.forks(), forksText);
    return;
  }
  if (name === undefined) throw new OptionMissing("the name of the fork", "`understudy forks list` shows them.");
  if (action === "show") {
    asking.answer(options, await agent.showFork(name), forkText);
  } else if (action === "export") {
    if (options.to === undefined) throw new OptionMissing("where to export it to", "Give it with --to DIR.");
    const to = resolve(options.to);
    asking.answer(options, await agent.exportFork(name, { to }, asking.terminal.signal), exportedText);
  } else {
    if (!options.yes) {
      const kept = "The fork is kept.";
      asking.terminal.err.write(await shownFork(agent, name));
      if (!asking.terminal.interactive) throw new NotAnsweredYes("nobody is here to confirm that", kept);
      if (!(await confirmed(asking.terminal, "Drop it for ever?")))
        throw new NotAnsweredYes("dropping the fork was not confirmed", kept);
    }
    asking.answer(options, await agent.dropFork(name, { by: callerName(asking.terminal.environment) }), droppedText);
  }
}
