import type { Engine } from "../words.ts";
import { membersHint } from "./connect.ts";
import type { SwitchoverRecord } from "./switchover.ts";

/** Something that stands in the way of a switchover. */
export interface Obstacle {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  /** What passes it; undefined when nothing does. */
  readonly flag?: string;
}

/** What the primary knows before it stops its service; a value, so that the rule is a table. */
export interface SourceCase {
  readonly group: string;
  readonly node: string;
  readonly role: string;
  readonly to: string;
  readonly members: readonly string[];
  /** Who is connected with a configuration that names other ones, or the same in another order. */
  readonly namingOthers: readonly string[];
  /** Who decides about promotions. */
  readonly engine: Engine;
  /** One that is under way. */
  readonly record: SwitchoverRecord | undefined;
  /** Why no cuts are taken; "" when they are. */
  readonly halted: string;
  readonly paused: boolean;
  /** Why the service does not run here, although this node is primary; "" when it does. */
  readonly outOfService: string;
  readonly stopsService: boolean;
  readonly software: string;
  /** Undefined: it is not connected. */
  readonly target: TargetCase | undefined;
  /** What is known of a target that is not connected. */
  readonly targetReason: string;
  readonly lagSecondsMax: number;
  readonly accept: { readonly runningService: boolean };
}

export interface TargetCase {
  readonly state: string;
  readonly features: readonly string[];
  readonly software: string;
  readonly suspect: string;
  readonly damaged: number;
  readonly everCut: boolean;
  readonly lagSeconds: number;
}

/** The feature of who can be handed a reign. */
export const switchoverFeature = "switchover";

/** What stands in the way, as far as the primary can tell without asking the target. */
export function sourceObstacles(facts: SourceCase): Obstacle[] {
  const { group, to, target } = facts;
  const found: Obstacle[] = [];
  const add = (code: string, message: string, hint: string, flag?: string): void => {
    found.push({ code, message, hint, ...(flag === undefined ? {} : { flag }) });
  };
  if (facts.role !== "primary") {
    add("NOT_PRIMARY", `this node is ${facts.role}`, "A switchover is asked of the primary: see `understudy status`.");
    return found;
  }
  if (facts.namingOthers.length > 0)
    add(
      "MEMBERS_DIFFER",
      `the configuration of ${facts.namingOthers.join(", ")} names other members of the group, or in another order`,
      membersHint,
    );
  if (facts.engine !== "none") {
    const hint = `crm_resource --resource CLONE --move --promoted --node ${to}; when it is there, the same with --clear in place of --move.`;
    add(
      "ENGINE_DECIDES",
      `${facts.engine} decides who is primary of this group`,
      `The cluster moves it, and loses as little: ${hint}`,
    );
    return found;
  }
  if (facts.record !== undefined)
    add(
      "SWITCHOVER_UNDER_WAY",
      `one to ${facts.record.to} is under way (${facts.record.step})`,
      `See \`understudy status\`; understudy switchover ${group} --abort takes it back.`,
    );
  if (!facts.members.includes(to)) {
    add("NOT_A_MEMBER", `${JSON.stringify(to)} is no node of group ${group}`, `Name one of ${others(facts)}.`);
    return found;
  }
  if (to === facts.node) {
    add("PRIMARY_ALREADY", `${to} is the primary already`, `Name one of ${others(facts)}.`);
    return found;
  }
  if (facts.halted !== "") add("HALTED", `the group stands still: ${facts.halted}`, "Mend that first.");
  if (facts.paused) add("PAUSED", "a person has paused the group on this node", `understudy resume ${group}`);
  if (facts.outOfService !== "")
    add("OUT_OF_SERVICE", `the service does not run here: ${facts.outOfService}`, "Nothing can be moved from here.");
  if (!facts.stopsService && !facts.accept.runningService)
    add(
      "NO_STOP_SERVICE",
      "the configuration has no stop_service: nobody here can stop the service",
      "Configure it, or stop the service yourself first.",
      "--accept-running-service",
    );
  if (target === undefined) {
    const why = facts.targetReason === "" ? "" : `: ${facts.targetReason}`;
    add("NOT_CONNECTED", `${to} is not connected${why}`, "Start its agent; look at addresses, routes and firewalls.");
    return found;
  }
  if (!target.features.includes(switchoverFeature))
    add("TARGET_TOO_OLD", `${to} runs ${target.software}, which knows no switchover`, "Upgrade it first.");
  if (majorOf(target.software) !== majorOf(facts.software))
    add(
      "OTHER_SOFTWARE",
      `${to} runs ${target.software}, this node ${facts.software}`,
      "Bring both to the same major version.",
    );
  if (target.suspect !== "" || target.damaged > 0) {
    const why = target.suspect === "" ? `${target.damaged} files are damaged` : target.suspect;
    add("SUSPECT", `the copy of ${to} is suspect: ${why}`, `On ${to}: understudy verify ${group}; it is being mended.`);
  }
  if (!target.everCut) add("SEEDING", `${to} has no complete cut yet`, "Wait until the first copy is durable there.");
  else if (target.lagSeconds > facts.lagSecondsMax)
    add(
      "LAGGING",
      `${to} is ${target.lagSeconds.toFixed(1)} s behind, more than ${facts.lagSecondsMax} s`,
      "Wait until it has caught up.",
    );
  return found;
}

function others({ members, node }: SourceCase): string {
  return members.filter((member) => member !== node).join(", ");
}

function majorOf(software: string): string {
  return software.split(".")[0] ?? "";
}

/** What the target knows of itself, when it is asked. */
export interface TargetSelfCase {
  readonly group: string;
  readonly node: string;
  /** The session in which it was asked is the one whose cuts it takes. */
  readonly follows: boolean;
  /** What would refuse a promotion of it, beside that the primary lives and what might be lost. */
  readonly refusals: readonly Obstacle[];
  readonly paused: boolean;
  /** Where its service and its catalog write, with what is free there. */
  readonly room: readonly { readonly path: string; readonly freeBytes: number }[];
  readonly freeBytesMin: number;
  /** Hooks that it would run and whose command is none that its agent may run. */
  readonly hooksMissing: readonly string[];
}

export function targetObstacles(facts: TargetSelfCase): Obstacle[] {
  const { node, group } = facts;
  const found: Obstacle[] = facts.refusals.map((refusal) => ({ ...refusal, message: `${node}: ${refusal.message}` }));
  if (!facts.follows)
    found.push({
      code: "NOT_FOLLOWING",
      message: `${node} does not follow this primary in this session`,
      hint: `On ${node}: understudy status`,
    });
  if (facts.paused)
    found.push({ code: "PAUSED", message: `${node} is paused`, hint: `On ${node}: understudy resume ${group}` });
  for (const { path, freeBytes } of facts.room) {
    if (freeBytes >= facts.freeBytesMin) continue;
    const mebibytes = (bytes: number): string => `${Math.floor(bytes / 2 ** 20)} MiB`;
    found.push({
      code: "NO_ROOM",
      message: `${node} has ${mebibytes(freeBytes)} free at ${path}, less than ${mebibytes(facts.freeBytesMin)}`,
      hint: "Make room there.",
    });
  }
  for (const hook of facts.hooksMissing)
    found.push({
      code: "HOOK_MISSING",
      message: `${node} cannot run the hook ${hook}`,
      hint: `On ${node}: understudy check`,
    });
  return found;
}
