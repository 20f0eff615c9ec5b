import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import type { Directory, Disk, OpenFile } from "../../../shared/ports/disk.ts";
import { describeTree, treeDifference } from "../../crash/disk-tree.ts";
import { SimulatedDisk } from "../../crash/simulated-disk.ts";

/** Only root may give files away; others can still set what they are. */
const owner = process.getuid?.() === 0 ? 1234 : (process.getuid?.() ?? 0);
const group = process.getuid?.() === 0 ? 4321 : (process.getgid?.() ?? 0);

/** An empty directory on a disk, another one on another filesystem, and short words for what tests do there. */
class Scene implements Disposable {
  readonly disk: Disk;
  readonly root: Directory;
  readonly elsewhere: Directory;
  private readonly cleanUp: () => void;

  constructor(disk: Disk, rootPath: string, elsewherePath: string, cleanUp: () => void) {
    this.disk = disk;
    this.root = disk.openRoot(rootPath);
    this.elsewhere = disk.openRoot(elsewherePath);
    this.cleanUp = cleanUp;
  }

  file(name: string, text = "", directory = this.root): void {
    const file = this.disk.openFile(directory, name, "create");
    this.disk.write(file, Buffer.from(text), 0);
    this.disk.closeFile(file);
  }

  directory(name: string, parent = this.root): Directory {
    this.disk.makeDirectory(parent, name, 0o755);
    return this.disk.openDirectory(parent, name);
  }

  text(name: string, directory = this.root): string {
    const file = this.disk.openFile(directory, name, "read");
    const text = this.textOf(file);
    this.disk.closeFile(file);
    return text;
  }

  textOf(file: OpenFile): string {
    const buffer = Buffer.alloc(20_000);
    return buffer.toString("latin1", 0, this.disk.read(file, buffer, 0, buffer.length, 0));
  }

  change(name: string, change: (file: OpenFile) => void): void {
    const file = this.disk.openFile(this.root, name, "write");
    change(file);
    this.disk.closeFile(file);
  }

  names(directory = this.root): string[] {
    return this.disk.list(directory).sort();
  }

  code(action: () => unknown): string {
    return outcome(action).code;
  }

  [Symbol.dispose](): void {
    this.disk.closeDirectory(this.root);
    this.disk.closeDirectory(this.elsewhere);
    this.cleanUp();
  }
}

function outcome(action: () => unknown): { code: string; value?: unknown } {
  try {
    return { code: "ok", value: action() };
  } catch (error) {
    if (error instanceof Error && "syscall" in error && "code" in error) return { code: String(error.code) };
    throw error;
  }
}

function realScene(): Scene {
  const paths = [mkdtempSync(join(tmpdir(), "understudy-disk-")), mkdtempSync("/dev/shm/understudy-disk-")];
  for (const path of paths) chmodSync(path, 0o755);
  return new Scene(new RealDisk(), paths[0]!, paths[1]!, () => {
    for (const path of paths) rmSync(path, { recursive: true });
  });
}

function simulatedScene(): Scene {
  const user = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  const disk = new SimulatedDisk({ user, mounts: [{ path: "/srv/here" }, { path: "/srv/elsewhere" }] });
  return new Scene(disk, "/srv/here", "/srv/elsewhere", () => undefined);
}

