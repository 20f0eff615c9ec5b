import { expect } from "chai";
import fc from "fast-check";
import type { Directory, Disk, OpenFile } from "../../shared/ports/disk.ts";
import { type Planted, type Tree, treeDifference } from "./disk-tree.ts";
import { seededRandom } from "./seeded-random.ts";
import { staleByte } from "./simulated-content.ts";
import {
  type OperationKind,
  operationKinds,
  operationOfMethod,
  PowerLoss,
  type PowerLossMode,
  powerLossModes,
  SimulatedDisk,
} from "./simulated-disk.ts";

const seeds = Array.from({ length: 200 }, (_, seed) => seed);

/** A disk with a settled directory at /srv, beside one on another filesystem. */
function standing(entries: Record<string, Planted> = {}): { disk: SimulatedDisk; root: Directory; other: Directory } {
  const disk = new SimulatedDisk({ mounts: [{ path: "/srv" }, { path: "/other" }] });
  disk.writeTree("/srv", entries);
  disk.settle();
  return { disk, root: disk.openRoot("/srv"), other: disk.openRoot("/other") };
}

function create(disk: Disk, directory: Directory, name: string, text = ""): void {
  const file = disk.openFile(directory, name, "create");
  if (text !== "") disk.write(file, Buffer.from(text, "latin1"), 0);
  disk.closeFile(file);
}

function change(disk: Disk, directory: Directory, name: string, act: (file: OpenFile) => void): void {
  const file = disk.openFile(directory, name, "write");
  act(file);
  disk.closeFile(file);
}

function write(text: string, position = 0): (disk: Disk, file: OpenFile) => void {
  return (disk, file) => disk.write(file, Buffer.from(text, "latin1"), position);
}

/** Files as text, with runs of one byte shortened; directories as what they hold. */
function show(tree: Tree | undefined): unknown {
  switch (tree?.type) {
    case undefined:
      return undefined;
    case "file":
      return shorten(tree.bytes.toString("latin1"));
    case "symlink":
      return `-> ${tree.target}`;
    case "other":
      return "other";
    case "directory":
      return Object.fromEntries(Object.entries(tree.entries).map(([name, entry]) => [name, show(entry)]));
  }
}

function shorten(text: string): string {
  return text.replace(/(.)\1{15,}/gs, (run, byte: string) => `${nameOfByte(byte)}*${run.length}`);
}

function nameOfByte(byte: string): string {
  if (byte === "\0") return "zero";
  return byte.charCodeAt(0) === staleByte ? "stale" : byte;
}

/** Everything that a power failure in this mode can leave, over many seeds. */
function leftBy(disk: SimulatedDisk, mode: PowerLossMode, path = "/srv"): Set<string> {
  return new Set(seeds.map((seed) => JSON.stringify(show(disk.afterPowerLoss(mode, seededRandom(seed)).tree(path)))));
}

function texts(...shown: unknown[]): string[] {
  return shown.map((one) => JSON.stringify(one)).sort();
}

interface Survival {
  promise: string;
  before?: Record<string, Planted>;
  act: (disk: SimulatedDisk, root: Directory, other: Directory) => void;
  path?: string;
  /** Exactly what can be left, by mode; a mode that is not named is not asked. */
  left: Partial<Record<PowerLossMode | "any mode", unknown[]>>;
}

const A = "A".repeat(512);
const B = "B".repeat(512);
const C = "C".repeat(512);

