import { randomBytes } from "node:crypto";
import { mkdir, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { isSystemError } from "../../../shared/errors.ts";
import { until } from "../harness.ts";
import { ScratchMachines } from "./scratch-machines.ts";

const MiB = 2 ** 20;

/** All the room that there is. */
async function fill(path: string): Promise<void> {
  await using file = await open(path, "w");
  for (let size = MiB; size >= 1; size = size === 4096 ? 1 : Math.max(size / 2, 4096)) {
    try {
      for (;;) await file.write(Buffer.alloc(size, 1));
    } catch (error) {
      if (!isSystemError(error, "ENOSPC")) throw error;
      if (size === 1) return;
    }
  }
}

describe("the runbook disk-full.md", function () {
  this.timeout(300_000);
  let machines: ScratchMachines;
  before(async () => {
    machines = await ScratchMachines.open("disk-full.md");
    await machines.mount("bravo", "srv", "64m");
    await machines.mount("alpha", "var/lib/understudy", "8m");
    for (const name of ["alpha", "bravo"]) await mkdir(machines.path(name, "srv/app/uploads"), { recursive: true });
    await writeFile(machines.path("alpha", "srv/app/uploads/small"), "first");
    await machines.configure(`  app:
    primary: alpha
    replicas: [bravo]
    stores:
      uploads: { kind: files, path: /srv/app/uploads }
    rpo: 3s
    retention: { keep: { all: 5m }, max_bytes: 20GiB }
`);
    await machines.start();
    await machines.until("bravo", ({ cut }) => cut !== null);
  });
  after(async () => await machines?.[Symbol.asyncDispose]());

  async function small(name: string): Promise<string> {
    return await readFile(machines.path(name, "srv/app/uploads/small"), "utf8");
  }

  it("finds that the replica's disk is full, makes room, and sees it go on", async () => {
    await mkdir(machines.path("bravo", "srv/old-exports"));
    await writeFile(machines.path("bravo", "srv/old-exports/2019.tar"), randomBytes(40 * MiB));
    const large = machines.path("alpha", "srv/large");
    await writeFile(large, randomBytes(20 * MiB));
    await rename(large, machines.path("alpha", "srv/app/uploads/large"));
    await writeFile(machines.path("alpha", "srv/app/uploads/small"), "second");
    await until(
      async () => (await machines.log("bravo")).includes('"code":"NO_ROOM"'),
      40_000,
      "bravo has refused the cut",
    );
    await machines.until("alpha", ({ peers }) => peers.bravo?.rpo?.broken === true);
    await machines.until("alpha", ({ peers }) => /free bytes (are needed )?beside/.test(peers.bravo?.reason ?? ""));

    const [status, ...filesystems] = await machines.walk("look");
    expect(status).to.include({ code: 6 });
    expect(status?.stdout).to.match(/bravo: .*free bytes (are needed )?beside \S+\/srv\/app\/uploads, there are \d+/);
    for (const { code, stdout } of filesystems) {
      expect(code).to.equal(0);
      expect(stdout).to.match(/understudy-test/);
    }
    expect(await small("bravo"), "as it was").to.equal("first");
    expect((await machines.group("bravo"))?.promotable.ok).to.equal(true);
    const taken = await machines.walkWell("what");
    expect(taken[0]?.stdout).to.match(/history\n[\s\S]*strangers\n/);
    expect(taken[2]?.stdout).to.match(/^4[01]M\t\S+old-exports\n/m);

    await machines.walkWell("others");
    await machines.walkWell("history");
    const configured = await readFile(machines.path("bravo", "etc/understudy.yaml"), "utf8");
    expect(configured).to.include("max_bytes: 5GiB");
    await machines.until("bravo", ({ peers }) => peers.alpha?.state === "streaming");
    const [waited, verified, ...shown] = await machines.walkWell("again");
    expect(waited?.stdout).to.match(/is durable on bravo/);
    expect(verified?.stdout).to.match(/: equal/);
    expect(shown).to.have.length(2);
    await until(async () => (await small("bravo")) === "second", 20_000, "the copy has it");
  });

  it("finds that the primary's state has no room, and sees it go on when there is some", async () => {
    const filler = machines.path("alpha", "var/lib/understudy/filler");
    await fill(filler);
    const many = machines.path("alpha", "srv/many");
    await mkdir(many);
    for (let at = 0; at < 1200; at++) await writeFile(join(many, `${at}`), `${at}`);
    await rename(many, machines.path("alpha", "srv/app/uploads/many"));
    await machines.until("alpha", ({ halted }) => halted !== null);
    const [status] = await machines.walk("look");
    expect(status?.stdout).to.match(/It stands still: .*no room for the catalog/);
    await rm(filler);
    await machines.until("alpha", ({ halted }) => halted === null);
    await machines.walkWell("again");
    expect(machines.notWalked).to.deep.equal([]);
  });
});
