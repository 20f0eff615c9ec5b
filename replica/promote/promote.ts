import { bearTouched } from "../../shared/catalog/bear-touched.ts";
import { anyTouched } from "../../shared/catalog/collapse.ts";
import { keepForgottenUpTo } from "../../shared/catalog/notes.ts";
import { clearTouched, ownCutOf } from "../../shared/catalog/touched.ts";
import { assert, exitCodes, hintsOf, UnderstudyError } from "../../shared/errors.ts";
import { membersHint } from "../../shared/session/connect.ts";
import { newReign, type Turn } from "../../shared/session/epochs.ts";
import { confirmation } from "../../shared/session/in-service.ts";
import { resuming } from "../../shared/session/paused.ts";
import { type Handover, handoverRefusal } from "../../shared/session/switchover.ts";
import {
  type Consistency,
  type CutId,
  cutText,
  type Engine,
  type Epoch,
  epoch,
  meets,
  seq,
} from "../../shared/words.ts";
import { applyNext } from "../apply/apply.ts";
import { ForeignChange } from "../apply/locate.ts";
import { aheadOf } from "../receive/ahead.ts";
import { adopting, dropStaged } from "../receive/resume.ts";
import { forgetUnproven, wasUnproven } from "../receive/unproven.ts";
import { anyDamage, suspectText } from "../repair/damage.ts";
import type { ReplicaContext } from "../replica-context.ts";
import type { StoreHome } from "../store-home.ts";
import { failing } from "../sync.ts";

/** A promotion that would lose or spoil something that nobody has accepted. */
export class PromotionRefused extends UnderstudyError {
  readonly code = "PROMOTION_REFUSED";
  readonly remedy = "stop";
  readonly state: string;
  readonly hint: string;
  override readonly exitCode = exitCodes.refused;
  readonly reasons: readonly Refusal[];
  constructor(reasons: readonly Refusal[], sealed: boolean) {
    super(reasons.map((reason) => reason.message).join("; "));
    this.reasons = reasons;
    this.state = sealed ? "The replica is unsealed again and follows on." : "Nothing was changed.";
    this.hint = hintsOf(reasons);
  }
}

/** What is here is no cut of the group, and nobody has accepted that it becomes one. */
export class NoCutYet extends UnderstudyError {
  readonly code = "REJOINING";
  readonly remedy = "stop";
  readonly state = "Nothing was changed.";
  readonly hint = "Wait for the first cut of the primary; where it is lost for good: promote with --accept-rejoining.";
  override readonly exitCode = exitCodes.refused;
  constructor() {
    super("this node rejoins: what it has is no cut of the group");
  }
}

export interface Refusal {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  /** The flag that passes it; undefined when nothing does. */
  readonly flag: string | undefined;
}

/** Everything that decides whether a replica may be promoted; a value, so that the rule is a table. */
export interface PromotionCase {
  readonly role: string;
  readonly committed: CutId;
  readonly suspect: string;
  readonly halted: string;
  readonly stores: readonly {
    readonly name: string;
    readonly consistency: Consistency;
    readonly required: Consistency;
  }[];
  /** Who holds back its failover, and since when; "" where nobody does. */
  readonly paused: string;
  /** It has something otherwise than any cut: what it was primary of is being undone. */
  readonly rejoining: boolean;
  /** What it has then, and what becomes of that, and of what others have, where it is promoted. */
  readonly rejoiningText?: { readonly has: string; readonly becomes: string } | undefined;
  /** Every other member of the group, and what it says of itself; undefined where it does not answer. */
  readonly others: readonly { readonly node: string; readonly says: string | undefined }[];
  /** Those of them whose configuration names other members, or the same in another order. */
  readonly namingOthers?: readonly string[];
  /** Known to be missing here; undefined when the link is down and nothing newer is known. */
  readonly lossKnownEmpty: boolean;
  readonly lossText: string;
  /** Who decides about promotions; nobody but a person where it is not given. */
  readonly engine?: Engine;
  readonly accept: {
    readonly bypassedCluster?: boolean;
    readonly fenced?: boolean;
    readonly rejoining?: boolean;
    readonly loss: boolean;
    readonly lossFrom: string | undefined;
    readonly suspect: boolean;
    readonly consistency: boolean;
    readonly livePrimary: boolean;
    readonly unreachablePrimary: boolean;
    readonly paused: boolean;
  };
}

