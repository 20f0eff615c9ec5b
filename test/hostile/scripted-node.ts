import type { Channel } from "../../shared/link/channel.ts";
import { type Connection, dial } from "../../shared/link/dial.ts";
import type { Identity } from "../../shared/link/identity.ts";
import { blockHash, blocksPerRun, trimRun, zeroHash } from "../../shared/manifest/block-hash.ts";
import { pathTerm, runTerm, Sum256 } from "../../shared/manifest/digest.ts";
import { decodeMessage, encodeMessage, frameKindOf } from "../../shared/wire/codec.ts";
import type { Frame } from "../../shared/wire/frame.ts";
import type {
  Acknowledgement,
  BulkMessage,
  Extent,
  Hello,
  Message,
  ObjectRow,
  PathRow,
} from "../../shared/wire/messages.ts";
import { type CutId, cutText, epoch, type ObjectId, type StorePath, seq } from "../../shared/words.ts";
import { until } from "../until.ts";

const never = new AbortController().signal;
const empty = new Uint8Array(0);
export const blockSize = 4096;

/** A frame of a cut before it is encoded; `raw` stands for what our own encoder would not write. */
export interface Part {
  readonly message: BulkMessage;
  readonly payload?: Uint8Array;
  readonly raw?: Uint8Array;
  readonly kind?: Frame["kind"];
}

interface KnownObject {
  readonly row: ObjectRow;
  readonly bytes: Uint8Array;
}

interface State {
  readonly objects: ReadonlyMap<number, KnownObject>;
  /** By `store/path`. */
  readonly paths: ReadonlyMap<string, number>;
  readonly nextObject: number;
}

/** What a correct primary would send next: built like a program that edits a tree, then spoilt by a test in one place. */
export class Draft {
  readonly cut: CutId;
  readonly base: CutId;
  readonly #primary: ScriptedNode;
  readonly #objects: Map<number, KnownObject>;
  readonly #paths: Map<string, number>;
  #nextObject: number;
  readonly #extents: { extent: Extent; bytes: Uint8Array }[] = [];
  readonly #rows: ObjectRow[] = [];
  readonly #pathRows: PathRow[] = [];

  constructor(primary: ScriptedNode, state: State, cut: CutId, base: CutId) {
    this.#primary = primary;
    this.cut = cut;
    this.base = base;
    this.#objects = new Map(state.objects);
    this.#paths = new Map(state.paths);
    this.#nextObject = state.nextObject;
  }

  /** The object at a path, for tests that name it. */
  object(store: string, path: string): ObjectId {
    const found = this.#paths.get(`${store}/${path}`);
    if (found === undefined) throw new Error(`no ${store}/${path} in this draft`);
    return found as ObjectId;
  }

  row(object: number): ObjectRow {
    return this.#objects.get(object)!.row;
  }

  get nextObject(): ObjectId {
    return this.#nextObject as ObjectId;
  }

  directory(store: string, path: string): this {
    return this.#put(store, path, this.#meta(store, "directory"), empty);
  }

  symlink(store: string, path: string, target: string): this {
    return this.#put(store, path, { ...this.#meta(store, "symlink"), target }, empty);
  }

  /** A new file under this name. */
  file(store: string, path: string, bytes: Uint8Array | string, options: { blockSize?: number } = {}): this {
    const data = typeof bytes === "string" ? Buffer.from(bytes) : bytes;
    return this.#put(store, path, this.#meta(store, "file", options.blockSize), data);
  }

  /** The file that is there, with other bytes: all of them are sent. */
  rewrite(store: string, path: string, bytes: Uint8Array | string): this {
    const object = this.object(store, path);
    const data = typeof bytes === "string" ? Buffer.from(bytes) : bytes;
    const { row } = this.#objects.get(object)!;
    return this.#objectRow({ ...row, mtimeUs: row.mtimeUs + 1 }, data, false);
  }

