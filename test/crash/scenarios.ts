import {
  abort,
  adopt,
  ahead,
  apply,
  commit,
  demoteIt,
  goBack,
  ownCut,
  part,
  promote,
  promoteRejoining,
  promoteSuspect,
  receive,
  type Scenario,
  stranger,
  whole,
} from "./crash-matrix.ts";
import type { Planted } from "./disk-tree.ts";
import type { Change } from "./recorded-cuts.ts";

/** A tree with everything in it: files of all sizes, sparse, empty, linked, and directories in directories. */
const firstTree: Change = ({ tree }, text) => {
  tree!.makeDirectory("docs");
  tree!.makeDirectory("docs/deep");
  tree!.makeDirectory("docs/deep/deeper");
  tree!.makeDirectory("empty");
  tree!.write("docs/a", text(100));
  tree!.write("docs/b", text(5000));
  tree!.write("docs/deep/deeper/c", text(64));
  tree!.write("nothing", "");
  tree!.write("sparse", text(600), 5 * 4096);
  // Its first piece is small enough for the catalog, the second is not.
  tree!.write("sparse and large", text(4096));
  tree!.write("sparse and large", text(3 * 4096), 5 * 4096);
  tree!.symlink("link", "docs/a");
  tree!.link("docs/a", "hard");
  tree!.write("large", text(5 * 4096 + 300));
  tree!.write("larger", text(7 * 4096));
  tree!.chmod("docs/b", 0o600);
  tree!.chmod("empty", 0o700);
};

/** Three files to write into. */
const threeFiles: Change = ({ tree }, text) => {
  tree!.write("a", text(6 * 4096));
  tree!.write("b", text(2 * 4096 + 50));
  tree!.write("c", text(300));
};

const contents: Scenario = {
  name: "writing in place",
  changes: [
    threeFiles,
    ({ tree }, text) => {
      tree!.write("a", text(4096), 4096);
      tree!.write("c", text(20), 280);
    },
    ({ tree }, text) => {
      // More than is kept in the catalog: a segment file.
      tree!.write("a", text(3 * 4096), 2 * 4096);
      tree!.write("b", text(5000), 2 * 4096 + 50);
    },
    ({ tree }) => tree!.truncate("a", 4096 + 1000),
    ({ tree }, text) => {
      tree!.truncate("a", 4 * 4096);
      tree!.write("c", text(40), 300);
    },
    ({ tree }) => tree!.write("b", new Uint8Array(4096), 4096),
    ({ tree }) => {
      tree!.truncate("b", 0);
      tree!.truncate("c", 10);
    },
  ],
  steps: [
    ...whole(1),
    ...whole(2),
    ...whole(3),
    receive(4),
    commit,
    receive(5),
    commit,
    apply,
    receive(6),
    receive(7),
    commit,
    apply,
  ],
  crashFrom: 3,
};

const names: Scenario = {
  name: "changing names",
  changes: [
    ({ tree }, text) => {
      for (const name of ["a", "b", "c", "d", "e", "f"]) tree!.write(name, text(100));
      tree!.makeDirectory("dir");
      tree!.write("dir/x", text(2 * 4096));
      tree!.write("dir/y", text(30));
    },
    ({ tree }) => {
      // A swap.
      tree!.rename("a", "t");
      tree!.rename("b", "a");
      tree!.rename("t", "b");
    },
    ({ tree }, text) => {
      // A cycle of three, and one name taken again.
      tree!.rename("c", "t");
      tree!.rename("d", "c");
      tree!.rename("e", "d");
      tree!.rename("t", "e");
      tree!.rename("f", "g");
      tree!.write("f", text(50));
    },
    ({ tree }, text) => {
      // Replaced by a rename, from the same directory and from another.
      tree!.rename("g", "a");
      tree!.rename("dir/y", "b");
      tree!.replace("c", text(4096 + 10));
    },
    ({ tree }, text) => tree!.write("c", text(3000), 4096 + 10),
    ({ tree }) => {
      tree!.rename("dir", "moved");
      tree!.rename("moved/x", "x");
    },
  ],
  steps: [...whole(1), ...whole(2), ...whole(3), receive(4), commit, receive(5), commit, apply, ...whole(6)],
  crashFrom: 3,
};

