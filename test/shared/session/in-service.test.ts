import { expect } from "chai";
import { confirmation, type ServiceFacts, serviceState } from "../../../shared/session/in-service.ts";
import { epoch, seq } from "../../../shared/words.ts";

const switching = { id: "a1", to: "bravo", reason: "" } as const;
const heard = [
  { node: "bravo", highestEpoch: 4n },
  { node: "charlie", highestEpoch: 0n },
];
const confirmed: ServiceFacts = {
  group: "app",
  role: "primary",
  epoch: 4n,
  switchover: undefined,
  halted: "",
  confirmed: confirmation("boot", 4n),
  bootId: "boot",
  others: heard.map(({ node }) => ({ node, highestEpoch: undefined })),
  engine: "none",
};
const unconfirmed: ServiceFacts = { ...confirmed, confirmed: "" };

describe("whether a service may run", () => {
  const table: [string, ServiceFacts, string][] = [
    ["a reign that was confirmed in this boot, whoever answers", confirmed, "in-service"],
    ["one of another boot", { ...confirmed, bootId: "next" }, "UNCONFIRMED"],
    ["one of another epoch", { ...confirmed, confirmed: confirmation("boot", 1n) }, "UNCONFIRMED"],
    ["one where no boot can be told", { ...confirmed, bootId: "", confirmed: "" }, "UNCONFIRMED"],
    ["one of which nobody has answered", unconfirmed, "UNCONFIRMED"],
    [
      "one of which some have not answered",
      { ...unconfirmed, others: [heard[0]!, confirmed.others[1]!] },
      "UNCONFIRMED",
    ],
    ["one of which all have answered, with no higher epoch", { ...unconfirmed, others: heard }, "confirmable"],
    ["one of a group without other members", { ...unconfirmed, others: [] }, "confirmable"],
    [
      "one of a later epoch than a member knows, however it was confirmed",
      { ...confirmed, others: [heard[0]!, { node: "charlie", highestEpoch: 5n }] },
      "SUPERSEDED",
    ],
    ["a replica", { ...confirmed, role: "replica" }, "NOT_PRIMARY"],
    ["a fenced node", { ...confirmed, role: "fenced" }, "NOT_PRIMARY"],
    ["a node that is being promoted", { ...confirmed, role: "promoting" }, "NOT_PRIMARY"],
    ["a primary whose source went back in time", { ...confirmed, halted: "bravo is newer" }, "REPLICA_NEWER"],
    ["one that is being moved", { ...confirmed, switchover: { ...switching, step: "stopping" } }, "SWITCHOVER"],
    ["one at its last cut", { ...confirmed, switchover: { ...switching, step: "cutting" } }, "SWITCHOVER"],
    [
      "one that was handed over",
      {
        ...confirmed,
        switchover: {
          ...switching,
          step: "handing",
          cut: { epoch: epoch(4), seq: seq(9) },
          digest: new Uint8Array(32),
        },
      },
      "SWITCHOVER",
    ],
    ["one that goes back", { ...confirmed, switchover: { ...switching, step: "rolling-back" } }, "in-service"],
    [
      "one that goes back after a reboot",
      { ...unconfirmed, switchover: { ...switching, step: "rolling-back" } },
      "UNCONFIRMED",
    ],
    [
      "one that an engine promotes, although all have answered",
      { ...unconfirmed, others: heard, engine: "pacemaker" },
      "UNCONFIRMED",
    ],
    ["one that an engine has promoted", { ...confirmed, engine: "pacemaker" }, "in-service"],
  ];
  for (const [what, facts, expected] of table)
    it(`${expected}: ${what}`, () => {
      const state = serviceState(facts);
      expect(state.kind === "out" ? state.code : state.kind).to.equal(expected);
    });

  it("names who is missing and the flag that goes on without, where only a person can know", () => {
    expect(serviceState(unconfirmed)).to.deep.include({ flag: "understudy confirm app --accept-unreachable" });
    expect(serviceState(unconfirmed))
      .to.have.property("message")
      .that.matches(/bravo and charlie did not answer/);
    const engine = serviceState({ ...unconfirmed, engine: "pacemaker" });
    expect(engine).to.have.property("flag", undefined);
  });
});
