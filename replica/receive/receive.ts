import type { Catalog } from "../../shared/catalog/catalog.ts";
import { CatalogFull, catalogProblem } from "../../shared/catalog/catalog-errors.ts";
import { anyTouched } from "../../shared/catalog/collapse.ts";
import { ContentChange } from "../../shared/catalog/content-change.ts";
import { joinPath, type ObjectVersion } from "../../shared/catalog/manifest.ts";
import { clearTouched } from "../../shared/catalog/touched.ts";
import { assert } from "../../shared/errors.ts";
import { equalBytes, hashBytes, isZero, zeroHash } from "../../shared/manifest/block-hash.ts";
import { blockHashes } from "../../shared/manifest/block-hashes.ts";
import { hex } from "../../shared/manifest/digest.ts";
import { checkStorePath } from "../../shared/store-path.ts";
import type { CutBegin, CutEnd, Extent, ObjectRow, ObjectType, PathRow } from "../../shared/wire/messages.ts";
import { type CutId, compareCuts, cutText, type ObjectId, type Seq, sameCut } from "../../shared/words.ts";
import { mayComeAnew, noteRenewed } from "../repair/damage.ts";
import { homeOf, type ReplicaContext } from "../replica-context.ts";
import { singleFileName } from "../store-home.ts";
import { aheadOf } from "./ahead.ts";
import { checkBlocks, fileBytesMax, PendingContent, pendingContentsMax } from "./pending-content.ts";
import { BaseMismatch, CutDamaged, CutMalformed, NoRoom, Sealed, SenderRefused } from "./refusals.ts";
import { adopting, forgetOpenCut } from "./resume.ts";
import { Staging } from "./staging.ts";
import { forgetUnproven, RejoinUnproven } from "./unproven.ts";

/** A transaction is closed at these bounds, so that the worker never stands still for long. */
const rowsPerTransactionMax = 4000;
/** On a slow line a second's bytes took as long to come as they would again after a crash. */
const transactionMsMax = 1000;

interface OpenCut {
  readonly begin: CutBegin;
  readonly seq: Seq;
  /** Number in this catalog of each store of the message. */
  readonly stores: readonly number[];
  readonly contents: Map<ObjectId, PendingContent>;
  /** Damaged objects of which all comes anew. */
  readonly renewed: Set<ObjectId>;
  /** Numbers above this one were never seen here, so nothing has to be looked up for a new object. */
  readonly lastObjectBefore: number;
  /** New objects whose row has come: number to store. */
  readonly born: Map<ObjectId, number>;
  /** Rows of objects in the message that is taken: most paths in it lead to them. */
  readonly rows: Map<ObjectId, ObjectRow>;
  payloadBytes: number;
  objects: number;
  paths: number;
  rowsSinceCommit: number;
  bytesSinceCommit: number;
  /** What is here is otherwise than the base: only the digest at the end of the cut says what it leads to. */
  readonly rejoins: boolean;
  /** Monotonic, ms. */
  committedAt: number;
  syncedAt: number;
}

/** The one receiver of each group on this node. */
const receivers = new WeakMap<Catalog, Receiver>();

/**
 * Takes the frames of cuts from the one session that may send them. Rows and payloads are stored as they come under
 * their uncommitted cut, where nobody sees them; nothing here touches the copy. Cuts that came whole wait in `ended`
 * until `commit` makes them durable together.
 *
 * Any error leaves the receiver in need of `abort`, after which it holds what is committed and nothing else.
 */
export class Receiver {
  readonly #context: ReplicaContext;
  readonly #incarnation: string;
  #open: OpenCut | undefined;
  readonly #staging: Staging;
  #ended: CutId[] = [];
  #superseded = false;

  /** Whoever received before, in a session that may be half-open still, can neither stage nor commit from here on. */
  constructor(context: ReplicaContext, incarnation: string) {
    this.#context = context;
    this.#staging = new Staging(context);
    this.#incarnation = incarnation;
    const before = receivers.get(context.catalog);
    if (before !== undefined) before.#supersede();
    receivers.set(context.catalog, this);
  }

