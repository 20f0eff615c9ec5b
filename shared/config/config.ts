import { exitCodes, UnderstudyError } from "../errors.ts";
import type { SemiSync } from "../session/durability.ts";
import type { Consistency, Engine, GroupName, NodeName, StoreName } from "../words.ts";
import { didYouMean } from "./nearest.ts";

/** The cluster as its one file describes it: the same on every node, and the same for every role of a node. */
export interface Config {
  readonly fileName: string;
  readonly nodes: ReadonlyMap<NodeName, NodeConfig>;
  readonly groups: ReadonlyMap<GroupName, GroupConfig>;
}

export interface NodeConfig {
  readonly name: NodeName;
  /** undefined: nobody can dial this node, it dials the others. */
  readonly address: Address | undefined;
  /** `ssh-ed25519 AAAA...` without comment, at least one; several while one is rotated. Host key and client key alike. */
  readonly keys: readonly string[];
  readonly line: LineConfig;
  /** Whom the agent tells of each group when it comes into service on this node, and when it leaves it. */
  readonly primaryTarget: "systemd" | { readonly start: Command; readonly stop: Command } | undefined;
  /** Where others ask over HTTP who is what; undefined: nowhere. */
  readonly roleListener: { readonly host: string; readonly port: number } | undefined;
}

export type Address =
  /** The agent's own SSH server. */
  | { readonly kind: "embedded"; readonly host: string; readonly port: number }
  /** The system's OpenSSH, which bridges to the agent by a forced command; its host key is pinned here. */
  | {
      readonly kind: "openssh";
      readonly user: string;
      readonly host: string;
      readonly port: number;
      /** `TYPE AAAA...` without comment; of any type that OpenSSH has. */
      readonly hostKey: string;
    };

/** The link to a node, shared by all groups that travel on it. */
export interface LineConfig {
  readonly rateBytesPerSecond: number | undefined;
  /** `auto`: compress what shrinks. */
  readonly compress: "auto" | "always" | "never";
}

export interface GroupConfig {
  readonly name: GroupName;
  /** The candidate at the group's birth; from then on the nodes' own state decides. */
  readonly primary: NodeName;
  readonly replicas: ReadonlyMap<NodeName, ReplicaConfig>;
  readonly stores: ReadonlyMap<StoreName, StoreConfig>;
  readonly interval: Interval;
  /** How often the freeze hooks are used; undefined where there are none. */
  readonly freezeEveryMs: number | undefined;
  /** Only what the file says; the store kind's own default holds for the others. */
  readonly require: ReadonlyMap<StoreName, Consistency>;
  readonly hooks: HooksConfig;
  readonly retention: RetentionConfig;
  readonly rpoMs: number | undefined;
  readonly limits: LimitsConfig;
  /** Undefined: the source is never read again as a whole. */
  readonly scrub: ScrubConfig | undefined;
  readonly ha: HaConfig;
  /** What `wait` asks for where it is not told; undefined: `durability: async`. */
  readonly semiSync: SemiSync | undefined;
  /** Whether a former primary follows by itself once what only it has is kept, or waits for a person. */
  readonly rejoin: "auto" | "manual";
}

/** What the file says for one replica; `replicaSettings` fills in what it does not. */
export interface ReplicaConfig {
  readonly rpoMs: number | undefined;
  readonly interval: Interval | undefined;
}

export type Interval =
  | { readonly kind: "on-change" }
  | { readonly kind: "every"; readonly ms: number }
  /** In the node's local time. */
  | { readonly kind: "daily"; readonly hour: number; readonly minute: number };

/** An argv, never given to a shell. */
export interface Command {
  readonly run: readonly [string, ...string[]];
  readonly timeoutMs: number;
}

export interface HooksConfig {
  readonly freeze: Command | undefined;
  readonly thaw: Command | undefined;
  readonly stopService: Command | undefined;
  readonly startService: Command | undefined;
  readonly beforePromote: Command | undefined;
  readonly afterPromote: Command | undefined;
  /** `stopService` where the file does not say. */
  readonly onFenced: Command | undefined;
}

/** For how long which recovery points are kept, in ms; undefined: that rung is not on the ladder. */
export interface RetentionLadder {
  readonly allMs: number | undefined;
  readonly perMinuteMs: number | undefined;
  readonly perHourMs: number | undefined;
  readonly perDayMs: number | undefined;
}

export interface RetentionConfig {
  readonly keep: RetentionLadder;
  readonly bytesMax: number;
}

export interface LimitsConfig {
  readonly stagingBytes: number;
  readonly snapshotHoldMs: number;
  /** How often a replica looks for what somebody else did to the copy. */
  readonly sweepMs: number;
  /** How long a step of a switchover may take that is no hook. */
  readonly switchoverStepMs: number;
}