const types: Scenario = {
  name: "changing types, links and meta",
  changes: [
    firstTree,
    ({ tree }, text) => {
      // A file becomes a directory and a directory a file.
      tree!.remove("nothing");
      tree!.makeDirectory("nothing");
      tree!.write("nothing/inside", text(70));
      tree!.remove("docs");
      tree!.write("docs", text(90));
    },
    ({ tree }) => {
      tree!.chmod("hard", 0o640);
      tree!.chmod("empty", 0o755);
      tree!.chmod("", 0o711);
      tree!.symlink("link", "elsewhere");
      tree!.link("large", "large too");
    },
    ({ tree }, text) => {
      tree!.write("brief", text(60));
      tree!.makeDirectory("briefly");
      tree!.write("briefly/in it", text(3 * 4096));
      tree!.link("large", "nothing/large three");
      tree!.write("larger", text(4096), 4096);
    },
    ({ tree }) => {
      tree!.remove("larger");
      tree!.remove("brief");
      tree!.remove("briefly");
      tree!.remove("large too");
      tree!.remove("large");
    },
    ({ tree }) => tree!.chown("link", 7),
    ({ tree }) => {
      tree!.chown("hard", 8);
      tree!.chown("nothing", 9);
    },
  ],
  steps: [
    ...whole(1),
    ...whole(2),
    ...whole(3),
    receive(4),
    commit,
    receive(5),
    commit,
    apply,
    ...whole(6),
    ...whole(7),
  ],
  crashFrom: 3,
};

const first: Scenario = { name: "a first copy", changes: [firstTree], steps: whole(1) };

/** What is built in its place at once is met a second time before the cut is whole. */
const meanwhile: Scenario = {
  name: "a first copy of what changes meanwhile",
  changes: [
    [
      ({ tree }, text) => {
        for (const name of ["goes", "grows", "rewritten"]) tree!.write(name, text(100));
        tree!.makeDirectory("sealed");
        tree!.write("sealed/changes", text(30));
        tree!.makeDirectory("was a directory");
        tree!.write("was a directory/moves out", text(60));
        tree!.makeDirectory("becomes a link");
        tree!.symlink("link", "goes");
        tree!.link("goes", "sealed/outlives");
        tree!.chmod("sealed", 0o555);
      },
      ({ tree }, text) => {
        tree!.remove("goes");
        tree!.write("grows", text(3 * 4096), 100);
        tree!.replace("rewritten", text(50));
        tree!.remove("sealed/changes");
        tree!.makeDirectory("sealed/changes");
        tree!.write("sealed/changes/inside", text(20));
        tree!.rename("was a directory/moves out", "moved out");
        tree!.remove("was a directory");
        tree!.write("was a directory", text(70));
        tree!.remove("becomes a link");
        tree!.symlink("becomes a link", "grows");
        tree!.symlink("link", "elsewhere");
        tree!.chmod("sealed/outlives", 0o400);
      },
    ],
  ],
  steps: [receive(1, 0, 0.8), abort, ...whole(1)],
  crashFrom: 1,
  // Its rows come in several transactions.
  limits: { transactionBytesMax: 1 },
};

const promotion: Scenario = {
  name: "a promotion",
  changes: [threeFiles, ({ tree }, text) => tree!.write("a", text(5000)), ({ tree }) => tree!.rename("a", "b")],
  steps: [...whole(1), receive(2), commit, receive(3), commit, promote],
  crashFrom: 3,
};

const pipelined: Scenario = {
  name: "cuts that wait together, half of the next behind them, two filesystems",
  stores: ["tree", "logs"],
  changes: [
    ({ tree, logs }, text) => {
      tree!.write("a", text(3 * 4096));
      logs!.write("log", text(100));
    },
    ({ tree, logs }, text) => {
      tree!.write("new", text(4 * 4096));
      logs!.write("log", text(200), 100);
    },
    ({ tree, logs }, text) => {
      tree!.write("a", text(3 * 4096));
      tree!.rename("new", "old");
      logs!.write("second", text(9000));
    },
    ({ tree, logs }, text) => {
      tree!.write("last", text(4 * 4096));
      tree!.write("a", text(9000), 1000);
      logs!.write("log", text(9000), 300);
      logs!.remove("second");
    },
  ],
  steps: [
    ...whole(1),
    receive(2),
    receive(3),
    receive(4, 0, 0.5),
    // Before anybody has committed them.
    apply,
    receive(4, 0.5, 0.75),
    apply,
    receive(4, 0.75, 1),
    commit,
    apply,
  ],
  crashFrom: 3,
};

const broken: Scenario = {
  name: "a link that breaks after each message",
  changes: [
    threeFiles,
    ({ tree }, text) => {
      tree!.write("new", text(5 * 4096));
      tree!.truncate("new", 6 * 4096);
      tree!.write("a", text(3 * 4096));
      tree!.write("small", text(10));
      tree!.remove("c");
    },
  ],
  steps: [
    ...[1, 2, 3].flatMap((part) => [receive(1, 0, part / 4), abort]),
    ...whole(1),
    ...[1, 2, 3, 4].flatMap((part) => [receive(2, 0, part / 4), abort]),
    ...whole(2),
  ],
  // What is staged is kept for a resume however short it is, and its rows come in several transactions.
  limits: { resumeBytesMin: 4096, transactionBytesMax: 1 },
};