const survivals: Survival[] = [
  {
    promise: "names that were not synced are lost one by one, and in order where there is a journal",
    act: (disk, root) => {
      create(disk, root, "a");
      create(disk, root, "b");
    },
    left: {
      "lose-all": [{}],
      "keep-all": [{ a: "", b: "" }],
      torn: [{ a: "", b: "" }],
      reordered: [{}, { a: "" }, { b: "" }, { a: "", b: "" }],
      prefix: [{}, { a: "" }, { a: "", b: "" }],
    },
  },
  {
    promise: "syncing a file does not keep its name, except where the journal is written in order",
    act: (disk, root) => {
      const file = disk.openFile(root, "a", "create");
      write("text")(disk, file);
      disk.syncFile(file);
    },
    left: { "lose-all": [{}], reordered: [{}, { a: "text" }], prefix: [{ a: "text" }] },
  },
  {
    promise: "syncing a directory keeps its names, not what they lead to: size and bytes go their own ways",
    act: (disk, root) => {
      create(disk, root, "a", A + B);
      disk.syncDirectory(root);
    },
    left: {
      "lose-all": [{ a: "" }],
      "keep-all": [{ a: "A*512B*512" }],
      torn: [
        { a: "" },
        { a: "A*512B*512" },
        { a: "A*512zero*512" },
        { a: "zero*512B*512" },
        { a: "zero*1024" },
        { a: "stale*512B*512" },
        { a: "A*512stale*512" },
        { a: "stale*1024" },
        { a: "zero*512stale*512" },
        { a: "stale*512zero*512" },
      ],
      prefix: [{ a: "" }, { a: "A*512B*512" }, { a: "A*512zero*512" }, { a: "zero*512B*512" }, { a: "zero*1024" }],
    },
  },
  {
    promise: "a file that was synced, in a directory that was synced after it, stays as it is",
    act: (disk, root) => {
      const file = disk.openFile(root, "a", "create");
      write(A + B)(disk, file);
      disk.syncFile(file);
      disk.syncDirectory(root);
    },
    left: { "any mode": [{ a: "A*512B*512" }] },
  },
  {
    promise: "writes over old bytes survive sector by sector",
    before: { a: A + A + A },
    act: (disk, root) => change(disk, root, "a", (file) => write(B + B + B)(disk, file)),
    left: {
      "lose-all": [{ a: "A*1536" }],
      "keep-all": [{ a: "B*1536" }],
      torn: [
        { a: "A*1536" },
        { a: "B*512A*1024" },
        { a: "A*512B*512A*512" },
        { a: "A*1024B*512" },
        { a: "B*1024A*512" },
        { a: "B*512A*512B*512" },
        { a: "A*512B*1024" },
        { a: "B*1536" },
      ],
    },
  },
  {
    promise: "a later write may survive an earlier one",
    before: { a: A + A },
    act: (disk, root) =>
      change(disk, root, "a", (file) => {
        write(B)(disk, file);
        write(C, 512)(disk, file);
      }),
    left: {
      reordered: [{ a: "A*1024" }, { a: "B*512A*512" }, { a: "A*512C*512" }, { a: "B*512C*512" }],
    },
  },
  {
    promise: "two writes into one sector leave a state that the sector had, never the second without the first",
    before: { a: A },
    act: (disk, root) =>
      change(disk, root, "a", (file) => {
        write(B.slice(0, 100))(disk, file);
        write(C.slice(0, 100), 100)(disk, file);
      }),
    left: { torn: [{ a: "A*512" }, { a: "B*100A*412" }, { a: "B*100C*100A*312" }] },
  },
  {
    promise: "a truncated file has either size, and growing again shows old bytes or zeros",
    before: { a: A + A },
    act: (disk, root) =>
      change(disk, root, "a", (file) => {
        disk.truncate(file, 512);
        disk.truncate(file, 1024);
      }),
    left: {
      "lose-all": [{ a: "A*1024" }],
      "keep-all": [{ a: "A*512zero*512" }],
      torn: [{ a: "A*1024" }, { a: "A*512" }, { a: "A*512zero*512" }],
      prefix: [{ a: "A*1024" }, { a: "A*512" }, { a: "A*512zero*512" }],
    },
  },
  {
    promise: "a rename over two directories happens on both sides or on neither",
    before: { from: { type: "directory", entries: { a: "text" } }, to: { type: "directory", entries: {} } },
    act: (disk, root) => {
      disk.rename(disk.openDirectory(root, "from"), "a", disk.openDirectory(root, "to"), "b");
    },
    left: {
      "lose-all": [{ from: { a: "text" }, to: {} }],
      reordered: [
        { from: { a: "text" }, to: {} },
        { from: {}, to: { b: "text" } },
      ],
      prefix: [
        { from: { a: "text" }, to: {} },
        { from: {}, to: { b: "text" } },
      ],
    },
  },
  {
    promise: "a rename over two directories is durable when either was synced",
    before: { from: { type: "directory", entries: { a: "text" } }, to: { type: "directory", entries: {} } },
    act: (disk, root) => {
      const from = disk.openDirectory(root, "from");
      disk.rename(from, "a", disk.openDirectory(root, "to"), "b");
      disk.syncDirectory(from);
    },
    left: { "any mode": [{ from: {}, to: { b: "text" } }] },
  },
  {
    promise: "a rename over another file leaves the old one or the new one",
    before: { a: "old", b: "new" },
    act: (disk, root) => disk.rename(root, "b", root, "a"),
    left: { reordered: [{ a: "old", b: "new" }, { a: "new" }] },
  },
  {
    promise: "renames one after the other leave the file under one of the names that it had",
    before: { a: "text" },
    act: (disk, root) => {
      disk.rename(root, "a", root, "b");
      disk.rename(root, "b", root, "c");
    },
    left: { reordered: [{ a: "text" }, { b: "text" }, { c: "text" }] },
  },
  {
    promise: "what a synced change builds upon is synced with it",
    before: { from: { type: "directory", entries: { a: "text" } } },
    act: (disk, root) => {
      const from = disk.openDirectory(root, "from");
      disk.rename(from, "a", from, "b");
      disk.rename(from, "b", root, "c");
      create(disk, from, "unrelated");
      disk.syncDirectory(root);
    },
    left: { "lose-all": [{ c: "text", from: {} }] },
  },
  {
    promise: "an old name does not go before the new one that was made first",
    before: { a: "text" },
    act: (disk, root) => {
      disk.link(root, "a", root, "b");
      disk.unlink(root, "a");
    },
    left: { reordered: [{ a: "text" }, { a: "text", b: "text" }, { b: "text" }] },
  },
  {
    promise: "a new directory that was synced is lost with all in it when its parent was not",
    act: (disk, root) => {
      disk.makeDirectory(root, "new", 0o755);
      const inner = disk.openDirectory(root, "new");
      create(disk, inner, "a");
      disk.syncDirectory(inner);
    },
    left: { "lose-all": [{}], reordered: [{}, { new: { a: "" } }] },
  },
  {
    promise: "a directory is not removed before what emptied it",
    before: { old: { type: "directory", entries: { a: "text" } } },
    act: (disk, root) => {
      disk.rename(disk.openDirectory(root, "old"), "a", root, "a");
      disk.removeDirectory(root, "old");
    },
    left: {
      reordered: [{ old: { a: "text" } }, { a: "text", old: {} }, { a: "text" }],
    },
  },
  {
    promise: "moves of directories never close a circle",
    before: {
      a: { type: "directory", entries: { b: { type: "directory", entries: { kept: "text" } } } },
    },
    act: (disk, root) => {
      const a = disk.openDirectory(root, "a");
      disk.rename(a, "b", root, "b");
      disk.rename(root, "a", disk.openDirectory(root, "b"), "a");
    },
    left: {
      reordered: [{ a: { b: { kept: "text" } } }, { a: {}, b: { kept: "text" } }, { b: { a: {}, kept: "text" } }],
    },
  },
  {
    promise: "moves of directories never close a circle through one that lies between",
    before: {
      a: {
        type: "directory",
        entries: { b: { type: "directory", entries: { c: { type: "directory", entries: { kept: "text" } } } } },
      },
    },
    act: (disk, root) => {
      disk.rename(disk.openDirectory(root, "a"), "b", root, "b");
      disk.rename(root, "a", disk.openDirectory(disk.openDirectory(root, "b"), "c"), "a");
    },
    left: {
      reordered: [
        { a: { b: { c: { kept: "text" } } } },
        { a: {}, b: { c: { kept: "text" } } },
        { b: { c: { a: {}, kept: "text" } } },
      ],
    },
  },
  {
    promise: "symlinks come with their targets or not at all",
    act: (disk, root) => disk.makeSymlink(root, "a", "target"),
    left: { "lose-all": [{}], reordered: [{}, { a: "-> target" }], torn: [{ a: "-> target" }] },
  },
  {
    promise: "everything is durable after a sync of the filesystem",
    before: { a: A + A, gone: "text" },
    act: (disk, root) => {
      change(disk, root, "a", (file) => write(B)(disk, file));
      disk.makeDirectory(root, "new", 0o755);
      create(disk, disk.openDirectory(root, "new"), "b", "text");
      disk.unlink(root, "gone");
      disk.syncFilesystem(root);
    },
    left: { "any mode": [{ a: "B*512A*512", new: { b: "text" } }] },
  },
  {
    promise: "a sync of one filesystem is none of another",
    act: (disk, root, other) => {
      create(disk, other, "a");
      disk.syncFilesystem(root);
    },
    path: "/other",
    left: { "lose-all": [{}], reordered: [{}, { a: "" }], prefix: [{}, { a: "" }] },
  },
  {
    promise: "what failed to be synced is lost although the next sync succeeds and the bytes can be read",
    before: { a: A },
    act: (disk, root) => {
      const file = disk.openFile(root, "a", "write");
      write(B)(disk, file);
      disk.failNext("syncFile", "EIO");
      expect(() => disk.syncFile(file)).to.throw("EIO");
      disk.syncFile(file);
      disk.syncFilesystem(root);
      const buffer = Buffer.alloc(512);
      disk.read(file, buffer, 0, 512, 0);
      expect(buffer.toString()).to.equal(B);
    },
    left: { "any mode": [{ a: "A*512" }] },
  },
  {
    promise: "bytes written after a failed sync are kept by the next one",
    before: { a: A + A },
    act: (disk, root) => {
      const file = disk.openFile(root, "a", "write");
      write(B)(disk, file);
      disk.failNext("syncFile", "EIO");
      expect(() => disk.syncFile(file)).to.throw("EIO");
      write(C, 512)(disk, file);
      disk.syncFile(file);
    },
    left: { "any mode": [{ a: "A*512C*512" }] },
  },
  {
    promise: "a file that grew where the sync failed has the size without the bytes",
    before: { a: "" },
    act: (disk, root) => {
      const file = disk.openFile(root, "a", "write");
      write(B)(disk, file);
      disk.failNext("syncFilesystem", "EIO");
      expect(() => disk.syncFilesystem(root)).to.throw("EIO");
      disk.syncFilesystem(root);
    },
    left: { "any mode": [{ a: "zero*512" }] },
  },
  {
    promise: "names that failed to be synced are lost although the next sync succeeds",
    before: { a: "text" },
    act: (disk, root) => {
      disk.rename(root, "a", root, "b");
      disk.failNext("syncDirectory", "EIO");
      expect(() => disk.syncDirectory(root)).to.throw("EIO");
      create(disk, root, "c");
      disk.rename(root, "b", root, "d");
      disk.syncDirectory(root);
    },
    left: { "lose-all": [{ a: "text", c: "" }], "keep-all": [{ a: "text", c: "" }] },
  },
];

