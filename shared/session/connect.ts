import { equalBytes } from "../manifest/block-hash.ts";
import type { Hello } from "../wire/messages.ts";
import { type CutId, cutText, epoch, seq } from "../words.ts";
import { type CutHistory, commonCut, epochFault, epochMax } from "./epochs.ts";

/** Version of the wire that this program speaks. A higher minor only adds fields. */
export const wireMajor = 1;
export const wireMinor = 0;

/** What two nodes do with each other about one group, as this node sees it. */
export type Decision =
  /** We are primary, the other follows from this base. */
  | { readonly kind: "ship"; readonly base: CutId }
  /** We follow the other; `adoptEpoch`: its reign is newer than the one that we know. */
  | { readonly kind: "follow"; readonly adoptEpoch: boolean; readonly join: boolean }
  /** Nothing to do for each other now: two replicas, or a group that is not born. */
  | { readonly kind: "idle"; readonly why: string }
  /** Neither may go on with the other. */
  | { readonly kind: "refuse"; readonly code: RefusalCode; readonly message: string; readonly hint: string }
  /** The other has a higher epoch: our reign is over. */
  | { readonly kind: "fenced"; readonly by: bigint }
  /** The replica is ahead of us: we went back in time. */
  | { readonly kind: "replica-newer"; readonly theirs: CutId }
  /** We are primary, the other has cuts that our history does not: it has to give them up before it can follow. */
  | { readonly kind: "ahead"; readonly theirs: CutId; readonly common: CutId | undefined }
  /**
   * The other reigns, and we have more than it has of the past: what lies beyond the common cut is a fork, to be kept before
   * we follow. Undefined: nothing is common, or nobody knows.
   */
  | { readonly kind: "fork"; readonly common: CutId | undefined }
  /** Our reign was handed over, and the other's history goes on from exactly our last cut: nothing has to be kept. */
  | { readonly kind: "demote"; readonly common: CutId };

/**
 * What a hello tells by its features, beside what a program can do. `ahead`: it takes what comes ahead of a cut.
 * `adopting`: its copy's place holds files that it may reuse for its first cut. `rejoining`: the node has something otherwise
 * than its last cut, knows what, and tells when it is asked. `sealed`: a primary that has written nothing since its last
 * cut, and will not before it knows that its reign goes on. `fork`: it acts by itself where it is ahead. `role`: it answers
 * whether it still is what it said.
 */
export const features = {
  ahead: "ahead",
  adopting: "adopting",
  rejoining: "rejoining",
  sealed: "sealed",
  fork: "fork",
  role: "role",
} as const;

/** What begins the feature that says whom a node's configuration names as members, in which order: `membersDigest` follows. */
const membersPrefix = "members=";

/** What begins the feature in which a primary says up to which cut it has forgotten what was removed; a number follows. */
const forgottenPrefix = "forgotten=";

export function forgottenFeature(upTo: bigint): string {
  return `${forgottenPrefix}${upTo}`;
}

/** 0 where the other does not say so, or nothing that can be read. */
export function forgottenBy(theirs: Pick<Hello, "features">): bigint {
  const said = theirs.features.find((feature) => feature.startsWith(forgottenPrefix))?.slice(forgottenPrefix.length);
  return said !== undefined && /^[0-9]{1,19}$/.test(said) ? BigInt(said) : 0n;
}

/** What a person does about that. */
export const membersHint =
  "Use the same file on every node, and restart the agents: the order says whose turn an epoch is, and with two orders two nodes may begin the same one.";

export function membersFeature(digest: string): string {
  return `${membersPrefix}${digest}`;
}

/** Whether the other's configuration names other members, or in another order; one that does not say so is believed. */
export function namesOtherMembers(ours: string, theirs: Pick<Hello, "features">): boolean {
  const said = theirs.features.find((feature) => feature.startsWith(membersPrefix));
  return said !== undefined && said !== membersFeature(ours);
}