/** Nothing else is there, so that the directory gets the number of the file where that is gone for good. */
const exchanged: Scenario = {
  name: "a file becomes a directory",
  changes: [
    ({ tree }, text) => tree!.write("x", text(100)),
    ({ tree }, text) => {
      tree!.remove("x");
      tree!.makeDirectory("x");
      tree!.write("x/inside", text(100));
    },
  ],
  steps: [...whole(1), ...whole(2)],
  crashFrom: 3,
};

/** What an operator may have: the same, the same but for what is a hole now, more of it, and the types exchanged. */
const operators = {
  same: "the same as there",
  holes: "w".repeat(4 * 4096),
  zeros: "v".repeat(2 * 4096),
  "is a directory here": {
    type: "directory",
    entries: { "of mine": "a diary", inner: { type: "directory", entries: { x: "deep" } } },
  },
  "is a file here": "a file of mine",
  link: { type: "symlink", target: "somewhere of mine" },
  folder: { type: "directory", mode: 0o700, entries: { more: "more of mine", "in both": "my version" } },
  mine: { type: "directory", entries: { of: "nobody's business" } },
} as const satisfies Readonly<Record<string, Planted>>;

const adoption: Scenario = {
  name: "adopting what lies there",
  planted: { tree: operators },
  changes: [
    ({ tree }, text) => {
      tree!.write("same", operators.same);
      tree!.write("holes", text(600), 3 * 4096);
      tree!.write("zeros", new Uint8Array(2 * 4096));
      tree!.write("is a directory here", text(90));
      tree!.makeDirectory("is a file here");
      tree!.write("is a file here/inside", text(90));
      tree!.symlink("link", "elsewhere");
      tree!.makeDirectory("folder");
      tree!.write("folder/in both", text(3000));
    },
  ],
  // The link breaks half-way, and the second session goes on with what the first has staged.
  steps: [receive(1, 0, 0.6), abort, ...whole(1)],
  limits: { resumeBytesMin: 4096 },
};

/** A copy that somebody else has changed is compared with the primary once more, whatever it had before. */
const adoptionAgain: Scenario = {
  name: "adopting a copy that somebody changed",
  changes: [
    threeFiles,
    ({ tree }, text) => {
      tree!.write("a", text(5000));
      tree!.remove("c");
      tree!.write("d", text(3 * 4096));
    },
    ({ tree }, text) => {
      tree!.rename("b", "c");
      tree!.write("e", text(70));
    },
  ],
  steps: [
    ...whole(1),
    ...whole(2),
    stranger((disk) => {
      disk.writeTree("/srv/tree/copy", { a: "by a stranger", "brought along": "by a stranger, too" });
      disk.removeTree("/srv/tree/copy", "d");
    }),
    adopt,
    ...whole(3),
  ],
  crashFrom: 7,
};

/** Nobody is left to mend the copy from: what a stranger changed is written over, what he took stays away. */
const promotionOfSuspect: Scenario = {
  name: "a promotion of a copy that somebody changed",
  changes: [
    ({ tree }, text) => {
      tree!.write("longer", text(6 * 4096));
      tree!.write("shorter", text(3 * 4096));
      tree!.write("gone", text(2 * 4096));
      tree!.write("renamed", text(300));
      tree!.symlink("link", "there");
      tree!.write("spared", text(50));
    },
    ({ tree }, text) => {
      tree!.write("longer", text(4096), 4096);
      tree!.write("fresh", text(100));
    },
    ({ tree }, text) => {
      tree!.rename("renamed", "renamed too");
      tree!.write("shorter", text(4096), 2 * 4096);
      tree!.chown("link", 7);
      tree!.rename("spared", "as well");
      tree!.write("gone", text(100), 2 * 4096);
    },
  ],
  lacks: ["gone", "renamed", "renamed too", "link"],
  steps: [
    ...whole(1),
    stranger((disk) => {
      for (const name of ["gone", "renamed", "link"]) disk.removeTree("/srv/tree/copy", name);
      const copy = disk.tree("/srv/tree/copy");
      const bytes = (name: string): Uint8Array => {
        const file = copy.type === "directory" ? copy.entries[name] : undefined;
        if (file?.type !== "file") throw new Error(`${name} is a file`);
        return file.bytes;
      };
      disk.writeTree("/srv/tree/copy", {
        longer: Buffer.concat([bytes("longer"), Buffer.from("and foreign")]),
        shorter: bytes("shorter").subarray(0, 2 * 4096),
        fresh: "of a stranger",
      });
    }),
    receive(2),
    commit,
    apply,
    receive(3),
    commit,
    promoteSuspect,
  ],
  crashFrom: 9,
  limits: { batchBytesMax: 1 },
};

