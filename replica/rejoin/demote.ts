import type { Catalog } from "../../shared/catalog/catalog.ts";
import { collapse, dropSuperseded, type Touched, touched } from "../../shared/catalog/collapse.ts";
import { objectVersion } from "../../shared/catalog/manifest.ts";
import { dropNote, forgottenUpTo, keepNote, noteOf } from "../../shared/catalog/notes.ts";
import { noteOwnCut } from "../../shared/catalog/touched.ts";
import { assert, exitCodes, explain, UnderstudyError } from "../../shared/errors.ts";
import type { Stat } from "../../shared/ports/disk.ts";
import { readablePath } from "../../shared/store-path.ts";
import {
  type CutId,
  cutText,
  epoch,
  type ObjectId,
  type Seq,
  type StoreName,
  type StorePath,
} from "../../shared/words.ts";
import { holdsContent } from "../apply/holds-content.ts";
import { settleSuspect } from "../repair/damage.ts";
import type { ReplicaContext } from "../replica-context.ts";
import { setMetaAsPermitted } from "../set-meta.ts";
import type { StoreHome } from "../store-home.ts";
import { failing, SyncFailed } from "../sync.ts";

/** Files are not what the last cut says: whoever writes there does not know that this node is no primary any more. */
export class StillWritten extends UnderstudyError {
  readonly code = "STILL_WRITTEN";
  readonly remedy = "retry";
  readonly state = "The node is what it was; nothing was given up.";
  readonly hint = "Stop the service, and whoever else writes there; then it is tried again.";
  override readonly exitCode = exitCodes.refused;
  constructor(paths: readonly string[], count: number) {
    const more = count > paths.length ? ` and ${count - paths.length} others` : "";
    super(`changed since the last cut: ${paths.join(", ")}${more}`);
  }
}

/** The disk under the application's own files fails: nobody but the application could write them anew. */
export class FilesNotSynced extends UnderstudyError {
  readonly code = "FILES_NOT_SYNCED";
  readonly remedy = "stop";
  readonly state =
    "The node is what it was; nothing was given up. Of what the application wrote last nobody knows what is on the disk.";
  readonly hint =
    "Look at the kernel's log, mend the disk and start this machine anew: until then the kernel shows what the disk may not have. Then rejoin, or `understudy adopt GROUP`, which compares everything.";
  override readonly exitCode = exitCodes.refused;
}

/** A copy cannot be kept where these files lie. */
export class NoPlaceForCopy extends UnderstudyError {
  readonly code = "NO_PLACE_FOR_COPY";
  readonly remedy = "stop";
  readonly state = "The node is what it was; nothing was given up.";
  readonly hint: string;
  override readonly exitCode = exitCodes.refused;
  constructor(message: string, hint: string) {
    super(message);
    this.hint = hint;
  }
}

/** What was removed here since the common cut is not known any more, so nobody can say what this node lacks. */
class CommonTooFarBack extends UnderstudyError {
  readonly code = "COMMON_TOO_FAR_BACK";
  readonly remedy = "stop";
  readonly state = "The node is what it was; nothing was given up.";
  readonly hint = "Run `understudy adopt GROUP` here: what is here is compared, and only the difference is shipped.";
  override readonly exitCode = exitCodes.refused;
}

/** A replica holds cuts that it could not apply, since somebody changed its copy. */
export class NotApplied extends UnderstudyError {
  readonly code = "NOT_APPLIED";
  readonly remedy = "stop";
  readonly state = "Nothing was changed.";
  readonly hint = "Run `understudy adopt GROUP` here: what is here is compared, and only the difference is shipped.";
  override readonly exitCode = exitCodes.refused;
}

/** What a store's adapter says at its orderly end. */
export interface EndedStore {
  /** By its own log, nothing was written since the last cut: its files need not be read to know what is in them. */
  readonly covered: boolean;
  /** Its cuts came from copies of the files, whose inode numbers and ctimes are their own. */
  readonly copied: boolean;
  /** What the configuration leaves out may be in the manifest as it was before. */
  excluded(path: StorePath, directory: boolean): boolean;
}

const namedMax = 5;

/**
 * What can be known beforehand of whether these files could be a copy.
 * @throws {NoPlaceForCopy}
 */
