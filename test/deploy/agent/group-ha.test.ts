import { expect } from "chai";
import { GroupHa } from "../../../deploy/agent/group-ha.ts";
import type { GroupPeers } from "../../../deploy/agent/group-peers.ts";
import type { GroupPromotion } from "../../../deploy/agent/group-promotion.ts";
import type { GroupRoles } from "../../../deploy/agent/group-roles.ts";
import type { GroupService } from "../../../deploy/agent/group-service.ts";
import type { GroupWorkers } from "../../../deploy/agent/group-workers.ts";
import { silentLog } from "../../../shared/log.ts";
import { epoch, seq } from "../../../shared/words.ts";

/** A primary of epoch 5 that a cluster watches; whom it was told that it is fenced by. */
function watchedPrimary(): { ha: GroupHa; fencedBy: bigint[] } {
  const fencedBy: bigint[] = [];
  const standing = {
    epoch: epoch(5),
    epochSeen: epoch(5),
    epochs: [{ epoch: 5n, firstSeq: 1n }],
    committed: { epoch: epoch(5), seq: seq(9) },
    digest: new Uint8Array(32),
  };
  const workers = {
    config: { name: "app", ha: { engine: "pacemaker" } },
    options: { node: "alpha" },
    role: "primary",
    standing,
    primary: { reign: { halted: "", standing } },
    refresh: async () => {},
    log: silentLog,
  } as unknown as GroupWorkers;
  const peers = { members: () => ["alpha"], primaryAlive: () => false } as unknown as GroupPeers;
  const roles = { fence: async (by: bigint) => fencedBy.push(by) } as unknown as GroupRoles;
  const service = { state: { kind: "in-service" } } as unknown as GroupService;
  return { ha: new GroupHa(workers, peers, {} as GroupPromotion, roles, service), fencedBy };
}

describe("a primary that a cluster watches", () => {
  const monitor = (clusterEpoch: number) => ({ action: "monitor", clusterEpoch, mark: "", lagSecondsMax: 10 }) as const;

  it("gives up where the cluster has granted a later epoch", async () => {
    const { ha, fencedBy } = watchedPrimary();
    await ha.answer(monitor(6));
    expect(fencedBy).to.deep.equal([6n]);
  });

  it("stays in service where what the cluster remembers cannot be", async () => {
    const { ha, fencedBy } = watchedPrimary();
    for (const mistyped of [600_000, 500_000, Number.MAX_SAFE_INTEGER]) {
      const answer = await ha.answer(monitor(mistyped));
      expect(answer).to.include({ inService: true, epoch: 5 });
    }
    expect(fencedBy).to.deep.equal([]);
  });
});
