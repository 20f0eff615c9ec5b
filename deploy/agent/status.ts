import { replicaSettings } from "../../shared/config/config.ts";
import { hex } from "../../shared/manifest/digest.ts";
import type { ServiceState } from "../../shared/session/in-service.ts";
import type { CutStore } from "../../shared/wire/messages.ts";
import type { Coherency, CutId, PeerState } from "../../shared/words.ts";
import type {
  AgentStatus,
  CutStatus,
  DurabilityStatus,
  GroupStatus,
  Lag,
  PeerStatus,
  Reason,
  StoreStatus,
  TakeoverStatus,
} from "../control/api.ts";
import { cutRef, jsonNumber, statusSchema, unknownLag } from "../control/api.ts";
import type { ReplicaStanding } from "../workers/replica-calls.ts";
import type { GroupAgent } from "./group.ts";
import { sourceStatus } from "./source-status.ts";
import { bestTakeover, type Candidate, ownTakeover, rtoEstimateSeconds } from "./takeover.ts";

/** Everything that an agent says of itself, from what its groups know at this instant. */
export function agentStatus(
  node: string,
  software: string,
  startedAt: string,
  groups: ReadonlyMap<string, GroupAgent>,
): AgentStatus {
  return {
    schema: statusSchema,
    node,
    software,
    startedAt,
    groups: Object.fromEntries([...groups].map(([name, group]) => [name, groupStatus(group)])),
  };
}

export function groupStatus(group: GroupAgent): GroupStatus {
  const standing = group.standing;
  const replica = group.workers.replicaStanding;
  const reign = group.reign;
  const forks = group.workers.options.forks.names(group.config.name);
  const namingOthers = group.peers.namingOthers();
  const cutStores: readonly CutStore[] = reign?.standing.stores ?? replica?.record?.stores ?? [];
  return {
    id: standing === undefined || standing.groupId === "" ? null : standing.groupId,
    role: group.role,
    epoch: jsonNumber(standing?.epoch ?? 0n),
    cut: cutStatus(group),
    peers: Object.fromEntries(peerNames(group).map((peer) => [peer, peerStatus(group, peer)])),
    promotable: promotable(group),
    durability: durability(group),
    takeover: takeover(group),
    stores: Object.fromEntries(group.stores.map((store) => [store.name, storeStatus(group, store, cutStores)])),
    waitingFor: group.peers.waitingFor(),
    paused: group.pausing.paused ?? null,
    service: { running: group.service.state.kind === "in-service", why: outOfService(group.service.state) },
    halted: halted(group),
    history: {
      points: replica?.pointCount ?? 0,
      bytes: replica?.historyBytes ?? 0,
      oldestAt: oldestPointAt(replica),
    },
    forks: { count: forks.length, names: forks },
    ...(namingOthers.length === 0 ? {} : { membersDiffer: namingOthers }),
    ...rejoiningStatus(group),
    ...switchoverStatus(group),
    ...(reign?.lastFreezeMs === undefined ? {} : { lastFreezeMs: reign.lastFreezeMs }),
  };
}

/** Why the group's service may not run on this node; null where it may, or will in a moment. */
export function outOfService(state: ServiceState): Reason | null {
  if (state.kind === "in-service") return null;
  if (state.kind === "confirmable")
    return {
      code: "UNCONFIRMED",
      message: "everybody has answered, and it is being written down",
      hint: "",
      flag: null,
    };
  const { code, message, hint, flag } = state;
  return { code, message, hint, flag: flag ?? null };
}

function rejoiningStatus({ promotion }: GroupAgent): Pick<GroupStatus, "rejoining"> {
  const from = promotion.rejoiningFrom();
  if (from === undefined) return {};
  const { common, ownCut, fork } = from;
  return {
    rejoining: {
      common: cutRef(common),
      ownCut: ownCut === undefined ? null : cutRef(ownCut.cut),
      takenAt: ownCut === undefined ? null : new Date(ownCut.takenAtUs / 1000).toISOString(),
      fork: fork ?? null,
    },
  };
}

function switchoverStatus({ switchover }: GroupAgent): Pick<GroupStatus, "switchover" | "plannedSwitchover"> {
  const { record, planned } = switchover;
  return {
    ...(record === undefined ? {} : { switchover: { to: record.to, step: record.step, reason: record.reason } }),
    ...(planned === undefined ? {} : { plannedSwitchover: planned }),
  };
}

