/** What a person holds back in a group on a node, durably, until the same or another person lets it go on. */
export interface Paused {
  /** No cut leaves this primary. */
  readonly shipping: boolean;
  /** No engine promotes this node. */
  readonly failover: boolean;
  /** Who said so last: the user of the operating system. */
  readonly by: string;
  /** When, as ISO 8601 in UTC. */
  readonly since: string;
}

export interface PauseParts {
  readonly shipping: boolean;
  readonly failover: boolean;
}

/** What is paused after more was: who added to it answers for all of it. */
export function pausing(before: Paused | undefined, parts: PauseParts, by: string, since: string): Paused | undefined {
  const shipping = parts.shipping || before?.shipping === true;
  const failover = parts.failover || before?.failover === true;
  if (before !== undefined && shipping === before.shipping && failover === before.failover) return before;
  return shipping || failover ? { shipping, failover, by, since } : undefined;
}

/** What is paused still after some of it was let go on. */
export function resuming(before: Paused | undefined, parts: PauseParts): Paused | undefined {
  if (before === undefined) return undefined;
  const shipping = before.shipping && !parts.shipping;
  const failover = before.failover && !parts.failover;
  return shipping || failover ? { ...before, shipping, failover } : undefined;
}

/** The parts by name, for people. */
export function pausedText({ shipping, failover }: PauseParts): string {
  return [...(shipping ? ["shipping"] : []), ...(failover ? ["automatic failover"] : [])].join(" and ");
}
