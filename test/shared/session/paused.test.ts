import { expect } from "chai";
import { type Paused, pausedText, pausing, resuming } from "../../../shared/session/paused.ts";

const shipping: Paused = { shipping: true, failover: false, by: "ann", since: "then" };
const both: Paused = { shipping: true, failover: true, by: "ben", since: "now" };

describe("what is paused", () => {
  const add = { shipping: false, failover: true };

  it("is what was said, together, by who added to it last", () => {
    expect(pausing(undefined, { shipping: true, failover: false }, "ann", "then")).to.deep.equal(shipping);
    expect(pausing(shipping, add, "ben", "now")).to.deep.equal(both);
    expect(pausing(shipping, { shipping: true, failover: false }, "ben", "now"), "nothing new").to.equal(shipping);
    expect(pausing(undefined, { shipping: false, failover: false }, "ben", "now")).to.equal(undefined);
  });

  it("goes on by parts", () => {
    expect(resuming(both, add)).to.deep.equal({ ...both, failover: false });
    expect(resuming(shipping, { shipping: true, failover: true })).to.equal(undefined);
    expect(resuming(undefined, add)).to.equal(undefined);
  });

  it("has names", () => {
    expect(pausedText(both)).to.equal("shipping and automatic failover");
    expect(pausedText(shipping)).to.equal("shipping");
  });
});