/** Why the group stands still, on this node or where it is followed. */
function halted(group: GroupAgent): Reason | null {
  const { reign, standing } = group;
  const { following, copyProblem, copyHint } = group.workers;
  const { waiting } = group.rejoin;
  if (waiting !== undefined) return waiting;
  const reason = (message: string, hint: string): Reason => ({ code: "HALTED", message, hint, flag: null });
  if (reign !== undefined && reign.halted !== "") return reason(reign.halted, reign.haltedHint);
  if (standing !== undefined && standing.halted !== "") return reason(standing.halted, "See the agent's log.");
  if (copyProblem !== "") return reason(copyProblem, copyHint);
  const source = following?.source?.halted ?? "";
  return source === "" ? null : reason(`${following?.session.peer}: ${source}`, "See its status for what to do.");
}

function cutStatus(group: GroupAgent): CutStatus | null {
  const standing = group.standing;
  if (standing === undefined || standing.committed.seq === 0n) return null;
  const coherency = (group.reign?.standing.coherency ??
    group.workers.replicaStanding?.record?.coherency ??
    "independent") as Coherency;
  return {
    ...cutRef(standing.committed),
    takenAt: new Date(standing.lastTakenAtUs / 1000).toISOString(),
    coherency,
    digest: hex(standing.digest),
  };
}

/** A primary shows its replicas; a replica whom it follows, or would. */
function peerNames(group: GroupAgent): string[] {
  const others = group.peers.members().filter((name) => name !== group.node);
  if (group.role === "primary") return others;
  const primary = group.workers.following?.session.peer ?? group.peers.lastPrimary ?? group.config.primary;
  return others.filter((name) => name === primary);
}

function peerStatus(group: GroupAgent, peer: string): PeerStatus {
  return group.role === "primary" ? followerStatus(group, peer) : primaryStatus(group, peer);
}

function followerStatus(group: GroupAgent, peer: string): PeerStatus {
  const reign = group.reign;
  const note = group.peers.note(peer);
  const view = reign?.view(peer);
  const connected = view !== undefined && view.state !== "connecting";
  const state: PeerState = connected ? view.state : note?.state === "refused" ? "refused" : "connecting";
  const seconds = view?.lagSeconds ?? null;
  const lag: Lag = {
    // Of one that is not there they would be those since the last cut, which may be the least of what it lacks.
    bytes: connected ? (reign?.backlogBytes ?? null) : null,
    cuts: view?.lagCuts ?? null,
    seconds,
    basis: connected ? basis(group) : "silence",
  };
  return {
    state,
    reason: connected ? view.reason : (note?.reason ?? "") || (view?.reason ?? ""),
    lag,
    received: optionalCut(view?.received),
    durable: optionalCut(view?.durable),
    applied: optionalCut(view?.applied),
    rpo: rpo(group, peer, seconds),
  };
}

function primaryStatus(group: GroupAgent, peer: string): PeerStatus {
  const { following, replicaStanding } = group.workers;
  const note = group.peers.note(peer);
  const alive = following !== undefined && group.peers.primaryAlive();
  const loss = group.peers.loss();
  const durable = replicaStanding?.committed;
  const state: PeerState =
    following === undefined
      ? note?.state === "refused"
        ? "refused"
        : "connecting"
      : following.source?.halted
        ? "halted"
        : following.source?.paused === true
          ? "paused"
          : durable === undefined || durable.seq === 0n
            ? "seeding"
            : alive && loss.seconds <= 5
              ? "streaming"
              : "catching-up";
  return {
    state,
    reason: following === undefined ? (note?.reason ?? "") : (following.source?.halted ?? ""),
    lag: {
      bytes: loss.bytes ?? null,
      cuts: loss.cuts ?? null,
      seconds: loss.seconds,
      basis: alive ? basis(group) : "silence",
    },
    received: optionalCut(following?.acknowledged?.received ?? durable),
    durable: optionalCut(durable),
    applied:
      replicaStanding === undefined || durable === undefined
        ? null
        : optionalCut({ epoch: durable.epoch, seq: replicaStanding.applied }),
    rpo: rpo(group, group.node, loss.seconds),
  };
}

function basis(group: GroupAgent): Lag["basis"] {
  return group.stores.every((store) => store.kind === "sqlite") ? "log" : "scan";
}

function rpo(group: GroupAgent, replica: string, seconds: number | null): PeerStatus["rpo"] {
  const promised = replicaSettings(group.config, replica as never).rpoMs;
  if (promised === undefined) return null;
  return { seconds: promised / 1000, broken: seconds === null || seconds > promised / 1000 };
}

const noFaultsOfTheCopy = ["bypassed-cluster", "live-primary", "unreachable-primary"] as const;

