import { readFile, rm } from "node:fs/promises";
import { expect } from "chai";
import { until } from "../harness.ts";
import { application, madeOn, order, ordersInCopy, ordersOn, serving } from "./orders.ts";
import { ScratchMachines } from "./scratch-machines.ts";

describe("the runbook primary-lost.md", function () {
  this.timeout(240_000);

  it("promotes the replica, lets the old machine follow, and a new one in its place", async () => {
    await using machines = await ScratchMachines.open("primary-lost.md");
    await madeOn(machines, "alpha");
    await machines.configure(application);
    await machines.start();
    order(machines, "alpha", "before");
    await until(async () => (await serving(machines)).join() === "alpha", 60_000, "the service runs on alpha");
    const durable = await machines.shell("understudy wait app --timeout 1m", "alpha");
    expect(durable, durable.stderr).to.include({ code: 0 });
    await machines.shell("systemctl stop understudy", "bravo");
    order(machines, "alpha", "never shipped");
    const cut = await machines.shell("understudy cut app", "alpha");
    expect(cut, cut.stderr).to.include({ code: 0 });
    process.kill(Number(await readFile(machines.path("alpha", "agent.pid"), "utf8")), "SIGKILL");
    // The machine is off, and its service with it.
    await rm(machines.path("alpha", "app.runs"));
    await machines.start("bravo");
    await machines.until("bravo", ({ promotable }) => promotable.ok);

    await machines.walkAsShown("look");
    expect(await machines.answer("first", "Promote it?", "y")).to.equal(3);
    expect((await machines.group("bravo"))?.role).to.equal("replica");
    expect(await machines.answer("promote", "Promote it?", "y")).to.equal(0);
    await until(async () => (await serving(machines)).join() === "bravo", 60_000, "the service runs on bravo");
    for (const { code, stderr } of await machines.walkAsShown("promoted")) expect(code, stderr).to.equal(0);
    expect(ordersOn(machines, "bravo")).to.deep.equal(["before"]);
    order(machines, "bravo", "by bravo");

    await machines.start("alpha");
    await machines.until("alpha", ({ halted }) => halted?.code === "FORK");
    await machines.walkAsShown("back");
    expect(ordersOn(machines, "alpha"), "nothing was changed").to.deep.equal(["before", "never shipped"]);
    await machines.walkAsShown("rejoin");
    await machines.until("alpha", ({ peers }) => peers.bravo?.state === "streaming");
    await machines.walkWell("in step");
    expect((await machines.group("alpha"))?.forks.count).to.equal(1);
    await until(async () => ordersInCopy(machines, "alpha").join() === "before,by bravo", 60_000, "alpha has bravo's");

    await machines.shell("systemctl stop understudy", "alpha");
    for (const place of ["var/lib/understudy", "srv/app"]) await rm(machines.path("alpha", place), { recursive: true });
    await machines.walkAsShown("new identity");
    await machines.configure(application);
    await machines.walkWell("new machine");
    await machines.until("alpha", ({ peers }) => peers.bravo?.state === "streaming");
    await machines.walkAsShown("seeded");
    expect(ordersInCopy(machines, "alpha")).to.deep.equal(["before", "by bravo"]);
    expect(await serving(machines)).to.deep.equal(["bravo"]);
    expect(machines.notWalked).to.deep.equal([]);
  });
});
