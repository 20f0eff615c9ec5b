import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  closeSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  watch,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createInterface } from "node:readline";
import { expect } from "chai";
import { cloneFirstBytesMin, Reflinks } from "../../../../primary/stores/files/reflink.ts";
import { SteadyFile } from "../../../../primary/stores/files/steady-file.ts";
import type { StorePath } from "../../../../shared/words.ts";
import { until } from "../../../until.ts";
import { LoopVolume } from "./loop-volume.ts";
import { describeTree } from "./model-consumer.ts";
import { Scratch } from "./scratch.ts";

/** Everything is older than 2 s from now on. */
const aged = 10_000;
const megabyte = 2 ** 20;

describe("files store on a filesystem with reflink", () => {
  let volume: LoopVolume;
  before(() => {
    volume = new LoopVolume("xfs");
  });
  // Nothing keeps a clone open: the volume could not be unmounted.
  after(() => volume?.[Symbol.dispose]());

  const scratchThere = (): Scratch => new Scratch({ within: volume.path });

  it("reads a file whole that changes each time it is read, from its second try on", async () => {
    await using scratch = scratchThere();
    const { consumer } = scratch;
    writeFileSync(scratch.at("restless"), "old");
    scratch.aheadMs = aged;
    const store = await scratch.store({ reflink: true });

    const summary = await consumer.take(store, {}, ({ path }) => {
      if (path === "restless") appendFileSync(scratch.at("restless"), "!");
    });

    expect(consumer.moved).to.equal(1);
    expect(summary).to.include({ consistency: "whole" });
    expect(summary.behind).to.deep.equal([]);
    // The second `!` came after the clone.
    expect(consumer.describe().get("restless")).to.include(" old! ");
    await until(() => store.dirty(), "that it changed since is not forgotten");
    await consumer.take(store);
    expect([...consumer.describe()]).to.deep.equal([...describeTree(scratch.root)]);
    expect(store.health.reflink).to.deep.equal({ cloned: 1, reason: "" });
  });

  it("lists it as behind where reflink is turned off", async () => {
    await using scratch = scratchThere();
    writeFileSync(scratch.at("restless"), "old");
    const store = await scratch.store({ reflink: false });
    const summary = await scratch.consumer.take(store, {}, ({ path }) => {
      if (path === "restless") appendFileSync(scratch.at("restless"), "!");
    });
    expect(summary.behind).to.deep.equal(["restless"]);
  });

  it("reads a large file from a clone at once, and keeps that for a replica that needs more of it", async () => {
    await using scratch = scratchThere();
    const file = scratch.at("large");
    writeFileSync(file, Buffer.alloc(cloneFirstBytesMin + megabyte, 1));
    scratch.aheadMs = aged;
    const store = await scratch.store({ reflink: true });
    const view = await store.enter(scratch.consumer, { depth: "changes", frozen: false }, new AbortController().signal);
    const overwrite = (value: number): void => {
      const descriptor = openSync(file, "r+");
      writeSync(descriptor, Buffer.alloc(megabyte, value), 0, megabyte, 0);
      closeSync(descriptor);
    };
    let outcome = "";
    for await (const found of view.changes()) {
      if (found.kind !== "entry" || found.content === undefined) continue;
      const { content, entry } = found;
      const bytes = Buffer.alloc(entry.size);
      for (let at = 0; at < bytes.length; at += megabyte) {
        if (at === megabyte) overwrite(2);
        expect(content.read(bytes.subarray(at, at + megabyte), at)).to.equal(megabyte);
      }
      outcome = content.settle();
      expect(new Set(bytes), "the bytes of one instant").to.deep.equal(new Set([1]));
    }
    expect(outcome).to.equal("stable");
    overwrite(3);
    expect(new Set(view.read("large" as StorePath, 0, megabyte))).to.deep.equal(new Set([1]));
    await view.leave("taken");
    expect(openClones(), "kept until the view ends").to.deep.equal([]);
  });

  it("knows a clone by stamps from before it, so that what came between is met again", async () => {
    await using scratch = scratchThere();
    const file = scratch.at("file");
    writeFileSync(file, "old");
    const before = lstatSync(file, { bigint: true });
    const opened = SteadyFile.open(file, before, () => false);
    if (opened.kind !== "opened") throw new Error(opened.kind);
    appendFileSync(file, ", newer");
    const reflinks = new Reflinks();

    const clone = reflinks.clone("file" as StorePath, file, opened.file);

    expect(clone).to.include({ size: 10, overtaken: true });
    expect(clone?.stat).to.include({ size: 3n, ctimeNs: before.ctimeNs });
    const content = Buffer.alloc(10);
    expect(clone?.read(content, 0)).to.equal(10);
    expect(content.toString()).to.equal("old, newer");
    reflinks.release();
  });

  it("leaves a file alone for long whose clone takes long, since its writers wait for it", async () => {
    await using scratch = scratchThere();
    const file = scratch.at("in pieces");
    writeFileSync(file, "content");
    let now = 0;
    let stepMs = 0;
    const reflinks = new Reflinks(() => {
      now += stepMs;
      return now;
    });
    const clone = (tookMs: number): unknown => {
      stepMs = tookMs;
      const opened = SteadyFile.open(file, lstatSync(file, { bigint: true }), () => false);
      if (opened.kind !== "opened") throw new Error(opened.kind);
      const cloned = reflinks.clone("in pieces" as StorePath, file, opened.file);
      opened.file.settle();
      return cloned;
    };
    for (const tookMs of [0, 1, 30]) expect(clone(tookMs), `after one that took ${tookMs} ms`).to.include({ size: 7 });
    expect(clone(0)).to.equal(undefined);
    expect(reflinks.reason).to.match(/its writers waited/);
    now += 20 * 30;
    expect(clone(0)).to.include({ size: 7 });
    reflinks.release();
  });

  it("does not take its own clone for a change", async () => {
    await using scratch = scratchThere();
    writeFileSync(scratch.at("large"), Buffer.alloc(cloneFirstBytesMin, 1));
    scratch.aheadMs = aged;
    const store = await scratch.store({ reflink: true });
    await scratch.consumer.take(store);
    writeFileSync(scratch.at("large"), Buffer.alloc(cloneFirstBytesMin, 2));
    await until(() => store.dirty(), "the change is seen");
    const names: string[] = [];
    const watcher = watch(scratch.root, (_, name) => names.push(String(name)));

    await scratch.consumer.take(store);

    // The kernel hands all watches of a thread their events in one queue: the store has had its own by then.
    await until(() => names.some((name) => name.startsWith("#")), "the kernel tells of the clone");
    watcher.close();
    expect(store.health.reflink?.cloned).to.equal(2);
    expect(store.dirty()).to.equal(false);
  });

  it("hears of a file that is called as a clone is told of", async () => {
    await using scratch = scratchThere();
    writeFileSync(scratch.at("#17"), "old");
    scratch.aheadMs = aged;
    const store = await scratch.store({ reflink: true });
    await scratch.consumer.take(store);
    expect(store.dirty()).to.equal(false);
    writeFileSync(scratch.at("#17"), "newer");
    await until(() => store.dirty(), "the change is seen");
    await scratch.consumer.take(store);
    expect(scratch.consumer.describe().get("#17")).to.include(" newer ");
  });

  it("reads the file itself where its clone could fill the filesystem", async () => {
    await using scratch = scratchThere();
    const bytes = 130 * megabyte;
    writeFileSync(scratch.at("large"), "");
    writeFileSync(scratch.at("large"), Buffer.alloc(bytes, 1));
    const store = await scratch.store({ reflink: true });
    const summary = await scratch.consumer.take(store);
    expect(summary.behind).to.deep.equal([]);
    expect(store.health.reflink).to.deep.include({ cloned: 0 });
    expect(store.health.reflink?.reason).to.match(/too little is free/);
  });

  for (const how of ["calls", "mmap"] as const) {
    it(`reads what ${how} write all the time at one instant, and ends with the last of it`, async () => {
      await using scratch = scratchThere();
      const { consumer } = scratch;
      const file = scratch.at("hot");
      writeFileSync(file, Buffer.alloc(64 * 4096));
      const store = await scratch.store({ reflink: true });
      let last: number;
      {
        await using writer = new SteadyWriter(file, how);
        await writer.begun();
        // Of a busy disk a clone may take so long that the next one has to wait: then the file is behind for once.
        const deadline = performance.now() + 30_000;
        for (let cut = 0; (store.health.reflink?.cloned ?? 0) < 12; cut++) {
          expect(performance.now()).to.be.below(deadline);
          await consumer.take(store, { depth: "scan" }, ({ path }) => {
            // Whatever was opened has moved by the time it is read.
            if (path === "hot") waitForChange(file);
          });
          const content = Buffer.from(consumer.rows.get("hot" as StorePath)!.object.content);
          const numbers = Array.from({ length: 64 }, (_, page) => content.readBigUInt64LE(page * 4096));
          // A page is never ahead of one before it, nor more than one behind.
          expect(numbers, `cut ${cut}`).to.deep.equal(numbers.toSorted((a, b) => Number(b - a)));
          expect(Number(numbers[0]! - numbers.at(-1)!)).to.be.at.most(how === "calls" ? 0 : 1);
        }
        last = await writer.stop();
      }
      scratch.aheadMs = aged;
      await consumer.take(store);
      const content = Buffer.from(consumer.rows.get("hot" as StorePath)!.object.content);
      expect(Number(content.readBigUInt64LE(63 * 4096))).to.equal(last);
    });
  }

  function openClones(): string[] {
    return readdirSync("/proc/self/fd")
      .flatMap((descriptor) => {
        try {
          return [readlinkSync(`/proc/self/fd/${descriptor}`)];
        } catch {
          return []; // That of the listing itself.
        }
      })
      .filter((target) => target.startsWith(volume.path) && target.endsWith(" (deleted)"));
  }
});

