import { expect } from "chai";
import type { Message } from "../../shared/wire/messages.ts";
import { type LogLine, until } from "./agent-process.ts";
import { cutCases, usualDraft } from "./cut-cases.ts";
import { HostileStage } from "./hostile-stage.ts";
import type { Conversation } from "./scripted-primary.ts";

/** Generous: the agent idles at some 150 MiB, and what a hostile peer may make it hold is a few frames. */
const residentMiBMax = 400;
const statusMsMax = 1500;

describe("a replica under hostile input", () => {
  let stage: HostileStage;

  before(async () => {
    stage = await HostileStage.open();
    await stage.seed();
  });

  after(async () => {
    await stage[Symbol.asyncDispose]();
  });

  /**
   * What must hold after every attack: a line in the log with the code, naming the thing; an answer; the session closed;
   * the copy, the catalog and what lies outside as before; the agent alive, in bounds and quick to answer.
   */
  async function unharmed(
    attack: () => Promise<Conversation>,
    code: string,
    names: RegExp,
  ): Promise<readonly Message[]> {
    const before = stage.footprint();
    const logged = stage.agent.lines.length;
    const conversation = await attack();
    const answer = await conversation.end();
    await until(
      () => stage.agent.exit !== undefined || stage.agent.lines.slice(logged).some((line) => tells(line, code, names)),
      `the log tells of ${code} ${names}:\n${stage.agent.tail()}`,
    );
    expect(stage.agent.exit, stage.agent.tail()).to.equal(undefined);
    await settled(before);
    const asked = performance.now();
    const status = await stage.agent.status();
    expect(performance.now() - asked, "ms for a status").to.be.lessThan(statusMsMax);
    expect(status.groups.app?.role).to.equal("replica");
    expect(status.groups.app?.halted).to.equal(null);
    expect(stage.agent.memory().residentMiB, "MiB").to.be.lessThan(residentMiBMax);
    return answer;
  }

  /** What a session had open is given up a moment after its end. */
  async function settled(before: ReturnType<HostileStage["footprint"]>): Promise<void> {
    const deadline = performance.now() + 2000;
    while (performance.now() < deadline) {
      const now = stage.footprint();
      if (now.tree === before.tree && now.catalog === before.catalog) break;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const now = stage.footprint();
    expect(now.catalog).to.equal(before.catalog);
    expect(now.tree, "digest of the copies").to.equal(before.tree);
    expect(now.outside, "digest of what lies outside").to.equal(before.outside);
  }

  function tells(line: LogLine, code: string, names: RegExp): boolean {
    if (line.level !== "warn" && line.level !== "error") return false;
    const error = (line.error ?? line) as { code?: string; message?: string; reason?: string };
    return error.code === code && names.test(error.message ?? error.reason ?? "");
  }

  describe("cuts", () => {
    for (const { name, code, names, draft = usualDraft, spoil } of cutCases) {
      it(`refuses ${name}`, async () => {
        const answer = await unharmed(
          async () => {
            const right = draft(stage.alpha.draft());
            const parts = spoil(right.parts(), right);
            const conversation = await stage.alpha.follow();
            await conversation.sendParts(parts);
            return conversation;
          },
          code,
          names,
        );
        const rejected = answer.find((message) => message.kind === "cutRejected");
        expect(rejected?.code).to.equal(code);
        expect(rejected?.committed).to.deep.equal(stage.alpha.committed);
      });
    }

    it("takes the next correct cut", async () => {
      const conversation = await stage.alpha.follow();
      await stage.alpha.ship(conversation, usualDraft(stage.alpha.draft()));
      conversation.channel.close();
      await conversation.end();
    });
  });
});
