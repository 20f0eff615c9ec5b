import {
  appendFileSync,
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { createFilesStore } from "../../../../primary/stores/files/files-store.ts";
import { describeTree, ModelConsumer } from "./model-consumer.ts";

const runs = 60;
const stepsInRun = 60;

describe("files store under random operations", () => {
  it("gives a manifest equal to the tree whatever was done to it, by changes and by scan", async function () {
    this.timeout(60_000);
    const first = Number(process.env.UNDERSTUDY_SEED ?? Math.floor(Math.random() * 2 ** 31));
    for (let run = 0; run < runs; run++) await runWithSeed(first + run);
    console.log(`      seeds ${first} to ${first + runs - 1}`);
  });
});

async function runWithSeed(seed: number): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), "understudy-files-"));
  const root = join(scratch, "tree");
  mkdirSync(root);
  writeFileSync(join(root, kept), ""); // An empty root would be a source that vanished.
  const random = randomOf(seed);
  const log: string[] = [];
  // Never both: what happens to a file through an excluded link is told by no event, as through one out of the tree.
  const withLinks = random(2) === 0;
  const adapter = createFilesStore({ path: root, exclude: withLinks ? [] : ["*.tmp"] });
  const consumer = new ModelConsumer();
  consumer.live = random(2) === 0;
  try {
    await adapter.start(() => {});
    for (let step = 0; step < stepsInRun; step++) {
      log.push(...operate(root, random, withLinks));
      if (random(6) !== 0) continue;
      const depth = random(5) === 0 ? ("scan" as const) : ("changes" as const);
      const rounds = 1 + random(2);
      log.push(`view ${depth}, ${rounds} rounds, ${random.calls}`);
      const disturb = random(3) === 0 ? 0.2 : 0;
      if (consumer.cut && random(6) === 0) await dropView(adapter, consumer, random);
      await consumer.take(
        adapter,
        { depth, frozen: random(8) === 0 },
        () => {
          if (random(100) < disturb * 100)
            log.push(...operate(root, random, withLinks).map((line) => `  in the view: ${line}`));
        },
        rounds,
      );
    }
    // A link that was made, written through and removed between two views told nothing of the others: only a scan sees.
    await consumer.take(adapter, { depth: withLinks ? "scan" : "changes" });
    await consumer.take(adapter); // What was behind in the first.
    const [ours, real] = [consumer.describe(), describeTree(root, withLinks ? undefined : /\.tmp$/)];
    expect(different(ours, real).join("\n"), "manifest").to.equal(different(real, ours).join("\n"));
  } catch (error) {
    throw new Error(`seed ${seed} (UNDERSTUDY_SEED=${seed}):\n${log.join("\n")}`, { cause: error });
  } finally {
    await adapter.close();
    rmSync(scratch, { recursive: true, force: true });
  }
}

function different(lines: Map<string, string>, others: Map<string, string>): string[] {
  return [...lines].filter(([path, line]) => others.get(path) !== line).map(([path, line]) => `${path}: ${line}`);
}

async function dropView(
  adapter: ReturnType<typeof createFilesStore>,
  consumer: ModelConsumer,
  random: Random,
): Promise<void> {
  const view = await adapter.enter(consumer, { depth: "changes", frozen: false }, new AbortController().signal);
  for await (const found of view.changes()) {
    if (found.kind === "entry") found.content?.settle();
    if (random(10) === 0) break;
  }
  await view.leave("dropped");
}

type Random = ((below: number) => number) & { calls: number };

function randomOf(seed: number): Random {
  let state = seed | 0;
  const random = ((below: number) => {
    random.calls++;
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  }) as Random;
  random.calls = 0;
  return random;
}

const kept = "kept";
const names = ["a", "b", "c-1", "c", "\u00ff\u00fe", "e\u0001", "f.tmp", "\u00e4"];

