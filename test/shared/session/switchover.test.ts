import { expect } from "chai";
import {
  type Handover,
  handoverRefusal,
  type SourceEvent,
  type SwitchoverRecord,
  sourceStep,
  type TargetFacts,
} from "../../../shared/session/switchover.ts";
import { epoch, seq } from "../../../shared/words.ts";

const cut = { epoch: epoch(1), seq: seq(7) };
const digest = new Uint8Array(32).fill(7);
const base = { id: "a1", to: "bravo", reason: "" };
const records: Record<string, SwitchoverRecord | undefined> = {
  "in service": undefined,
  stopping: { ...base, step: "stopping" },
  cutting: { ...base, step: "cutting" },
  handing: { ...base, step: "handing", cut, digest },
  "going back in doubt": { ...base, step: "handing", cut, digest, reason: "late" },
  "rolling-back": { ...base, step: "rolling-back", reason: "late" },
};

describe("the source of a switchover", () => {
  const further = { epoch: epoch(1), seq: seq(6) };
  const table: [string, SourceEvent, string, string][] = [
    ["in service", { kind: "asked", id: "a1", to: "bravo" }, "stopping", "stop-service"],
    ["in service", { kind: "superseded", common: cut }, "in service", "fence"],
    ["stopping", { kind: "stopped" }, "cutting", "last-cut"],
    ["stopping", { kind: "asked", id: "b2", to: "charlie" }, "stopping", ""],
    ["stopping", { kind: "failed", reason: "late" }, "rolling-back", "start-service"],
    ["stopping", { kind: "restarted" }, "rolling-back", "start-service"],
    ["cutting", { kind: "agreed", cut, digest }, "handing", "send-handover"],
    ["cutting", { kind: "restarted" }, "rolling-back", "start-service"],
    ["handing", { kind: "answered", id: "a1", accepted: true, reason: "" }, "handing", ""],
    ["handing", { kind: "answered", id: "a1", accepted: false, reason: "late" }, "rolling-back", "start-service"],
    ["handing", { kind: "answered", id: "of another one", accepted: false, reason: "late" }, "handing", ""],
    ["handing", { kind: "failed", reason: "late" }, "going back in doubt", "send-revoke"],
    ["handing", { kind: "restarted" }, "going back in doubt", ""],
    ["handing", { kind: "connected", late: false }, "handing", "send-handover"],
    ["handing", { kind: "connected", late: true }, "handing", "send-revoke"],
    ["going back in doubt", { kind: "connected", late: false }, "going back in doubt", "send-revoke"],
    ["handing", { kind: "superseded", common: cut }, "in service", "demote"],
    ["handing", { kind: "superseded", common: further }, "in service", "fence"],
    ["handing", { kind: "abandoned" }, "rolling-back", "new-epoch,start-service"],
    ["rolling-back", { kind: "started" }, "in service", ""],
    ["rolling-back", { kind: "restarted" }, "rolling-back", "start-service"],
    ["rolling-back", { kind: "superseded", common: cut }, "in service", "fence"],
  ];
  for (const [from, event, to, actions] of table) {
    const { kind, ...rest } = event;
    const detail = Object.values(rest).filter((value) => typeof value !== "object");
    it(`${from}: ${[kind, ...detail].join(" ")} -> ${to}${actions === "" ? "" : `, ${actions}`}`, () => {
      const step = sourceStep(records[from], event);
      expect(step.record?.step ?? "in service").to.equal(records[to]?.step ?? "in service");
      expect(step.record?.reason === "", "whether it goes back").to.equal(
        (records[to]?.reason ?? "") === "" && step.record !== undefined,
      );
      expect(step.actions.join()).to.equal(actions);
    });
  }
});

describe("the target of a switchover", () => {
  const facts: TargetFacts = {
    role: "replica",
    committed: cut,
    applied: 7n,
    digest,
    suspect: "",
    halted: "",
    barred: "",
  };
  const handover: Handover = { id: "a1", cut, digest };
  it("takes over exactly what it is handed", () => {
    expect(handoverRefusal(facts, handover)).to.equal("");
  });
  const table: [string, Partial<TargetFacts>, RegExp][] = [
    ["is primary already", { role: "primary" }, /is primary/],
    ["has another last cut", { committed: { epoch: epoch(1), seq: seq(6) } }, /1\.6, not 1\.7/],
    ["has the seq in another epoch", { committed: { epoch: epoch(2), seq: seq(7) } }, /2\.7, not 1\.7/],
    ["has not applied it", { applied: 6n }, /not applied/],
    ["has another digest", { digest: new Uint8Array(32) }, /another digest/],
    ["has a suspect copy", { suspect: "a stranger" }, /suspect/],
    ["stands still", { halted: "the disk" }, /the disk/],
    ["was told to wait", { barred: "promotion is paused" }, /paused/],
  ];
  for (const [circumstance, change, reason] of table) {
    it(`refuses when it ${circumstance}`, () => {
      expect(handoverRefusal({ ...facts, ...change }, handover)).to.match(reason);
    });
  }
});
