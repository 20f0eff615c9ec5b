import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { PrimaryContext } from "../../../primary/primary-context.ts";
import { applyNext } from "../../../replica/apply/apply.ts";
import type { Receiver } from "../../../replica/receive/receive.ts";
import type { ReplicaContext, ReplicaLimits } from "../../../replica/replica-context.ts";
import { openStoreHomes } from "../../../replica/store-home.ts";
import { Catalog } from "../../../shared/catalog/catalog.ts";
import { Manifest } from "../../../shared/catalog/manifest.ts";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import type { Disk } from "../../../shared/ports/disk.ts";
import type { Seq } from "../../../shared/words.ts";
import { commit, cutInto, openPrimary, openReplica, receiverOf, sinkInto } from "../../model/in-process.ts";
import { ModelSource } from "../../model/model-store.ts";

/** Syncs nothing: what is durable when is the crash matrix's question. */
export class UnsyncedDisk extends RealDisk {
  override syncFile(): void {}
  override syncDirectory(): void {}
  override syncFilesystem(): void {}
}

/** A primary with a model of a tree, its replica, and a second, reading context as another thread would have. */
export class HistoryGroup {
  readonly directory = mkdtempSync(join(tmpdir(), "understudy-history-"));
  readonly source = new ModelSource();
  readonly primary: PrimaryContext;
  readonly replica: ReplicaContext;
  readonly receiver: Receiver;
  /** What the source was at each cut. */
  readonly described = new Map<Seq, Record<string, string>>();
  #restores = 0;

  constructor(limits: Partial<ReplicaLimits> = {}, disk: Disk = new UnsyncedDisk()) {
    this.primary = openPrimary(join(this.directory, "primary.db"), { tree: this.source.adapter() });
    this.replica = openReplica(join(this.directory, "replica.db"), disk, { tree: this.copy }, { limits });
    this.receiver = receiverOf(this.replica);
  }

  get copy(): string {
    return join(this.directory, "copy");
  }

  /** Takes a cut of the source as it stands and sends it; it waits for `commit`. */
  async cut(): Promise<Seq> {
    const { cut } = await cutInto(this.primary, [sinkInto(this.replica, this.receiver)]);
    this.described.set(cut.seq, this.source.describe());
    return cut.seq;
  }

  commit(): void {
    commit(this.replica, this.receiver);
  }

  applyAll(): number {
    let batches = 0;
    while (applyNext(this.replica, true) !== undefined) batches++;
    return batches;
  }

  async cutAndApply(): Promise<Seq> {
    const at = await this.cut();
    this.commit();
    this.applyAll();
    return at;
  }

  points(): Seq[] {
    return this.replica.catalog.cuts("point").map((record) => record.cut.seq);
  }

  /** Homes and a catalog of its own, as the worker has that reads history. */
  reader(disk: Disk = new UnsyncedDisk()): ReplicaContext & Disposable {
    const catalog = new Catalog(join(this.directory, "replica.db"), { readOnly: true });
    const placements = [...this.replica.homes.values()].map((home) => home.placement);
    const homes = openStoreHomes(disk, catalog, "app", placements, false);
    const { limits, nowUs } = this.replica;
    return {
      catalog,
      manifest: new Manifest(catalog),
      disk,
      homes,
      limits,
      nowUs,
      [Symbol.dispose]() {
        for (const home of homes.values()) home.close();
        catalog.close();
      },
    };
  }

  newTarget(): string {
    return join(this.directory, `restored-${++this.#restores}`);
  }

  close(): void {
    for (const home of this.replica.homes.values()) home.close();
    this.replica.catalog.close();
    this.primary.catalog.close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
