import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { HookLedger } from "../../../deploy/agent/hook-ledger.ts";
import { silentLog } from "../../../shared/log.ts";
import { groupRuns } from "../../../shared/processes.ts";
import { until } from "../../end-to-end/harness.ts";

/** An agent's process that runs a hook: what it starts leaves its process group, writes its pid and does not heed SIGTERM. */
function agentWith(directory: string, name: string, then: string): ChildProcess {
  const hook = `setsid sh -c 'trap "" TERM; echo $$ > ${name}; exec sleep 100' >/dev/null 2>&1 & ${then}`;
  const code = `
    import { HookLedger } from ${JSON.stringify(new URL("../../../deploy/agent/hook-ledger.ts", import.meta.url).href)};
    import { silentLog } from ${JSON.stringify(new URL("../../../shared/log.ts", import.meta.url).href)};
    const ledger = await HookLedger.open("hooks", silentLog);
    await ledger.run("start_service", { run: ["sh", "-c", ${JSON.stringify(hook)}], timeoutMs: 60000 }, {});
    process.stdout.write("ended");
    setInterval(() => {}, 1000);`;
  return spawn(process.execPath, ["--input-type=module", "-e", code], {
    cwd: directory,
    stdio: ["ignore", "pipe", "inherit"],
  });
}

describe("an agent that was killed", () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "us-ledger-"));
  });
  afterEach(async () => await rm(directory, { recursive: true }));
  const pidIn = async (name: string): Promise<number> => {
    const text = async (): Promise<string> => await readFile(join(directory, name), "utf8").catch(() => "");
    await until(async () => (await text()).endsWith("\n"), 30_000, `${name} runs`);
    return Number(await text());
  };

  it("left a hook in the middle, which its successor ends with all that it started, and nothing else", async () => {
    const done = agentWith(directory, "service", "true");
    await once(done.stdout!, "data");
    done.kill("SIGKILL");
    const service = await pidIn("service");
    expect(await readdir(join(directory, "hooks")), "it was over").to.deep.equal([]);
    try {
      const killed = agentWith(directory, "starter", "sleep 100");
      const starter = await pidIn("starter");
      killed.kill("SIGKILL");
      await once(killed, "exit");
      expect(await groupRuns(starter)).to.equal(true);
      await HookLedger.open(join(directory, "hooks"), silentLog);
      expect(await groupRuns(starter), "what the hook was at").to.equal(false);
      expect(await groupRuns(service), "what a hook that had ended left").to.equal(true);
      expect(await readdir(join(directory, "hooks"))).to.deep.equal([]);
    } finally {
      process.kill(service, "SIGKILL");
    }
  });
});
