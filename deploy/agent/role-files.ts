import { constants } from "node:fs";
import { type FileHandle, mkdir, open, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { StoreOnNode } from "../../shared/config/config.ts";
import { isSystemError } from "../../shared/errors.ts";
import type { Log } from "../../shared/log.ts";
import { privateName } from "../../shared/store-path.ts";
import type { Role } from "../../shared/words.ts";

const lookEveryMs = 1000;
/** Written anew so often at least: a file that is older was left by an agent that does not run. */
const freshMs = 10_000;

/** What a script beside the copy can read: which node is primary, as far as this one knows, and how far it is behind. */
export interface RoleFacts {
  readonly node: string;
  readonly role: Role;
  readonly inService: boolean;
  readonly epoch: bigint;
  /** Whose cuts a replica takes in this epoch; undefined where it has not met it yet. */
  readonly followed: string | undefined;
  readonly lagSeconds: number;
}

/** `NODE EPOCH`, for the shell's `read`; `-` where nobody is known to be primary. */
export function primaryText({ node, role, inService, epoch, followed }: RoleFacts): string {
  const primary = role === "primary" ? (inService ? node : "-") : role === "replica" ? (followed ?? "-") : "-";
  return `${primary} ${epoch}\n`;
}

/** Seconds, of a node that has the group's data; `-` of any other. */
export function lagText({ role, lagSeconds }: RoleFacts): string {
  if (role === "primary") return "0.0\n";
  return role === "replica" ? `${lagSeconds.toFixed(1)}\n` : "-\n";
}

/**
 * `.primary` and `.lag` in `.understudy/GROUP/` beside each copy, replaced whole, for scripts that have nothing but the disk.
 * A store's own private directory has a dot in its name, so that none of them is ever in the way. Not synced: they say how
 * things stand now.
 */
export class RoleFiles {
  readonly #group: string;
  readonly #places: readonly string[];
  readonly #facts: () => RoleFacts;
  readonly #log: Log;
  /** What stands in each file, and since when. */
  readonly #written = new Map<string, { readonly text: string; readonly at: number }>();
  #timer: NodeJS.Timeout | undefined;
  #complained = "";

  constructor(group: string, stores: readonly StoreOnNode[], facts: () => RoleFacts, log: Log) {
    this.#group = group;
    this.#places = [
      ...new Set(stores.flatMap(({ kind, path }) => (kind === "files" ? [dirname(path), path] : [dirname(path)]))),
    ];
    this.#facts = facts;
    this.#log = log;
  }

  start(): void {
    const again = (): void => {
      if (this.#timer !== undefined) this.start();
    };
    this.#timer = setTimeout(() => {
      this.write().then(again, again);
    }, lookEveryMs).unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** The highest epoch that an agent before this one wrote down; 0 where there is none. Before `start`. */
  async formerEpoch(): Promise<bigint> {
    let highest = 0n;
    for (const place of this.#places) {
      await using holder = await ownDirectory(join(place, privateName));
      if (holder === undefined) continue;
      await using directory = await ownDirectory(join(within(holder), this.#group));
      if (directory === undefined) continue;
      const text = await readSmall(join(within(directory), ".primary"));
      const said = BigInt(/^\S+ (\d{1,15})\n$/.exec(text)?.[1] ?? 0);
      if (said > highest) highest = said;
    }
    return highest;
  }

  /** Never throws: what it cannot write it says once. */
  async write(): Promise<void> {
    try {
      const facts = this.#facts();
      for (const place of this.#places) await this.#writeIn(place, facts);
      this.#complained = "";
    } catch (error) {
      const reason = String(error);
      if (reason !== this.#complained) this.#log.warn("role_files.failed", { error });
      this.#complained = reason;
    }
  }

  async #writeIn(place: string, facts: RoleFacts): Promise<void> {
    const files = Object.entries({ ".primary": primaryText(facts), ".lag": lagText(facts) });
    const now = performance.now();
    const due = files.filter(([name, text]) => {
      const before = this.#written.get(join(place, name));
      return before === undefined || before.text !== text || now - before.at >= freshMs;
    });
    if (due.length === 0) return;
    await using holder = await ownDirectory(join(place, privateName));
    if (holder === undefined) return;
    // Whoever knows the names may pass; what the stores keep there stays their own.
    await holder.chmod(0o711);
    const inHolder = join(within(holder), this.#group);
    try {
      await mkdir(inHolder, 0o755);
    } catch (error) {
      if (!isSystemError(error, "EEXIST")) throw error;
    }
    await using directory = await ownDirectory(inHolder);
    if (directory === undefined) return;
    for (const [name, text] of due) {
      const path = join(within(directory), name);
      await rm(`${path}.staged`, { force: true });
      await writeFile(`${path}.staged`, text, { mode: 0o644, flag: "wx" });
      await rename(`${path}.staged`, path);
      this.#written.set(join(place, name), { text, at: now });
    }
  }
}

/**
 * Opened without following a symlink, and only where it is this agent's own: whoever owns the application's directory can put
 * anything in its place, and this agent may be root. Undefined where there is none, or another's.
 */
async function ownDirectory(path: string): Promise<FileHandle | undefined> {
  let directory: FileHandle;
  try {
    directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (error) {
    if (isSystemError(error, "ENOENT", "ENOTDIR", "ELOOP")) return undefined;
    throw error;
  }
  const { uid } = await directory.stat();
  if (uid === process.geteuid?.()) return directory;
  await directory.close();
  return undefined;
}

/** "" where there is no such file. */
async function readSmall(path: string): Promise<string> {
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const { bytesRead, buffer } = await file.read({ buffer: Buffer.alloc(256), position: 0 });
    return buffer.toString("utf8", 0, bytesRead);
  } catch (error) {
    if (isSystemError(error, "ENOENT", "ELOOP", "EISDIR")) return "";
    throw error;
  }
}

/** The directory that was opened, whatever has its name by now. */
function within(directory: FileHandle): string {
  return `/proc/self/fd/${directory.fd}`;
}
