import { join } from "node:path";
import { z } from "zod";
import { readJsonFile, replaceFile } from "../../shared/durable/durable-files.ts";
import type { Log } from "../../shared/log.ts";

const times = z.object({ stopMs: z.number().nullable(), startMs: z.number().nullable() });

/** How long the service took to stop and to start here when it last did: what the next pause is estimated from. */
export type KnownTimes = Readonly<z.output<typeof times>>;

const none: KnownTimes = { stopMs: null, startMs: null };

/** Kept over restarts, since days lie between two switchovers. That it cannot be kept spoils an estimate, and nothing else. */
export class SwitchoverTimes {
  readonly #path: string;
  readonly #log: Log;
  #known: KnownTimes = none;

  constructor(directory: string, log: Log) {
    this.#path = join(directory, "service-times.json");
    this.#log = log;
  }

  get known(): KnownTimes {
    return this.#known;
  }

  async load(): Promise<void> {
    try {
      this.#known = (await readJsonFile(this.#path, (value) => times.parse(value))) ?? none;
    } catch (error) {
      this.#log.warn("service_times.unread", { error });
    }
  }

  async note(change: Partial<KnownTimes>): Promise<void> {
    this.#known = { ...this.#known, ...change };
    try {
      await replaceFile(this.#path, `${JSON.stringify(this.#known)}\n`);
    } catch (error) {
      this.#log.warn("service_times.unwritten", { error });
    }
  }
}
