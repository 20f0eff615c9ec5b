import { expect } from "chai";
import { notAsShown } from "./as-shown.ts";

describe("what a runbook shows of an output", () => {
  const rows: [string, string, string | undefined][] = [
    ["app: fenced at cut 1.42, ...", "app: fenced at cut 1.3, taken 2026-11-21T02:58:21.524Z: another", undefined],
    ["app: fenced at cut 1.42, ...", "app: fenced at cut 2.3, taken 2026-11-21T02:58:21.524Z", "another epoch"],
    ["taken 2026-11-21T02:58:21.524Z (8.7 s ago).", "taken 2027-01-02T03:04:05Z (2 min 3 s ago).", undefined],
    ["a (b) [c] d?", "a (b) [c] d?", undefined],
    ["a.b", "acb", "a full stop is one"],
    ["first\nsecond", "first\nbetween\nsecond", undefined],
    ["first\nsecond", "second\nfirst", "another order"],
    ["kept as app-1.44-20261121T030653: 1 path", "kept as app-3.2-20251111T111111: 1 path", undefined],
    ["kept as app-1.44-20261121T030653: 1 path", "kept as app-3.2-20251111T111111: 2 paths", "another count"],
  ];
  for (const [shown, printed, differs] of rows)
    it(`${JSON.stringify(shown)} is ${differs ?? "as printed"}`, () => {
      expect(notAsShown(shown, printed) === undefined, printed).to.equal(differs === undefined);
    });
});
