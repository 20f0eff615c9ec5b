import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { shipAhead } from "../../primary/plan/ship-ahead.ts";
import type { TakenCut } from "../../primary/plan/take-cut.ts";
import type { PrimaryContext } from "../../primary/primary-context.ts";
import type { ReplicaSink } from "../../primary/ship/shipment.ts";
import { type AskTouched, TouchedThere } from "../../primary/ship/touched-there.ts";
import { createFilesStore } from "../../primary/stores/files/files-store.ts";
import { applyNext } from "../../replica/apply/apply.ts";
import { seal, takeOver } from "../../replica/promote/promote.ts";
import { demote, goBack, settleFiles } from "../../replica/rejoin/demote.ts";
import type { ReplicaContext } from "../../replica/replica-context.ts";
import { blockBirth } from "../../shared/catalog/content-change.ts";
import { forgottenUpTo } from "../../shared/catalog/notes.ts";
import { lastHad } from "../../shared/catalog/touched.ts";
import { RealDisk } from "../../shared/durable/real-disk.ts";
import { blocksPerRun } from "../../shared/manifest/block-hash.ts";
import { commonCut } from "../../shared/session/epochs.ts";
import type { BulkMessage } from "../../shared/wire/messages.ts";
import { hasBlock } from "../../shared/wire/touched-list.ts";
import { type CutId, type ObjectId, seq } from "../../shared/words.ts";
import { commit, cutInto, openPrimary, openReplica, receiverOf, sinkInto } from "./in-process.ts";

const store = "tree";

