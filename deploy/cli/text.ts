import { pausedText } from "../../shared/session/paused.ts";
import { durationText, sizeText } from "../../shared/units.ts";
import {
  type AgentStatus,
  type CutAnswer,
  cutRefText,
  type Difference,
  type DurabilityStatus,
  type GroupStatus,
  type Lag,
  type PausedStatus,
  type PeerStatus,
  type PointsAnswer,
  type PromoteAnswer,
  type Reason,
  type RejoiningStatus,
  type RestoreAnswer,
  type TakeoverStatus,
  type Verified,
  type VerifyAnswer,
  type WaitAnswer,
} from "../control/api.ts";
import type { CutRef } from "../control/json-names.ts";

/** Answers of the agent as a person reads them. All pure; each ends with a newline. */

export function statusText(status: AgentStatus, now = new Date()): string {
  const lines = [`node ${status.node}, understudy ${status.software}, running since ${status.startedAt}`];
  const groups = Object.entries(status.groups);
  if (groups.length === 0) lines.push("", "This node takes part in no group.");
  for (const [name, group] of groups) lines.push("", groupText(name, group, now).trimEnd());
  return `${lines.join("\n")}\n`;
}

function groupText(name: string, group: GroupStatus, now: Date): string {
  const lines = [...takeoverLines(group, now), groupSentence(name, group)];
  const peers = Object.entries(group.peers);
  if (peers.length > 0) {
    const rows = peers.map(([peer, at]) => [
      peer,
      at.state,
      lagText(at.lag),
      at.received ? cutRefText(at.received) : "-",
      at.durable ? cutRefText(at.durable) : "-",
      at.applied ? cutRefText(at.applied) : "-",
      rpoText(at.rpo),
    ]);
    lines.push(...table(["PEER", "STATE", "LAG", "RECEIVED", "DURABLE", "APPLIED", "RPO"], rows));
    for (const [peer, at] of peers) if (at.reason !== "") lines.push(`  ${peer}: ${at.reason}`);
  }
  const { forks, durability } = group;
  if (durability.degraded)
    lines.push(`  durability is degraded since ${durability.degradedSince}: ${missedText(durability)}`);
  if (forks.count > 0)
    lines.push(`  ${count(forks.count, "fork")} kept here: ${forks.names.join(", ")} (see forks show)`);
  const stores = Object.entries(group.stores).map(([store, at]) => [
    store,
    at.kind,
    at.consistency ?? "-",
    String(at.files),
    sizeText(at.bytes),
    at.writerWaitMs ? `${durationText(at.writerWaitMs.p99)} p99` : "-",
    at.position === "" ? "-" : at.position,
  ]);
  lines.push(...table(["STORE", "KIND", "CONSISTENCY", "FILES", "SIZE", "WRITER WAIT", "POSITION"], stores));
  for (const [store, at] of Object.entries(group.stores)) {
    if (at.behind > 0)
      lines.push(`  ${store}: ${count(at.behind, "file")} moved while being read and kept an older state`);
    const { source } = at;
    if (source !== undefined && source.unreadable > 0)
      lines.push(`  ${store}: ${count(source.unreadable, "path")} cannot be read and kept an older state`);
    if (source !== undefined && source.excluded > 0)
      lines.push(
        `  ${store}: ${count(source.excluded, "path")} that \`exclude\` leaves out by now, kept as they were: see cut --prune`,
      );
    if (source?.scrub && source.scrub.differing > 0)
      lines.push(
        `  ${store}: the scrub met ${count(source.scrub.differing, "file")} whose content changed without a trace`,
      );
  }
  return lines.join("\n");
}

function takeoverLines({ takeover }: GroupStatus, now: Date): string[] {
  return takeover === null ? [] : [`${takeoverSentence(takeover, now)}.`];
}

