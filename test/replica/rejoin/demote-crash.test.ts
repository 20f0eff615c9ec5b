import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { CommitObserver } from "../../../shared/catalog/catalog.ts";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import type { Disk } from "../../../shared/ports/disk.ts";
import type { CutId } from "../../../shared/words.ts";
import { SwapNode } from "./swap-node.ts";

class Killed extends Error {}

/** Ends the process before its `at`-th step, or after it: the operations of the disk that change something, and commits. */
class Killer {
  readonly #at: number;
  #armed = false;
  steps = 0;
  last = "";

  constructor(at: number) {
    this.#at = at;
  }

  arm(): void {
    this.#armed = true;
  }

  #step(name: string): void {
    if (!this.#armed) return;
    this.last = name;
    if (this.steps++ === this.#at) throw new Killed(name);
  }

  readonly observer: CommitObserver = (when, purpose) => this.#step(`${when} ${purpose}`);

  readonly disk: Disk = new Proxy<Disk>(new RealDisk(), {
    get: (target, name) => {
      const operation: unknown = Reflect.get(target, name, target);
      if (typeof operation !== "function") return operation;
      const changes =
        /^(write|truncate|sync|set|rename|link|unlink|make|remove)/.test(String(name)) || name === "openFile";
      return (...words: unknown[]): unknown => {
        if (changes) this.#step(String(name));
        // No power fails here.
        if (name === "syncFilesystem") return undefined;
        return operation.apply(target, words);
      };
    },
  });
}

describe("a crash while an ex-primary becomes a replica", function () {
  this.timeout(120_000);
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-demote-crash-"));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  /** A primary with two cuts, and a change of the second that only a look at the file itself can vouch for. */
  async function primary(name: string): Promise<{ node: SwapNode; first: CutId; last: CutId }> {
    const node = new SwapNode(directory, name, { kinds: ["files"] });
    mkdirSync(join(node.tree, "docs"), { recursive: true });
    writeFileSync(join(node.tree, "docs", "one"), "1".repeat(9000));
    symlinkSync("docs/one", join(node.tree, "symlink"));
    node.form();
    await node.reign();
    const first = await node.cut();
    writeFileSync(join(node.tree, "docs", "one"), "2", { flag: "r+" });
    writeFileSync(join(node.tree, "docs", "two"), "two");
    const last = await node.cut();
    return { node, first, last };
  }

  /** What became of a node that was killed at a step; undefined when it had none. */
  async function killedAt(at: number, fork: boolean): Promise<{ step: string; role: string } | undefined> {
    const { node, first, last } = await primary(`alpha-${fork}-${at}`);
    await using _node = node;
    const common = fork ? first : last;
    const killer = new Killer(at);
    await node.crash(killer);
    await node.reign();
    await node.cut();
    killer.arm();
    const died = await node.demote(common).then(
      () => false,
      (error: unknown) => {
        if (!(error instanceof Killed)) throw error;
        return true;
      },
    );
    await node.crash({ disk: new Killer(Number.POSITIVE_INFINITY).disk, observer: () => {} });
    const { role, committed } = node.catalog.standing;
    if (role === "primary") {
      expect(committed).to.deep.equal(last);
      await node.reign();
      expect(await node.cut(), `${killer.last}: nothing changed`).to.deep.equal(last);
      await node.demote(common);
    }
    expect(node.catalog.standing).to.include({ role: "replica", suspect: "", applied: common.seq });
    expect(node.catalog.standing.committed).to.deep.equal(common);
    node.openReplica();
    expect(node.strangers(), killer.last).to.deep.equal([]);
    expect((await node.verify()).differences, killer.last).to.deep.equal([]);
    const touched = node.catalog.all("SELECT name FROM touched_paths").map(({ name }) => name);
    expect(touched).to.deep.equal(fork ? ["two"] : []);
    return died ? { step: killer.last, role } : undefined;
  }

  it("leaves the one or the other, wherever it is", async () => {
    const steps: { readonly step: string; readonly role: string }[] = [];
    for (let at = 0; ; at++) {
      const left = await killedAt(at, false);
      if (left === undefined) break;
      steps.push(left);
    }
    const flip = steps.findIndex(({ step }) => step === "after demote");
    expect(steps[flip - 1]?.step).to.equal("before demote");
    expect(flip, steps.map(({ step }) => step).join(", ")).to.be.above(10);
    for (const [at, { step, role }] of steps.entries()) expect(role, step).to.equal(at < flip ? "primary" : "replica");
    // With a fork it is the same way, and only its last step is another.
    expect(await killedAt(flip - 1, true)).to.deep.equal({ step: "before demote", role: "primary" });
    expect(await killedAt(flip, true)).to.deep.equal({ step: "after demote", role: "replica" });
  });
});
