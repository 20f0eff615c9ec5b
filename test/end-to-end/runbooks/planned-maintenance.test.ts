import { rm, writeFile } from "node:fs/promises";
import { expect } from "chai";
import { until } from "../harness.ts";
import { application, madeOn, order, ordersOn, serving } from "./orders.ts";
import { ScratchMachines } from "./scratch-machines.ts";

describe("the runbook planned-maintenance.md", function () {
  this.timeout(240_000);

  it("moves the service away and back, and loses nothing", async () => {
    await using machines = await ScratchMachines.open("planned-maintenance.md");
    await madeOn(machines, "alpha");
    await machines.configure(application);
    await machines.start();
    order(machines, "alpha", "before");
    await machines.until("bravo", ({ peers }) => peers.alpha?.state === "streaming");
    await until(async () => (await serving(machines)).join() === "alpha", 60_000, "the service runs on alpha");

    await machines.walkAsShown("look");
    await machines.walkAsShown("dry run");
    expect(await serving(machines), "nothing has happened yet").to.deep.equal(["alpha"]);
    await machines.walkAsShown("planned");
    expect((await machines.group("alpha"))?.plannedSwitchover?.to).to.equal("bravo");
    await machines.walkAsShown("taken back");
    expect((await machines.group("alpha"))?.plannedSwitchover).to.equal(undefined);

    await writeFile(machines.path("alpha", "app.stays"), "");
    const [failed] = await machines.walkAsShown("failed");
    expect(failed).to.include({ code: 1 });
    expect(await serving(machines), "as before").to.deep.equal(["alpha"]);
    await rm(machines.path("alpha", "app.stays"));

    order(machines, "alpha", "until it is moved");
    const [moved] = await machines.walkAsShown("move");
    expect(moved).to.include({ code: 0 });
    expect(await serving(machines)).to.deep.equal(["bravo"]);
    await machines.walkWell("moved");

    await machines.walkAsShown("pause");
    await machines.walkWell("down");
    order(machines, "bravo", "while alpha is away");
    await machines.walkWell("up");
    await machines.until("alpha", ({ peers }) => peers.bravo?.state === "streaming");
    await machines.walkWell("resume");
    expect(await serving(machines), "nothing starts the service on alpha").to.deep.equal(["bravo"]);
    for (const { code, stderr } of await machines.walkAsShown("in step")) expect(code, stderr).to.equal(0);
    expect(await serving(machines)).to.deep.equal(["alpha"]);
    await machines.walkWell("back");
    const kept = ["before", "until it is moved", "while alpha is away"];
    expect(ordersOn(machines, "alpha")).to.deep.equal(kept);
    expect(machines.notWalked).to.deep.equal([]);
  });
});
