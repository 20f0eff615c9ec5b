import { exitCodes, UnderstudyError } from "../errors.ts";
import type { SemiSync } from "../session/durability.ts";
import { durationText } from "../units.ts";
import {
  type Consistency,
  consistencies,
  type GroupName,
  type NodeName,
  type StoreKind,
  type StoreName,
} from "../words.ts";
import {
  type Address,
  type Config,
  type FilesStoreKeys,
  type GroupConfig,
  type HooksConfig,
  type Interval,
  membersOf,
  type NodeConfig,
  type ReplicaConfig,
  type RetentionLadder,
  type StoreConfig,
  storeOnNode,
} from "./config.ts";
import { didYouMean } from "./nearest.ts";
import { filesSchema, groupSchema, isMap, kindSchema, nodeSchema, rootSchema, sqliteSchema } from "./schema.ts";
import { type Output, Sections } from "./sections.ts";
import { type KeyPath, type Problem, readYaml } from "./yaml-document.ts";

/** The file cannot be used as it is; all that is wrong with it, with lines. */
export class ConfigurationInvalid extends UnderstudyError {
  readonly code = "CONFIGURATION_INVALID";
  readonly remedy = "stop";
  readonly state = "Nothing was started or changed.";
  readonly hint: string;
  override readonly exitCode = exitCodes.usage;
  readonly problems: readonly Problem[];

  constructor(fileName: string, problems: readonly Problem[]) {
    super(problems.map((problem) => `${fileName}:${problem.line}: ${problemText(problem)}`).join("\n"));
    this.problems = problems;
    this.hint = `Correct ${problems.length === 1 ? "this line" : `these ${problems.length} places`}, then run \`understudy check\`.`;
  }
}

/** The configuration that `text` describes. Pure. @throws {ConfigurationInvalid} with every fault that was found */
export function parseConfig(text: string, fileName: string): Config {
  const document = readYaml(text);
  if (document.problems.length > 0) throw new ConfigurationInvalid(fileName, document.problems);
  const reader = new Reader(document);
  const config = reader.config(fileName);
  if (reader.problems.length > 0) {
    throw new ConfigurationInvalid(
      fileName,
      reader.problems.toSorted((a, b) => a.line - b.line),
    );
  }
  return config;
}

/** Those of the issue's example: enough to step back over a bad deployment, bounded by `bytesMax`. */
const keepDefault: RetentionLadder = {
  allMs: 5 * 60_000,
  perMinuteMs: 3_600_000,
  perHourMs: 86_400_000,
  perDayMs: 7 * 86_400_000,
};
const retentionBytesMaxDefault = 20 * 2 ** 30;
const stagingBytesDefault = 10 * 2 ** 30;
const scrubEveryMsDefault = 7 * 86_400_000;
const scrubBytesPerSecondDefault = 20 * 2 ** 20;
const snapshotHoldMsDefault = 30_000;
const sweepMsDefault = 60_000;
const sweepMsMin = 1000;
const switchoverStepMsDefault = 30_000;
const freezeEveryMsDefault = 5 * 60_000;
const dayMs = 86_400_000;

/** Builds the typed configuration and checks what must hold between its keys. */
class Reader extends Sections {
  #nodeNames: string[] = [];

