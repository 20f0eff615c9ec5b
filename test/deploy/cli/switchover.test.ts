import { expect } from "chai";
import { runCommandLine } from "../../../deploy/cli/command-line.ts";
import { parsePlannedTime } from "../../../deploy/cli/planned-time.ts";
import type { SwitchoverProgress } from "../../../deploy/control/api.ts";
import { FakeAgent, fakeTerminal, serveFake } from "./fake-agent.ts";

const at = "2026-11-22T02:30:00.000Z";
const step = (name: string, ms: number) => ({ at, ms, step: name, text: `it is ${name}` });

async function run(agent: FakeAgent, ...words: string[]) {
  await using served = await serveFake(agent);
  const { terminal, written } = fakeTerminal();
  const code = await runCommandLine(["switchover", "app", ...words, "--state", served.state], terminal);
  return { code, ...written };
}

describe("the command switchover", () => {
  it("tells each step once, as it comes, and how it ended", async () => {
    const agent = new FakeAgent();
    agent.progress = [
      { steps: [step("checked", 3)], next: 1 },
      { steps: [step("stopping", 5), step("stopped", 900)], next: 3 },
      { steps: [], next: 3 },
      { steps: [step("started", 1200)], next: 4, outcome: "done", pauseMs: 1195 },
    ];
    const { code, out } = await run(agent, "--to", "bravo");
    expect(code).to.equal(0);
    expect(out.split("\n").map((line) => line.replace(/^\S+Z +/, ""))).to.deep.equal([
      "+3 ms  it is checked",
      "+5 ms  it is stopping",
      "+900 ms  it is stopped",
      "+1200 ms  it is started",
      "app: bravo is primary, nobody was served for 1.2 s.",
      "",
    ]);
    expect(agent.calls.map((call) => (call as unknown[])[2])).to.deep.include(3);
  });

  const outcomes: [NonNullable<SwitchoverProgress["outcome"]>, number, RegExp][] = [
    ["done", 0, /bravo is primary/],
    ["refused", 3, /nothing was changed: why/],
    ["rolled-back", 1, /alpha is primary as before.*: why/],
    ["service-failed", 1, /bravo is primary, and its service could not be started: why/],
    ["service-unknown", 1, /bravo is primary, and why/],
    ["in-doubt", 1, /why/],
    ["superseded", 1, /why/],
  ];
  for (const [outcome, code, text] of outcomes) {
    it(`ends with ${code} where it is ${outcome}, and says what to do`, async () => {
      const agent = new FakeAgent();
      agent.progress = [{}, { outcome, reason: "why", hint: "do that" }];
      const said = await run(agent, "--to", "bravo");
      expect(said.code).to.equal(code);
      expect(said.out).to.match(text);
      expect(said.err).to.equal("do that\n");
    });
  }

  it("gives all steps in one line of JSON", async () => {
    const agent = new FakeAgent();
    agent.progress = [
      { steps: [step("checked", 3)], next: 1 },
      { steps: [step("started", 9)], next: 2, outcome: "done" },
    ];
    const { out } = await run(agent, "--to", "bravo", "--json");
    expect(JSON.parse(out).steps.map((told: { step: string }) => told.step)).to.deep.equal(["checked", "started"]);
  });

  it("says that it goes on where nobody can be asked any more", async () => {
    const agent = new FakeAgent();
    agent.progress = [{}];
    agent.switchoverProgress = async () => {
      throw new Error("it is gone");
    };
    const { code, err } = await run(agent, "--to", "bravo");
    expect(code).to.equal(1);
    expect(err).to.match(/cannot be asked any more.*goes on, here or there, or back/s);
  });

  it("prints a plan, and ends with 3 where something stands in the way", async () => {
    const agent = new FakeAgent();
    const free = await run(agent, "--to", "bravo", "--dry-run");
    expect(free.code).to.equal(0);
    expect(free.out).to.equal(`bravo would become primary of app in place of alpha:
  1. stop the service on alpha: about 800 ms
  2. start the service on bravo: not known yet
How long nobody would be served is not known: a step was never measured.
Nothing stands in the way.
`);
    agent.plan = {
      ...agent.plan,
      pauseMs: 1500,
      obstacles: [{ code: "SUSPECT", message: "the copy is suspect", hint: "Wait.", flag: null }],
    };
    const barred = await run(agent, "--to", "bravo", "--dry-run");
    expect(barred.code).to.equal(3);
    expect(barred.out)
      .to.match(/for about 1.5 s/)
      .and.match(/In the way: the copy is suspect\. Wait\./);
  });

  it("plans one for later, and takes back what is planned or under way", async () => {
    const agent = new FakeAgent();
    const planned = await run(agent, "--to", "bravo", "--at", "2999-01-01T02:30:00Z");
    expect(planned.out).to.equal("app: it is moved to bravo at 2999-01-01T02:30:00.000Z, by the agent of this node.\n");
    const aborted = await run(agent, "--abort", "--accept-unreachable-target");
    expect(aborted.code, "it is as before").to.equal(0);
    expect(aborted.out)
      .to.match(/not moved to bravo at .* any more/)
      .and.match(/alpha is primary as before/);
    expect(JSON.stringify(agent.calls.at(-1))).to.include('"accept":["unreachable-target"]');
    agent.aborted = null;
    const late = await run(agent, "--abort");
    expect(late.code, "it is not as before yet").to.equal(1);
    expect(late.out).to.match(/it is going back to alpha still: see `understudy status`\.$/m);
    expect((await run(agent, "--to", "bravo", "--at", "tomorrow")).code).to.equal(2);
    expect((await run(agent, "--to", "bravo", "--at", "2001-01-01T02:30:00Z")).err).to.match(/has passed/);
  });

  it("takes the next such time of the day, also over a change of clocks", () => {
    const now = new Date(2026, 10, 21, 12, 0);
    expect(parsePlannedTime("12:01", now)).to.equal(new Date(2026, 10, 21, 12, 1).toISOString());
    expect(parsePlannedTime("12:00", now)).to.equal(new Date(2026, 10, 22, 12, 0).toISOString());
    expect(parsePlannedTime("2026-11-22 02:30", now)).to.equal(new Date(2026, 10, 22, 2, 30).toISOString());
  });
});
