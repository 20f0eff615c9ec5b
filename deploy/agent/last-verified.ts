import { z } from "zod";
import { readJsonFile, replaceJsonFile } from "../../shared/durable/durable-files.ts";
import type { Log } from "../../shared/log.ts";
import type { Verified } from "../control/api.ts";

const schema = z.object({ at: z.iso.datetime(), ok: z.boolean() });

/** When every file of this node's copy was read and compared last, over restarts. */
export class LastVerified {
  readonly #path: string;
  readonly #log: Log;
  #verified: Verified | null = null;

  constructor(path: string, log: Log) {
    this.#path = path;
    this.#log = log;
  }

  get verified(): Verified | null {
    return this.#verified;
  }

  async load(): Promise<void> {
    try {
      this.#verified = (await readJsonFile(this.#path, (value) => schema.parse(value))) ?? null;
    } catch (error) {
      // Nothing is decided by it: it is verified again, or not.
      this.#log.warn("verified.unknown", { error });
    }
  }

  async note(ok: boolean): Promise<void> {
    this.#verified = { at: new Date().toISOString(), ok };
    try {
      await replaceJsonFile(this.#path, this.#verified);
    } catch (error) {
      this.#log.warn("verified.unwritten", { error });
    }
  }
}
