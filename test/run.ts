import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

/**
 * `npm test`: the whole suite, in two lanes beside each other, each file or folder in a mocha of its own. What a mocha
 * says is printed whole when it has ended; at the end the failures are named once more, and the counts of all.
 *
 *     npm test                          everything; `-- --counts FILE` writes the last line there, too
 *     npm test -- FILE... [OPTION...]   one mocha with these words, as it speaks
 */

const root = fileURLToPath(new URL("..", import.meta.url));
const mocha = join(root, "node_modules/mocha/bin/mocha.js");
const lanes = 2;

/** Folders whose files take long: each file is a unit of its own; of other folders the folder is. */
const apart = [
  ...["test/crash", "test/deploy/demo", "test/end-to-end", "test/end-to-end/runbooks", "test/explorer", "test/hostile"],
  ...["test/pacemaker", "test/replica/rejoin"],
];
/** What computes, and what mostly waits for processes of its own: a lane begins with each. */
const waits = ["test/deploy", "test/end-to-end", "test/hostile", "test/pacemaker", "test/random", "test/shared/link"];
/** Begun first, so that no lane is left with one of them when the other has ended. */
const long = [
  ...["test/random", "test/pacemaker/cluster.test.ts"],
  ...["test/explorer/explorer.test.ts", "test/crash/matrix.test.ts", "test/replica/rejoin/demote-crash.test.ts"],
  ...["test/crash/faults.test.ts", "test/crash/mutants.test.ts"],
  ...["test/crash/kill-rounds.test.ts", "test/end-to-end/switchover.test.ts", "test/end-to-end/roles.test.ts"],
  ...["test/end-to-end/matrix-cases.test.ts", "test/end-to-end/rejoin.test.ts", "test/pacemaker/ocf-tester.test.ts"],
  ...["test/end-to-end/slow-line.test.ts", "test/end-to-end/history.test.ts"],
];

interface Unit {
  readonly name: string;
  readonly files: readonly string[];
}

interface Outcome {
  readonly unit: Unit;
  readonly seconds: number;
  readonly passed: number;
  readonly failed: number;
  /** Undefined: it ran to its end. */
  readonly broken: string | undefined;
  /** The last lines of what it said: where a mocha tells of its failures. */
  readonly lastLines: readonly string[];
  /** Its failures, in a few lines each. */
  readonly inShort: readonly string[];
}

/** So many lines of the failures are said once more at the end. */
const lastLinesMax = 150;
/** And so many in short after them, where no more than the very end of a long output is shown. */
const shortLinesMax = 24;

async function testUnits(): Promise<Unit[]> {
  const units = new Map<string, string[]>();
  for (const entry of await readdir(join(root, "test"), { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !entry.name.endsWith(".test.ts")) continue;
    const file = relative(root, join(entry.parentPath, entry.name));
    const name = apart.includes(dirname(file)) ? file : dirname(file);
    units.set(name, [...(units.get(name) ?? []), file]);
  }
  const place = ({ name }: Unit): number => (long.includes(name) ? long.indexOf(name) : long.length);
  return [...units]
    .map(([name, files]) => ({ name, files: files.sort() }))
    .sort((a, b) => place(a) - place(b) || (a.name < b.name ? -1 : 1));
}

/** What every mocha has in its environment. */
const environment = {
  ...process.env,
  // Stripping and compiling the sources anew is half of what each process of a test costs.
  NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE ?? join(root, "node_modules/.cache/understudy-compiled"),
};

async function run(unit: Unit, lane: number, directory: string): Promise<Outcome> {
  const counts = join(directory, unit.name.replaceAll("/", "-"));
  const begun = performance.now();
  const reporter = ["--reporter", join(root, "test/reporter.cjs"), "--reporter-option", `counts=${counts}`];
  const child = spawn(process.execPath, [mocha, ...reporter, ...unit.files], {
    cwd: root,
    env: { ...environment, UNDERSTUDY_TEST_LANE: String(lane) },
    stdio: ["ignore", "pipe", "pipe"],
  });
  process.stdout.write(`  ${unit.name} begins\n`);
  const said: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => said.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => said.push(chunk));
  const end = await new Promise<string>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve(signal ?? `${code}`));
  });
  const seconds = (performance.now() - begun) / 1000;
  process.stdout.write(`\n▶ ${unit.name} (${seconds.toFixed(1)} s)\n`);
  process.stdout.write(Buffer.concat(said));
  const [line = "", ...inShort] = (await readFile(counts, "utf8").catch(() => "")).trimEnd().split("\n");
  const counted = /^(\d+) passed, (\d+) failed$/.exec(line);
  const [passed, failed] = [Number(counted?.[1] ?? 0), Number(counted?.[2] ?? 0)];
  let broken: string | undefined;
  if (counted === null) broken = `did not run to its end (${end})`;
  else if (passed + failed === 0) broken = "has no test";
  else if (end !== String(Math.min(failed, 255))) broken = `ended with ${end}`;
  const lastLines = Buffer.concat(said).toString("utf8").trimEnd().split("\n").slice(-lastLinesMax);
  return { unit, seconds, passed, failed, broken, lastLines, inShort };
}