describe("what a power failure leaves on the simulated disk", () => {
  for (const { promise, before, act, path, left } of survivals) {
    it(promise, () => {
      const { disk, root, other } = standing(before);
      act(disk, root, other);
      const modes = left["any mode"] ? powerLossModes : powerLossModes.filter((mode) => left[mode]);
      for (const mode of modes) {
        const expected = left[mode] ?? left["any mode"] ?? [];
        expect([...leftBy(disk, mode, path)].sort(), mode).to.deep.equal(texts(...expected));
      }
    });
  }

  it("keeps owner, mode and times where the handle that set them, or the whole filesystem, was synced", () => {
    const rows: [promise: string, act: (disk: SimulatedDisk, root: Directory) => void, survives: boolean][] = [
      ["set and not synced", (disk, root) => disk.setMeta(root, "file", { mode: 0o600 }), false],
      [
        "set and synced by the same handle",
        (disk, root) =>
          change(disk, root, "file", (file) => {
            disk.setFileMeta(file, { mode: 0o600 });
            disk.syncFile(file);
          }),
        true,
      ],
      [
        "set by one handle and synced by another, which is an fdatasync",
        (disk, root) => {
          change(disk, root, "file", (file) => disk.setFileMeta(file, { mode: 0o600 }));
          change(disk, root, "file", (file) => disk.syncFile(file));
        },
        false,
      ],
      [
        "set by name, and synced by a handle whose own changes were synced before",
        (disk, root) =>
          change(disk, root, "file", (file) => {
            disk.setFileMeta(file, { mtimeUs: 5 });
            disk.syncFile(file);
            disk.setMeta(root, "file", { mode: 0o600 });
            disk.syncFile(file);
          }),
        false,
      ],
      [
        "set by name, and the parent synced",
        (disk, root) => {
          disk.setMeta(root, "file", { mode: 0o600 });
          disk.syncDirectory(root);
        },
        false,
      ],
      [
        "set by name, and the filesystem synced",
        (disk, root) => {
          disk.setMeta(root, "file", { mode: 0o600 });
          disk.syncFilesystem(root);
        },
        true,
      ],
    ];
    for (const [promise, act, survives] of rows) {
      const { disk, root } = standing({ file: "text" });
      act(disk, root);
      const modeIn = (mode: PowerLossMode) =>
        new Set(seeds.map((seed) => entry(disk.afterPowerLoss(mode, seededRandom(seed)), "/srv", "file").mode));
      expect([...modeIn("lose-all")], promise).to.deep.equal([survives ? 0o600 : 0o644]);
      expect([...modeIn("keep-all")], promise).to.deep.equal([0o600]);
      for (const mode of ["torn", "reordered", "prefix"] as const) {
        expect([...modeIn(mode)].sort(), `${promise}, ${mode}`).to.deep.equal(survives ? [0o600] : [0o600, 0o644]);
      }
    }
  });

  it("keeps a directory's own metadata where that directory was synced", () => {
    for (const [synced, expected] of [
      ["inner", 0o700],
      ["root", 0o755],
    ] as const) {
      const { disk, root } = standing({ inner: { type: "directory", entries: {} } });
      const inner = disk.openDirectory(root, "inner");
      disk.setDirectoryMeta(inner, { mode: 0o700 });
      disk.syncDirectory(synced === "inner" ? inner : root);
      expect(entry(disk.afterPowerLoss("lose-all", Math.random), "/srv", "inner").mode, synced).to.equal(expected);
    }
  });

  it("never has two files under one inode number, although numbers are used again at once", () => {
    const { disk, root } = standing({ a: "old" });
    const number = disk.stat(root, "a")?.inode;
    disk.unlink(root, "a");
    create(disk, root, "b", "new");
    expect(disk.stat(root, "b")?.inode).to.equal(number);
    for (const mode of powerLossModes) {
      for (const seed of seeds) {
        const after = disk.afterPowerLoss(mode, seededRandom(seed));
        const names = after.list(after.openRoot("/srv"));
        expect(names.length, `${mode}, seed ${seed}`).to.be.lessThan(2);
      }
    }
  });

  it("comes up with directories that know where they are", () => {
    const { disk, root } = standing({ a: { type: "directory", entries: {} }, b: { type: "directory", entries: {} } });
    disk.rename(root, "a", disk.openDirectory(root, "b"), "a");
    const after = disk.afterPowerLoss("lose-all", Math.random);
    const afterRoot = after.openRoot("/srv/a/../.");
    after.rename(afterRoot, "b", after.openDirectory(afterRoot, "a"), "b");
    expect(show(after.tree("/srv"))).to.deep.equal({ a: { b: {} } });
  });

  it("does not show lost growth when the file grows again", () => {
    const { disk, root } = standing({ a: "" });
    change(disk, root, "a", (file) => write(A)(disk, file));
    const shown = new Set<unknown>();
    for (const seed of seeds) {
      const after = disk.afterPowerLoss("torn", seededRandom(seed));
      const afterRoot = after.openRoot("/srv");
      if (after.stat(afterRoot, "a")?.size !== 0) continue;
      change(after, afterRoot, "a", (file) => after.truncate(file, 512));
      shown.add(JSON.stringify(show(after.tree("/srv"))));
    }
    expect([...shown]).to.deep.equal(texts({ a: "zero*512" }));
  });

  it("reads what the disk holds once the pages of a failed sync are forgotten", () => {
    const { disk, root } = standing({ a: A });
    const file = disk.openFile(root, "a", "write");
    write(B)(disk, file);
    disk.failNext("syncFile", "EIO");
    expect(() => disk.syncFile(file)).to.throw("EIO");
    expect(show(disk.tree("/srv"))).to.deep.equal({ a: "B*512" });
    disk.dropCaches();
    expect(show(disk.tree("/srv"))).to.deep.equal({ a: "A*512" });
    write(C)(disk, file);
    disk.syncFile(file);
    expect([...leftBy(disk, "lose-all")]).to.deep.equal(texts({ a: "C*512" }));
  });

  it("fails an injected operation without effect, once or as long as asked", () => {
    const { disk, root } = standing({ a: A });
    disk.failNext("rename", "EIO");
    expect(() => disk.rename(root, "a", root, "b")).to.throw("EIO");
    disk.rename(root, "a", root, "b");
    disk.failWhen(({ kind, detail }) => (kind === "write" && detail.startsWith("/srv/b ") ? "ENOSPC" : undefined));
    change(disk, root, "b", (file) => {
      for (let tries = 0; tries < 2; tries++) expect(() => write(B)(disk, file)).to.throw("ENOSPC");
    });
    create(disk, root, "c", "text");
    disk.stopFailing();
    expect(show(disk.tree("/srv"))).to.deep.equal({ b: "A*512", c: "text" });
  });
});