  link(store: string, from: string, to: string): this {
    return this.#path(store, to, this.object(store, from));
  }

  remove(store: string, path: string): this {
    this.#paths.delete(`${store}/${path}`);
    this.#pathRows.push({ store: this.#store(store), path: path as StorePath, object: undefined });
    return this;
  }

  #put(store: string, path: string, meta: Omit<ObjectRow, "object" | "content" | "size">, bytes: Uint8Array): this {
    const object = this.#nextObject++ as ObjectId;
    this.#objectRow({ ...meta, object, size: 0, content: zeroHash }, bytes, true);
    return this.#path(store, path, object);
  }

  #path(store: string, path: string, object: ObjectId): this {
    this.#paths.set(`${store}/${path}`, object);
    this.#pathRows.push({ store: this.#store(store), path: path as StorePath, object });
    return this;
  }

  #objectRow(row: ObjectRow, bytes: Uint8Array, fresh: boolean): this {
    if (row.type === "file" && bytes.length > 0) {
      const { object, store, blockSize: size } = row;
      const common = { object, store, blockSize: size, fresh, held: false, zero: false, offset: 0 };
      this.#extents.push({ extent: { ...common, length: bytes.length, hashes: hashesOf(bytes, size) }, bytes });
    }
    const whole = { ...row, size: bytes.length, content: contentOf(bytes, row.blockSize) };
    this.#objects.set(row.object, { row: whole, bytes });
    this.#rows.push(whole);
    return this;
  }

  #meta(store: string, type: ObjectRow["type"], size = blockSize): Omit<ObjectRow, "object" | "content" | "size"> {
    const mode = type === "directory" ? 0o755 : 0o644;
    const mtimeUs = 1_700_000_000_000_000;
    const { uid, gid } = owner;
    return {
      type,
      mode,
      uid,
      gid,
      mtimeUs,
      blockSize: type === "file" ? size : 0,
      target: "",
      store: this.#store(store),
    };
  }

  #store(name: string): number {
    return this.#primary.stores.indexOf(name);
  }

  /** Of the whole set as it is after this cut. */
  digest(): Uint8Array {
    const sum = new Sum256();
    for (const [key, object] of this.#paths) {
      const slash = key.indexOf("/");
      sum.add(pathTerm(key.slice(0, slash), key.slice(slash + 1) as StorePath, this.#objects.get(object)!.row));
    }
    return sum.bytes();
  }

  parts(): Part[] {
    const { groupId, incarnation, stores } = this.#primary;
    const begin: Part = {
      message: {
        kind: "cutBegin",
        cut: this.cut,
        base: this.base,
        incarnation,
        takenAtUs: Date.now() * 1000,
        groupId,
        stores,
      },
    };
    const extents: Part[] = this.#extents.map(({ extent, bytes }) => ({
      message: { kind: "extents", extents: [extent], encoding: "plain", decodedBytes: 0 },
      payload: bytes,
    }));
    const rows: Part = { message: { kind: "rows", objects: this.#rows, paths: this.#pathRows } };
    const payloadBytes = this.#extents.reduce((sum, { bytes }) => sum + bytes.length, 0);
    const end: Part = {
      message: {
        kind: "cutEnd",
        cut: this.cut,
        digest: this.digest(),
        stores: stores.map((name) => ({
          name,
          kind: name === "db" ? "sqlite" : "files",
          consistency: "transactional",
          position: "",
          bytes: 0,
          files: 1,
          behind: [],
        })),
        coherency: "independent",
        paths: this.#pathRows.length,
        objects: this.#rows.length,
        payloadBytes,
        freezeMs: 0,
      },
    };
    return [begin, ...extents, rows, end];
  }

  state(): State {
    return { objects: this.#objects, paths: this.#paths, nextObject: this.#nextObject };
  }
}

/** So that an ordinary user's run of the tests may set what it is sent. */
const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };

