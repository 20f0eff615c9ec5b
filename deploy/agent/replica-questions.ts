import type { StagedQuestion } from "../../primary/ship/shipment.ts";
import type { Message, StagedPlace, TouchedPlace } from "../../shared/wire/messages.ts";
import type { Follower } from "./follower.ts";

/** What the cut worker asks replicas in the middle of a cut; each answer comes with the session's other messages. */
export class ReplicaQuestions {
  readonly #find: (of: { readonly sink: string; readonly session: number }) => Follower | undefined;

  constructor(find: (of: { readonly sink: string; readonly session: number }) => Follower | undefined) {
    this.#find = find;
  }

  /** What a replica has staged from before this session, page by page. */
  async stagedList({
    sink,
    session,
    ...from
  }: StagedPlace & { sink: string; session: number }): Promise<{ payload: Uint8Array; last: boolean }> {
    const follower = this.#find({ sink, session });
    if (follower === undefined) return { payload: new Uint8Array(0), last: true };
    const answer = Promise.withResolvers<{ payload: Uint8Array; last: boolean }>();
    follower.awaitingList = answer;
    await follower.session.send({ kind: "aheadRequest", ...from });
    return await answer.promise;
  }

  /** What a replica that rejoins has otherwise, page by page. */
  async touchedList({
    sink,
    session,
    ...from
  }: TouchedPlace & { sink: string; session: number }): Promise<{ payload: Uint8Array; last: boolean }> {
    const follower = this.#find({ sink, session });
    if (follower === undefined) throw new Error(`the session with ${sink} is over`);
    const answer = Promise.withResolvers<{ payload: Uint8Array; last: boolean }>();
    follower.awaitingTouched = answer;
    const sent = follower.session.send({ kind: "touchedRequest", ...from });
    return (await Promise.all([answer.promise, sent]))[0];
  }

  async stagedRuns({
    sink,
    session,
    ...asked
  }: StagedQuestion & { sink: string; session: number }): Promise<{ blockSize: number; digests: Uint8Array }> {
    const follower = this.#find({ sink, session });
    if (follower === undefined) return { blockSize: 0, digests: new Uint8Array(0) };
    const answer = Promise.withResolvers<{ blockSize: number; digests: Uint8Array }>();
    follower.awaitingRuns.set(asked.object, answer);
    // The session's end breaks off both, and nobody would hear of the second one otherwise.
    const sent = follower.session.send({ kind: "stagedRequest", ...asked });
    return (await Promise.all([answer.promise, sent]))[0];
  }
}

export function answerQuestion(
  follower: Follower,
  message: Extract<Message, { kind: "stagedRuns" | "aheadHeld" | "touchedHeld" }>,
  payload: Uint8Array,
): void {
  switch (message.kind) {
    case "stagedRuns": {
      const answer = follower.awaitingRuns.get(message.object);
      follower.awaitingRuns.delete(message.object);
      answer?.resolve({ blockSize: message.blockSize, digests: payload });
      return;
    }
    case "aheadHeld":
      follower.awaitingList?.resolve({ payload, last: message.last });
      follower.awaitingList = undefined;
      return;
    case "touchedHeld":
      follower.awaitingTouched?.resolve({ payload, last: message.last });
      follower.awaitingTouched = undefined;
      return;
  }
}

/** The session is over, and no answer comes any more. */
export function endQuestions(follower: Follower, error: Error): void {
  follower.awaitingList?.resolve({ payload: new Uint8Array(0), last: true });
  follower.awaitingTouched?.reject(error);
  for (const answer of follower.awaitingRuns.values()) answer.reject(error);
  follower.awaitingRuns.clear();
}
