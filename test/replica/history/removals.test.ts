import { expect } from "chai";
import { applyNext } from "../../../replica/apply/apply.ts";
import { removalsMax, thinningByRetention } from "../../../replica/history/thin.ts";
import { goBack } from "../../../replica/rejoin/demote.ts";
import type { ReplicaContext } from "../../../replica/replica-context.ts";
import { epoch, seq } from "../../../shared/words.ts";
import { HistoryGroup, Stopped } from "./history-group.ts";

const keep = { allMs: undefined, perMinuteMs: undefined, perHourMs: undefined, perDayMs: undefined };

function thin(replica: ReplicaContext, rememberedMax = removalsMax): void {
  const steps = thinningByRetention(replica, { keep, bytesMax: 0 }, new Set(), rememberedMax);
  while (steps.next().done !== true);
}

function forgotten({ catalog }: ReplicaContext): number {
  return Number(catalog.get("SELECT value FROM standing WHERE key = 'forgotten'")?.value ?? 0);
}

function count({ catalog }: ReplicaContext, what: string): number {
  return Number(catalog.get(`SELECT count(*) AS n FROM ${what}`)?.n);
}

describe("what is gone, where no history is kept", () => {
  let group: HistoryGroup;
  beforeEach(() => {
    group = new HistoryGroup();
  });
  afterEach(() => group.close());

  /** One file comes and the one before it goes, one is changed, and one is replaced. */
  async function cuts(first: number, last: number): Promise<void> {
    for (let value = first; value <= last; value++) {
      group.source.write("file", new Uint8Array(9000).fill(value));
      group.source.replace("other", new Uint8Array(5000).fill(value));
      group.source.write(`dies${value}`, "x");
      if (value > 1) group.source.remove(`dies${value - 1}`);
      await group.cut();
      group.commit();
      while (applyNext(group.replica, false) !== undefined);
    }
  }

  /** Of every cut since what is forgotten; each but the first removed what came with the one before it. */
  function expectRemembered(last: number): void {
    const { catalog } = group.replica;
    const births = catalog.all(
      "SELECT name, birth FROM path_versions WHERE object IS NULL AND birth > ?",
      forgotten(group.replica),
    );
    const found = new Map(births.map(({ name, birth }) => [Number(birth), String(name)]));
    for (let cut = Math.max(2, forgotten(group.replica) + 1); cut <= last; cut++)
      expect(found.get(cut), `removed by cut ${cut}`).to.equal(`dies${cut - 1}`);
  }

  it("is remembered, beside one version of everything that is there", async () => {
    for (let value = 1; value < 8; value++) {
      await cuts(value, value);
      thin(group.replica);
    }
    expect(group.points()).to.deep.equal([]);
    expect(forgotten(group.replica)).to.equal(0);
    expectRemembered(7);
    // The root, the two and the last that came; and six that went, each with its object.
    expect(count(group.replica, "path_versions WHERE object IS NOT NULL")).to.equal(4);
    expect(count(group.replica, "object_versions WHERE type <> 0")).to.equal(4);
    expect(count(group.replica, "run_versions")).to.equal(3);
    expect(count(group.replica, "path_versions WHERE object IS NULL")).to.equal(6);
    expect(count(group.replica, "object_versions WHERE type = 0")).to.be.at.least(6);
    expect(count(group.replica, "kept")).to.equal(0);
  });

  it("is forgotten before it is too much, the oldest first, for ever anew", async () => {
    let most = 0;
    for (let value = 1; value < 70; value++) {
      await cuts(value, value);
      thin(group.replica, 40);
      most = Math.max(
        most,
        count(group.replica, "path_versions WHERE object IS NULL") +
          count(group.replica, "object_versions WHERE type = 0"),
      );
    }
    expect(most).to.be.within(30, 45);
    expect(forgotten(group.replica)).to.be.within(40, 66);
    expectRemembered(69);
    const text = String(group.replica.catalog.get("SELECT value FROM standing WHERE key = 'removals'")?.value);
    expect(text.split(" ").length).to.be.at.most(64);
    thin(group.replica, 0);
    expect(count(group.replica, "path_versions")).to.equal(4);
    expect(count(group.replica, "object_versions")).to.equal(4);
  });

  it("lets the node go back to a cut since which all of it is known, and to no other", async () => {
    for (let value = 1; value < 30; value++) {
      await cuts(value, value);
      thin(group.replica, 40);
    }
    const last = forgotten(group.replica);
    expect(last).to.be.above(2);
    const { catalog } = group.replica;
    catalog.transaction("stand", () => catalog.stand({ epochs: [{ epoch: 1n, firstSeq: 1n }] }));
    const back = (at: number): ReturnType<typeof goBack> => goBack(group.replica, { epoch: epoch(1), seq: seq(at) });
    expect(() => back(last - 1)).to.throw(/is not known/);
    const { paths } = back(last);
    // Each that came since, with the one before it that went; the two that changed; and the root.
    expect(paths).to.be.at.least(29 - last + 2);
    expect(count(group.replica, "touched_paths WHERE name LIKE 'dies%'")).to.equal(29 - last + 1);
  });

  it("is what the catalog says it remembers, wherever the process ends", async () => {
    let last = 0;
    let stops = 0;
    for (let step = 1; stops === step - 1; step++) {
      await cuts(last + 1, last + 4);
      last += 4;
      group.disk.left = step;
      try {
        thin(group.replica, 20);
      } catch (error) {
        if (!(error instanceof Stopped)) throw error;
        stops++;
      }
      group.restart();
      expectRemembered(last);
    }
    expect(stops).to.be.above(8);
    expect(forgotten(group.replica)).to.be.above(4);
    thin(group.replica, 20);
    expectRemembered(last);
    thin(group.replica, 0);
    expect(count(group.replica, "path_versions")).to.equal(4);
    expect(count(group.replica, "object_versions")).to.equal(4);
    expect(count(group.replica, "run_versions")).to.equal(3);
  });
});
