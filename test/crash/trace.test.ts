import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { applicationData, applicationYaml, type ClusterPaths, until } from "../end-to-end/harness.ts";
import { clusterOverOpenSsh } from "../end-to-end/openssh-nodes.ts";
import { checkOrder, type OrderPaths, stepIn } from "./durable-order.ts";
import { parseTrace, type SystemCall } from "./syscall-trace.ts";

const traced =
  "openat,fsync,fdatasync,syncfs,write,writev,pwrite64,rename,renameat,renameat2,link,linkat,unlink,unlinkat,sendto,sendmsg";

/** Everything larger than what is kept inline in the catalog. */
const largeBytes = 1024 * 1024;
const inlineBytesMax = 512 * 1024;

async function prepared(paths: ClusterPaths): Promise<string> {
  await mkdir(join(paths.data("alpha"), "files"));
  await writeFile(join(paths.data("alpha"), "files", "large"), randomBytes(largeBytes));
  const yaml = applicationYaml(paths);
  return yaml
    .split("\n")
    .filter((line) => !line.includes("ledger:"))
    .join("\n");
}

/**
 * Records a replica over its first copy, then a new large file, then much of a large file rewritten. It is reached
 * through OpenSSH, since on the bridge's socket its acknowledgements can be read.
 */
async function recordReplica(directory: string): Promise<{ calls: SystemCall[]; paths: OrderPaths }> {
  await using cleanup = new AsyncDisposableStack();
  const cluster = await clusterOverOpenSsh(
    { groupYaml: prepared, listens: "bravo", dials: "alpha", directory },
    cleanup,
  );
  const [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
  const traceFile = join(directory, "trace");
  const stepFile = join(directory, "step");
  // -D: the agent is our child and not the tracer's, so that ending it ends both.
  const wrapper = ["strace", "-D", "-f", "-y", "-xx", "-s", "4096", "-e", `trace=${traced}`, "-o", traceFile];
  await bravo.start({ wrapper, environment: { UNDERSTUDY_STEP_FILE: stepFile } });
  await alpha.start();
  const files = applicationData(alpha).files;
  const shipped = async (): Promise<void> => {
    await alpha.control.wait("app", { timeoutMs: 30_000, replicas: [] });
    // Nothing is left to apply, so that what touches the copy next belongs to the next cut.
    await bravo.until((group) => {
      const { durable, applied } = group.peers.alpha ?? {};
      return durable !== undefined && durable !== null && durable.seq === applied?.seq;
    }, 30_000);
  };
  await alpha.until((group) => group.peers.bravo?.durable !== null && group.peers.bravo?.durable !== undefined, 30_000);
  await shipped();
  // Whole from its first sight: a cut of a file that is still being written would bring it in two parts.
  await writeFile(join(files, "..", "second"), randomBytes(largeBytes));
  await rename(join(files, "..", "second"), join(files, "second"));
  await shipped();
  {
    await using file = await open(join(files, "large"), "r+");
    await file.write(randomBytes(inlineBytesMax + 64 * 1024), 0, undefined, 4096);
  }
  await shipped();
  await bravo.stop();
  const text = await until(
    async () => {
      const all = await readFile(traceFile, "latin1");
      return all.trimEnd().endsWith("+++ exited with 0 +++") ? all : undefined;
    },
    20_000,
    "the tracer has written everything",
  );
  const state = bravo.stateDirectory;
  const paths = { log: join(state, "groups", "app", "catalog.db-wal"), stepFile, copies: bravo.dataDirectory };
  return { calls: parseTrace(text), paths };
}

describe("the order of a replica's system calls", function () {
  this.timeout(120_000);
  let directory: string;
  let calls: SystemCall[];
  let paths: OrderPaths;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "us-trace-"));
    ({ calls, paths } = await recordReplica(directory));
  });
  after(() => rm(directory, { recursive: true }));

  it("is payload sync, catalog sync, acknowledgement for each cut, and the copy is touched after them", () => {
    const { flips, flipsWithPayload, acknowledged, violations } = checkOrder(calls, paths);
    expect(violations).to.deep.equal([]);
    expect(flipsWithPayload, "cuts with staged payload").to.be.at.least(3);
    expect(flips).to.be.at.least(flipsWithPayload);
    expect(acknowledged, "acknowledgements of a later cut").to.have.length.at.least(3);
  });

  // What the check would say of a program that breaks the order: the recorded one with a call left out or moved.
  const staged = ({ name, path }: SystemCall): boolean => name.endsWith("sync") && path.includes("/staging/");
  const stagingDirectory = ({ name, path }: SystemCall): boolean => name.endsWith("sync") && path.endsWith("/staging");
  const broken: readonly { readonly name: string; readonly says: RegExp; readonly edit: () => SystemCall[] }[] = [
    {
      name: "does not sync payloads",
      says: /staging\/.*was not synced/,
      edit: () => calls.filter((call) => !staged(call)),
    },
    {
      name: "does not sync their directory",
      says: /a name of line .* was not synced/,
      edit: () => calls.filter((call) => !stagingDirectory(call)),
    },
    {
      name: "does not sync the catalog",
      says: /log was not written and then synced/,
      edit: () => calls.filter(({ name, path }) => !(name.endsWith("sync") && path === paths.log)),
    },
    {
      name: "syncs payloads after the commit",
      says: /staging\/.*was not synced/,
      edit: () =>
        calls.map((call) =>
          staged(call) ? { ...call, begun: call.begun + 1_000_000, done: call.done + 1_000_000 } : call,
        ),
    },
    {
      name: "acknowledges before the commit",
      says: /acknowledgement \d+, of cut \d+, after \d+ commits/,
      edit: () => {
        const commits = calls.filter((call) => call.path === paths.stepFile && stepIn(call).endsWith(": catalog cut"));
        // Every write to a socket is moved to just before the commit that it followed.
        return calls.map((call) => {
          const commit = commits.findLast(({ begun }) => begun < call.begun);
          const socket = ["write", "writev", "sendto", "sendmsg"].includes(call.name);
          return socket && commit !== undefined
            ? { ...call, begun: commit.begun - 0.5, done: commit.begun - 0.5 }
            : call;
        });
      },
    },
  ];
  for (const { name, says, edit } of broken) {
    it(`would be seen to be broken by one that ${name}`, () => {
      const { violations } = checkOrder(edit(), paths);
      expect(violations.join("\n")).to.match(says);
    });
  }
});
