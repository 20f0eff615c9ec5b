import { readdir, readFile, writeFile } from "node:fs/promises";
import { expect } from "chai";
import { until } from "../harness.ts";
import { application, madeOn, order, ordersInCopy, ordersOn, serving } from "./orders.ts";
import { ScratchMachines } from "./scratch-machines.ts";

describe("the runbook both-were-up.md", function () {
  this.timeout(240_000);
  let machines: ScratchMachines;
  let left: readonly string[] | undefined;
  afterEach(async () => {
    if (machines === undefined) return;
    const { notWalked } = machines;
    left = left?.filter((block) => notWalked.includes(block)) ?? notWalked;
    await machines[Symbol.asyncDispose]();
  });
  after(() => expect(left, "nobody has run").to.deep.equal([]));

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
  });

  it("lets the former primary reign again, and keeps what the other one wrote as its fork", async () => {
    await bothUp();
    await machines.walkWell("stop the other");
    expect(await machines.answer("take back", "Promote it?", "y")).to.equal(0);
    await until(async () => (await serving(machines)).join() === "alpha", 60_000, "the service runs on alpha");
    await machines.walkWell("taken back");
    expect(ordersOn(machines, "alpha")).to.deep.equal(["before", "only on alpha"]);
    await machines.walkWell("the other back");
    await machines.until("bravo", ({ halted }) => halted?.code === "FORK");
    await machines.walkAsShown("the other rejoins");
    await machines.until("bravo", ({ peers }) => peers.alpha?.state === "streaming");
    await until(async () => ordersInCopy(machines, "bravo").includes("only on alpha"), 60_000, "bravo has alpha's");
    expect(await serving(machines)).to.deep.equal(["alpha"]);
  });
});