  config(fileName: string): Config {
    const root = this.section(rootSchema, this.written([]), []);
    const writtenNodes = root ? this.named(root.nodes, ["nodes"]) : [];
    // A node whose own keys are wrong is still there to be referred to.
    this.#nodeNames = writtenNodes.map(([name]) => name);
    const nodes = new Map<NodeName, NodeConfig>();
    for (const [name, value] of writtenNodes) nodes.set(name as NodeName, this.#node(name as NodeName, value));
    this.#distinctNodes(nodes);
    const groups = new Map<GroupName, GroupConfig>();
    for (const [name, value] of root ? this.named(root.groups, ["groups"]) : []) {
      const group = this.#group(name as GroupName, value);
      if (group) groups.set(group.name, group);
    }
    const config: Config = { fileName, nodes, groups };
    for (const group of groups.values()) this.#dialable(config, group);
    for (const node of nodes.keys()) this.#separatePaths(config, node);
    return config;
  }

  #node(name: NodeName, value: unknown): NodeConfig {
    const path = ["nodes", name];
    const written = this.section(nodeSchema, value, path) ?? {};
    const has = (key: string): boolean => isMap(value) && key in value;
    if (has("key") && has("keys")) this.problem([...path, "keys"], "stands beside `key`: give one or the other");
    if (!has("key") && !has("keys")) {
      this.problem(path, "has no key: put in what `understudy init` printed on that node");
    }
    const keys = written.keys ?? (written.key === undefined ? [] : [written.key]);
    const roleListener = written.role_listener;
    const address = this.#address(written, has("host_key"), path);
    if (roleListener !== undefined && address?.kind === "embedded" && sameListener(roleListener, address))
      this.problem([...path, "role_listener"], "is the node's own address, at which the agent speaks SSH");
    return {
      name,
      address,
      roleListener,
      primaryTarget: written.primary_target,
      keys,
      line: { rateBytesPerSecond: written.line?.rate, compress: written.line?.compress ?? "auto" },
    };
  }

