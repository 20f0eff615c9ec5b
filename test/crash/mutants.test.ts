import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { assert, expect } from "chai";
import { CrashMatrix, MatrixFailure, type Scenario } from "./crash-matrix.ts";
import { loadProgram, type ReplicaProgram } from "./replica-program.ts";
import { scenarios } from "./scenarios.ts";

/** A program that breaks one rule of the order, made by exchanging text that must be there exactly once. */
interface Mutant {
  readonly name: string;
  /** What it breaks, in the words of the design. */
  readonly invariant: string;
  /** The scenario that kills it. */
  readonly dies: string;
  /** Syncs whole filesystems instead of files one by one. */
  readonly wholeFilesystems?: true;
  /** Dies when the program is killed, and the power fails later. */
  readonly killed?: true;
  /** The power fails a second time within the recovery, from so many states of each point. */
  readonly twice?: number;
  /** Removes at once what has no path any more. */
  readonly withoutHistory?: true;
  readonly edits: readonly { readonly file: string; readonly find: string; readonly replace: string }[];
}

const removed = "";

const mutants: readonly Mutant[] = [
  {
    name: "acknowledges before the catalog's commit",
    dies: "a first copy",
    invariant: "the commit is durable before the acknowledgement",
    edits: [{ file: "commit/commit.ts", find: 'catalog.commit("cut");', replace: removed }],
  },
  {
    name: "flips the cut visible before the staged files are synced",
    dies: "a first copy",
    invariant: "staged bytes are durable before the commit",
    edits: [
      { file: "commit/commit.ts", find: 'catalog.commit("cut");', replace: removed },
      {
        file: "commit/commit.ts",
        find: "for (const store of receiver.built)",
        replace: 'catalog.commit("cut"); for (const store of receiver.built)',
      },
    ],
  },
  {
    name: "makes way for apply with the rows of a whole cut alone",
    dies: "cuts that wait together, half of the next behind them, two filesystems",
    invariant: "staged bytes are durable before the commit",
    edits: [{ file: "commit/commit.ts", find: "if (whole) commit(context, receiver);", replace: removed }],
  },
  {
    name: "does not sync segments",
    dies: "writing in place",
    invariant: "staged bytes are durable before the commit",
    edits: [{ file: "sync.ts", find: "disk.syncFile(file);", replace: removed }],
  },
  {
    name: "does not sync a staged file through the handle that set its meta",
    dies: "cuts that wait together, half of the next behind them, two filesystems",
    invariant: "staged bytes are durable before the commit",
    edits: [
      {
        file: "receive/staging.ts",
        find: "failing(() => disk.syncFile(file));",
        replace: removed,
      },
    ],
  },
  {
    name: "does not sync the staging directory",
    dies: "cuts that wait together, half of the next behind them, two filesystems",
    invariant: "staged bytes are durable before the commit",
    edits: [{ file: "sync.ts", find: "disk.syncDirectory(directory);", replace: removed }],
  },
  {
    name: "does not sync the filesystem of many staged files",
    dies: "cuts that wait together, half of the next behind them, two filesystems",
    invariant: "staged bytes are durable before the commit",
    wholeFilesystems: true,
    edits: [{ file: "sync.ts", find: "disk.syncFilesystem(directory);", replace: removed }],
  },
  {
    name: "does not sync what was built of a first copy",
    dies: "a first copy",
    invariant: "what is built is durable before the commit",
    edits: [
      {
        file: "commit/commit.ts",
        find: "for (const store of receiver.built) failing(() => disk.syncFilesystem(homeOf(context, store).home));",
        replace: removed,
      },
    ],
  },
  {
    name: "leaves what a broken first copy has built",
    dies: "a first copy of what changes meanwhile",
    invariant: "no byte of an uncommitted cut touches the copy",
    edits: [{ file: "receive/resume.ts", find: "if (committed === 0n) clearFirstTrees(context);", replace: removed }],
  },
  {
    name: "takes for built what the mark has made known",
    dies: "a first copy of what changes meanwhile",
    invariant: "the redo is complete until the batch is durably applied",
    edits: [
      {
        file: "apply/apply.ts",
        find: "if (batch.from === 0n) markUnbuilt(context, object, batch.to);",
        replace: removed,
      },
    ],
  },
  {
    name: "builds on what an object was before",
    dies: "a first copy of what changes meanwhile",
    invariant: "a built object that changes goes back to staging",
    edits: [
      {
        file: "receive/staging.ts",
        find: "else withinRoom(open, () => firstTree.giveBack(object));",
        replace: removed,
      },
    ],
  },
  {
    name: "leaves names in the first tree that are gone when the cut is whole",
    dies: "a first copy of what changes meanwhile",
    invariant: "the copy is the cut and nothing else",
    edits: [
      {
        file: "receive/staging.ts",
        find: "if (to === undefined) firstTree.vacate(store, path);",
        replace: "if (to === undefined) {}",
      },
    ],
  },
  {
    name: "places newborn files that were not synced",
    dies: "changing names",
    invariant: "files of newborn objects are durable before the mark",
    edits: [
      {
        file: "apply/materialize.ts",
        find: "if (++names.files <= limits.singleSyncsMax) failing(() => disk.syncFile(file));",
        replace: "names.files++;",
      },
    ],
  },
  {
    name: "does not sync the names of newborn files",
    dies: "changing names",
    invariant: "files of newborn objects are durable before the mark",
    edits: [
      { file: "apply/materialize.ts", find: "else failing(() => disk.syncDirectory(staging));", replace: removed },
    ],
  },
  {
    name: "does not sync the filesystem of many newborn files",
    dies: "changing names",
    invariant: "files of newborn objects are durable before the mark",
    wholeFilesystems: true,
    edits: [{ file: "apply/materialize.ts", find: "failing(() => disk.syncFilesystem(staging));", replace: "{}" }],
  },
  {
    name: "does not sync old images",
    dies: "writing in place",
    invariant: "old images are durable before the mark",
    edits: [{ file: "apply/save-images.ts", find: "disk.syncFile(file.file);", replace: removed }],
  },
  {
    name: "does not sync the history directory",
    dies: "writing in place",
    invariant: "old images are durable before the mark",
    edits: [
      { file: "apply/save-images.ts", find: "disk.syncDirectory(homeOf(context, store).history);", replace: removed },
    ],
  },
  {
    name: "commits the mark after the first write into the copy",
    dies: "a first copy",
    invariant: "the mark is durable before the copy is touched",
    edits: [
      {
        file: "apply/apply.ts",
        find: "catalog.stand({ applying: markOf(batch, although) });",
        replace: removed,
      },
      {
        file: "apply/apply.ts",
        find: 'assert(catalog.standing.applying?.to === to, "the mark stands before the copy is touched");',
        replace: removed,
      },
      {
        file: "apply/apply.ts",
        find: "written = writeCopy(context, batch, keepHistory, redo);",
        replace:
          'written = writeCopy(context, batch, keepHistory, redo); catalog.transaction("applying", () => catalog.stand({ applying: { from: batch.from, to: batch.to } }));',
      },
    ],
  },
  {
    name: "saves the images again on redo",
    dies: "writing in place",
    invariant: "with the mark no images are saved: they would be the new bytes",
    edits: [
      {
        file: "apply/apply.ts",
        find: "assert(catalog.standing.applying?.to === to,",
        replace: "if (redo && keepHistory) saveImages(context, batch);\n  assert(catalog.standing.applying?.to === to,",
      },
    ],
  },
  {
    name: "does not sync what was vacated before something else is placed there",
    dies: "changing names",
    invariant: "a file is safe under its new name before another takes its old one",
    edits: [{ file: "apply/write-copy.ts", find: "if (this.#vacated) this.#sync();", replace: removed }],
  },
  {
    name: "does not sync files that were written in place",
    dies: "writing in place",
    invariant: "the copy is durable before the mark ends",
    edits: [
      {
        file: "apply/write-copy.ts",
        find: "if (files <= this.#context.limits.singleSyncsMax) failing(() => disk.syncFile(file));",
        replace: removed,
      },
    ],
  },
  {
    name: "does not sync files that are written and then kept",
    dies: "changing types, links and meta",
    invariant: "the copy is durable before the mark ends",
    edits: [
      {
        file: "apply/write-copy.ts",
        find: "if (changed.after === undefined) failing(() => disk.syncFile(file));",
        replace: removed,
      },
    ],
  },
  {
    name: "does not sync the directories of the copy",
    dies: "a first copy",
    invariant: "the copy is durable before the mark ends",
    edits: [
      {
        file: "apply/write-copy.ts",
        find: "if (directory !== undefined) disk.syncDirectory(directory);",
        replace: removed,
      },
    ],
  },
  {
    name: "does not sync the private directories",
    dies: "changing names",
    invariant: "the copy is durable before the mark ends",
    edits: [
      {
        file: "apply/write-copy.ts",
        find: 'for (const part of privates) disk.syncDirectory(part === "first" ? home.firstTree.root : home[part]);',
        replace: removed,
      },
    ],
  },
  {
    name: "does not sync the copy's filesystem",
    dies: "a first copy",
    invariant: "the copy is durable before the mark ends",
    wholeFilesystems: true,
    edits: [
      {
        file: "apply/write-copy.ts",
        find: ") { disk.syncFilesystem(home.home); return; } for (const path",
        replace: ") { return; } for (const path",
      },
    ],
  },
  {
    name: "ends the mark before the last sync",
    dies: "a first copy",
    invariant: "the copy is durable before the mark ends",
    edits: [{ file: "apply/write-copy.ts", find: "this.#sync(); return { seen", replace: "return { seen" }],
  },
  {
    name: "deletes segments before the batch is durably applied",
    dies: "writing in place",
    invariant: "redo is kept until the batch is durably applied",
    edits: [
      { file: "apply/apply.ts", find: "}); removeSegments(context, batch.seqs); //", replace: "});\n//" },
      {
        file: "apply/apply.ts",
        find: 'catalog.transaction("applied", () => {',
        replace: 'removeSegments(context, batch.seqs);\n  catalog.transaction("applied", () => {',
      },
    ],
  },
  {
    name: "does not renew what was seen",
    dies: "writing in place",
    invariant: "every file is known as we left it",
    edits: [
      {
        file: "apply/apply.ts",
        find: "for (const { object, store, stat } of written.seen) putSeen(context, object, store, stat);",
        replace: removed,
      },
    ],
  },
  {
    name: "takes a lost ctime for a stranger's change",
    dies: "writing in place",
    invariant: "a power failure alone never makes a copy suspect",
    edits: [
      {
        file: "apply/apply.ts",
        find: "const same = (): boolean => holdsContent(context, found, before, batch.from);",
        replace: "const same = (): boolean => holdsContent === undefined;",
      },
    ],
  },
  {
    name: "removes newborn files at the start although the mark stands",
    dies: "changing names",
    invariant: "the redo is complete until the batch is durably applied",
    edits: [{ file: "receive/resume.ts", find: '" UNION ALL SELECT 1 FROM seen WHERE object = ?1"', replace: '""' }],
  },
  {
    name: "syncs after a redo only what the redo has touched",
    dies: "changing names",
    killed: true,
    invariant: "the copy is durable before the mark ends, whoever wrote it",
    edits: [
      { file: "apply/write-copy.ts", find: "if (this.#redo) {", replace: "if (this.#redo && homes.size === 0) {" },
    ],
  },
  {
    name: "does not sync the owner of a symlink",
    dies: "changing types, links and meta",
    invariant: "the copy is durable before the mark ends",
    edits: [{ file: "apply/write-copy.ts", find: "this.#symlinks.add(store);", replace: removed }],
  },
  {
    name: "leaves the spare link of a file in limbo",
    dies: "changing types, links and meta",
    invariant: "without a mark nothing lies in limbo",
    edits: [
      { file: "apply/write-copy.ts", find: "for (const path of paths) this.#dropSpareLink(path);", replace: removed },
    ],
  },
  {
    name: "takes the name of a stranger's file before it is put aside for good",
    dies: "adopting what lies there",
    invariant: "what a stranger had is in the copy or beside it",
    edits: [{ file: "apply/write-copy.ts", find: "this.#aside = true;", replace: removed }],
  },
  {
    name: "does not expect what is adopted in staging",
    dies: "adopting what lies there",
    killed: true,
    invariant: "what is staged is what the cut says",
    edits: [{ file: "receive/receive.ts", find: "adopting(catalog) ||", replace: removed }],
  },
  {
    name: "forgets what it has otherwise when the cut that brings it right begins",
    dies: "a rejoin",
    withoutHistory: true,
    invariant: "what is otherwise is known until a cut has brought it right",
    edits: [
      {
        file: "receive/receive.ts",
        find: "rejoins: anyTouched(catalog),",
        replace: "rejoins: anyTouched(catalog) && (clearTouched(catalog), true),",
      },
    ],
  },
  {
    name: "takes a former primary's files for its copy and does not sync them",
    dies: "a demotion",
    withoutHistory: true,
    invariant: "what a replica says that it has is durable",
    edits: [
      {
        file: "rejoin/demote.ts",
        find: "that he has mapped. syncAll(context, bootId);",
        replace: "that he has mapped.\n",
      },
      {
        file: "rejoin/demote.ts",
        find: "settled.movingCount); syncAll(context, bootId);",
        replace: "settled.movingCount);",
      },
    ],
  },
  {
    name: "begins its reign and still takes what it has for otherwise",
    dies: "a promotion of what rejoins",
    withoutHistory: true,
    invariant: "what is accepted is a cut with the reign that it begins",
    edits: [{ file: "promote/promote.ts", find: "clearTouched(catalog);", replace: removed }],
  },
  {
    name: "keeps what was staged for a cut that will never come",
    dies: "a promotion of what rejoins",
    withoutHistory: true,
    invariant: "the catalog knows everything that lies beside the copy",
    edits: [{ file: "promote/promote.ts", find: "if (rejoins) dropStaged(context);", replace: removed }],
  },
  {
    name: "ends an adoption before what it lacks is put aside for good",
    dies: "adopting what lies there",
    invariant: "the copy is a cut and nothing else",
    edits: [
      {
        file: "receive/adopt.ts",
        find: "failing(() => disk.syncFilesystem(home.home)); } catalog",
        replace: "} catalog",
      },
    ],
  },
  {
    name: "trusts a suspect copy when one batch is applied to it",
    dies: "a promotion of a copy that somebody changed",
    invariant: "a copy stays suspect until its reign begins",
    edits: [{ file: "apply/apply.ts", find: 'although === undefined ? "" : catalog.standing.suspect', replace: '""' }],
  },
  {
    name: "knows a file by a name's presence",
    dies: "a promotion",
    invariant: "objects are known by their inode, never by a name's presence",
    edits: [
      {
        file: "apply/locate.ts",
        find: 'if (stat?.inode === inode && stat.type !== "directory") return { ...place, where: "tree", stat };',
        replace: 'if (stat !== undefined) return { ...place, where: "tree", stat };',
      },
    ],
  },
  {
    name: "takes a directory for a file that had its inode number",
    dies: "a file becomes a directory",
    withoutHistory: true,
    wholeFilesystems: true,
    twice: 12,
    invariant: "an inode number alone is no proof",
    edits: [
      {
        file: "apply/write-copy.ts",
        find: 'if (stat === undefined || stat.type === "directory") return; if (after',
        replace: "if (stat === undefined) return; if (after",
      },
    ],
  },
  {
    name: "applies what is committed only after the new epoch",
    dies: "a promotion",
    invariant: "a promotion finishes applying before the epoch",
    edits: [
      {
        file: "promote/promote.ts",
        find: "while (applyNext(context, keepHistory, although) !== undefined);",
        replace: removed,
      },
      {
        file: "promote/promote.ts",
        find: 'assert(catalog.standing.applied === catalog.standing.committed.seq, "everything committed is applied");',
        replace: removed,
      },
      {
        file: "promote/promote.ts",
        find: "  return { epoch: next, cut };",
        replace: "  while (applyNext(context, false) !== undefined);\n  return { epoch: next, cut };",
      },
    ],
  },
];

