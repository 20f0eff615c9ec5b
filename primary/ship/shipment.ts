import type { CutBegin, CutEnd, Extent, ObjectRow, PathRow } from "../../shared/wire/messages.ts";
import type { CutId, ObjectId, StorePath } from "../../shared/words.ts";
import { giveFrameMemory } from "./frame-memory.ts";
import type { HeldBlocks } from "./held-blocks.ts";
import { Outbox, type Send } from "./outbox.ts";
import type { TouchedThere } from "./touched-there.ts";

/** One replica's end of the way, as the plan sees it. */
export interface ReplicaSink {
  readonly name: string;
  /** The last cut that was sent to it whole; what comes next is a delta from it. */
  base: CutId;
  /** Objects above this one are new to it. */
  lastObject: number;
  readonly compress: boolean;
  /** It may have bytes of objects that are new to it: it is asked, so it gets a cut of its own. */
  readonly resuming: boolean;
  /** Objects whose file is damaged there: the next cut brings them whole. */
  readonly damaged: readonly ObjectId[];
  /** Set while it rejoins: what it has otherwise than `base`, which the next cut brings right. */
  touched?: TouchedThere | undefined;
  /** Waits while too much is on its way. @throws when the session is gone */
  readonly send: Send;
  /** What the replica has staged of an object from a broken session: 32 bytes for each run, empty for nothing. */
  stagedRuns(asked: StagedQuestion): Promise<{ readonly blockSize: number; readonly digests: Uint8Array }>;
  /** The session ended or refused: nothing more is sent. */
  gone: boolean;
  /** It takes bytes ahead of a cut, so a cut needs not wait for it. */
  readonly takesAhead: boolean;
  /** What it has staged. */
  readonly held: HeldBlocks;
  /** Learns what it has staged from before this session, into `held`. */
  listStaged(): Promise<void>;
  /** More than this is not sent within a cut to one that lags: so much may wait in memory for its line. */
  readonly catchUpBytesMax: number;
  /** It was left out of the cut: what it lacks goes ahead of another one. */
  late: boolean;
  /** So much is on its way that the next `send` waits. */
  readonly full: boolean;
}

/** Payload that may wait in memory while the application is frozen. */
const heldBytesMax = 64 * 1024 * 1024;
/** A replica that has no room when another one has: so long the cut waits for it. */
const slowerMsMax = 250;

export interface StagedQuestion {
  readonly object: ObjectId;
  readonly store: string;
  readonly path: StorePath;
  readonly blockSize: number;
}

export type ShippedExtent = Omit<Extent, "fresh" | "held"> & { readonly held?: boolean };

/** One cut on its way to the replicas that have the same base: packed once, sent to each. */
export class Shipment {
  readonly #sinks: ReplicaSink[];
  readonly #lastObject: number;
  readonly #whole: Pick<ReadonlySet<ObjectId>, "has">;
  readonly #begin: CutBegin;
  readonly #outbox: Outbox;
  #begun = false;
  #held: Parameters<Send>[] | undefined;
  #heldBytes = 0;
  #patienceMs: number;

