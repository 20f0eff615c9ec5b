import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { closeCopies, endStores, openOwnCopies } from "../../../deploy/workers/own-copies.ts";
import { createAdapter, placementOf, singleFilePath } from "../../../deploy/workers/store-adapters.ts";
import type { PrimaryContext } from "../../../primary/primary-context.ts";
import { applyNext, recoverApply } from "../../../replica/apply/apply.ts";
import { sweep } from "../../../replica/history/sweep.ts";
import { type Verified, verify } from "../../../replica/history/verify.ts";
import { seal, takeOver } from "../../../replica/promote/promote.ts";
import { Receiver } from "../../../replica/receive/receive.ts";
import { recoverStaging } from "../../../replica/receive/resume.ts";
import { checkPlaces, demote, type Settled, settleFiles } from "../../../replica/rejoin/demote.ts";
import { ExtraNames } from "../../../replica/repair/extra-names.ts";
import { defaultReplicaLimits, type ReplicaContext } from "../../../replica/replica-context.ts";
import { openStoreHomes } from "../../../replica/store-home.ts";
import { Catalog, type CommitObserver } from "../../../shared/catalog/catalog.ts";
import type { Touched } from "../../../shared/catalog/collapse.ts";
import { Manifest } from "../../../shared/catalog/manifest.ts";
import type { StoreOnNode } from "../../../shared/config/config.ts";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import type { Disk } from "../../../shared/ports/disk.ts";
import type { Turn } from "../../../shared/session/epochs.ts";
import { type CutId, epoch, type StoreName, seq } from "../../../shared/words.ts";
import { commit, cutInto, sinkInto, testGroup, testIncarnation } from "../../model/in-process.ts";

const memberNames = ["alpha", "bravo", "charlie"];
const nowUs = (): number => Date.now() * 1000;

export interface SwapOptions {
  readonly kinds?: readonly ("files" | "sqlite")[];
  readonly exclude?: readonly string[];
  readonly disk?: Disk;
  readonly observer?: CommitObserver;
}

/** A node with a real tree and a real database, which becomes what its test says. */
export class SwapNode implements AsyncDisposable {
  tree: string;
  database: string;
  readonly catalogPath: string;
  #options: SwapOptions;
  readonly #turn: Turn;
  catalog: Catalog;
  #primary: PrimaryContext | undefined;
  #replica: ReplicaContext | undefined;
  receiver: Receiver | undefined;

  constructor(directory: string, name: string, options: SwapOptions = {}) {
    this.#options = options;
    this.#turn = { member: memberNames.indexOf(name), members: memberNames.length };
    this.tree = join(directory, name, "data", "tree");
    this.database = join(directory, name, "db", "app.db");
    mkdirSync(join(directory, name, "data"), { recursive: true });
    mkdirSync(join(directory, name, "db"), { recursive: true });
    this.catalogPath = join(directory, `${name}.db`);
    this.catalog = this.#openCatalog();
  }

