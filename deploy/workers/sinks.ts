import { framePayloadBytes, takeFrameMemory } from "../../primary/ship/frame-memory.ts";
import type { ReplicaSink } from "../../primary/ship/shipment.ts";
import { encodeMessage } from "../../shared/wire/codec.ts";
import type { StagedPlace } from "../../shared/wire/messages.ts";
import { unpackStagedList } from "../../shared/wire/staged-list.ts";
import { type CutId, type ObjectId, sameCut } from "../../shared/words.ts";
import type { PortPeer } from "./port-peer.ts";
import type { PrimaryMainCalls, PrimaryWorkerCalls, SinkState } from "./primary-calls.ts";
import type { SinkSession } from "./sink-session.ts";
import { enterStage } from "./step-trace.ts";

/** `committed`: the primary's last cut. `givenUp`: of a cut that goes on without what it waits for. */
export function openSink(
  main: PortPeer<PrimaryWorkerCalls, PrimaryMainCalls>,
  committed: CutId,
  state: SinkState,
  session: SinkSession,
  purpose: "cut" | "ahead",
  givenUp?: AbortSignal,
): ReplicaSink {
  const lags = !sameCut(state.base, committed);
  const windowBytes = (): number =>
    purpose === "ahead" ? session.aheadWindowBytes : lags ? session.catchUpWindowBytes : session.cutWindowBytes;
  const of = { sink: state.name, session: state.session };
  let over = false;
  return {
    ...state,
    held: session.held,
    touched: state.rejoining
      ? session.touchedThere(async (from) => await main.call("touchedList", { ...from, ...of }))
      : undefined,
    late: false,
    get gone() {
      return over || session.gone || (purpose === "ahead" && session.refused);
    },
    set gone(gone) {
      over ||= gone;
    },
    get full() {
      return session.full;
    },
    get catchUpBytesMax() {
      return session.catchUpBytesMax;
    },
    async send(message, payload, sharing) {
      if (session.gone) throw new Error(`the session with ${state.name} is over`);
      enterStage(message.kind === "cutEnd" ? "ship the end" : "ship");
      const header = ownMemory(encodeMessage(message));
      // Handed over, never cloned: a clone of a part takes all the memory that it is a part of along. What several
      // sinks get is copied for each.
      const own = sharing === undefined ? ownMemory(payload) : ownCopy(payload);
      session.left(header.length + own.length);
      main.note("frame", { ...of, header, payload: own }, [header.buffer, own.buffer]);
      await session.room(windowBytes(), givenUp);
      enterStage("plan");
    },
    async stagedRuns(asked) {
      return await main.call("stagedRuns", { ...asked, ...of });
    },
    async listStaged() {
      let from: StagedPlace = { object: 0, run: 0, files: false };
      for (;;) {
        const { payload, last } = await main.call("stagedList", { ...from, ...of });
        const entries = unpackStagedList(payload);
        const next = entries?.at(-1);
        for (const { object, run, tags } of entries ?? []) {
          if (tags.length === 0) session.held.unasked.add(object as ObjectId);
          else session.held.noteTags(object as ObjectId, run, 0, tags);
        }
        if (last || next === undefined || session.gone) break;
        const files = next.tags.length === 0;
        // Whoever does not get on is not asked on.
        if (!files && from.files) break;
        if (
          files === from.files &&
          (next.object < from.object || (next.object === from.object && next.run <= from.run))
        )
          break;
        from = { object: next.object, run: next.run, files };
      }
      session.held.listed = true;
    },
  };
}

/** These bytes as the whole of a buffer that is nobody else's. */
function ownMemory(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const { buffer } = bytes;
  return buffer instanceof ArrayBuffer && buffer.byteLength === bytes.byteLength
    ? new Uint8Array(buffer)
    : ownCopy(bytes);
}

function ownCopy(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const whole = bytes.length === framePayloadBytes;
  const copy = new Uint8Array((whole ? takeFrameMemory() : Buffer.allocUnsafeSlow(bytes.length)).buffer);
  copy.set(bytes);
  return copy;
}
