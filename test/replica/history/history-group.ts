import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { PrimaryContext } from "../../../primary/primary-context.ts";
import { applyNext, recoverApply } from "../../../replica/apply/apply.ts";
import { recoverThinning } from "../../../replica/history/thin.ts";
import type { Receiver } from "../../../replica/receive/receive.ts";
import type { ReplicaContext, ReplicaLimits } from "../../../replica/replica-context.ts";
import { openStoreHomes } from "../../../replica/store-home.ts";
import { Catalog, type CommitObserver } from "../../../shared/catalog/catalog.ts";
import { Manifest } from "../../../shared/catalog/manifest.ts";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import { adapterAround } from "../../../shared/ports/adapter-around.ts";
import type { Directory, Disk, OpenFile } from "../../../shared/ports/disk.ts";
import type { StoreAdapter } from "../../../shared/ports/store-adapter.ts";
import type { Seq } from "../../../shared/words.ts";
import { commit, cutInto, openPrimary, openReplica, receiverOf, sinkInto } from "../../model/in-process.ts";
import { ModelSource } from "../../model/model-store.ts";

/** Syncs nothing: what is durable when is the crash matrix's question. */
export class UnsyncedDisk extends RealDisk {
  override syncFile(): void {}
  override syncDirectory(): void {}
  override syncFilesystem(): void {}
}

type Looking = "read" | "stat" | "list" | "openFile";

/** Lets others come by at each of its readings: just before them, or just after the bytes were read. */
export class InterleavedDisk extends UnsyncedDisk {
  at: `before ${Looking}` | "after read" = "after read";
  armed = false;
  readonly #comeBy: () => void;

  constructor(comeBy: () => void) {
    super();
    this.#comeBy = comeBy;
  }

  #let(at: InterleavedDisk["at"]): void {
    if (!this.armed || this.at !== at) return;
    this.armed = false;
    this.#comeBy();
    this.armed = true;
  }

  override read(file: OpenFile, buffer: Uint8Array, offset: number, length: number, position: number): number {
    this.#let("before read");
    const count = super.read(file, buffer, offset, length, position);
    this.#let("after read");
    return count;
  }

  override stat(directory: Directory, name: string): ReturnType<Disk["stat"]> {
    this.#let("before stat");
    return super.stat(directory, name);
  }

  override list(directory: Directory): string[] {
    this.#let("before list");
    return super.list(directory);
  }

  override openFile(...words: Parameters<Disk["openFile"]>): OpenFile {
    if (words[2] === "read") this.#let("before openFile");
    return super.openFile(...words);
  }
}

export class Stopped extends Error {}

/** Stops before or after the nth change of the disk, or commit of the catalog. */
class StoppingDisk extends UnsyncedDisk {
  /** Counted down; nothing happens at 0. */
  left = 0;

  readonly observer: CommitObserver = (when, purpose) => this.step(`${when} ${purpose}`);

  step(what: string): void {
    if (this.left > 0 && --this.left === 0) throw new Stopped(what);
  }

  #around<T>(what: string, change: () => T): T {
    this.step(`before ${what}`);
    const result = change();
    this.step(`after ${what}`);
    return result;
  }

  override unlink(directory: Directory, name: string): void {
    this.#around("unlink", () => super.unlink(directory, name));
  }

  override openFile(...words: Parameters<Disk["openFile"]>): OpenFile {
    if (words[2] !== "create") return super.openFile(...words);
    return this.#around("create", () => super.openFile(...words));
  }

  override write(file: OpenFile, bytes: Uint8Array, position: number): void {
    this.#around("write", () => super.write(file, bytes, position));
  }

  override setFileMeta(file: OpenFile, meta: Parameters<Disk["setFileMeta"]>[1]): void {
    this.#around("meta", () => super.setFileMeta(file, meta));
  }
}

/** A primary with a model of a tree, its replica, and a second, reading context as another thread would have. */
export class HistoryGroup {
  readonly directory = mkdtempSync(join(tmpdir(), "understudy-history-"));
  readonly source = new ModelSource();
  readonly primary: PrimaryContext;
  readonly disk = new StoppingDisk();
  replica: ReplicaContext;
  receiver: Receiver;
  /** What the source was at each cut. */
  readonly described = new Map<Seq, Record<string, string>>();
  readonly #limits: Partial<ReplicaLimits>;
  readonly #shape: "tree" | "file";
  #restores = 0;

  constructor({ limits = {}, shape = "tree" }: { limits?: Partial<ReplicaLimits>; shape?: "tree" | "file" } = {}) {
    this.#limits = limits;
    this.#shape = shape;
    const adapter = this.source.adapter();
    this.primary = openPrimary(join(this.directory, "primary.db"), {
      tree: shape === "tree" ? adapter : withoutRoot(adapter),
    });
    this.replica = this.#open();
    this.receiver = receiverOf(this.replica);
  }

  get copy(): string {
    return join(this.directory, "copy");
  }

  #open(): ReplicaContext {
    const { observer } = this.disk;
    return openReplica(
      join(this.directory, "replica.db"),
      this.disk,
      { tree: this.copy },
      { limits: this.#limits, shape: this.#shape, observer },
    );
  }

  /** As after the end of the process. */
  restart(): void {
    this.disk.left = 0;
    this.#closeReplica();
    this.replica = this.#open();
    this.receiver = receiverOf(this.replica);
    recoverApply(this.replica);
    recoverThinning(this.replica);
  }

  #closeReplica(): void {
    for (const home of this.replica.homes.values()) home.close();
    this.replica.catalog.close();
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
  reader(disk: Disk = new UnsyncedDisk(), sidecars: readonly string[] = []): ReplicaContext & Disposable {
    const catalog = new Catalog(join(this.directory, "replica.db"), { readOnly: true });
    const placements = [...this.replica.homes.values()].map((home) => ({ ...home.placement, sidecars }));
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
    this.#closeReplica();
    this.primary.catalog.close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** The model as a store of a single file: it has no root. */
function withoutRoot(adapter: StoreAdapter): StoreAdapter {
  return adapterAround(adapter, {
    async enter(seen, request, signal) {
      const view = await adapter.enter(seen, request, signal);
      return {
        async *changes() {
          for await (const found of view.changes()) if (found.path !== "") yield found;
        },
        read: (path, offset, length) => view.read(path, offset, length),
        summary: () => view.summary(),
        leave: async (outcome) => await view.leave(outcome),
      };
    },
  });
}
