import { readFileSync } from "node:fs";

/**
 * Preloaded into an agent (NODE_OPTIONS=--import): its wall clock is off by as many ms as the file in SHIFTED_CLOCK says
 * at that moment, in all threads. Monotonic time is left alone, as it is when an operator sets a clock.
 */

const file = process.env.SHIFTED_CLOCK ?? "";
const RealDate = Date;

class ShiftedDate extends RealDate {
  constructor(...words: ConstructorParameters<DateConstructor> | []) {
    if (words.length === 0) super(ShiftedDate.now());
    else super(...words);
  }

  static override now(): number {
    return RealDate.now() + Number(readFileSync(file, "utf8"));
  }
}

globalThis.Date = ShiftedDate as DateConstructor;
