import { getEventListeners } from "node:events";
import { expect } from "chai";
import { waitAtMost, within } from "../../shared/within.ts";

describe("a wait", () => {
  const never = new Promise<never>(() => {});
  const failure = (promise: Promise<unknown>): Promise<unknown> => promise.then(() => undefined, String);

  it("within a signal ends with what it waits for, or with the signal's reason, also of one that was aborted before", async () => {
    const { signal } = new AbortController();
    expect(await within(Promise.resolve(7), signal)).to.equal(7);
    expect(await failure(within(Promise.reject(new Error("lost")), signal))).to.equal("Error: lost");
    expect(getEventListeners(signal, "abort")).to.have.length(0);
    const limit = new AbortController();
    const waiting = failure(within(never, limit.signal));
    limit.abort(new Error("late"));
    expect(await waiting).to.equal("Error: late");
    expect(await failure(within(never, limit.signal))).to.equal("Error: late");
    // What is rejected later is nobody's, and ends no process.
    expect(await failure(within(Promise.reject(new Error("lost")), limit.signal))).to.equal("Error: late");
  });

  it("of a time at most ends with what it waits for, or with the time", async () => {
    await waitAtMost(never, 1);
    await waitAtMost(Promise.resolve(), 1 << 30);
    expect(await failure(waitAtMost(Promise.reject(new Error("lost")), 1 << 30))).to.equal("Error: lost");
  });
});