  #openCatalog(): Catalog {
    const { observer } = this.#options;
    return new Catalog(this.catalogPath, { synchronous: "OFF", ...(observer === undefined ? {} : { observer }) });
  }

  get stores(): readonly StoreOnNode[] {
    const { kinds = ["files", "sqlite"], exclude = [] } = this.#options;
    const files = {
      trustWatcher: false,
      reflink: false,
      snapshot: undefined,
      list: undefined,
      owners: "numeric",
    } as const;
    return kinds.map((kind) =>
      kind === "files"
        ? { name: "tree" as StoreName, kind, path: this.tree, exclude, ...files }
        : { name: "ledger" as StoreName, kind, path: this.database },
    );
  }

  get primary(): PrimaryContext {
    if (this.#primary === undefined) throw new Error("not a primary now");
    return this.#primary;
  }

  get replica(): ReplicaContext {
    if (this.#replica === undefined) throw new Error("not a replica now");
    return this.#replica;
  }

  /** Born here. */
  form(): void {
    this.catalog.transaction("form", () =>
      this.catalog.stand({
        groupId: testGroup,
        role: "primary",
        epoch: epoch(1),
        epochSeen: epoch(1),
        epochs: [{ epoch: 1n, firstSeq: 1n }],
        committed: { epoch: epoch(1), seq: seq(0) },
      }),
    );
  }

  join(): void {
    this.catalog.transaction("join", () =>
      this.catalog.stand({ groupId: testGroup, role: "replica", epoch: epoch(1), epochSeen: epoch(1) }),
    );
    this.openReplica();
  }

  async reign(): Promise<void> {
    const stores = this.catalog.transaction("stores", () =>
      this.stores.map((store) => ({
        name: store.name as string,
        number: this.catalog.storeNumber(store.name, store.kind),
        adapter: singleFilePath(store, createAdapter(store, { holdSecondsMax: 30, environment: {} })),
      })),
    );
    this.#primary = {
      catalog: this.catalog,
      manifest: new Manifest(this.catalog),
      stores,
      incarnation: testIncarnation,
      nowUs,
    };
    for (const { adapter } of stores) await adapter.start(() => {});
  }

  openReplica(): void {
    const { catalog } = this;
    catalog.transaction("stores", () => {
      for (const { name, kind } of this.stores) catalog.storeNumber(name, kind);
    });
    this.#replica = this.#copies();
    recoverStaging(this.#replica);
    recoverApply(this.#replica);
    this.receiver = new Receiver(this.#replica, testIncarnation);
  }

  #copies(): ReplicaContext {
    const { catalog } = this;
    const disk = this.#options.disk ?? new RealDisk();
    return {
      catalog,
      manifest: new Manifest(catalog),
      disk,
      homes: openStoreHomes(disk, catalog, "app", this.stores.map(placementOf), false),
      nowUs,
      limits: { ...defaultReplicaLimits, freeBytesMin: 0 },
    };
  }

  /** One cut, durable and applied at the other; for nobody where there is no other. */
  async cut(...others: readonly SwapNode[]): Promise<CutId> {
    const sinks = others.map((other) => sinkInto(other.replica, other.receiver!));
    const { cut } = await cutInto(this.primary, sinks);
    for (const other of others) other.takeIn();
    return cut;
  }

  takeIn(): void {
    commit(this.replica, this.receiver!);
    while (applyNext(this.replica, true) !== undefined);
  }

  promote(): void {
    this.receiver?.abort();
    this.receiver = undefined;
    seal(this.replica);
    takeOver(this.replica, true, this.#turn);
    for (const home of this.replica.homes.values()) home.close();
    this.#replica = undefined;
  }

  /** The adapters' end and the transaction, as the worker does it; the node is open as a replica afterwards. */
  async demote(common: CutId, unsynced = false): Promise<{ touched: Touched; settled: Settled }> {
    const primary = this.primary;
    const disk = this.#options.disk ?? new RealDisk();
    const places = { groupName: "app", placements: this.stores.map(placementOf), unsynced };
    const copies = openOwnCopies(primary, disk, places, "boot");
    try {
      checkPlaces(copies);
      const settled = settleFiles(copies, await endStores(primary.stores, this.stores), "boot");
      const touched = demote(copies, common, settled, true);
      this.#primary = undefined;
      return { touched, settled };
    } finally {
      closeCopies(copies);
    }
  }

  /** Follows a newer reign from where it is. */
  follow(primary: SwapNode): void {
    const { epoch: reign, epochs } = primary.catalog.standing;
    this.catalog.transaction("epoch", () => this.catalog.stand({ epoch: reign, epochSeen: reign, epochs }));
  }

  /** What the worker looks for each minute; empty when every file is as it was left and no name is foreign. */
  strangers(): string[] {
    const found: string[] = [];
    for (let after: number | undefined = 0; after !== undefined; ) {
      const slice = sweep(this.replica, after as never, 500);
      found.push(...slice.changes.map(({ store, path, what }) => `${store}/${path} ${what}`));
      after = slice.next;
    }
    const extra = new ExtraNames(this.replica, () => false);
    for (const aside of extra.putAside()) found.push(...aside.map(({ store, path }) => `${store}/${path} extra`));
    return found;
  }

  async verify(): Promise<Verified> {
    return await verify(this.replica, {}, () => {}, new AbortController().signal);
  }

  /** The process ended, wherever it was. `rules`: what the next one is told. */
  async crash(rules: Pick<SwapOptions, "disk" | "observer" | "exclude"> = {}): Promise<void> {
    this.#options = { ...this.#options, ...rules };
    for (const { adapter } of this.#primary?.stores ?? []) await adapter.close();
    for (const home of this.#replica?.homes.values() ?? []) home.close();
    this.#primary = undefined;
    this.#replica = undefined;
    this.catalog.close();
    this.catalog = this.#openCatalog();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.crash();
    this.catalog.close();
  }
}
