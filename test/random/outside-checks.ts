import type { Begun, Contact } from "./node-record.ts";

/** Somebody has said that a primary that cannot be reached counts no more. Wall clock, ms. */
export interface Permission {
  readonly from: number;
  readonly node: string;
}

/** Epochs in which more than one node has taken cuts or begun to reign, with these nodes. */
export function epochsOfTwo(
  records: readonly { readonly node: string; readonly epochs: Iterable<number> }[],
): string[] {
  const holders = new Map<number, string[]>();
  for (const { node, epochs } of records)
    for (const epoch of epochs) holders.set(epoch, [...(holders.get(epoch) ?? []), node]);
  return [...holders].filter(([, nodes]) => nodes.length > 1).map(([epoch, nodes]) => `${epoch}: ${nodes.join(", ")}`);
}

export interface Interval {
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
 * Where two services ran beside each other although nobody had said that a primary that cannot be reached counts no more:
 * since the reign of the one and up to that of the other, or in what led to either since they part.
 */
export function overlaps(
  intervals: readonly Interval[],
  permissions: readonly Permission[],
  begun: readonly Begun[],
): string[] {
  const byStart = intervals.toSorted((a, b) => a.from - b.from);
  const reasons = new Map(begun.map((one) => [one.epoch, one]));
  /** Whether a person's promotion began the reign: by the node's own record, or where that was cut off, by the order of things. */
  const permitted = (interval: Interval): boolean => {
    const known = reasons.get(interval.epoch);
    if (known !== undefined && !known.promoted) return false;
    return permissions.some(
      ({ node, from }) =>
        node === interval.node &&
        from <= interval.from &&
        (known !== undefined ||
          !byStart.some((between) => between.node === node && between.from > from && between.from < interval.from)),
    );
  };
  const permittedEpochs = byStart.filter(permitted).map(({ epoch }) => epoch);
  const waysPart = (one: number, other: number): number[] => {
    const [way, otherWay] = [wayTo(reasons, one), wayTo(reasons, other)];
    const own = way.filter((epoch) => !otherWay.includes(epoch));
    // A record that was cut off tells nothing of where they part.
    return own.length === way.length ? [] : [...own, ...otherWay.filter((epoch) => !way.includes(epoch))];
  };
  const found: string[] = [];
  for (const [index, one] of byStart.entries()) {
    for (const other of byStart.slice(index + 1)) {
      if (other.node === one.node || other.from >= one.to) continue;
      const [earlier, later] = one.epoch < other.epoch ? [one.epoch, other.epoch] : [other.epoch, one.epoch];
      // Who was promoted may have handed over since to somebody who has not met the former one, either.
      const since = waysPart(earlier, later);
      if (!permittedEpochs.some((epoch) => (epoch > earlier && epoch <= later) || since.includes(epoch)))
        found.push(
          `${one.node} (epoch ${one.epoch}) until ${timeText(one.to)}, ${other.node} (epoch ${other.epoch}) from ${timeText(other.from)}`,
        );
    }
  }
  return found;
}

/** The reigns that led to this one, itself first. */
function wayTo(reigns: ReadonlyMap<number, Begun>, epoch: number): number[] {
  const before = reigns.get(epoch)?.from?.epoch;
  return before === undefined ? [epoch] : [epoch, ...wayTo(reigns, before)];
}

/** From when to when a service ran on after its node had met the primary of a higher epoch. Wall clock, ms. */
export function runOn(
  intervals: readonly Interval[],
  contacts: readonly Contact[],
  fenced: readonly { readonly node: string; readonly at: number }[],
): { readonly node: string; readonly from: number; readonly to: number }[] {
  return intervals.flatMap(({ node, epoch, from, to }) => {
    const within = (at: number): boolean => from <= at && at < to;
    const reigns = (peer: string, at: number): boolean =>
      intervals.some((one) => one.node === peer && one.epoch > epoch && one.from <= at && at < one.to);
    const met = contacts
      .flatMap((contact) => {
        if (contact.node === node) return reigns(contact.peer, contact.at) ? [contact.at] : [];
        return contact.peer === node && reigns(contact.node, contact.at) ? [contact.at] : [];
      })
      .concat(fenced.flatMap((one) => (one.node === node ? [one.at] : [])))
      .filter(within);
    return met.length === 0 ? [] : [{ node, from: Math.min(...met), to }];
  });
}

export function timeText(at: number): string {
  return Number.isFinite(at) ? new Date(at).toISOString() : "now";
}
