import { closeSync, openSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { beginAdoption } from "../../../replica/receive/adopt.ts";
import { noteUnproven, unproven } from "../../../replica/receive/unproven.ts";
import { anyTouched } from "../../../shared/catalog/collapse.ts";
import { lastHad, lastObjectOf, touchedPage } from "../../../shared/catalog/touched.ts";
import { UnderstudyError } from "../../../shared/errors.ts";
import { hex } from "../../../shared/manifest/digest.ts";
import { firstObjectOf } from "../../../shared/session/epochs.ts";
import type { BulkMessage, TouchedPlace } from "../../../shared/wire/messages.ts";
import { packTouchedList, type TouchedEntry } from "../../../shared/wire/touched-list.ts";
import { epoch, type ObjectId, seq } from "../../../shared/words.ts";
import { describeTree } from "../../model/describe-tree.ts";
import { type Node, TwoNodes } from "../../model/two-nodes.ts";

const page = 4096;
const pages = 300;

describe("a node that rejoins", () => {
  let pair: TwoNodes;
  let alpha: Node;
  let bravo: Node;

  /** Alpha has written pages 3 and 200 of a file that bravo has as it was, removed another one, and made one of its own. */
  beforeEach(async () => {
    pair = await TwoNodes.start();
    [alpha, bravo] = pair.nodes;
    writeFileSync(join(alpha.root, "large"), Buffer.alloc(pages * page, 1));
    writeFileSync(join(alpha.root, "removed"), Buffer.alloc(2 * page, 2));
    writeFileSync(join(alpha.root, "same"), Buffer.alloc(20 * page, 3));
    await alpha.ship(bravo);
    for (const at of [3, 200]) writePage(alpha, at, 4);
    // In this order, or it has the inode of the other, and is taken for the same file.
    writeFileSync(join(alpha.root, "own"), Buffer.alloc(page, 5));
    rmSync(join(alpha.root, "removed"));
    await alpha.cut(0n);
    await bravo.promote();
    writePage(bravo, 7, 6);
    await bravo.cut(0n);
    await alpha.demote(bravo);
    alpha.follow(bravo);
  });
  afterEach(async () => {
    await pair[Symbol.asyncDispose]();
  });

  function writePage(node: Node, at: number, fill: number): void {
    const file = openSync(join(node.root, "large"), "r+");
    writeSync(file, Buffer.alloc(page, fill), 0, page, at * page);
    closeSync(file);
  }

  function expectSame(): void {
    expect(describeTree(alpha.root)).to.deep.equal(describeTree(bravo.root));
    expect(hex(alpha.catalog.standing.digest)).to.equal(hex(bravo.catalog.standing.digest));
  }

  for (const ahead of [false, true]) {
    it(`gets ${ahead ? "ahead of its cut " : ""}the pages that either has written, and nothing else`, async () => {
      const { bytes, aheadBytes, rows } = await bravo.ship(alpha, { ahead });
      // Pages 3, 7 and 200, and the two of the file that alpha has no more.
      expect(bytes).to.equal(5 * page);
      expect(aheadBytes).to.equal(ahead ? 5 * page : 0);
      expect(rows).to.be.at.most(6);
      expectSame();
      expect(anyTouched(alpha.catalog)).to.equal(false);
    });
  }

  it("gets what it has cut off, and zeros where the primary has a hole", async () => {
    await bravo.ship(alpha);
    truncateSync(join(bravo.root, "large"), 260 * page);
    truncateSync(join(bravo.root, "large"), pages * page);
    await bravo.ship(alpha);
    // Now bravo parts: it writes into the hole, and makes another one.
    writePage(bravo, 270, 9);
    truncateSync(join(bravo.root, "large"), 100 * page);
    await bravo.cut(alpha.catalog.standing.committed.seq);
    truncateSync(join(bravo.root, "large"), 280 * page);
    await bravo.cut(alpha.catalog.standing.committed.seq);
    await alpha.promote();
    await bravo.demote(alpha);
    bravo.follow(alpha);
    const { bytes } = await alpha.ship(bravo);
    expect(bytes).to.equal(160 * page);
    expectSame();
  });

  it("keeps what it is to be told of until the cut is durable", async () => {
    const before = listed(alpha);
    expect(await refusalOf(bravo.ship(alpha, { tamper: without("cutEnd") }))).to.equal("no cut came whole");
    expect(listed(alpha)).to.deep.equal(before);
    await bravo.ship(alpha);
    expectSame();
  });

  it("gets what it has never had of the reign in which they part, after one of its own", async () => {
    // Alpha and bravo are one as they came; charlie has more of alpha's first reign than bravo when both are promoted.
    await using three = await TwoNodes.start();
    const [first, behind] = three.nodes;
    const ahead = await three.another("charlie");
    writeFileSync(join(first.root, "common"), "common");
    for (const to of [behind, ahead]) await first.ship(to);
    writeFileSync(join(first.root, "more"), Buffer.alloc(page, 1));
    await first.ship(ahead);
    await behind.promote();
    writeFileSync(join(behind.root, "own"), Buffer.alloc(page, 2));
    await behind.cut(0n);
    await ahead.promote();
    await ahead.cut(0n);
    expect((await behind.demote(ahead)).seq).to.equal(1n);
    behind.follow(ahead);
    const { bytes } = await ahead.ship(behind);
    expect(bytes).to.equal(page);
    expect(describeTree(behind.root)).to.deep.equal(describeTree(ahead.root));
  });

  it("goes back to what it had before a cut that it jumped over, of which it knows nothing", async () => {
    await using three = await TwoNodes.start();
    const [first, promoted] = three.nodes;
    const ahead = await three.another("charlie");
    const large = (fill: number): void => writeFileSync(join(first.root, "large"), Buffer.alloc(4 * page, fill));
    writeFileSync(join(first.root, "name"), "name");
    large(1);
    for (const to of [promoted, ahead]) await first.ship(to);
    renameSync(join(first.root, "name"), join(first.root, "renamed"));
    large(2);
    for (const name of ["a came and went", "b came"]) writeFileSync(join(first.root, name), name);
    await first.ship(promoted);
    renameSync(join(first.root, "renamed"), join(first.root, "name"));
    large(1);
    rmSync(join(first.root, "a came and went"));
    await first.ship(ahead);
    await promoted.promote();
    await promoted.cut(0n);
    const common = { epoch: epoch(1), seq: seq(2) };
    expect(lastHad(ahead.catalog, common, 2n), "whom it follows knows of nothing before").to.deep.equal(common);
    expect(ahead.goBack(promoted).seq).to.equal(1n);
    ahead.follow(promoted);
    await promoted.ship(ahead);
    expect(describeTree(ahead.root)).to.deep.equal(describeTree(promoted.root));
  });

  it("takes no object of a reign that it has not seen for one of its own, whatever its number", () => {
    const own = Number(alpha.catalog.get("SELECT max(object) AS last FROM object_versions")?.last);
    expect(lastObjectOf(alpha.catalog)).to.equal(own);
    alpha.catalog.transaction("test", () => {
      alpha.catalog.run("UPDATE object_versions SET object = ? WHERE object = ?", firstObjectOf(5n) + 7, own);
    });
    expect(lastObjectOf(alpha.catalog)).to.equal(own - 1);
  });

  describe("with a peer that is wrong", () => {
    const liesOfReplica: readonly [string, (entries: readonly TouchedEntry[]) => TouchedEntry[]][] = [
      ["that leaves out a page", (entries) => entries.filter((entry) => entry.kind !== "object" || entry.run !== 1)],
      ["that leaves out a path", (entries) => entries.filter((entry) => entry.kind !== "path" || entry.path !== "own")],
      [
        "that leaves out what it lacks",
        (entries) => entries.filter((entry) => entry.kind !== "object" || entry.run >= 0),
      ],
      ["that says nothing", () => []],
    ];
    for (const [what, lie] of liesOfReplica) {
      it(`is refused its own list ${what}, and compared from then on`, async () => {
        await expectUnproven(
          bravo.ship(alpha, { ask: async () => ({ payload: packTouchedList(lie(listed(alpha))), last: true }) }),
        );
        noteUnproven(alpha.catalog, "it came to nothing");
        expect(unproven(alpha.catalog)).to.equal("it came to nothing");
        alpha.catalog.transaction("epoch", () => alpha.catalog.stand({ epoch: 9n as never }));
        expect(unproven(alpha.catalog), "of another reign").to.equal(undefined);
        alpha.catalog.transaction("epoch", () => alpha.catalog.stand({ epoch: 2n as never }));
        beginAdoption(alpha.replica);
        expect(anyTouched(alpha.catalog)).to.equal(false);
        expect(unproven(alpha.catalog)).to.equal(undefined);
      });
    }

    it("is none the worse for a list of more than there is", async () => {
      const more = packTouchedList([
        ...listed(alpha),
        { kind: "path", store: "tree", path: "same" as never },
        { kind: "path", store: "tree", path: "nowhere" as never },
        { kind: "path", store: "other", path: "same" as never },
        { kind: "path", store: "tree", path: "" as never },
        { kind: "object", object: 999_999, run: 5, blocks: new Uint8Array(16).fill(255) },
        { kind: "object", object: objectAt(bravo, "same"), run: 0, blocks: new Uint8Array(16).fill(1) },
        { kind: "object", object: objectAt(bravo, "same"), run: 700, blocks: new Uint8Array(16).fill(1) },
      ]);
      await bravo.ship(alpha, { ask: async () => ({ payload: more, last: true }) });
      expectSame();
    });

    const lists: readonly [string, Uint8Array, RegExp][] = [
      ["of bytes that are none", Buffer.from("nothing of the kind"), /no list/],
      ["of pages without an entry, without end", new Uint8Array(0), /does not get on/],
      [
        "without end",
        packTouchedList(
          Array.from({ length: 10_000 }, () => ({ kind: "path", store: "tree", path: "x".repeat(3000) as never })),
        ),
        /more than/,
      ],
    ];
    for (const [what, payload, expected] of lists) {
      it(`is not listened to when it has a list ${what}`, async () => {
        const shipping = bravo.ship(alpha, { ask: async () => ({ payload, last: false }) });
        expect(await refusalOf(shipping)).to.match(expected);
        expect(anyTouched(alpha.catalog)).to.equal(true);
        await bravo.ship(alpha);
        expectSame();
      });
    }

    const liesOfPrimary: readonly [string, (message: BulkMessage) => BulkMessage | undefined][] = [
      ["leaves out a path", onRows(({ paths, ...rest }) => ({ ...rest, paths: paths.slice(1) }))],
      [
        "leaves out bytes, and counts them",
        (message) =>
          message.kind === "extents"
            ? { ...message, extents: message.extents.map((extent) => ({ ...extent, offset: extent.offset + page })) }
            : message,
      ],
      [
        "ends with another digest",
        (message) => (message.kind === "cutEnd" ? { ...message, digest: new Uint8Array(32) } : message),
      ],
      [
        "speaks of another mode than its digest",
        onRows(({ objects, ...rest }) => ({ ...rest, objects: objects.map((row) => ({ ...row, mode: 0o600 })) })),
      ],
      [
        "has another size of blocks",
        onRows(({ objects, ...rest }) => ({
          ...rest,
          objects: objects.map((row) => (row.type === "file" ? { ...row, blockSize: 8192 } : row)),
        })),
      ],
    ];
    for (const [what, lie] of liesOfPrimary) {
      it(`commits nothing of a primary that ${what}`, async () => {
        const before = describeTree(alpha.root);
        const standing = alpha.catalog.standing;
        const left = listed(alpha);
        const shipping = bravo.ship(alpha, {
          tamper: (message, payload) => {
            const told = lie(message);
            return told === undefined ? undefined : [told, payload];
          },
        });
        expect(await refusalOf(shipping)).to.match(/^(REJOIN_UNPROVEN|CUT_DAMAGED|CUT_MALFORMED)/);
        expect(alpha.catalog.standing).to.deep.equal(standing);
        expect(describeTree(alpha.root)).to.deep.equal(before);
        expect(listed(alpha)).to.deep.equal(left);
        await bravo.ship(alpha);
        expectSame();
      });
    }
  });

  function listed(node: Node): TouchedEntry[] {
    const start: TouchedPlace = { store: "", path: "" as never, object: 0, run: 0 };
    return [...touchedPage(node.catalog, start, 1024 * 1024).entries];
  }

  function objectAt(node: Node, path: string): ObjectId {
    const object = node.primary.manifest.objectAtPath(1, path as never, node.catalog.standing.committed.seq);
    if (object === undefined) throw new Error(`nothing at ${path}`);
    return object;
  }

  async function expectUnproven(shipping: Promise<unknown>): Promise<void> {
    const large = readFileSync(join(alpha.root, "large"));
    const standing = alpha.catalog.standing;
    expect(await refusalOf(shipping)).to.match(/^REJOIN_UNPROVEN: .*understudy adopt/);
    expect(alpha.catalog.standing).to.deep.equal(standing);
    expect(readFileSync(join(alpha.root, "large")).equals(large)).to.equal(true);
    expect(anyTouched(alpha.catalog)).to.equal(true);
  }
});

function onRows(
  change: (rows: Extract<BulkMessage, { kind: "rows" }>) => BulkMessage,
): (message: BulkMessage) => BulkMessage {
  return (message) => (message.kind === "rows" ? change(message) : message);
}

function without(
  kind: BulkMessage["kind"],
): (message: BulkMessage, payload: Uint8Array) => [BulkMessage, Uint8Array] | undefined {
  return (message, payload) => (message.kind === kind ? undefined : [message, payload]);
}

async function refusalOf(shipping: Promise<unknown>): Promise<string> {
  try {
    await shipping;
    return "";
  } catch (error) {
    if (error instanceof UnderstudyError) return `${error.code}: ${error.message} ${error.hint}`;
    return error instanceof Error ? error.message : String(error);
  }
}
