import { type ExitCode, exitCodes, UnderstudyError } from "../../shared/errors.ts";
import { durationText } from "../../shared/units.ts";
import type {
  ControlHandler,
  SwitchoverPlan,
  SwitchoverProgress,
  SwitchoverSchedule,
  SwitchoverStep,
} from "../control/api.ts";
import { reasonText } from "./text.ts";

/** Nobody follows the switchover any more; it goes on all the same. */
class NoLongerFollowed extends UnderstudyError {
  readonly code = "NO_LONGER_FOLLOWED";
  readonly remedy = "retry";
  readonly state = "The switchover goes on, here or there, or back.";
  readonly hint = "See `understudy status` and `understudy events` on both nodes.";
}

/** Tells each step as it happens, until the end; gives all of them. */
export async function followSwitchover(
  agent: ControlHandler,
  group: string,
  begun: SwitchoverProgress,
  told: (step: SwitchoverStep) => void,
  signal: AbortSignal,
): Promise<SwitchoverProgress> {
  const steps: SwitchoverStep[] = [];
  let progress = begun;
  for (;;) {
    for (const step of progress.steps) told(step);
    steps.push(...progress.steps);
    if (progress.outcome !== null) return { ...progress, steps };
    if (signal.aborted) throw new NoLongerFollowed("interrupted while the switchover was under way");
    try {
      progress = await agent.switchoverProgress(group, progress.next);
    } catch (error) {
      throw new NoLongerFollowed("the agent cannot be asked any more how far the switchover is", { cause: error });
    }
    if (progress.id !== begun.id) throw new NoLongerFollowed("another switchover has begun since");
  }
}

export function stepText({ at, ms, text }: SwitchoverStep): string {
  return `${at}  ${`+${ms} ms`.padStart(9)}  ${text}\n`;
}

export function outcomeText(group: string, { from, to, outcome, reason, pauseMs }: SwitchoverProgress): string {
  const pause = pauseMs === null ? "" : `, nobody was served for ${durationText(pauseMs)}`;
  switch (outcome) {
    case "done":
      return `${group}: ${to} is primary${pause}.\n`;
    case "rolled-back":
      return `${group}: ${from} is primary as before${pause}: ${reason}.\n`;
    case "service-failed":
      return `${group}: ${to} is primary, and its service could not be started: ${reason}.\n`;
    case "refused":
      return `${group}: nothing was changed: ${reason}.\n`;
    case "service-unknown":
      return `${group}: ${to} is primary, and ${reason}.\n`;
    case "superseded":
    case "in-doubt":
      return `${group}: ${reason}.\n`;
    case null:
      return `${group}: it is going back to ${from} still: see \`understudy status\`.\n`;
  }
}

export function outcomeCode({ outcome }: SwitchoverProgress): ExitCode {
  if (outcome === "done") return exitCodes.done;
  return outcome === "refused" ? exitCodes.refused : exitCodes.failed;
}

/** Who aborts it wants the service where it was. */
export function abortCode({ outcome }: SwitchoverProgress): ExitCode {
  return outcome === "rolled-back" || outcome === "refused" ? exitCodes.done : exitCodes.failed;
}

export function scheduledText(group: string, { to, at }: SwitchoverSchedule): string {
  return `${group}: it is moved to ${to} at ${at}, by the agent of this node.\n`;
}

export function cancelledText(group: string, cancelled: SwitchoverSchedule | null): string {
  return cancelled === null ? "" : `${group}: it is not moved to ${cancelled.to} at ${cancelled.at} any more.\n`;
}

export function planText(group: string, plan: SwitchoverPlan): string {
  const lines = [`${plan.to} would become primary of ${group} in place of ${plan.from}:`];
  for (const [index, { text, ms }] of plan.steps.entries())
    lines.push(`  ${index + 1}. ${text}: ${ms === null ? "not known yet" : `about ${durationText(ms)}`}`);
  lines.push(
    plan.pauseMs === null
      ? "How long nobody would be served is not known: a step was never measured."
      : `Nobody would be served for about ${durationText(plan.pauseMs)}.`,
  );
  if (plan.obstacles.length === 0) lines.push("Nothing stands in the way.");
  for (const obstacle of plan.obstacles) lines.push(`In the way: ${reasonText(obstacle)}`);
  return `${lines.join("\n")}\n`;
}