describe("the simulated disk as a crash matrix sees it", () => {
  /** One of each kind. */
  const everyOperation = (disk: Disk, root: Directory) => {
    const file = disk.openFile(root, "a", "create");
    try {
      disk.write(file, Buffer.from("text"), 0);
      disk.truncate(file, 2);
      disk.setFileMeta(file, { mode: 0o640 });
      disk.syncFile(file);
    } finally {
      disk.closeFile(file);
    }
    disk.rename(root, "a", root, "b");
    disk.link(root, "b", root, "c");
    disk.unlink(root, "b");
    disk.makeDirectory(root, "d", 0o755);
    const inner = disk.openDirectory(root, "d");
    disk.setDirectoryMeta(inner, { mode: 0o700 });
    disk.closeDirectory(inner);
    disk.removeDirectory(root, "d");
    disk.makeSymlink(root, "s", "c");
    disk.setMeta(root, "s", { mtimeUs: 5 });
    disk.syncDirectory(root);
    disk.syncFilesystem(root);
  };

  it("announces every kind of operation before and after, and nothing that only reads", () => {
    const { disk, root } = standing();
    const heard: string[] = [];
    const kinds = new Set<OperationKind>();
    disk.onOperation = ({ index, kind, when }) => {
      heard.push(`${index} ${when}`);
      kinds.add(kind);
    };
    everyOperation(disk, root);
    expect([...kinds].sort()).to.deep.equal([...operationKinds].sort());
    expect(heard).to.deep.equal(operationKinds.flatMap((_, index) => [`${index} before`, `${index} after`]));
    expect(disk.operations).to.equal(operationKinds.length);
    const before = heard.length;
    const file = disk.openFile(root, "c", "write");
    disk.read(file, new Uint8Array(4), 0, 4, 0);
    disk.statFile(file);
    disk.startWriteback(file);
    disk.closeFile(file);
    disk.statDirectory(root);
    disk.stat(root, "c");
    disk.list(root);
    disk.readSymlink(root, "s");
    disk.freeBytes(root);
    expect(heard.length).to.equal(before);
  });

  it("lists every operation under some method, so that a new one cannot go unnoticed", () => {
    const listed = new Set<string>(Object.values(operationOfMethod).filter((kind) => kind !== "reads"));
    expect([...listed].sort()).to.deep.equal([...operationKinds].sort());
    for (const method of Object.keys(operationOfMethod)) expect(new SimulatedDisk()).to.respondTo(method);
  });

  it("stops before or after any operation, and lets a dying program do nothing but close its handles", () => {
    const untouched = standing();
    everyOperation(untouched.disk, untouched.root);
    for (let stopAt = 0; stopAt < operationKinds.length; stopAt++) {
      for (const stopWhen of ["before", "after"] as const) {
        const { disk, root } = standing();
        const done: string[] = [];
        disk.onOperation = ({ index, kind, when }) => {
          if (index === stopAt && when === stopWhen) throw new PowerLoss(kind);
          if (when === "after") done.push(kind);
        };
        expect(() => everyOperation(disk, root)).to.throw(PowerLoss);
        expect(done.length).to.equal(stopAt);
        expect(() => create(disk, root, "z")).to.throw(PowerLoss);
        expect(() => disk.list(root)).to.throw(PowerLoss);
        disk.closeDirectory(root);
        const kept = treeAfter(disk, "keep-all");
        // What the operation did counts, and only if it was stopped after it.
        const { disk: replayed, root: replayedRoot } = standing();
        replayed.onOperation = ({ index, when, kind }) => {
          if (index === stopAt + (stopWhen === "after" ? 1 : 0) && when === "before") throw new PowerLoss(kind);
        };
        try {
          everyOperation(replayed, replayedRoot);
        } catch (error) {
          expect(error).to.be.instanceOf(PowerLoss);
        }
        expect(treeDifference(kept, replayed.tree("/srv"), { times: false, links: true })).to.equal(undefined);
      }
    }
  });

  it("finds each sync that the replacement of a file needs, and none missing when all are there", () => {
    const replace = (disk: Disk, root: Directory, left: "nothing" | "file sync" | "directory sync") => {
      const file = disk.openFile(root, "state.staged", "create");
      disk.write(file, Buffer.from("new".padEnd(2000, "!")), 0);
      if (left !== "file sync") disk.syncFile(file);
      disk.closeFile(file);
      disk.rename(root, "state.staged", root, "state");
      if (left !== "directory sync") disk.syncDirectory(root);
    };
    const oldState = "old".padEnd(1000, "!");
    const newState = "new".padEnd(2000, "!");
    const broken = (left: "nothing" | "file sync" | "directory sync") => {
      const found = new Set<string>();
      const start = standing({ state: oldState });
      for (let stopAt = 0; stopAt <= 5; stopAt++) {
        const disk = start.disk.clone();
        disk.onOperation = ({ index, when, kind }) => {
          if (index === stopAt && when === "before") throw new PowerLoss(kind);
        };
        let returned = false;
        try {
          replace(disk, start.root, left);
          returned = true;
        } catch (error) {
          if (!(error instanceof PowerLoss)) throw error;
        }
        for (const mode of powerLossModes) {
          for (const seed of seeds.slice(0, 20)) {
            const tree = disk.afterPowerLoss(mode, seededRandom(seed)).tree("/srv");
            const state = tree.type === "directory" && tree.entries.state;
            const text = state && state.type === "file" ? state.bytes.toString() : "absent";
            if (text !== oldState && text !== newState) found.add("neither old nor new");
            if (returned && text === oldState) found.add("old after it had returned");
          }
        }
      }
      return [...found].sort();
    };
    expect(broken("nothing")).to.deep.equal([]);
    expect(broken("file sync")).to.deep.equal(["neither old nor new"]);
    expect(broken("directory sync")).to.deep.equal(["old after it had returned"]);
  });

  it("does not count what strangers do", () => {
    const { disk, root } = standing({ a: "text" });
    disk.onOperation = ({ kind }) => {
      throw new PowerLoss(kind);
    };
    disk.writeTree("/srv", {
      a: "changed",
      "b\xff": { type: "directory", entries: { s: { type: "symlink", target: "x" } } },
    });
    disk.asStranger(() => disk.setMeta(root, "a", { mode: 0o600 }));
    expect(disk.operations).to.equal(0);
    expect(show(disk.tree("/srv"))).to.deep.equal({ a: "changed", "b\xff": { s: "-> x" } });
    disk.removeTree("/srv", "b\xff");
    expect(show(disk.tree("/srv"))).to.deep.equal({ a: "changed" });
    expect(() => disk.unlink(root, "a")).to.throw(PowerLoss);
  });
});

