import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";

const beatMs = 50;
/** A little late is whoever shares a machine. */
const lateMsMin = 50;
/** Where more than so many want each processor, nobody can keep to a time. */
const crowdMax = 4;

interface Beat {
  readonly from: number;
  readonly to: number;
  /** How much of it counts: 0 while this process stood still, less than 1 while the machine was crowded. */
  readonly counts: number;
}

/** What of the time can be judged: this process shares its machine with all that it measures, and with others. */
export class Metronome implements Disposable {
  readonly #beats: Beat[] = [];
  #timer: NodeJS.Timeout;
  #last = Date.now();

  constructor() {
    this.#timer = setTimeout(() => this.#beat(), beatMs);
  }

  #beat(): void {
    const now = Date.now();
    const dueAt = this.#last + beatMs;
    const late = now - dueAt > lateMsMin;
    this.#beats.push({ from: this.#last, to: late ? dueAt : now, counts: Math.min(1, crowdMax / crowd()) });
    if (late) this.#beats.push({ from: dueAt, to: now, counts: 0 });
    this.#last = now;
    this.#timer = setTimeout(() => this.#beat(), beatMs);
  }

  /** How much of that time was one in which the machine ran, ms. */
  judged(from: number, to: number): number {
    const uncounted = this.#beats.reduce((sum, beat) => {
      const within = Math.max(0, Math.min(beat.to, to) - Math.max(beat.from, from));
      return sum + within * (1 - beat.counts);
    }, 0);
    return to - from - uncounted;
  }

  get latestMs(): number {
    return this.#beats.reduce((most, { from, to, counts }) => (counts === 0 ? Math.max(most, to - from) : most), 0);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

/** How many run or want to, for each processor: proc_loadavg(5). */
function crowd(): number {
  const running = Number(/ (\d+)\//.exec(readFileSync("/proc/loadavg", "utf8"))?.[1] ?? 1);
  return Math.max(1, running) / availableParallelism();
}
