import { expect } from "chai";
import { PeerAnswers } from "../../../deploy/agent/peer-answers.ts";
import { epoch } from "../../../shared/words.ts";

const ours = { groupId: "aa" };
const knows = (highest: number) => ({ groupId: "aa", epoch: epoch(1), epochSeen: epoch(highest) });

describe("what the others know", () => {
  it("counts as long as their session lives, and of one that was refused for a moment", () => {
    let now = 0;
    const answers = new PeerAnswers(() => now);
    const [first, second] = [{}, {}];
    expect(answers.highestEpoch("bravo", 1n)).to.equal(undefined);
    answers.begun("bravo", first, ours, knows(1), false);
    answers.begun("bravo", second, ours, knows(1), false);
    answers.ended("bravo", first);
    now = 3600_000;
    expect(answers.highestEpoch("bravo", 1n)).to.equal(1n);
    answers.ended("bravo", second);
    expect(answers.highestEpoch("bravo", 1n)).to.equal(undefined);
    answers.begun("bravo", first, ours, knows(1), true);
    answers.ended("bravo", first);
    now += 9000;
    expect(answers.highestEpoch("bravo", 1n)).to.equal(1n);
    now += 9000;
    expect(answers.highestEpoch("bravo", 1n)).to.equal(undefined);
  });

  it("is above everybody's own", () => {
    const answers = new PeerAnswers();
    expect(answers.highest).to.equal(0n);
    answers.begun("bravo", {}, ours, knows(4), false);
    answers.begun("charlie", {}, ours, knows(3), true);
    expect(answers.highest).to.equal(4n);
  });

  it("is not forgotten where it is a higher epoch, by a node that has lost its disk either", () => {
    const answers = new PeerAnswers();
    const session = {};
    answers.begun("bravo", session, ours, knows(5), false);
    answers.ended("bravo", session);
    answers.begun("bravo", session, ours, { groupId: "", epoch: epoch(0), epochSeen: epoch(0) }, false);
    expect(answers.highestEpoch("bravo", 4n)).to.equal(5n);
    expect(answers.highestEpoch("bravo", 5n), "of a later reign it is no objection").to.equal(5n);
    answers.ended("bravo", session);
    expect(answers.highestEpoch("bravo", 5n)).to.equal(undefined);
  });

  it("is nothing where it is of another group of the same name", () => {
    const answers = new PeerAnswers();
    answers.begun("bravo", {}, ours, { groupId: "bb", epoch: epoch(9), epochSeen: epoch(9) }, true);
    expect(answers.highestEpoch("bravo", 1n)).to.equal(undefined);
  });
});
