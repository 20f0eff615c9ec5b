import type { Receiver } from "../../replica/receive/receive.ts";
import { defaultReplicaLimits, type ReplicaContext, type ReplicaLimits } from "../../replica/replica-context.ts";
import type { StoreHome, StorePlacement } from "../../replica/store-home.ts";
import { Catalog, type CommitObserver } from "../../shared/catalog/catalog.ts";
import { Manifest } from "../../shared/catalog/manifest.ts";
import type { Disk } from "../../shared/ports/disk.ts";
import { type CutId, epoch, type Seq, type StoreName, seq } from "../../shared/words.ts";
import { deliver, testGroup, testIncarnation } from "../model/in-process.ts";
import type { RecordedCut } from "./recorded-cuts.ts";
import type { ReplicaProgram } from "./replica-program.ts";

export interface NodeSetting {
  readonly program: ReplicaProgram;
  /** Absolute path of each store's copy. */
  readonly copies: Readonly<Record<string, string>>;
  readonly limits: Partial<ReplicaLimits>;
  readonly keepHistory: boolean;
}

/** A replica as its worker runs it, on any disk, with the catalog at its contract: what was committed survives. */
export class ReplicaNode {
  readonly #setting: NodeSetting;
  readonly catalog: Catalog;
  readonly context: ReplicaContext;
  #receiver: Receiver | undefined;

  /** The ordinary start, which is the recovery. */
  constructor(
    setting: NodeSetting,
    disk: Disk,
    catalogPath: string,
    observer: ((catalog: Catalog) => CommitObserver) | undefined,
  ) {
    this.#setting = setting;
    let observe: CommitObserver = () => {};
    this.catalog = new Catalog(catalogPath, {
      synchronous: "OFF",
      observer: (when, purpose) => observe(when, purpose),
    });
    if (observer !== undefined) observe = observer(this.catalog);
    const { catalog } = this;
    let homes: Map<number, StoreHome> | undefined;
    try {
      if (catalog.standing.groupId === "") {
        catalog.transaction("form", () =>
          catalog.stand({
            groupId: testGroup,
            role: "replica",
            epoch: epoch(1),
            committed: { epoch: epoch(1), seq: seq(0) },
          }),
        );
      }
      const names = Object.keys(setting.copies);
      catalog.transaction("stores", () => {
        for (const name of names) catalog.storeNumber(name, "files");
      });
      const placements: StorePlacement[] = names.map((name) => ({
        name: name as StoreName,
        kind: "files",
        shape: "tree",
        path: setting.copies[name]!,
        sidecars: [],
      }));
      homes = setting.program.openStoreHomes(disk, catalog, "app", placements, false);
      let now = 1_700_000_000_000_000;
      this.context = {
        catalog,
        manifest: new Manifest(catalog),
        disk,
        homes,
        nowUs: () => (now += 1000),
        limits: { ...defaultReplicaLimits, freeBytesMin: 0, ...setting.limits },
      };
      if (catalog.standing.role !== "primary") {
        setting.program.recoverStaging(this.context);
        setting.program.recoverApply(this.context);
      }
    } catch (error) {
      catalog.close();
      throw error;
    }
  }

  close(): void {
    this.catalog.close();
  }

  get receiver(): Receiver {
    this.#receiver ??= new this.#setting.program.Receiver(this.context, testIncarnation);
    return this.#receiver;
  }

  /** Takes in messages `from` to below `to` of a cut. */
  receive(cut: RecordedCut, from = 0, to = cut.messages.length): void {
    for (const [message, payload] of cut.messages.slice(from, to)) deliver(this.receiver, message, payload);
  }

  commit(): CutId {
    return this.#setting.program.commit(this.context, this.receiver);
  }

  /** As the worker does it: half a cut may lie in the open transaction. */
  apply(): void {
    this.#receiver?.makeWay();
    while (this.#setting.program.applyNext(this.context, this.#setting.keepHistory) !== undefined);
  }

  endSession(): void {
    this.#receiver?.abort();
    this.#receiver = undefined;
  }

  promote(): void {
    this.endSession();
    this.#setting.program.seal(this.context);
    this.takeOver();
  }

  takeOver(): void {
    this.#setting.program.takeOver(this.context, this.#setting.keepHistory);
  }

  get applied(): Seq {
    return this.catalog.standing.applied;
  }
}
