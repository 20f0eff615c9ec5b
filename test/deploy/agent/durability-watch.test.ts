import { setImmediate as nextTurn } from "node:timers/promises";
import { expect } from "chai";
import { DurabilityWatch } from "../../../deploy/agent/durability-watch.ts";
import { createLog } from "../../../shared/log.ts";
import { type CutId, epoch, seq } from "../../../shared/words.ts";
import { until } from "../../end-to-end/harness.ts";

const deadlineMs = 20_000;
const cut = (number: number): CutId => ({ epoch: epoch(1), seq: seq(number) });

/** Time passes as it is told: what would come of its own after a while does by `look`, and what is tried again at once. */
function watched() {
  const announced: { event: string; done: PromiseWithResolvers<void> }[] = [];
  const world = { nowMs: 0, durable: [cut(1)] as CutId[] };
  const semiSync = new DurabilityWatch({
    settings: { replicas: 1, timeoutMs: 2000 },
    log: createLog("error", { write: () => {} }),
    announce: (event) => {
      const done = Promise.withResolvers<void>();
      announced.push({ event, done });
      return done.promise;
    },
    durable: () => world.durable,
    nowMs: () => world.nowMs,
    announceAgainMs: 1,
  });
  const at = (nowMs: number): void => {
    world.nowMs = nowMs;
    semiSync.look();
  };
  const released = { value: false };
  const aborting = new AbortController();
  semiSync.untilDegraded(aborting.signal).then(
    () => {
      released.value = true;
    },
    () => undefined,
  );
  const end = (): void => {
    semiSync.stop();
    aborting.abort();
  };
  return { announced, world, semiSync, at, released, end };
}

describe("the watch over semi-synchronous durability", () => {
  it("lets nobody go before the degradation is durable, and announces its end", async () => {
    const { announced, world, semiSync, at, released, end } = watched();
    semiSync.taken(cut(2), 0);
    at(1999);
    expect(announced).to.have.length(0);
    at(2000);
    expect(announced.map(({ event }) => event)).to.deep.equal(["durability.degraded"]);
    await nextTurn();
    expect(semiSync.degradedSince, "not yet").to.equal(undefined);
    expect(released.value, "nobody was let go").to.equal(false);
    announced[0]!.done.resolve();
    await until(() => released.value, deadlineMs, "who waits is let go");
    expect(semiSync.degradedSince).to.be.a("string");

    world.durable = [cut(2)];
    at(3000);
    expect(announced.at(-1)?.event).to.equal("durability.restored");
    announced[1]!.done.resolve();
    await until(() => semiSync.degradedSince === undefined, deadlineMs, "it has ended");
    end();
  });

  it("lets nobody go while the degradation cannot be written down, and tries again", async () => {
    const { announced, semiSync, at, released, end } = watched();
    semiSync.taken(cut(2), 0);
    at(2000);
    announced[0]!.done.reject(new Error("no room"));
    await until(() => announced.length === 2, deadlineMs, "it is tried again");
    expect(released.value).to.equal(false);
    expect(semiSync.degradedSince).to.equal(undefined);
    announced[1]!.done.resolve();
    await until(() => released.value, deadlineMs, "who waits is let go");
    end();
  });

  it("counts from the question, where no cut comes, and forgets it with its answer", async () => {
    const { announced, semiSync, world, at, end } = watched();
    world.nowMs = 100;
    const asked = semiSync.ask();
    at(2099);
    expect(announced).to.have.length(0);
    asked[Symbol.dispose]();
    at(5000);
    expect(announced).to.have.length(0);
    using _again = semiSync.ask();
    at(7000);
    expect(announced).to.have.length(1);
    end();
  });
});
