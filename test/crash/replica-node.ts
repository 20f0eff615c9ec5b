import type { AcceptedCopy } from "../../replica/promote/promote.ts";
import type { Receiver } from "../../replica/receive/receive.ts";
import { defaultReplicaLimits, type ReplicaContext, type ReplicaLimits } from "../../replica/replica-context.ts";
import type { StoreHome, StorePlacement } from "../../replica/store-home.ts";
import { Catalog, type CommitObserver } from "../../shared/catalog/catalog.ts";
import { collapse } from "../../shared/catalog/collapse.ts";
import { Manifest } from "../../shared/catalog/manifest.ts";
import { keepNote } from "../../shared/catalog/notes.ts";
import { UnderstudyError } from "../../shared/errors.ts";
import type { Disk } from "../../shared/ports/disk.ts";
import { type CutId, epoch, type Seq, type StoreName, seq } from "../../shared/words.ts";
import { deliver, testGroup, testIncarnation } from "../model/in-process.ts";
import { AdoptedCut, type Question } from "./adopted-cut.ts";
import { aheadOfCut, StagedCut } from "./ahead-frames.ts";
import type { RecordedCut } from "./recorded-cuts.ts";
import type { ReplicaProgram } from "./replica-program.ts";
import { SimulatedDisk } from "./simulated-disk.ts";

export interface NodeSetting {
  readonly program: ReplicaProgram;
  /** Absolute path of each store's copy. */
  readonly copies: Readonly<Record<string, string>>;
  readonly limits: Partial<ReplicaLimits>;
  readonly keepHistory: boolean;
  /** Where something lies in the copies' places already, the operator says `adopt`. */
  readonly adopts: boolean;
  /** What is staged already is not sent again. */
  readonly resumes?: boolean;
  /** It stands at the common cut when it gets the first one of the other primary. */
  readonly goesBack?: boolean;
}

