import { type ExitCode, exitCodes, UnderstudyError } from "../../shared/errors.ts";
import {
  type Coherency,
  type Consistency,
  type CutId,
  epoch,
  type PeerState,
  type Role,
  type StoreKind,
  seq,
} from "../../shared/words.ts";
import type { Caller, ForkHandler } from "./fork-answers.ts";
import type { HaAnswer, HaRequest } from "./ha-api.ts";
import type { CutRef, NamedPath } from "./json-names.ts";

/**
 * What an agent answers over its control socket; the same interface on both ends of it. Everything here is what JSON
 * can carry: times as ISO 8601 in UTC, numbers with their unit in the name, null where something is not known.
 */
export interface ControlHandler extends ForkHandler {
  status(): Promise<AgentStatus>;
  /** Prometheus' text form. */
  metrics(): Promise<string>;
  isPrimary(group: string): Promise<IsPrimaryAnswer>;
  /** Takes a cut of everything that was written before the call. */
  cut(group: string, options: CutOptions, signal?: AbortSignal): Promise<CutAnswer>;
  /** Returns when a cut that was observed after the call is durable on the replicas. @throws when it takes longer */
  wait(group: string, options: WaitOptions, signal?: AbortSignal): Promise<WaitAnswer>;
  points(group: string): Promise<PointsAnswer>;
  restore(group: string, options: RestoreOptions, signal?: AbortSignal): Promise<RestoreAnswer>;
  verify(group: string, options: VerifyOptions, signal?: AbortSignal): Promise<VerifyAnswer>;
  /** Goes on when the caller is gone: what was begun must end in one state or the other. */
  promote(group: string, options: PromoteOptions): Promise<PromoteAnswer>;
  /** Unseals a promotion that has not reached its epoch. */
  abortPromotion(group: string): Promise<RoleAnswer>;
  /** What a switchover would do, and what stands in its way. */
  planSwitchover(group: string, options: SwitchoverOptions): Promise<SwitchoverPlan>;
  /** Begins one, which goes on when the caller is gone; `switchoverProgress` tells the rest. */
  switchover(group: string, options: SwitchoverOptions): Promise<SwitchoverProgress>;
  /** Of the one that is under way, or was last: what comes from step `after` on; waits a while for some. */
  switchoverProgress(group: string, after: number): Promise<SwitchoverProgress>;
  /** Has one begin by itself at a time to come, ISO 8601. */
  scheduleSwitchover(group: string, options: SwitchoverOptions, at: string): Promise<SwitchoverSchedule>;
  /** Takes back one that is under way as far as that is possible, or the plan of one. Returns when it has ended. */
  abortSwitchover(group: string, options: AbortSwitchoverOptions): Promise<AbortSwitchoverAnswer>;
  form(group: string, options: FormOptions): Promise<RoleAnswer>;
  /** Holds back shipping (a primary's), promotion by an engine, or both. */
  pause(group: string, options: PauseOptions): Promise<PausedAnswer>;
  resume(group: string, options: PauseOptions): Promise<PausedAnswer>;
  /** Says of a primary that no other node is one, where they were not all heard since the machine was started. */
  confirm(group: string, options: ConfirmOptions): Promise<RoleAnswer>;
  /** Takes over what lies in the paths of a replica's stores: only the difference is shipped. */
  adopt(group: string, caller?: Caller): Promise<RoleAnswer>;
  /** What a cluster manager that decides about the group's promotions asks. */
  ha(group: string, request: HaRequest): Promise<HaAnswer>;
}

export interface CutOptions {
  /** Names from `acceptances.cut`. */
  readonly accept: readonly string[];
  /** What `exclude` has left out since it was cut leaves the manifest and the copies. */
  readonly prune?: boolean;
  /** Who asks. */
  readonly by?: string;
}

export interface WaitOptions {
  readonly timeoutMs: number;
  /** Whose acknowledgements count; empty: those of all that the group has. */
  readonly replicas: readonly string[];
  /** How many of them, whichever. Absent: all that are named; if none is, as many as the group's durability says. */
  readonly count?: number;
}

