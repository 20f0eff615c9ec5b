import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { PrimaryTarget } from "../../../deploy/agent/primary-target.ts";
import { runHook } from "../../../shared/hooks.ts";
import { silentLog } from "../../../shared/log.ts";
import { until } from "../../end-to-end/harness.ts";

describe("the target of a primary", () => {
  let directory: string;
  let target: PrimaryTarget;
  const failed: unknown[] = [];
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "us-target-"));
    const script = join(directory, "tell");
    await writeFile(
      script,
      `#!/bin/sh
cd ${directory}
if [ -e refuse ]; then rm refuse; exit 1; fi
if [ "$1" = start ]; then sleep 0.1; fi
echo "$1 $UNDERSTUDY_GROUP" >> told\n`,
    );
    await chmod(script, 0o755);
    failed.length = 0;
    const log = { ...silentLog, error: (_event: string, fields?: { hook?: unknown }) => failed.push(fields?.hook) };
    const command = (word: string) => ({ run: [script, word] as [string, string], timeoutMs: 5000 });
    target = new PrimaryTarget({ start: command("start"), stop: command("stop") }, { run: runHook }, log);
  });
  afterEach(async () => await rm(directory, { recursive: true }));

  const environment = { UNDERSTUDY_GROUP: "app" };
  const told = async (): Promise<string> => await readFile(join(directory, "told"), "utf8").catch(() => "");

  it("is told once for each change, in order, however long that takes", async () => {
    const all = [true, true, false, false, true].map(async (reached) => await target.tell(reached, environment));
    await Promise.all(all);
    expect(await told()).to.equal("start app\nstop app\nstart app\n");
  });

  it("is told again after a failure, which is loud, and known to whoever told it", async () => {
    await writeFile(join(directory, "refuse"), "");
    expect(await target.tell(false, environment)).to.match(/exited with 1/);
    expect(failed).to.deep.equal(["primary_target.stop"]);
    await until(async () => (await target.tell(false, environment)) === "", 30_000, "it was told again");
    expect(await told()).to.equal("stop app\n");
    expect(failed).to.deep.equal(["primary_target.stop"]);
  });

  it("is nothing where nobody is to be told", async () => {
    await new PrimaryTarget(undefined, { run: runHook }, silentLog).tell(true, environment);
    expect(await told()).to.equal("");
  });
});