/** One row, one promise of the port: what was done, and what must come of it. */
const contract: [promise: string, act: (scene: Scene) => unknown, expected: unknown][] = [
  ["an absent name has no stat", ({ disk, root }) => disk.stat(root, "absent"), undefined],
  ["opening an absent file", (s) => s.code(() => s.disk.openFile(s.root, "absent", "read")), "ENOENT"],
  ["opening an absent file to write", (s) => s.code(() => s.disk.openFile(s.root, "absent", "write")), "ENOENT"],
  ["opening an absent directory", (s) => s.code(() => s.disk.openDirectory(s.root, "absent")), "ENOENT"],
  ["opening an absent root", (s) => s.code(() => s.disk.openRoot("/absent/root")), "ENOENT"],
  ["unlinking what is absent", (s) => s.code(() => s.disk.unlink(s.root, "absent")), "ENOENT"],
  ["removing an absent directory", (s) => s.code(() => s.disk.removeDirectory(s.root, "absent")), "ENOENT"],
  ["renaming what is absent", (s) => s.code(() => s.disk.rename(s.root, "absent", s.root, "b")), "ENOENT"],
  ["linking what is absent", (s) => s.code(() => s.disk.link(s.root, "absent", s.root, "b")), "ENOENT"],
  ["reading an absent symlink", (s) => s.code(() => s.disk.readSymlink(s.root, "absent")), "ENOENT"],
  ["metadata of what is absent", (s) => s.code(() => s.disk.setMeta(s.root, "absent", { mode: 0o600 })), "ENOENT"],
  ["a name of 255 bytes is possible", (s) => s.code(() => s.file("n".repeat(255))), "ok"],
  ["a name of 256 bytes is too long", (s) => s.code(() => s.file("n".repeat(256))), "ENAMETOOLONG"],
  ["looking for a name of 256 bytes", (s) => s.code(() => s.disk.stat(s.root, "n".repeat(256))), "ENAMETOOLONG"],
  [
    "create never takes what is there: file, directory, symlink that leads nowhere",
    (s) => {
      s.file("file");
      s.directory("directory");
      s.disk.makeSymlink(s.root, "symlink", "nowhere");
      return ["file", "directory", "symlink"].map((name) => s.code(() => s.disk.openFile(s.root, name, "create")));
    },
    ["EEXIST", "EEXIST", "EEXIST"],
  ],
  [
    "create gives others nothing unless it is told to",
    (s) => {
      s.disk.closeFile(s.disk.openFile(s.root, "own", "create"));
      s.disk.closeFile(s.disk.openFile(s.root, "told", "create", 0o500));
      return ["own", "told"].map((name) => s.disk.stat(s.root, name)?.mode);
    },
    [0o600, 0o500],
  ],
  [
    "no other creating operation takes what is there",
    (s) => {
      s.file("taken");
      s.file("other");
      return [
        s.code(() => s.disk.makeDirectory(s.root, "taken", 0o755)),
        s.code(() => s.disk.makeSymlink(s.root, "taken", "target")),
        s.code(() => s.disk.link(s.root, "other", s.root, "taken")),
      ];
    },
    ["EEXIST", "EEXIST", "EEXIST"],
  ],
  [
    "opening a symlink as a file is refused, whatever it leads to",
    (s) => {
      s.file("file", "secret");
      s.disk.makeSymlink(s.root, "symlink", "file");
      return (["read", "write"] as const).map((mode) => s.code(() => s.disk.openFile(s.root, "symlink", mode)));
    },
    ["ELOOP", "ELOOP"],
  ],
  [
    "opening a directory as a file is refused",
    (s) => {
      s.directory("directory");
      return (["read", "write"] as const).map((mode) => s.code(() => s.disk.openFile(s.root, "directory", mode)));
    },
    ["EINVAL", "EISDIR"],
  ],
  [
    "opening a file or a symlink to a directory as a directory is refused",
    (s) => {
      s.file("file");
      s.directory("directory");
      s.disk.makeSymlink(s.root, "symlink", "directory");
      return ["file", "symlink"].map((name) => s.code(() => s.disk.openDirectory(s.root, name)));
    },
    ["ENOTDIR", "ENOTDIR"],
  ],
  [
    "a directory that was opened stays the same one when a symlink takes its name",
    (s) => {
      const opened = s.directory("name");
      s.directory("trap");
      s.disk.rename(s.root, "name", s.root, "moved");
      s.disk.makeSymlink(s.root, "name", "trap");
      s.file("written", "x", opened);
      return [s.names(opened), s.names(s.disk.openDirectory(s.root, "trap"))];
    },
    [["written"], []],
  ],
  [
    "unlink refuses directories, removeDirectory everything else and what is not empty",
    (s) => {
      s.file("file");
      s.disk.makeSymlink(s.root, "symlink", "full");
      s.file("inner", "", s.directory("full"));
      return [
        s.code(() => s.disk.unlink(s.root, "full")),
        s.code(() => s.disk.removeDirectory(s.root, "file")),
        s.code(() => s.disk.removeDirectory(s.root, "symlink")),
        s.code(() => s.disk.removeDirectory(s.root, "full")),
      ];
    },
    ["EISDIR", "ENOTDIR", "ENOTDIR", "ENOTEMPTY"],
  ],
  [
    "a removed directory takes nothing any more",
    (s) => {
      const removed = s.directory("removed");
      s.file("file");
      s.disk.removeDirectory(s.root, "removed");
      return [
        s.code(() => s.disk.openFile(removed, "new", "create")),
        s.code(() => s.disk.makeDirectory(removed, "new", 0o755)),
        s.code(() => s.disk.makeSymlink(removed, "new", "target")),
        s.code(() => s.disk.link(s.root, "file", removed, "new")),
        s.code(() => s.disk.rename(s.root, "file", removed, "new")),
        s.disk.list(removed),
        s.disk.stat(removed, "new"),
        s.disk.statDirectory(removed).links,
      ];
    },
    ["ENOENT", "ENOENT", "ENOENT", "ENOENT", "ENOENT", [], undefined, 0],
  ],
  [
    "rename replaces a file, whose open handle goes on reading the old one",
    (s) => {
      s.file("old", "old");
      s.file("new", "new");
      const opened = s.disk.openFile(s.root, "old", "read");
      s.disk.rename(s.root, "new", s.root, "old");
      return [s.names(), s.text("old"), s.textOf(opened), s.disk.statFile(opened).links];
    },
    [["old"], "new", "old", 0],
  ],
  [
    "rename keeps the inode, over directories too",
    (s) => {
      s.file("a");
      const before = s.disk.stat(s.root, "a")?.inode;
      const inner = s.directory("inner");
      s.disk.rename(s.root, "a", inner, "b");
      return [s.names(), s.disk.stat(inner, "b")?.inode === before];
    },
    [["inner"], true],
  ],
  [
    "rename between two names of one inode does nothing",
    (s) => {
      s.file("a");
      s.disk.link(s.root, "a", s.root, "b");
      s.disk.rename(s.root, "a", s.root, "b");
      return s.names();
    },
    ["a", "b"],
  ],
  [
    "rename of directories: over an empty one, a full one, a file; of a file over a directory",
    (s) => {
      s.directory("moved");
      s.directory("empty");
      s.file("inner", "", s.directory("full"));
      s.file("file");
      return [
        s.code(() => s.disk.rename(s.root, "moved", s.root, "full")),
        s.code(() => s.disk.rename(s.root, "moved", s.root, "file")),
        s.code(() => s.disk.rename(s.root, "file", s.root, "moved")),
        s.code(() => s.disk.rename(s.root, "moved", s.root, "empty")),
        s.names(),
      ];
    },
    ["ENOTEMPTY", "ENOTDIR", "EISDIR", "ok", ["empty", "file", "full"]],
  ],
  [
    "no directory goes into itself or replaces one that it lies in",
    (s) => {
      const outer = s.directory("outer");
      const inner = s.directory("inner", outer);
      s.directory("innermost", inner);
      return [
        s.code(() => s.disk.rename(s.root, "outer", inner, "x")),
        s.code(() => s.disk.rename(s.root, "outer", outer, "x")),
        s.code(() => s.disk.rename(inner, "innermost", s.root, "outer")),
      ];
    },
    ["EINVAL", "EINVAL", "ENOTEMPTY"],
  ],
  [
    "nothing is renamed or linked to another filesystem",
    (s) => {
      s.file("file");
      return [
        s.code(() => s.disk.rename(s.root, "file", s.elsewhere, "file")),
        s.code(() => s.disk.link(s.root, "file", s.elsewhere, "file")),
        s.disk.statDirectory(s.root).device === s.disk.statDirectory(s.elsewhere).device,
      ];
    },
    ["EXDEV", "EXDEV", false],
  ],
  [
    "a link is the same inode, counted, and outlives the first name",
    (s) => {
      s.file("a", "text");
      s.disk.link(s.root, "a", s.root, "b");
      const [a, b] = [s.disk.stat(s.root, "a"), s.disk.stat(s.root, "b")];
      s.disk.unlink(s.root, "a");
      return [a?.inode === b?.inode, a?.links, b?.links, s.disk.stat(s.root, "b")?.links, s.text("b")];
    },
    [true, 2, 2, 1, "text"],
  ],
  [
    "a link to a symlink is a symlink; to a directory there is none",
    (s) => {
      s.disk.makeSymlink(s.root, "symlink", "target");
      s.disk.link(s.root, "symlink", s.root, "second");
      s.directory("directory");
      return [s.disk.readSymlink(s.root, "second"), s.code(() => s.disk.link(s.root, "directory", s.root, "third"))];
    },
    ["target", "EPERM"],
  ],
  [
    "a file that is unlinked while open is still read and written",
    (s) => {
      s.file("file", "old");
      const file = s.disk.openFile(s.root, "file", "write");
      s.disk.unlink(s.root, "file");
      s.disk.write(file, Buffer.from("new and longer"), 0);
      const text = s.textOf(file);
      s.disk.closeFile(file);
      return [text, s.names()];
    },
    ["new and longer", []],
  ],
  [
    "symlinks carry any bytes; an empty target is refused, and so is reading a file as one",
    (s) => {
      s.disk.makeSymlink(s.root, "symlink", "/any/../\xff\x01target");
      s.file("file");
      return [
        s.disk.readSymlink(s.root, "symlink"),
        s.disk.stat(s.root, "symlink")?.size,
        s.code(() => s.disk.makeSymlink(s.root, "empty", "")),
        s.code(() => s.disk.readSymlink(s.root, "file")),
      ];
    },
    ["/any/../\xff\x01target", 16, "ENOENT", "EINVAL"],
  ],
  [
    "names are bytes",
    (s) => {
      for (const name of ["\xff", "\xc3\xa4", "\xe4", "\x01\n", " ", "...", "__proto__"]) s.file(name, name);
      s.disk.rename(s.root, "\xff", s.root, "\xfe");
      return [s.names(), Buffer.from(s.text("\xe4")).toString("latin1") === "\xc3\x83\xc2\xa4"];
    },
    [["\x01\n", " ", "...", "__proto__", "\xc3\xa4", "\xe4", "\xfe"], true],
  ],
  [
    "a write beyond the end leaves a hole, of zeros and without space",
    (s) => {
      s.file("file", "ab");
      s.change("file", (file) => s.disk.write(file, Buffer.from("cd"), 10 * 4096));
      const { size, allocated } = s.disk.stat(s.root, "file")!;
      const buffer = Buffer.alloc(6, 0xee);
      const file = s.disk.openFile(s.root, "file", "read");
      const read = s.disk.read(file, buffer, 1, 4, 10 * 4096 - 3);
      return [size, allocated <= 2 * 4096, read, [...buffer]];
    },
    [10 * 4096 + 2, true, 4, [0xee, 0, 0, 0, 0x63, 0xee]],
  ],
  [
    "reads end at the end of the file",
    (s) => {
      s.file("file", "abcdef");
      const file = s.disk.openFile(s.root, "file", "read");
      const buffer = Buffer.alloc(10);
      return [4, 6, 100].map((position) => s.disk.read(file, buffer, 0, 10, position));
    },
    [2, 0, 0],
  ],
  [
    "what truncate cut off reads as zeros when the file grows again",
    (s) => {
      s.file("file", "abcdefgh");
      s.change("file", (file) => {
        s.disk.truncate(file, 3);
        s.disk.truncate(file, 6);
      });
      return s.text("file");
    },
    "abc\0\0\0",
  ],
  [
    "a handle for reading cannot write, one for writing can read",
    (s) => {
      s.file("file", "text");
      const reading = s.disk.openFile(s.root, "file", "read");
      const writing = s.disk.openFile(s.root, "file", "write");
      return [
        s.code(() => s.disk.write(reading, Buffer.from("x"), 0)),
        s.code(() => s.disk.truncate(reading, 0)),
        s.textOf(writing),
      ];
    },
    ["EBADF", "EINVAL", "text"],
  ],
  [
    "metadata by handle and by name, to the microsecond, also before 1970",
    (s) => {
      s.file("file");
      s.directory("directory");
      s.disk.makeSymlink(s.root, "symlink", "file");
      const meta = { mode: 0o4751, uid: owner, gid: group, mtimeUs: -1_500_001 };
      s.change("file", (file) => s.disk.setFileMeta(file, meta));
      s.disk.setMeta(s.root, "directory", { ...meta, mode: 0o1700, mtimeUs: 1_700_000_000_123_457 });
      s.disk.setMeta(s.root, "symlink", { ...meta, mtimeUs: -1 });
      return ["file", "directory", "symlink"].map((name) => {
        const { type, mode, uid, gid, mtimeUs } = s.disk.stat(s.root, name)!;
        return [type, mode, uid, gid, mtimeUs];
      });
    },
    [
      ["file", 0o4751, owner, group, -1_500_001],
      ["directory", 0o1700, owner, group, 1_700_000_000_123_457],
      ["symlink", 0o777, owner, group, -1],
    ],
  ],
  [
    "metadata of an opened directory, whatever its name leads to by now",
    (s) => {
      const directory = s.directory("directory");
      s.disk.rename(s.root, "directory", s.root, "moved");
      s.disk.setDirectoryMeta(directory, { mode: 0o2710, uid: owner, gid: group, mtimeUs: -7 });
      const { mode, uid, gid, mtimeUs } = s.disk.stat(s.root, "moved")!;
      return [mode, uid, gid, mtimeUs];
    },
    [0o2710, owner, group, -7],
  ],
  [
    "metadata that is not given stays",
    (s) => {
      s.file("file");
      s.disk.setMeta(s.root, "file", { mode: 0o640, mtimeUs: 5 });
      s.disk.setMeta(s.root, "file", { uid: owner });
      s.disk.setMeta(s.root, "file", { gid: group });
      s.disk.setMeta(s.root, "file", {});
      const { mode, uid, gid, mtimeUs } = s.disk.stat(s.root, "file")!;
      return [mode, uid, gid, mtimeUs];
    },
    [0o640, owner, group, 5],
  ],
  [
    "a directory gets the mode asked for, and a new file is private, also where the parent hands down its group",
    (s) => {
      const parent = s.directory("parent");
      s.disk.setDirectoryMeta(parent, { mode: 0o2755, gid: group });
      s.directory("inner", parent);
      s.file("file", "", parent);
      const inherited = ["inner", "file"].map((name) => {
        const { mode, gid } = s.disk.stat(parent, name)!;
        return [mode, gid];
      });
      s.disk.makeDirectory(s.root, "directory", 0o1777);
      s.file("file");
      return [s.disk.stat(s.root, "directory")?.mode, s.disk.stat(s.root, "file")?.mode, ...inherited];
    },
    [0o1777, 0o600, [0o755, group], [0o600, group]],
  ],
  [
    "everything can be synced, and there is space",
    (s) => {
      s.file("file", "text");
      s.change("file", (file) => {
        s.disk.syncFile(file);
        s.disk.setFileMeta(file, { mode: 0o600 });
        s.disk.syncFile(file);
      });
      s.disk.syncFile(s.disk.openFile(s.root, "file", "read"));
      s.disk.syncDirectory(s.root);
      s.disk.syncFilesystem(s.root);
      return s.disk.freeBytes(s.root) > 0;
    },
    true,
  ],
];