export interface RestoreOptions {
  readonly at: RestorePoint;
  /** Absolute; does not exist yet, or is empty. */
  readonly to: string;
  /** A store, or what is at or below a path in one: `uploads/reports`. Absent: everything. */
  readonly only?: string;
}

/** A cut, or the newest one that was taken at or before a time. */
export type RestorePoint = { readonly cut: CutRef } | { readonly time: string };

export interface VerifyOptions {
  /** Compares digests only; else every file of the copy is read. */
  readonly quick: boolean;
}

export interface PromoteOptions {
  /** `true`: whatever it is. A cut as `epoch.seq`: only what is lost by going on from exactly this cut. */
  readonly acceptLoss?: true | string;
  /** Names from `acceptances.promote`. */
  readonly accept: readonly string[];
  /** Who asks, as the caller says: noted with every refusal that is overridden. */
  readonly by?: string;
}

export interface SwitchoverOptions {
  readonly to: string;
  /** Names from `acceptances.switchover`. */
  readonly accept: readonly string[];
  /** Who asks. */
  readonly by?: string;
}

export interface AbortSwitchoverOptions {
  /** Names from `acceptances.switchover`. */
  readonly accept: readonly string[];
  readonly by?: string;
}

export interface FormOptions {
  /** Without the answer of replicas that cannot be reached. */
  readonly alone: boolean;
  /** Who asks. */
  readonly by?: string;
}

export interface PauseOptions {
  /** Neither: whatever this node has of both. */
  readonly shipping: boolean;
  readonly failover: boolean;
  /** Who says so: the user of the operating system. */
  readonly by: string;
}

export interface PausedAnswer {
  /** What is paused by now; null: nothing. */
  readonly paused: PausedStatus | null;
}

export interface PausedStatus {
  readonly shipping: boolean;
  readonly failover: boolean;
  readonly by: string;
  readonly since: string;
}

export interface ConfirmOptions {
  /** Without the answer of members that cannot be reached. */
  readonly acceptUnreachable: boolean;
  /** Who says so: the user of the operating system. */
  readonly by: string;
}

/**
 * What can be accepted with `--accept-NAME`, for each verb that may refuse. A refusal names the flag that would pass it,
 * and no flag passes two. `--accept-loss` is apart, since it may name the cut.
 */
export const acceptances = {
  promote: {
    suspect: "the copy is suspect: a stranger changed it, or a sync failed",
    consistency: "the newest cut has a store that is worth less than the group requires",
    paused: "failover is paused on this node",
    fenced: "this node was primary, and what was written elsewhere since is given up",
    rejoining:
      "this node rejoins: what it has becomes a cut of its new reign, and what was written elsewhere is given up",
    "live-primary": "the primary still answers: both would be primary until it is fenced",
    "bypassed-cluster": "a cluster decides about this group: it is bypassed, and may promote another node",
    "unreachable-primary": "a node that may be primary does not answer: its service may still run",
  },
  switchover: {
    "running-service": "there is no stop_service: nobody but you stops the service",
    "unreachable-target":
      "the target may have taken over and does not answer: with --abort, in an epoch that fences it",
  },
  cut: {
    source: "a replica is newer than this primary: go on from what is here, in a new epoch",
  },
} as const;

export const statusSchema = 1;

export interface AgentStatus {
  readonly schema: typeof statusSchema;
  readonly node: string;
  /** Version of the agent. */
  readonly software: string;
  readonly startedAt: string;
  readonly groups: Readonly<Record<string, GroupStatus>>;
}