  /**
   * `whole`: known objects of which all comes anew. `patienceMs`: so long in all a cut waits for the line before it goes
   * on without whom it waits for.
   */
  constructor(
    sinks: readonly ReplicaSink[],
    begin: CutBegin,
    lastObject: number,
    whole: Pick<ReadonlySet<ObjectId>, "has"> = new Set(),
    patienceMs: number = Number.POSITIVE_INFINITY,
  ) {
    this.#sinks = [...sinks];
    this.#patienceMs = patienceMs;
    this.#begin = begin;
    this.#lastObject = lastObject;
    this.#whole = whole;
    this.#outbox = new Outbox((message, payload) => this.#broadcast(message, payload), {
      compress: sinks.some((sink) => sink.compress),
    });
  }

  /** Replicas that still take part. */
  get sinks(): readonly ReplicaSink[] {
    return this.#sinks.filter((sink) => !sink.gone && !sink.late);
  }

  /** True for an object that the replica has and of which all is sent once more. */
  bringsAnew(object: ObjectId): boolean {
    return this.#whole.has(object);
  }

  async extent(extent: ShippedExtent, bytes: Uint8Array | undefined): Promise<void> {
    if (this.sinks.length === 0) return;
    const fresh = extent.object > this.#lastObject || this.#whole.has(extent.object);
    await this.#outbox.extent({ held: false, ...extent, fresh }, bytes);
  }

  /** The extent of a whole frame, in memory that the caller gives away. */
  async frame(extent: ShippedExtent, memory: Buffer<ArrayBuffer>): Promise<void> {
    if (this.sinks.length === 0) giveFrameMemory(memory.buffer);
    else await this.#outbox.frame({ held: false, ...extent, fresh: extent.object > this.#lastObject }, memory);
  }

  async object(row: ObjectRow): Promise<void> {
    if (this.sinks.length > 0) await this.#outbox.object(row);
  }

  async path(row: PathRow): Promise<void> {
    if (this.sinks.length > 0) await this.#outbox.path(row);
  }

  async drop(object: ObjectId): Promise<void> {
    if (this.sinks.length > 0) await this.#outbox.drop(object);
  }

  // ---- Without waiting, for what is small: whoever puts sends when something `isPacked` ----

  putExtent(extent: Omit<Extent, "fresh">, bytes: Uint8Array | undefined): void {
    if (this.#isWanted()) this.#outbox.putExtent({ ...extent, fresh: extent.object > this.#lastObject }, bytes);
  }

  putRow(object: ObjectRow, path: PathRow): void {
    if (!this.#isWanted()) return;
    this.#outbox.putObject(object);
    this.#outbox.putPath(path);
  }

  get isPacked(): boolean {
    return this.#outbox.isPacked;
  }

  async send(): Promise<void> {
    await this.#outbox.send();
  }

  /** What is packed so far leaves now: it is on its way while the primary makes its own manifest durable. */
  async flush(): Promise<void> {
    if (this.sinks.length > 0) await this.#outbox.flush();
  }

  /** Sends what is left and the cut's end; afterwards it is each sink's new base. */
  async end(end: Omit<CutEnd, "objects" | "paths" | "payloadBytes">, lastObject: number): Promise<void> {
    if (this.sinks.length === 0) return;
    await this.#outbox.flush();
    const { objects, paths, payloadBytes } = this.#outbox;
    await this.#broadcast({ kind: "cutEnd", ...end, objects, paths, payloadBytes }, new Uint8Array(0));
    for (const sink of this.sinks) {
      sink.base = end.cut;
      sink.lastObject = lastObject;
      sink.held.usedUp();
      sink.touched = undefined;
    }
  }

  /** From now on nothing waits for a slow link, up to a bound: the application stands still meanwhile. */
  hold(): void {
    this.#held = [];
  }

  async release(): Promise<void> {
    const held = this.#held ?? [];
    this.#held = undefined;
    this.#heldBytes = 0;
    for (const [message, payload] of held) await this.#broadcast(message, payload);
  }

  async abort(reason: string): Promise<void> {
    await this.release();
    if (this.#begun) await this.#broadcast({ kind: "cutAborted", cut: this.#begin.cut, reason }, new Uint8Array(0));
  }

  get payloadBytes(): number {
    return this.#outbox.payloadBytes;
  }

  #isWanted(): boolean {
    return this.#sinks.some((sink) => !sink.gone && !sink.late);
  }

  async #broadcast(...[message, payload]: Parameters<Send>): Promise<void> {
    if (!this.#begun) {
      this.#begun = true;
      await this.#broadcast({ kind: "cutBegin", ...this.#begin }, new Uint8Array(0));
    }
    if (this.#held !== undefined) {
      this.#held.push([message, payload]);
      this.#heldBytes += payload.length;
      if (this.#heldBytes <= heldBytesMax) return;
      for (const sink of this.sinks) if (sink.takesAhead) this.#leaveOut(sink, "more than may wait while frozen");
      await this.release();
      this.hold();
      return;
    }
    const sinks = this.sinks;
    const sending = new Map(
      sinks.map((sink) => [
        sink,
        // A payload that goes one way may be handed over; one that goes several must stay whole.
        sink.send(message, payload, ...(sinks.length > 1 ? (["shared"] as const) : [])).catch(() => {
          // The session says why in its own log; the cut goes on for the others, and this one gets the next.
          sink.gone = true;
        }),
      ]),
    );
    if (sinks.length !== 1) giveFrameMemory(payload.buffer);
    if (sinks.some((sink) => sink.full && sink.takesAhead)) await this.#leaveBehind(sending);
    await Promise.all([...sending].flatMap(([sink, sent]) => (sink.late ? [] : [sent])));
  }

  /** Waits for those whose line is full, but not for one much longer than for another, nor without end. */
  async #leaveBehind(sending: ReadonlyMap<ReplicaSink, Promise<void>>): Promise<void> {
    const waiting = (): [ReplicaSink, Promise<void>][] => [...sending].filter(([sink]) => sink.full && !sink.gone);
    const begun = performance.now();
    const wait = async (until: Promise<unknown>, ms: number): Promise<"came" | "late"> => {
      if (ms <= 0) return "late";
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<"late">((resolve) => {
        timer = setTimeout(() => resolve("late"), Math.min(ms, 0x7fff_ffff));
      });
      const outcome = await Promise.race([until.then(() => "came" as const), late]);
      clearTimeout(timer);
      return outcome;
    };
    let outcome: "came" | "late" = "came";
    if (waiting().length === sending.size)
      outcome = await wait(Promise.race(waiting().map(([, sent]) => sent)), this.#patienceMs);
    if (waiting().length < sending.size) {
      const all = Promise.all(waiting().map(([, sent]) => sent));
      await wait(all, Math.min(slowerMsMax, Math.max(1, this.#patienceMs)));
    }
    // A timer may end a little before its time: what was left then would be patience without end.
    this.#patienceMs = outcome === "late" ? 0 : this.#patienceMs - (performance.now() - begun);
    if (this.#patienceMs > 0 && waiting().length === sending.size) return;
    for (const [sink] of waiting())
      if (sink.takesAhead) this.#leaveOut(sink, "its line does not carry the cut in time");
  }

  #leaveOut(sink: ReplicaSink, reason: string): void {
    sink.late = true;
    // Behind what is on its way already; whether the session still lives is known elsewhere.
    const aborted = { kind: "cutAborted", cut: this.#begin.cut, reason } as const;
    sink.send(aborted, new Uint8Array(0)).catch(() => {
      sink.gone = true;
    });
  }
}
