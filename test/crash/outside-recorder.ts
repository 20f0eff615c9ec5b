import { setTimeout as sleep } from "node:timers/promises";
import { cutRefText } from "../../deploy/control/api.ts";
import type { CutRef } from "../../deploy/control/json-names.ts";
import type { Confirmations } from "../../deploy/demo/application/confirmations.ts";
import type { Cluster } from "../end-to-end/harness.ts";

/** What must never be lost from now on. */
export interface Promised {
  /** The newest cut that anybody called durable on the replica. */
  readonly durable: CutRef;
  /** The application's commits and steps that were confirmed before a `wait` began that returned. */
  readonly commits: number;
  readonly steps: number;
}

export class PromiseBroken extends Error {
  override readonly name = "PROMISE_BROKEN";
}

/**
 * Somebody who stands outside and keeps the agents' word: it knows only what `status` and `wait` answered and what the
 * application confirmed, and remembers the most that it was ever promised. While it looks it already sees whether the
 * durable cut of the replica goes back.
 */
export class OutsideRecorder implements AsyncDisposable {
  readonly #cluster: Cluster;
  readonly #confirmations: Confirmations;
  readonly #stopping = new AbortController();
  readonly #loops: readonly Promise<void>[];
  #durable: CutRef = { epoch: 0, seq: 0 };
  #commits = 0;
  #steps = 0;
  #failure: Error | undefined;
  waits = 0;
  looks = 0;

  constructor(cluster: Cluster, confirmations: Confirmations) {
    this.#cluster = cluster;
    this.#confirmations = confirmations;
    this.#loops = [this.#repeat(35, async () => await this.#look()), this.#repeat(50, async () => await this.#wait())];
  }

  /** @throws what was seen to be broken already */
  promised(): Promised {
    if (this.#failure !== undefined) throw this.#failure;
    return { durable: this.#durable, commits: this.#commits, steps: this.#steps };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await Promise.all(this.#loops);
  }

  async #repeat(pauseMs: number, action: () => Promise<void>): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      try {
        await action();
      } catch (error) {
        // An agent that is killed in the middle of an answer has promised nothing by it.
        if (!isSilence(error)) this.#failure ??= error instanceof Error ? error : new Error(String(error));
      }
      await sleep(pauseMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #look(): Promise<void> {
    const [alpha, bravo] = [this.#cluster.node("alpha"), this.#cluster.node("bravo")];
    // Remembered before it is asked: what is promised while the answer is under way is compared next time.
    const before = this.#durable;
    const own = (await bravo.group())?.cut;
    if (own !== null && own !== undefined) {
      if (precedes(own, before))
        throw new PromiseBroken(`the replica has cut ${cutRefText(own)} durable, it had ${cutRefText(before)}`);
      this.#remember(own);
    }
    const acknowledged = (await alpha.group())?.peers.bravo?.durable;
    if (acknowledged !== null && acknowledged !== undefined) this.#remember(acknowledged);
    this.looks++;
  }

  async #wait(): Promise<void> {
    const { commits, steps } = this.#confirmations;
    const [commit, step] = [commits.last, steps.last];
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(5000)]);
    const { cut } = await this.#cluster.node("alpha").control.wait("app", { timeoutMs: 5000, replicas: [] }, signal);
    this.#remember(cut);
    this.#commits = Math.max(this.#commits, commit);
    this.#steps = Math.max(this.#steps, step);
    this.waits++;
  }

  #remember(cut: CutRef): void {
    if (precedes(this.#durable, cut)) this.#durable = { epoch: cut.epoch, seq: cut.seq };
  }
}

export function precedes(a: CutRef, b: CutRef): boolean {
  return a.epoch < b.epoch || (a.epoch === b.epoch && a.seq < b.seq);
}

const silences = new Set(["AGENT_NOT_RUNNING", "CONTROL_BROKEN", "CONTROL_TIMED_OUT", "AbortError", "TimeoutError"]);

/** It died, it is not up yet, it took too long, or it is not primary yet: no answer, so no promise. */
function isSilence(error: unknown): boolean {
  return (
    error instanceof Error &&
    (silences.has(error.name) || error.name === "WAIT_TIMED_OUT" || error.name === "WRONG_ROLE")
  );
}
