import { type Engine, type Role, unreachable } from "../words.ts";
import type { SwitchoverRecord } from "./switchover.ts";

/** Everything that decides whether this node's service may run; a value, so that the rule is a table. */
export interface ServiceFacts {
  readonly group: string;
  readonly role: Role;
  readonly epoch: bigint;
  /** A planned promotion of another node that this primary leads. */
  readonly switchover: SwitchoverRecord | undefined;
  /** Why nothing is taken from its source until a person decides; "" when it is. */
  readonly halted: string;
  /** As the catalog has it: see `confirmation`. */
  readonly confirmed: string;
  /** Of the machine as it runs now; "" where that cannot be told. */
  readonly bootId: string;
  /** Every other member, and the highest epoch that it has said it knows; undefined while it has not answered. */
  readonly others: readonly { readonly node: string; readonly highestEpoch: bigint | undefined }[];
  readonly engine: Engine;
}

export type ServiceState =
  | { readonly kind: "in-service" }
  /** Nothing is known against it: in service as soon as that is written down. */
  | { readonly kind: "confirmable" }
  | ({ readonly kind: "out" } & OutOfService);

/** Why a node's service must not run. */
export interface OutOfService {
  readonly code: "NOT_PRIMARY" | "SUPERSEDED" | "SWITCHOVER" | "REPLICA_NEWER" | "UNCONFIRMED";
  readonly message: string;
  readonly hint: string;
  /** What would pass it, whole; undefined when nothing does. */
  readonly flag: string | undefined;
}

/** What the catalog says of a reign that was confirmed: which one, and as long as the machine runs. */
export function confirmation(bootId: string, epoch: bigint): string {
  return bootId === "" ? "" : `${bootId} ${epoch}`;
}

/**
 * Whether the service of a group runs on this node. A catalog that says "primary" is not enough: as long as the machine was
 * off somebody else may have been promoted, and only the others know. A reign is confirmed by all of them, or by a person, and
 * stays so until the machine is started anew, since nobody fences a machine that goes on.
 */
export function serviceState(facts: ServiceFacts): ServiceState {
  const { group, role, epoch, others } = facts;
  if (role !== "primary") return out("NOT_PRIMARY", `this node is ${role}`, "Ask the node that is primary.");
  const above = others.find(({ highestEpoch }) => highestEpoch !== undefined && highestEpoch > epoch);
  if (above !== undefined) {
    const message = `${above.node} knows epoch ${above.highestEpoch}, and this reign is of epoch ${epoch}`;
    return out("SUPERSEDED", message, "Another node is primary by now, or was.");
  }
  const moving = outForSwitchover(group, facts.switchover);
  if (moving !== undefined) return moving;
  if (facts.halted !== "") {
    const hint = `Promote the replica, or, if what this node has is what you want: understudy cut ${group} --accept-source`;
    return out("REPLICA_NEWER", facts.halted, hint);
  }
  if (facts.confirmed !== "" && facts.confirmed === confirmation(facts.bootId, epoch)) return { kind: "in-service" };
  if (others.length === 0) return { kind: "confirmable" };
  if (facts.engine !== "none") {
    const message = "the cluster has not promoted this node since the machine was started";
    return out("UNCONFIRMED", message, "Its engine does that: see the state of the cluster.");
  }
  const missing = others.filter(({ highestEpoch }) => highestEpoch === undefined).map(({ node }) => node);
  if (missing.length === 0) return { kind: "confirmable" };
  return out(
    "UNCONFIRMED",
    `since the machine was started, ${missing.join(" and ")} did not answer whether another node was promoted`,
    "Start them, or make sure that none of them is primary, and that none will be without this node.",
    `understudy confirm ${group} --accept-unreachable`,
  );
}

/** Until it is handed over the service stands still here; a switchover that goes back has it started again. */
function outForSwitchover(group: string, record: SwitchoverRecord | undefined): ServiceState | undefined {
  if (record === undefined) return undefined;
  switch (record.step) {
    case "stopping":
    case "cutting":
    case "handing": {
      if (record.to === "")
        return out(
          "SWITCHOVER",
          "the cluster has demoted this node",
          "The cluster promotes another one, or this one again.",
        );
      const ends = "It ends by itself, here or there; see `understudy events`.";
      const hint =
        record.step === "handing"
          ? `${ends} Only where ${record.to} is gone for ever: understudy switchover ${group} --abort --accept-unreachable-target`
          : ends;
      return out("SWITCHOVER", `the group is being moved to ${record.to} (${record.step})`, hint);
    }
    case "rolling-back":
      return undefined;
    default:
      return unreachable(record);
  }
}

function out(code: OutOfService["code"], message: string, hint: string, flag?: string): ServiceState {
  return { kind: "out", code, message, hint, flag };
}
