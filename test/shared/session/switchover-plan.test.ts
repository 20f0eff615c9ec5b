import { expect } from "chai";
import {
  type SourceCase,
  sourceObstacles,
  type TargetSelfCase,
  targetObstacles,
} from "../../../shared/session/switchover-plan.ts";

const target = {
  state: "streaming",
  features: ["switchover"],
  software: "1.4.0",
  suspect: "",
  damaged: 0,
  everCut: true,
  lagSeconds: 0.2,
};
const source: SourceCase = {
  group: "app",
  node: "alpha",
  role: "primary",
  to: "bravo",
  members: ["alpha", "bravo", "charlie"],
  namingOthers: [],
  engine: "none",
  record: undefined,
  halted: "",
  paused: false,
  outOfService: "",
  stopsService: true,
  software: "1.5.2",
  target,
  targetReason: "",
  lagSecondsMax: 30,
  accept: { runningService: false },
};

describe("what stands in the way of a switchover", () => {
  const of = (change: Partial<SourceCase>): string =>
    sourceObstacles({ ...source, ...change })
      .map(({ code, flag }) => (flag === undefined ? code : `${code} ${flag}`))
      .join();
  const table: [string, Partial<SourceCase>, string][] = [
    ["nothing", {}, ""],
    ["this node is no primary", { role: "replica", target: undefined }, "NOT_PRIMARY"],
    ["somebody names other members", { namingOthers: ["charlie"] }, "MEMBERS_DIFFER"],
    ["a cluster decides", { engine: "pacemaker" }, "ENGINE_DECIDES"],
    ["one is under way", { record: { id: "a1", to: "charlie", reason: "", step: "stopping" } }, "SWITCHOVER_UNDER_WAY"],
    ["the target is nobody", { to: "delta", target: undefined }, "NOT_A_MEMBER"],
    ["the target is this node", { to: "alpha", target: undefined }, "PRIMARY_ALREADY"],
    ["no cuts are taken", { halted: "the source is gone" }, "HALTED"],
    ["it is paused", { paused: true }, "PAUSED"],
    ["the service does not run here", { outOfService: "not confirmed" }, "OUT_OF_SERVICE"],
    ["nobody can stop the service", { stopsService: false }, "NO_STOP_SERVICE --accept-running-service"],
    ["a person has stopped it", { stopsService: false, accept: { runningService: true } }, ""],
    ["the target is away", { target: undefined, targetReason: "no route" }, "NOT_CONNECTED"],
    ["the target knows nothing of it", { target: { ...target, features: ["zstd"] } }, "TARGET_TOO_OLD"],
    ["the target is of another major version", { target: { ...target, software: "2.0.0" } }, "OTHER_SOFTWARE"],
    ["its copy is suspect", { target: { ...target, suspect: "a stranger" } }, "SUSPECT"],
    ["its copy is damaged", { target: { ...target, damaged: 2 } }, "SUSPECT"],
    ["it has no cut yet", { target: { ...target, everCut: false, lagSeconds: 99 } }, "SEEDING"],
    ["it is behind", { target: { ...target, lagSeconds: 30.5 } }, "LAGGING"],
    [
      "all at once",
      { halted: "the disk", paused: true, target: { ...target, suspect: "a stranger", lagSeconds: 99 } },
      "HALTED,PAUSED,SUSPECT,LAGGING",
    ],
  ];
  for (const [circumstance, change, codes] of table) {
    it(`${circumstance}: ${codes === "" ? "nothing" : codes}`, () => expect(of(change)).to.equal(codes));
  }

  it("says each with what to do", () => {
    for (const [, change] of table)
      for (const { message, hint } of sourceObstacles({ ...source, ...change }))
        expect(
          [message, hint].every((text) => text !== "" && !text.includes("undefined")),
          message,
        ).to.equal(true);
  });
});

describe("what the target of a switchover finds in its own way", () => {
  const self: TargetSelfCase = {
    group: "app",
    node: "bravo",
    follows: true,
    refusals: [],
    paused: false,
    room: [{ path: "/srv", freeBytes: 2 ** 30 }],
    freeBytesMin: 2 ** 26,
    hooksMissing: [],
  };
  const table: [string, Partial<TargetSelfCase>, string][] = [
    ["nothing", {}, ""],
    ["it follows somebody else", { follows: false }, "NOT_FOLLOWING"],
    ["it could not be promoted", { refusals: [{ code: "SUSPECT", message: "m", hint: "h" }] }, "SUSPECT"],
    ["it is paused", { paused: true }, "PAUSED"],
    ["its disk is full", { room: [{ path: "/srv", freeBytes: 2 ** 20 }] }, "NO_ROOM"],
    ["a hook is missing there", { hooksMissing: ["start_service: /usr/bin/app"] }, "HOOK_MISSING"],
  ];
  for (const [circumstance, change, codes] of table) {
    it(`${circumstance}: ${codes === "" ? "nothing" : codes}`, () => {
      const found = targetObstacles({ ...self, ...change });
      expect(found.map(({ code }) => code).join()).to.equal(codes);
      for (const { message } of found) expect(message, "says whose it is").to.match(/bravo/);
    });
  }
});