export function checkPlaces({ homes }: ReplicaContext): void {
  for (const home of homes.values()) {
    const { placement, tree } = home;
    if (placement.shape === "file" && tree.stat(home.local("" as StorePath))?.type === "symlink") {
      throw new NoPlaceForCopy(
        `${placement.path} is a symlink, and the file of a copy would be put in its place`,
        "Name the file itself in the configuration of the store.",
      );
    }
  }
}

/**
 * Makes sure that every file of the manifest is what the last cut says, and keeps in mind how it looks now: what the
 * replica's side will take for "as we left it". Only what its stamps do not vouch for is read. Nothing of the catalog
 * changes before `demote`.
 *
 * The stores have come to an orderly end, and nobody takes cuts any more.
 * @throws {StillWritten} @throws {NoPlaceForCopy} @throws {FilesNotSynced}
 */
export function settleFiles(context: ReplicaContext, ended: ReadonlyMap<number, EndedStore>, bootId: string): Settled {
  const { catalog } = context;
  checkSynced(catalog, bootId, false);
  // From here on whoever writes leaves a trace in the stamps, also through memory that he has mapped.
  syncAll(context, bootId);
  const { db } = catalog;
  db.exec(
    `DROP TABLE IF EXISTS temp.settled;
     CREATE TEMP TABLE settled (object INTEGER PRIMARY KEY, store INTEGER NOT NULL, inode INTEGER NOT NULL,
       size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL) STRICT`,
  );
  const settled = new Settled();
  for (const home of context.homes.values()) {
    const end = ended.get(home.number);
    assert(end !== undefined, `store ${home.placement.name} has come to its end`);
    new StoreSettling(context, home, end, settled).run();
  }
  if (settled.movingCount > 0) throw new StillWritten(settled.moving, settled.movingCount);
  syncAll(context, bootId);
  return settled;
}

/** What `settleFiles` found. */
export class Settled {
  readonly moving: string[] = [];
  movingCount = 0;
  /** Files that have names outside of their store: what a copy gets is written into them there as well. */
  linkedOutside = 0;
  /** Files that were read, since their stamps did not vouch for them, and how much of them. */
  filesRead = 0;
  bytesRead = 0;
  /** What no cut has followed, and is otherwise than the manifest says: the primary brings it as it repairs a copy. */
  readonly damaged: {
    readonly object: ObjectId;
    readonly store: number;
    readonly path: StorePath;
    readonly what: string;
  }[] = [];
}

interface Row {
  readonly path: StorePath;
  readonly version: ReturnType<typeof objectVersion>;
  readonly seen:
    | { readonly inode: bigint; readonly size: bigint; readonly mtimeNs: bigint; readonly ctimeNs: bigint }
    | undefined;
}

class StoreSettling {
  readonly #context: ReplicaContext;
  readonly #home: StoreHome;
  readonly #end: EndedStore;
  readonly #settled: Settled;
  readonly #device: number;

  constructor(context: ReplicaContext, home: StoreHome, end: EndedStore, settled: Settled) {
    this.#context = context;
    this.#home = home;
    this.#end = end;
    this.#settled = settled;
    this.#device = context.disk.statDirectory(home.tree.root).device;
  }