describe("the filesystems of the simulated disk", () => {
  it("end where they are mounted, show the empty directory while they are not, and cannot be renamed or removed", () => {
    const disk = new SimulatedDisk({ mounts: [{ path: "/srv" }, { path: "/srv/inner/copy" }] });
    disk.writeTree("/srv/inner/copy", { a: "text" });
    disk.writeTree("/srv/inner", { link: { type: "symlink", target: "../inner/copy/../copy" } });
    const inner = disk.openRoot("/srv/inner");
    const copy = disk.openDirectory(inner, "copy");
    expect(disk.list(copy)).to.deep.equal(["a"]);
    expect(disk.list(disk.openRoot("/srv/inner/link"))).to.deep.equal(["a"]);
    expect(disk.stat(inner, "copy")?.device).to.equal(disk.statDirectory(copy).device);
    expect(disk.stat(inner, "copy")?.device).not.to.equal(disk.statDirectory(inner).device);
    expect(() => disk.rename(inner, "copy", inner, "elsewhere")).to.throw("EBUSY");
    expect(() => disk.removeDirectory(inner, "copy")).to.throw("EBUSY");
    expect(() => disk.rename(copy, "a", inner, "a")).to.throw("EXDEV");
    disk.setMounted("/srv/inner/copy", false);
    expect(disk.list(disk.openRoot("/srv/inner/copy"))).to.deep.equal([]);
    disk.setMounted("/srv/inner/copy", true);
    expect(disk.list(disk.openRoot("/srv/inner/copy"))).to.deep.equal(["a"]);
    expect(() => disk.openRoot("/srv/absent")).to.throw("ENOENT");
    expect(() => disk.openRoot("/srv/inner/copy/a")).to.throw("ENOTDIR");
    disk.writeTree("/srv", { circle: { type: "symlink", target: "circle" } });
    expect(() => disk.openRoot("/srv/circle")).to.throw("ELOOP");
  });

  it("are full at their capacity, take what still fits of a write, and have space again when files go", () => {
    const disk = new SimulatedDisk({ mounts: [{ path: "/small", capacityBytes: 5 * 4096 }] });
    const root = disk.openRoot("/small");
    expect(disk.freeBytes(root)).to.equal(4 * 4096); // The root takes one.
    const file = disk.openFile(root, "a", "create");
    expect(() => disk.write(file, Buffer.alloc(6 * 4096, 1), 100)).to.throw("ENOSPC");
    expect(disk.statFile(file).size).to.equal(4 * 4096);
    expect(disk.freeBytes(root)).to.equal(0);
    disk.write(file, Buffer.alloc(4096, 2), 4096); // No space needed.
    expect(() => disk.write(file, Buffer.alloc(1), 4 * 4096)).to.throw("ENOSPC");
    expect(() => disk.makeDirectory(root, "d", 0o755)).to.throw("ENOSPC");
    for (const [mode, free] of [
      ["keep-all", 0],
      ["lose-all", 4 * 4096],
    ] as const) {
      const after = disk.afterPowerLoss(mode, Math.random);
      expect(after.freeBytes(after.openRoot("/small")), mode).to.equal(free);
    }
    disk.unlink(root, "a");
    expect(disk.freeBytes(root)).to.equal(0); // It is still open.
    disk.closeFile(file);
    expect(disk.freeBytes(root)).to.equal(4 * 4096);
  });
});

