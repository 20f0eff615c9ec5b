import type { Hello } from "../../shared/wire/messages.ts";

/** A session that is refused is over at once: what was said in it counts until it is tried anew. */
const refusedMs = 10_000;

interface Answer {
  highestEpoch: bigint;
  validUntil: number;
  readonly sessions: Set<object>;
}

/** What the other members of a group have said in this run of the highest epoch that they know. */
export class PeerAnswers {
  readonly #answers = new Map<string, Answer>();
  readonly #now: () => number;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /**
   * A hello: what was said in it counts until its session has ended. One of another group of the same name is no answer.
   */
  begun(
    peer: string,
    session: object,
    ours: Pick<Hello, "groupId">,
    theirs: Pick<Hello, "groupId" | "epoch" | "epochSeen">,
    refused: boolean,
  ): void {
    if (theirs.groupId !== "" && theirs.groupId !== ours.groupId) return;
    const said = theirs.epochSeen > theirs.epoch ? theirs.epochSeen : theirs.epoch;
    const answer = this.#answers.get(peer) ?? { highestEpoch: 0n, validUntil: 0, sessions: new Set() };
    // What it once knew is known, also when it has forgotten it (a disk that was replaced).
    if (said > answer.highestEpoch) answer.highestEpoch = said;
    if (refused) answer.validUntil = this.#now() + refusedMs;
    answer.sessions.add(session);
    this.#answers.set(peer, answer);
  }

  ended(peer: string, session: object): void {
    this.#answers.get(peer)?.sessions.delete(session);
  }

  /** The highest epoch that anybody ever spoke of in this run. */
  get highest(): bigint {
    return [...this.#answers.values()].reduce(
      (most, { highestEpoch }) => (highestEpoch > most ? highestEpoch : most),
      0n,
    );
  }

  /** The highest epoch that it knows, for a node in `epoch`; undefined while it is not there to say so. */
  highestEpoch(peer: string, epoch: bigint): bigint | undefined {
    const answer = this.#answers.get(peer);
    if (answer === undefined) return undefined;
    const valid = answer.highestEpoch > epoch || answer.sessions.size > 0 || this.#now() < answer.validUntil;
    return valid ? answer.highestEpoch : undefined;
  }
}