export function hashesOf(bytes: Uint8Array, size: number): Uint8Array {
  const blocks = Math.ceil(bytes.length / size);
  const hashes = new Uint8Array(blocks * 32);
  for (let i = 0; i < blocks; i++) hashes.set(blockHash(bytes.subarray(i * size, (i + 1) * size)), i * 32);
  return hashes;
}

function contentOf(bytes: Uint8Array, size: number): Uint8Array {
  const sum = new Sum256();
  if (size === 0) return sum.bytes();
  const hashes = hashesOf(bytes, size);
  for (let run = 0; run * blocksPerRun * 32 < hashes.length; run++) {
    const term = runTerm(run, trimRun(hashes.subarray(run * blocksPerRun * 32, (run + 1) * blocksPerRun * 32)));
    if (term !== undefined) sum.add(term);
  }
  return sum.bytes();
}

/** A node with a valid key that speaks the protocol by hand, in whatever role it claims. */
export class ScriptedNode {
  readonly node: string;
  /** Whom it dials. */
  readonly peer: string;
  readonly groupId: string;
  readonly incarnation: string;
  readonly stores: readonly string[];
  readonly configured: Hello["stores"];
  epoch = 1n;
  committed: CutId = { epoch: epoch(0), seq: seq(0) };
  digest: Uint8Array = new Uint8Array(32);
  #state: State = { objects: new Map(), paths: new Map(), nextObject: 1 };
  #connection: Connection | undefined;
  readonly #identity: Identity;
  readonly #port: number;
  readonly #hostKey: string;

  constructor(options: {
    node: string;
    peer: string;
    groupId: string;
    incarnation: string;
    stores: Hello["stores"];
    identity: Identity;
    port: number;
    hostKey: string;
  }) {
    this.node = options.node;
    this.peer = options.peer;
    this.groupId = options.groupId;
    this.incarnation = options.incarnation;
    this.configured = options.stores;
    this.stores = options.stores.map(({ name }) => name);
    this.#identity = options.identity;
    this.#port = options.port;
    this.#hostKey = options.hostKey;
  }

