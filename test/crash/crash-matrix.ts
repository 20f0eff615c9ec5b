import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { discardHistory } from "../../replica/history/discard.ts";
import { CopyView } from "../../replica/history/view.ts";
import { aheadName } from "../../replica/receive/ahead.ts";
import { NoRoom } from "../../replica/receive/refusals.ts";
import { adopting } from "../../replica/receive/resume.ts";
import { FilesNotSynced } from "../../replica/rejoin/demote.ts";
import type { ReplicaLimits } from "../../replica/replica-context.ts";
import type { Catalog, CommitObserver, Standing } from "../../shared/catalog/catalog.ts";
import { anyTouched } from "../../shared/catalog/collapse.ts";
import type { SystemErrorCode } from "../../shared/durable/system-error.ts";
import { explain, UnderstudyError } from "../../shared/errors.ts";
import { hex } from "../../shared/manifest/digest.ts";
import type { Directory, Disk } from "../../shared/ports/disk.ts";
import type { Seq } from "../../shared/words.ts";
import { contentsOf, onlyContents, trialName, without } from "./adopted-cut.ts";
import { type Planted, type Tree, treeDifference } from "./disk-tree.ts";
import { type Changes, newestTag, type RecordedCut, recordCuts } from "./recorded-cuts.ts";
import { ReplicaNode } from "./replica-node.ts";
import type { ReplicaProgram } from "./replica-program.ts";
import { restoredPoint } from "./restored-point.ts";
import { seededRandom } from "./seeded-random.ts";
import {
  type Operation,
  type OperationKind,
  type PowerLossMode,
  powerLossModes,
  SimulatedDisk,
} from "./simulated-disk.ts";

/** What the replica does, one after the other. Cuts count from 1, in the order of the changes. */
export type Step =
  | { readonly do: "receive"; readonly cut: number; readonly from: number; readonly to: number }
  | { readonly do: "ahead"; readonly cut: number; readonly from: number; readonly to: number }
  | {
      readonly do:
        | "commit"
        | "apply"
        | "promote"
        | "abort"
        | "adopt"
        | "part"
        | "promote a suspect copy"
        | "promote what rejoins"
        | "go back"
        | "demote";
    }
  /** A cut that this node takes itself, before it is fenced. */
  | { readonly do: "cut by itself"; readonly cut: number }
  /** Somebody else's hands, in the quiet. */
  | { readonly do: "stranger"; readonly change: (disk: SimulatedDisk) => void };

/** Takes in a cut, or the part of its messages between two fractions. */
export function receive(cut: number, from = 0, to = 1): Step {
  return { do: "receive", cut, from, to };
}
/** Takes in what a cut brings, or the part between two fractions, ahead of it. */
export function ahead(cut: number, from = 0, to = 1): Step {
  return { do: "ahead", cut, from, to };
}
export const commit: Step = { do: "commit" };
export const apply: Step = { do: "apply" };
export const promote: Step = { do: "promote" };
/** The session ends. */
export const abort: Step = { do: "abort" };
/** Begins anew with what lies in the copies' places; the next cut comes whole. */
export const adopt: Step = { do: "adopt" };
/** The last cut turns out to be a fork: the next one is of another primary, and brings right what is otherwise. */
export const part: Step = { do: "part" };
/** Somebody accepts that a stranger changed the copy. */
export const promoteSuspect: Step = { do: "promote a suspect copy" };
/** The last cut turns out to be a fork, of a replica that was ahead of the node that was promoted. */
export const goBack: Step = { do: "go back" };
/** Its last cut is its own, and nothing of it was synced but by itself. */
export function ownCut(cut: number): Step {
  return { do: "cut by itself", cut };
}
/** The fenced primary becomes a replica that stands at the cut before its own. */
export const demoteIt: Step = { do: "demote" };
/** Its new primary is lost before the first cut of it: somebody accepts what is here. */
export const promoteRejoining: Step = { do: "promote what rejoins" };
export function stranger(change: (disk: SimulatedDisk) => void): Step {
  return { do: "stranger", change };
}
/** A cut of its own from the first frame to the copy. */
export function whole(cut: number): Step[] {
  return [receive(cut), commit, apply];
}

export interface Scenario {
  readonly name: string;
  /** Default: one store, "tree". With several each has a filesystem of its own. */
  readonly stores?: readonly string[];
  readonly changes: readonly Changes[];
  /** What lies in each store's place before the group has a copy: it is adopted. */
  readonly planted?: Readonly<Record<string, Readonly<Record<string, Planted>>>>;
  readonly steps: readonly Step[];
  /** Crashes begin with this step: what comes before is the state that the scenario starts from. Default: with all. */
  readonly crashFrom?: number;
  readonly limits?: Partial<ReplicaLimits>;
  /** Default: true. */
  readonly keepHistory?: boolean;
  /** The cut that only this node has, before it parts. */
  readonly fork?: number;
  /** Paths of what a stranger has taken away, for a promotion in spite of it: it stays away. */
  readonly lacks?: readonly string[];
  /** What is staged already is not sent again with its cut. Default: it is. */
  readonly resumes?: boolean;
}

/** Small, so that everything happens with little data. */
const smallLimits: Partial<ReplicaLimits> = { inlineBytesMax: 8192, builtBytesMax: 8192, uncachedFrom: 4096 };