export interface GroupStatus {
  /** Null while unformed. */
  readonly id: string | null;
  readonly role: Role;
  /** 0 while unformed. */
  readonly epoch: number;
  /** A primary's last cut; a replica's last durable one. Null when there is none. */
  readonly cut: CutStatus | null;
  /** A primary: its replicas. A replica: whom it follows. */
  readonly peers: Readonly<Record<string, PeerStatus>>;
  readonly promotable: Promotable;
  readonly durability: DurabilityStatus;
  /** Null where this node has nothing to say about it: unformed, being promoted, fenced. */
  readonly takeover: TakeoverStatus | null;
  readonly stores: Readonly<Record<string, StoreStatus>>;
  /** Nodes whose answer an unformed group waits for. */
  readonly waitingFor: readonly string[];
  /** What a person holds back on this node; null: nothing. */
  readonly paused: PausedStatus | null;
  /** Whether the group's service may run on this node, and why not. */
  readonly service: { readonly running: boolean; readonly why: Reason | null };
  /** Why the group stands still; null when it does not. */
  readonly halted: Reason | null;
  readonly history: HistoryStatus;
  /** Kept on this node: what it had beyond the last common cut when somebody else was promoted. */
  readonly forks: ForksStatus;
  /** Nodes whose configuration names other members of the group, or in another order; absent where there are none. */
  readonly membersDiffer?: readonly string[];
  /** What this node has while it rejoins, and would go on from by --accept-rejoining; absent where it does not. */
  readonly rejoining?: RejoiningStatus;
  /** A switchover that this node leads; absent where none is under way. */
  readonly switchover?: SwitchoverStatus;
  /** One that begins here by itself; absent where none is planned. */
  readonly plannedSwitchover?: SwitchoverSchedule;
  /** How long the last cut froze the application; absent where there are no freeze hooks. */
  readonly lastFreezeMs?: number;
}

export interface RejoiningStatus {
  /** The last cut that it has in common with the primary. */
  readonly common: CutRef;
  /** Its own last cut beyond that; null where it began to rejoin under an older version. */
  readonly ownCut: CutRef | null;
  readonly takenAt: string | null;
  /** The bundle in which that is kept; null: dropped. */
  readonly fork: string | null;
}

export interface CutStatus extends CutRef {
  readonly takenAt: string;
  readonly coherency: Coherency;
  /** Of the set, 64 hex digits. */
  readonly digest: string;
}

export interface PeerStatus {
  readonly state: PeerState;
  /** Why it is refused, paused or halted; "" when there is nothing to say. */
  readonly reason: string;
  readonly lag: Lag;
  readonly received: CutRef | null;
  readonly durable: CutRef | null;
  readonly applied: CutRef | null;
  /** The promise towards this replica; null where none was made. */
  readonly rpo: { readonly seconds: number; readonly broken: boolean } | null;
}

export interface Lag {
  readonly bytes: number | null;
  readonly cuts: number | null;
  readonly seconds: number | null;
  /**
   * What it was told from. `log`: counted in the stores' own logs. `scan`: by the last comparison of the files.
   * `silence`: the link is down: what was written in that time, if anything, is not here.
   */
  readonly basis: "log" | "scan" | "silence";
}

/** Nothing is known of it. */
export const unknownLag: Lag = { bytes: null, cuts: null, seconds: null, basis: "silence" };

/** What `wait` asks for where it is not told. */
export interface DurabilityStatus {
  readonly mode: "async" | "semi_sync";
  /** Of semi_sync: how many replicas must have a cut; null else, and so with the others. */
  readonly replicas: number | null;
  readonly timeoutSeconds: number | null;
  /** Null where this node is not primary. */
  readonly degraded: boolean | null;
  readonly degradedSince: string | null;
}

export interface Promotable {
  readonly ok: boolean;
  /** Each refusal that stands in the way; empty when `ok`. */
  readonly why: readonly Reason[];
  /** What would be lost now, as far as this node knows. */
  readonly loss: Lag;
  readonly rtoEstimateSeconds: number | null;
}

/** When every file of a copy was read and compared last, and whether it was as it should be. */
export interface Verified {
  readonly at: string;
  readonly ok: boolean;
}

/** Who could take over if the primary were gone now. */
export interface TakeoverStatus {
  /** A replica: itself. A primary: of its replicas the one that would lose the least; null where none could. */
  readonly node: string | null;
  readonly ok: boolean;
  /** Why it, or anybody, could not; "" where it could. */
  readonly why: string;
  readonly loss: Lag;
  readonly rtoEstimateSeconds: number | null;
  /** Null: never, or it is not known. */
  readonly verified: Verified | null;
  /** Bundles of forks that are kept there. */
  readonly forks: number;
}