/** What is written in place, small new files and a large one, all of it or a part, and links that break in between. */
const shippedAhead: Scenario = {
  name: "what comes ahead of a cut",
  changes: [
    threeFiles,
    ({ tree }, text) => {
      tree!.write("a", text(3 * 4096), 2 * 4096);
      tree!.write("large", text(5 * 4096 + 300));
      tree!.write("small", text(5000));
      tree!.truncate("b", 4096 + 10);
    },
    ({ tree }, text) => {
      tree!.write("a", text(2 * 4096), 3 * 4096);
      tree!.write("large", text(5000));
      tree!.write("another", text(4 * 4096));
    },
  ],
  steps: [
    ahead(1),
    ...whole(1),
    ahead(2, 0, 0.6),
    abort,
    ahead(2, 0.3),
    receive(2, 0, 0.7),
    abort,
    // What was sent for a cut that was never taken, and what is newer: the newest that is asked for counts.
    ahead(3),
    ahead(2, 0.5),
    ...whole(2),
    ahead(3),
    ...whole(3),
  ],
  crashFrom: 4,
  limits: { resumeBytesMin: 4096 },
  resumes: true,
};

/** What a former primary wrote and removed by itself is brought right by one cut, over links that break. */
const rejoining: Scenario = {
  name: "a rejoin",
  changes: [
    ({ tree }, text) => {
      tree!.write("both", text(6 * 4096));
      tree!.write("shorter there", text(4 * 4096));
      tree!.write("longer there", text(2 * 4096));
      tree!.write("removed there", text(3 * 4096));
      tree!.write("moved there", text(5000));
      tree!.link("moved there", "second name");
      tree!.makeDirectory("directory");
      tree!.write("directory/x", text(100));
      tree!.write("same", text(300));
    },
    ({ tree }, text) => {
      tree!.write("both", text(2 * 4096), 4096);
      tree!.truncate("shorter there", 4096 + 10);
      tree!.write("longer there", text(3 * 4096), 2 * 4096);
      tree!.remove("removed there");
      tree!.rename("moved there", "moved");
      tree!.remove("second name");
      tree!.remove("directory");
      tree!.write("directory", text(100));
      tree!.write("new there", text(3 * 4096));
      tree!.makeDirectory("of its own");
      tree!.write("of its own/y", text(50));
      tree!.symlink("link", "both");
      tree!.chmod("same", 0o600);
    },
    ({ tree }, text) => {
      tree!.write("both", text(4096), 2 * 4096);
      tree!.rename("moved there", "directory/moved here");
      tree!.write("new there", text(4096));
      tree!.write("new here", text(3 * 4096));
    },
    ({ tree }, text) => {
      tree!.write("removed there", text(4096), 4096);
      tree!.remove("new here");
    },
  ],
  fork: 2,
  steps: [...whole(1), ...whole(2), part, receive(3, 0, 0.6), abort, ...whole(3), ...whole(4)],
  crashFrom: 7,
  keepHistory: false,
  limits: { resumeBytesMin: 4096 },
};

/** The primary that it rejoins is lost in the middle of its first cut, for good. */
const rejoiningPromoted: Scenario = {
  name: "a promotion of what rejoins",
  changes: rejoining.changes.slice(0, 3),
  fork: 2,
  steps: [...whole(1), ...whole(2), part, receive(3, 0, 0.6), abort, receive(3, 0, 0.8), promoteRejoining],
  crashFrom: 9,
  keepHistory: false,
  limits: { resumeBytesMin: 4096 },
};

/** A replica that was ahead of the node that was promoted, with recovery points. */
const goneBack: Scenario = {
  name: "a replica that goes back",
  changes: rejoining.changes.slice(0, 3),
  fork: 2,
  steps: [...whole(1), ...whole(2), goBack, ...whole(3)],
  crashFrom: 6,
  limits: { resumeBytesMin: 4096 },
};

/** A former primary, whose application has synced nothing since the cut before. */
const demoted: Scenario = {
  name: "a demotion",
  changes: rejoining.changes.slice(0, 3),
  fork: 2,
  steps: [...whole(1), ownCut(2), demoteIt],
  crashFrom: 4,
  keepHistory: false,
  limits: { resumeBytesMin: 4096 },
};

export const scenarios: readonly Scenario[] = [
  first,
  meanwhile,
  contents,
  names,
  types,
  promotion,
  pipelined,
  broken,
  exchanged,
  adoption,
  adoptionAgain,
  promotionOfSuspect,
  shippedAhead,
  rejoining,
  rejoiningPromoted,
  goneBack,
  demoted,
];