/** The sentence for the wall: who could take over now, what that would cost, and how far it may be believed. */
export function takeoverSentence(takeover: TakeoverStatus, now: Date): string {
  const { node, ok, why, loss, rtoEstimateSeconds, verified, forks } = takeover;
  if (!ok) return node === null ? `nobody could take over now: ${why}` : `${node} could not take over now: ${why}`;
  const seconds = loss.seconds === null ? "" : secondsText(loss.seconds);
  const lost =
    loss.cuts === null || loss.basis === "silence"
      ? `loses what was written in the last ${seconds === "" ? "unknown time" : seconds}`
      : `loses ${count(loss.cuts, "cut")}${seconds === "" ? "" : ` (${seconds})`}`;
  const opens = rtoEstimateSeconds === null ? "" : `, opens in about ${secondsText(rtoEstimateSeconds)}`;
  const open = forks === 0 ? "no open forks" : count(forks, "open fork");
  return `${node} could take over now: ${lost}${opens}, ${verifiedSentence(verified, now)}, ${open}`;
}

function secondsText(seconds: number): string {
  return seconds < 60 ? `${Number(seconds.toFixed(2))} s` : durationText(Math.round(seconds) * 1000);
}

function verifiedSentence(verified: Verified | null, now: Date): string {
  if (verified === null) return "never verified";
  const what = verified.ok ? "last verified" : "found to differ when it was last verified,";
  return `${what} ${momentText(new Date(verified.at), now)}`;
}

/** In this machine's time, as one says it. */
function momentText(at: Date, now: Date): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  const day = (of: Date): string => `${of.getFullYear()}-${two(of.getMonth() + 1)}-${two(of.getDate())}`;
  const time = `${two(at.getHours())}:${two(at.getMinutes())}`;
  const yesterday = new Date(now);
  yesterday.setDate(yesterday.getDate() - 1);
  if (day(at) === day(now)) return `${time} today`;
  return day(at) === day(yesterday) ? `${time} yesterday` : `${day(at)} ${time}`;
}

/** What is to be known of a group at 3 a.m., in one sentence (and a second one where something stands still). */
export function groupSentence(name: string, group: GroupStatus): string {
  const paused = group.paused === null ? "" : `${pausedSentence(name, group.paused)}.`;
  const { plannedSwitchover: plan } = group;
  const planned = plan === undefined ? "" : `It is moved to ${plan.to} at ${plan.at}.`;
  const others = group.membersDiffer?.join(" and ");
  const differ =
    others === undefined
      ? ""
      : `The configuration of ${others} NAMES OTHER MEMBERS, or in another order: nobody is promoted.`;
  return [roleSentence(name, group), serviceSentence(group), planned, paused, differ, haltSentence(group.halted)]
    .filter((sentence) => sentence !== "")
    .join(" ");
}

function roleSentence(name: string, group: GroupStatus): string {
  const at = group.cut ? `at cut ${cutRefText(group.cut)}, taken ${group.cut.takenAt}` : "without a cut yet";
  const peers = Object.entries(group.peers);
  switch (group.role) {
    case "unformed": {
      const whom = group.waitingFor.length === 0 ? "a primary" : group.waitingFor.join(", ");
      return `${name}: unformed, waits for ${whom}.`;
    }
    case "primary": {
      const replicas = peers.map(([peer, { state, lag }]) => `${peer} ${state} (${lagText(lag)})`).join(", ");
      return `${name}: primary ${at}; ${replicas === "" ? "no replica" : replicas}.`;
    }
    case "replica": {
      const whom = peers.map(([peer, { state }]) => `${peer} (${state})`).join(", ");
      return `${name}: replica of ${whom === "" ? "nobody yet" : whom} ${at}; ${promotableText(group)}.`;
    }
    case "promoting":
      return `${name}: being promoted ${at}.`;
    case "fenced":
      return `${name}: fenced ${at}: another node is primary by a later epoch, and nothing is shipped from here.`;
  }
}

/** A primary whose service must not run looks like any other, but for that. */
function serviceSentence({ role, service }: GroupStatus): string {
  return role !== "primary" || service.why === null ? "" : `It is not in service: ${reasonText(service.why)}`;
}

/** Loud wherever it shows: it is what is forgotten when the maintenance is over. */
export function pausedSentence(name: string, paused: PausedStatus | null): string {
  if (paused === null) return `${name}: nothing is paused`;
  const what = pausedText(paused).toUpperCase();
  return `${what} PAUSED by ${paused.by} since ${paused.since}; to go on: understudy resume ${name}`;
}

function haltSentence(halted: Reason | null): string {
  return halted === null ? "" : `It stands still: ${reasonText(halted)}`;
}