export interface Reason {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  /** The flag that would pass it, whole; null when nothing does. */
  readonly flag: string | null;
}

export interface StoreStatus {
  readonly kind: StoreKind;
  readonly path: string;
  /** In the store's own terms; "" where the kind has none. */
  readonly position: string;
  /** Of the last cut; null before the first. */
  readonly consistency: Consistency | null;
  readonly bytes: number;
  readonly files: number;
  /** Paths that keep an older state in the last cut, since they moved while they were read. */
  readonly behind: number;
  /** How long writers were shut out, the last hundred times; absent on a replica, and where the kind never does it. */
  readonly writerWaitMs?: { readonly p50: number; readonly p99: number; readonly max: number };
  /** What following the store has counted since the agent started; absent on a replica, and where nothing is. */
  readonly counts?: Readonly<Record<string, number>>;
  /** How the source is watched and read; only on a primary, and only of kinds that have something to say. */
  readonly source?: SourceStatus;
}

export interface SourceStatus {
  readonly mode: "watching" | "scanning" | "listing";
  readonly reason: string;
  readonly watchedDirectories: number;
  readonly eventsLost: number;
  readonly unreadable: number;
  /** The first of them. */
  readonly unreadablePaths: readonly (NamedPath & { readonly reason: string })[];
  readonly behindPaths: readonly NamedPath[];
  readonly skipped: number;
  /** How many, 1000 at most. */
  readonly excluded: number;
  readonly excludedPaths: readonly NamedPath[];
  readonly cloned: number;
  readonly notCloned: string;
  /** Of the last scrub, or the one that is under way; null where there was none. */
  readonly scrub: {
    readonly begunAt: string;
    readonly finishedAt: string | null;
    readonly files: number;
    readonly bytes: number;
    readonly differing: number;
    readonly unreadable: number;
  } | null;
}

export interface HistoryStatus {
  readonly points: number;
  readonly bytes: number;
  readonly oldestAt: string | null;
}

export interface ForksStatus {
  readonly count: number;
  /** The oldest first. */
  readonly names: readonly string[];
}

export interface IsPrimaryAnswer {
  /** The group's service may run on this node. */
  readonly primary: boolean;
  readonly role: Role;
  readonly epoch: number;
  /** Why it may not; null where it may. */
  readonly why: Reason | null;
}

export interface CutAnswer {
  readonly cut: CutStatus;
  readonly stores: Readonly<Record<string, Consistency>>;
}

export interface WaitAnswer {
  readonly cut: CutRef;
  /** What each replica whose acknowledgement counts has durable by now, as far as it is known. */
  readonly replicas: Readonly<Record<string, CutRef>>;
  /** Fewer of them than the group's durability asks for have the cut, and nobody waits for more. */
  readonly degraded: boolean;
  readonly seconds: number;
}

export interface PointsAnswer {
  readonly group: string;
  /** Newest first. */
  readonly points: readonly RecoveryPoint[];
}

export interface RecoveryPoint extends CutRef {
  readonly takenAt: string;
  readonly coherency: Coherency;
  readonly stores: Readonly<Record<string, Consistency>>;
}

export interface RestoreAnswer {
  readonly cut: CutRef & { readonly takenAt: string };
  readonly to: string;
  readonly files: number;
  readonly bytes: number;
}

export interface VerifyAnswer {
  readonly ok: boolean;
  readonly cut: CutRef;
  readonly quick: boolean;
  readonly files: number;
  readonly bytes: number;
  readonly seconds: number;
  /** The first of them; `differencesTotal` counts all. */
  readonly differences: readonly Difference[];
  readonly differencesTotal: number;
}

/** `path`, or `pathB64` where it is not UTF-8. */
export type Difference = { readonly store: string; readonly what: string } & (
  | { readonly path: string }
  | { readonly pathB64: string }
);

