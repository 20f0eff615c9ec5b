import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { expect } from "chai";
import { until } from "../harness.ts";
import { application, madeOn, order, ordersInCopy, ordersOn, serving } from "./orders.ts";
import { ScratchMachines } from "./scratch-machines.ts";

describe("the runbook both-were-up.md", function () {
  this.timeout(240_000);
  let machines: ScratchMachines;
  afterEach(async () => await machines?.[Symbol.asyncDispose]());

  const upload = (name: string, file: string): string => machines.path(name, `srv/app/uploads/${file}`);

  async function well(command: string, name: string): Promise<void> {
    const result = await machines.shell(command, name);
    expect(result, `${command}: ${result.stderr}`).to.include({ code: 0 });
  }

  /** Nobody hears of the other while both write: one agent at a time, and the service of alpha never stopped. */
  async function bothUp(): Promise<void> {
    machines = await ScratchMachines.open("both-were-up.md");
    await madeOn(machines, "alpha");
    await writeFile(upload("alpha", "on-both.txt"), "at first");
    await machines.configure(application);
    await machines.start();
    order(machines, "alpha", "before");
    await until(async () => (await serving(machines)).join() === "alpha", 60_000, "the service runs on alpha");
    await well("understudy wait app --timeout 1m", "alpha");
    await well("systemctl stop understudy", "bravo");
    await writeFile(upload("alpha", "on-both.txt"), "changed by alpha");
    order(machines, "alpha", "only on alpha");
    await well("understudy cut app", "alpha");
    await well("systemctl stop understudy", "alpha");
    await writeFile(upload("alpha", "only-on-alpha.txt"), "not even a cut");
    await machines.start("bravo");
    await machines.until("bravo", ({ promotable }) => promotable.ok);
    await well("understudy promote app --yes --accept-loss --accept-unreachable-primary", "bravo");
    await until(async () => (await serving(machines)).join() === "alpha,bravo", 60_000, "the service runs on both");
    await writeFile(upload("bravo", "on-both.txt"), "changed by bravo");
    order(machines, "bravo", "only on bravo");
    await machines.start("alpha");
    await machines.until("alpha", ({ halted }) => halted?.code === "FORK");
    await until(async () => (await serving(machines)).join() === "bravo", 60_000, "alpha's service is stopped");
  }

  it("keeps what the former primary has as a fork, has it follow, and merges the fork", async () => {
    await bothUp();
    await machines.walkAsShown("look");
    await machines.walkAsShown("rejoin");
    const [name = ""] = await readdir(machines.path("alpha", "var/lib/understudy/forks/app"));
    machines.replaced.set("app-1.44-20261121T030653", name);
    await machines.until("alpha", ({ peers }) => peers.bravo?.state === "streaming");
    await machines.walkWell("in step");
    for (const block of ["fork", "export", "files"]) await machines.walkAsShown(block);
    await machines.walkWell("merge files");
    await machines.walkAsShown("rows");
    await machines.walkWell("merge rows");
    await machines.walkWell("merged");
    expect(ordersOn(machines, "bravo")).to.deep.equal(["before", "only on bravo", "only on alpha"]);
    await until(async () => ordersInCopy(machines, "alpha").length === 3, 60_000, "alpha has what was merged");
    expect(await readFile(upload("alpha", "only-on-alpha.txt"), "utf8")).to.equal("not even a cut");
    expect(await readFile(upload("alpha", "on-both.txt"), "utf8")).to.equal("changed by bravo");
    await machines.walkWell("whole database");
    expect(ordersOn(machines, "bravo")).to.deep.equal(["before", "only on alpha"]);
    await until(async () => ordersInCopy(machines, "alpha").length === 2, 60_000, "alpha has what was restored");
    await machines.walkWell("drop");
    expect((await machines.group("alpha"))?.forks.count).to.equal(0);
    expect(machines.notWalked.toSorted()).to.deep.equal(["form", "gone"]);
  });

  it("begins the group anew on the former primary where the other one is gone for good", async () => {
    await bothUp();
    process.kill(Number(await readFile(machines.path("bravo", "agent.pid"), "utf8")), "SIGKILL");
    for (const place of ["agent.pid", "app.runs", "srv", "var/lib/understudy"])
      await rm(machines.path("bravo", place), { recursive: true });
    await machines.walk("gone");
    await machines.until("alpha", ({ role }) => role === "unformed");
    for (const { code, stderr } of await machines.walk("form")) expect(code, stderr).to.equal(0);
    expect(await serving(machines)).to.deep.equal(["alpha"]);
    expect(ordersOn(machines, "alpha")).to.deep.equal(["before", "only on alpha"]);
  });
});