/** What stands in the way of a promotion: empty when it may go on. */
export function promotionRefusals(facts: PromotionCase): Refusal[] {
  const refusals: Refusal[] = [];
  if (facts.role !== "replica" && facts.role !== "promoting" && facts.role !== "fenced") {
    return [
      {
        code: "NOT_A_REPLICA",
        message: `this node is ${facts.role}`,
        hint: "A replica can be promoted, or a former primary that was fenced.",
        flag: undefined,
      },
    ];
  }
  if (facts.committed.seq === 0n) {
    return [
      {
        code: "NO_CUT",
        message: "there is no complete cut here",
        hint: "Wait until the first copy is durable.",
        flag: undefined,
      },
    ];
  }
  if ((facts.engine ?? "none") !== "none" && facts.accept.bypassedCluster !== true)
    refusals.push({
      code: "ENGINE_DECIDES",
      message: `${facts.engine} decides who is primary of this group`,
      hint: "Let the cluster move it: `crm_resource --move`. By hand only where the cluster is gone: it may promote another node at any time.",
      flag: "--accept-bypassed-cluster",
    });
  if (facts.role === "fenced" && facts.accept.fenced !== true)
    refusals.push({
      code: "FENCED",
      message: "this node was primary, and another one reigned after it: what was written there since is given up",
      hint: "Let it rejoin where that primary still is: understudy rejoin GROUP.",
      flag: "--accept-fenced",
    });
  if (facts.halted !== "")
    refusals.push({
      code: "HALTED",
      message: `the group stands still: ${facts.halted}`,
      hint: "Mend that first.",
      flag: undefined,
    });
  if (facts.rejoining && facts.accept.rejoining !== true) {
    const { has, becomes } = facts.rejoiningText ?? { has: "what it has", becomes: "it can become one" };
    refusals.push({
      code: "REJOINING",
      message: `this node rejoins: ${has} is no cut of the group until the primary's first one has arrived`,
      hint: `Wait for that, or promote a node that has one. Where the primary is lost for good: ${becomes}.`,
      flag: "--accept-rejoining",
    });
  }
  const { namingOthers = [] } = facts;
  if (namingOthers.length > 0)
    refusals.push({
      code: "MEMBERS_DIFFER",
      message: `the configuration of ${namingOthers.join(", ")} names other members of the group, or in another order`,
      hint: membersHint,
      flag: undefined,
    });
  if (facts.suspect !== "" && !facts.accept.suspect) {
    refusals.push({
      code: "SUSPECT",
      message: `the copy is suspect: ${facts.suspect}`,
      hint: "The primary mends it while it is there; `understudy verify GROUP` shows what differs.",
      flag: "--accept-suspect",
    });
  }
  const poor = facts.stores.filter((store) => !meets(store.consistency, store.required));
  if (poor.length > 0 && !facts.accept.consistency) {
    refusals.push({
      code: "CONSISTENCY",
      message: `cut ${cutText(facts.committed)} has ${poor.map((store) => `${store.name} ${store.consistency} (required: ${store.required})`).join(", ")}`,
      hint: "Restore a recovery point that has it, or wait for the next cut.",
      flag: "--accept-consistency",
    });
  }
  if (facts.paused !== "" && !facts.accept.paused) {
    refusals.push({
      code: "PAUSED",
      message: `failover is paused here: ${facts.paused}`,
      hint: "Whoever paused it works on something: ask, or let it go on: understudy resume GROUP --failover.",
      flag: "--accept-paused",
    });
  }
  const alive = facts.others.filter(({ says }) => says === "primary");
  if (alive.length > 0 && !facts.accept.livePrimary) {
    refusals.push({
      code: "PRIMARY_ALIVE",
      message: `the primary still answers (${names(alive)})`,
      hint: "Move it while it does: `understudy switchover GROUP --to NODE` loses nothing; two primaries lose data.",
      flag: "--accept-live-primary",
    });
  }
  // One that is being promoted will be primary before it could be asked again.
  const unknown = facts.others.filter(({ says }) => says === undefined || says === "promoting");
  if (unknown.length > 0 && !facts.accept.unreachablePrimary) {
    refusals.push({
      code: "UNREACHABLE_PRIMARY",
      message: `that it is not primary was not heard of ${names(unknown)}`,
      hint: "Make sure that its service does not run: its machine is off, or nobody reaches it. It stops by itself only when it meets the new epoch.",
      flag: "--accept-unreachable-primary",
    });
  }
  if (facts.accept.lossFrom !== undefined && facts.accept.lossFrom !== cutText(facts.committed)) {
    refusals.push({
      code: "OTHER_CUT",
      message: `the last durable cut is ${cutText(facts.committed)}, the accepted one ${facts.accept.lossFrom}`,
      hint: "Look at the loss again.",
      flag: `--accept-loss=${cutText(facts.committed)}`,
    });
  } else if (
    facts.role !== "fenced" &&
    !facts.lossKnownEmpty &&
    !facts.accept.loss &&
    facts.accept.lossFrom === undefined
  ) {
    refusals.push({
      code: "LOSS",
      message: facts.lossText,
      hint: "What the primary had beyond this cut is given up.",
      flag: `--accept-loss=${cutText(facts.committed)}`,
    });
  }
  return refusals;
}

