import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { z } from "zod";
import { readJsonFile, replaceJsonFile } from "../../shared/durable/durable-files.ts";
import type { Log } from "../../shared/log.ts";
import { epochFault } from "../../shared/session/epochs.ts";

const schema = z.object({ epoch: z.int().nonnegative() });

/**
 * The highest epoch that this node has known as far as its catalog may have forgotten: a state directory that was lost or
 * restored says nothing of the reigns that this node began since, but what was told to scripts beside the copy does. No two reigns
 * may have one number, so its own next one is above that; nothing else follows from it.
 */
export class FormerEpoch {
  readonly #path: string;
  readonly #log: Log;
  #known = 0n;

  constructor(path: string, log: Log) {
    this.#path = path;
    this.#log = log;
  }

  /** At the start, before anything is told to scripts anew. `told`: what they were told last. */
  async load(told: bigint): Promise<void> {
    try {
      const noted = BigInt((await readJsonFile(this.#path, (value) => schema.parse(value)))?.epoch ?? 0);
      this.#known = noted > told ? noted : told;
      if (this.#known <= noted) return;
      await mkdir(dirname(this.#path), { recursive: true, mode: 0o700 });
      await replaceJsonFile(this.#path, { epoch: Number(this.#known) });
    } catch (error) {
      // In this run it is known all the same.
      if (told > this.#known) this.#known = told;
      this.#log.warn("former_epoch.unwritten", { error });
    }
  }

  /** What a new reign has to be above, for a node that knows `standing`; never a number that cannot be. */
  above(heard: bigint, standing: bigint): bigint {
    const believed = epochFault(this.#known, standing) === "" ? this.#known : 0n;
    return believed > heard ? believed : heard;
  }
}