export type RefusalCode =
  | "WIRE_VERSION"
  | "OTHER_GROUP"
  | "STRANGERS"
  | "CONFIGURATION"
  | "DIVERGED"
  | "TWO_PRIMARIES"
  | "HELLO_MALFORMED"
  | "EPOCH_UNBELIEVABLE"
  | "TOO_FAR_BACK"
  | "NOT_A_MEMBER";

/** What this node knows of its own cuts, to judge where another stands. */
export interface OwnHistory {
  /** Digest after the cut with this seq, undefined where it is no longer known. */
  digestAt(at: bigint): Uint8Array | undefined;
  /** Removals up to this cut are forgotten: a replica further back cannot be told of them. */
  readonly forgottenUpTo?: bigint;
  /** Of a replica: the node whose cuts it has taken in the epoch that it is in. */
  readonly followed?: string | undefined;
}

/** Seqs rise one by one, so a larger one was never given; and no catalog could hold it. */
const numberMax = BigInt(Number.MAX_SAFE_INTEGER);

/**
 * What two nodes do with each other. Pure: what they know of each other decides, no clock, no order of arrival.
 */
export function decide(ours: Hello, theirs: Hello, history: OwnHistory): Decision {
  if (theirs.major !== ours.major) {
    return refuse(
      "WIRE_VERSION",
      `this node speaks version ${ours.major} of the wire, ${theirs.node} version ${theirs.major}`,
      "Bring both nodes to the same major version.",
    );
  }
  if (theirs.group !== ours.group) {
    return refuse(
      "OTHER_GROUP",
      `asked for group ${theirs.group} in a channel of ${ours.group}`,
      "Look at the configuration of both nodes.",
    );
  }
  if (ours.groupId !== "" && theirs.groupId !== "" && ours.groupId !== theirs.groupId) {
    return refuse(
      "STRANGERS",
      `group ${ours.group} here is ${ours.groupId}, on ${theirs.node} it is ${theirs.groupId}`,
      "They were born separately: decide which one is real, and move the other's state directory and copy away.",
    );
  }
  const malformation = malformationOf(theirs);
  if (malformation !== undefined) {
    return refuse(
      "HELLO_MALFORMED",
      `the hello of ${theirs.node} cannot be: ${malformation}`,
      "Find out what runs there; a correct node never says this.",
    );
  }
  const unbelievable = unbelievableEpoch(ours, theirs);
  if (unbelievable !== "") {
    return refuse(
      "EPOCH_UNBELIEVABLE",
      `${theirs.node} says what cannot be: ${unbelievable}`,
      `Find out how ${theirs.node} came by that number. Where it is right, the state of ${ours.node} is too old to go on from: move its state directory away, and let it begin anew.`,
    );
  }
  const difference = configurationDifference(ours, theirs);
  if (difference !== undefined) {
    return refuse(
      "CONFIGURATION",
      `the configurations of ${ours.node} and ${theirs.node} differ: ${difference}`,
      "Use the same file on every node.",
    );
  }
  if (ours.groupId === "" && theirs.groupId === "") return { kind: "idle", why: "the group is not born yet" };
  if (ours.groupId === "") {
    return theirs.role === "primary"
      ? { kind: "follow", adoptEpoch: true, join: true }
      : { kind: "idle", why: `${theirs.node} is ${theirs.role}, the primary is somewhere else` };
  }
  if (theirs.groupId === "") {
    return ours.role === "primary"
      ? { kind: "ship", base: { epoch: epoch(0), seq: seq(0) } }
      : { kind: "idle", why: `${theirs.node} has not joined yet` };
  }
  if (ours.role === "primary") return asPrimary(ours, theirs, history);
  if (theirs.role === "primary") return asReplica(ours, theirs, history);
  return { kind: "idle", why: `${ours.node} is ${ours.role}, ${theirs.node} is ${theirs.role}` };
}

/** Why nothing must follow from the epochs that the other speaks of; "" where that is not so. */
export function unbelievableEpoch(
  ours: Pick<Hello, "epoch" | "epochSeen">,
  theirs: Pick<Hello, "epoch" | "epochSeen">,
): string {
  return epochFault(highestOf(theirs), highestOf(ours));
}