for (const [kind, makeScene] of [
  ["real", realScene],
  ["simulated", simulatedScene],
] as const) {
  describe(`the ${kind} disk`, () => {
    for (const [promise, act, expected] of contract) {
      it(promise, () => {
        using scene = makeScene();
        expect(act(scene)).to.deep.equal(expected);
      });
    }

    for (const name of ["", ".", "..", "a/b", "a\0", "\u012f", "/"]) {
      it(`insists that ${JSON.stringify(name)} is no name`, () => {
        using scene = makeScene();
        expect(() => scene.disk.stat(scene.root, name)).to.throw("not a file name");
        expect(() => scene.disk.rename(scene.root, "a", scene.root, name)).to.throw();
        expect(() => scene.disk.openFile(scene.root, name, "create")).to.throw("not a file name");
      });
    }

    it("insists that handles are not used after they were closed", () => {
      using scene = makeScene();
      const { disk, root } = scene;
      scene.file("file");
      const file = disk.openFile(root, "file", "write");
      const directory = scene.directory("directory");
      disk.closeFile(file);
      disk.closeDirectory(directory);
      for (const use of [
        () => disk.write(file, new Uint8Array(1), 0),
        () => disk.statFile(file),
        () => disk.closeFile(file),
        () => disk.stat(directory, "x"),
        () => disk.list(directory),
        () => disk.syncDirectory(directory),
        () => disk.closeDirectory(directory),
      ]) {
        expect(use).to.throw(/closed|open/);
      }
    });
  });
}

