import { expect } from "chai";
import type { Following } from "../../../deploy/agent/following.ts";
import type { GroupPromotion } from "../../../deploy/agent/group-promotion.ts";
import type { GroupWorkers } from "../../../deploy/agent/group-workers.ts";
import type { HandedService } from "../../../deploy/agent/handed-service.ts";
import { SwitchoverTarget } from "../../../deploy/agent/switchover-target.ts";
import type { SwitchoverTimes } from "../../../deploy/agent/switchover-times.ts";
import { plainError, RemoteError } from "../../../deploy/workers/port-peer.ts";
import { CatalogFailed } from "../../../shared/catalog/catalog-errors.ts";
import { silentLog } from "../../../shared/log.ts";
import type { SwitchoverMessage } from "../../../shared/wire/messages.ts";
import { type CutId, epoch, seq } from "../../../shared/words.ts";

const cut = (number: number): CutId => ({ epoch: epoch(1), seq: seq(number) });
const digest = new Uint8Array(32).fill(7);

/** A replica with cut 1.5, whose before_promote cannot be run unseen. */
function replicaThat(takesOver: () => Promise<unknown>) {
  const did: string[] = [];
  const standing = { role: "replica", epoch: epoch(1), committed: cut(5), digest };
  const sent: SwitchoverMessage[] = [];
  const following = {
    over: false,
    session: { peer: "alpha", send: async (message: SwitchoverMessage) => sent.push(message) },
  } as unknown as Following;
  const workers = {
    role: "replica",
    following,
    replicaStanding: standing,
    copyProblem: "",
    turn: { member: 1, members: 2 },
    replica: {
      call: async (name: string) => {
        did.push(name);
        return name === "standing" ? standing : await takesOver();
      },
    },
    config: { hooks: { beforePromote: { run: ["/nowhere/before-promote"], timeoutMs: 1000 } } },
    options: { onFatal: () => {}, hooks: { run: async () => did.push("before_promote") } },
    environment: () => ({}),
    log: silentLog,
    exclusively: async (change: () => Promise<unknown>) => await change(),
    event: async (name: string) => did.push(name),
  } as unknown as GroupWorkers;
  const target = new SwitchoverTarget(workers, {} as GroupPromotion, {} as SwitchoverTimes, {} as HandedService);
  const hand = async (id: string, what: CutId): Promise<void> =>
    await target.heard(following, { kind: "handover", id, cut: what, digest });
  return { did, sent, hand };
}

describe("the target of a handover", () => {
  it("runs nothing and writes nothing down for what it has not, however often that is asked", async () => {
    const { did, sent, hand } = replicaThat(async () => undefined);
    for (let asked = 0; asked < 100; asked++) await hand(String(asked).padStart(16, "0"), cut(6));
    expect(new Set(did)).to.deep.equal(new Set(["standing"]));
    expect(sent).to.have.length(100);
    expect(sent.every((message) => message.kind === "handoverAnswer" && !message.accepted)).to.equal(true);
  });

  it("answers nothing where its catalog has failed: what is durable the next start finds", async () => {
    const failed = new RemoteError(plainError(new CatalogFailed("the catalog cannot be used")));
    const { did, sent, hand } = replicaThat(async () => {
      throw failed;
    });
    const thrown = await hand("0".repeat(16), cut(5)).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(did).to.include("takeOverHanded");
    expect(thrown).to.equal(failed);
    expect(sent).to.deep.equal([]);
  });
});
