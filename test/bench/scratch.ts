import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A directory of its own for one benchmark, gone with it. */
export class Scratch {
  readonly path: string;

  constructor(parent: string | undefined, name: string) {
    this.path = mkdtempSync(join(parent ?? tmpdir(), `understudy-bench-${name}-`));
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** Everything that was written so far is on the disk: it is not charged to what is measured next. */
export function settleDisk(): void {
  spawnSync("sync");
}

const filesPerDirectory = 100;

/** Path of file `n` of a tree of small files, relative to its root. */
export function smallFilePath(n: number): string {
  const group = Math.floor(n / filesPerDirectory);
  return join(`d${group % 31}`, `e${group}`, `file-${n}.dat`);
}

/** A tree of `files` files of 0.5 to 2 KB that do not compress, a hundred in each directory. Gives its bytes. */
export function makeSmallFiles(root: string, files: number): number {
  const noise = randomNoise(1 << 20);
  let bytes = 0;
  for (let n = 0; n < files; n++) {
    const path = join(root, smallFilePath(n));
    if (n % filesPerDirectory === 0) mkdirSync(join(path, ".."), { recursive: true });
    const length = 512 + ((n * 7919) % 1536);
    const at = (n * 104_729) % (noise.length - length);
    writeFileSync(path, noise.subarray(at, at + length));
    bytes += length;
  }
  return bytes;
}

export function randomNoise(length: number): Buffer {
  const result = Buffer.allocUnsafe(length);
  // A generator of its own, quicker than the kernel's: what counts is that nothing repeats within a window of zstd.
  let state = (Date.now() & 0x7fff_ffff) | 1;
  for (let at = 0; at + 4 <= length; at += 4) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    result.writeInt32LE(state, at);
  }
  return result;
}

/** Resolves with the exit code and what the program printed. */
export async function run(
  program: string,
  parameters: readonly string[],
  env: NodeJS.ProcessEnv = process.env,
): Promise<{ code: number; out: string; ms: number }> {
  const begun = performance.now();
  const child = spawn(program, parameters, { stdio: ["ignore", "pipe", "pipe"], env });
  let out = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    out += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    out += text;
  });
  const code = await new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status) => resolve(status ?? 1));
  });
  return { code, out, ms: performance.now() - begun };
}

/** The same, and an error unless it ended well. Gives the milliseconds that it took. */
export async function timed(program: string, parameters: readonly string[]): Promise<number> {
  const { code, out, ms } = await run(program, parameters);
  if (code !== 0) throw new Error(`${program} ended with ${code}: ${out.slice(-2000)}`);
  return ms;
}

export function isInstalled(program: string): boolean {
  return spawnSync("sh", ["-c", `command -v ${program}`]).status === 0;
}

/** A number of `/proc/PID/FILE`, undefined when the process is gone. */
export function procNumber(pid: number, file: string, pattern: RegExp): number | undefined {
  try {
    const found = pattern.exec(readFileSync(`/proc/${pid}/${file}`, "latin1"));
    return found?.[1] === undefined ? undefined : Number(found[1]);
  } catch {
    return undefined; // It ended between two looks: what it had is kept from the last one.
  }
}

/** Also those that other threads than the first have started. */
export function childrenOf(pid: number): number[] {
  try {
    const direct = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
      readFileSync(`/proc/${pid}/task/${task}/children`, "latin1").split(" ").filter(Boolean).map(Number),
    );
    return direct.flatMap((child) => [child, ...childrenOf(child)]);
  } catch {
    return []; // It ended between two looks.
  }
}

export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  limitMs: number,
  stepMs = 20,
): Promise<void> {
  const end = performance.now() + limitMs;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`${what}: not within ${limitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, stepMs));
  }
}
