import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { HookFailed, runHook } from "../../shared/hooks.ts";
import { groupRuns } from "../../shared/processes.ts";
import { until } from "../end-to-end/harness.ts";

describe("a hook that is ended", () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "us-hooks-"));
  });
  afterEach(async () => await rm(directory, { recursive: true }));

  const groupOf = async (name: string): Promise<number> => {
    const path = join(directory, name);
    await until(async () => (await readFile(path, "utf8").catch(() => "")).endsWith("\n"), 20_000, `${name} runs`);
    return Number(await readFile(path, "utf8"));
  };
  /** A child that does not hear of SIGTERM and holds no pipe, below a shell that ends at once. */
  const stubborn = `cd "$1" && sh -c 'trap "" TERM; echo $(ps -o pgid= $$) > child; sleep 100' >/dev/null 2>&1 & sleep 100`;

  for (const [how, timeoutMs] of [
    ["since nobody wants it any more", 60_000],
    ["at its time-out", 500],
  ] as const)
    it(`${how} is over only when everything that it started is`, async () => {
      const abort = new AbortController();
      const command = { run: ["sh", "-c", stubborn, "sh", directory] as [string, ...string[]], timeoutMs };
      const ended = runHook("start_service", command, {}, abort.signal, 100).catch((error: unknown) => error);
      const group = await groupOf("child");
      expect(await groupRuns(group)).to.equal(true);
      if (timeoutMs > 1000) abort.abort(new Error("over"));
      expect(await ended).to.be.instanceOf(HookFailed);
      expect(await groupRuns(group), "its group").to.equal(false);
    });

  it("by nobody leaves alone what it started", async () => {
    const run: [string, ...string[]] = ["sh", "-c", "sleep 100 >/dev/null 2>&1 & echo $!"];
    const { stdout } = await runHook("start_service", { run, timeoutMs: 60_000 }, {});
    // It is there to be ended.
    process.kill(Number(stdout.toString()), "SIGKILL");
  });
});