function promotableText({ promotable }: GroupStatus): string {
  if (!promotable.ok) return `not promotable: ${promotable.why.map((reason) => reason.message).join("; ")}`;
  const rto = promotable.rtoEstimateSeconds;
  const time = rto === null ? "" : ` in about ${durationText(rto * 1000)}`;
  return `promotable${time}, ${lossText(promotable.loss)}`;
}

/** What a promotion now would lose. */
function lossText(loss: Lag): string {
  if (loss.cuts === 0 && loss.bytes === 0 && loss.basis !== "silence") return "losing nothing that is known of";
  if (loss.basis !== "silence") return `losing ${lagText(loss)}`;
  // What the primary spoke of last is the least that it has; what it did in the silence comes on top.
  const known = lagText({ ...loss, seconds: null });
  return `losing at most what was written in the last ${lagText({ ...loss, bytes: null, cuts: null })} (known to be missing: ${known === "unknown" ? "nothing" : known})`;
}

function isKnown({ bytes, cuts, seconds }: Lag): boolean {
  return bytes !== null || cuts !== null || seconds !== null;
}

function lagText(lag: Lag): string {
  const parts = [
    lag.cuts === null ? undefined : count(lag.cuts, "cut"),
    lag.bytes === null ? undefined : sizeText(lag.bytes),
    lag.seconds === null ? undefined : durationText(lag.seconds * 1000),
  ].filter((part) => part !== undefined);
  return parts.length === 0 ? "unknown" : parts.join(", ");
}

function rpoText(rpo: PeerStatus["rpo"]): string {
  if (rpo === null) return "-";
  return `${durationText(rpo.seconds * 1000)} ${rpo.broken ? "BROKEN" : "kept"}`;
}

export function reasonText({ message, hint, flag }: Reason): string {
  return [`${message}.`, hint, flag === null ? "" : `To go on all the same: ${flag}`]
    .filter((part) => part !== "")
    .join(" ");
}

/** Promises of replication that are broken now. */
export function brokenPromises(status: AgentStatus): string[] {
  return Object.entries(status.groups).flatMap(([group, { peers, durability }]) => [
    ...(durability.degraded ? [`${group}: durability is degraded, ${missedText(durability)}`] : []),
    ...Object.entries(peers)
      .filter(([, { rpo }]) => rpo?.broken)
      .map(([peer, { rpo, lag }]) => {
        const promised = durationText((rpo?.seconds ?? 0) * 1000);
        const behind = isKnown(lag) ? `${lagText(lag)} behind` : "and how far it is behind is not known";
        return `${group} towards ${peer}: ${promised} promised, ${behind}`;
      }),
  ]);
}

function missedText({ replicas, timeoutSeconds }: DurabilityStatus): string {
  return `not ${count(replicas ?? 0, "replica")} acknowledged within ${durationText((timeoutSeconds ?? 0) * 1000)}`;
}

/** What stands before the question whether to promote. */
export function promotionText(
  name: string,
  node: string,
  group: GroupStatus,
  accepted: readonly string[],
  now: Date,
): string {
  const isAccepted = (flag: string | null): boolean => accepted.some((acceptance) => flag === `--accept-${acceptance}`);
  const reinstated = group.role === "fenced";
  const lines = [
    reinstated
      ? `${node} would become primary of ${name} again: all that it has stays, and ${elsewhereText}.`
      : `${node} would become primary of ${name}, ${lossText(group.promotable.loss)}.`,
  ];
  const taken = (at: string): string =>
    `taken ${at} (${durationText(Math.max(0, now.getTime() - Date.parse(at)))} ago)`;
  if (group.rejoining) lines.push(rejoiningText(group.rejoining, taken));
  else if (group.cut) {
    const from = `cut ${cutRefText(group.cut)}, ${reinstated ? "its last one" : "its last durable one"}, ${taken(group.cut.takenAt)}`;
    lines.push(reinstated ? `It goes on from what lies here, since ${from}.` : `It goes on from ${from}.`);
  }
  for (const reason of group.promotable.why)
    lines.push(isAccepted(reason.flag) ? `Accepted: ${reason.message}.` : `In the way: ${reasonText(reason)}`);
  // A lost primary makes no replica unfit, and so is not among those; it is refused all the same unless somebody vouches for it.
  const silent = Object.entries(group.peers).filter(([, { state }]) => state === "connecting");
  const vouched = isAccepted("--accept-unreachable-primary");
  for (const [peer] of silent)
    lines.push(
      vouched
        ? `${peer} does not answer: it is accepted that its service may run until it meets the new epoch.`
        : `${peer} does not answer: make sure that its service does not run, and say so by --accept-unreachable-primary.`,
    );
  return `${lines.join("\n")}\n`;
}