function highestOf({ epoch: reign, epochSeen }: Pick<Hello, "epoch" | "epochSeen">): bigint {
  return epochSeen > reign ? epochSeen : reign;
}

function asPrimary(ours: Hello, theirs: Hello, history: OwnHistory): Decision {
  const highest = highestOf(theirs);
  if (highest > ours.epoch) {
    // Whoever says it: a history that goes on where ours was sealed proves who reigns now, and that nothing is lost.
    return says(ours, features.sealed) && continues(theirs, ours)
      ? { kind: "demote", common: ours.committed }
      : { kind: "fenced", by: highest };
  }
  if (theirs.role === "primary") {
    return theirs.epoch < ours.epoch
      ? { kind: "idle", why: `${theirs.node} is fenced by this epoch` }
      : refuse(
          "TWO_PRIMARIES",
          `both nodes are primary of epoch ${ours.epoch}`,
          "Stop the service on one of them now; then look at `understudy status` on both.",
        );
  }
  if (theirs.role !== "replica") return { kind: "idle", why: `${theirs.node} is ${theirs.role}` };
  const base = theirs.committed;
  if (base.seq === 0n) return { kind: "ship", base };
  if (isBeyond(base, ours)) {
    const common = lastCommon(ours, theirs);
    if (says(theirs, features.fork)) return { kind: "ahead", theirs: base, common };
    return refuse(
      "DIVERGED",
      `${theirs.node} has cut ${cutText(base)}, which is not in this primary's history; ${commonText(common)}`,
      "It was ahead of the node that was promoted: keep its copy if you want what it has, then let it begin anew.",
    );
  }
  if (base.seq > ours.committed.seq) return { kind: "replica-newer", theirs: base };
  const digest = base.seq === ours.committed.seq ? ours.digest : history.digestAt(base.seq);
  // Who rejoins knows what it has otherwise than that cut, and the digest at the end of the next one proves it.
  if (digest !== undefined && !equalBytes(digest, theirs.digest) && !says(theirs, features.rejoining)) {
    return refuse(
      "DIVERGED",
      `cut ${base.epoch}.${base.seq} has another digest on ${theirs.node}`,
      `One of the catalogs was restored or damaged, or a rejoin came to nothing. On ${theirs.node}: understudy adopt ${theirs.group}; its copy is compared and only the difference is shipped.`,
    );
  }
  if (base.seq < (history.forgottenUpTo ?? 0n)) {
    return refuse(
      "TOO_FAR_BACK",
      `${theirs.node} stands at cut ${base.epoch}.${base.seq}, and what was removed up to cut ${history.forgottenUpTo} is no longer known here`,
      `On ${theirs.node}: understudy adopt ${theirs.group}; its copy is compared and only the difference is shipped.`,
    );
  }
  return { kind: "ship", base };
}

function asReplica(ours: Hello, theirs: Hello, history: OwnHistory): Decision {
  if (ours.role !== "replica" && ours.role !== "fenced") return { kind: "idle", why: `this node is ${ours.role}` };
  if (theirs.epoch < ours.epochSeen) {
    return {
      kind: "idle",
      why: `${theirs.node} is primary of epoch ${theirs.epoch}, which ended: epoch ${ours.epochSeen} has been seen`,
    };
  }
  if (theirs.epoch === ours.epoch && history.followed !== undefined && history.followed !== theirs.node) {
    return refuse(
      "TWO_PRIMARIES",
      `${theirs.node} says that it is primary of epoch ${theirs.epoch}, which is the epoch of ${history.followed}`,
      "Stop the service on one of them now; then look at `understudy status` on both.",
    );
  }
  // A former primary may have written after its last cut, too, unless it says that it has not.
  if (ours.role === "fenced") {
    return says(ours, features.sealed) && continues(theirs, ours)
      ? { kind: "demote", common: ours.committed }
      : { kind: "fork", common: lastCommon(ours, theirs) };
  }
  if (ours.committed.seq > 0n && isBeyond(ours.committed, theirs))
    return { kind: "fork", common: lastCommon(ours, theirs) };
  return { kind: "follow", adoptEpoch: theirs.epoch > ours.epoch, join: false };
}

