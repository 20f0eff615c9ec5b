import { existsSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import type { Disk } from "../../../shared/ports/disk.ts";
import { describeTree } from "../../model/describe-tree.ts";
import { randomBytes } from "../../model/in-process.ts";
import { UnsyncedDisk } from "../history/history-group.ts";
import { RepairGroup } from "./repair-group.ts";

/** A disk on which a stranger is let in before each operation, which are counted from 0. */
function hauntedDisk(): { readonly disk: Disk; haunt(before: (operation: number) => void): void } {
  let operation = 0;
  let letIn = (_operation: number): void => {};
  const disk = new Proxy<Disk>(new UnsyncedDisk(), {
    get(target, name) {
      const member = Reflect.get(target, name, target) as unknown;
      if (typeof member !== "function") return member;
      return (...words: unknown[]): unknown => {
        if (name !== "closeDirectory" && name !== "closeFile") letIn(operation++);
        return Reflect.apply(member, target, words);
      };
    },
  });
  const haunt = (before: (operation: number) => void): void => {
    operation = 0;
    letIn = before;
  };
  return { disk, haunt };
}

/** What becomes of the directory `docs` at one operation. */
const acts = {
  "takes it away": () => {},
  "puts a symlink in its place": (docs: string, outside: string) => symlinkSync(outside, docs),
  "puts a file in its place": (docs: string) => writeFileSync(docs, "of a stranger"),
  "puts an empty directory in its place": (docs: string) => mkdirSync(docs),
} as const;

/** Each kind of stranger comes at every so-manieth operation, and they at others. */
const stride = 4;

describe("a stranger who takes a directory of the copy away between any two steps", function () {
  this.timeout(300_000);

  /** A copy in which he has already put something of his into each place that the next cut changes. */
  async function opened(): Promise<{ group: RepairGroup; haunt: ReturnType<typeof hauntedDisk>["haunt"] }> {
    const { disk, haunt } = hauntedDisk();
    const group = new RepairGroup(disk);
    const { source } = group;
    for (const path of ["docs", "docs/deep", "docs/empty"]) source.makeDirectory(path);
    for (const path of ["docs/a", "docs/gone", "docs/moved", "docs/deep/b"]) source.write(path, randomBytes(5000));
    source.write("docs/hollow", "");
    source.symlink("docs/link", "a");
    await group.cut();
    const theirs = (path: string): void => {
      const at = join(group.copy, "docs", path);
      rmSync(at, { force: true, recursive: true });
      writeFileSync(at, "of a stranger");
    };
    for (const path of ["gone", "new", "sub", "empty/in it", "deep/moved", "hollow", "link", "link 2"]) theirs(path);
    source.remove("docs/gone");
    source.remove("docs/empty");
    source.rename("docs/moved", "docs/deep/moved");
    source.write("docs/new", "new");
    source.write("docs/a", randomBytes(100), 200);
    source.makeDirectory("docs/sub");
    source.symlink("docs/link 2", "a");
    await group.ship();
    return { group, haunt };
  }

  /** Applies, looks and mends, as the worker does. */
  function work(group: RepairGroup): void {
    group.apply();
    group.look();
  }

  for (const [index, [name, act]] of Object.entries(acts).entries()) {
    for (const comesBack of [false, true]) {
      it(`${name}${comesBack ? ", and brings it back" : ""}: the copy is whole again, and nothing outside is touched`, async () => {
        let operations = Number.POSITIVE_INFINITY;
        for (let at = index % stride; at < operations; at += stride) {
          const { group, haunt } = await opened();
          using _group = group;
          const docs = join(group.copy, "docs");
          const [hidden, outside] = [join(group.directory, "hidden"), join(group.directory, "outside")];
          mkdirSync(outside);
          writeFileSync(join(outside, "a"), "not ours");
          const before = describeTree(outside);
          const bringBack = (): void => {
            rmSync(docs, { force: true, recursive: true });
            if (existsSync(hidden)) renameSync(hidden, docs);
          };
          let count = 0;
          haunt((operation) => {
            count++;
            if (operation === at) {
              renameSync(docs, hidden);
              act(docs, outside);
            } else if (comesBack && operation === at + 1) bringBack();
          });
          work(group);
          haunt(() => {});
          operations = count;
          expect(describeTree(outside), `outside, at ${at}`).to.deep.equal(before);
          await group.repair();
          expect(group.copied(), `the copy, at ${at}`).to.deep.equal(group.source.describe());
        }
        expect(operations).to.be.above(50);
      });
    }
  }
});
