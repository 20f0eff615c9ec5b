import {
  appendFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  type Stats,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { isSystemError } from "../../../shared/errors.ts";
import { seededRandom } from "../../crash/seeded-random.ts";
import { randomBytes } from "../../model/in-process.ts";
import { RepairGroup } from "./repair-group.ts";

const firstSeed = Number(process.env.UNDERSTUDY_SEED ?? 1);
const seeds = Array.from(
  { length: Number(process.env.UNDERSTUDY_CRASH_SEEDS ?? 1) > 1 ? 200 : 8 },
  (_, i) => firstSeed + i,
);
const roundsMax = 25;
const names = ["a", "b", "c", "dir", "dir/a", "dir/b", "dir/deep", "dir/deep/a", "other", "other/a"] as const;

/** Undefined also below what is no directory any more. */
function lookAt(path: string): Stats | undefined {
  try {
    return lstatSync(path);
  } catch (error) {
    if (!isSystemError(error, "ENOENT", "ENOTDIR")) throw error;
    return undefined;
  }
}

/** Anything that a stranger and the source may do, in any order with cuts, sweeps, restarts and lost cuts of the repair. */
describe("a stranger who does anything at any time", function () {
  this.timeout(120_000);
  for (const seed of seeds) {
    it(`leaves the copy equal to the source when he has gone (seed ${seed})`, async () => {
      using group = new RepairGroup();
      const random = seededRandom(seed);
      const below = (count: number): number => Math.floor(random() * count);
      const one = <T>(items: readonly T[]): T => items[below(items.length)]!;
      const did: string[] = [];
      const { source } = group;

      const change = (): void => {
        const path = one(names);
        const parent = path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : "";
        if (source.nodes.get(parent)?.type !== "directory") return;
        const node = source.nodes.get(path);
        const what = below(7);
        did.push(`source ${what} ${path}`);
        if (what === 0) source.remove(path);
        else if (what === 1 && node === undefined) source.makeDirectory(path);
        else if (what === 2 && node === undefined) source.symlink(path, "somewhere");
        else if (what === 3 && node?.type === "file") source.truncate(path, below(20_000));
        else if (what === 4 && node?.type === "file" && !source.nodes.has("linked")) source.link(path, "linked");
        else if (what === 5 && node !== undefined && !source.nodes.has(`${parent}moved`)) source.rename(path, "moved");
        else if (node === undefined || node.type === "file")
          source.write(path, randomBytes(1 + below(9000)), below(3) * 4096);
      };
      const spoil = (): void => {
        const path = join(group.copy, one([...names, "moved", "linked", "foreign"]));
        const what = below(8);
        did.push(`stranger ${what} ${path.slice(group.copy.length)}`);
        if (lookAt(dirname(path))?.isDirectory() !== true) return;
        const stat = lookAt(path);
        if (what === 0) rmSync(path, { recursive: true, force: true });
        else if (what === 1 && stat?.isFile()) appendFileSync(path, "of a stranger");
        else if (what === 2 && stat?.isFile()) truncateSync(path, below(5000));
        else if (what === 3 && stat === undefined) mkdirSync(path);
        else if (what === 4 && stat === undefined) symlinkSync("elsewhere", path);
        else if (what === 5 && stat?.isFile()) utimesSync(path, 1, below(1000));
        else if (what === 6 && stat !== undefined) {
          const to = join(group.copy, `foreign${below(3)}`);
          if (!existsSync(to)) renameSync(path, to);
        } else if (what === 7 && stat?.isFile()) {
          const to = join(group.copy, "further");
          if (!existsSync(to)) linkSync(path, to);
        } else if (stat === undefined) writeFileSync(path, "of a stranger");
      };

      try {
        for (let round = 0; round < 6; round++) change();
        await group.cut();
        for (let round = 0; round < roundsMax; round++) {
          switch (below(8)) {
            case 0:
            case 1:
              spoil();
              break;
            case 2:
            case 3:
              change();
              break;
            case 4:
              did.push("cut");
              await group.cut();
              break;
            case 5:
              did.push("ship");
              await group.ship(below(2) === 0 ? group.sink() : { ...group.sink(), damaged: [] });
              break;
            case 6:
              did.push("look");
              group.look();
              break;
            case 7:
              did.push("restart");
              group.reopen();
          }
        }
        await group.repair(8);
        await group.cut();
        expect(group.copied()).to.deep.equal(source.describe());
        expect(await group.differences()).to.deep.equal([]);
        const [home] = group.replica.homes.values();
        expect(readdirSync(join(group.directory, ".understudy", "app.tree", "limbo"))).to.deep.equal([]);
        expect(group.replica.disk.list(home!.staging)).to.deep.equal([]);
      } catch (error) {
        throw new Error(`seed ${seed}: ${(error as Error).message}\n${did.join("\n")}`, { cause: error });
      }
    });
  }
});
