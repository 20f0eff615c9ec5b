import { exitCodes, UnderstudyError } from "../../shared/errors.ts";
import { within } from "../../shared/within.ts";
import type { CutId } from "../../shared/words.ts";
import { cutRef, type WaitAnswer, type WaitOptions } from "../control/api.ts";
import type { Reign } from "./reign.ts";
import { ShippingPaused } from "./reign-errors.ts";

/** What was written did not become durable on the replicas in time. It may still do so. */
class WaitTimedOut extends UnderstudyError {
  readonly code = "WAIT_TIMED_OUT";
  readonly remedy = "retry";
  readonly state = "If the cut was taken, it is shipped as soon as it can be.";
  readonly hint = "See `understudy status` for what the replicas do.";
  override readonly exitCode = exitCodes.timedOut;
}

/** More replicas are asked for than there are, or one that there is not. */
class NoSuchReplicas extends UnderstudyError {
  readonly code = "NO_SUCH_REPLICAS";
  readonly remedy = "stop";
  readonly state = "Nothing was waited for.";
  readonly hint = "`understudy status` shows the replicas of the group.";
  override readonly exitCode = exitCodes.usage;
}

/**
 * Takes a cut of everything that was written before the call, and waits until it is durable: on the replicas that are named
 * or counted, else on as many as the group's durability says. Only the latter is let go without, when that is degraded.
 *
 * @param all the group's replicas
 */
export async function waitDurable(
  reign: Reign,
  all: readonly string[],
  options: WaitOptions,
  caller: AbortSignal | undefined,
): Promise<WaitAnswer> {
  const begun = performance.now();
  const replicas = options.replicas.length > 0 ? options.replicas : all;
  const stranger = replicas.find((name) => !all.includes(name));
  if (stranger !== undefined) throw new NoSuchReplicas(`${stranger} is no replica of this group`);
  if ((options.count ?? 0) > replicas.length)
    throw new NoSuchReplicas(`${options.count} replicas are asked for, and there are ${replicas.join(", ")}`);
  const semiSync = options.replicas.length > 0 || options.count !== undefined ? undefined : reign.semiSync;
  const count = options.count ?? semiSync?.settings.replicas ?? replicas.length;

  const limit = AbortSignal.timeout(options.timeoutMs);
  const ended = new AbortController();
  const either = AbortSignal.any([limit, ended.signal, ...(caller === undefined ? [] : [caller])]);
  try {
    using _asked = semiSync?.ask();
    const taken = await within(reign.requestCut(), either);
    const degraded = semiSync?.untilDegraded(either).then(() => undefined);
    degraded?.catch(() => undefined);
    const durable = reign.durableAt(taken.cut, replicas, either, count).catch((error: unknown) => {
      // That a person holds shipping back is one more way of not answering.
      if (degraded === undefined || !(error instanceof ShippingPaused)) throw error;
      return degraded;
    });
    const have = await within(degraded === undefined ? durable : Promise.race([durable, degraded]), either);
    return {
      cut: cutRef(taken.cut),
      replicas: cutRefs(have ?? reign.durableOn(replicas)),
      degraded: have === undefined,
      seconds: (performance.now() - begun) / 1000,
    };
  } catch (error) {
    if (limit.aborted) {
      const whom = count === replicas.length ? replicas.join(", ") : `${count} of ${replicas.join(", ")}`;
      throw new WaitTimedOut(`not durable on ${whom} within ${options.timeoutMs} ms`, { cause: error });
    }
    throw error;
  } finally {
    ended.abort(new Error("the wait has ended"));
  }
}

function cutRefs(cuts: ReadonlyMap<string, CutId>): WaitAnswer["replicas"] {
  return Object.fromEntries([...cuts].map(([replica, cut]) => [replica, cutRef(cut)]));
}