/** A replica as its worker runs it, on any disk, with the catalog at its contract: what was committed survives. */
export class ReplicaNode {
  readonly #setting: NodeSetting;
  readonly catalog: Catalog;
  readonly context: ReplicaContext;
  #receiver: Receiver | undefined;
  #adopted: AdoptedCut | undefined;
  readonly #staged: StagedCut;

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
      observer: (...words) => observe(...words),
    });
    // Nobody else reads it: locks that are taken once and kept save a third of a matrix's time.
    this.catalog.db.exec("PRAGMA locking_mode = EXCLUSIVE");
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
            epochs: [{ epoch: 1n, firstSeq: 1n }],
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
      const open = (): Map<number, StoreHome> =>
        setting.program.openStoreHomes(disk, catalog, "app", placements, setting.program.adopting(catalog));
      let occupied = false;
      try {
        homes = open();
      } catch (error) {
        if (!setting.adopts || !(error instanceof UnderstudyError) || error.code !== "COPY_OCCUPIED") throw error;
        occupied = true;
        catalog.transaction("adopt", () => keepNote(catalog, "adopting", 1));
        homes = open();
      }
      let now = 1_700_000_000_000_000;
      this.context = {
        catalog,
        manifest: new Manifest(catalog),
        disk,
        homes,
        nowUs: () => (now += 1000),
        limits: { ...defaultReplicaLimits, freeBytesMin: 0, ...setting.limits },
      };
      this.#staged = new StagedCut(this.context, setting.program.aheadOf(this.context));
      // A primary's files, also of one that is fenced, are its application's.
      if (catalog.standing.role === "replica" || catalog.standing.role === "promoting") {
        setting.program.recoverStaging(this.context);
        setting.program.recoverApply(this.context);
      }
      if (occupied) this.adopt();
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

  /** Takes in the messages of a cut between two fractions; who has no cut gets it as a first one. */
  receive(cut: RecordedCut, from = 0, to = 1): void {
    const { committed } = this.catalog.standing;
    const messages = committed.seq === 0n ? cut.first : cut.messages;
    for (const frame of messages.slice(Math.round(from * messages.length), Math.round(to * messages.length))) {
      let [message, payload] = frame;
      if (committed.seq === 0n && this.#setting.program.adopting(this.catalog)) {
        if (message.kind === "cutBegin") this.#adopted = new AdoptedCut(cut);
        [message, payload] = this.#adopted!.frame(frame, (question) => this.#ask(question));
      } else if (this.#setting.resumes) [message, payload] = this.#staged.frame(frame);
      // The recorded primary goes on from the fork's number, so that no two cuts of a scenario have the same.
      const based = committed.seq === 0n || (this.#setting.goesBack === true && cut.isFirstOfOther);
      if (message.kind === "cutBegin" && based) message = { ...message, base: committed };
      deliver(this.receiver, message, payload);
    }
  }

  /** Takes in what a cut brings before it is taken, between two fractions; cuts before it are committed first. */
  ahead(cut: RecordedCut, from = 0, to = 1): void {
    this.commit();
    const frames = aheadOfCut(this.catalog.standing.committed.seq === 0n ? cut.first : cut.messages);
    for (const [message, payload] of frames.slice(Math.round(from * frames.length), Math.round(to * frames.length)))
      deliver(this.receiver, message, payload);
  }

  /** Extents of cuts that were there already when they came. */
  get heldExtents(): number {
    return this.#staged.heldExtents;
  }

  #ask(question: Question): Uint8Array {
    this.#setting.program.stageFromCopy(this.context, question);
    return this.#setting.program.stagedRunDigests(this.context, question.object).digests.subarray(0, 32);
  }

  commit(): CutId {
    return this.#setting.program.commit(this.context, this.receiver);
  }

  /** Before every other transaction, as the worker does it: whole cuts and half of one may lie in the open one. */
  makeWay(): boolean {
    return this.#setting.program.closeTransaction(this.context, this.#receiver);
  }

  apply(): void {
    this.makeWay();
    while (this.#setting.program.applyNext(this.context, this.#setting.keepHistory) !== undefined);
    if (this.#setting.program.adopting(this.catalog) && this.applied > 0n)
      this.#setting.program.endAdoption(this.context);
  }

  /** What the worker does each minute and each second against strangers. */
  look(): void {
    this.makeWay();
    const events = { suspectChanged() {}, damaged() {}, mended() {}, lost() {}, putAside() {}, again() {} };
    const repairing = new this.#setting.program.Repairing(this.context, () => false, events);
    for (const _step of repairing.sweep(() => 0));
    for (const _step of repairing.mend(() => 0));
  }

  /** The last cut was this node's own: it counts for the one before it, and what it has otherwise is known. */
  part(): void {
    this.endSession();
    const { catalog } = this;
    const before = seq(catalog.standing.committed.seq - 1n);
    catalog.transaction("part", () => collapse(catalog, before));
  }

  /** As the worker does it on a replica that was ahead of the node that was promoted. */
  goBack(): void {
    this.endSession();
    const { program } = this.#setting;
    program.goBack(this.context, this.#common);
    program.aheadOf(this.context).clear();
    program.recoverStaging(this.context);
    program.recoverApply(this.context);
  }

  /** This node was primary when the cut was taken, and is fenced by now: its files are as its application left them. */
  ownCut(cut: RecordedCut): void {
    this.receive(cut);
    this.commit();
    this.endSession();
    const { catalog, context } = this;
    catalog.transaction("own cut", () => {
      for (const table of ["extents", "staged", "staged_runs", "seen"]) catalog.run(`DELETE FROM ${table}`);
      catalog.run("UPDATE cuts SET state = 'applied'");
      catalog.stand({ role: "fenced", applied: catalog.standing.committed.seq });
    });
    for (const home of context.homes.values()) {
      for (const name of context.disk.list(home.staging)) context.disk.unlink(home.staging, name);
      home.tree.forget();
    }
  }

  /** From a fenced primary to a replica at the cut before its own, with the files that it has. */
  demote(): void {
    const { program, keepHistory } = this.#setting;
    const ended = { covered: false, copied: false, excluded: () => false };
    const settled = program.settleFiles(
      this.context,
      new Map([...this.context.homes.keys()].map((number) => [number, ended])),
      `boot ${this.context.disk instanceof SimulatedDisk ? this.context.disk.boots : 0}`,
    );
    program.demote(this.context, this.#common, settled, keepHistory);
  }

  get #common(): CutId {
    const { committed } = this.catalog.standing;
    return { epoch: epoch(1), seq: seq(committed.seq - 1n) };
  }

  /** The operator says that what lies in the copies' places is to be taken for a start. */
  adopt(): void {
    this.endSession();
    this.#setting.program.beginAdoption(this.context);
  }

  endSession(): void {
    this.#receiver?.abort();
    this.#receiver = undefined;
  }

  promote(accepted?: keyof AcceptedCopy): void {
    this.endSession();
    const { program, keepHistory } = this.#setting;
    program.seal(this.context);
    const words = accepted === undefined ? {} : { [accepted]: true };
    program.takeOver(this.context, keepHistory, { member: 1, members: 2 }, words);
  }

  unseal(): void {
    this.#setting.program.unseal(this.context);
  }

  get applied(): Seq {
    return this.catalog.standing.applied;
  }
}
