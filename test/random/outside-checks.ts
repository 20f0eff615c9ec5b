import type { LogLine } from "../end-to-end/harness.ts";

/** Somebody has said that a primary that cannot be reached counts no more. Wall clock, ms. */
export interface Permission {
  readonly from: number;
  readonly node: string;
}

/** Epochs of which more than one node has taken cuts, with these nodes. */
export function epochsOf(logs: readonly (readonly [string, readonly LogLine[]])[]): string[] {
  const takers = new Map<number, Set<string>>();
  for (const [node, lines] of logs) {
    for (const line of lines) {
      if (line.event !== "cut.taken") continue;
      const epoch = Number(line.epoch);
      const nodes = takers.get(epoch) ?? new Set();
      takers.set(epoch, nodes.add(node));
    }
  }
  return [...takers]
    .filter(([, nodes]) => nodes.size > 1)
    .map(([epoch, nodes]) => `${epoch}: ${[...nodes].join(", ")}`);
}

interface Interval {
  readonly node: string;
  readonly epoch: number;
  readonly from: number;
  to: number;
}

/** From before a service could run to after it could not, by the hooks' own record. Wall clock, ms. */
export function intervalsOf(outside: string): Interval[] {
  const intervals: Interval[] = [];
  const running = new Map<string, Interval>();
  for (const line of outside.split("\n").filter((text) => text !== "")) {
    const [what, node = "", nanoseconds = "0", epoch = "0"] = line.split(" ");
    const at = Number(BigInt(nanoseconds) / 1000n) / 1000;
    if (what === "start" && !running.has(node)) {
      const interval = { node, epoch: Number(epoch), from: at, to: Number.POSITIVE_INFINITY };
      running.set(node, interval);
      intervals.push(interval);
    } else if (what === "stop") {
      const interval = running.get(node);
      if (interval !== undefined) interval.to = at;
      running.delete(node);
    }
  }
  return intervals;
}

/**
 * Where two services ran beside each other although nobody had said, at the promotion of the one whose reign is the later one, that the
 * other's node counts no more.
 */
export function overlaps(outside: string, permissions: readonly Permission[]): string[] {
  const intervals = intervalsOf(outside).toSorted((a, b) => a.from - b.from);
  const permitted = (later: Interval): boolean =>
    permissions.some(
      ({ node, from }) =>
        node === later.node &&
        from <= later.from &&
        !intervals.some((between) => between.node === node && between.from > from && between.from < later.from),
    );
  const found: string[] = [];
  for (const [index, one] of intervals.entries()) {
    for (const other of intervals.slice(index + 1)) {
      if (other.node === one.node || other.from >= one.to) continue;
      if (!permitted(one.epoch > other.epoch ? one : other))
        found.push(
          `${one.node} (epoch ${one.epoch}) until ${iso(one.to)}, ${other.node} (epoch ${other.epoch}) from ${iso(other.from)}`,
        );
    }
  }
  return found;
}

/** How long each service ran on after its node had met a higher epoch, ms. */
export function stoppedAfter(outside: string, logs: readonly (readonly [string, readonly LogLine[]])[]): number[] {
  const intervals = intervalsOf(outside);
  return logs.flatMap(([node, lines]) =>
    lines
      .filter(({ event }) => event === "primary.fenced")
      .flatMap(({ time }) => {
        const at = Date.parse(time);
        const running = intervals.find((interval) => interval.node === node && interval.from <= at && interval.to > at);
        return running === undefined ? [] : [running.to - at];
      }),
  );
}

function iso(at: number): string {
  return Number.isFinite(at) ? new Date(at).toISOString() : "now";
}