/** Two nodes with real files, of which one is primary and the other its replica; they may part and come together again. */
export class TwoNodes implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), "understudy-two-"));
  readonly nodes: readonly [Node, Node] = [new Node(this.directory, "alpha", 0), new Node(this.directory, "bravo", 1)];

  readonly #others: Node[] = [];

  static async start(): Promise<TwoNodes> {
    const pair = new TwoNodes();
    for (const { root } of pair.nodes) mkdirSync(root, { recursive: true });
    await pair.nodes[0].becomePrimary();
    await pair.nodes[1].becomeReplica();
    pair.nodes[1].follow(pair.nodes[0]);
    return pair;
  }

  /** One more replica of the first one. */
  async another(name: string): Promise<Node> {
    const node = new Node(this.directory, name, 2);
    this.#others.push(node);
    mkdirSync(node.root, { recursive: true });
    await node.becomeReplica();
    node.follow(this.nodes[0]);
    return node;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of [...this.nodes, ...this.#others]) await node.close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

export interface Shipped {
  readonly taken: TakenCut;
  /** Of payloads, uncompressed. */
  readonly bytes: number;
  readonly aheadBytes: number;
  readonly rows: number;
}

export class Node {
  readonly name: string;
  readonly root: string;
  readonly #catalogPath: string;
  readonly #member: number;
  /** Whether old images are saved here as a replica. */
  keepsHistory = true;
  #primary: PrimaryContext | undefined;
  #replica: ReplicaContext | undefined;

  constructor(directory: string, name: string, member: number) {
    this.name = name;
    this.root = join(directory, name, store);
    this.#catalogPath = join(directory, `${name}.db`);
    this.#member = member;
  }

  get primary(): PrimaryContext {
    if (this.#primary === undefined) throw new Error(`${this.name} is no primary`);
    return this.#primary;
  }

  get replica(): ReplicaContext {
    if (this.#replica === undefined) throw new Error(`${this.name} is no replica`);
    return this.#replica;
  }

  get catalog(): PrimaryContext["catalog"] {
    return (this.#primary ?? this.replica).catalog;
  }

  async close(): Promise<void> {
    for (const { adapter } of this.#primary?.stores ?? []) await adapter.close();
    this.#primary?.catalog.close();
    for (const home of this.#replica?.homes.values() ?? []) home.close();
    this.#replica?.catalog.close();
    this.#primary = undefined;
    this.#replica = undefined;
  }

  async becomePrimary(): Promise<void> {
    await this.close();
    const adapter = createFilesStore({ path: this.root, exclude: [] });
    await adapter.start(() => {});
    this.#primary = openPrimary(this.#catalogPath, { [store]: adapter });
  }

  async becomeReplica(): Promise<ReplicaContext> {
    await this.close();
    this.#replica = openReplica(this.#catalogPath, new RealDisk(), { [store]: this.root }, { adopt: true });
    return this.#replica;
  }

  /** A cut of its own, for nobody. */
  async cut(forgottenUpTo: bigint): Promise<CutId> {
    return (await cutInto(this.primary, [], { forgottenUpTo: seq(forgottenUpTo) })).cut;
  }

  /** A cut that the other follows, applied there; `ahead`: what it lacks goes ahead of it. */
  async ship(
    to: Node,
    options: {
      ahead?: boolean;
      touchedBytesMax?: number;
      /** In place of what the other says that it has otherwise. */
      ask?: AskTouched;
      /** What comes in place of a message; nothing at all where it is undefined. */
      tamper?: (message: BulkMessage, payload: Uint8Array) => [BulkMessage, Uint8Array] | undefined;
    } = {},
  ): Promise<Shipped> {
    const receiver = receiverOf(to.replica);
    const { ahead = false, ask, tamper, ...rest } = options;
    const inner = sinkInto(to.replica, receiver, {
      ...rest,
      takesAhead: ahead,
      ...(ahead ? { catchUpBytesMax: 0 } : {}),
    });
    const shipped = { bytes: 0, rows: 0, aheadBytes: 0 };
    let refusal: unknown;
    const sink: ReplicaSink = {
      ...inner,
      ...(ask === undefined ? {} : { touched: new TouchedThere(ask) }),
      send: async (sent, bytes) => {
        const [message, payload] = tamper === undefined ? [sent, bytes] : (tamper(sent, bytes) ?? []);
        if (message === undefined || payload === undefined) return;
        if (message.kind === "rows") shipped.rows += message.objects.length + message.paths.length;
        if (message.kind === "ahead") shipped.aheadBytes += payload.length;
        shipped.bytes += payload.length;
        try {
          await inner.send(message, payload);
        } catch (error) {
          refusal = error;
          throw error;
        }
      },
    };
    let taken = await cutInto(this.primary, [sink]);
    for (let pass = 0; sink.late && pass < 2; pass++) {
      const begins = (): boolean => true;
      await shipAhead(this.primary, sink, begins, () => undefined);
      sink.late = false;
      taken = await cutInto(this.primary, [sink]);
    }
    if (sink.gone || sink.late) {
      receiver.abort();
      throw refusal ?? new Error("the cut was not sent");
    }
    if (taken.shippedTo.length > 0 && receiver.ended.length === 0) {
      receiver.abort();
      throw new Error("no cut came whole");
    }
    commit(to.replica, receiver);
    while (applyNext(to.replica, to.keepsHistory) !== undefined);
    return { taken, ...shipped };
  }

  /** Takes over from what it holds; also from what is no cut, if that is `accepted`. */
  async promote(accepted?: "rejoining"): Promise<void> {
    seal(this.replica);
    takeOver(this.replica, true, { member: this.#member, members: 3 }, { rejoining: accepted !== undefined });
    await this.becomePrimary();
  }

  /** Its reign is over: what it has beyond the cut that the other has, too, is noted as touched. */
  async demote(other: Node): Promise<CutId> {
    const common = this.#common(other);
    const replica = await this.becomeReplica();
    const settled = settleFiles(
      replica,
      new Map(
        [...replica.homes.keys()].map((number) => [number, { covered: false, copied: false, excluded: () => false }]),
      ),
      "boot",
    );
    demote(replica, common, settled, true);
    return this.catalog.standing.committed;
  }

  /** A replica that has more of the past than its new primary gives that up. */
  goBack(other: Node): CutId {
    goBack(this.replica, this.#common(other));
    return this.catalog.standing.committed;
  }

  #common(other: Node): CutId {
    const common = commonCut(this.catalog.standing, other.catalog.standing);
    if (common === undefined) throw new Error("the two have nothing in common");
    return lastHad(this.catalog, common, forgottenUpTo(other.catalog));
  }

  /** Its primary is another one from here on. */
  follow({ catalog }: Node): void {
    const { epoch, epochs } = catalog.standing;
    this.replica.catalog.transaction("epoch", () => this.replica.catalog.stand({ epoch, epochSeen: epoch, epochs }));
  }

  /** Bytes of this primary's last cut that `other` cannot have: born after its base, or touched there. */
  lackingBytes({ catalog }: Node): number {
    const { manifest } = this.primary;
    const { committed } = this.catalog.standing;
    const base = catalog.standing.committed.seq;
    let bytes = 0;
    for (const { object } of this.catalog.all("SELECT DISTINCT object FROM object_versions WHERE type = 1")) {
      const id = Number(object) as ObjectId;
      const version = manifest.object(id, committed.seq);
      if (version === undefined) continue;
      const known =
        catalog.get("SELECT 1 AS found FROM object_versions WHERE object = ? AND type = 1", id) !== undefined;
      const blocks = Math.ceil(version.size / version.blockSize);
      for (let run = 0; run * blocksPerRun < blocks; run++) {
        const row = manifest.runWithBirths(id, run, committed.seq);
        const touched = catalog.get("SELECT blocks FROM touched_blocks WHERE object = ? AND run = ?", id, run);
        if (row === undefined) continue;
        for (let index = 0; index < blocksPerRun && run * blocksPerRun + index < blocks; index++) {
          const there = touched?.blocks as Uint8Array | undefined;
          if (!known || blockBirth(row, index) > base || hasBlock(there, index)) bytes += version.blockSize;
        }
      }
    }
    return bytes;
  }
}
