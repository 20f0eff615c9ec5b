import { ProtocolViolation } from "../../shared/errors.ts";
import type { Log } from "../../shared/log.ts";
import type { Metrics } from "../../shared/metrics.ts";
import { decodeMessage } from "../../shared/wire/codec.ts";
import type {
  Acknowledgement,
  Message,
  ReplicaReport,
  SourceState,
  SwitchoverMessage,
} from "../../shared/wire/messages.ts";
import { type CutId, compareCuts } from "../../shared/words.ts";
import type { PlainError } from "../workers/port-peer.ts";
import { RemoteError } from "../workers/port-peer.ts";
import type { ReplicaMainCalls, ReplicaWorkerCalls } from "../workers/replica-calls.ts";
import type { Session } from "./session.ts";
import type { WorkerThread } from "./worker-thread.ts";

/** Frames that may be on their way to the catalog worker: more would be memory without bound. */
const windowBytes = 8 * 1024 * 1024;
/** Of texts for the peer: what they name may be as long as what the peer sent, and a message has its bounds. */
const textLengthMax = 4096;

/** The replica's side of one session with the primary. */
export class Following {
  readonly session: Session;
  readonly #worker: WorkerThread<ReplicaMainCalls, ReplicaWorkerCalls>;
  readonly #log: Log;
  readonly #metrics: Metrics;
  readonly #group: string;
  /** The newest session alone may stage and commit. */
  readonly generation: number;
  #outstanding = 0;
  #room: PromiseWithResolvers<void> | undefined;
  #ended: Error | undefined;
  acknowledged: Acknowledgement | undefined;
  source: SourceState | undefined;
  /** Everything that the primary had until then is durable here, as far as it has said. Monotonic, ms. */
  coveredAt: number;
  #sourceAt = 0;
  /** What is told of the copy beside what is acknowledged. */
  report: () => ReplicaReport | undefined = () => undefined;
  /** What the primary says of a switchover. */
  onSwitchover: (message: SwitchoverMessage) => Promise<void> = async () => {};

  constructor(
    session: Session,
    worker: WorkerThread<ReplicaMainCalls, ReplicaWorkerCalls>,
    group: string,
    generation: number,
    coveredAt: number,
    log: Log,
    metrics: Metrics,
  ) {
    this.session = session;
    this.#worker = worker;
    this.#group = group;
    this.generation = generation;
    this.#log = log;
    this.#metrics = metrics;
    this.coveredAt = coveredAt;
  }

