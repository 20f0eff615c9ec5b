import { expect } from "chai";
import { CrashMatrix, type CrashPoint, type Scenario } from "./crash-matrix.ts";
import { randomScenario } from "./random-scenario.ts";
import { realProgram } from "./replica-program.ts";
import { scenarios } from "./scenarios.ts";
import { operationKinds, type PowerLossMode, powerLossModes } from "./simulated-disk.ts";

/** Seeds for each of the modes that choose by chance; `npm run soak` gives more. */
const seedCount = Number(process.env.UNDERSTUDY_CRASH_SEEDS ?? 1);
/** How many crash points share one whose recovery is crashed, too, and its operations one that is. */
const againEvery = seedCount > 1 ? 3 : 12;

/** Scenarios that chance makes: always the same few, and others, with every point crashed, in a soak. */
const firstSeed = Number(process.env.UNDERSTUDY_SEED ?? 1);
const randomSeeds = Array.from({ length: seedCount > 1 ? seedCount * 10 : 4 }, (_, index) => firstSeed + index);
const randomStride = seedCount > 1 ? 1 : 4;

const chosenByChance: ReadonlySet<PowerLossMode> = new Set(["torn", "reordered", "prefix"]);

/** Every transaction of receive, commit, apply and promote by its purpose; another one has to be brought here first. */
const commitPurposes = [
  ...["form", "stores", "home", "rows", "cut", "forget", "applying", "applied", "seal", "epoch"],
  ...["adopt", "adopted", "ahead", "drop staged", "go back", "demote"],
];

/** The steps that meet each kind of operation; one that no scenario brings any more is not proven any more. */
const met: Readonly<Record<string, string>> = {
  open: "create makeDirectory rename unlink syncFile syncDirectory syncFilesystem",
  receive: "create write truncate unlink setFileMeta syncFile",
  commit: "syncFile syncDirectory syncFilesystem",
  apply: `create write truncate rename link unlink makeDirectory removeDirectory makeSymlink setFileMeta setMeta
    setDirectoryMeta syncFile syncDirectory syncFilesystem`,
  ahead: "create write",
  abort: "unlink",
  promote: "create write rename unlink setFileMeta syncFile syncDirectory syncFilesystem",
  adopt: "unlink syncFilesystem",
  "go back": "unlink",
  demote: "setMeta syncFilesystem",
};

const variants: readonly { readonly name: string; readonly change: Partial<Scenario> }[] = [
  { name: "syncing one by one", change: {} },
  { name: "syncing whole filesystems, without history", change: { limits: { singleSyncsMax: 0 }, keepHistory: false } },
  { name: "syncing whole filesystems", change: { limits: { singleSyncsMax: 0 } } },
];

describe("the crash-point matrix", function () {
  this.timeout(seedCount * 600_000);
  const counts = new Map<string, number>();
  const purposes = new Set<string>();
  const totals = { points: 0, pointsInRecovery: 0, restarts: 0, failures: 0, states: 0 };

  function count(points: readonly CrashPoint[]): void {
    for (const { kind, step, detail } of points) {
      counts.set(`${step}: ${kind}`, (counts.get(`${step}: ${kind}`) ?? 0) + 1);
      if (kind === "catalog commit") purposes.add(detail);
    }
  }

  function add(matrix: CrashMatrix, points: readonly CrashPoint[]): void {
    totals.points += points.length;
    totals.pointsInRecovery += matrix.pointsInRecovery;
    totals.restarts += matrix.restarts;
    totals.failures += matrix.failures;
    totals.states += matrix.states;
  }

  for (const [number, scenario] of scenarios.entries()) {
    for (const [index, variant] of variants.slice(0, number === 0 ? 2 : 3).entries()) {
      it(`${scenario.name}, ${variant.name}: whatever the power leaves comes up as a committed cut`, async () => {
        using matrix = await CrashMatrix.open(
          {
            ...scenario,
            ...variant.change,
            limits: { ...scenario.limits, ...variant.change.limits },
            name: `${scenario.name}, ${variant.name}`,
          },
          realProgram,
        );
        const points = matrix.points();
        count(points);
        for (const point of points) {
          // The two that sync whole filesystems share the points between them, but for a soak.
          if (seedCount === 1 && index > 0 && point.index % 2 !== index % 2) continue;
          // The program is killed and goes on at once; the power fails when it thinks that all is done.
          if (seedCount > 1 || index === 0 || point.index % 4 < 2) matrix.restart(point);
          for (const mode of powerLossModes) {
            const seeds = chosenByChance.has(mode) ? seedCount : 1;
            for (let seed = 1; seed <= seeds; seed++) {
              const again = (point.index + seed) % againEvery === 0 && mode === "torn";
              matrix.crash(point, mode, seed * 1000 + point.index, again ? { again: againEvery } : {});
            }
          }
        }
        add(matrix, points);
      });
    }
  }

  for (const seed of randomSeeds) {
    it(`random scenario ${seed}: whatever the power leaves comes up as a committed cut`, async () => {
      using matrix = await CrashMatrix.open(randomScenario(seed), realProgram);
      const points = matrix.points();
      count(points);
      for (const point of points) {
        if (point.index % randomStride !== seed % randomStride) continue;
        const again = point.index % 5 === 0 ? { again: 9 } : {};
        matrix.restart(point);
        for (const mode of ["lose-all", "keep-all", "reordered"] as const)
          matrix.crash(point, mode, seed + point.index, again);
      }
      add(matrix, points);
    });
  }

  it("adopts a copy that a batch left half-written, and loses no file of it", async () => {
    const scenario = scenarios.find(({ name }) => name === "changing names")!;
    let inLimbo = 0;
    using matrix = await CrashMatrix.open(scenario, realProgram);
    for (const point of matrix.points()) {
      if (point.step !== "apply" || point.index % (seedCount > 1 ? 1 : 3) !== 0) continue;
      inLimbo += matrix.adoptAt(point);
    }
    expect(inLimbo).to.be.above(5);
    totals.failures += matrix.failures;
  });

  it("crashes at every kind of operation, and knows every transaction", () => {
    const kinds = new Set([...counts.keys()].map((key) => key.slice(key.indexOf(": ") + 2)));
    expect([...kinds].sort()).to.have.members([...operationKinds, "catalog commit", "end"]);
    expect([...purposes].sort()).to.have.members(commitPurposes);
    for (const [step, operations] of Object.entries(met))
      expect([...counts.keys()]).to.include.members(operations.split(/\s+/).map((kind) => `${step}: ${kind}`));
  });

  after(() => {
    const lines = [...counts]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, found]) => `      ${String(found).padStart(5)}  ${key}`);
    console.log(
      [
        `      ${totals.points} crash points and ${totals.pointsInRecovery} within recoveries, ${totals.restarts} kills and ${totals.failures} power failures, ${totals.states} different states recovered and judged`,
        ...lines,
      ].join("\n"),
    );
  });
});