function names(members: PromotionCase["others"]): string {
  return members.map(({ node }) => node).join(", ");
}

/**
 * Nothing is committed from here on. The caller has closed the session. `heard`: the highest epoch that another node spoke of:
 * a reign below it would be over before it began.
 */
export function seal(context: ReplicaContext, heard = 0n): void {
  const { catalog } = context;
  const { sealed, committed, epochSeen } = catalog.standing;
  if (sealed) return;
  catalog.transaction("seal", () => {
    catalog.event("promotion.sealed", { cut: cutText(committed) }, context.nowUs());
    catalog.stand({ sealed: true, role: "promoting", epochSeen: heard > epochSeen ? epoch(heard) : epochSeen });
  });
}

/** Back to following, as long as the epoch is not made. */
export function unseal(context: Pick<ReplicaContext, "catalog" | "nowUs">): void {
  const { catalog } = context;
  if (!catalog.standing.sealed) return;
  assert(catalog.standing.role === "promoting", "only a promotion seals");
  catalog.transaction("unseal", () => {
    catalog.event("promotion.aborted", { cut: cutText(catalog.standing.committed) }, context.nowUs());
    catalog.stand({ sealed: false, role: "replica" });
  });
}

/** What somebody has said of this copy: that it is no matter that a stranger changed it, or that it is no cut yet. */
export interface AcceptedCopy {
  readonly suspect?: boolean;
  readonly rejoining?: boolean;
}

/**
 * Finishes applying, makes the copy ready for its service by checks of constant cost, and makes the new epoch durable.
 * A crash before the epoch leaves the node sealed, and a next call would go on; after it the node is primary.
 */
export function takeOver(
  context: ReplicaContext,
  keepHistory: boolean,
  turn: Turn,
  accepted: AcceptedCopy = {},
  bootId = "",
): { epoch: Epoch; cut: CutId } {
  const { catalog } = context;
  // That it was accepted is known to the mark of a batch that had begun.
  const although = accepted.suspect === true ? "suspect" : catalog.standing.applying?.although;
  assert(catalog.standing.sealed, "a promotion begins with the seal");
  const rejoins = anyTouched(catalog);
  if (rejoins && accepted.rejoining !== true) throw new NoCutYet();
  // What came ahead of a cut that will never come.
  aheadOf(context).clear();
  while (applyNext(context, keepHistory, although) !== undefined);
  if (although === undefined && anyDamage(catalog)) throw new ForeignChange(suspectText(catalog));
  // What is staged for the cut that will never come would count as staged for the one that is recorded.
  if (rejoins) dropStaged(context);
  return beginReign(context, turn, bootId, rejoins);
}

/**
 * Takes over exactly what its primary hands over. One transaction from replica to primary, with nothing sealed before it: a
 * crash leaves the one or the other. Gives why not; "" when this node's reign has begun.
 */
export function takeOverHanded(
  context: ReplicaContext,
  handover: Handover,
  barred: string,
  turn: Turn,
  bootId: string,
): string {
  const { catalog } = context;
  const { digest, role, committed, applied, suspect, halted } = catalog.standing;
  const refusal = handoverRefusal({ role, committed, applied, digest, suspect, halted, barred }, handover);
  if (refusal !== "") return refusal;
  if (anyDamage(catalog)) return suspectText(catalog);
  aheadOf(context).clear();
  beginReign(context, turn, bootId, false);
  return "";
}