function promotable(group: GroupAgent): GroupStatus["promotable"] {
  const loss = group.peers.loss();
  const lag: Lag = {
    bytes: loss.bytes ?? null,
    cuts: loss.cuts ?? null,
    seconds: loss.seconds,
    basis: group.peers.primaryAlive() ? basis(group) : "silence",
  };
  if (group.role === "primary") {
    return {
      ok: false,
      why: [{ code: "PRIMARY", message: "this node is the primary", hint: "", flag: null }],
      loss: { bytes: 0, cuts: 0, seconds: 0, basis: basis(group) },
      rtoEstimateSeconds: null,
    };
  }
  // That the primary lives, or is not heard, that a cluster decides, or that some loss is to be accepted, is no fault of the copy.
  const refusals = group.promotion.refusals({ acceptLoss: true, accept: noFaultsOfTheCopy });
  const why: Reason[] = refusals.map(({ code, message, hint, flag }) => ({ code, message, hint, flag: flag ?? null }));
  const { following, replicaStanding } = group.workers;
  const unapplied = following?.acknowledged?.unappliedBytes ?? replicaStanding?.unappliedBytes ?? 0;
  return {
    ok: why.length === 0,
    why,
    // A former primary has all that it wrote; what it would give up is elsewhere.
    loss: group.role === "fenced" ? unknownLag : lag,
    rtoEstimateSeconds: rtoEstimateSeconds(unapplied),
  };
}

function durability({ config, reign, role }: GroupAgent): DurabilityStatus {
  const { semiSync } = config;
  const nothing = { replicas: null, timeoutSeconds: null, degraded: null, degradedSince: null };
  if (semiSync === undefined) return { mode: "async", ...nothing };
  const watched = role === "primary" ? reign?.semiSync : undefined;
  return {
    mode: "semi_sync",
    replicas: semiSync.replicas,
    timeoutSeconds: semiSync.timeoutMs / 1000,
    degraded: watched === undefined ? null : watched.degradedSince !== undefined,
    degradedSince: watched?.degradedSince ?? null,
  };
}

function takeover(group: GroupAgent): TakeoverStatus | null {
  const { role, reign, workers } = group;
  if (role === "replica") {
    const forks = workers.options.forks.names(group.config.name).length;
    return ownTakeover(group.node, promotable(group), workers.lastVerified.verified, forks);
  }
  if (role !== "primary" || reign === undefined) return null;
  return bestTakeover(
    peerNames(group).map((node): Candidate => {
      const { suspect, unappliedBytes, report } = reign.view(node);
      const poor = group.promotion.tooPoor(reign.standing.stores);
      return {
        node,
        peer: peerStatus(group, node),
        fault: faultOf(suspect, poor, report?.paused === true),
        unappliedBytes,
        verified:
          report === undefined || report.verifiedAtUs === 0
            ? null
            : { at: new Date(report.verifiedAtUs / 1000).toISOString(), ok: !report.differed },
        forks: report?.forks ?? 0,
      };
    }),
  );
}

/** What its own promotion would be refused for there. */
function faultOf(suspect: string, poor: string, paused: boolean): string {
  if (suspect !== "") return `has a suspect copy: ${suspect}`;
  if (poor !== "") return `has ${poor}`;
  return paused ? "has its failover paused" : "";
}

function storeStatus(
  group: GroupAgent,
  store: GroupAgent["stores"][number],
  cutStores: readonly CutStore[],
): StoreStatus {
  const costs = group.reign?.costs[store.name];
  const health = group.reign?.health.get(store.name);
  const scrub = group.workers.scrubState(store.name);
  const last = cutStores.find((item) => item.name === store.name);
  return {
    kind: store.kind,
    path: store.path,
    position: last?.position ?? "",
    consistency: last?.consistency ?? null,
    bytes: last?.bytes ?? 0,
    files: last?.files ?? 0,
    behind: last?.behind.length ?? 0,
    ...(costs === undefined ? {} : { writerWaitMs: waits(costs.writerWaitsMs), counts: costs.counts }),
    ...(health === undefined ? {} : { source: sourceStatus(health, last?.behind ?? [], scrub) }),
  };
}

function waits(times: readonly number[]): NonNullable<StoreStatus["writerWaitMs"]> {
  const sorted = [...times].sort((a, b) => a - b);
  const at = (share: number): number =>
    Math.round(1000 * (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0)) / 1000;
  return { p50: at(0.5), p99: at(0.99), max: at(1) };
}

function oldestPointAt(replica: ReplicaStanding | undefined): string | null {
  const at = replica?.oldestPointUs ?? 0;
  return at === 0 ? null : new Date(at / 1000).toISOString();
}

function optionalCut(cut: CutId | undefined): ReturnType<typeof cutRef> | null {
  return cut === undefined || cut.seq === 0n ? null : cutRef(cut);
}