  run(): void {
    for (const row of this.#rows()) this.#settle(row);
  }

  /** Every path by its directory, with its object and how that was seen last. */
  *#rows(): Generator<Row> {
    const { catalog } = this.#context;
    const at = Number(catalog.standing.committed.seq);
    const statement = catalog.statement(
      `SELECT p.dir, p.name, o.*, s.inode AS seen_inode, s.size AS seen_size, s.mtime_ns, s.ctime_ns
         FROM path_versions p JOIN object_versions o ON o.object = p.object LEFT JOIN seen s ON s.object = p.object
         WHERE p.store = ? AND p.birth <= ? AND o.birth <= ? AND o.type <> 0
           AND NOT EXISTS (SELECT 1 FROM path_versions n WHERE n.store=p.store AND n.dir=p.dir AND n.name=p.name
             AND n.birth>p.birth AND n.birth<=?)
           AND NOT EXISTS (SELECT 1 FROM object_versions n WHERE n.object=o.object AND n.birth>o.birth AND n.birth<=?)
         ORDER BY p.dir, p.name`,
    );
    statement.setReadBigInts(true);
    const rows = statement.iterate(this.#home.number, at, at, at, at) as IterableIterator<Record<string, unknown>>;
    for (const row of rows) {
      const dir = String(row.dir);
      const seen =
        row.seen_inode === null
          ? undefined
          : {
              inode: row.seen_inode as bigint,
              size: row.seen_size as bigint,
              mtimeNs: row.mtime_ns as bigint,
              ctimeNs: row.ctime_ns as bigint,
            };
      const path = (dir === "" ? String(row.name) : `${dir}/${String(row.name)}`) as StorePath;
      yield { path, version: objectVersion({ ...row, type: Number(row.type) }), seen };
    }
  }

  #settle({ path, version, seen }: Row): void {
    const local = this.#home.local(path);
    const stat = this.#home.tree.stat(local);
    if (stat === undefined || stat.type !== version.type) {
      this.#differs(path, version, stat === undefined ? "is gone" : `is a ${stat.type}`);
      return;
    }
    if (stat.device !== this.#device) {
      throw new NoPlaceForCopy(
        `another filesystem is mounted at or above ${this.#text(path)}, within the store`,
        "A copy is kept on one filesystem: make a store of its own of what is mounted there, or exclude it.",
      );
    }
    if (version.type === "directory") {
      if (seen?.inode !== BigInt(stat.inode)) this.#keep(version.object, stat);
      return;
    }
    this.#refuseShared(path, version.object, stat);
    this.#countLinks(path, version.object, stat);
    if (seen !== undefined && this.#isAsSeen(stat, seen)) {
      const left = this.#withMeta(path, version, stat);
      if (seen.inode !== BigInt(left.inode) || seen.ctimeNs !== left.ctimeNs) this.#keep(version.object, left);
      return;
    }
    if (this.#isSettled(version.object, stat)) return; // By another of its paths.
    if (!this.#holds(path, version, stat)) {
      this.#differs(path, version, "is not what was cut");
      return;
    }
    this.#keep(version.object, this.#withMeta(path, version, stat));
  }

  #isAsSeen(stat: Stat, seen: NonNullable<Row["seen"]>): boolean {
    if (seen.size !== BigInt(stat.size) || seen.mtimeNs !== stat.mtimeNs) return false;
    // Read within two seconds of its last change: it may have changed once more without another stamp.
    if (seen.ctimeNs === 0n) return false;
    return this.#end.copied || (seen.inode === BigInt(stat.inode) && seen.ctimeNs === stat.ctimeNs);
  }

  /** What is written into one of them would be in the other as well. */
  #refuseShared(path: StorePath, object: ObjectId, stat: Stat): void {
    if (!this.#end.copied || stat.links < 2) return;
    const other = this.#context.catalog.get(
      "SELECT object FROM temp.settled WHERE inode = ? AND store = ? AND object <> ?",
      stat.inode,
      this.#home.number,
      object,
    );
    if (other === undefined) return;
    throw new NoPlaceForCopy(
      `${this.#text(path)} is another name of a file that the cuts took for two, since they came from a copied snapshot`,
      "Give each name a file of its own, or run `understudy adopt GROUP` once this node follows another.",
    );
  }

  #countLinks(path: StorePath, object: ObjectId, stat: Stat): void {
    if (stat.type !== "file" || stat.links < 2) return;
    const { catalog, manifest } = this.#context;
    const names = manifest.pathsOf(object, catalog.standing.committed.seq);
    if (names[0]?.path === path && stat.links > names.length) this.#settled.linkedOutside++;
  }

  #isSettled(object: ObjectId, stat: Stat): boolean {
    const row = this.#context.catalog.get("SELECT inode FROM temp.settled WHERE object = ?", object);
    return row !== undefined && Number(row.inode) === stat.inode;
  }

  #holds(path: StorePath, version: Row["version"], stat: Stat): boolean {
    const place = this.#home.tree.place(this.#home.local(path));
    if (place === undefined) return false;
    if (version.type === "symlink")
      return this.#context.disk.readSymlink(place.directory, place.name) === version.target;
    if (this.#end.covered && stat.size === version.size) return true;
    this.#settled.filesRead++;
    this.#settled.bytesRead += stat.size;
    const { committed } = this.#context.catalog.standing;
    return (
      holdsContent(this.#context, { ...place, where: "tree", stat }, version, committed.seq) && this.#held(path, stat)
    );
  }

  /** Nobody wrote to it while it was read. */
  #held(path: StorePath, before: Stat): boolean {
    const after = this.#home.tree.stat(this.#home.local(path));
    return after?.inode === before.inode && after.mtimeNs === before.mtimeNs && after.ctimeNs === before.ctimeNs;
  }

  /** As apply leaves a file: a kind whose times mean nothing has none in the manifest, and a verify compares them. */
  #withMeta(path: StorePath, version: Row["version"], stat: Stat): Stat {
    const { placement, tree } = this.#home;
    const same = stat.mode === version.mode && stat.uid === version.uid && stat.gid === version.gid;
    if (same && stat.mtimeUs === version.mtimeUs) return stat;
    const place = tree.place(this.#home.local(path));
    if (place === undefined) return stat;
    const { disk } = this.#context;
    setMetaAsPermitted((meta) => disk.setMeta(place.directory, place.name, meta), version, placement.owners);
    return disk.stat(place.directory, place.name) ?? stat;
  }

  #keep(object: ObjectId, { inode, size, mtimeNs, ctimeNs }: Stat): void {
    this.#context.catalog.run(
      "INSERT OR REPLACE INTO temp.settled (object, store, inode, size, mtime_ns, ctime_ns) VALUES (?,?,?,?,?,?)",
      object,
      this.#home.number,
      inode,
      size,
      mtimeNs,
      ctimeNs,
    );
  }

  #differs(path: StorePath, version: Row["version"], what: string): void {
    if (this.#end.excluded(path, version.type === "directory")) {
      const { object } = version;
      this.#settled.damaged.push({ object, store: this.#home.number, path: this.#home.local(path), what });
      return;
    }
    this.#settled.movingCount++;
    if (this.#settled.moving.length < namedMax) this.#settled.moving.push(`${this.#text(path)} ${what}`);
  }

  #text(path: StorePath): string {
    const { name, shape } = this.#home.placement;
    return shape === "file" || path === "" ? (name as StoreName) : `${name}/${readablePath(path) ?? path}`;
  }
}

