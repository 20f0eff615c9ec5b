import { expect } from "chai";
import fc from "fast-check";
import { exitCodes } from "../../shared/errors.ts";
import {
  durationText,
  parseDurationMs,
  parseRateBytesPerSecond,
  parseSizeBytes,
  sizeText,
  UnitInvalid,
} from "../../shared/units.ts";

describe("units", () => {
  for (const [text, ms] of [
    ["100ms", 100],
    ["30s", 30_000],
    ["5m", 300_000],
    ["1h", 3_600_000],
    ["7d", 604_800_000],
    ["0s", 0],
    ["1.5s", 1500],
    ["1.1s", 1100],
    ["0.001s", 1],
    ["10 s", 10_000],
  ] as const) {
    it(`reads the duration ${text} as ${ms} ms`, () => expect(parseDurationMs(text)).to.equal(ms));
  }

  for (const [text, bytes] of [
    ["20GiB", 20 * 2 ** 30],
    ["512MiB", 512 * 2 ** 20],
    ["1MB", 1_000_000],
    ["1kB", 1000],
    ["1KiB", 1024],
    ["0.5KiB", 512],
    ["7B", 7],
    ["2TiB", 2 * 2 ** 40],
  ] as const) {
    it(`reads the size ${text} as ${bytes} bytes`, () => expect(parseSizeBytes(text)).to.equal(bytes));
  }

  for (const [text, bytesPerSecond] of [
    ["1.5Mbit/s", 187_500],
    ["2MiB/s", 2 * 2 ** 20],
    ["8bit/s", 1],
    ["64kbit/s", 8000],
    ["1Gbit/s", 125_000_000],
    ["10MB/s", 10_000_000],
  ] as const) {
    it(`reads the rate ${text} as ${bytesPerSecond} bytes a second`, () =>
      expect(parseRateBytesPerSecond(text)).to.equal(bytesPerSecond));
  }

  for (const [what, parse, text, reason] of [
    ["a bare number as a duration", parseDurationMs, "30", /without its unit/],
    ["a bare number as a size", parseSizeBytes, "1024", /without its unit/],
    ["a bare number as a rate", parseRateBytesPerSecond, "10", /without its unit/],
    ["a size as a duration", parseDurationMs, "10MiB", /unknown unit "MiB"/],
    ["a size as a rate", parseRateBytesPerSecond, "10MiB", /unknown unit "MiB"/],
    ["a unit in the wrong case", parseDurationMs, "30S", /unknown unit "S"/],
    ["bits where bytes are meant", parseSizeBytes, "10Mb", /unknown unit "Mb"/],
    ["a negative duration", parseDurationMs, "-5s", /not a duration/],
    ["an empty text", parseDurationMs, "", /not a duration/],
    ["a unit alone", parseDurationMs, "s", /not a duration/],
    ["an exponent", parseSizeBytes, "1e3B", /not a size/],
    ["two parts", parseDurationMs, "1h30m", /not a duration/],
    ["a trailing newline", parseDurationMs, "30s\n", /not a duration/],
    ["less than what is counted", parseDurationMs, "0.5ms", /whole number of milliseconds/],
    ["part of a byte a second", parseRateBytesPerSecond, "7bit/s", /whole number of bytes a second/],
    ["more than is safe to count", parseSizeBytes, "9999999999TiB", /too large/],
  ] as const) {
    it(`refuses ${what}: ${JSON.stringify(text)}`, () => {
      const error = thrown(() => parse(text));
      expect(error).to.be.instanceOf(UnitInvalid);
      expect((error as UnitInvalid).message).to.match(reason);
      expect((error as UnitInvalid).exitCode).to.equal(exitCodes.usage);
      expect((error as UnitInvalid).hint).to.match(/such as/);
    });
  }

  it("gives a value or UnitInvalid for any text", () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        for (const parse of [parseDurationMs, parseSizeBytes, parseRateBytesPerSecond]) {
          try {
            expect(parse(text)).to.satisfy(Number.isSafeInteger);
          } catch (error) {
            expect(error).to.be.instanceOf(UnitInvalid);
          }
        }
      }),
    );
  });

  it("reads back any whole number of milliseconds and bytes", () => {
    fc.assert(
      fc.property(fc.nat(), (value) => {
        expect(parseDurationMs(`${value}ms`)).to.equal(value);
        expect(parseSizeBytes(`${value}B`)).to.equal(value);
        expect(parseRateBytesPerSecond(`${value}B/s`)).to.equal(value);
      }),
    );
  });

  for (const [ms, text] of [
    [0, "0 ms"],
    [340, "340 ms"],
    [999.6, "1 s"],
    [4200, "4.2 s"],
    [9960, "10 s"],
    [59_600, "1 min"],
    [200_000, "3 min 20 s"],
    [7_500_000, "2 h 5 min"],
    [616_000_000, "7 d 3 h"],
  ] as const) {
    it(`says ${text} for ${ms} ms`, () => expect(durationText(ms)).to.equal(text));
  }

  for (const [bytes, text] of [
    [0, "0 B"],
    [512, "512 B"],
    [1000, "1 KiB"],
    [1536, "1.5 KiB"],
    [20 * 2 ** 30, "20 GiB"],
    [5 * 2 ** 50, "5120 TiB"],
  ] as const) {
    it(`says ${text} for ${bytes} bytes`, () => expect(sizeText(bytes)).to.equal(text));
  }
});

function thrown(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}
