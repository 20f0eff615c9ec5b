import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { expect } from "chai";
import { until } from "../harness.ts";
import { madeOn, order, ordersInCopy, serving } from "./orders.ts";
import { ScratchMachines } from "./scratch-machines.ts";

describe("the runbook ha-pair-by-hand.md", function () {
  this.timeout(240_000);

  it("sets up two machines whose service runs on the primary, and says so to clients", async () => {
    await using machines = await ScratchMachines.open("ha-pair-by-hand.md");
    await madeOn(machines, "alpha");
    await mkdir(machines.path("bravo", "srv/app"), { recursive: true });
    order(machines, "alpha", "first");
    for (const { code, stderr } of await machines.walkAsShown("identities")) expect(code, stderr).to.equal(0);
    await machines.placed();
    for (const name of machines.names) {
      await writeFile(machines.path(name, "etc/understudy.yaml"), machines.text("configuration", name));
      await mkdir(machines.path(name, "etc/systemd/system"), { recursive: true });
      await writeFile(machines.path(name, "etc/systemd/system/app.service"), machines.text("application", name));
    }
    await machines.walkWell("units");
    for (const name of machines.names) {
      const environment = await readFile(machines.path(name, "etc/understudy/environment"), "utf8");
      expect(environment.trim().split("\n")).to.deep.equal([
        `UNDERSTUDY_CONFIG=${machines.path(name, "etc/understudy.yaml")}`,
        `UNDERSTUDY_NODE=${name}`,
        `UNDERSTUDY_STATE=${machines.path(name, "var/lib/understudy")}`,
      ]);
      const units = await readdir(machines.path(name, "etc/systemd/system"));
      expect(units).to.have.members(["app.service", "understudy.service", "understudy-primary@.target"]);
    }
    await machines.walkWell("enable");
    for (const { code, stdout } of await machines.walkAsShown("check")) {
      const unready = stdout.split("\n").filter((line) => /^ {2}(unreachable|failed)/.test(line));
      expect(unready, stdout).to.have.length(1);
      expect(code).to.equal(4);
    }
    await machines.walkWell("run");
    await machines.until("alpha", ({ peers }) => peers.bravo?.state === "streaming");
    await until(async () => (await serving(machines)).join() === "alpha", 60_000, "the service runs on alpha alone");
    for (const { code, stderr } of await machines.walkAsShown("born")) expect(code, stderr).to.equal(0);
    expect(ordersInCopy(machines, "bravo")).to.deep.equal(["first"]);
    await machines.walkAsShown("ask");
    await until(
      async () => await stat(machines.path("alpha", "target.reached")).catch(() => undefined),
      60_000,
      "the target is reached",
    );
    expect(machines.notWalked).to.deep.equal([]);
  });
});