/**
 * `unsynced`: a sync has failed that the catalog may not tell of; a full disk may be under both.
 * @throws {FilesNotSynced} where a sync has failed since the machine was started
 */
export function checkSynced(catalog: Catalog, bootId: string, unsynced: boolean): void {
  if (unsynced || noteOf(catalog, "unsynced") === bootId)
    throw new FilesNotSynced("what was written here could not be made durable since this machine was started", {
      cause: keepUnsynced(catalog, bootId),
    });
}

/**
 * Does what syncs filesystems under the application's own files. What the kernel says after a sync that failed is a lie for as
 * long as the machine runs, so that is kept in mind.
 * @throws {FilesNotSynced} in place of SyncFailed
 */
export function syncing<T>(catalog: Catalog, bootId: string, what: string, sync: () => T): T {
  try {
    return sync();
  } catch (error) {
    if (!(error instanceof SyncFailed)) throw error;
    const { cause } = error;
    // Of a sync that was never begun the kernel has told nobody anything: the next one tells the truth.
    if (cause instanceof Error && isSpawnError(cause.cause)) throw error;
    const message = `what was written ${what} could not be made durable`;
    const unkept = keepUnsynced(catalog, bootId);
    if (unkept === undefined) throw new FilesNotSynced(message, { cause });
    throw new FilesNotSynced(`${message} (${explain(cause)}), nor could that be noted`, { cause: unkept });
  }
}

/** Each filesystem once: a private directory is on that of its copy. */
function syncAll({ catalog, disk, homes }: ReplicaContext, bootId: string): void {
  const synced = new Set<number>();
  for (const { tree, placement } of homes.values()) {
    const { device } = disk.statDirectory(tree.root);
    if (synced.has(device)) continue;
    synced.add(device);
    syncing(catalog, bootId, `to ${placement.path}`, () => failing(() => disk.syncFilesystem(tree.root)));
  }
}

function isSpawnError(error: unknown): boolean {
  return error instanceof Error && "syscall" in error && String(error.syscall).startsWith("spawn");
}

/** Gives what keeps the catalog from saying so. */
function keepUnsynced(catalog: Catalog, bootId: string): unknown {
  try {
    catalog.transactionBetween("unsynced", () => keepNote(catalog, "unsynced", bootId));
    return undefined;
  } catch (error) {
    return error;
  }
}

/**
 * An ex-primary becomes a replica that stands at `common`, a cut of its own history, in one transaction: before it the
 * node is what it was, after it a replica with exactly the files that it has. What it has beyond `common` is written down
 * as touched, for the first cut that it gets.
 */
