import { equalBytes } from "../manifest/block-hash.ts";
import { type CutId, cutText, type Role, sameCut, unreachable } from "../words.ts";

/**
 * The steps of a planned promotion as a pure machine: what is written down before anything is done, and what is done then.
 * The primary (the source) leads; the replica that takes over (the target) decides by one durable transaction, its new
 * epoch. Whatever the machine says is durable first: a restart goes on from the record.
 *
 *     in service -> stopping -> cutting -> handing -> (demoted, follows the target)
 *                       \__________\__________\____-> rolling-back -> in service
 *
 * Before `handing` the source goes back by itself. In it the target may have taken over without our having heard: the source
 * goes back only when the target says that it has not, or when a person gives it up, in an epoch above the target's.
 */
export type SwitchoverRecord = {
  /** Random, 16 hex digits. */
  readonly id: string;
  /** The node that is to take over; "": whomever a cluster promotes, which has demoted this one. */
  readonly to: string;
  /** Why it goes back; "" when it does not. */
  readonly reason: string;
} & (
  | { readonly step: "stopping" | "cutting" | "rolling-back" }
  | {
      readonly step: "handing";
      /** The last cut of this reign, and its digest: exactly that is handed over. */
      readonly cut: CutId;
      readonly digest: Uint8Array;
    }
);

export type SourceEvent =
  | { readonly kind: "asked"; readonly id: string; readonly to: string }
  /** The service was stopped. */
  | { readonly kind: "stopped" }
  /** The last cut is durable and applied at the target, which has the same digest. */
  | { readonly kind: "agreed"; readonly cut: CutId; readonly digest: Uint8Array }
  /** A step failed or took too long, the target refuses or is gone, or somebody wants it ended. */
  | { readonly kind: "failed"; readonly reason: string }
  /** The target's answer to a handover or to its revocation. */
  | { readonly kind: "answered"; readonly id: string; readonly accepted: boolean; readonly reason: string }
  /** A session with the target begins, which is a replica still. `late`: the limit of the step has passed. */
  | { readonly kind: "connected"; readonly late: boolean }
  /** A higher epoch was met; `common` is the last cut that its primary has of ours. */
  | { readonly kind: "superseded"; readonly common: CutId | undefined }
  /** The agent was started and finds the record. */
  | { readonly kind: "restarted" }
  /** A person gives the target up: it may have taken over, and is fenced by a new epoch then. */
  | { readonly kind: "abandoned" }
  /** The service runs again, or was tried to be started. */
  | { readonly kind: "started" };

export type SourceAction =
  | "stop-service"
  | "last-cut"
  | "send-handover"
  | "send-revoke"
  | "start-service"
  | "demote"
  | "fence"
  | "new-epoch";

export interface SourceStep {
  /** Durable before the actions begin. */
  readonly record: SwitchoverRecord | undefined;
  readonly actions: readonly SourceAction[];
}

/** What the source does at an event. An event that means nothing in its step changes nothing. */
export function sourceStep(record: SwitchoverRecord | undefined, event: SourceEvent): SourceStep {
  const stay: SourceStep = { record, actions: [] };
  if (event.kind === "superseded") return superseded(record, event.common);
  if (record === undefined) {
    if (event.kind !== "asked") return stay;
    return { record: { id: event.id, to: event.to, reason: "", step: "stopping" }, actions: ["stop-service"] };
  }
  switch (record.step) {
    case "stopping":
    case "cutting":
      if (event.kind === "failed") return rollBack(record, event.reason);
      if (event.kind === "restarted") return rollBack(record, "the agent of the primary was restarted");
      if (record.step === "stopping" && event.kind === "stopped")
        return { record: { ...record, step: "cutting" }, actions: ["last-cut"] };
      if (record.step === "cutting" && event.kind === "agreed") {
        const { cut, digest } = event;
        return { record: { ...record, step: "handing", cut, digest }, actions: ["send-handover"] };
      }
      return stay;
    case "handing":
      switch (event.kind) {
        case "answered":
          if (event.id !== record.id) return stay;
          // That it has taken over shows in its history, when it is met as a primary: nothing else ends this reign.
          return event.accepted ? stay : rollBack(record, event.reason);
        case "connected":
          // What was handed over and not answered before is not known to have arrived, and is harmless twice.
          return { record, actions: [event.late || record.reason !== "" ? "send-revoke" : "send-handover"] };
        case "failed":
          return { record: { ...record, reason: record.reason || event.reason }, actions: ["send-revoke"] };
        case "restarted":
          // How long it was away is not known: it goes back, unless the target has taken over.
          return {
            record: { ...record, reason: record.reason || "the agent of the primary was restarted" },
            actions: [],
          };
        case "abandoned":
          return {
            record: rolling(record, "given up without the target's answer"),
            actions: ["new-epoch", "start-service"],
          };
        default:
          return stay;
      }
    case "rolling-back":
      if (event.kind === "started") return { record: undefined, actions: [] };
      if (event.kind === "restarted") return { record, actions: ["start-service"] };
      return stay;
    default:
      return unreachable(record);
  }
}

/** Somebody reigns above us: the target, from exactly what was handed over, or somebody who has less than we have. */
function superseded(record: SwitchoverRecord | undefined, common: CutId | undefined): SourceStep {
  if (record?.step === "handing" && common !== undefined && sameCut(common, record.cut))
    return { record: undefined, actions: ["demote"] };
  return { record: undefined, actions: ["fence"] };
}

function rollBack(record: SwitchoverRecord, reason: string): SourceStep {
  return { record: rolling(record, reason), actions: ["start-service"] };
}

function rolling({ id, to, reason: before }: SwitchoverRecord, reason: string): SwitchoverRecord {
  return { id, to, step: "rolling-back", reason: before === "" ? reason : before };
}

/** Whether a primary with this record takes cuts for its replicas. */
export function takesCuts(record: SwitchoverRecord | undefined): boolean {
  return record?.step !== "handing";
}

/** What the target is when a handover comes. */
export interface TargetFacts {
  readonly role: Role;
  readonly committed: CutId;
  readonly applied: bigint;
  readonly digest: Uint8Array;
  readonly suspect: string;
  readonly halted: string;
  /** Why this node shall not be promoted now; "" when it may. */
  readonly barred: string;
}

export interface Handover {
  readonly id: string;
  readonly cut: CutId;
  readonly digest: Uint8Array;
}

/** Why the target does not take over exactly what it is handed; "" when it does. */
export function handoverRefusal(facts: TargetFacts, handover: Handover): string {
  if (facts.role !== "replica") return `this node is ${facts.role}`;
  if (facts.halted !== "") return `the group stands still there: ${facts.halted}`;
  if (facts.suspect !== "") return `the copy is suspect: ${facts.suspect}`;
  if (facts.barred !== "") return facts.barred;
  if (!sameCut(facts.committed, handover.cut))
    return `the last durable cut is ${cutText(facts.committed)}, not ${cutText(handover.cut)}`;
  if (facts.applied !== handover.cut.seq) return `cut ${cutText(handover.cut)} is not applied yet`;
  if (!equalBytes(facts.digest, handover.digest)) return `cut ${cutText(handover.cut)} has another digest`;
  return "";
}

/**
 * What the target says to a revocation, once nothing else is under way there: it has taken over, or it never will by this
 * handover, since one of an older session is dropped with its channel.
 */
export function revocationAnswer(facts: Pick<TargetFacts, "role">): {
  readonly accepted: boolean;
  readonly reason: string;
} {
  return facts.role === "replica"
    ? { accepted: false, reason: "the target has not taken over" }
    : { accepted: true, reason: `the target is ${facts.role}` };
}