const project = fileURLToPath(new URL("../../", import.meta.url));

describe("mutants of the order", function () {
  this.timeout(120_000);
  const killed: { readonly mutant: Mutant; readonly by: string }[] = [];
  let directory: string;

  before(() => {
    // Not within node_modules, where Node strips no types.
    directory = mkdtempSync(join(tmpdir(), "understudy-mutants-"));
    symlinkSync(join(project, "shared"), join(directory, "shared"));
    writeFileSync(join(directory, "package.json"), '{ "type": "module" }\n');
  });

  after(() => {
    rmSync(directory, { recursive: true, force: true });
    for (const { mutant, by } of killed) console.log(`      ${mutant.name}: ${mutant.invariant}\n        ${by}`);
  });

  /** A copy of `replica/` beside a link to the one `shared/`, so that only what the mutant changes is another module. */
  async function mutate(mutant: Mutant, number: number): Promise<ReplicaProgram> {
    const home = join(directory, String(number));
    cpSync(join(project, "replica"), join(home, "replica"), { recursive: true });
    symlinkSync(join(project, "shared"), join(home, "shared"));
    for (const { file, find, replace } of mutant.edits) {
      const path = join(home, "replica", file);
      // Where the formatter breaks lines does not matter.
      const words = find.split(/\s+/).map((word) => word.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&"));
      const parts = readFileSync(path, "utf8").split(new RegExp(words.join("\\s*")));
      expect(parts.length - 1, `how often ${file} has ${JSON.stringify(find)}`).to.equal(1);
      writeFileSync(path, parts.join(replace));
    }
    return await loadProgram(join(home, "replica"));
  }

  for (const [number, mutant] of mutants.entries()) {
    it(`kills one that ${mutant.name}`, async () => {
      const program = await mutate(mutant, number);
      const scenario = scenarios.find(({ name }) => name === mutant.dies)!;
      const by = await judge(program, mutant, scenario);
      assert(by !== undefined, `a mutant lives: ${mutant.invariant}`);
      killed.push({ mutant, by });
    });
  }

  async function judge(program: ReplicaProgram, mutant: Mutant, scenario: Scenario): Promise<string | undefined> {
    const variant = {
      limits: { ...scenario.limits, ...(mutant.wholeFilesystems ? { singleSyncsMax: 0 } : {}) },
      keepHistory: mutant.withoutHistory !== true,
    };
    using matrix = await CrashMatrix.open({ ...scenario, ...variant }, program);
    try {
      for (const point of matrix.points()) {
        for (const mode of ["lose-all", "keep-all", "reordered"] as const)
          matrix.crash(point, mode, 1000 + point.index);
        for (let seed = 1; seed <= (mutant.twice ?? 0); seed++)
          matrix.crash(point, "reordered", seed * 1000 + point.index, { again: 1 });
        if (mutant.killed) matrix.restart(point);
      }
    } catch (error) {
      if (!(error instanceof MatrixFailure)) throw error;
      // A name that is not there any more says nothing of the order.
      if (error.cause instanceof ReferenceError) throw error.cause;
      return error.message;
    }
    return undefined;
  }
});