type Step =
  | { do: "openDirectory"; from: number; name: number; slot: number }
  | { do: "openFile"; at: number; name: number; mode: "read" | "write" | "create"; slot: number }
  | { do: "write"; slot: number; position: number; length: number }
  | { do: "truncate"; slot: number; size: number }
  | { do: "read"; slot: number; position: number }
  | { do: "setFileMeta"; slot: number; mode: number; mtimeUs: number }
  | { do: "setDirectoryMeta"; at: number; mode: number; mtimeUs: number }
  | { do: "setMeta" | "makeDirectory"; at: number; name: number; mode: number; mtimeUs: number }
  | { do: "stat" | "unlink" | "removeDirectory" | "readSymlink"; at: number; name: number }
  | { do: "rename" | "link"; at: number; name: number; to: number; toName: number }
  | { do: "makeSymlink"; at: number; name: number; target: number };

const names = ["a", "b", "c\xff"];
const slot = fc.nat({ max: 3 });
const name = fc.nat({ max: names.length - 1 });
const position = fc.nat({ max: 10_000 });
// Permissions and who may keep a setuid bit are not simulated: root is not bound by them, others stay clear of them.
const mode = process.getuid?.() === 0 ? fc.nat({ max: 0o7777 }) : fc.nat({ max: 0o77 }).map((bits) => bits | 0o700);
const meta = { mode, mtimeUs: fc.integer({ min: -2e15, max: 8e15 }) };
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant("openDirectory" as const), from: slot, name, slot: fc.integer({ min: 1, max: 3 }) }),
  fc.record({
    do: fc.constant("openFile" as const),
    at: slot,
    name,
    mode: fc.constantFrom("read" as const, "write" as const, "create" as const, "create" as const),
    slot,
  }),
  fc.record({ do: fc.constant("write" as const), slot, position, length: fc.nat({ max: 6000 }) }),
  fc.record({ do: fc.constant("truncate" as const), slot, size: position }),
  fc.record({ do: fc.constant("read" as const), slot, position }),
  fc.record({ do: fc.constant("setFileMeta" as const), slot, ...meta }),
  fc.record({ do: fc.constant("setMeta" as const), at: slot, name, ...meta }),
  fc.record({ do: fc.constant("setDirectoryMeta" as const), at: fc.integer({ min: 1, max: 3 }), ...meta }),
  { weight: 2, arbitrary: fc.record({ do: fc.constant("makeDirectory" as const), at: slot, name, ...meta }) },
  fc.record({
    do: fc.constantFrom("stat" as const, "unlink" as const, "removeDirectory" as const, "readSymlink" as const),
    at: slot,
    name,
  }),
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom("rename" as const, "rename" as const, "link" as const),
      at: slot,
      name,
      to: slot,
      toName: name,
    }),
  },
  fc.record({ do: fc.constant("makeSymlink" as const), at: slot, name, target: name }),
);