type Step =
  | { do: "create" | "unlink" | "makeDirectory" | "removeDirectory"; at: number; name: string }
  | { do: "write"; at: number; name: string; position: number; length: number; sync: boolean }
  | { do: "truncate"; at: number; name: string; size: number; sync: boolean }
  | { do: "setMeta"; at: number; name: string; mode: number }
  | { do: "rename" | "link"; at: number; name: string; to: number; toName: string }
  | { do: "syncDirectory" | "openDirectory"; at: number; name: string };

const at = fc.nat({ max: 2 });
const name = fc.constantFrom("a", "b", "c", "d");
const length = fc.nat({ max: 9000 });
const movingStep: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant("makeDirectory" as const), at, name }),
  fc.record({ do: fc.constant("openDirectory" as const), at, name }),
  fc.record({ do: fc.constant("removeDirectory" as const), at, name }),
  { weight: 4, arbitrary: fc.record({ do: fc.constant("rename" as const), at, name, to: at, toName: name }) },
  fc.record({ do: fc.constant("link" as const), at, name, to: at, toName: name }),
);
const anyStep: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: movingStep },
  fc.record({ do: fc.constantFrom("create" as const, "create" as const, "unlink" as const), at, name }),
  fc.record({ do: fc.constant("write" as const), at, name, position: length, length, sync: fc.boolean() }),
  fc.record({ do: fc.constant("truncate" as const), at, name, size: length, sync: fc.boolean() }),
  fc.record({ do: fc.constant("setMeta" as const), at, name, mode: fc.nat({ max: 0o777 }) }),
  fc.record({ do: fc.constant("syncDirectory" as const), at, name }),
);

