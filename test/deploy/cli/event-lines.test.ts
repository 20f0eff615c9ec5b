import { appendFile, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { runCommandLine } from "../../../deploy/cli/command-line.ts";
import { eventLines, eventText } from "../../../deploy/cli/event-lines.ts";
import { until } from "../../end-to-end/harness.ts";
import { fakeTerminal } from "./fake-agent.ts";

const line = (event: string, more: Record<string, unknown> = {}): string =>
  `${JSON.stringify({ at: "2026-11-21T09:00:00.000Z", node: "alpha", event, ...more })}\n`;

describe("the log of events, read", () => {
  let state: string;
  let path: string;
  beforeEach(async () => {
    state = await mkdtemp(join(tmpdir(), "us-events-"));
    path = join(state, "events.jsonl");
  });
  afterEach(async () => await rm(state, { recursive: true }));

  async function printed(...words: string[]): Promise<{ code: number; out: string; err: string }> {
    const { terminal, written } = fakeTerminal();
    const code = await runCommandLine(["events", "--state", state, ...words], terminal);
    return { code, ...written };
  }

  it("prints what happened, for people and as it is, of all groups or one, without an agent", async () => {
    expect(await printed()).to.deep.equal({ code: 0, out: "", err: "" });
    const lines = [
      line("replica.promoted", { group: "app", epoch: 2, cut: "1.42" }),
      line("group.paused", { group: "web", by: "ann b" }),
    ];
    await writeFile(path, lines.join(""));
    expect((await printed()).out).to.equal(
      '2026-11-21T09:00:00.000Z  alpha  app  replica.promoted  epoch=2  cut=1.42\n2026-11-21T09:00:00.000Z  alpha  web  group.paused  by="ann b"\n',
    );
    expect((await printed("web", "--json")).out).to.equal(lines[1]);
  });

  it("goes over what a crash has torn, and says so", async () => {
    await writeFile(path, `${line("group.formed")}{"at":"2026\n${line("group.paused")}{"at`);
    const { code, out, err } = await printed("--json");
    expect({ code, out }).to.deep.equal({ code: 0, out: line("group.formed") + line("group.paused") });
    expect(err).to.equal('not an event: "{\\"at\\":\\"2026"\nnot an event: "{\\"at"\n');
  });

  it("reads a log of any length whole", async () => {
    const many = Array.from({ length: 3000 }, (_, epoch) => line("replica.promoted", { epoch }));
    await writeFile(path, many.join(""));
    expect((await printed("--json")).out).to.equal(many.join(""));
  });

  it("goes on with what comes, waits for the end of a line, and begins anew with a new file", async () => {
    const ending = new AbortController();
    const seen: string[] = [];
    const reading = (async () => {
      for await (const found of eventLines(path, true, ending.signal))
        seen.push(found.kind === "event" ? String(found.event.event) : "unreadable");
    })();
    await writeFile(path, line("first.event"));
    await until(() => seen.length === 1, 5000, "the first");
    const second = line("second.event");
    await appendFile(path, second.slice(0, 20));
    await appendFile(path, second.slice(20) + line("third.event"));
    await until(() => seen.length === 3, 5000, "the third");
    await rename(path, `${path}.1`);
    await writeFile(path, line("fourth.event"));
    await until(() => seen.length === 4, 5000, "the fourth");
    ending.abort();
    await reading;
    expect(seen).to.deep.equal(["first.event", "second.event", "third.event", "fourth.event"]);
  });

  it("shows an event that has no group", () => {
    expect(eventText({ at: "now", node: "alpha", event: "agent.renamed", names: ["a", "b"], by: null })).to.equal(
      'now  alpha  -  agent.renamed  names=["a","b"]  by=null',
    );
  });
});
