import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { promisify } from "node:util";
import { expect } from "chai";
import { build } from "../../../deploy/build/build.ts";
import { softwareVersion } from "../../../deploy/cli/version.ts";
import { until } from "../harness.ts";
import { ScratchMachines } from "./scratch-machines.ts";

const run = promisify(execFile);

/**
 * The program as a neighbouring version: what such a one is allowed to have different for its peers is different. `next`: a
 * larger minor version of the wire, and a feature that the other has never heard of.
 */
async function asVersion(from: string, to: string, version: string, next: boolean): Promise<void> {
  await cp(from, to, { recursive: true });
  const found = { version: 0, minor: 0, features: 0 };
  const count = (what: keyof typeof found, text: string): string => {
    found[what]++;
    return text;
  };
  for (const name of await readdir(to)) {
    if (!name.endsWith(".js")) continue;
    let text = await readFile(join(to, name), "utf8");
    text = text.replaceAll(`version: "${softwareVersion}"`, () => count("version", `version: "${version}"`));
    if (next) {
      text = text.replaceAll(/\bwireMinor = (\d+)/g, (_, minor: string) =>
        count("minor", `wireMinor = ${Number(minor) + 1}`),
      );
      text = text.replaceAll(/features: \[\s*"zstd",/g, () => count("features", 'features: ["of-the-next", "zstd",'));
    }
    await writeFile(join(to, name), text);
  }
  expect(found.version, "the bundle says its version").to.be.above(0);
  if (next) {
    expect(found.minor, "it says its minor version").to.be.above(0);
    expect(found.features, "it says what it can do").to.be.above(0);
  }
}

describe("the runbook upgrade.md", function () {
  this.timeout(300_000);

  it("brings both machines to the next version, the service always on one of them, and back", async () => {
    const scratch = await mkdtemp(join(tmpdir(), "us-versions-"));
    await using machines = await ScratchMachines.open("upgrade.md");
    try {
      await build(join(scratch, "program"));
      await asVersion(join(scratch, "program"), join(scratch, "understudy-0.1.0"), "0.1.0", false);
      await asVersion(join(scratch, "program"), join(scratch, "understudy-0.2.0"), "0.2.0", true);
      for (const name of machines.names) {
        await cp(join(scratch, "understudy-0.1.0"), machines.path(name, "opt/understudy-0.1.0"), { recursive: true });
        await rm(machines.path(name, "opt/understudy"));
        await symlink(machines.path(name, "opt/understudy-0.1.0"), machines.path(name, "opt/understudy"));
        const archive = machines.path(name, "var/tmp/understudy-0.2.0.tar.gz");
        await run("tar", ["-czf", archive, "-C", scratch, "understudy-0.2.0"]);
        await mkdir(machines.path(name, "srv/app"), { recursive: true });
      }
    } finally {
      await rm(scratch, { recursive: true });
    }
    const orders = (name: string) => new DatabaseSync(machines.path(name, "srv/app/app.db"), { timeout: 5000 });
    {
      using database = orders("alpha");
      database.exec("PRAGMA journal_mode = WAL; CREATE TABLE orders (text TEXT); INSERT INTO orders VALUES ('first')");
    }
    await machines.configure(`  app:
    primary: alpha
    replicas: [bravo]
    stores:
      db: { kind: sqlite, path: /srv/app/app.db }
    rpo: 30s
    limits: { staging: 1MiB }
    hooks:
      stop_service: [systemctl, stop, app]
      start_service: [systemctl, start, app]
`);
    await machines.start();
    await machines.until("bravo", ({ cut }) => cut !== null);
    const serves = async (): Promise<string[]> => {
      const running = machines.names.map(async (name) =>
        (await stat(machines.path(name, "app.runs")).catch(() => undefined)) === undefined ? [] : [name],
      );
      return (await Promise.all(running)).flat();
    };
    const order = (name: string, text: string): void => {
      using database = orders(name);
      database.prepare("INSERT INTO orders VALUES (?)").run(text);
    };
    await until(async () => (await serves()).join() === "alpha", 20_000, "the service runs on alpha");

    for (const { stdout } of (await machines.walkWell("before")).slice(0, 2))
      expect(stdout).to.include("understudy 0.1.0");
    await machines.walkWell("bring");
    await machines.walkWell("replica");
    order("alpha", "while versions differ");
    await machines.until("bravo", ({ peers }) => peers.alpha?.state === "streaming");
    const [, upgraded] = await machines.walkWell("in step");
    expect(upgraded?.stdout).to.match(/^node bravo, understudy 0\.2\.0/);
    expect(await serves()).to.deep.equal(["alpha"]);

    await machines.walkWell("dry run");
    expect(await serves(), "nothing has happened yet").to.deep.equal(["alpha"]);
    await machines.walkWell("move");
    expect(await serves()).to.deep.equal(["bravo"]);
    order("bravo", "by the new version");
    await machines.until("alpha", ({ role, peers }) => role === "replica" && peers.bravo?.state === "streaming");
    await machines.walkWell("former primary");
    await machines.until("alpha", ({ peers }) => peers.bravo?.state === "streaming");
    const shown = await machines.walkWell("all in step");
    for (const { stdout } of shown.slice(1)) expect(stdout).to.include("understudy 0.2.0");
    expect(await serves()).to.deep.equal(["bravo"]);
    await machines.walkWell("back");
    expect(await serves()).to.deep.equal(["alpha"]);
    using database = orders("alpha");
    const texts = database.prepare("SELECT text FROM orders ORDER BY rowid").all();
    expect(texts.map(({ text }) => text)).to.deep.equal(["first", "while versions differ", "by the new version"]);
    expect(machines.notWalked).to.deep.equal([]);
  });
});
