import { expect } from "chai";
import { cutCases, usualDraft } from "./cut-cases.ts";
import { HostileStage } from "./hostile-stage.ts";

describe("a replica under hostile input", () => {
  let stage: HostileStage;

  before(async () => {
    stage = await HostileStage.open();
    await stage.seed();
  });

  after(async () => {
    await stage[Symbol.asyncDispose]();
  });

  describe("cuts", () => {
    for (const { name, code, names, draft = usualDraft, spoil } of cutCases) {
      it(`refuses ${name}`, async () => {
        const answer = await stage.unharmed(
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
      await stage.takesTheNextCut();
    });
  });
});
