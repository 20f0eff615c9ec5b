import { setFlagsFromString } from "node:v8";

/**
 * Payload passes through the agent's threads outside the collector's heap, but is counted: for each 64 MiB of it V8
 * would collect the whole heap, which here is small and lives for ever. Half a gigabyte sent was 36 full collections of
 * 10 to 25 ms on the main thread, a quarter of all its work. With these flags it is two, and what was sent is freed by
 * the collections of the young generation, which is kept small for that (see the launcher). A V8 that does not know
 * them says so and goes on.
 */
export function tuneCollector(): void {
  setFlagsFromString("--external-memory-accounted-in-global-limit");
  setFlagsFromString("--heap-growing-percent=100");
}
