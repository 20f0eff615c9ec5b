/** What the writer said that it has done: the measure of what a copy lacks. */

export function confirmationLine(what: "commit" | "step", number: number, monotonicNs: bigint): string {
  return `${what} ${number} ${monotonicNs}\n`;
}

export class Confirmations {
  readonly commits = new Series();
  readonly steps = new Series();
  #rest = "";

  /** A piece of the writer's output, cut anywhere. */
  add(text: string): void {
    const lines = (this.#rest + text).split("\n");
    // What a killed writer left of a line confirms nothing.
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      const match = /^(commit|step) (\d+) (\d+)$/.exec(line);
      if (match === null) throw new Error(`the writer said ${JSON.stringify(line)}`);
      const series = match[1] === "commit" ? this.commits : this.steps;
      series.add(Number(match[2]), BigInt(match[3] ?? "0"));
    }
  }
}

/** Rising numbers, each with the monotonic time at which it was confirmed. */
class Series {
  readonly #atMs = new Map<number, number>();
  last = 0;

  add(number: number, atNs: bigint): void {
    this.#atMs.set(number, Number(atNs) / 1e6);
    this.last = number;
  }

  get count(): number {
    return this.#atMs.size;
  }

  /** How much older `number` is than the last, in ms: what is lost by going on from it. */
  behindLastMs(number: number): number {
    const last = this.#atMs.get(this.last);
    const at = this.#atMs.get(number);
    if (number >= this.last || last === undefined) return 0;
    // From before the first confirmation: at least since that one.
    return last - (at ?? Math.min(...this.#atMs.values()));
  }
}