  /** Reads until the session ends. */
  async run(): Promise<void> {
    for (let frame = await this.session.next(); frame !== undefined; frame = await this.session.next()) {
      const bytes = frame.header.length + frame.payload.length;
      this.#metrics.receivedBytes.inc({ group: this.#group, peer: this.session.peer }, bytes);
      if (frame.kind === "control") {
        await this.#control(decodeMessage(frame.header));
        continue;
      }
      if (this.#ended !== undefined) throw this.#ended;
      this.#outstanding += bytes;
      const { header, payload } = frame;
      this.#worker.note(
        "frame",
        { generation: this.generation, header, payload },
        [header, payload].flatMap(ownBuffer),
      );
      while (this.#outstanding >= windowBytes) {
        this.#room = Promise.withResolvers();
        await this.#room.promise;
        if (this.#ended !== undefined) throw this.#ended;
      }
    }
  }

  /** It was ended from this side: what still comes of it is of no effect. */
  get over(): boolean {
    return this.#ended !== undefined;
  }

  /** Ends the session from this side, also when it waits for the worker. */
  stop(error: Error): void {
    this.#ended = error;
    this.session.channel.close(error);
    this.#room?.resolve();
  }

  taken(bytes: number, memory: ArrayBuffer | undefined): void {
    if (memory !== undefined) this.session.channel.reuse(memory);
    this.#outstanding -= bytes;
    if (this.#outstanding < windowBytes) {
      this.#room?.resolve();
      this.#room = undefined;
    }
  }

  acknowledge(message: Acknowledgement): void {
    this.acknowledged = message;
    this.#cover();
    const report = this.report();
    this.session
      .send({
        kind: "acknowledgement",
        ...message,
        suspect: bounded(message.suspect),
        ...(report === undefined ? {} : { report }),
      })
      .catch((error: unknown) => this.#log.debug("acknowledgement.unsent", { error }));
  }

  /** What is told beside it has changed. */
  acknowledgeAgain(): void {
    if (this.acknowledged !== undefined) this.acknowledge(this.acknowledged);
  }

  /** There is no room for what comes ahead of a cut; cuts themselves go on. */
  refuseAhead(reason: string): void {
    this.#log.warn("ahead.refused", { peer: this.session.peer, reason });
    this.session
      .send({ kind: "aheadRefused", reason: bounded(reason) })
      .catch((error: unknown) => this.#log.debug("ahead_refusal.unsent", { error }));
  }

  /** The cut cannot be taken: says so to the primary, then the session is over. */
  async reject(cut: CutId, committed: CutId, error: PlainError): Promise<void> {
    const failure = new RemoteError(error);
    this.#ended = failure;
    this.#room?.resolve();
    this.#log[error.remedy === "stop" ? "error" : "warn"]("cut.refused", {
      peer: this.session.peer,
      epoch: cut.epoch,
      seq: cut.seq,
      error: failure,
    });
    try {
      await this.session.send({
        kind: "cutRejected",
        cut,
        code: error.code,
        message: bounded(error.message),
        remedy: error.remedy,
        committed,
      });
    } finally {
      this.session.channel.close();
    }
  }

  /** Lag as far as this side can know: since the primary last said that there is nothing newer, or the link went down. */
  lagSeconds(): number {
    const now = performance.now();
    if (this.#covered() && now - this.#sourceAt < 3000) return 0;
    return (now - this.coveredAt) / 1000;
  }

  async #control(message: Message): Promise<void> {
    switch (message.kind) {
      case "sourceState":
        this.source = message;
        this.#sourceAt = performance.now();
        this.#cover();
        return;
      case "stagedRequest": {
        const { blockSize, digests } = await this.#worker.call("stagedRuns", message);
        await this.session.send({ kind: "stagedRuns", object: message.object, blockSize }, digests);
        return;
      }
      case "aheadRequest": {
        const { payload, last } = await this.#worker.call("stagedList", message);
        await this.session.send({ kind: "aheadHeld", last }, payload);
        return;
      }
      case "switchoverPrepare":
      case "handover":
      case "handoverRevoke":
      case "serviceStarted":
        await this.onSwitchover(message);
        return;
      case "touchedRequest": {
        const { payload, last } = await this.#worker.call("touchedList", message);
        await this.session.send({ kind: "touchedHeld", last }, payload);
        return;
      }
      case "refusal":
        throw new ProtocolViolation(`${this.session.peer} refuses: ${message.message}`);
      default:
        throw new ProtocolViolation(`a primary does not send ${message.kind}`);
    }
  }

  /** Nothing that the primary spoke of last is missing here. */
  #covered(): boolean {
    return this.#hasWhatWasTaken() && this.source?.waitingMs === 0;
  }

  #hasWhatWasTaken(): boolean {
    if (this.source === undefined || this.acknowledged === undefined) return false;
    return compareCuts(this.acknowledged.durable, this.source.taken) >= 0;
  }

  /** A source that changes all the time always has something waiting: what is older than that is here all the same. */
  #cover(): void {
    if (!this.#hasWhatWasTaken()) return;
    this.coveredAt = Math.max(this.coveredAt, this.#sourceAt - (this.source?.waitingMs ?? 0));
  }
}

/** What can be handed over rather than cloned: the decoder gives each header and payload memory of its own. */
function ownBuffer(bytes: Uint8Array): ArrayBuffer[] {
  const { buffer, byteLength } = bytes;
  return buffer instanceof ArrayBuffer && byteLength > 0 && byteLength === buffer.byteLength ? [buffer] : [];
}

function bounded(text: string): string {
  return text.slice(0, textLengthMax).toWellFormed();
}