/** Until the first page has another number: the file is read here through the page cache, as the writer's. */
function waitForChange(file: string): void {
  const number = (): bigint => {
    const head = Buffer.alloc(8);
    const descriptor = openSync(file, "r");
    readSync(descriptor, head, 0, 8, 0);
    closeSync(descriptor);
    return head.readBigUInt64LE();
  };
  const before = number();
  for (const deadline = performance.now() + 10_000; number() === before; )
    if (performance.now() > deadline) throw new Error("the writer stands still");
}

/** A process that numbers all pages of a file, from the first to the last, over and over. */
class SteadyWriter implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  constructor(file: string, how: "calls" | "mmap") {
    const program = `
import mmap, os, struct, sys, threading
f = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(f, 0) if sys.argv[2] == "mmap" else None
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
n = 0
while not stop.is_set():
    n += 1
    number = struct.pack("<Q", n)
    if m is None:
        os.pwrite(f, b"".join(number + bytes(4088) for _ in range(64)), 0)
    else:
        for page in range(64):
            m[page * 4096:page * 4096 + 8] = number
    if n == 1:
        print("begun", flush=True)
print(n, flush=True)
`;
    this.#child = spawn("python3", ["-c", program, file, how], { stdio: ["pipe", "pipe", "inherit"] });
    this.#answers = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  async begun(): Promise<void> {
    expect((await this.#answers.next()).value).to.equal("begun");
  }

  /** Gives the last number that it wrote. */
  async stop(): Promise<number> {
    this.#child.stdin!.write("stop\n");
    return Number((await this.#answers.next()).value);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const exit = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    if (this.#child.exitCode === null && this.#child.signalCode === null) await exit;
  }
}
