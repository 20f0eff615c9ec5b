import { z } from "zod";

const scrubState = z.object({
  begunAt: z.iso.datetime(),
  finishedAt: z.iso.datetime().nullable(),
  after: z.number(),
  files: z.number(),
  bytes: z.number(),
  differing: z.number(),
  unreadable: z.number(),
});

/** How far the scrub of one store is, or how its last one ended. */
export type ScrubState = Readonly<z.output<typeof scrubState>>;

export function decodeScrubState(value: unknown): Record<string, ScrubState> {
  return z.record(z.string(), scrubState).parse(value);
}
