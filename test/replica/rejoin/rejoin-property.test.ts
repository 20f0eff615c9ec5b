import {
  appendFileSync,
  chmodSync,
  closeSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { thinningByRetention } from "../../../replica/history/thin.ts";
import { anyTouched } from "../../../shared/catalog/collapse.ts";
import { hex } from "../../../shared/manifest/digest.ts";
import { commonCut } from "../../../shared/session/epochs.ts";
import type { BulkMessage } from "../../../shared/wire/messages.ts";
import { sameCut } from "../../../shared/words.ts";
import { describeTree } from "../../model/describe-tree.ts";
import { type Node, TwoNodes } from "../../model/two-nodes.ts";

const runs = Number(process.env.UNDERSTUDY_RUNS ?? 6);

/**
 * Two nodes have a cut in common and part: the replica is promoted, the former primary goes on by itself for a while. Then
 * it follows, and has with one cut exactly what the other has, for which no more crosses the line than what either of them
 * changed. Several times, in turns.
 */
describe("a node that rejoins, after random histories of both", () => {
  it("has with its first cut what the primary has, for no more than what changed", async function () {
    this.timeout(runs * 20_000);
    const first = Number(process.env.UNDERSTUDY_SEED ?? Math.floor(Math.random() * 2 ** 31));
    for (let run = 0; run < runs; run++) await partAndRejoin(first + run);
    console.log(`      seeds ${first} to ${first + runs - 1}`);
  });

  it("does so as a replica that was ahead of the one that was promoted, and as the primary of both", async function () {
    this.timeout(runs * 20_000);
    const first = Number(process.env.UNDERSTUDY_SEED ?? Math.floor(Math.random() * 2 ** 31));
    for (let run = 0; run < runs; run++) await leaveBehindAndRejoin(first + run);
    console.log(`      seeds ${first} to ${first + runs - 1}`);
  });

  it("goes on from what it has where that primary is lost before, and all others follow it", async function () {
    this.timeout(runs * 20_000);
    const first = Number(process.env.UNDERSTUDY_SEED ?? Math.floor(Math.random() * 2 ** 31));
    for (let run = 0; run < runs; run++) await goOnFromWhatRejoins(first + run);
    console.log(`      seeds ${first} to ${first + runs - 1}`);
  });
});

/**
 * Where its new primary is lost before the first cut, a node that rejoins is promoted as it is. The others follow it from
 * wherever they are: at the common cut, before it, or beyond it in one reign or another.
 */
async function goOnFromWhatRejoins(seed: number): Promise<void> {
  const random = randomOf(seed);
  const log: string[] = [];
  await using pair = await TwoNodes.start();
  const [alpha, bravo] = pair.nodes;
  const charlie = await pair.another("charlie");
  const work = (node: Node, most: number): void => {
    for (let step = random(most); step >= 0; step--) log.push(`${node.name}: ${operate(node.root, random)}`);
  };
  const cutFor = async (node: Node, ...others: readonly Node[]): Promise<void> => {
    work(node, 8);
    log.push(`${node.name} cuts for ${others.map(({ name }) => name).join(" and ") || "itself"}`);
    if (others.length === 0) await node.cut(0n);
    for (const to of others) await node.ship(to);
  };
  try {
    writeFileSync(join(alpha.root, "kept"), "");
    for (let cut = 0; cut < 3; cut++) await cutFor(alpha, bravo, charlie);
    const place = random(3);
    for (let cut = random(3); cut > 0; cut--) await cutFor(alpha, place === 0 ? charlie : bravo);
    for (let cut = 1 + random(2); cut > 0; cut--) await cutFor(alpha);
    await bravo.promote();
    log.push("bravo is promoted");
    for (let cut = 1 + random(2); cut > 0; cut--) await cutFor(bravo);
    // It was ahead of the one that was promoted, or was behind it, or has had cuts of that reign.
    const ahead = isAhead(charlie, bravo);
    const rejoining = ahead && random(2) === 0 ? charlie : alpha;
    // It gets as one cut what was several: those between it never had, nor what was there in them alone.
    if (place === 2 && !ahead) {
      charlie.follow(bravo);
      await cutFor(bravo, charlie);
    }
    if (rejoining === alpha) await alpha.demote(bravo);
    else charlie.goBack(bravo);
    rejoining.follow(bravo);
    if (random(2) === 0) {
      const cutOff = (message: BulkMessage, payload: Uint8Array): [BulkMessage, Uint8Array] | undefined =>
        message.kind === "cutEnd" ? undefined : [message, payload];
      await bravo.ship(rejoining, { ahead: random(2) === 0, tamper: cutOff }).then(
        () => expect(anyTouched(rejoining.catalog), "nothing was touched").to.equal(false),
        (error: unknown) => log.push(`bravo is lost: ${String(error)}`),
      );
    }
    log.push(`${rejoining.name} is promoted`);
    const had = describeTree(rejoining.root);
    await rejoining.promote("rejoining");
    expect(describeTree(rejoining.root)).to.deep.equal(had);
    if (random(2) === 0) await cutFor(rejoining);
    for (const node of [alpha, bravo, charlie].filter((other) => other !== rejoining)) {
      if (node.catalog.standing.role === "primary") await node.demote(rejoining);
      else if (isAhead(node, rejoining)) node.goBack(rejoining);
      node.follow(rejoining);
      const bytesMax = rejoining.lackingBytes(node);
      log.push(`${node.name} follows ${rejoining.name}`);
      const { bytes } = await rejoining.ship(node, { ahead: random(3) === 0 });
      expectSame(rejoining, node);
      expect(bytes).to.be.at.most(bytesMax);
      expect(anyTouched(node.catalog)).to.equal(false);
    }
    await cutFor(rejoining, ...[alpha, bravo, charlie].filter((other) => other !== rejoining));
    for (const node of [alpha, bravo, charlie]) expectSame(rejoining, node);
  } catch (error) {
    throw new Error(`seed ${seed} (UNDERSTUDY_SEED=${seed}):\n${log.join("\n")}`, { cause: error });
  }
}

/** It has cuts that the history of the other has not. */
function isAhead(node: Node, other: Node): boolean {
  const { standing } = node.catalog;
  const common = commonCut(standing, other.catalog.standing);
  return common === undefined || !sameCut(common, standing.committed);
}

async function leaveBehindAndRejoin(seed: number): Promise<void> {
  const random = randomOf(seed);
  const log: string[] = [];
  await using pair = await TwoNodes.start();
  const [alpha, bravo] = pair.nodes;
  const charlie = await pair.another("charlie");
  const work = (node: Node, most: number): void => {
    for (let step = random(most); step >= 0; step--) log.push(`${node.name}: ${operate(node.root, random)}`);
  };
  try {
    writeFileSync(join(alpha.root, "kept"), "");
    for (let cut = 0; cut < 3; cut++) {
      work(alpha, 12);
      for (const to of [bravo, charlie]) await alpha.ship(to);
      log.push("alpha cuts for both");
    }
    charlie.keepsHistory = random(2) === 0;
    if (!charlie.keepsHistory) log.push("charlie keeps no history");
    for (let cut = 1 + random(3); cut > 0; cut--) {
      work(alpha, 8);
      await alpha.ship(charlie);
      log.push("alpha cuts for charlie");
      if (!charlie.keepsHistory) thin(charlie);
    }
    if (random(2) === 0) {
      work(alpha, 8);
      await alpha.cut(0n);
      log.push("alpha cuts for itself");
    }
    await bravo.promote();
    log.push("bravo is promoted");
    work(bravo, 8);
    await bravo.cut(0n);
    // Or the other is promoted, too, without having heard of it: the higher reign counts.
    const both = random(2) === 0;
    const [winner, loser] = both ? [charlie, bravo] : [bravo, charlie];
    if (both) {
      await charlie.promote();
      log.push("charlie is promoted");
      work(charlie, 8);
      await charlie.cut(0n);
      await bravo.demote(charlie);
    } else charlie.goBack(bravo);
    await alpha.demote(winner);
    for (const node of [loser, alpha]) {
      node.follow(winner);
      const bytesMax = winner.lackingBytes(node);
      log.push(`${node.name} rejoins`);
      const { bytes } = await winner.ship(node, { ahead: random(2) === 0 });
      expectSame(winner, node);
      expect(bytes).to.be.at.most(bytesMax);
      expect(anyTouched(node.catalog)).to.equal(false);
    }
    work(winner, 8);
    for (const node of [loser, alpha]) {
      await winner.ship(node);
      expectSame(winner, node);
    }
  } catch (error) {
    throw new Error(`seed ${seed} (UNDERSTUDY_SEED=${seed}):\n${log.join("\n")}`, { cause: error });
  }
}

async function partAndRejoin(seed: number): Promise<void> {
  const random = randomOf(seed);
  const log: string[] = [];
  await using pair = await TwoNodes.start();
  let [primary, replica] = pair.nodes;
  const work = (node: Node, most: number): void => {
    for (let step = random(most); step >= 0; step--) log.push(`${node.name}: ${operate(node.root, random)}`);
  };
  try {
    writeFileSync(join(primary.root, "kept"), "");
    for (let cut = 0; cut < 3; cut++) {
      work(primary, 12);
      log.push(`${primary.name} cuts`);
      await primary.ship(replica);
    }
    for (let turn = 0; turn < 3; turn++) {
      // What only one of them has.
      const forgotten = replica.catalog.standing.committed.seq;
      for (let cut = random(4); cut > 0; cut--) {
        work(primary, 8);
        log.push(`${primary.name} cuts for itself`);
        await primary.cut(forgotten);
      }
      await replica.promote();
      log.push(`${replica.name} is promoted`);
      for (let cut = random(3); cut > 0; cut--) {
        work(replica, 8);
        log.push(`${replica.name} cuts for itself`);
        await replica.cut(0n);
      }
      await primary.demote(replica);
      log.push(`${primary.name} is demoted`);
      [primary, replica] = [replica, primary];
      replica.follow(primary);
      if (random(2) === 0) work(primary, 8);
      // So that what it lacks is known.
      await primary.cut(0n);
      const bytesMax = primary.lackingBytes(replica);
      const ahead = random(3) === 0;
      log.push(`${primary.name} ships${ahead ? ", ahead" : ""}`);
      const { bytes } = await primary.ship(replica, { ahead, touchedBytesMax: 1 + random(3) * 1000 });
      expectSame(primary, replica);
      expect(bytes).to.be.at.most(bytesMax);
      expect(anyTouched(replica.catalog)).to.equal(false);
      for (let cut = random(3); cut > 0; cut--) {
        work(primary, 8);
        log.push(`${primary.name} cuts`);
        await primary.ship(replica);
        expectSame(primary, replica);
      }
    }
  } catch (error) {
    throw new Error(`seed ${seed} (UNDERSTUDY_SEED=${seed}):\n${log.join("\n")}`, { cause: error });
  }
}

/** As each few seconds, where no history is kept. */
function thin({ replica }: Node): void {
  const keep = { allMs: undefined, perMinuteMs: undefined, perHourMs: undefined, perDayMs: undefined };
  const steps = thinningByRetention(replica, { keep, bytesMax: 0 }, new Set());
  while (steps.next().done !== true);
}

function expectSame(primary: Node, replica: Node): void {
  expect(hex(replica.catalog.standing.digest)).to.equal(hex(primary.catalog.standing.digest));
  const [copy, source] = [describeTree(replica.root), describeTree(primary.root)];
  for (const path of new Set([...Object.keys(copy), ...Object.keys(source)]))
    expect(copy[path] === source[path], `${path}: ${short(copy[path])} in place of ${short(source[path])}`).to.equal(
      true,
    );
}

function short(text: string | undefined): string {
  return text === undefined ? "nothing" : `${text.slice(0, 60)} (${text.length})`;
}

const names = ["a", "b", "c", "d", "e"];
const page = 4096;

/** Something that is done to a tree; says what. */
function operate(root: string, random: (below: number) => number): string {
  const paths = [...below(root, "")].filter((path) => path !== "kept");
  const files = paths.filter((path) => lstatSync(join(root, path)).isFile());
  const directories = ["", ...paths.filter((path) => lstatSync(join(root, path)).isDirectory())];
  const pick = (from: readonly string[]): string => from[random(from.length)]!;
  const place = (): string => {
    const directory = pick(directories);
    const name = pick(names);
    return directory === "" ? name : `${directory}/${name}`;
  };
  const free = (): string | undefined => {
    const path = place();
    return lstatSync(join(root, path), { throwIfNoEntry: false }) === undefined ? path : undefined;
  };
  const bytes = (length: number): Buffer => Buffer.alloc(length, 1 + random(255));
  const file = files.length === 0 ? undefined : pick(files);
  switch (random(13)) {
    case 0:
    case 1: {
      const path = free();
      if (path === undefined) return "nothing";
      const size = random(5) === 0 ? 150 * page + random(page) : random(6 * page);
      writeFileSync(join(root, path), bytes(size));
      return `write ${path} (${size})`;
    }
    case 2: {
      if (file === undefined) return "nothing";
      writeFileSync(join(root, file), bytes(random(4 * page)));
      return `rewrite ${file}`;
    }
    case 3:
    case 4: {
      if (file === undefined) return "nothing";
      const { size } = lstatSync(join(root, file));
      const at = random(Math.ceil(size / page) + 3) * page;
      const written = openSync(join(root, file), "r+");
      writeSync(written, random(4) === 0 ? Buffer.alloc(page) : bytes(page), 0, page, at);
      closeSync(written);
      return `page of ${file} at ${at}`;
    }
    case 5: {
      if (file === undefined) return "nothing";
      const { size } = lstatSync(join(root, file));
      const to = random(size + 3 * page);
      truncateSync(join(root, file), to);
      return `truncate ${file} from ${size} to ${to}`;
    }
    case 6: {
      if (file === undefined) return "nothing";
      appendFileSync(join(root, file), bytes(random(2 * page)));
      return `append to ${file}`;
    }
    case 7: {
      const path = free();
      if (path === undefined) return "nothing";
      mkdirSync(join(root, path));
      return `make ${path}`;
    }
    case 8: {
      const path = free();
      if (path === undefined || file === undefined) return "nothing";
      linkSync(join(root, file), join(root, path));
      return `link ${path} to ${file}`;
    }
    case 9: {
      const path = free();
      if (path === undefined) return "nothing";
      symlinkSync(pick(names), join(root, path));
      return `symlink ${path}`;
    }
    case 10: {
      if (paths.length === 0) return "nothing";
      const from = pick(paths);
      const to = random(2) === 0 && file !== undefined && lstatSync(join(root, from)).isFile() ? file : free();
      if (to === undefined || to === from || to.startsWith(`${from}/`)) return "nothing";
      renameSync(join(root, from), join(root, to));
      return `rename ${from} to ${to}`;
    }
    case 11: {
      if (paths.length === 0) return "nothing";
      const path = pick(paths);
      rmSync(join(root, path), { recursive: true });
      return `remove ${path}`;
    }
    default: {
      const path = pick([...files, ...directories]);
      const mode = pick(["700", "750", "755"]);
      chmodSync(join(root, path), Number.parseInt(mode, 8));
      return `chmod ${path} to ${mode}`;
    }
  }
}

function* below(root: string, directory: string): Generator<string> {
  for (const name of readdirSync(join(root, directory)).sort()) {
    const path = directory === "" ? name : `${directory}/${name}`;
    yield path;
    if (lstatSync(join(root, path)).isDirectory()) yield* below(root, path);
  }
}

function randomOf(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  };
}
