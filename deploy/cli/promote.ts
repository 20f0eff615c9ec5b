import { type AgentStatus, cutRefText, type GroupStatus, GroupUnknown } from "../control/api.ts";
import { type Asking, acceptedIn, type CommonOptions, NotAnsweredYes } from "./asking.ts";
import { callerName } from "./caller.ts";
import { confirmed } from "./terminal.ts";
import { promotedText, promotionText } from "./text.ts";

export interface PromoteFlags extends Record<string, unknown> {
  readonly yes?: boolean;
  readonly acceptLoss?: true | string;
  readonly abort?: boolean;
}

export async function promote(
  asking: Asking,
  name: string | undefined,
  options: CommonOptions & PromoteFlags,
): Promise<void> {
  const { agent, group, status } = await asking.group(name, options, "with status");
  if (options.abort) {
    asking.answer(
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
    asking.terminal.err.write(promotionText(group, status.node, state, accept, new Date()));
    if (!options.yes) {
      if (!asking.terminal.interactive) throw new NotAnsweredYes("nobody is here to confirm the promotion");
      if (!(await confirmed(asking.terminal, "Promote it?")))
        throw new NotAnsweredYes("the promotion was not confirmed");
      // Who has read what is lost by going on from this cut, and says yes, has accepted just that; --yes has read nothing.
      if (state.cut) acceptLoss ??= cutRefText(state.cut);
    }
  }
  const loss = acceptLoss === undefined ? {} : { acceptLoss };
  asking.answer(
    options,
    await agent.promote(group, { accept, ...loss, by: callerName(asking.terminal.environment) }),
    (answer) => promotedText(group, answer),
  );
}

function groupIn(status: AgentStatus, name: string): GroupStatus {
  const group = Object.hasOwn(status.groups, name) ? status.groups[name] : undefined;
  if (!group) throw new GroupUnknown(name, Object.keys(status.groups));
  return group;
}