/** A durable state of the catalog, and what it stands for. */
interface CatalogImage {
  readonly id: number;
  readonly bytes: Buffer;
  readonly standing: Standing;
  readonly adopting: boolean;
}

export type CrashKind = OperationKind | "catalog commit" | "end";

/** The program stopped here: before this operation, which is after the one before it. */
export interface CrashPoint {
  readonly index: number;
  readonly step: string;
  readonly kind: CrashKind;
  readonly detail: string;
  readonly disk: SimulatedDisk;
  readonly image: CatalogImage | undefined;
  /** What a power failure leaves of it at least: `image` without its last transactions that were not synced. */
  readonly durable: CatalogImage | undefined;
  /** Seq of the last acknowledged cut. */
  readonly acknowledged: bigint;
  /** Index of the operation on the disk; undefined for others. */
  readonly operation: number | undefined;
}

/** What a fault of the disk brought about. */
export interface Fault {
  /** What the program said; undefined when it went on to the end of the scenario. */
  readonly error: unknown;
  /** Where it stood when it stopped: as if it had been killed there. */
  readonly at: CrashPoint;
}

/** One scenario with one setting: finds its crash points and judges what comes up after each. */
export class CrashMatrix {
  readonly scenario: Scenario;
  readonly #program: ReplicaProgram;
  readonly #cuts: readonly RecordedCut[];
  readonly #directory: string;
  readonly #stores: readonly string[];
  readonly #copies: Readonly<Record<string, string>>;
  readonly #recovered = new Set<string>();
  /** Of each store: what lay in its place when it was adopted. */
  readonly #adopted = new Map<string, Tree>();
  /** Of each store: the copy as a stranger left it. */
  readonly #foreign = new Map<string, Tree>();
  /** The first cut that is of use: an adoption forgets those before it. */
  #firstCut: number;
  #images = 0;
  #nodes = 0;
  /** States that were brought up and judged; those that were met before are not counted. */
  states = 0;
  pointsInRecovery = 0;
  restarts = 0;
  /** Power failures that were looked at, also those that led to a state that was met before. */
  failures = 0;
  /** A former primary whose application lost what it had not synced, and which says so. */
  reverted = 0;

  private constructor(scenario: Scenario, program: ReplicaProgram, cuts: readonly RecordedCut[]) {
    this.scenario = scenario;
    this.#program = program;
    this.#cuts = cuts;
    this.#stores = scenario.stores ?? ["tree"];
    this.#copies = Object.fromEntries(this.#stores.map((name) => [name, `/srv/${name}/copy`]));
    const { steps } = scenario;
    const next = steps.slice(steps.indexOf(adopt) + 1).find((step) => step.do === "receive");
    this.#firstCut = steps.includes(adopt) ? (next?.cut ?? 0) : 1;
    // The catalog is modelled at its contract, so where its file lies does not matter: the quickest place.
    this.#directory = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "understudy-crash-"));
  }

  static async open(scenario: Scenario, program: ReplicaProgram): Promise<CrashMatrix> {
    return new CrashMatrix(
      scenario,
      program,
      await recordCuts(scenario.stores ?? ["tree"], scenario.changes, new Map(), scenario.fork),
    );
  }