/** Takes steps on one disk; handles live in slots, so that they outlive the names of what they opened. */
class Walker {
  private readonly disk: Disk;
  private readonly directories: Directory[];
  private readonly files: (OpenFile | undefined)[] = [];
  private steps = 0;

  constructor({ disk, root }: Scene) {
    this.disk = disk;
    this.directories = [root, root, root, root];
  }

  take(step: Step): { code: string; value?: unknown } {
    this.steps++;
    return outcome(() => this.act(step));
  }

  close(): void {
    for (const directory of this.directories.slice(1)) this.letGo(directory);
    for (const file of this.files) if (file) this.disk.closeFile(file);
  }

  private act(step: Step): unknown {
    const { disk } = this;
    switch (step.do) {
      case "openDirectory": {
        const opened = disk.openDirectory(this.directory(step.from), names[step.name]!);
        this.letGo(this.directory(step.slot));
        this.directories[step.slot] = opened;
        return;
      }
      case "openFile": {
        const opened = disk.openFile(this.directory(step.at), names[step.name]!, step.mode);
        const before = this.files[step.slot];
        if (before) disk.closeFile(before);
        this.files[step.slot] = opened;
        return;
      }
      case "write":
        return this.withFile(step.slot, (file) => {
          disk.write(file, Buffer.alloc(step.length, this.steps), step.position);
        });
      case "truncate":
        return this.withFile(step.slot, (file) => disk.truncate(file, step.size));
      case "read":
        return this.withFile(step.slot, (file) => {
          const buffer = Buffer.alloc(5000, 0xee);
          return [disk.read(file, buffer, 0, buffer.length, step.position), buffer.toString("latin1")];
        });
      case "setFileMeta":
        return this.withFile(step.slot, (file) => {
          disk.setFileMeta(file, step);
          const { mode, mtimeUs, size, links } = disk.statFile(file);
          return { mode, mtimeUs, size, links };
        });
      case "setMeta": {
        const directory = this.directory(step.at);
        disk.setMeta(directory, names[step.name]!, step);
        const { mode, mtimeUs } = disk.stat(directory, names[step.name]!)!;
        return { mode, mtimeUs };
      }
      case "setDirectoryMeta": {
        const directory = this.directory(step.at);
        disk.setDirectoryMeta(directory, step);
        const { mode, mtimeUs } = disk.statDirectory(directory);
        return { mode, mtimeUs };
      }
      case "makeDirectory":
        return disk.makeDirectory(this.directory(step.at), names[step.name]!, step.mode);
      case "stat": {
        const stat = disk.stat(this.directory(step.at), names[step.name]!);
        return stat && { type: stat.type, mode: stat.mode, links: stat.type === "directory" || stat.links };
      }
      case "unlink":
      case "removeDirectory":
      case "readSymlink":
        return disk[step.do](this.directory(step.at), names[step.name]!);
      case "rename":
      case "link":
        return disk[step.do](this.directory(step.at), names[step.name]!, this.directory(step.to), names[step.toName]!);
      case "makeSymlink":
        return disk.makeSymlink(this.directory(step.at), names[step.name]!, names[step.target]!);
    }
  }