/** Of all that ran and was waited for by whoever had started it. */
async function processorSeconds(): Promise<number> {
  const stat = await readFile("/proc/self/stat", "utf8");
  const [user = 0, system = 0] = stat.slice(stat.lastIndexOf(")")).split(" ").slice(14, 16).map(Number);
  return (user + system) / 100;
}

async function runAll(countsFile: string | undefined): Promise<boolean> {
  const units = await testUnits();
  const directory = await mkdtemp(join(tmpdir(), "understudy-test-"));
  const begun = performance.now();
  const outcomes: Outcome[] = [];
  try {
    const queues = [
      units.filter(({ name }) => !waits.some((folder) => name.startsWith(folder))),
      units.filter(({ name }) => waits.some((folder) => name.startsWith(folder))),
    ];
    const lane = async (number: number): Promise<void> => {
      for (;;) {
        const unit = queues[number % 2]!.shift() ?? queues[(number + 1) % 2]!.shift();
        if (unit === undefined) return;
        outcomes.push(await run(unit, number, directory));
      }
    };
    await Promise.all(Array.from({ length: lanes }, async (_, number) => await lane(number)));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
  const sum = (of: (outcome: Outcome) => number): number => outcomes.reduce((total, outcome) => total + of(outcome), 0);
  const processor = await processorSeconds();
  const minutes = (seconds: number): string => `${(seconds / 60).toFixed(1)} min`;
  const wall = (performance.now() - begun) / 1000;
  const inLanes = minutes(sum(({ seconds }) => seconds));
  const said = [`\n${minutes(wall)}; ${inLanes} in lanes, ${minutes(processor)} of processors; the longest:`];
  for (const { unit, seconds } of outcomes.toSorted((a, b) => b.seconds - a.seconds).slice(0, 8))
    said.push(`${seconds.toFixed(1).padStart(8)} s  ${unit.name}`);
  const bad = outcomes.filter(({ failed, broken }) => failed > 0 || broken !== undefined);
  for (const { unit, lastLines } of bad)
    said.push(`▶ the end of ${unit.name}`, ...lastLines.slice(-Math.floor(lastLinesMax / bad.length)), "");
  for (const { unit, failed, broken } of bad)
    said.push(
      `FAILED  ${unit.name}: ${[failed > 0 ? `${failed} failed` : "", broken ?? ""].filter(Boolean).join(", ")}`,
    );
  said.push(...bad.flatMap(({ inShort }) => inShort).slice(0, shortLinesMax));
  const broken = bad.filter((outcome) => outcome.failed === 0).length;
  const line = `${sum(({ passed }) => passed)} passed, ${sum(({ failed }) => failed) + broken} failed`;
  process.stdout.write(`${said.join("\n")}\n\n${line}\n`);
  if (countsFile !== undefined) await writeFile(countsFile, `${line}\n`);
  return bad.length === 0 && outcomes.some(({ passed }) => passed > 0);
}

const words = process.argv.slice(2);
if (words.length === 0 || words[0] === "--counts") {
  process.exitCode = (await runAll(words[1])) ? 0 : 1;
} else {
  const child = spawn(process.execPath, [mocha, ...words], { cwd: root, env: environment, stdio: "inherit" });
  child.once("close", (code, signal) => {
    process.exitCode = signal === null ? (code ?? 1) : 1;
  });
}