  [Symbol.dispose](): void {
    rmSync(this.#directory, { recursive: true, force: true });
  }

  get cuts(): readonly RecordedCut[] {
    return this.#cuts;
  }

  /** Runs the scenario once without a crash and gives every point where it could have stopped. */
  points(): CrashPoint[] {
    const points: CrashPoint[] = [];
    const disk = this.#emptyDisk();
    const recorder = this.#recorder(disk, points, undefined, 0n);
    const { steps, crashFrom = 0 } = this.scenario;
    recorder.recording = crashFrom === 0;
    const node = this.#start(disk, undefined, recorder);
    try {
      for (const [index, step] of steps.entries()) {
        recorder.recording = index >= crashFrom;
        recorder.step = step.do;
        this.#take(node, step, recorder);
        recorder.now("end", "");
      }
      this.#judge(node, recorder.acknowledged, "without a crash");
    } catch (error) {
      throw new MatrixFailure(`${this.scenario.name}: ${explain(error)}`, { cause: error });
    } finally {
      node.close();
    }
    this.#checkVacating(points);
    return points;
  }

  /**
   * A name of the copy is taken again only after a sync of its vacating. The simulated disk keeps changes of one name in
   * their order, as a journal does, so no power failure on it shows the lack of that sync; filesystems with a log of
   * their own for syncs have lost the vacated file.
   */
  #checkVacating(points: readonly CrashPoint[]): void {
    const unsynced = new Set<string>();
    for (const { kind, detail } of points) {
      if (kind === "syncDirectory" || kind === "syncFilesystem") unsynced.clear();
      if (kind !== "rename" && kind !== "makeDirectory") continue;
      const [from, to] = kind === "rename" ? (detail.split(" to /") as [string, string]) : [undefined, detail.slice(1)];
      if (unsynced.has(`/${to}`))
        throw new MatrixFailure(`${this.scenario.name}: /${to} is taken before its vacating is synced`);
      if (from !== undefined && /\/(limbo|strangers)\//.test(to)) unsynced.add(from);
    }
  }

  /**
   * Runs the scenario on a disk of which some operations fail. The program stops at the first error that it does not
   * live with, as its worker does, except that a refused cut is given up and sent again after `mend`.
   */
  runWithFault(
    failure: (operation: Operation) => SystemErrorCode | undefined,
    mend?: (disk: SimulatedDisk) => void,
    mount: { readonly capacityBytes?: number; readonly goesOn?: boolean } = {},
  ): Fault {
    const points: CrashPoint[] = [];
    const disk = this.#emptyDisk(mount);
    disk.goesOn = mount.goesOn ?? false;
    disk.failWhen(failure);
    const recorder = this.#recorder(disk, points, undefined, 0n);
    recorder.recording = false;
    let node: ReplicaNode | undefined;
    let error: unknown;
    let mended = false;
    try {
      node = this.#start(disk, undefined, recorder);
      for (const step of this.scenario.steps) {
        recorder.step = step.do;
        // A refused cut was sent again whole: what the scenario has left of it is there.
        if (mended && step.do === "receive" && this.#cut(step.cut).cut.seq <= node.catalog.standing.committed.seq)
          continue;
        try {
          this.#take(node, step, recorder);
        } catch (refused) {
          if (mend === undefined || !(refused instanceof NoRoom)) throw refused;
          error = refused;
          node.endSession();
          mend(disk);
          mended = true;
          for (const cut of this.#cuts.slice(0, step.do === "receive" ? step.cut : 0)) {
            if (this.#wants(node, cut)) node.receive(cut);
          }
        }
      }
    } catch (failed) {
      error = failed;
    }
    recorder.recording = true;
    recorder.now("end", "");
    node?.close();
    disk.stopFailing();
    return { error, at: points.at(-1)! };
  }

  /** The program starts again on the very disk, without a power failure: what failed syncs dropped is still read. */
  restart(point: CrashPoint): void {
    const { disk: stopped, image, durable, acknowledged } = point;
    this.restarts++;
    try {
      const disk = stopped.clone();
      const points: CrashPoint[] = [];
      const recorder = this.#recorder(disk, points, image, acknowledged, durable);
      recorder.recording = false;
      const node = this.#start(disk, image, recorder);
      try {
        try {
          this.#goOn(node, acknowledged);
          recorder.acknowledged = node.catalog.standing.committed.seq;
        } catch (error) {
          // What the kernel has dropped was the application's, and nothing follows from it before the next boot.
          if (!(error instanceof FilesNotSynced) || node.catalog.standing.role !== "fenced") throw error;
        }
      } finally {
        node.close();
      }
      recorder.recording = true;
      recorder.now("end", "after a restart");
      for (const mode of ["lose-all", "reordered"] as const) this.crash(points.at(-1)!, mode, 1);
    } catch (error) {
      const where = `${this.scenario.name}: killed at point ${point.index}, in ${point.step} before ${point.kind} ${point.detail}`;
      throw new MatrixFailure(`${where}, and started again: ${explain(error)}`, { cause: error });
    }
  }

  /**
   * The program starts again on a filesystem that has become read-only, as a journal that cannot be written makes it:
   * it must stop again and promise nothing.
   */
  restartReadOnly({ disk: stopped, image, durable, acknowledged }: CrashPoint): void {
    const disk = stopped.clone();
    disk.failWhen(() => "EROFS");
    const points: CrashPoint[] = [];
    const recorder = this.#recorder(disk, points, image, acknowledged, durable);
    recorder.recording = false;
    let node: ReplicaNode | undefined;
    let stoppedAgain = false;
    try {
      node = this.#start(disk, image, recorder);
      this.#goOn(node, acknowledged);
    } catch {
      // Whatever it says: what counts is what it has promised by then.
      stoppedAgain = true;
    } finally {
      node?.close();
    }
    if (!stoppedAgain) throw new MatrixFailure(`${this.scenario.name}: went on with a filesystem that is read-only`);
    disk.stopFailing();
    recorder.recording = true;
    recorder.now("end", "after a restart with a read-only filesystem");
    for (const mode of ["lose-all", "keep-all", "reordered"] as const) this.crash(points.at(-1)!, mode, 1);
  }

  #emptyDisk(mount: { readonly capacityBytes?: number } = {}): SimulatedDisk {
    const disk = new SimulatedDisk({ mounts: this.#stores.map((name) => ({ path: `/srv/${name}`, ...mount })) });
    this.#adopted.clear();
    this.#foreign.clear();
    for (const [name, entries] of Object.entries(this.scenario.planted ?? {})) {
      disk.writeTree(this.#copies[name]!, entries);
      disk.settle();
      this.#adopted.set(name, disk.tree(this.#copies[name]!));
    }
    return disk;
  }

  #take(node: ReplicaNode, step: Step, recorder: Recorder): void {
    switch (step.do) {
      case "receive": {
        node.receive(this.#cut(step.cut), step.from, step.to);
        break;
      }
      case "ahead":
        node.ahead(this.#cut(step.cut), step.from, step.to);
        break;
      case "commit":
        recorder.acknowledged = node.commit().seq;
        break;
      case "apply":
        if (node.makeWay()) recorder.acknowledged = node.catalog.standing.committed.seq;
        try {
          node.apply();
        } catch (error) {
          const foreign = error instanceof UnderstudyError && error.code === "FOREIGN_CHANGE";
          if (!foreign || !this.#suspectNow(node)) throw error;
        }
        break;
      case "promote":
        node.promote();
        break;
      case "abort":
        node.endSession();
        break;
      case "part":
        node.part();
        break;
      case "stranger": {
        const disk = node.context.disk as SimulatedDisk;
        disk.asStranger(() => step.change(disk));
        disk.settle();
        for (const name of this.#stores) this.#foreign.set(name, disk.tree(this.#copies[name]!));
        break;
      }
      case "promote a suspect copy":
        node.promote("suspect");
        break;
      case "promote what rejoins":
        node.promote("rejoining");
        break;
      case "go back":
        recorder.acknowledged = this.#common;
        node.goBack();
        break;
      case "cut by itself":
        this.#cutByItself(node, this.#cut(step.cut));
        break;
      case "demote":
        node.demote();
        break;
      case "adopt":
        recorder.acknowledged = 0n;
        for (const name of this.#stores)
          this.#adopted.set(name, (node.context.disk as SimulatedDisk).tree(this.#copies[name]!));
        node.adopt();
    }
  }

  /** Its application has written all of it, and synced nothing. */
  #cutByItself(node: ReplicaNode, cut: RecordedCut): void {
    const disk = node.context.disk as SimulatedDisk;
    node.ownCut(cut);
    for (const name of this.#stores) {
      const path = this.#copies[name]!;
      const [before, after] = [disk.tree(path), cut.trees[name]!];
      if (before.type !== "directory" || after.type !== "directory") throw new Error(`${path} is no directory`);
      disk.settle();
      for (const entry of Object.keys(before.entries)) disk.removeTree(path, entry);
      disk.writeTree(path, after.entries as Readonly<Record<string, Planted>>);
    }
  }

  /** The cut before the fork; 0 where the scenario knows that only as a fork from its start. */
  get #common(): bigint {
    const { fork, steps } = this.scenario;
    return fork !== undefined && (steps.includes(goBack) || steps.includes(demoteIt)) ? BigInt(fork) - 1n : 0n;
  }

  #cut(number: number): RecordedCut {
    const cut = this.#cuts[number - 1];
    if (cut === undefined) throw new Error(`the scenario has no cut ${number}`);
    return cut;
  }

  /** The power fails at `point`; what comes up must be right. Throws with the place when it is not. */
  crash(point: CrashPoint, mode: PowerLossMode, seed: number, options: { again?: number } = {}): void {
    this.failures++;
    const where = `${this.scenario.name}: power lost (${mode}, seed ${seed}) at point ${point.index}, in ${point.step} before ${point.kind} ${point.detail}`;
    try {
      const disk = point.disk.afterPowerLoss(mode, seededRandom(seed));
      // Whether the catalog's log was written back by itself has nothing to do with the other files.
      const image = (seed + powerLossModes.indexOf(mode)) % 2 === 0 ? point.image : point.durable;
      this.checkCopyBeforeRecovery(disk, image);
      const state = `${image?.id ?? 0} ${point.acknowledged} ${options.again ?? 0} ${fingerprint(disk)}`;
      if (this.#recovered.has(state)) return;
      this.#recovered.add(state);
      this.states++;
      if (options.again !== undefined) this.#crashInRecovery({ ...point, image }, disk, options.again, seed);
      this.#recoverUnlessReverted(disk, image, point.acknowledged);
    } catch (error) {
      throw new MatrixFailure(`${where}: ${explain(error)}`, { cause: error });
    }
  }

  /** The power fails a second time, before every `stride`-th operation of the recovery. */
  #crashInRecovery(point: CrashPoint, disk: SimulatedDisk, stride: number, seed: number): void {
    const points: CrashPoint[] = [];
    const second = disk.clone();
    const recorder = this.#recorder(second, points, point.image, point.acknowledged);
    recorder.step = "recovery";
    const node = this.#start(second, point.image, recorder);
    try {
      this.#finish(node);
    } finally {
      node.close();
    }
    for (const [index, inner] of points.entries()) {
      if (index % stride !== seed % stride) continue;
      this.pointsInRecovery++;
      for (const mode of ["lose-all", "reordered"] as const) this.crash(inner, mode, seed + 1);
    }
  }

  /** What a primary's application has not synced is its own matter, until this node says that it is its copy. */
  #recoverUnlessReverted(disk: SimulatedDisk, image: CatalogImage | undefined, acknowledged: bigint): void {
    try {
      this.recover(disk, image, acknowledged);
    } catch (error) {
      const reverted = error instanceof UnderstudyError && error.code === "STILL_WRITTEN";
      if (!reverted || image?.standing.role !== "fenced") throw error;
      this.reverted++;
    }
  }

  /** Starts on this disk, finishes what is committed, judges it, and takes in the rest of the scenario. */
  recover(disk: SimulatedDisk, image: CatalogImage | undefined, acknowledged: bigint): void {
    const node = this.#start(disk, image, undefined);
    try {
      this.#goOn(node, acknowledged);
    } finally {
      node.close();
    }
  }

  /**
   * The program is killed here, and before it goes on the operator says `adopt`, in which the power fails. Gives how many
   * files lay in limbo: those must not be lost either.
   */
  adoptAt({ disk: stopped, image, acknowledged, index, step }: CrashPoint): number {
    const disk = stopped.clone();
    const points: CrashPoint[] = [];
    const recorder = this.#recorder(disk, points, image, acknowledged);
    recorder.recording = false;
    this.#adopted.clear();
    const node = this.#start(disk, image, recorder);
    let inLimbo = 0;
    try {
      for (const home of node.context.homes.values()) {
        const { name } = home.placement;
        const limbo = disk.tree(`/srv/${name}/.understudy/app.${name}/limbo`);
        if (limbo.type === "directory") inLimbo += Object.keys(limbo.entries).length;
        // What the batch brings may go again, and what it takes is there still.
        const there = contentsOf({
          ...limbo,
          type: "directory",
          entries: { limbo, copy: disk.tree(this.#copies[name]!) },
        });
        const before = image === undefined ? limbo : this.#treeAt(name, image.standing.applied);
        this.#adopted.set(name, onlyContents(before, there));
      }
      this.#firstCut = this.#cuts.length;
      recorder.recording = true;
      recorder.acknowledged = 0n;
      node.adopt();
      recorder.now("end", "");
    } finally {
      node.close();
    }
    for (const point of points) {
      for (const mode of ["lose-all", "reordered"] as const) {
        this.failures++;
        const after = point.disk.afterPowerLoss(mode, seededRandom(point.index));
        const again = this.#start(after, point.image, undefined);
        try {
          if (!adoptedEver(again)) again.adopt();
          this.#goOn(again, 0n);
        } catch (error) {
          const where = `${this.scenario.name}: adopted at point ${index}, in ${step}, power lost (${mode}) before ${point.kind} ${point.detail}`;
          throw new MatrixFailure(`${where}: ${explain(error)}`, { cause: error });
        } finally {
          again.close();
        }
      }
    }
    return inLimbo;
  }

  /** The same without the rest of the scenario. */
  comeUp({ disk, durable, acknowledged }: CrashPoint): void {
    const node = this.#start(disk.afterPowerLoss("lose-all", seededRandom(0)), durable, undefined);
    try {
      this.#finish(node);
      this.#judge(node, acknowledged, "after the recovery");
    } finally {
      node.close();
    }
  }

  #goOn(node: ReplicaNode, acknowledged: bigint): void {
    this.#finish(node);
    this.#judge(node, acknowledged, "after the recovery");
    if (node.catalog.standing.role !== "replica") return;
    for (const cut of this.#cuts) {
      if (!this.#wants(node, cut)) continue;
      node.receive(cut);
      node.commit();
    }
    node.apply();
    this.#judge(node, this.#cuts.at(-1)!.cut.seq, "after the rest of the session");
  }

  /** What is gone since a stranger took it. */
  get #lacks(): readonly string[] | undefined {
    return this.#foreign.size === 0 ? undefined : this.scenario.lacks;
  }

  #suspectNow({ catalog }: ReplicaNode): boolean {
    return this.#lacks !== undefined && catalog.standing.suspect !== "";
  }

  #wants(node: ReplicaNode, { cut }: RecordedCut): boolean {
    // By then it has had what turned out to be a fork.
    if (this.#common > 0n && cut.seq === this.#common + 1n) return false;
    return cut.seq > node.catalog.standing.committed.seq && (cut.seq >= this.#firstCut || !adoptedEver(node));
  }

  #finish(node: ReplicaNode): void {
    const { role, committed } = node.catalog.standing;
    if (role === "promoting") this.#resumePromotion(node);
    else if (role === "fenced") node.demote();
    else if (this.#common > 0n && committed.seq === this.#common + 1n) node.goBack();
    // A primary applies nothing: all of it must be there with the epoch.
    else if (role === "replica" && this.#suspectNow(node)) node.promote("suspect");
    else if (role === "replica") node.apply();
  }

  /** The agent gives it up at its start; then the operator says once more what he accepts. */
  #resumePromotion(node: ReplicaNode): void {
    const before = this.#suspectNow(node);
    node.unseal();
    if (before && !this.#suspectNow(node)) throw new Error("a promotion that was given up took the suspicion with it");
    const rejoins = this.scenario.steps.includes(promoteRejoining);
    node.promote(before ? "suspect" : rejoins ? "rejoining" : undefined);
  }

  #start(disk: SimulatedDisk, image: CatalogImage | undefined, recorder: Recorder | undefined): ReplicaNode {
    const path = join(this.#directory, `${this.#nodes++}.db`);
    if (image !== undefined) writeFileSync(path, image.bytes);
    const node = new ReplicaNode(
      {
        program: this.#program,
        copies: this.#copies,
        limits: { ...smallLimits, ...this.scenario.limits },
        keepHistory: this.scenario.keepHistory ?? true,
        adopts: this.scenario.planted !== undefined,
        resumes: this.scenario.resumes === true,
        goesBack: this.#common > 0n,
      },
      disk,
      path,
      recorder?.observer,
    );
    // Who was told nothing says it again.
    if (image !== undefined && this.#adopted.size > 0 && !adoptedEver(node)) node.adopt();
    return node;
  }

  #recorder(
    disk: SimulatedDisk,
    points: CrashPoint[],
    image: CatalogImage | undefined,
    acknowledged: bigint,
    durable = image,
  ): Recorder {
    return new Recorder(disk, points, { image, durable }, acknowledged, () => ++this.#images);
  }

  /** No byte of an uncommitted cut is in the copy, ever; without a mark it is exactly the applied cut. */
  checkCopyBeforeRecovery(disk: SimulatedDisk, image: CatalogImage | undefined): void {
    const applying = image?.standing.applying;
    const applied = image?.standing.applied ?? 0n;
    if (image?.standing.role === "fenced") return; // Its files are its application's.
    for (const name of this.#stores) {
      const tree = existing(disk, this.#copies[name]!);
      const lay = this.#adopted.get(name);
      if (lay !== undefined) this.#checkNothingLost(disk, name, lay);
      if (applying === undefined && lay !== undefined && (applied < this.#firstCut || image?.adopting === true)) {
        // Until the first cut is applied nothing is touched; until the adoption has ended what it lacks may lie there.
        const wanted = applied < this.#firstCut ? lay : this.#treeAt(name, applied);
        const difference = treeDifference(without(tree!, lay, wanted), wanted);
        if (difference !== undefined) throw new Error(`what was adopted as ${name} is not right: ${difference}`);
        continue;
      }
      const foreign = this.#foreign.get(name);
      if (this.#lacks !== undefined && foreign !== undefined) {
        if (image?.standing.suspect === "" && image.standing.role !== "primary")
          throw new Error(`a ${image.standing.role} does not know any more that the copy is suspect`);
        // What a stranger did stays as it is until a batch is marked, to the byte.
        if (applying === undefined && applied === 1n) {
          const difference = treeDifference(tree!, foreign);
          if (difference !== undefined) throw new Error(`without a mark a suspect copy was touched: ${difference}`);
        }
        // Between two batches what only the later one touches is as the stranger left it.
        if (applying === undefined && applied < this.#cuts.length) continue;
      }
      if (applying === undefined) {
        const difference =
          applied === 0n
            ? emptyDifference(tree)
            : treeDifference(tree!, this.#treeAt(name, this.#meant(applied, image?.standing.role)));
        if (difference !== undefined)
          throw new Error(`without a mark the copy of ${name} is not cut ${applied}: ${difference}`);
        continue;
      }
      if (tree === undefined) throw new Error(`the copy of ${name} is gone`);
      const known = new Set<string>();
      for (const cut of this.#cuts)
        if (cut.cut.seq <= applying.to) for (const path of cut.paths[name]!) known.add(path);
      for (const other of [lay, foreign]) if (other !== undefined) addPaths(known, other, "");
      checkNothingNewer(tree, "", known, Number(applying.to));
    }
  }

  /** Whatever somebody else's hands brought is in the copy still, or beside it. */
  #checkNothingLost(disk: SimulatedDisk, name: string, lay: Tree): void {
    const there = contentsOf(disk.tree(`/srv/${name}`));
    for (const content of contentsOf(lay)) {
      if (!there.has(content)) throw new Error(`of what was adopted as ${name} this is lost: ${content.slice(0, 40)}`);
    }
  }

  /** The scenario's cut that a node has at a number: what was accepted while it rejoined has the next one in its own reign. */
  #meant(at: bigint, role: Standing["role"] | undefined): bigint {
    const { fork, steps } = this.scenario;
    // What it has otherwise counts for the common cut, until the first one of the other primary is applied.
    if (this.#common > 0n && at === this.#common) return at + 1n;
    return fork !== undefined && steps.includes(promoteRejoining) && role === "primary" ? at - 1n : at;
  }

  #treeAt(store: string, at: bigint): Tree {
    const cut = this.#cuts.find((candidate) => candidate.cut.seq === at);
    if (cut === undefined) throw new Error(`${at} is no cut of the scenario`);
    const lacks = this.#lacks;
    return lacks === undefined || at === 1n ? cut.trees[store]! : lacking(cut.trees[store]!, lacks);
  }

  #judge(node: ReplicaNode, acknowledged: bigint, when: string): void {
    const { catalog, context } = node;
    const { standing } = catalog;
    const fail = (text: string): never => {
      throw new Error(`${when}: ${text}`);
    };
    if (standing.committed.seq < acknowledged)
      fail(`cut ${acknowledged} was acknowledged, ${standing.committed.seq} is committed`);
    if (standing.suspect !== "") fail(`the copy is suspect: ${standing.suspect}`);
    const { disk } = context;
    for (const [name, lay] of this.#adopted) this.#checkNothingLost(disk as SimulatedDisk, name, lay);
    if (
      this.#adopted.size === 0 &&
      this.#lacks === undefined &&
      catalog.get("SELECT 1 AS found FROM events WHERE name = 'stranger.put_aside'") !== undefined
    )
      fail("a stranger was seen");
    if (standing.applied !== standing.committed.seq && when !== "without a crash")
      fail("something committed is not applied");
    if (standing.applied === 0n) return;
    const touched = anyTouched(catalog);
    const meant = this.#meant(standing.committed.seq, standing.role);
    const recorded = this.#cuts.find((cut) => cut.cut.seq === meant);
    if (recorded === undefined) throw new Error(`${standing.committed.seq} is no cut of the scenario`);
    const { fork } = this.scenario;
    const touchedAt = this.#common === 0n ? BigInt(fork ?? 0) : this.#common;
    if (fork !== undefined && touched !== (standing.committed.seq === touchedAt))
      fail(
        `cut ${standing.committed.seq} is committed, and what was otherwise is ${anyTouched(catalog) ? "still noted" : "forgotten"}`,
      );
    if (hex(recorded.digest) !== hex(standing.digest))
      fail(`the digest of cut ${standing.committed.seq} is another one`);
    for (const [number, home] of context.homes) {
      const { name } = home.placement;
      const copy = existing(context.disk as SimulatedDisk, home.placement.path);
      const difference = treeDifference(copy!, this.#treeAt(name, this.#meant(standing.applied, standing.role)));
      if (difference !== undefined) fail(`the copy of ${name} is not cut ${standing.applied}: ${difference}`);
      this.#judgePrivate(node, number, fail);
      // With a new reign the points end: nobody saves what the service overwrites.
      if (this.scenario.keepHistory === false || standing.role === "primary") continue;
      for (const point of catalog.cuts("point")) {
        const restored = restoredPoint(context, number, point.cut.seq);
        const wrong = treeDifference(restored, this.#treeAt(name, point.cut.seq));
        if (wrong !== undefined) fail(`recovery point ${point.cut.seq} of ${name} is wrong: ${wrong}`);
        this.#judgeView(node, number, point.cut.seq, fail);
      }
    }
    if (this.scenario.keepHistory !== false && standing.role !== "primary") {
      const points = catalog.cuts("point").length;
      // Who goes back has no point of before.
      const before = adoptedEver(node) ? this.#firstCut - 1 : this.#common > 0n ? Number(fork) : 0;
      if (points + before !== Math.max(before, Number(standing.applied)))
        fail(`there are ${points} recovery points of ${standing.applied} applied cuts`);
    }
  }

  /** The program's own view of a point finds every block with its hash. */
  #judgeView({ context }: ReplicaNode, store: number, at: Seq, fail: (text: string) => void): void {
    using view = new CopyView(context, at);
    for (const { path, object } of context.manifest.entries(store, at)) {
      if (object.type !== "file" || object.size === 0) continue;
      using file = view.open(object, store);
      for (const { badBlock } of file.checked()) {
        if (badBlock !== undefined) fail(`the view of point ${at} has a wrong block ${badBlock} in ${path}`);
      }
    }
  }

  /** The catalog knows everything that lies beside the copy, and nothing more; and each file of the copy as it stands. */
  #judgePrivate(node: ReplicaNode, store: number, fail: (text: string) => never): void {
    const { catalog, context } = node;
    // A promoted node removes these files beside its service, whenever it gets to it.
    if (catalog.standing.role === "primary") discardHistory(context);
    const home = context.homes.get(store)!;
    const list = (directory: Directory): string => context.disk.list(directory).sort().join(" ");
    const known = (sql: string, letter: string): string =>
      catalog
        .all(sql, store)
        .map((row) => `${letter}${row.name}`)
        .sort()
        .join(" ");
    const expected = {
      limbo: "",
      strangers: this.#adopted.size === 0 && this.#lacks === undefined ? "" : list(home.strangers),
      kept: known("SELECT object AS name FROM kept WHERE store = ?", "o"),
      history: known("SELECT DISTINCT file AS name FROM images WHERE store = ?", "h"),
    };
    for (const [part, names] of Object.entries(expected)) {
      // What the points of the reign before had here is removed with the next start as a replica.
      if (catalog.standing.role === "primary" && (part === "kept" || part === "history")) continue;
      const found = list(home[part as keyof typeof expected]);
      if (found !== names) fail(`${part} holds "${found}", the catalog knows "${names}"`);
    }
    if (catalog.standing.applied === catalog.standing.committed.seq && catalog.cuts("receiving").length === 0) {
      const left = list(home.staging)
        .split(" ")
        .filter((name) => name !== aheadName(catalog.standing.committed.seq))
        .join(" ");
      const resumable = known("SELECT object AS name FROM staged WHERE store = ?", "o");
      // Files without rows are removed with the next start as a replica, where a power failure has brought them back.
      const onlyRows = catalog.standing.role === "primary" && this.scenario.fork !== undefined;
      if (onlyRows ? resumable !== "" : left !== resumable)
        fail(`staging holds "${left}" after everything is applied, the catalog knows "${resumable}"`);
      if (catalog.get("SELECT 1 AS found FROM extents LIMIT 1") !== undefined)
        fail("redo is left after everything is applied");
      const built = list(home.firstTree.root);
      if (built !== "") fail(`the first tree holds "${built}" after everything is applied`);
    }
    // Not the ctime: a power failure may take it back, and the program knows that.
    const seen = catalog.statement("SELECT inode, size, mtime_ns FROM seen WHERE object = ?");
    seen.setReadBigInts(true);
    for (const { path, object } of context.manifest.entries(store, catalog.standing.applied)) {
      if (object.type !== "file" || this.#lacks?.includes(path)) continue;
      const row = seen.get(object.object) as Record<string, bigint> | undefined;
      const stat = home.tree.stat(path);
      if (row === undefined || stat === undefined) throw new Error(`${path} was not seen`);
      if (row.inode !== BigInt(stat.inode) || row.size !== BigInt(stat.size) || row.mtime_ns !== stat.mtimeNs) {
        fail(`${path} is not as it was seen`);
      }
    }
    home.tree.forget();
  }
}

function adoptedEver({ catalog }: ReplicaNode): boolean {
  return catalog.get("SELECT 1 AS found FROM events WHERE name = 'replica.adopting'") !== undefined;
}

function addPaths(paths: Set<string>, tree: Tree, path: string): void {
  paths.add(path);
  if (tree.type !== "directory") return;
  for (const [name, inner] of Object.entries(tree.entries))
    addPaths(paths, inner, path === "" ? name : `${path}/${name}`);
}

function lacking(tree: Tree, lacks: readonly string[], path = ""): Tree {
  if (tree.type !== "directory") return tree;
  const inner = (name: string): string => (path === "" ? name : `${path}/${name}`);
  const entries = Object.entries(tree.entries)
    .filter(([name]) => !lacks.includes(inner(name)))
    .map(([name, entry]): [string, Tree] => [name, lacking(entry, lacks, inner(name))]);
  return { ...tree, entries: Object.fromEntries(entries) };
}

export class MatrixFailure extends Error {
  override readonly name = "MatrixFailure";
}

/** Keeps the disk and the durable catalog as they are before each operation. */
class Recorder {
  readonly #disk: SimulatedDisk;
  readonly #points: CrashPoint[];
  readonly #nextImage: () => number;
  #image: CatalogImage | undefined;
  #durable: CatalogImage | undefined;
  acknowledged: bigint;
  step = "open";
  recording = true;

  constructor(
    disk: SimulatedDisk,
    points: CrashPoint[],
    catalog: { readonly image: CatalogImage | undefined; readonly durable: CatalogImage | undefined },
    acknowledged: bigint,
    nextImage: () => number,
  ) {
    this.#disk = disk;
    this.#points = points;
    this.#image = catalog.image;
    this.#durable = catalog.durable;
    this.acknowledged = acknowledged;
    this.#nextImage = nextImage;
    disk.onOperation = ({ index, kind, detail, when }) => {
      if (when === "before") this.now(kind, detail, index);
    };
  }

  readonly observer = (catalog: Catalog): CommitObserver => {
    return (when, purpose, durable) => {
      if (when === "before") {
        this.now("catalog commit", purpose);
        return;
      }
      const outcome = catalog.db.prepare("PRAGMA wal_checkpoint(TRUNCATE)").get() as { busy: number };
      if (outcome.busy !== 0) throw new Error(`somebody reads while "${purpose}" is committed`);
      this.#image = {
        id: this.#nextImage(),
        bytes: readFileSync(catalog.db.location()!),
        standing: catalog.standing,
        adopting: adopting(catalog),
      };
      if (durable) this.#durable = this.#image;
    };
  };

  now(kind: CrashKind, detail: string, operation?: number): void {
    if (!this.recording) return;
    const { step, acknowledged } = this;
    this.#points.push({
      index: this.#points.length,
      step,
      kind,
      detail,
      disk: this.#disk.clone(),
      image: this.#image,
      durable: this.#durable,
      acknowledged,
      operation,
    });
  }
}

function existing(disk: SimulatedDisk, path: string): Tree | undefined {
  try {
    return disk.tree(path);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

function emptyDifference(tree: Tree | undefined): string | undefined {
  if (tree === undefined) return undefined;
  if (tree.type !== "directory") return `it is a ${tree.type}`;
  const name = Object.keys(tree.entries).find((entry) => entry !== trialName);
  return name === undefined ? undefined : `it has ${name}`;
}

function checkNothingNewer(tree: Tree, path: string, known: ReadonlySet<string>, to: number): void {
  if (!known.has(path) && path !== trialName) throw new Error(`${path} is in the copy and in no committed cut`);
  if (tree.type === "file" && newestTag(tree.bytes) > to) throw new Error(`${path} has bytes of an uncommitted cut`);
  if (tree.type !== "directory") return;
  for (const [name, inner] of Object.entries(tree.entries))
    checkNothingNewer(inner, path === "" ? name : `${path}/${name}`, known, to);
}

/** Everything on the disk by which one state differs from another, inode numbers and times included. */
function fingerprint(disk: Disk): string {
  const sum = createHash("sha1");
  const walk = (directory: Directory): void => {
    for (const name of disk.list(directory).sort()) {
      const stat = disk.stat(directory, name)!;
      sum.update(
        `${name} ${stat.type} ${stat.inode} ${stat.mode} ${stat.uid} ${stat.mtimeNs} ${stat.ctimeNs} ${stat.size}\n`,
      );
      if (stat.type === "directory") {
        const inner = disk.openDirectory(directory, name);
        walk(inner);
        disk.closeDirectory(inner);
        sum.update("\n");
      } else if (stat.type === "file") {
        const file = disk.openFile(directory, name, "read");
        const bytes = new Uint8Array(stat.size);
        disk.read(file, bytes, 0, bytes.length, 0);
        disk.closeFile(file);
        sum.update(bytes);
      } else if (stat.type === "symlink") {
        sum.update(disk.readSymlink(directory, name));
      }
    }
  };
  const root = disk.openRoot("/");
  walk(root);
  disk.closeDirectory(root);
  return sum.digest("base64");
}
