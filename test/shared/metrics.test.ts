import { setTimeout as delay } from "node:timers/promises";
import { expect } from "chai";
import { createMetrics } from "../../shared/metrics.ts";

describe("metrics", () => {
  it("have the names and units of the reference, and are updated as they are read", async () => {
    using metrics = createMetrics();
    metrics.cuts.inc({ group: "app" });
    metrics.shippedBytes.inc({ group: "app", peer: "bravo" }, 100);
    metrics.receivedBytes.inc({ group: "app", peer: "alpha" }, 100);
    metrics.applySeconds.observe({ group: "app" }, 0.02);
    metrics.freezeMilliseconds.observe({ group: "app" }, 12);
    let lag = 1.5;
    metrics.onCollect(() => {
      for (const gauge of [metrics.lagSeconds, metrics.lagBytes, metrics.lagCuts, metrics.rpoBroken]) {
        gauge.set({ group: "app", peer: "bravo" }, lag);
      }
      metrics.historyBytes.set({ group: "app" }, 1);
      metrics.promotable.set({ group: "app" }, 1);
    });
    const text = await metrics.text();
    for (const line of [
      'understudy_replication_lag_seconds{group="app",peer="bravo"} 1.5',
      'understudy_replication_lag_bytes{group="app",peer="bravo"} 1.5',
      'understudy_replication_lag_cuts{group="app",peer="bravo"} 1.5',
      'understudy_cuts_total{group="app"} 1',
      'understudy_shipped_bytes_total{group="app",peer="bravo"} 100',
      'understudy_received_bytes_total{group="app",peer="alpha"} 100',
      'understudy_apply_seconds_count{group="app"} 1',
      'understudy_freeze_milliseconds_sum{group="app"} 12',
      'understudy_history_bytes{group="app"} 1',
      'understudy_group_promotable{group="app"} 1',
      'understudy_group_rpo_broken{group="app",peer="bravo"} 1.5',
    ]) {
      expect(text).to.include(`${line}\n`);
    }
    lag = 2;
    expect(await metrics.text()).to.include('understudy_replication_lag_seconds{group="app",peer="bravo"} 2\n');
  });

  it("measure how late the event loop was, anew for each reading", async () => {
    using metrics = createMetrics();
    const late = (text: string) => Number(/delay_seconds\{quantile="1"\} (\S+)/.exec(text)?.[1]);
    const deadline = performance.now() + 5000;
    let measured = 0;
    // The measuring timer needs a tick before and one after the block; when they come is its own affair.
    while (!(measured > 0.04) && performance.now() < deadline) {
      await delay(20);
      const until = performance.now() + 80;
      while (performance.now() < until) Math.random();
      await delay(20);
      measured = late(await metrics.text());
    }
    expect(measured).to.be.within(0.04, 10);
  });

  it("of two agents are counted apart", async () => {
    using one = createMetrics();
    using other = createMetrics();
    one.cuts.inc({ group: "app" });
    expect(await other.text()).to.not.include('cuts_total{group="app"}');
  });
});
