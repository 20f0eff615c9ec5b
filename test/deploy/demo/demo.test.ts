import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect } from "chai";
import { build } from "../../../deploy/build/build.ts";
import type { DemoReport } from "../../../deploy/demo/demo-report.ts";

const run = promisify(execFile);
const launcher = fileURLToPath(new URL("../../../deploy/understudy", import.meta.url));

/** Processes whose command line names the directory. */
async function processesOf(directory: string): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const words = await readFile(`/proc/${name}/cmdline`, "utf8").catch(() => "");
    if (words.includes(directory)) found.push(Number(name));
  }
  return found;
}

describe("demo", function () {
  this.timeout(60_000);
  const directories: string[] = [];
  after(async () => {
    for (const directory of directories) await rm(directory, { recursive: true });
  });

  it("tells of the promoted database what another process counts there", async () => {
    const { stdout } = await run(launcher, ["demo", "--seconds", "3", "--json"]);
    const report = JSON.parse(stdout) as DemoReport;
    directories.push(report.directory);
    expect(report).to.deep.include({ schema: 1, clean: true, faults: [] });
    const { bravo } = report.nodes;
    using database = new DatabaseSync(bravo!.database, { readOnly: true });
    const counted = database
      .prepare(
        "SELECT count(*) AS rows, min(number) AS first, max(number) AS last, count(DISTINCT number) AS numbers FROM ledger",
      )
      .get() as Record<string, number>;
    const present = report.commits.present;
    expect(counted).to.deep.include({ rows: present, first: 1, last: present, numbers: present });
    expect(database.prepare("PRAGMA integrity_check").get()).to.deep.include({ integrity_check: "ok" });
    expect(database.prepare("SELECT sum(balance) AS sum FROM accounts").get()).to.deep.include({ sum: 0 });
    expect(database.prepare("SELECT count(*) AS n FROM after_promotion").get()).to.deep.include({ n: 1 });
    const confirmed = (await readFile(report.confirmed, "utf8")).split("\n").map((line) => line.split(" "));
    const commits = confirmed.filter(([what]) => what === "commit");
    expect(commits).to.have.length(report.commits.confirmed);
    expect(report.rpo.commits).to.equal(Math.max(0, commits.length - present));
    const at = (number: number): number => Number(BigInt(commits[number - 1]?.[2] ?? 0)) / 1e6;
    const behindMs = present >= commits.length ? 0 : at(commits.length) - at(present);
    expect(report.rpo.ms).to.be.closeTo(behindMs, 0.1);
    expect(report.rtoMs).to.be.within(1, 30_000);
    const files = await readdir(bravo!.files, { recursive: true, withFileTypes: true });
    expect(files.filter((file) => file.isFile())).to.have.length(report.files.filesAudited);
    expect(await processesOf(report.directory)).to.deep.equal([]);
  });

  it("runs from the bundle, away from the checkout", async () => {
    const installed = await mkdtemp(join(tmpdir(), "us-demo-bundle-"));
    directories.push(installed);
    await build(join(installed, "lib"));
    const options = { cwd: installed, env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin` } };
    const { stdout } = await run(join(installed, "lib", "understudy"), ["demo", "--seconds", "1", "--json"], options);
    const report = JSON.parse(stdout) as DemoReport;
    directories.push(report.directory);
    expect(report).to.deep.include({ schema: 1, clean: true });
  });

  it("ends all that it started when it is interrupted", async () => {
    const demo = spawn(launcher, ["demo", "--seconds", "60"], { stdio: ["ignore", "pipe", "pipe"] });
    const exited = once(demo, "exit");
    let said = "";
    demo.stderr.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    let directory = "";
    for await (const text of demo.stdout.setEncoding("utf8") as AsyncIterable<string>) {
      directory ||= /in (\/\S+)/.exec(text)?.[1] ?? "";
      // A line of the live status: everything runs.
      if (!text.includes("streaming")) continue;
      directories.push(directory);
      expect(await processesOf(directory), "two agents, the writer, the reader and a holder").to.have.length.at.least(
        4,
      );
      demo.kill("SIGINT");
    }
    expect(await exited).to.deep.equal([1, null]);
    expect(said).to.include(`still in ${directory}`);
    expect(await processesOf(directory)).to.deep.equal([]);
    expect(await readdir(join(directory, "bravo"))).to.include("state");
  });
});