/** How often everything on the primary is read again, and how fast at most. */
export interface ScrubConfig {
  readonly everyMs: number;
  readonly bytesPerSecond: number;
}

/** With an engine this node never comes into service by itself: the engine promotes. */
export interface HaConfig {
  readonly engine: Engine;
}

export type StoreConfig = FilesStoreConfig | SqliteStoreConfig;

export interface FilesStoreConfig {
  readonly name: StoreName;
  readonly kind: "files";
  readonly keys: FilesStoreKeys;
  /** Sorted, each once. The same on every node, since it decides what is shipped. */
  readonly exclude: readonly string[];
  readonly at: ReadonlyMap<NodeName, Partial<FilesStoreKeys>>;
}

/** What may differ from node to node. */
export interface FilesStoreKeys {
  readonly path: string;
  readonly snapshot: SnapshotCommands | undefined;
  /** The application's own answer to "what changed?". */
  readonly list: Command | undefined;
  readonly trustWatcher: boolean;
  /** Files that move while they are read, and large ones, are read from a clone where the filesystem has them. */
  readonly reflink: boolean;
  readonly owners: "numeric" | "ignore";
}

/** Any filesystem's or volume's snapshot: `create`, then the tree is read at `path`, then `remove`. */
export interface SnapshotCommands {
  readonly create: Command;
  readonly remove: Command;
  readonly path: string;
}

export interface SqliteStoreConfig {
  readonly name: StoreName;
  readonly kind: "sqlite";
  readonly keys: SqliteStoreKeys;
  readonly at: ReadonlyMap<NodeName, Partial<SqliteStoreKeys>>;
}

export interface SqliteStoreKeys {
  readonly path: string;
}

/** A store as one node has it, `at` applied. */
export type StoreOnNode =
  | ({ readonly name: StoreName; readonly kind: "files"; readonly exclude: readonly string[] } & FilesStoreKeys)
  | ({ readonly name: StoreName; readonly kind: "sqlite" } & SqliteStoreKeys);

/** A node or group that the configuration does not have was asked for. */
export class NotConfigured extends UnderstudyError {
  readonly code = "NOT_CONFIGURED";
  readonly remedy = "stop";
  readonly state = "Nothing was done.";
  readonly hint: string;
  override readonly exitCode = exitCodes.usage;

  constructor(what: "node" | "group", name: string, where: string, known: Iterable<string>) {
    const names = [...known];
    super(`${where} has no ${what} ${JSON.stringify(name)}`);
    this.hint = `Use a ${what} of ${names.join(", ")}${didYouMean(name, names)}`;
  }
}

/** @throws {NotConfigured} */
export function nodeNamed(config: Config, name: string): NodeConfig {
  const node = config.nodes.get(name as NodeName);
  if (!node) throw new NotConfigured("node", name, config.fileName, config.nodes.keys());
  return node;
}

/** @throws {NotConfigured} */
export function groupNamed(config: Config, name: string): GroupConfig {
  const group = config.groups.get(name as GroupName);
  if (!group) throw new NotConfigured("group", name, config.fileName, config.groups.keys());
  return group;
}

/** Every node that can be primary or replica of the group, the candidate first. */
export function membersOf(group: GroupConfig): NodeName[] {
  return [group.primary, ...group.replicas.keys()];
}

/** The groups in which a node takes part. */
export function groupsOf(config: Config, node: NodeName): GroupConfig[] {
  return [...config.groups.values()].filter((group) => membersOf(group).includes(node));
}

/** One store as `node` has it, in either role. */
export function storeOnNode(store: StoreConfig, node: NodeName): StoreOnNode {
  switch (store.kind) {
    case "files":
      return {
        name: store.name,
        kind: store.kind,
        exclude: store.exclude,
        ...store.keys,
        ...store.at.get(node),
      };
    case "sqlite":
      return { name: store.name, kind: store.kind, ...store.keys, ...store.at.get(node) };
  }
}

/** Whether a replica saves old images at all. */
export function keepsHistory({ keep }: RetentionConfig): boolean {
  return Object.values(keep).some((ms: number | undefined) => ms !== undefined && ms > 0);
}

/** What holds towards one member while it is a replica; the candidate, once it follows, has the group's own values. */
export function replicaSettings(group: GroupConfig, node: NodeName): { interval: Interval; rpoMs: number | undefined } {
  const replica = group.replicas.get(node);
  return { interval: replica?.interval ?? group.interval, rpoMs: replica?.rpoMs ?? group.rpoMs };
}