  #address(written: Output<typeof nodeSchema>, hostKeyWritten: boolean, path: KeyPath): Address | undefined {
    const { address, host_key: hostKey } = written;
    if (address?.kind === "openssh") {
      if (!hostKeyWritten) {
        this.problem(
          path,
          "has an ssh:// address and must say its `host_key`: the line of ssh_host_ed25519_key.pub there",
        );
      }
      return { ...address, hostKey: hostKey ?? "" };
    }
    if (hostKeyWritten) {
      this.problem([...path, "host_key"], "belongs to an ssh:// address only; an agent's own server is known by `key`");
    }
    return address;
  }

  #distinctNodes(nodes: ReadonlyMap<NodeName, NodeConfig>): void {
    const seenKeys = new Map<string, NodeName>();
    const seenAddresses = new Map<string, NodeName>();
    for (const node of nodes.values()) {
      for (const key of node.keys) {
        const other = seenKeys.get(key);
        if (other !== undefined) {
          const again =
            other === node.name ? "the same key a second time" : `has the key of ${other}: each node has its own`;
          this.problem(["nodes", node.name], again);
        }
        seenKeys.set(key, node.name);
      }
      if (!node.address) continue;
      const address = addressText(node.address);
      const other = seenAddresses.get(address);
      if (other !== undefined) this.problem(["nodes", node.name, "address"], `is the address of ${other}`);
      seenAddresses.set(address, node.name);
    }
  }

  #group(name: GroupName, value: unknown): GroupConfig | undefined {
    const path = ["groups", name];
    const written = this.section(groupSchema, value, path);
    if (!written) return undefined;
    const primary = written.primary as NodeName | undefined;
    if (primary !== undefined) this.#knownNode(primary, [...path, "primary"]);
    const replicas = this.#replicas(written, primary, path);
    const members = [...(primary === undefined ? [] : [primary]), ...replicas.keys()];
    const interval = this.#interval(written, path) ?? { kind: "on-change" };
    const stores = this.#stores(written.stores, members, path);
    const hooks = this.#hooks(written, path);
    const group: GroupConfig = {
      name,
      primary: primary ?? ("" as NodeName),
      replicas,
      stores,
      interval,
      freezeEveryMs: hooks.freeze ? (written.freeze_every ?? freezeEveryMsDefault) : undefined,
      require: this.#require(written, stores, path),
      hooks,
      retention: {
        keep: this.#ladder(written.retention?.keep, path),
        bytesMax: written.retention?.max_bytes ?? retentionBytesMaxDefault,
      },
      rpoMs: written.rpo,
      limits: {
        stagingBytes: written.limits?.staging ?? stagingBytesDefault,
        snapshotHoldMs: written.limits?.snapshot_hold ?? snapshotHoldMsDefault,
        sweepMs: written.limits?.sweep ?? sweepMsDefault,
        switchoverStepMs: written.limits?.switchover_step ?? switchoverStepMsDefault,
      },
      scrub:
        written.scrub === "never"
          ? undefined
          : {
              everyMs: written.scrub?.every ?? scrubEveryMsDefault,
              bytesPerSecond: written.scrub?.rate ?? scrubBytesPerSecondDefault,
            },
      ha: { engine: written.ha?.engine ?? "none" },
      semiSync: this.#durability(written, interval, replicas, path),
      rejoin: written.rejoin ?? "manual",
    };
    if (group.rejoin === "auto" && hooks.onFenced === undefined)
      this.problem([...path, "rejoin"], "is auto, and nothing stops the service: give stop_service or on_fenced");
    if (group.limits.sweepMs < sweepMsMin)
      this.problem([...path, "limits", "sweep"], `is shorter than ${durationText(sweepMsMin)}`);
    this.#keepablePromises(group, path);
    return primary === undefined ? undefined : group;
  }

  #replicas(
    written: Output<typeof groupSchema>,
    primary: NodeName | undefined,
    groupPath: KeyPath,
  ): Map<NodeName, ReplicaConfig> {
    const replicas = new Map<NodeName, ReplicaConfig>();
    if (!written.replicas) return replicas;
    const path = [...groupPath, "replicas"];
    if (written.replicas.size === 0) this.problem(path, "names no node");
    const names = [...written.replicas.keys()];
    const inList = Array.isArray(this.written(path));
    for (const [name, replica] of written.replicas) {
      const namePath = [...path, inList ? names.indexOf(name) : name];
      this.#knownNode(name, namePath);
      if (name === primary) this.problem(namePath, `is the group's primary, which is no replica of itself`);
      replicas.set(name as NodeName, { rpoMs: replica.rpo, interval: this.#interval(replica, namePath) });
    }
    return replicas;
  }

  /** So many replicas must be there that get each change at once: the others would always be too late. */
  #durability(
    written: Output<typeof groupSchema>,
    interval: Interval,
    replicas: ReadonlyMap<NodeName, ReplicaConfig>,
    groupPath: KeyPath,
  ): SemiSync | undefined {
    if (written.durability === undefined || written.durability === "async") return undefined;
    const { replicas: wanted, timeout: timeoutMs } = written.durability.semi_sync;
    const path = [...groupPath, "durability", "semi_sync"];
    const atOnce = [...replicas.values()].filter(
      (replica) => (replica.interval ?? interval).kind === "on-change",
    ).length;
    if (wanted < 1) this.problem([...path, "replicas"], "must be 1 at least: `durability: async` waits for none");
    else if (wanted > atOnce) {
      const there = `${atOnce} with \`interval: on-change\``;
      this.problem([...path, "replicas"], `asks for ${wanted} replicas of this group, which has ${there}`);
    }
    return { replicas: wanted, timeoutMs };
  }

  #interval(written: { interval?: Interval | undefined; schedule?: Interval | undefined }, path: KeyPath) {
    if (written.interval && written.schedule) {
      this.problem([...path, "schedule"], "stands beside `interval`: give one or the other");
    }
    return written.interval ?? written.schedule;
  }

  #stores(value: unknown, members: readonly NodeName[], groupPath: KeyPath): Map<StoreName, StoreConfig> {
    const stores = new Map<StoreName, StoreConfig>();
    for (const [name, written] of this.named(value, [...groupPath, "stores"])) {
      const path = [...groupPath, "stores", name];
      const store = this.#store(name as StoreName, written, path);
      if (!store) continue;
      stores.set(store.name, store);
      for (const node of store.at.keys()) {
        const nodePath = [...path, "at", node];
        if (this.#knownNode(node, nodePath) && !members.includes(node)) {
          this.problem(nodePath, "is neither primary nor replica of this group");
        }
      }
    }
    return stores;
  }

  #store(name: StoreName, value: unknown, path: KeyPath): StoreConfig | undefined {
    if (!isMap(value)) {
      this.problem(path, "must be a map with at least `kind` and `path`");
      return undefined;
    }
    const kind = kindSchema.safeParse(value.kind);
    if (!kind.success) {
      const meant = typeof value.kind === "string" ? didYouMean(value.kind, kindSchema.options) : "";
      this.problem([...path, "kind"], `${kind.error.issues[0]?.message}${meant}`);
      return undefined;
    }
    return this.#storeOfKind(kind.data, name, value, path);
  }

  #storeOfKind(kind: StoreKind, name: StoreName, value: unknown, path: KeyPath): StoreConfig | undefined {
    switch (kind) {
      case "files": {
        const written = this.section(filesSchema, value, path);
        if (written?.path === undefined) return undefined;
        const { snapshot, list, trust_watcher: trustWatcher = false, reflink = true, owners = "numeric" } = written;
        return {
          name,
          kind,
          keys: { path: written.path, snapshot, list, trustWatcher, reflink, owners },
          exclude: [...new Set(written.exclude)].toSorted(),
          at: nodesOf(written.at, (there) =>
            onlyGiven<FilesStoreKeys>({
              path: there.path,
              snapshot: there.snapshot,
              list: there.list,
              trustWatcher: there.trust_watcher,
              reflink: there.reflink,
              owners: there.owners,
            }),
          ),
        };
      }
      case "sqlite": {
        const written = this.section(sqliteSchema, value, path);
        if (written?.path === undefined) return undefined;
        return {
          name,
          kind,
          keys: { path: written.path },
          at: nodesOf(written.at, (there) => onlyGiven({ path: there.path })),
        };
      }
    }
  }

  #hooks(written: Output<typeof groupSchema>, groupPath: KeyPath): HooksConfig {
    const hooks = written.hooks ?? {};
    const path = [...groupPath, "hooks"];
    if (hooks.freeze && !hooks.thaw) this.problem([...path, "freeze"], "has no `thaw` beside it");
    if (hooks.thaw && !hooks.freeze) this.problem([...path, "thaw"], "has no `freeze` beside it");
    if (written.freeze_every !== undefined && !hooks.freeze) {
      this.problem([...groupPath, "freeze_every"], "does nothing without the hooks `freeze` and `thaw`");
    }
    return {
      freeze: hooks.freeze,
      thaw: hooks.thaw,
      stopService: hooks.stop_service,
      startService: hooks.start_service,
      beforePromote: hooks.before_promote,
      afterPromote: hooks.after_promote,
      onFenced: hooks.on_fenced ?? hooks.stop_service,
    };
  }

  #require(
    written: Output<typeof groupSchema>,
    stores: ReadonlyMap<StoreName, StoreConfig>,
    groupPath: KeyPath,
  ): Map<StoreName, Consistency> {
    const required = new Map<StoreName, Consistency>();
    const stored = this.written([...groupPath, "stores"]);
    const names = isMap(stored) ? Object.keys(stored) : [];
    for (const [name, consistency] of written.require ?? []) {
      const path = [...groupPath, "require", name];
      if (!names.includes(name)) this.problem(path, `is no store of this group${didYouMean(name, names)}`);
      if (stores.get(name as StoreName)?.kind === "files" && consistency === "transactional") {
        const possible = consistencies.filter((each) => each !== consistency).join(", ");
        this.problem(path, `can never be transactional, being a store of kind files: require one of ${possible}`);
      }
      required.set(name as StoreName, consistency);
    }
    return required;
  }

  #ladder(keep: RetentionLadder | undefined, groupPath: KeyPath): RetentionLadder {
    if (!keep) return keepDefault;
    const rungs = [
      ["all", keep.allMs],
      ["per_minute", keep.perMinuteMs],
      ["per_hour", keep.perHourMs],
      ["per_day", keep.perDayMs],
    ] as const;
    let finer: readonly [string, number] | undefined;
    for (const [name, ms] of rungs) {
      if (ms === undefined) continue;
      if (finer && ms <= finer[1]) {
        const reach = `reaches back ${durationText(ms)}, no further than ${finer[0]} (${durationText(finer[1])})`;
        this.problem([...groupPath, "retention", "keep", name], `${reach}: it would keep nothing`);
      }
      finer = [name, ms];
    }
    return keep;
  }

  /** An RPO shorter than the time between two cuts is broken from the first minute, and would be every minute. */
  #keepablePromises(group: GroupConfig, path: KeyPath): void {
    const groupBetween = betweenCutsMs(group.interval);
    if (group.rpoMs !== undefined && group.rpoMs < groupBetween) {
      this.problem([...path, "rpo"], `cannot be kept with a cut every ${durationText(groupBetween)}`);
    }
    for (const [name, replica] of group.replicas) {
      if (!replica.interval && replica.rpoMs === undefined) continue;
      const rpoMs = replica.rpoMs ?? group.rpoMs;
      const between = betweenCutsMs(replica.interval ?? group.interval);
      if (rpoMs === undefined || rpoMs >= between) continue;
      const whose = replica.rpoMs === undefined ? "the group's `rpo`" : "its `rpo`";
      this.problem([...path, "replicas", name], `${whose} cannot be kept with a cut every ${durationText(between)}`);
    }
  }

  /** Any member may become primary, so every two of a group must be able to reach one another. */
  #dialable(config: Config, group: GroupConfig): void {
    const hidden = membersOf(group).filter((name) => {
      const node = config.nodes.get(name);
      return node !== undefined && this.written(["nodes", name, "address"]) === undefined;
    });
    if (hidden.length < 2) return;
    const names = hidden.join(" and ");
    this.problem(["groups", group.name], `${names} have no address: of any two nodes of a group one must be dialled`);
  }

  /** Two stores in one place would be two owners of the same files, in either role of the node. */
  #separatePaths(config: Config, node: NodeName): void {
    const taken: { path: string; label: string }[] = [];
    for (const group of config.groups.values()) {
      if (!membersOf(group).includes(node)) continue;
      for (const store of group.stores.values()) {
        const { path } = storeOnNode(store, node);
        const label = `groups.${group.name}.stores.${store.name}`;
        const storePath = ["groups", group.name, "stores", store.name];
        const place = store.at.get(node)?.path === undefined ? [...storePath, "path"] : [...storePath, "at", node];
        for (const other of taken) {
          if (path === other.path) this.problem(place, `is on ${node} the same path as ${other.label}: ${path}`);
          else if (path.startsWith(`${other.path}/`)) {
            this.problem(place, `lies on ${node} inside the path of ${other.label}: ${path} in ${other.path}`);
          } else if (other.path.startsWith(`${path}/`)) {
            this.problem(place, `holds on ${node} the path of ${other.label}: ${other.path} in ${path}`);
          }
        }
        taken.push({ path, label });
      }
    }
  }

  #knownNode(name: string, path: KeyPath): boolean {
    if (this.#nodeNames.includes(name)) return true;
    this.problem(path, `${JSON.stringify(name)} is no node of this file${didYouMean(name, this.#nodeNames)}`);
    return false;
  }
}

