import { expect } from "chai";
import type { GroupPeers } from "../../../deploy/agent/group-peers.ts";
import type { GroupPromotion } from "../../../deploy/agent/group-promotion.ts";
import type { GroupRejoin } from "../../../deploy/agent/group-rejoin.ts";
import { GroupRoles } from "../../../deploy/agent/group-roles.ts";
import type { GroupService } from "../../../deploy/agent/group-service.ts";
import type { GroupSwitchover } from "../../../deploy/agent/group-switchover.ts";
import type { GroupWorkers } from "../../../deploy/agent/group-workers.ts";
import { silentLog } from "../../../shared/log.ts";
import { epoch, seq } from "../../../shared/words.ts";
import { until } from "../../end-to-end/harness.ts";

describe("a primary that has handed over and cannot follow", () => {
  it("says why, and ends its reign for another try no sooner than after a pause", async () => {
    const tries: number[] = [];
    const said: string[] = [];
    const cut = { epoch: epoch(1), seq: seq(5) };
    const switchover = { ...{ id: "1", to: "bravo", reason: "", step: "handing" }, cut, digest: new Uint8Array(32) };
    const workers = {
      role: "primary",
      primary: { reign: { standing: { epoch: epoch(1), switchover } } },
      log: silentLog,
      exclusively: async (change: () => Promise<unknown>) => await change(),
      demote: async () => {
        tries.push(performance.now());
        if (tries.length < 2) throw new Error("ledger is in use");
        return {};
      },
    } as unknown as GroupWorkers;
    const driver = {
      notDemoted: (_by: string, error: Error) => said.push(error.message),
      superseded: (how: string) => said.push(how),
    } as unknown as GroupSwitchover;
    const peers = { closeSessions: () => {} } as unknown as GroupPeers;
    const service = { update: async () => {} } as unknown as GroupService;
    const roles = new GroupRoles(workers, peers, {} as GroupPromotion, service, driver, {} as GroupRejoin);
    const failed = await roles.handedOver(2n, "bravo", cut).then(
      () => "",
      (error: Error) => error.message,
    );
    expect(failed).to.equal("ledger is in use");
    expect(said).to.deep.equal(["ledger is in use"]);
    // As each session does that begins meanwhile.
    await until(
      async () => {
        await roles.handedOver(2n, "bravo", cut);
        return tries.length === 2;
      },
      20_000,
      "it is tried again",
    );
    expect(tries[1]! - tries[0]!).to.be.above(900);
    expect(said).to.deep.equal(["ledger is in use", "demoted"]);
  });
});
