import { setTimeout as sleep } from "node:timers/promises";

/** Waits for what a look finds, with a deadline that a broken program meets and a slow machine does not. */
export async function until<T>(
  look: () => T | undefined | false | Promise<T | undefined | false>,
  what: string | (() => string),
  deadlineMs = 90_000,
  pauseMs = 5,
): Promise<T> {
  for (const end = performance.now() + deadlineMs; ; await sleep(pauseMs)) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > end)
      throw new Error(`not within ${deadlineMs} ms: ${typeof what === "string" ? what : what()}`);
  }
}
