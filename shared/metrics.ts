import { monitorEventLoopDelay } from "node:perf_hooks";
import { Counter, Gauge, Histogram, Registry } from "prom-client";

/**
 * What an agent counts and measures, in Prometheus' text form; `deploy/docs/metrics.md` is the reference. Gauges that
 * describe a state are set by whoever knows it, just before they are read (`onCollect`).
 */
export interface Metrics {
  readonly lagSeconds: Gauge<"group" | "peer">;
  readonly lagBytes: Gauge<"group" | "peer">;
  readonly lagCuts: Gauge<"group" | "peer">;
  readonly cuts: Counter<"group">;
  readonly shippedBytes: Counter<"group" | "peer">;
  readonly receivedBytes: Counter<"group" | "peer">;
  readonly applySeconds: Histogram<"group">;
  readonly freezeMilliseconds: Histogram<"group">;
  readonly historyBytes: Gauge<"group">;
  /** Forks that are kept on this node. */
  readonly forks: Gauge<"group">;
  /** 1 while this node could be promoted without accepting anything. */
  readonly promotable: Gauge<"group">;
  /** 1 while a promised RPO towards this replica is broken. */
  readonly rpoBroken: Gauge<"group" | "peer">;
  /** 1 while the group's service may run on this node. */
  readonly inService: Gauge<"group">;
  /** 1 while a person holds that back on this node. */
  readonly paused: Gauge<"group" | "what">;
  /** 1 while fewer replicas acknowledge in time than the group's durability asks for. */
  readonly durabilityDegraded: Gauge<"group">;
  readonly writerWait: Gauge<"group" | "store" | "quantile">;
  readonly storeCounts: Counter<"group" | "store" | "count">;
  /** Called before each reading. */
  onCollect(update: () => void): void;
  /** The whole exposition. */
  text(): Promise<string>;
  readonly contentType: string;
  [Symbol.dispose](): void;
}

const resolutionMs = 10;

/** A registry of its own for each agent, so that two in one process (a test) do not count together. */
export function createMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  const updates: (() => void)[] = [];
  const gauge = <Label extends string>(name: string, help: string, labelNames: Label[]) =>
    new Gauge<Label>({ name: `understudy_${name}`, help, labelNames, registers });
  const counter = <Label extends string>(name: string, help: string, labelNames: Label[]) =>
    new Counter<Label>({ name: `understudy_${name}`, help, labelNames, registers });

  const delay = monitorEventLoopDelay({ resolution: resolutionMs });
  delay.enable();
  const eventLoopDelay = gauge(
    "event_loop_delay_seconds",
    "How late the agent's main thread was since the last reading",
    ["quantile"],
  );

  return {
    lagSeconds: gauge("replication_lag_seconds", "Age of the oldest change that is not durable on the replica", [
      "group",
      "peer",
    ]),
    lagBytes: gauge("replication_lag_bytes", "Bytes that are not yet durable on the replica", ["group", "peer"]),
    lagCuts: gauge("replication_lag_cuts", "Cuts that are not yet durable on the replica", ["group", "peer"]),
    cuts: counter("cuts_total", "Cuts taken by this node as primary", ["group"]),
    shippedBytes: counter("shipped_bytes_total", "Bytes put on the wire to a replica", ["group", "peer"]),
    receivedBytes: counter("received_bytes_total", "Bytes taken from the wire of a primary", ["group", "peer"]),
    applySeconds: new Histogram({
      name: "understudy_apply_seconds",
      help: "Time to apply a batch of committed cuts to the copy",
      labelNames: ["group"],
      buckets: [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60],
      registers,
    }),
    freezeMilliseconds: new Histogram({
      name: "understudy_freeze_milliseconds",
      help: "Time for which the application was frozen for a cut",
      labelNames: ["group"],
      buckets: [1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10_000, 30_000],
      registers,
    }),
    historyBytes: gauge("history_bytes", "Bytes kept on this node to step back", ["group"]),
    forks: gauge("forks", "Forks that are kept on this node", ["group"]),
    promotable: gauge("group_promotable", "1 while this node could be promoted without accepting anything", ["group"]),
    rpoBroken: gauge("group_rpo_broken", "1 while the promised RPO towards the replica is broken", ["group", "peer"]),
    inService: gauge("group_in_service", "1 while the group's service may run on this node", ["group"]),
    paused: gauge("group_paused", "1 while a person holds back shipping or failover on this node", ["group", "what"]),
    durabilityDegraded: gauge(
      "durability_degraded",
      "1 while fewer replicas acknowledge in time than the group's durability asks for",
      ["group"],
    ),
    writerWait: gauge(
      "store_writer_wait_seconds",
      "How long writers of the store were shut out, the last hundred times",
      ["group", "store", "quantile"],
    ),
    storeCounts: counter("store_counts_total", "What following the store has counted", ["group", "store", "count"]),
    onCollect: (update) => {
      updates.push(update);
    },
    async text() {
      for (const update of updates) update();
      for (const [quantile, seconds] of lateness(delay)) eventLoopDelay.set({ quantile }, seconds);
      delay.reset();
      return await registry.metrics();
    },
    contentType: registry.contentType,
    [Symbol.dispose]() {
      delay.disable();
      registry.clear();
    },
  };
}

/** The histogram counts the whole period between two of its ticks: only what goes beyond that was late. */
function lateness(delay: ReturnType<typeof monitorEventLoopDelay>): [quantile: string, seconds: number][] {
  const seconds = (nanoseconds: number) => Math.max(0, nanoseconds / 1e9 - resolutionMs / 1e3);
  if (delay.count === 0) return [];
  return [
    ["0.5", seconds(delay.percentile(50))],
    ["0.99", seconds(delay.percentile(99))],
    ["1", seconds(delay.max)],
  ];
}
