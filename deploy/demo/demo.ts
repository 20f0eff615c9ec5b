import { createWriteStream } from "node:fs";
import { mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { exitCodes, explain, isSystemError, UnderstudyError } from "../../shared/errors.ts";
import type { ControlHandler, GroupStatus, PromoteAnswer } from "../control/api.ts";
import { AgentNotRunning, AgentRefused } from "../control/client.ts";
import type { CutRef } from "../control/json-names.ts";
import { Confirmations } from "./application/confirmations.ts";
import type { Findings } from "./application/demo-auditor.ts";
import { startAuditor, startWriter } from "./application/start-application.ts";
import type { Child } from "./child-process.ts";
import { type DemoReport, reportOf, reportText } from "./demo-report.ts";
import { LiveBlock, liveLines } from "./live-block.ts";
import { controlOf, freePorts, keyOf, startLocalAgent } from "./local-agent.ts";

/** A step of the demo did not come to its end. */
class DemoFailed extends UnderstudyError {
  readonly code = "DEMO_FAILED";
  readonly remedy = "stop";
  readonly state: string;
  readonly hint = "The agents' logs are in that directory. Please report what they say.";
  constructor(what: string, directory: string, options?: ErrorOptions) {
    super(what, options);
    this.state = `The processes of the demo were ended; everything is still in ${directory}.`;
  }
}

const group = "demo";
const readyMs = 30_000;
/** When nobody can press Enter and nothing was said. */
const secondsUnattended = 10;

/** Where one node of the demo has what. */
interface DemoNode {
  readonly name: "alpha" | "bravo";
  readonly state: string;
  readonly database: string;
  readonly files: string;
  readonly log: string;
}

/**
 * Two nodes and an application on this machine: the primary and the application are killed, the replica is promoted, and
 * what it has is compared with what the application had confirmed. Gives the exit code.
 */
export async function runDemo(options: Options): Promise<number> {
  const directory = await mkdtemp(join(tmpdir(), "understudy-demo-"));
  const interrupted = new AbortController();
  const interrupt = (): void => interrupted.abort();
  process.once("SIGINT", interrupt).once("SIGTERM", interrupt);
  try {
    const report = await demo({ directory, options, signal: interrupted.signal });
    process.stdout.write(options.json ? `${JSON.stringify(report)}\n` : reportText(report));
    return report.clean ? exitCodes.done : exitCodes.failed;
  } catch (error) {
    if (interrupted.signal.aborted) {
      process.stderr.write(`\nInterrupted. Everything is still in ${directory}\n`);
      return exitCodes.failed;
    }
    if (error instanceof UnderstudyError) throw error;
    throw new DemoFailed(explain(error), directory, { cause: error });
  } finally {
    process.off("SIGINT", interrupt).off("SIGTERM", interrupt);
  }
}

interface Options {
  readonly seconds?: number;
  readonly json: boolean;
}

/** What every step needs to know: where everything lies, and whether somebody wants it to end. */
interface Stage {
  readonly directory: string;
  readonly options: Options;
  readonly signal: AbortSignal;
}

async function demo(stage: Stage): Promise<DemoReport> {
  const { directory } = stage;
  const [alpha, bravo] = [await prepareNode(directory, "alpha"), await prepareNode(directory, "bravo")];
  const configPath = join(directory, "cluster.yaml");
  await writeFile(configPath, await configuration(alpha, bravo));
  // Whatever happens from here on, nobody whom the demo started survives it.
  await using running = new AsyncDisposableStack();

  const confirmations = new Confirmations();
  const confirmedPath = join(directory, "confirmed.log");
  const confirmed = createWriteStream(confirmedPath);
  const writer = running.use(startWriter(alpha, { commitsPerSecond: 100, stepsPerSecond: 20 }));
  writer.process.stdout?.setEncoding("utf8").on("data", (text: string) => {
    confirmations.add(text);
    confirmed.write(text);
  });
  const everythingHeard = new Promise<void>((resolve) => writer.process.stdout?.once("close", resolve));
  await reach(
    stage,
    "the application works",
    [writer],
    () => confirmations.commits.last > 0 && confirmations.steps.last > 0,
  );

  const primary = running.use(await startAgent(alpha, configPath));
  const replica = running.use(await startAgent(bravo, configPath));
  const controls = { alpha: controlOf(alpha.state), bravo: controlOf(bravo.state) };
  await reach(stage, "the replica has the first copy and follows", [writer, primary, replica], async () => {
    const status = await groupOf(controls.alpha);
    return status?.role === "primary" && status.peers.bravo?.state === "streaming";
  });
  // It stands ready, as an application on the other machine would: its own start is no part of the outage.
  const auditor = running.use(startAuditor(bravo));

  const durableSeen = await live(stage, confirmations, controls, [writer, primary, replica, auditor]);

  const killedAtNs = process.hrtime.bigint();
  primary.kill9();
  writer.kill9();
  const promoted = await promote(stage, controls.bravo, replica);
  const findings = await audit(stage, auditor);
  await Promise.all([writer.ended, primary.ended, everythingHeard]);
  await replica.stop();
  await new Promise<void>((resolve) => confirmed.end(resolve));
  return reportOf({
    directory,
    configPath,
    confirmedPath,
    nodes: { alpha, bravo },
    confirmations,
    findings,
    promoted,
    killedAtNs,
    durableSeen,
  });
}

async function prepareNode(directory: string, name: DemoNode["name"]): Promise<DemoNode> {
  const own = join(directory, name);
  await mkdir(join(own, "data"), { recursive: true });
  const [database, files] = [join(own, "data", "ledger.db"), join(own, "data", "files")];
  return { name, state: join(own, "state"), database, files, log: join(own, "agent.log") };
}

/** What an operator would write, with both nodes on this machine. */
async function configuration(alpha: DemoNode, bravo: DemoNode): Promise<string> {
  const ports = await freePorts(2);
  const [ledger, files] = [JSON.stringify(alpha.database), JSON.stringify(alpha.files)];
  const [ledgerCopy, filesCopy] = [JSON.stringify(bravo.database), JSON.stringify(bravo.files)];
  return `nodes:
  alpha: { address: "127.0.0.1:${ports[0]}", key: "${await keyOf(alpha.state)}" }
  bravo: { address: "127.0.0.1:${ports[1]}", key: "${await keyOf(bravo.state)}" }
groups:
  ${group}:
    primary: alpha
    replicas: [bravo]
    stores:
      ledger: { kind: sqlite, path: ${ledger}, at: { bravo: ${ledgerCopy} } }
      files: { kind: files, path: ${files}, exclude: ["*.tmp"], at: { bravo: ${filesCopy} } }
`;
}

async function startAgent({ name, state, log }: DemoNode, configPath: string): Promise<Child> {
  return await startLocalAgent({ node: name, stateDirectory: state, configPath, logPath: log });
}

async function groupOf(control: ControlHandler): Promise<GroupStatus | undefined> {
  try {
    return (await control.status()).groups[group];
  } catch (error) {
    // Not listening yet; whether it ever will is the caller's deadline.
    if (error instanceof AgentNotRunning) return undefined;
    throw error;
  }
}

/** Until the condition holds. Those who are needed for it must go on running. */
async function reach(
  { directory, signal }: Stage,
  what: string,
  needed: readonly Child[],
  condition: () => boolean | Promise<boolean>,
): Promise<void> {
  const end = performance.now() + readyMs;
  while (!(await condition())) {
    signal.throwIfAborted();
    for (const child of needed) {
      if (!child.running) throw new DemoFailed(`before ${what}, a process ${await child.ended}`, directory);
    }
    if (performance.now() > end) throw new DemoFailed(`not within ${readyMs / 1000} s: ${what}`, directory);
    await sleep(20, undefined, { signal });
  }
}

/** Shows what happens until it is time; gives the last cut that the replica was seen to have durable. */
async function live(
  { directory, options, signal }: Stage,
  confirmations: Confirmations,
  controls: { readonly alpha: ControlHandler; readonly bravo: ControlHandler },
  needed: readonly Child[],
): Promise<CutRef> {
  const tty = process.stdout.isTTY === true;
  const block = options.json ? undefined : new LiveBlock(process.stdout, tty);
  const attended = options.seconds === undefined && process.stdin.isTTY === true;
  const endsAt = attended
    ? Number.POSITIVE_INFINITY
    : performance.now() + (options.seconds ?? secondsUnattended) * 1000;
  const entered = new AbortController();
  const input = attended ? createInterface({ input: process.stdin }).once("line", () => entered.abort()) : undefined;
  const over = AbortSignal.any([signal, entered.signal]);
  let durable: CutRef = { epoch: 0, seq: 0 };
  try {
    block?.say(`Two nodes and an application on this machine, in ${directory}\n`);
    while (!over.aborted && performance.now() < endsAt) {
      for (const child of needed) {
        if (!child.running) throw new DemoFailed(`a process ${await child.ended} before its time`, directory);
      }
      const [alpha, bravo] = [await groupOf(controls.alpha), await groupOf(controls.bravo)];
      durable = bravo?.cut ?? durable;
      block?.show(liveLines(alpha, bravo, confirmations, (endsAt - performance.now()) / 1000));
      const restMs = Math.max(0, Math.min(tty ? 250 : 1000, endsAt - performance.now()));
      await sleep(restMs, undefined, { signal: over }).catch((error: unknown) => {
        if (!over.aborted) throw error;
      });
    }
    signal.throwIfAborted();
    block?.say("\nKilled alpha's agent and the application with SIGKILL. Promoting bravo.\n");
    return { epoch: durable.epoch, seq: durable.seq };
  } finally {
    input?.close();
  }
}

/** Through the control socket, as an operator's command does. */
async function promote(stage: Stage, control: ControlHandler, replica: Child): Promise<PromoteAnswer> {
  const answers: PromoteAnswer[] = [];
  await reach(stage, "bravo is promoted", [replica], async () => {
    try {
      answers.push(await control.promote(group, { acceptLoss: true, accept: ["unreachable-primary"], by: "demo" }));
    } catch (error) {
      // For the instant until the death of the link is heard, the primary is believed to live.
      if (!(error instanceof AgentRefused) || error.code !== "PROMOTION_REFUSED") throw error;
    }
    return answers.length > 0;
  });
  return answers[0]!;
}

async function audit({ directory }: Stage, auditor: Child): Promise<Findings> {
  const { stdin, stdout } = auditor.process;
  let said = "";
  stdout?.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const closed = new Promise<void>((resolve) => stdout?.once("close", resolve));
  stdin?.once("error", (error) => {
    // It has ended: what it printed, or did not, says more.
    if (!isSystemError(error, "EPIPE")) throw error;
  });
  stdin?.end("now\n");
  await closed;
  if (!said.endsWith("\n"))
    throw new DemoFailed(`the promoted copy was not read: the reader ${await auditor.ended}`, directory);
  return JSON.parse(said) as Findings;
}