/** What a former primary gives up that goes on from what it has. */
const elsewhereText =
  "what was written elsewhere since it was fenced is given up (kept as a fork by whoever has it, when it is back)";

function rejoiningText({ common, ownCut, takenAt, fork }: RejoiningStatus, taken: (at: string) => string): string {
  const from = ownCut === null || takenAt === null ? "" : ` up to its own cut ${cutRefText(ownCut)}, ${taken(takenAt)}`;
  const kept = fork === null ? "" : ` Fork ${fork} is kept beside it.`;
  return `It rejoins: it goes on from what it has since cut ${cutRefText(common)}${from}, which becomes the first cut of its new reign.${kept}`;
}

export function promotedText(name: string, answer: PromoteAnswer): string {
  const time = durationText(answer.seconds * 1000);
  const from = cutRefText(answer.cut);
  const loses = answer.reinstated ? `with all that it had; ${elsewhereText}` : lossText(answer.loss);
  return `${name}: primary in epoch ${answer.epoch} after ${time}, from cut ${from}, ${loses}.\n`;
}

export function takenText({ cut, stores }: CutAnswer): string {
  const worth = Object.entries(stores).map(([store, consistency]) => `${store} ${consistency}`);
  return `cut ${cutRefText(cut)}, taken ${cut.takenAt}, ${cut.coherency}: ${worth.join(", ")}\n`;
}

export function waitText({ cut, replicas, degraded, seconds }: WaitAnswer): string {
  const held = Object.entries(replicas).map(([replica, durable]) => `${replica} (${cutRefText(durable)})`);
  if (degraded) {
    const there = held.length === 0 ? "no replica was heard of" : `durable there: ${held.join(", ")}`;
    return `cut ${cutRefText(cut)} is taken and not protected, since durability is degraded; ${there}\n`;
  }
  return `cut ${cutRefText(cut)} is durable on ${held.join(", ")} after ${durationText(seconds * 1000)}\n`;
}

export function pointsText({ group, points }: PointsAnswer): string {
  if (points.length === 0) return `${group} has no recovery point here.\n`;
  const rows = points.map((point) => [
    cutRefText(point),
    point.takenAt,
    point.coherency,
    Object.entries(point.stores)
      .map(([store, consistency]) => `${store} ${consistency}`)
      .join(", "),
  ]);
  return `${table(["CUT", "TAKEN", "COHERENCY", "STORES"], rows).join("\n")}\n`;
}

export function restoredText({ cut, to, files, bytes }: RestoreAnswer): string {
  const what = `${count(files, "file")}, ${sizeText(bytes)}`;
  return `restored cut ${cutRefText(cut)}, taken ${cut.takenAt}, to ${to}: ${what}\n`;
}

export function verifiedText(answer: VerifyAnswer): string {
  const cut: CutRef = answer.cut;
  const how = answer.quick
    ? "digests compared"
    : `${count(answer.files, "file")} read, ${sizeText(answer.bytes)}, in ${durationText(answer.seconds * 1000)}`;
  if (answer.ok) return `cut ${cutRefText(cut)}: equal (${how})\n`;
  const lines = [`cut ${cutRefText(cut)}: ${count(answer.differencesTotal, "difference")} (${how})`];
  for (const difference of answer.differences) lines.push(`  ${differenceText(difference)}`);
  const more = answer.differencesTotal - answer.differences.length;
  if (more > 0) lines.push(`  and ${more} more`);
  return `${lines.join("\n")}\n`;
}

function differenceText(difference: Difference): string {
  const path = "path" in difference ? JSON.stringify(difference.path) : `base64 ${difference.pathB64}`;
  return `${difference.store} ${path}: ${difference.what}`;
}

export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  return [head, ...rows].map((row) =>
    `  ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ")}`.trimEnd(),
  );
}