/** One random thing that a program may do to a tree; what cannot be done is left. */
function operate(root: string, random: Random, withLinks: boolean): string[] {
  const directories: string[] = [""];
  const others: string[] = [];
  const collect = (directory: string): void => {
    for (const name of readdirSync(bytes(root, directory), "latin1")) {
      const path = directory === "" ? name : `${directory}/${name}`;
      if (lstatSync(bytes(root, path)).isDirectory()) {
        directories.push(path);
        collect(path);
      } else if (path !== kept) others.push(path);
    }
  };
  collect("");
  const pick = (from: string[]) => {
    if (from.length === 0) throw new Error("nothing to pick from");
    return from[random(from.length)]!;
  };
  const fresh = () => {
    const directory = pick(directories);
    const name = names[random(names.length)]!;
    return directory === "" ? name : `${directory}/${name}`;
  };
  const existing = () => (others.length > 0 && random(3) > 0 ? pick(others) : pick(directories));
  const at = (path: string) => bytes(root, path);
  const text = () => "x".repeat(random(3) * 3000) + random(1e9);
  const verbs: [string, () => string][] = [
    ["write", () => tell(fresh(), (path) => writeFileSync(at(path), text()))],
    ["write", () => tell(fresh(), (path) => writeFileSync(at(path), text()))],
    ["append", () => tell(pick(others), (path) => appendFileSync(at(path), text()))],
    ["truncate", () => tell(pick(others), (path) => truncateSync(at(path), random(4000)))],
    ["mkdir", () => tell(fresh(), (path) => mkdirSync(at(path)))],
    ["mkdir", () => tell(fresh(), (path) => mkdirSync(at(path)))],
    ["rename", () => tell(existing(), (from) => tell(fresh(), (to) => renameSync(at(from), at(to))))],
    ["rename", () => tell(existing(), (from) => tell(fresh(), (to) => renameSync(at(from), at(to))))],
    ["swap", () => tell(existing(), (one) => tell(existing(), (other) => swap(at, one, other)))],
    ["link", () => tell(pick(others), (from) => tell(fresh(), (to) => withLinks && linkSync(at(from), at(to))))],
    ["unlink", () => tell(existing(), (path) => path !== "" && rmSync(at(path), { recursive: true }))],
    ["recreate", () => tell(pick(directories), (path) => path !== "" && recreate(at(path)))],
    ["chmod", () => tell(existing(), (path) => chmodSync(at(path), random(2) === 0 ? 0o700 : 0o755))],
    ["utimes", () => tell(pick(others), (path) => utimesSync(at(path), 1e9, random(1e9)))],
    ["symlink", () => tell(fresh(), (path) => symlinkSync(Buffer.from(`../${path}\u00ff`, "latin1"), at(path)))],
  ];
  const [verb, act] = verbs[random(verbs.length)]!;
  try {
    return [`${verb} ${act()}`];
  } catch {
    return []; // EEXIST, ENOTEMPTY, EISDIR, EINVAL, ENOENT ...: nothing was done.
  }
}

function tell(path: string, act: (path: string) => unknown): string {
  const more = act(path);
  return `${JSON.stringify(path)} ${typeof more === "string" ? more : ""}`;
}

function swap(at: (path: string) => Buffer, one: string, other: string): void {
  if (
    one === "" ||
    other === "" ||
    one === other ||
    `${one}/`.startsWith(`${other}/`) ||
    `${other}/`.startsWith(`${one}/`)
  ) {
    throw new Error("not to be swapped");
  }
  renameSync(at(one), at("swapping"));
  renameSync(at(other), at(one));
  renameSync(at("swapping"), at(other));
}

function recreate(path: Buffer): void {
  rmSync(path, { recursive: true });
  mkdirSync(path);
  writeFileSync(Buffer.concat([path, Buffer.from("/b")]), "anew");
}

function bytes(root: string, path: string): Buffer {
  return Buffer.from(path === "" ? root : `${root}/${path}`, "latin1");
}
