import { expect } from "chai";
import { ProtocolViolation } from "../../shared/errors.ts";
import { createLog, type LogFields, LogLevelUnknown, logLevelFrom, parseLogLevel } from "../../shared/log.ts";
import { epoch, seq } from "../../shared/words.ts";

function logged(fields: LogFields): Record<string, unknown> {
  const lines: string[] = [];
  createLog("info", { write: (line) => lines.push(line) }).info("cut.committed", fields);
  expect(lines).to.have.length(1);
  expect(lines[0]?.endsWith("\n")).to.equal(true);
  return JSON.parse(lines[0] ?? "") as Record<string, unknown>;
}

describe("log", () => {
  it("writes one line of JSON for an event, with its time, level and fields", () => {
    const line = logged({ group: "app", epoch: epoch(1), seq: seq(42), lagSeconds: 0.5, peer: undefined });
    expect(line).to.deep.include({
      level: "info",
      event: "cut.committed",
      group: "app",
      epoch: 1,
      seq: 42,
      lagSeconds: 0.5,
    });
    expect(line.time).to.match(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    expect(line).to.have.all.keys("level", "event", "group", "epoch", "seq", "lagSeconds", "time");
  });

  it("keeps a number exact that JSON's readers would round", () => {
    expect(logged({ seq: seq(2n ** 63n), nested: { at: [2n ** 60n, 7n] } })).to.deep.include({
      seq: "9223372036854775808",
      nested: { at: ["1152921504606846976", 7] },
    });
  });

  it("writes an error with its causes, state and hint", () => {
    const error = new ProtocolViolation("frame too long", { cause: new Error("4 GiB") });
    expect(logged({ error }).error).to.deep.equal({
      code: "PROTOCOL_VIOLATION",
      message: "frame too long: 4 GiB",
      state: error.state,
      hint: error.hint,
    });
  });

  it("writes a line whatever it is given", () => {
    const cycle: Record<string, unknown> = {};
    cycle.self = cycle;
    const line = logged({
      cycle,
      bytes: new Uint8Array([1, 255]),
      map: new Map([["a", 1n]]),
      set: new Set([1n]),
      f: () => 1,
    });
    expect(line).to.deep.include({ bytes: "01ff", map: { a: 1 }, set: [1], f: "function" });
  });

  it("is quiet below its level and carries the fields that it was given", () => {
    const lines: string[] = [];
    const log = createLog("warn", { write: (line) => lines.push(line) }).with({ node: "alpha" });
    log.debug("a.b");
    log.info("a.b");
    log.warn("a.b");
    log.with({ group: "app" }).error("a.b");
    expect(lines.map((line) => JSON.parse(line))).to.have.nested.property("[1].group", "app");
    expect(lines).to.have.length(2);
    expect(lines.every((line) => JSON.parse(line).node === "alpha")).to.equal(true);
  });

  it("takes its level from the environment and refuses one that it does not know", () => {
    expect(logLevelFrom({})).to.equal("info");
    expect(logLevelFrom({ UNDERSTUDY_LOG: "debug" })).to.equal("debug");
    expect(() => parseLogLevel("loud")).to.throw(LogLevelUnknown);
  });
});