  async connection(): Promise<Connection> {
    if (this.#connection !== undefined) return this.#connection;
    const connection = await dial(
      {
        target: { kind: "embedded", host: "127.0.0.1", port: this.#port },
        peer: this.peer,
        identity: this.#identity,
        hostKeys: [this.#hostKey],
        log: () => {},
      },
      never,
    );
    this.#connection = connection;
    void connection.closed.then(() => {
      if (this.#connection === connection) this.#connection = undefined;
    });
    return connection;
  }

  hello(change: Partial<Hello> = {}): Hello {
    return {
      major: 1,
      minor: 0,
      features: ["zstd"],
      software: "test",
      node: this.node,
      group: "app",
      groupId: this.groupId,
      role: "primary",
      epoch: this.epoch,
      epochs: [{ epoch: this.epoch, firstSeq: 1n }],
      incarnation: this.incarnation,
      committed: this.committed,
      digest: this.digest,
      stores: this.configured,
      generation: 1n,
      epochSeen: this.epoch,
      lastObject: this.#state.nextObject - 1,
      ...change,
    };
  }

  /** A channel on which nothing was said yet. */
  async open(): Promise<Conversation> {
    return new Conversation(await (await this.connection()).openChannel(never));
  }

  /** A channel on which the replica has said that it follows. */
  async follow(change: Partial<Hello> = {}): Promise<Conversation> {
    const conversation = await this.open();
    await conversation.send({ kind: "hello", hello: this.hello(change) });
    await conversation.expect("welcome");
    await conversation.expect("acknowledgement");
    return conversation;
  }

  /** @param ahead how far its number is above the last one */
  draft(ahead = 1): Draft {
    const cut = { epoch: epoch(this.epoch), seq: seq(this.committed.seq + BigInt(ahead)) };
    return new Draft(this, this.#state, cut, this.committed);
  }

  /** Sends a cut as it is and waits until the replica says that it has it, in the copy too. */
  async ship(conversation: Conversation, draft: Draft): Promise<void> {
    await this.shipDurably(conversation, draft);
    await conversation.applied(draft.cut);
  }

  /** As `ship`, where the copy may not take what the catalog has. */
  async shipDurably(conversation: Conversation, draft: Draft): Promise<void> {
    await conversation.sendParts(draft.parts());
    await conversation.durable(draft.cut);
    this.committed = draft.cut;
    this.digest = draft.digest();
    this.#state = draft.state();
  }

  close(): void {
    this.#connection?.close();
  }
}

/** One channel, with everything that came back on it. */
export class Conversation {
  readonly channel: Channel;
  readonly received: { readonly message: Message; readonly payload: Uint8Array }[] = [];
  #ended: { readonly error: Error | undefined } | undefined;

  constructor(channel: Channel) {
    this.channel = channel;
    void this.#read();
  }

  async #read(): Promise<void> {
    try {
      for await (const frame of this.channel.frames()) {
        this.received.push({ message: decodeMessage(frame.header), payload: frame.payload });
      }
      this.#ended = { error: undefined };
    } catch (error) {
      this.#ended = { error: error instanceof Error ? error : new Error(String(error)) };
    }
  }

  get over(): boolean {
    return this.#ended !== undefined;
  }

  async send(message: Message, payload: Uint8Array = empty): Promise<void> {
    await this.channel.send({ kind: frameKindOf(message), header: encodeMessage(message), payload });
  }

  async sendFrame(kind: Frame["kind"], header: Uint8Array, payload: Uint8Array = empty): Promise<void> {
    await this.channel.send({ kind, header, payload });
  }

  /** The replica may hang up before everything was said: then the rest is kept. */
  async sendParts(parts: readonly Part[]): Promise<void> {
    try {
      for (const { message, payload, raw, kind } of parts) {
        await this.sendFrame(kind ?? frameKindOf(message), raw ?? encodeMessage(message), payload ?? empty);
      }
    } catch (error) {
      if (!this.over && (error as { code?: string }).code === undefined) throw error;
    }
  }

  async expect<K extends Message["kind"]>(kind: K): Promise<Extract<Message, { kind: K }>> {
    const found = await until(() => {
      const message = this.received.find((item) => item.message.kind === kind)?.message;
      if (message === undefined && this.over) {
        throw new Error(
          `the channel ended without ${kind}: ${JSON.stringify(this.received.map((r) => r.message.kind))}`,
        );
      }
      return message;
    }, `a ${kind} comes`);
    return found as Extract<Message, { kind: K }>;
  }

  async durable(cut: CutId): Promise<void> {
    await this.#acknowledged(cut, "durable", ({ durable }) => durable.seq === cut.seq);
  }

  async applied(cut: CutId): Promise<void> {
    await this.#acknowledged(
      cut,
      "applied",
      ({ durable, applied }) => durable.seq === cut.seq && applied.seq === cut.seq,
    );
  }

  async #acknowledged(cut: CutId, what: string, enough: (message: Acknowledgement) => boolean): Promise<void> {
    await until(
      () => {
        for (const { message } of this.received) {
          if (message.kind === "cutRejected") throw new Error(`cut ${cutText(cut)} was refused: ${message.message}`);
          if (message.kind === "acknowledgement" && enough(message)) return true;
        }
        if (this.over) throw new Error(`the channel ended before cut ${cutText(cut)} was ${what}`);
        return undefined;
      },
      `cut ${cutText(cut)} is ${what}`,
    );
  }

  /** Waits for the replica's end of the channel. */
  async end(deadlineMs?: number): Promise<readonly Message[]> {
    await until(() => this.over, "the session is closed", deadlineMs);
    return this.received.map(({ message }) => message);
  }
}
