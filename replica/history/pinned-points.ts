import type { Seq } from "../../shared/words.ts";

/** Recovery points that somebody is reading, as often as they are read at once; thinning leaves them. */
export class PinnedPoints extends Set<Seq> {
  readonly #readers = new Map<Seq, number>();

  pin(point: Seq): void {
    this.#readers.set(point, (this.#readers.get(point) ?? 0) + 1);
    this.add(point);
  }

  unpin(point: Seq): void {
    const left = (this.#readers.get(point) ?? 1) - 1;
    if (left > 0) {
      this.#readers.set(point, left);
      return;
    }
    this.#readers.delete(point);
    this.delete(point);
  }
}