/** Takes steps below a directory; one that the disk refuses is none. */
function walk(
  disk: SimulatedDisk,
  root: Directory,
  steps: readonly Step[],
  allowed: (step: Step, directories: readonly Directory[]) => boolean,
): void {
  const directories = [root, root, root];
  const file = (step: Step & { name: string }, use: (file: OpenFile) => void) =>
    change(disk, directories[step.at]!, step.name, use);
  for (const step of steps) {
    const directory = directories[step.at]!;
    if (!allowed(step, directories)) continue;
    try {
      switch (step.do) {
        case "create":
          create(disk, directory, step.name, `created ${step.name}`);
          break;
        case "makeDirectory":
          disk.makeDirectory(directory, step.name, 0o755);
          break;
        case "openDirectory":
          directories[2] = disk.openDirectory(directory, step.name);
          directories[1] = directory;
          break;
        case "write":
          file(step, (opened) => {
            disk.write(opened, Buffer.alloc(step.length, step.position), step.position);
            if (step.sync) disk.syncFile(opened);
          });
          break;
        case "truncate":
          file(step, (opened) => {
            disk.truncate(opened, step.size);
            if (step.sync) disk.syncFile(opened);
          });
          break;
        case "setMeta":
          disk.setMeta(directory, step.name, { mode: step.mode });
          break;
        case "syncDirectory":
          disk.syncDirectory(directory);
          break;
        case "unlink":
        case "removeDirectory":
          disk[step.do](directory, step.name);
          break;
        case "rename":
        case "link":
          disk[step.do](directory, step.name, directories[step.to]!, step.toName);
          break;
      }
    } catch (error) {
      if (!(error instanceof Error && "syscall" in error)) throw error;
    }
  }
}