function problemText({ path, message }: Problem): string {
  if (path.length === 0) return message;
  // A key in odd characters, a line break among them, must not break the one line of its fault.
  const keys = path.map((key) => (/^[\w-]+$/.test(String(key)) ? key : JSON.stringify(key)));
  return `${keys.join(".")}: ${message}`;
}

function sameListener(a: { host: string; port: number }, b: { host: string; port: number }): boolean {
  return a.port === b.port && a.host === b.host;
}

function addressText(address: Address): string {
  const place = `${address.host}:${address.port}`;
  return address.kind === "embedded" ? place : `ssh://${address.user}@${place}`;
}

function betweenCutsMs(interval: Interval): number {
  switch (interval.kind) {
    case "on-change":
      return 0;
    case "every":
      return interval.ms;
    case "daily":
      return dayMs;
  }
}

function nodesOf<Written, T>(
  written: ReadonlyMap<string, Written> | undefined,
  convert: (there: Written) => Partial<T>,
): Map<NodeName, Partial<T>> {
  return new Map([...(written ?? [])].map(([name, there]) => [name as NodeName, convert(there)]));
}

/** Without the keys that the file does not give, so that a spread lets the store's own values stand. */
function onlyGiven<T>(keys: { [Key in keyof T]: T[Key] | undefined }): Partial<T> {
  return Object.fromEntries(Object.entries(keys).filter(([, value]) => value !== undefined)) as Partial<T>;
}
