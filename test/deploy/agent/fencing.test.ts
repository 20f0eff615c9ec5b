import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import type { GroupPeers } from "../../../deploy/agent/group-peers.ts";
import type { GroupPromotion } from "../../../deploy/agent/group-promotion.ts";
import { GroupRejoin } from "../../../deploy/agent/group-rejoin.ts";
import { GroupRoles } from "../../../deploy/agent/group-roles.ts";
import { GroupService } from "../../../deploy/agent/group-service.ts";
import type { GroupSwitchover } from "../../../deploy/agent/group-switchover.ts";
import type { GroupWorkers } from "../../../deploy/agent/group-workers.ts";
import type { Reign } from "../../../deploy/agent/reign.ts";
import type { ReplicaStanding } from "../../../deploy/workers/replica-calls.ts";
import { type HookCommand, runHook } from "../../../shared/hooks.ts";
import { silentLog } from "../../../shared/log.ts";
import { epoch, type GroupName, type NodeName, type Role } from "../../../shared/words.ts";
import { standIn } from "./stand-in.ts";

const alpha = "alpha" as NodeName;

/** A primary whose worker is at something long; `said` are the hook's words and what happened to the node, in order. */
class BusyPrimary implements AsyncDisposable {
  readonly directory: string;
  readonly written = Promise.withResolvers<void>();
  readonly roles: GroupRoles;
  readonly rejoin: GroupRejoin;
  readonly did: string[] = [];
  role: Role = "primary";

  private constructor(directory: string) {
    this.directory = directory;
    const standing = { epoch: epoch(1), epochSeen: epoch(1) };
    const fence = async (): Promise<void> => {
      await this.written.promise;
      this.role = "fenced";
      this.did.push("written down");
    };
    const noted = (what: string) => async (): Promise<void> => {
      this.did.push(what);
    };
    const node = this;
    const workers = standIn<GroupWorkers>("workers", {
      get role() {
        return node.role;
      },
      primary: { reign: standIn<Reign>("reign", { standing, fence }) },
      standing,
      config: {
        rejoin: "manual",
        hooks: { onFenced: { run: ["/bin/sh", join(directory, "hook")], timeoutMs: 10_000 } },
      },
      options: { hooks: { run: runHook } },
      log: silentLog,
      stopped: false,
      exclusively: async (change) => await change(),
      environment: () => ({ UNDERSTUDY_ROLE: node.role }),
      event: noted("event"),
      closePrimary: noted("closed"),
      openReplica: async () => {
        this.did.push("opened");
        return standIn<ReplicaStanding>("replica's standing", {});
      },
    });
    const peers = standIn<GroupPeers>("peers", { missingSince: () => {}, closeSessions: () => {} });
    this.rejoin = new GroupRejoin(workers, peers);
    this.roles = new GroupRoles(
      workers,
      peers,
      standIn<GroupPromotion>("promotion", {}),
      standIn<GroupService>("service", { update: noted("service") }),
      standIn<GroupSwitchover>("switchover", { superseded: () => {} }),
      this.rejoin,
    );
  }

  static async start(hook: string): Promise<BusyPrimary> {
    const node = new BusyPrimary(await mkdtemp(join(tmpdir(), "us-fencing-")));
    const said = join(node.directory, "said");
    await writeFile(join(node.directory, "hook"), `echo "$UNDERSTUDY_ROLE $UNDERSTUDY_REASON" >> ${said}\n${hook}\n`);
    return node;
  }

  async said(): Promise<string[]> {
    for (const end = performance.now() + 20_000; performance.now() < end; await sleep(10)) {
      const text = await readFile(join(this.directory, "said"), "utf8").catch(() => "");
      if (text !== "") return text.trim().split("\n");
    }
    throw new Error("the hook did not run");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.rejoin.stop();
    await rm(this.directory, { recursive: true, force: true });
  }
}

describe("a primary that meets a higher epoch", () => {
  it("stops its service although its worker cannot write that down yet, and closes only then", async () => {
    await using node = await BusyPrimary.start("");
    const fenced = node.roles.fence(2n, "bravo");
    expect(await node.said()).to.deep.equal(["fenced fenced by epoch 2"]);
    expect(node.did, "nothing else happened").to.deep.equal([]);
    node.written.resolve();
    await fenced;
    expect(node.did).to.deep.equal(["written down", "event", "service", "closed", "opened"]);
    expect(await node.said(), "once").to.have.length(1);
    expect(node.rejoin.waiting).to.equal(undefined);
  });

  it("says that its service may still run where that failed, and refuses to rejoin", async () => {
    await using node = await BusyPrimary.start("echo stuck >&2; exit 3");
    node.written.resolve();
    await node.roles.fence(2n, "bravo");
    await node.said();
    const failure = await node.rejoin.stopService("rejoin").then(
      () => undefined,
      (error: Error) => error,
    );
    expect(failure).to.include({ code: "SERVICE_NOT_STOPPED" });
    expect(node.rejoin.waiting).to.include({ code: "SERVICE_NOT_STOPPED" }).and.property("hint").match(/stuck/);
  });
});