  #supersede(): void {
    this.abort();
    this.#superseded = true;
  }

  #insistOnLatest(): void {
    if (this.#superseded) throw new SenderRefused("a newer session has taken the place of this one");
  }

  /** Cuts that are whole and wait for `commit`. */
  get ended(): readonly CutId[] {
    return this.#ended;
  }

  get receiving(): CutId | undefined {
    return this.#open?.begin.cut;
  }

  /** Names in each store's staging directory whose bytes the next commit must sync. */
  get touched(): ReadonlyMap<number, ReadonlySet<string>> {
    return this.#staging.touched;
  }

  /** Stores whose first copy it must sync whole. */
  get built(): ReadonlySet<number> {
    return this.#staging.built;
  }

  begin(begin: CutBegin): void {
    this.#insistOnLatest();
    if (this.#open !== undefined)
      throw new CutMalformed(`cut ${cutText(begin.cut)} begins within ${cutText(this.#open.begin.cut)}`);
    const { catalog, manifest } = this.#context;
    const { standing } = catalog;
    this.#insistOnFollowing();
    if (begin.groupId !== standing.groupId) {
      throw new SenderRefused(`cut ${cutText(begin.cut)} is of group ${begin.groupId}, this is ${standing.groupId}`);
    }
    if (begin.incarnation !== this.#incarnation) {
      throw new SenderRefused(
        `cut ${cutText(begin.cut)} is of incarnation ${begin.incarnation}, the session is of ${this.#incarnation}`,
      );
    }
    if (begin.cut.epoch !== standing.epoch) {
      throw new SenderRefused(
        `cut ${cutText(begin.cut)} is of epoch ${begin.cut.epoch}, this replica follows epoch ${standing.epoch}`,
      );
    }
    if (!sameCut(begin.base, standing.committed)) throw new BaseMismatch(standing.committed, begin.base);
    if (begin.cut.seq <= begin.base.seq)
      throw new CutMalformed(`cut ${cutText(begin.cut)} does not come after its base ${cutText(begin.base)}`);
    if (begin.cut.seq > BigInt(Number.MAX_SAFE_INTEGER)) throw new CutMalformed(`seq ${begin.cut.seq} is out of range`);
    const stores = this.#storesNamed(begin.stores, `cut ${cutText(begin.cut)}`);
    const { size } = this.#context.homes;
    if (stores.length !== size || new Set(stores).size !== size)
      throw new CutMalformed(`cut ${cutText(begin.cut)} has the stores ${begin.stores.join(", ")}: not each once`);
    catalog.begin();
    if (catalog.get("SELECT 1 AS found FROM cuts WHERE seq = ? AND state = 'receiving'", begin.cut.seq) !== undefined) {
      manifest.dropBirth(begin.cut.seq);
      catalog.run("DELETE FROM extents WHERE seq = ?", begin.cut.seq);
    }
    const lastObjectBefore = Number(catalog.get("SELECT max(object) AS last FROM object_versions")?.last ?? 0);
    // What is adopted comes into staging while the cut comes, file by file.
    const leftovers =
      adopting(catalog) ||
      catalog.get("SELECT 1 AS found FROM staged WHERE seq > ? LIMIT 1", begin.base.seq) !== undefined;
    catalog.recordCut({
      cut: begin.cut,
      incarnation: begin.incarnation,
      base: begin.base.seq,
      takenAtUs: begin.takenAtUs,
      state: "receiving",
      digest: new Uint8Array(0),
      coherency: "independent",
      stores: [],
      payloadBytes: 0,
      freezeMs: 0,
      committedAtUs: 0,
      appliedAtUs: 0,
      point: false,
    });
    this.#open = {
      begin,
      seq: begin.cut.seq,
      stores,
      lastObjectBefore,
      born: new Map(),
      rows: new Map(),
      contents: new Map(),
      renewed: new Set(),
      payloadBytes: 0,
      objects: 0,
      paths: 0,
      rowsSinceCommit: 0,
      bytesSinceCommit: 0,
      rejoins: anyTouched(catalog),
      committedAt: performance.now(),
      syncedAt: performance.now(),
    };
    const first = begin.base.seq === 0n;
    this.#staging.begin(begin.cut, { leftovers, first, built: first && !adopting(catalog) });
  }

  #insistOnFollowing(): void {
    const { sealed, role, halted } = this.#context.catalog.standing;
    if (sealed || role !== "replica") throw new Sealed(`this node takes no cuts: it is ${sealed ? "sealed" : role}`);
    if (halted !== "") throw new Sealed(`this node takes no cuts: ${halted}`);
  }

  #storesNamed(names: readonly string[], what: string): number[] {
    const known = new Map(
      [...this.#context.homes.values()].map((home) => [home.placement.name as string, home.number]),
    );
    return names.map((name) => {
      const number = known.get(name);
      if (number === undefined)
        throw new CutMalformed(`${what} has a store "${name}" that this node's configuration does not know`);
      return number;
    });
  }

  /**
   * Bytes that a later cut needs, before it begins; whole cuts before them are committed already.
   * @returns why there is no room for them, or undefined
   */
  ahead(extents: readonly Extent[], payload: Uint8Array, stores: readonly string[]): string | undefined {
    this.#insistOnLatest();
    if (this.#open !== undefined)
      throw new CutMalformed(`what should come ahead came within cut ${cutText(this.#open.begin.cut)}`);
    assert(this.#ended.length === 0, "what comes ahead is of a cut that comes after all that are whole");
    this.#insistOnFollowing();
    checkBlocks(extents);
    return aheadOf(this.#context).take(extents, payload, this.#storesNamed(stores, "what comes ahead"));
  }

  /** `payload` holds the bytes of the extents one after the other, decoded. */
  extents(extents: readonly Extent[], payload: Uint8Array): void {
    const open = this.#opened("extents");
    checkBlocks(extents);
    let at = 0;
    for (const extent of extents) {
      const carried = extent.zero || extent.held ? 0 : extent.length;
      if (at + carried > payload.length)
        throw new CutDamaged(`payload of ${payload.length} bytes is shorter than its extents`);
      open.payloadBytes += carried;
      if (extent.held && extent.hashes.length === 0) this.#cameAhead(open, extent);
      else this.#extent(open, extent, payload.subarray(at, at + carried));
      at += carried;
    }
    if (at !== payload.length) throw new CutDamaged(`payload of ${payload.length} bytes, its extents take ${at}`);
    this.#breathe(open);
  }

  /** What lies in the log goes the way of bytes that come now; what lies in its staged file stays there. */
  #cameAhead(open: OpenCut, extent: Extent): void {
    const { offset, length, blockSize } = extent;
    for (const { first, hashes, bytes } of aheadOf(this.#context).find(extent, this.#store(open, extent.store))) {
      const end = Math.min((first + hashes.length / hashBytes) * blockSize, offset + length);
      const piece = { ...extent, offset: first * blockSize, length: end - first * blockSize, hashes };
      if (bytes === undefined) this.#extent(open, piece, new Uint8Array(0));
      else this.#extent(open, { ...piece, held: false }, bytes);
    }
  }

  #extent(open: OpenCut, said: Extent, bytes: Uint8Array): void {
    const { manifest } = this.#context;
    const { object, blockSize, offset, length } = said;
    const mayBeKnown = object <= open.lastObjectBefore;
    const old = mayBeKnown && manifest.object(object, open.begin.base.seq) !== undefined;
    // Who rejoins may never have had an object of the common reign that came and went between two cuts that it got: then all
    // of it was born since, and comes, as the digests prove.
    const lacked = open.rejoins && mayBeKnown && !old && !said.fresh;
    const extent = lacked ? { ...said, fresh: true } : said;
    const store = this.#store(open, extent.store);
    const existing = this.#object(open, object);
    if (existing !== undefined && (existing.type !== "file" || existing.blockSize !== blockSize)) {
      throw this.#contradiction(
        open,
        `extent of object ${object}: it is a ${existing.type} with blocks of ${existing.blockSize}`,
      );
    }
    const renews = old && this.#renews(open, extent, existing);
    if (extent.fresh === old && !renews)
      throw this.#contradiction(open, `extent of object ${object} says ${extent.fresh ? "new" : "known"}: it is not`);
    if (extent.held && old && !renews)
      throw new CutMalformed(`extent of object ${object} is held: the copy has that object`);
    let pending = open.contents.get(object);
    if (pending === undefined) {
      if (open.contents.size >= pendingContentsMax)
        throw new CutMalformed(`more than ${pendingContentsMax} objects with extents and no row`);
      this.#checkStoreOf(open, object, store);
      const content = existing?.content ?? new Uint8Array(0);
      const isNew = (!mayBeKnown || lacked) && existing === undefined;
      const anew = renews && !open.renewed.has(object);
      const change = new ContentChange(manifest, object, open.seq, content, { births: false, anew, fresh: isNew });
      if (renews) open.renewed.add(object);
      pending = new PendingContent(change, blockSize, store);
      open.contents.set(object, pending);
    }
    pending.take(extent, store);
    const content = pending.change;
    const first = offset / blockSize;
    const blocks = Math.ceil(length / blockSize);
    if (extent.hashes.length !== (extent.zero ? 0 : blocks * hashBytes))
      throw new CutMalformed(`extent of ${blocks} blocks has ${extent.hashes.length} bytes of hashes`);
    if (!extent.zero && !extent.held) {
      const hashes = blockHashes(bytes, blockSize);
      if (!equalBytes(hashes, extent.hashes)) {
        const wrong = hashes.findIndex((byte, at) => byte !== extent.hashes[at]);
        throw new CutDamaged(
          `block ${first + Math.floor(wrong / hashBytes)} of object ${object} does not have its hash`,
        );
      }
      content.setAll(first, hashes);
    } else {
      for (let i = 0; i < blocks; i++) {
        const hash = extent.zero ? zeroHash : extent.hashes.subarray(i * hashBytes, (i + 1) * hashBytes);
        if (extent.held) this.#checkHeld(extent, store, first + i, hash);
        content.set(first + i, hash);
      }
    }
    open.bytesSinceCommit += bytes.length;
    open.rowsSinceCommit += this.#staging.put(extent, store, bytes, { whole: renews, again: existing !== undefined });
  }

  /**
   * All of an object that the copy has comes once more, since its file here is damaged. What is not damaged never does: a
   * file of ours is only ever changed in place, so that what recovery points need of it is saved.
   */
  #renews(open: OpenCut, { object, fresh }: Extent, existing: ObjectVersion | undefined): boolean {
    if (open.renewed.has(object)) {
      if (!fresh) throw new CutMalformed(`object ${object} comes whole, and in part`);
      return true;
    }
    const begun = open.contents.has(object) || existing?.birth === Number(open.seq);
    return fresh && !begun && mayComeAnew(this.#context.catalog, object);
  }

  /** The object as it stands with what has come of this cut. */
  #object(open: OpenCut, object: ObjectId): ObjectVersion | undefined {
    if (object > open.lastObjectBefore && !open.born.has(object)) return undefined;
    return this.#context.manifest.object(object, open.seq);
  }

  /** An object lies in the store of its paths, and so do the bytes that wait for it. */
  #checkStoreOf(open: OpenCut, object: ObjectId, store: number): void {
    const born = open.born.get(object);
    if (born !== undefined && born !== store)
      throw new CutMalformed(`object ${object} is in store ${born}, and what came now in store ${store}`);
    if (this.#context.homes.size === 1 || object > open.lastObjectBefore) return;
    const known = this.#context.catalog.get("SELECT store FROM path_versions WHERE object = ? LIMIT 1", object);
    if (known !== undefined && Number(known.store) !== store)
      throw new CutMalformed(`object ${object} is in store ${known.store}, and what came now in store ${store}`);
  }

  #checkHeld({ object, blockSize }: Extent, store: number, block: number, hash: Uint8Array): void {
    const staged = this.#context.catalog.get(
      "SELECT 1 AS found FROM staged WHERE object=? AND block_size=? AND store=?",
      object,
      blockSize,
      store,
    );
    const held = staged === undefined ? zeroHash : aheadOf(this.#context).fileHash(object, block);
    if (!equalBytes(held, hash) || equalBytes(hash, zeroHash))
      throw new CutDamaged(`block ${block} of object ${object} is not staged as the primary thinks`);
  }

  rows(objects: readonly ObjectRow[], paths: readonly PathRow[]): void {
    const open = this.#opened("rows");
    for (const row of objects) this.#objectRow(open, row);
    for (const row of paths) this.#pathRow(open, row);
    open.rows.clear();
    open.rowsSinceCommit += objects.length + paths.length;
    this.#breathe(open);
  }

  #objectRow(open: OpenCut, row: ObjectRow): void {
    const { manifest } = this.#context;
    const store = this.#store(open, row.store);
    const before = this.#object(open, row.object);
    if (before !== undefined && before.type !== row.type)
      throw this.#contradiction(open, `object ${row.object} turns from a ${before.type} into a ${row.type}`);
    if (row.type === "symlink" && (row.target === "" || row.target.includes("\0") || row.target.length > 4095)) {
      throw new CutMalformed(`object ${row.object} is a symlink with a target of ${row.target.length} bytes`);
    }
    if (row.mode > 0o7777 || row.size < 0 || row.size > fileBytesMax || row.object <= 0)
      throw new CutMalformed(`object ${row.object} with mode ${row.mode} and size ${row.size}`);
    if (before === undefined) {
      this.#checkNeverDied(open, row.object);
      this.#staging.discardLeftover(row.object);
    }
    if (row.type === "file") {
      const pending = open.contents.get(row.object);
      pending?.settle(row, store);
      let content = pending?.change;
      if (before !== undefined && before.blockSize !== row.blockSize) {
        throw this.#contradiction(
          open,
          `object ${row.object} changes its block size from ${before.blockSize} to ${row.blockSize}`,
        );
      }
      if (before !== undefined && row.size < before.size) {
        content ??= new ContentChange(manifest, row.object, open.seq, before.content, { births: false });
        content.truncate(Math.ceil(row.size / row.blockSize));
      }
      const digest = content?.finish() ?? before?.content ?? new Uint8Array(32);
      open.contents.delete(row.object);
      if (!equalBytes(digest, row.content)) {
        const what = `content of object ${row.object} comes to ${hex(digest)}, the primary says ${hex(row.content)}`;
        throw open.rejoins ? new RejoinUnproven(open.begin.cut, what) : new CutDamaged(what);
      }
      // Of a file of nothing but zeros nothing else comes.
      if (before !== undefined && isZero(row.content) && !open.renewed.has(row.object)) {
        if (mayComeAnew(this.#context.catalog, row.object)) {
          open.renewed.add(row.object);
          this.#staging.beginWhole(row.object, store, row.blockSize);
        }
      }
    }
    if (row.type !== "directory") this.#staging.settle(row, store, before !== undefined);
    manifest.putObject(row, open.seq);
    open.rows.set(row.object, row);
    if (row.object > open.lastObjectBefore) open.born.set(row.object, store);
    open.objects++;
  }

  /** What the primary says of an object is not what is here: two objects were given one number, or one side is wrong. */
  #contradiction(open: OpenCut, what: string): Error {
    return open.rejoins ? new RejoinUnproven(open.begin.cut, what) : new CutMalformed(what);
  }

  /** Numbers are given once: under the second object's the first one's file would be lost, and points with it. */
  #checkNeverDied(open: OpenCut, object: ObjectId): void {
    const { seq } = open.begin.base;
    if (seq === 0n || object > open.lastObjectBefore) return;
    const sql = "SELECT 1 AS found FROM object_versions WHERE object=? AND birth<=? LIMIT 1";
    if (this.#context.catalog.get(sql, object, seq) !== undefined)
      throw this.#contradiction(open, `object ${object} has died and comes again`);
  }

  #pathRow(open: OpenCut, row: PathRow): void {
    const { manifest } = this.#context;
    const store = this.#store(open, row.store);
    const path = checkStorePath(row.path);
    const home = homeOf(this.#context, store);
    if (home.placement.shape === "file" && path !== singleFileName)
      throw new CutMalformed(`store ${home.placement.name} is a single file, received a path ${JSON.stringify(path)}`);
    if (path === "" && row.object === undefined) throw new CutMalformed("the root of a store cannot go");
    let to: { object: ObjectId; type: ObjectType } | undefined;
    if (row.object !== undefined) {
      const object = open.rows.get(row.object) ?? this.#object(open, row.object);
      if (object === undefined)
        throw this.#contradiction(open, `path ${JSON.stringify(path)} leads to object ${row.object}, which is unknown`);
      if (path === "" && object.type !== "directory")
        throw new CutMalformed(`the root of store ${home.placement.name} is a ${object.type}`);
      if (home.placement.shape === "file" && object.type !== "file")
        throw new CutMalformed(`store ${home.placement.name} is a single file, received a ${object.type}`);
      this.#checkStoreOf(open, row.object, store);
      to = { object: row.object, type: object.type };
    }
    this.#staging.path(store, path, to);
    manifest.putPath(store, path, row.object, open.seq);
    open.paths++;
  }

  /** Forgets what came of an object in this cut: it moved while the primary read it. */
  dropObject(object: ObjectId): void {
    const { catalog, manifest } = this.#context;
    const open = this.#opened("objectDropped");
    if (manifest.object(object, open.seq)?.birth === Number(open.seq))
      throw new CutDamaged(`object ${object} is dropped after its row, which would be left without its blocks`);
    open.contents.delete(object);
    open.renewed.delete(object);
    catalog.run("DELETE FROM run_versions WHERE object = ? AND birth = ?", object, open.seq);
    this.#staging.drop(object);
  }

  /** The cut is whole: checks it against its own numbers and digest. It becomes visible with the next commit. */
  end(end: CutEnd): void {
    const { catalog, manifest } = this.#context;
    const open = this.#opened("cutEnd");
    const text = cutText(end.cut);
    if (compareCuts(end.cut, open.begin.cut) !== 0)
      throw new CutMalformed(`cut ${cutText(open.begin.cut)} ends as ${text}`);
    if (end.objects !== open.objects || end.paths !== open.paths || end.payloadBytes !== open.payloadBytes) {
      throw new CutDamaged(
        `cut ${text} has ${open.objects} objects, ${open.paths} paths and ${open.payloadBytes} bytes; its end says ${end.objects}, ${end.paths} and ${end.payloadBytes}`,
      );
    }
    const stores = new Set(end.stores.map(({ name }) => name));
    if (
      stores.size !== end.stores.length ||
      stores.size !== open.stores.length ||
      !open.begin.stores.every((name) => stores.has(name))
    )
      throw new CutMalformed(
        `cut ${text} of ${open.begin.stores.join(", ")} ends with other stores: ${[...stores].join(", ")}`,
      );
    const unfinished = open.contents.keys().next();
    if (unfinished.done !== true)
      throw new CutMalformed(`cut ${text} has extents of object ${unfinished.value} and no row of it`);
    this.#checkShape(open);
    this.#checkPlaces(open);
    manifest.settleDeaths(open.seq, open.begin.base.seq);
    const digest = manifest.digestAfter(open.begin.base.seq, catalog.standing.digest, open.seq);
    if (!equalBytes(digest, end.digest)) {
      const what = `the set's digest after cut ${text} comes to ${hex(digest)}, the primary says ${hex(end.digest)}`;
      throw open.rejoins ? new RejoinUnproven(end.cut, what) : new CutDamaged(what);
    }
    this.#staging.discardUnused();
    this.#reserve(open);
    this.#staging.end();
    // What makes it visible is synced with its own transaction, or is not there.
    if (this.#ended.length === 0) catalog.beginSynced("rows");
    catalog.recordCut({
      cut: end.cut,
      incarnation: open.begin.incarnation,
      base: open.begin.base.seq,
      takenAtUs: open.begin.takenAtUs,
      state: "committed",
      digest,
      coherency: end.coherency,
      stores: end.stores,
      payloadBytes: end.payloadBytes,
      freezeMs: end.freezeMs,
      committedAtUs: this.#context.nowUs(),
      appliedAtUs: 0,
      point: false,
    });
    noteRenewed(catalog, open.renewed, open.seq);
    if (open.rejoins) {
      clearTouched(catalog);
      forgetUnproven(catalog);
    }
    catalog.stand({ committed: end.cut, digest, lastTakenAtUs: open.begin.takenAtUs });
    this.#ended.push(end.cut);
    this.#open = undefined;
  }

  /** Everything lies in a directory, and nothing lies below what is none: else apply would meet it half-way. */
  #checkShape(open: OpenCut): void {
    const { catalog, manifest } = this.#context;
    for (const row of catalog.all(
      "SELECT DISTINCT store, dir FROM path_versions WHERE birth=? AND object IS NOT NULL AND NOT (dir='' AND name='')",
      open.seq,
    )) {
      const store = Number(row.store);
      if (homeOf(this.#context, store).placement.shape === "file") continue;
      const dir = checkStorePath(String(row.dir));
      const parent = manifest.objectAtPath(store, dir, open.seq);
      if (parent === undefined || manifest.object(parent, open.seq)?.type !== "directory") {
        throw new CutMalformed(
          `cut ${cutText(open.begin.cut)} puts something below ${JSON.stringify(dir)}, which is no directory`,
        );
      }
    }
    if (open.begin.base.seq === 0n) return; // Before a first copy there was no directory that could be left behind.
    for (const row of catalog.all("SELECT store, dir, name, object FROM path_versions WHERE birth = ?", open.seq)) {
      const store = Number(row.store);
      const path = joinPath(String(row.dir), String(row.name));
      const before = manifest.objectAtPath(store, path, open.begin.base.seq);
      if (before === undefined || manifest.object(before, open.begin.base.seq)?.type !== "directory") continue;
      if (row.object !== null && manifest.object(Number(row.object) as ObjectId, open.seq)?.type === "directory")
        continue;
      const child = manifest.children(store, path, open.seq)[0];
      if (child !== undefined) {
        throw new CutMalformed(
          `cut ${cutText(open.begin.cut)} removes directory ${JSON.stringify(path)} and leaves "${child.name}" in it`,
        );
      }
    }
  }

  /** What was staged lies where the object's paths are; what has no path at all is nothing that apply could ever find. */
  #checkPlaces(open: OpenCut): void {
    const { catalog, manifest } = this.#context;
    const astray = catalog.get(
      "SELECT s.object FROM staged s JOIN path_versions p ON p.object = s.object WHERE s.seq = ? AND p.store <> s.store LIMIT 1",
      open.seq,
    );
    if (astray !== undefined)
      throw new CutMalformed(`object ${astray.object} was sent for another store than its path's`);
    for (const { object } of catalog.all(
      `SELECT object FROM object_versions o WHERE birth = ? AND type <> 0
         AND NOT EXISTS (SELECT 1 FROM path_versions p WHERE p.object = o.object)`,
      open.seq,
    ))
      manifest.putDeath(Number(object) as ObjectId, open.seq);
  }

  /** Room for what apply will write: old images, growth and a margin, on every mount, before anything is promised. */
  #reserve(open: OpenCut): void {
    const { catalog, disk, homes, limits } = this.#context;
    const { applied } = catalog.standing;
    const written = Number(
      catalog.get("SELECT coalesce(sum(length), 0) AS bytes FROM extents WHERE seq > ?", applied)?.bytes,
    );
    const needed = written + (applied === 0n ? 0 : cutOffBytes(catalog, applied));
    for (const home of homes.values()) {
      const free = disk.freeBytes(home.home);
      if (free < 2 * needed + limits.freeBytesMin) {
        throw new NoRoom(
          `cut ${cutText(open.begin.cut)} needs ${2 * needed + limits.freeBytesMin} free bytes beside ${home.placement.path}, there are ${free}`,
        );
      }
    }
  }

  /** Called by commit after everything is durable. */
  settled(): void {
    this.#ended = [];
    this.#staging.settled();
    aheadOf(this.#context).clear();
  }

  /** Ends the session's work: what is not committed is forgotten, but staged files stay for a resume. */
  abort(): void {
    if (this.#superseded) return; // Nothing is left of it, and what is open is another's.
    const { catalog } = this.#context;
    // The rows of half a cut are seen by nobody and go at once; but with them goes what is staged, unless they are kept
    // up to here.
    const idle = this.#ended.length === 0 && this.#open === undefined;
    let kept = true;
    try {
      if (this.#ended.length === 0 && catalog.db.isTransaction) catalog.commit("rows");
    } catch (error) {
      // Then all of it comes again.
      if (!(catalogProblem(error) instanceof CatalogFull)) throw error;
      kept = false;
    }
    catalog.rollback();
    // Nothing is half here, and what came ahead is known as it is.
    if (idle && kept) return;
    this.#open = undefined;
    this.#ended = [];
    aheadOf(this.#context).forgetFiles();
    this.#staging.abort(() => forgetOpenCut(this.#context));
  }

  #opened(what: string): OpenCut {
    this.#insistOnLatest();
    if (this.#open === undefined) throw new CutMalformed(`${what} outside a cut`);
    this.#context.catalog.begin();
    return this.#open;
  }

  #store(open: OpenCut, index: number): number {
    const store = open.stores[index];
    if (store === undefined) throw new CutMalformed(`store ${index} of ${open.stores.length}`);
    return store;
  }

  /** Closes the transaction of a large cut now and then; its rows stay invisible. */
  #breathe(open: OpenCut): void {
    const { transactionBytesMax } = this.#context.limits;
    const now = performance.now();
    const due =
      open.rowsSinceCommit >= rowsPerTransactionMax ||
      open.bytesSinceCommit >= transactionBytesMax ||
      now - open.committedAt >= transactionMsMax;
    if (!due) return;
    // With whole cuts before it in the same transaction only a full commit may close it.
    if (this.#ended.length > 0) return;
    assert(this.#context.catalog.standing.committed.seq < open.seq, "a cut becomes visible only when it is whole");
    // Nobody sees half a cut, and after a power failure nothing of it is of use but what can be resumed.
    if (this.#staging.resumableBytes > 0 && now - open.syncedAt >= transactionMsMax) {
      this.#context.catalog.commit("rows");
      this.#staging.resumableBytes = 0;
      open.syncedAt = performance.now();
    } else {
      this.#context.catalog.commitUnsynced("rows");
    }
    open.rowsSinceCommit = 0;
    open.bytesSinceCommit = 0;
    open.committedAt = performance.now();
  }
}

/** What files lose at their ends by cuts that wait to be applied: it is saved for recovery points as what is written over. */
function cutOffBytes(catalog: Catalog, applied: Seq): number {
  const row = catalog.get(
    `SELECT coalesce(sum(before.size - now.size), 0) AS bytes FROM object_versions now JOIN object_versions before
       ON before.object = now.object AND before.birth = (
         SELECT max(birth) FROM object_versions WHERE object = now.object AND birth < now.birth)
     WHERE now.birth > ? AND now.type = 1 AND before.type = 1 AND before.size > now.size`,
    applied,
  );
  return Number(row?.bytes);
}