export interface PromoteAnswer {
  readonly epoch: number;
  /** The last cut of the former reign that is in the copy. */
  readonly cut: CutRef;
  readonly loss: Lag;
  /** It was primary before and goes on from all that it has: what is given up is what was written elsewhere since, however much that is. */
  readonly reinstated: boolean;
  readonly seconds: number;
}

export interface SwitchoverSchedule {
  readonly to: string;
  readonly at: string;
  /** Who planned it. */
  readonly by: string;
}

export interface AbortSwitchoverAnswer {
  /** What was planned, and is not any more; null where nothing was. */
  readonly cancelled: SwitchoverSchedule | null;
  /** How the one that was under way ended; null where none was. */
  readonly ended: SwitchoverProgress | null;
}

export interface SwitchoverStatus {
  readonly to: string;
  /** `stopping`, `cutting`, `handing`, `rolling-back`. */
  readonly step: string;
  /** Why it goes back; "" when it does not. */
  readonly reason: string;
}

export interface SwitchoverPlan {
  readonly from: string;
  readonly to: string;
  /** In their order, with how long each is expected to take; null where nothing is known. */
  readonly steps: readonly { readonly text: string; readonly ms: number | null }[];
  /** How long nobody would be served; null where a step is not known. */
  readonly pauseMs: number | null;
  readonly roundTripMs: number | null;
  /** What stands in the way; empty when nothing does. */
  readonly obstacles: readonly Reason[];
}

export interface SwitchoverStep {
  readonly at: string;
  /** Since it was asked for. */
  readonly ms: number;
  /** One word for programs. */
  readonly step: string;
  readonly text: string;
}

export interface SwitchoverProgress {
  readonly id: string;
  readonly from: string;
  readonly to: string;
  readonly steps: readonly SwitchoverStep[];
  /** What to ask for next. */
  readonly next: number;
  /**
   * `done`: the target is primary and its service runs. `service-failed`: it is, its service could not be started, and the
   * former primary did not get it back. `service-unknown`: it is, and whether its service runs was not heard in its time.
   * `refused`: nothing was done. `rolled-back`: the former primary is in service. `in-doubt`: the target is not connected and
   * may have taken over; it goes on by itself when it is back. `superseded`: somebody else was promoted. Null: under way.
   */
  readonly outcome:
    | "done"
    | "service-failed"
    | "service-unknown"
    | "refused"
    | "rolled-back"
    | "in-doubt"
    | "superseded"
    | null;
  /** Why it is not `done`; "" else. */
  readonly reason: string;
  readonly hint: string;
  /** How long nobody was served, as far as the former primary can tell; null where nobody was stopped. */
  readonly pauseMs: number | null;
}

export interface RoleAnswer {
  readonly role: Role;
  readonly epoch: number;
}

/** What a failure says over the socket. */
export interface ControlFailure {
  readonly code: string;
  readonly message: string;
  readonly state: string;
  readonly hint: string;
  readonly exitCode: ExitCode;
}

/** The agent has no such group. */
export class GroupUnknown extends UnderstudyError {
  readonly code = "GROUP_UNKNOWN";
  readonly remedy = "stop";
  readonly state = "Nothing was done.";
  readonly hint: string;
  override readonly exitCode = exitCodes.usage;

  constructor(group: string, known: Iterable<string>) {
    super(`this node has no group ${JSON.stringify(group)}`);
    const names = [...known];
    this.hint = names.length === 0 ? "It takes part in no group." : `It takes part in ${names.join(", ")}.`;
  }
}

/** For JSON, whose readers keep no more than 53 bits exactly; no cluster will live to see the difference. */
export function cutRef(cut: CutId): CutRef {
  return { epoch: jsonNumber(cut.epoch), seq: jsonNumber(cut.seq) };
}

export function jsonNumber(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new RangeError(`${value} is more than JSON keeps exactly`);
  return Number(value);
}

export function cutIdOf(cut: CutRef): CutId {
  return { epoch: epoch(cut.epoch), seq: seq(cut.seq) };
}

export function cutRefText(cut: CutRef): string {
  return `${cut.epoch}.${cut.seq}`;
}