/**
 * A primary's history has not this cut: it is of a reign that it never had, or lies beyond the end of one. Beyond its last
 * cut of its own reign, however, it is the primary that went back.
 */
function isBeyond(cut: CutId, primary: Hello): boolean {
  const end = endOfEpoch(primary, cut.epoch);
  return end === undefined || (end !== "open" && cut.seq > end);
}

/** The other's history has all of ours, and a reign after it. */
function continues(theirs: Hello, { committed }: Hello): boolean {
  return endOfEpoch(theirs, committed.epoch) === committed.seq;
}

function lastCommon(ours: Hello, theirs: Hello): CutId | undefined {
  return commonCut(pastOf(ours), pastOf(theirs));
}

/** A node may have heard of reigns of which it has no cut, and which begin before its own last one. */
function pastOf({ epochs, committed }: Hello): CutHistory {
  return {
    epochs: epochs.filter((start) => start.epoch <= committed.epoch && start.firstSeq <= committed.seq),
    committed,
  };
}

export function commonText(common: CutId | undefined): string {
  return common === undefined ? "no cut is common" : `the last common cut is ${cutText(common)}`;
}

function says(hello: Hello, feature: string): boolean {
  return hello.features.includes(feature);
}

/** Last seq of an epoch in a node's history, "open" for its current one, undefined for one that it never had. */
function endOfEpoch(ours: Hello, at: bigint): bigint | "open" | undefined {
  const index = ours.epochs.findIndex((start) => start.epoch === at);
  if (index < 0) return undefined;
  const next = ours.epochs[index + 1];
  return next === undefined ? "open" : next.firstSeq - 1n;
}

/** What no node that keeps to its own rules would say of itself. */
function malformationOf({
  role,
  groupId,
  epoch,
  epochs,
  epochSeen,
  committed,
  incarnation,
}: Hello): string | undefined {
  for (const [name, value, most] of [
    ["epoch", epoch, epochMax],
    ["epochSeen", epochSeen, epochMax],
    ["committed epoch", committed.epoch, epochMax],
    ["seq", committed.seq, numberMax],
  ] as const) {
    if (value > most) return `${name} ${value} is out of range`;
  }
  for (const [index, start] of epochs.entries()) {
    const before = epochs[index - 1];
    if (start.epoch > epoch || start.firstSeq > numberMax) return `epoch ${start.epoch} is out of range`;
    if (before !== undefined && (start.epoch <= before.epoch || start.firstSeq < before.firstSeq))
      return `epoch ${start.epoch} comes after epoch ${before.epoch}`;
  }
  if (role !== "primary" || groupId === "") return undefined;
  if (epochs.at(-1)?.epoch !== epoch || epoch === 0n)
    return `a primary of epoch ${epoch} that does not know when it began`;
  return incarnation === "" ? "a primary without incarnation" : undefined;
}

function configurationDifference(ours: Hello, theirs: Hello): string | undefined {
  const there = new Map(theirs.stores.map((store) => [store.name, store]));
  for (const store of ours.stores) {
    const other = there.get(store.name);
    if (other === undefined) return `${theirs.node} has no store ${store.name}`;
    if (other.kind !== store.kind)
      return `store ${store.name} is ${store.kind} on ${ours.node} and ${other.kind} on ${theirs.node}`;
    if (!equalBytes(other.digest, store.digest)) return `what store ${store.name} leaves out (exclude)`;
    there.delete(store.name);
  }
  const extra = [...there.keys()][0];
  return extra === undefined ? undefined : `${ours.node} has no store ${extra}`;
}

function refuse(code: RefusalCode, message: string, hint: string): Decision {
  return { kind: "refuse", code, message, hint };
}
