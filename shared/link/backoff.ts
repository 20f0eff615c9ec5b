const firstMs = 250;
const capMsDefault = 30_000;

/**
 * How long to wait before trying again, after `attempt` failures in a row (0 for the first). Doubles up to `capMs`, 30 s;
 * half of it by chance, so that two nodes, or all groups of one, do not knock at the same instants for ever.
 * @param random from [0, 1)
 */
export function backoffDelayMs(attempt: number, random: number, capMs = capMsDefault): number {
  const full = Math.min(capMs, firstMs * 2 ** Math.min(attempt, 16));
  return Math.round(full / 2 + (full / 2) * random);
}
