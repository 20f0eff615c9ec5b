import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { until } from "../harness.ts";
import { ScratchMachines } from "./scratch-machines.ts";

const hourMs = 3_600_000;
const report = "/srv/app/uploads/reports/2026.csv";

describe("the runbook restore-one-file.md", function () {
  this.timeout(300_000);

  it("brings back on the primary what a file was an hour ago", async () => {
    await using machines = await ScratchMachines.open("restore-one-file.md");
    // Everything begins two hours ago; the clocks are set before anybody types anything.
    const clock = join(machines.directory, "clock");
    await writeFile(clock, String(-2 * hourMs));
    const preload = fileURLToPath(new URL("../shifted-clock.ts", import.meta.url));
    Object.assign(machines.environment, { NODE_OPTIONS: `--import ${preload}`, SHIFTED_CLOCK: clock });
    const onAlpha = machines.path("alpha", report);
    await mkdir(dirname(onAlpha), { recursive: true });
    await writeFile(onAlpha, "of two hours ago");
    {
      using database = new DatabaseSync(machines.path("alpha", "srv/app/app.db"));
      database.exec("PRAGMA journal_mode = WAL; CREATE TABLE orders (text TEXT)");
    }
    await machines.configure(`  app:
    primary: alpha
    replicas: [bravo]
    stores:
      db: { kind: sqlite, path: /srv/app/app.db }
      uploads: { kind: files, path: /srv/app/uploads }
    retention: { keep: { all: 5m, per_minute: 1d } }
`);
    await machines.start();
    await machines.until("bravo", ({ cut }) => cut !== null);
    await writeFile(clock, "0");
    await writeFile(onAlpha, "spoiled");
    const spoiled = await machines.shell("understudy wait app --timeout 30s", "alpha");
    expect(spoiled, spoiled.stderr).to.include({ code: 0 });
    const onBravo = machines.path("bravo", report);
    await until(async () => (await readFile(onBravo, "utf8")) === "spoiled", 30_000, "bravo has followed");

    const [points] = await machines.walkWell("points");
    expect(points?.stdout.match(/^ {2}1\.\d+ .* uploads (whole|crash)/gm)).to.have.length.above(1);
    const [restored] = await machines.walkWell("restore");
    expect(restored?.stdout).to.match(/^restored cut 1\.\d+, taken .*: 1 file, 16 B\n$/);
    const [looked] = await machines.walkWell("look");
    expect(looked?.stdout).to.equal("of two hours ago");
    await stat(machines.path("bravo", "var/tmp/hour-ago/db")).then(
      () => expect.fail("the database was not asked for"),
      () => undefined,
    );
    await machines.walkWell("bring");
    expect(await readFile(onAlpha, "utf8")).to.equal("of two hours ago");
    await machines.walkWell("finish");
    await until(async () => (await readFile(onBravo, "utf8")) === "of two hours ago", 30_000, "bravo follows again");
    expect((await machines.group("bravo"))?.promotable.ok).to.equal(true);
    expect(machines.notWalked).to.deep.equal([]);
  });
});