/** Checks of constant cost, then the new epoch, durably. `rejoins`: what is here is no cut, and it is accepted that it becomes one. */
function beginReign(
  context: ReplicaContext,
  turn: Turn,
  bootId: string,
  rejoins: boolean,
): { epoch: Epoch; cut: CutId } {
  const { catalog } = context;
  assert(anyTouched(catalog) === rejoins, "what is no cut begins a reign only where somebody has accepted that");
  assert(catalog.standing.applied === catalog.standing.committed.seq, "everything committed is applied");
  for (const home of context.homes.values()) putSidecarsAside(context, home);
  const standing = catalog.standing;
  const last = Number(catalog.get("SELECT max(object) AS last FROM object_versions")?.last ?? 0);
  const reign = newReign({ ...standing, nextObject: Math.max(standing.nextObject, last + 1) }, turn);
  const next = reign.epoch;
  const cut = catalog.transaction("epoch", () => {
    // The service writes from here on, and nobody saves what it overwrites: no point before this one can be read any more.
    catalog.run("DELETE FROM seen WHERE object IN (SELECT object FROM kept)");
    catalog.run("DELETE FROM kept");
    catalog.run("DELETE FROM images");
    // What the service has is what counts from here on: the first cut finds how it differs.
    catalog.run("DELETE FROM damaged");
    catalog.run("UPDATE cuts SET point = 0 WHERE point = 1");
    const from = rejoins ? recordHere(context, next) : standing.committed;
    catalog.event("promotion.done", { epoch: String(next), cut: cutText(from) }, context.nowUs());
    // Who took over is the one who is primary, as long as this machine runs. That it ships nothing was said of another reign.
    catalog.stand({
      ...reign,
      role: "primary",
      suspect: "",
      sealed: false,
      confirmed: confirmation(bootId, next),
      paused: resuming(standing.paused, { shipping: true, failover: false }),
    });
    return from;
  });
  return { epoch: next, cut };
}

/**
 * Within the transaction that begins a reign on a node that rejoins: what is here becomes the reign's first cut, so that
 * whoever stands at the common cut, or goes back to it, gets by birth what this node has otherwise. It is whole: a rejoin
 * writes nothing into the copy before its first cut is committed, and with that commit nothing is touched any more.
 */
function recordHere({ catalog, nowUs }: ReplicaContext, reign: Epoch): CutId {
  const { committed, applied, applying, digest, lastTakenAtUs } = catalog.standing;
  assert(applied === committed.seq && applying === undefined, "nothing is half written while a node rejoins");
  assert(!adopting(catalog), "who compares knows of nothing that is touched");
  const beyond = catalog.get("SELECT 1 AS found FROM cuts WHERE seq > ?", committed.seq);
  assert(beyond === undefined, "what had come of the primary's first cut is forgotten");
  const cut: CutId = { epoch: reign, seq: seq(committed.seq + 1n) };
  const own = ownCutOf(catalog);
  bearTouched(catalog, cut.seq);
  catalog.recordCut({
    cut,
    incarnation: "",
    base: committed.seq,
    takenAtUs: own?.takenAtUs ?? lastTakenAtUs,
    state: "applied",
    digest,
    coherency: own?.coherency ?? "independent",
    stores: own?.stores ?? [],
    payloadBytes: 0,
    freezeMs: 0,
    committedAtUs: nowUs(),
    appliedAtUs: nowUs(),
    point: false,
  });
  // What it knew to be otherwise was not all of it: nobody may follow from before this cut but by comparison.
  if (wasUnproven(catalog)) keepForgottenUpTo(catalog, cut.seq);
  clearTouched(catalog);
  forgetUnproven(catalog);
  catalog.stand({ committed: cut, applied: cut.seq });
  return cut;
}

/** A stale log or journal beside a copy would be replayed into it at the first open: put aside, never left, never deleted. */
export function putSidecarsAside(context: ReplicaContext, home: StoreHome): string[] {
  const { disk, catalog } = context;
  const { placement, tree, strangers } = home;
  const moved: string[] = [];
  for (const suffix of placement.sidecars) {
    const name = `${home.local("" as never)}${suffix}`;
    if (disk.stat(tree.root, name) === undefined) continue;
    for (let attempt = 0; ; attempt++) {
      const aside = `${catalog.standing.committed.seq}-${attempt}${suffix}`;
      if (disk.stat(strangers, aside) !== undefined) continue;
      disk.rename(tree.root, name, strangers, aside);
      break;
    }
    moved.push(name);
  }
  if (moved.length > 0) {
    failing(() => {
      disk.syncDirectory(tree.root);
      disk.syncDirectory(strangers);
    });
  }
  return moved;
}