export function demote(context: ReplicaContext, common: CutId, settled: Settled, keepHistory: boolean): Touched {
  const { catalog } = context;
  const before = catalog.standing;
  assert(before.role === "primary" || before.role === "fenced", `a ${before.role} node is not demoted`);
  assert(before.applied === before.committed.seq, "a primary has what it cut");
  checkCommon(context, common.seq);
  return catalog.transaction("demote", () => {
    catalog.run("INSERT OR REPLACE INTO seen SELECT object, store, inode, size, mtime_ns, ctime_ns FROM temp.settled");
    const what = giveUpBeyond(context, common.seq);
    for (const { object, store, path, what: how } of settled.damaged)
      catalog.run(
        "INSERT OR IGNORE INTO damaged (object, store, path, what) VALUES (?,?,?,?)",
        object,
        store,
        path,
        how,
      );
    settleSuspect(catalog);
    // Old images are saved from here on: what the node has now can be gone back to, if that is a cut.
    const point = keepHistory && what.paths === 0 && what.objects === 0 && settled.damaged.length === 0;
    if (point) catalog.run("UPDATE cuts SET point = 1 WHERE seq = ?", common.seq);
    catalog.event(
      "primary.demoted",
      { cut: cutText(catalog.standing.committed), from: cutText(before.committed) },
      context.nowUs(),
    );
    catalog.stand({ role: "replica", sealed: false, halted: "", switchover: undefined, confirmed: "" });
    return what;
  });
}

/**
 * A replica that has cuts which the history of the new primary has not goes back to `common`, the last one that has: as
 * `demote`, by whole runs, since a replica does not know the births of blocks. Its recovery points go. What was kept of them on
 * the disk is removed as after a crash. Everything that it committed is applied.
 * @throws {CommonTooFarBack} @throws {NotApplied}
 */
export function goBack(context: ReplicaContext, common: CutId): Touched {
  const { catalog } = context;
  const { role, applied, committed } = catalog.standing;
  assert(role === "replica", `a ${role} node does not go back`);
  if (applied !== committed.seq)
    throw new NotApplied(`cut ${cutText(committed)} is not applied, and nobody brings what it waits for any more`);
  checkCommon(context, common.seq);
  return catalog.transaction("go back", () => {
    const what = giveUpBeyond(context, common.seq);
    catalog.event(
      "replica.went_back",
      { cut: cutText(catalog.standing.committed), from: cutText(committed) },
      context.nowUs(),
    );
    return what;
  });
}

/** @throws {CommonTooFarBack} */
function checkCommon({ catalog }: ReplicaContext, common: Seq): void {
  const { committed } = catalog.standing;
  assert(common <= committed.seq, "what two nodes have in common is no more than one of them has");
  if (common === committed.seq) return;
  const forgotten = forgottenUpTo(catalog);
  if (common === 0n) throw new CommonTooFarBack("there is no cut in common");
  if (forgotten > common)
    throw new CommonTooFarBack(
      `what was removed here up to cut ${forgotten} is not known, and the common cut is ${common}`,
    );
}

/** Within a transaction: what this node has beyond a cut of its own counts as touched, and it stands at that cut. */
function giveUpBeyond({ catalog }: ReplicaContext, common: Seq): Touched {
  const { committed, epochs } = catalog.standing;
  // No point of before can be read from now on, and nothing pending is anybody's.
  for (const table of ["images", "kept", "extents", "staged", "staged_runs"]) catalog.run(`DELETE FROM ${table}`);
  for (const note of ["adopting", "thinning", "removals"] as const) dropNote(catalog, note);
  catalog.run("UPDATE cuts SET point = 0 WHERE point = 1");
  const beyond = common < committed.seq;
  if (beyond) noteOwnCut(catalog);
  const what = beyond ? collapse(catalog, common) : undefined;
  if (!beyond) dropSuperseded(catalog);
  catalog.run("DELETE FROM seen WHERE NOT EXISTS (SELECT 1 FROM path_versions p WHERE p.object = seen.object)");
  if (what === undefined) return touched(catalog);
  // Its history is what it holds: of a reign that began later it has nothing.
  const known = epochs.filter(({ firstSeq }) => firstSeq <= common);
  const last = known.at(-1);
  assert(last !== undefined, "a cut belongs to a reign");
  catalog.stand({ epochs: known, committed: { epoch: epoch(last.epoch), seq: common }, applied: common });
  return what;
}