/** A primary whose start hook does not come back; `bravo` is whom it meets. */
class StartingPrimary implements AsyncDisposable {
  readonly directory: string;
  readonly service: GroupService;
  readonly roles: GroupRoles;
  readonly rejoin: GroupRejoin;
  role: Role = "primary";
  highest = 1n;

  private constructor(directory: string, primaryTarget: string | undefined) {
    this.directory = directory;
    const node = this;
    const standing = { epoch: epoch(1), epochSeen: epoch(1), confirmed: "boot 1", halted: "", switchover: undefined };
    let changing: Promise<unknown> = Promise.resolve();
    const hook = (what: string): HookCommand => ({ run: ["/bin/sh", join(directory, what)], timeoutMs: 600_000 });
    const target = primaryTarget === undefined ? undefined : { start: hook(primaryTarget), stop: hook("left") };
    const workers = standIn<GroupWorkers>("workers", {
      get role() {
        return node.role;
      },
      primary: {
        reign: standIn<Reign>("reign", {
          standing,
          moving: async () => {},
          fence: async () => {
            node.role = "fenced";
          },
        }),
      },
      standing,
      config: {
        name: "app" as GroupName,
        rejoin: "manual",
        ha: { engine: "none" },
        hooks: { startService: hook("start"), onFenced: hook("stop") },
      },
      options: {
        node: alpha,
        bootId: "boot",
        config: { nodes: new Map([[alpha, { primaryTarget: target }]]) },
        hooks: { run: runHook },
      },
      log: silentLog,
      stopped: false,
      exclusively: async (change) => {
        const turn = changing.then(change);
        changing = turn.catch(() => undefined);
        return await turn;
      },
      environment: () => ({}),
      event: async () => {},
      closePrimary: async () => {},
      openReplica: async () => standIn<ReplicaStanding>("replica's standing", {}),
    });
    const peers = standIn<GroupPeers>("peers", {
      members: () => [alpha, "bravo" as NodeName],
      answers: { highestEpoch: () => node.highest },
      note: () => ({ state: "connecting", reason: "", unformed: false }),
      missingSince: () => {},
      closeSessions: () => {},
    });
    this.rejoin = new GroupRejoin(workers, peers);
    this.service = new GroupService(workers, peers);
    this.roles = new GroupRoles(
      workers,
      peers,
      standIn<GroupPromotion>("promotion", {}),
      this.service,
      standIn<GroupSwitchover>("switchover", { superseded: () => {} }),
      this.rejoin,
    );
  }

  static async start(hanging: "start" | "reached"): Promise<StartingPrimary> {
    const directory = await mkdtemp(join(tmpdir(), "us-fencing-"));
    const node = new StartingPrimary(directory, hanging === "reached" ? "reached" : undefined);
    const hook = async (what: string, does: string): Promise<void> =>
      await writeFile(join(directory, what), `echo "${what} $$" >> ${join(directory, "said")}\n${does}\n`);
    // It lets nobody end it, and neither does what it has started.
    const hangs = "trap '' TERM\nsleep 600 &\nwait\nsleep 600";
    for (const what of ["start", "reached"]) await hook(what, what === hanging ? hangs : "");
    // Whoever was ended is gone by then.
    const gone = `pid=$(sed -n 's/^${hanging} //p' ${join(directory, "said")}); kill -0 -- "-$pid" && echo "${hanging} still runs" >> ${join(directory, "said")}`;
    await hook("stop", hanging === "start" ? gone : "");
    await hook("left", "");
    return node;
  }

  /** What ran, by now or as soon as `last` did. */
  async said(last: string): Promise<string[]> {
    for (const end = performance.now() + 60_000; performance.now() < end; await sleep(10)) {
      const text = await readFile(join(this.directory, "said"), "utf8").catch(() => "");
      const words = text
        .trim()
        .split("\n")
        .map((line) => line.replace(/ \d+$/, ""));
      if (words.includes(last)) return words;
    }
    throw new Error(`${last} did not run`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.service.stop();
    this.rejoin.stop();
    await rm(this.directory, { recursive: true, force: true });
  }
}

describe("a primary that meets a higher epoch while its service is being started", () => {
  for (const hanging of ["start", "reached"] as const)
    it(`ends what hangs there (${hanging}), and stops the service`, async () => {
      await using node = await StartingPrimary.start(hanging);
      node.service.serve();
      expect(await node.said(hanging)).to.deep.equal([hanging]);
      node.highest = 2n;
      node.roles.answered();
      await node.roles.fence(2n, "bravo");
      const ran = await node.said("stop");
      expect(ran.filter((what) => what !== "left")).to.deep.equal([hanging, "stop"]);
    });
});