describe("any operations on the simulated disk", () => {
  const planted = { a: "first", b: { type: "directory", entries: { c: "second" } }, c: "third" } as const;
  const mode = fc.constantFrom(...powerLossModes);
  const seed = fc.nat();
  const steps = fc.array(anyStep, { maxLength: 60, size: "max" });

  it("keep everything up to a sync of the filesystem, whatever the mode", () => {
    fc.assert(
      fc.property(steps, mode, seed, (before, lossMode, lossSeed) => {
        const { disk, root } = standing(planted);
        walk(disk, root, before, () => true);
        disk.syncFilesystem(root);
        const after = disk.afterPowerLoss(lossMode, seededRandom(lossSeed)).tree("/srv");
        expect(treeDifference(after, disk.tree("/srv"))).to.equal(undefined);
      }),
      { numRuns: 300 },
    );
  });

  it("come back complete when all is kept, and twice the same for the same seed", () => {
    fc.assert(
      fc.property(steps, mode, seed, (taken, lossMode, lossSeed) => {
        const { disk, root } = standing(planted);
        walk(disk, root, taken, () => true);
        const kept = treeAfter(disk, "keep-all");
        expect(treeDifference(kept, disk.tree("/srv"))).to.equal(undefined);
        const [once, again] = [0, 1].map(() => disk.afterPowerLoss(lossMode, seededRandom(lossSeed)).tree("/srv"));
        expect(treeDifference(once!, again!)).to.equal(undefined);
      }),
      { numRuns: 300 },
    );
  });

  it("are lost completely when nothing was synced", () => {
    fc.assert(
      fc.property(steps, (taken) => {
        const { disk, root } = standing(planted);
        const before = disk.tree("/srv");
        walk(disk, root, taken, (step) => step.do !== "syncDirectory" && !("sync" in step && step.sync));
        expect(treeDifference(treeAfter(disk, "lose-all"), before)).to.equal(undefined);
      }),
      { numRuns: 300 },
    );
  });

  it("never lose a file by moving it, and count the names of every file right", () => {
    fc.assert(
      fc.property(fc.array(movingStep, { maxLength: 40, size: "max" }), mode, seed, (taken, lossMode, lossSeed) => {
        const { disk, root } = standing(planted);
        // Whatever would remove a file by replacing it is left out.
        walk(disk, root, taken, (step, directories) => !replacesFile(disk, step, directories));
        const after = disk.afterPowerLoss(lossMode, seededRandom(lossSeed));
        const names = filesBelow(after.tree("/srv"));
        expect([...new Set(names.map(({ text }) => text))].sort()).to.deep.equal(["first", "second", "third"]);
        for (const { text, links } of names) {
          expect(names.filter((other) => other.text === text).length).to.equal(links);
        }
      }),
      { numRuns: 500 },
    );
  });

  it("of a clone and of its original never show on the other, nor in what a power failure leaves of it", () => {
    fc.assert(
      fc.property(steps, steps, steps, fc.boolean(), (before, here, there, restarted) => {
        const { disk, root } = standing(planted);
        walk(disk, root, before, () => true);
        const other = restarted ? disk.afterPowerLoss("keep-all", Math.random) : disk.clone();
        const otherRoot = other.openRoot("/srv");
        const states = () => [disk, other].map((one) => [one.tree("/srv"), treeAfter(one, "lose-all")] as const);
        const same = (index: number, expected: readonly (readonly [Tree, Tree])[]) => {
          const [now, lost] = states()[index]!;
          expect(treeDifference(now, expected[index]![0])).to.equal(undefined);
          expect(treeDifference(lost, expected[index]![1])).to.equal(undefined);
        };
        const first = states();
        walk(disk, root, here, () => true);
        same(1, first);
        const second = states();
        walk(other, otherRoot, there, () => true);
        same(0, second);
      }),
      { numRuns: 200 },
    );
  });

  it("the handles of a clone are its own", () => {
    const { disk, root } = standing({ a: A });
    const file = disk.openFile(root, "a", "write");
    const clone = disk.clone();
    clone.setFileMeta(file, { mode: 0o600 });
    clone.closeFile(file);
    clone.closeDirectory(root);
    disk.setMeta(root, "a", { mode: 0o640 });
    disk.syncFile(file); // An fdatasync, as only the clone's handle has set something.
    expect(entry(disk.afterPowerLoss("lose-all", Math.random), "/srv", "a").mode).to.equal(0o644);
  });
});

function treeAfter(disk: SimulatedDisk, mode: PowerLossMode): Tree {
  return disk.afterPowerLoss(mode, Math.random).tree("/srv");
}

function entry(disk: SimulatedDisk, path: string, name: string): Tree {
  const tree = disk.tree(path);
  const found = tree.type === "directory" ? tree.entries[name] : undefined;
  if (!found) throw new Error(`${path}/${name} is absent`);
  return found;
}

function filesBelow(tree: Tree): { text: string; links: number }[] {
  if (tree.type === "directory") return Object.values(tree.entries).flatMap(filesBelow);
  return tree.type === "file" ? [{ text: tree.bytes.toString(), links: tree.links }] : [];
}

/** By the handle: the directory may lie elsewhere by now than where it was opened. */
function replacesFile(disk: SimulatedDisk, step: Step, directories: readonly Directory[]): boolean {
  return step.do === "rename" && disk.stat(directories[step.to]!, step.toName)?.type === "file";
}