  private directory(slot: number): Directory {
    return this.directories[slot]!;
  }

  private letGo(directory: Directory): void {
    if (directory !== this.directories[0]) this.disk.closeDirectory(directory);
  }

  private withFile(slot: number, use: (file: OpenFile) => unknown): unknown {
    const file = this.files[slot];
    return file ? use(file) : "no file in this slot";
  }
}

describe("the simulated disk beside the real one", () => {
  it("gives the same answers, error codes and tree after any operations", () => {
    const seen = new Map<string, number>();
    fc.assert(
      fc.property(fc.array(step, { minLength: 10, maxLength: 60, size: "max" }), (steps) => {
        using real = realScene();
        using simulated = simulatedScene();
        const [onReal, onSimulated] = [new Walker(real), new Walker(simulated)];
        for (const [index, taken] of steps.entries()) {
          const expected = onReal.take(taken);
          expect(onSimulated.take(taken), `step ${index}: ${JSON.stringify(taken)}`).to.deep.equal(expected);
          seen.set(`${taken.do} ${expected.code}`, (seen.get(`${taken.do} ${expected.code}`) ?? 0) + 1);
        }
        const trees = [real, simulated].map(({ disk, root }) => describeTree(disk, root));
        expect(treeDifference(trees[1]!, trees[0]!, { times: false, links: true }, "tree")).to.equal(undefined);
        onReal.close();
        onSimulated.close();
      }),
      { numRuns: 300 },
    );
    // A property whose steps all fail alike would prove nothing.
    for (const expected of ["rename ok", "rename ENOTEMPTY", "rename EINVAL", "link ok", "write ok", "unlink EISDIR"]) {
      expect(seen.get(expected) ?? 0, expected).to.be.greaterThan(0);
    }
  });
});
