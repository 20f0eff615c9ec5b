import { readFileSync } from "node:fs";
import protobuf from "protobufjs";
import { assert, ProtocolViolation } from "../errors.ts";
import type { Coherency, Consistency, CutId, Epoch, ObjectId, Seq, StorePath } from "../words.ts";
import { unreachable } from "../words.ts";
import { checkExtent, checkMessage, checkObjectRow, checkPathRow, type Fail } from "./message-rules.ts";
import type {
  CutStore,
  Extent,
  Hello,
  Message,
  ObjectRow,
  ObjectType,
  PathRow,
  PayloadEncoding,
  ReplicaReport,
} from "./messages.ts";

/**
 * Between the typed messages and the Envelope of `proto/understudy.proto`; nothing else imports protobufjs.
 *
 * Most messages go through the generated code: `fromObject` out and `toObject` with bigints in, since `encode` turns a
 * raw bigint into 0 without a word. `rows` and `extents` are many, so they are read and written field by field with the
 * same library's Reader and Writer (measured: half of the time); a test holds the two ways to be the same bytes.
 */
declare const UNDERSTUDY_PROTO: string | undefined;

/** A bundle has no file beside it: its builder defines the text itself. */
function schemaText(): string {
  if (typeof UNDERSTUDY_PROTO === "string") return UNDERSTUDY_PROTO;
  return readFileSync(new URL("../../proto/understudy.proto", import.meta.url), "utf8");
}

type Kind = Message["kind"];
type Fields = Readonly<Record<string, unknown>>;

const root = protobuf.parse(schemaText()).root.resolveAll();
const envelope = root.lookupType("understudy.v1.Envelope");
const types = new Map(
  envelope.fieldsArray.map((field) => [field.name as Kind, root.lookupType(`understudy.v1.${field.type}`)]),
);
const kinds = new Map(envelope.fieldsArray.map((field) => [field.id, field.name as Kind]));
const tags = new Map(envelope.fieldsArray.map((field) => [field.name as Kind, (field.id << 3) | 2]));

/**
 * Messages other than those of a cut are small; what the generated decoder makes of a header is some fifty times its
 * size when it is all empty entries.
 */
const controlBytesMax = 256 * 1024;
const bulkKinds: ReadonlySet<Kind> = new Set([
  "cutBegin",
  "rows",
  "extents",
  "ahead",
  "objectDropped",
  "cutEnd",
  "cutAborted",
]);

/** The kind of frame that carries a message: `bulk` ones are decoded by the worker that stores cuts. */
export function frameKindOf(message: Message): "control" | "bulk" {
  return bulkKinds.has(message.kind) ? "bulk" : "control";
}

const typeNumbers: Readonly<Record<ObjectType, number>> = { file: 1, directory: 2, symlink: 3 };
const typeNames: readonly (ObjectType | undefined)[] = [undefined, "file", "directory", "symlink"];
const encodingNumbers: Readonly<Record<PayloadEncoding, number>> = { plain: 0, zstd: 1 };
const encodingNames: readonly PayloadEncoding[] = ["plain", "zstd"];

const ours: Fail = (rule) => assert(false, `message to send: ${rule}`) as never;
const theirs: Fail = (rule) => {
  throw new ProtocolViolation(`message refused: ${rule}`);
};

/** The header of a frame. @throws {InvariantBroken} for a value that the wire cannot carry or the peer would refuse. */
export function encodeMessage(message: Message): Uint8Array {
  const writer = protobuf.Writer.create();
  writer.uint32(tags.get(message.kind)!).fork();
  if (message.kind === "rows") {
    for (const row of message.objects) writeObjectRow(writer, row);
    for (const row of message.paths) writePathRow(writer, row);
  } else if (message.kind === "extents" || message.kind === "ahead") {
    checkMessage(message, ours);
    for (const extent of message.extents) writeExtent(writer, extent);
    if (message.encoding !== "plain") writer.uint32(16).uint32(encodingNumbers[message.encoding]);
    if (message.decodedBytes !== 0) writer.uint32(24).uint32(message.decodedBytes);
    if (message.kind === "ahead") for (const store of message.stores) writer.uint32(34).string(store);
  } else {
    checkMessage(message, ours);
    const type = types.get(message.kind)!;
    type.encode(type.fromObject(toFields(message)), writer);
    assert(
      bulkKinds.has(message.kind) || writer.pos <= controlBytesMax,
      `a ${message.kind} fits into ${controlBytesMax} bytes`,
    );
  }
  return writer.ldelim().finish();
}

/**
 * The message of a header. `hashes` and `content` are views of the header's memory (a copy for each row would cost more
 * than the rest of the row); everything else is the caller's own.
 * @throws {ProtocolViolation} and nothing else, whatever the bytes are
 */
export function decodeMessage(header: Uint8Array): Message {
  try {
    const { kind, body } = openEnvelope(header);
    if (kind === "rows") return decodeRows(body);
    if (kind === "extents" || kind === "ahead") return decodeExtents(kind, body);
    if (!bulkKinds.has(kind) && body.length > controlBytesMax)
      theirs(`${kind} of ${body.length} bytes, max ${controlBytesMax}`);
    const type = types.get(kind)!;
    const fields = type.toObject(type.decode(body), { longs: BigInt, defaults: true, arrays: true }) as Fields;
    const message = fromFields(kind, fields);
    checkMessage(message, theirs);
    return message;
  } catch (error) {
    if (error instanceof ProtocolViolation) throw error;
    // The library throws plain errors (RangeError, Error) for malformed bytes.
    throw new ProtocolViolation("malformed message header", { cause: error });
  }
}

/** What a header claims to be, by its first field alone: enough to tell a heartbeat from what others must decode. */
export function peekKind(header: Uint8Array): Message["kind"] | undefined {
  const first = header[0] ?? 0;
  const tag = first < 0x80 ? first : (first & 0x7f) + (header[1] ?? 0) * 0x80;
  return kinds.get(tag >>> 3);
}

/** By hand, so that two bodies are noticed (the generated code would merge them), and one decode is enough. */
function openEnvelope(header: Uint8Array): { kind: Kind; body: Uint8Array } {
  const reader = new protobuf.Reader(header);
  let found: { kind: Kind; body: Uint8Array } | undefined;
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    const kind = kinds.get(tag >>> 3);
    if (kind === undefined) {
      reader.skipType(tag & 7, 0, tag >>> 3);
      continue;
    }
    if ((tag & 7) !== 2) theirs(`${kind} of wire type ${tag & 7}`);
    if (found !== undefined) theirs(`a header with both ${found.kind} and ${kind}`);
    const end = endOf(reader);
    found = { kind, body: header.subarray(reader.pos, end) };
    reader.pos = end;
  }
  return found ?? theirs("a header with no message that this version knows");
}

// --- rows and extents, by hand ------------------------------------------------------------------------------------

function writeObjectRow(writer: protobuf.Writer, row: ObjectRow): void {
  checkObjectRow(row, ours);
  writer.uint32(10).fork();
  writeNumber(writer, 8, row.object);
  writer.uint32(16).uint32(typeNumbers[row.type]);
  if (row.mode !== 0) writer.uint32(24).uint32(row.mode);
  if (row.uid !== 0) writer.uint32(32).uint32(row.uid);
  if (row.gid !== 0) writer.uint32(40).uint32(row.gid);
  if (row.mtimeUs !== 0) writer.uint32(48).sint64(row.mtimeUs);
  writeNumber(writer, 56, row.size);
  if (row.blockSize !== 0) writer.uint32(64).uint32(row.blockSize);
  if (row.target !== "") writer.uint32(74).bytes(Buffer.from(row.target, "latin1"));
  writer.uint32(82).bytes(row.content);
  if (row.owner !== undefined && row.owner !== "") writer.uint32(90).string(row.owner);
  if (row.ownerGroup !== undefined && row.ownerGroup !== "") writer.uint32(98).string(row.ownerGroup);
  if (row.store !== 0) writer.uint32(104).uint32(row.store);
  writer.ldelim();
}

function writePathRow(writer: protobuf.Writer, row: PathRow): void {
  checkPathRow(row, ours);
  writer.uint32(18).fork();
  if (row.store !== 0) writer.uint32(8).uint32(row.store);
  if (row.path !== "") writer.uint32(18).bytes(Buffer.from(row.path, "latin1"));
  writeNumber(writer, 24, row.object ?? 0);
  writer.ldelim();
}

function writeExtent(writer: protobuf.Writer, extent: Extent): void {
  writer.uint32(10).fork();
  writeNumber(writer, 8, extent.object);
  writeNumber(writer, 16, extent.offset);
  writeNumber(writer, 24, extent.length);
  if (extent.hashes.length !== 0) writer.uint32(34).bytes(extent.hashes);
  if (extent.zero) writer.uint32(40).bool(true);
  if (extent.store !== 0) writer.uint32(48).uint32(extent.store);
  writer.uint32(56).uint32(extent.blockSize);
  if (extent.fresh) writer.uint32(64).bool(true);
  if (extent.held) writer.uint32(72).bool(true);
  writer.ldelim();
}

function writeNumber(writer: protobuf.Writer, tag: number, value: number): void {
  if (value === 0) return;
  writer.uint32(tag);
  if (value <= 0xffff_ffff) writer.uint32(value);
  else writer.uint64(value);
}

function decodeRows(body: Uint8Array): Message {
  const reader = new protobuf.Reader(body);
  const text = asBuffer(body);
  const objects: ObjectRow[] = [];
  const paths: PathRow[] = [];
  while (reader.pos < body.length) {
    const tag = reader.tag();
    if (tag === 10) objects.push(within(reader, text, readObjectRow));
    else if (tag === 18) paths.push(within(reader, text, readPathRow));
    else reader.skipType(tag & 7, 0, tag >>> 3);
  }
  return { kind: "rows", objects, paths };
}

function decodeExtents(kind: "extents" | "ahead", body: Uint8Array): Message {
  const reader = new protobuf.Reader(body);
  const text = asBuffer(body);
  const extents: Extent[] = [];
  const stores: string[] = [];
  let encoding = 0;
  let decodedBytes = 0;
  while (reader.pos < body.length) {
    const tag = reader.tag();
    if (tag === 10) extents.push(within(reader, text, readExtent));
    else if (tag === 16) encoding = readNumber(reader);
    else if (tag === 24) decodedBytes = readNumber(reader);
    else if (tag === 34 && kind === "ahead") stores.push(reader.string());
    else reader.skipType(tag & 7, 0, tag >>> 3);
  }
  // Each extent was checked when it was read.
  const rest = { kind, extents: [], encoding: encodingNames[encoding], decodedBytes, stores };
  checkMessage(rest as unknown as Message, theirs);
  const message = { extents, encoding: encodingNames[encoding]!, decodedBytes };
  if (kind === "extents") return { kind, ...message };
  for (const extent of extents) if (extent.held || extent.zero) theirs("an extent ahead without bytes");
  return { kind, ...message, stores };
}

function readObjectRow(reader: protobuf.Reader, text: Buffer): ObjectRow {
  let object = 0;
  let type = 0;
  let mode = 0;
  let uid = 0;
  let gid = 0;
  let mtimeUs = 0;
  let size = 0;
  let blockSize = 0;
  let target = "";
  let content = noBytes;
  let owner = "";
  let ownerGroup = "";
  let store = 0;
  while (reader.pos < reader.len) {
    const tag = reader.tag();
    switch (tag) {
      case 8:
        object = readNumber(reader);
        break;
      case 16:
        type = readNumber(reader);
        break;
      case 24:
        mode = readNumber(reader);
        break;
      case 32:
        uid = readNumber(reader);
        break;
      case 40:
        gid = readNumber(reader);
        break;
      case 48:
        mtimeUs = readSigned(reader);
        break;
      case 56:
        size = readNumber(reader);
        break;
      case 64:
        blockSize = readNumber(reader);
        break;
      case 74:
        target = readLatin1(reader, text);
        break;
      case 82:
        content = reader.bytes();
        break;
      case 90:
        owner = reader.string();
        break;
      case 98:
        ownerGroup = reader.string();
        break;
      case 104:
        store = readNumber(reader);
        break;
      default:
        reader.skipType(tag & 7, 0, tag >>> 3);
    }
  }
  const row = {
    object: object as ObjectId,
    type: typeNames[type] ?? theirs(`object of unknown type ${type}`),
    mode,
    uid,
    gid,
    mtimeUs,
    size,
    blockSize,
    target,
    content,
    store,
    ...(owner === "" ? none : { owner }),
    ...(ownerGroup === "" ? none : { ownerGroup }),
  };
  checkObjectRow(row, theirs);
  return row;
}

function readPathRow(reader: protobuf.Reader, text: Buffer): PathRow {
  let store = 0;
  let path = "";
  let object = 0;
  while (reader.pos < reader.len) {
    const tag = reader.tag();
    if (tag === 8) store = readNumber(reader);
    else if (tag === 18) path = readLatin1(reader, text);
    else if (tag === 24) object = readNumber(reader);
    else reader.skipType(tag & 7, 0, tag >>> 3);
  }
  const row = { store, path: path as StorePath, object: object === 0 ? undefined : (object as ObjectId) };
  checkPathRow(row, theirs);
  return row;
}

function readExtent(reader: protobuf.Reader): Extent {
  let object = 0;
  let offset = 0;
  let length = 0;
  let hashes = noBytes;
  let zero = false;
  let store = 0;
  let blockSize = 0;
  let fresh = false;
  let held = false;
  while (reader.pos < reader.len) {
    const tag = reader.tag();
    if (tag === 8) object = readNumber(reader);
    else if (tag === 16) offset = readNumber(reader);
    else if (tag === 24) length = readNumber(reader);
    else if (tag === 34) hashes = reader.bytes();
    else if (tag === 40) zero = reader.bool();
    else if (tag === 48) store = readNumber(reader);
    else if (tag === 56) blockSize = readNumber(reader);
    else if (tag === 64) fresh = reader.bool();
    else if (tag === 72) held = reader.bool();
    else reader.skipType(tag & 7, 0, tag >>> 3);
  }
  const extent = { object: object as ObjectId, offset, length, hashes, zero, store, blockSize, fresh, held };
  checkExtent(extent, theirs);
  return extent;
}

/** Reads one embedded message; nothing in it can reach past its end. */
function within<T>(reader: protobuf.Reader, text: Buffer, read: (reader: protobuf.Reader, text: Buffer) => T): T {
  const end = endOf(reader);
  const outer = reader.len;
  reader.len = end;
  const value = read(reader, text);
  reader.len = outer;
  return value;
}

/** Reads a length and returns where what has it ends. */
function endOf(reader: protobuf.Reader): number {
  const length = reader.uint32();
  const end = reader.pos + length;
  if (end > reader.len) theirs(`a field of ${length} bytes where ${reader.len - reader.pos} are left`);
  return end;
}

/** A varint as a number, without the Long that the library would make of it. */
function readNumber(reader: protobuf.Reader): number {
  const bytes = reader.buf;
  let value = 0;
  let scale = 1;
  for (let read = 0; read < 10; read++) {
    if (reader.pos >= reader.len) theirs("a number cut short");
    const byte = bytes[reader.pos++]!;
    value += (byte & 0x7f) * scale; // Exact up to 2^53, and never below it again.
    if (byte < 0x80) {
      if (value > Number.MAX_SAFE_INTEGER) theirs(`number ${value} is larger than this side can hold`);
      return value;
    }
    scale *= 128;
  }
  return theirs("a number of more than 10 bytes");
}

/** A zigzag number, whose lowest bit a double would lose when it is large: out of the library's two halves. */
function readSigned(reader: protobuf.Reader): number {
  const long: { readonly low: number; readonly high: number } = reader.sint64();
  return long.high * 2 ** 32 + (long.low >>> 0);
}

function readLatin1(reader: protobuf.Reader, text: Buffer): string {
  const end = endOf(reader);
  const value = text.toString("latin1", reader.pos, end);
  reader.pos = end;
  return value;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}

const noBytes: Uint8Array = new Uint8Array(0);
const none = {};

// --- the other messages, through the generated code ---------------------------------------------------------------

function toFields(message: Exclude<Message, { kind: "rows" | "extents" | "ahead" }>): { [name: string]: unknown } {
  switch (message.kind) {
    case "hello":
      return { ...message.hello };
    case "welcome":
      return { self: { ...message.hello } };
    case "cutEnd": {
      const stores = message.stores.map((store) => ({
        ...store,
        behind: store.behind.map((path) => Buffer.from(path, "latin1")),
      }));
      return { ...message, stores };
    }
    case "stagedRequest":
    case "touchedRequest":
      return { ...message, path: Buffer.from(message.path, "latin1") };
    case "refusal":
    case "ping":
    case "pong":
    case "roleAsked":
    case "roleHeld":
    case "sourceState":
    case "acknowledgement":
    case "cutRejected":
    case "stagedRuns":
    case "aheadRequest":
    case "aheadHeld":
    case "aheadRefused":
    case "touchedHeld":
    case "switchoverPrepare":
    case "switchoverReady":
    case "handover":
    case "handoverRevoke":
    case "handoverAnswer":
    case "serviceStarted":
    case "cutBegin":
    case "objectDropped":
    case "cutAborted":
      return { ...message };
    default:
      return unreachable(message);
  }
}

function fromFields(kind: Exclude<Kind, "rows" | "extents" | "ahead"> | Kind, fields: Fields): Message {
  switch (kind) {
    case "hello":
      return { kind, hello: helloOf(fields) };
    case "welcome":
      return { kind, hello: helloOf(fieldsOf(fields, "self")) };
    case "refusal":
      return { kind, code: textOf(fields, "code"), message: textOf(fields, "message"), hint: textOf(fields, "hint") };
    case "ping":
    case "pong":
    case "roleAsked":
    case "roleHeld":
      return { kind, nonce: numberOf(fields, "nonce") };
    case "sourceState":
      return {
        kind,
        taken: cutOf(fields, "taken"),
        backlogBytes: numberOf(fields, "backlogBytes"),
        waitingMs: numberOf(fields, "waitingMs"),
        paused: fields.paused === true,
        halted: textOf(fields, "halted"),
      };
    case "acknowledgement":
      return {
        kind,
        received: cutOf(fields, "received"),
        durable: cutOf(fields, "durable"),
        applied: cutOf(fields, "applied"),
        suspect: textOf(fields, "suspect"),
        unappliedBytes: numberOf(fields, "unappliedBytes"),
        damaged: (fields.damaged as readonly unknown[]).map((object) => Number(object) as ObjectId),
        ...reportOf(fields),
      };
    case "cutRejected":
      return {
        kind,
        cut: cutOf(fields, "cut"),
        code: textOf(fields, "code"),
        message: textOf(fields, "message"),
        remedy: textOf(fields, "remedy") as "retry" | "replan" | "stop",
        committed: cutOf(fields, "committed"),
      };
    case "stagedRequest":
      return {
        kind,
        object: numberOf(fields, "object") as ObjectId,
        store: textOf(fields, "store"),
        path: asBuffer(bytesOf(fields, "path")).toString("latin1") as StorePath,
        blockSize: numberOf(fields, "blockSize"),
      };
    case "objectDropped":
      return { kind, object: numberOf(fields, "object") as ObjectId };
    case "stagedRuns":
      return { kind, object: numberOf(fields, "object") as ObjectId, blockSize: numberOf(fields, "blockSize") };
    case "aheadRequest":
      return {
        kind,
        object: numberOf(fields, "object"),
        run: numberOf(fields, "run"),
        files: fields.files === true,
      };
    case "aheadHeld":
      return { kind, last: fields.last === true };
    case "aheadRefused":
      return { kind, reason: textOf(fields, "reason") };
    case "touchedRequest":
      return {
        kind,
        store: textOf(fields, "store"),
        path: asBuffer(bytesOf(fields, "path")).toString("latin1") as StorePath,
        object: numberOf(fields, "object"),
        run: numberOf(fields, "run"),
      };
    case "touchedHeld":
      return { kind, last: fields.last === true };
    case "switchoverPrepare":
    case "handoverRevoke":
      return { kind, id: textOf(fields, "id") };
    case "switchoverReady":
      return {
        kind,
        id: textOf(fields, "id"),
        obstacles: listOf(fields, "obstacles").map((obstacle) => ({
          code: textOf(obstacle, "code"),
          message: textOf(obstacle, "message"),
          hint: textOf(obstacle, "hint"),
        })),
        startMs: numberOf(fields, "startMs"),
      };
    case "handover":
      return { kind, id: textOf(fields, "id"), cut: cutOf(fields, "cut"), digest: bytesOf(fields, "digest") };
    case "handoverAnswer":
      return {
        kind,
        id: textOf(fields, "id"),
        accepted: fields.accepted === true,
        reason: textOf(fields, "reason"),
        epoch: bigintOf(fields, "epoch"),
        digest: bytesOf(fields, "digest"),
      };
    case "serviceStarted":
      return { kind, id: textOf(fields, "id"), ms: numberOf(fields, "ms"), reason: textOf(fields, "reason") };
    case "cutBegin":
      return {
        kind,
        cut: cutOf(fields, "cut"),
        base: cutOf(fields, "base"),
        incarnation: textOf(fields, "incarnation"),
        takenAtUs: numberOf(fields, "takenAtUs"),
        groupId: textOf(fields, "groupId"),
        stores: (fields.stores as readonly string[]).slice(),
      };
    case "cutEnd":
      return {
        kind,
        cut: cutOf(fields, "cut"),
        digest: bytesOf(fields, "digest"),
        stores: listOf(fields, "stores").map(cutStoreOf),
        coherency: textOf(fields, "coherency") as Coherency,
        paths: numberOf(fields, "paths"),
        objects: numberOf(fields, "objects"),
        payloadBytes: numberOf(fields, "payloadBytes"),
        freezeMs: numberOf(fields, "freezeMs"),
      };
    case "cutAborted":
      return { kind, cut: cutOf(fields, "cut"), reason: textOf(fields, "reason") };
    case "rows":
    case "extents":
    case "ahead":
      return theirs(`${kind} are not read this way`);
    default:
      return unreachable(kind);
  }
}

function helloOf(fields: Fields): Hello {
  return {
    major: numberOf(fields, "major"),
    minor: numberOf(fields, "minor"),
    features: (fields.features as readonly string[]).slice(),
    software: textOf(fields, "software"),
    node: textOf(fields, "node"),
    group: textOf(fields, "group"),
    groupId: textOf(fields, "groupId"),
    role: textOf(fields, "role"),
    epoch: bigintOf(fields, "epoch"),
    epochs: listOf(fields, "epochs").map((start) => ({
      epoch: bigintOf(start, "epoch"),
      firstSeq: bigintOf(start, "firstSeq"),
    })),
    incarnation: textOf(fields, "incarnation"),
    committed: cutOf(fields, "committed"),
    digest: bytesOf(fields, "digest"),
    stores: listOf(fields, "stores").map((store) => ({
      name: textOf(store, "name"),
      kind: textOf(store, "kind"),
      digest: bytesOf(store, "digest"),
    })),
    generation: bigintOf(fields, "generation"),
    epochSeen: bigintOf(fields, "epochSeen"),
    lastObject: numberOf(fields, "lastObject"),
  };
}

function cutStoreOf(fields: Fields): CutStore {
  return {
    name: textOf(fields, "name"),
    kind: textOf(fields, "kind"),
    consistency: textOf(fields, "consistency") as Consistency,
    position: textOf(fields, "position"),
    bytes: numberOf(fields, "bytes"),
    files: numberOf(fields, "files"),
    behind: (fields.behind as readonly Uint8Array[]).map((path) => asBuffer(path).toString("latin1") as StorePath),
  };
}

function cutOf(fields: Fields, name: string): CutId {
  const cut = fieldsOf(fields, name);
  return { epoch: bigintOf(cut, "epoch") as Epoch, seq: bigintOf(cut, "seq") as Seq };
}

function reportOf(fields: Fields): { readonly report?: ReplicaReport } {
  if (fields.report === undefined || fields.report === null) return {};
  const report = fieldsOf(fields, "report");
  return {
    report: {
      verifiedAtUs: numberOf(report, "verifiedAtUs"),
      differed: report.differed === true,
      forks: numberOf(report, "forks"),
      paused: report.paused === true,
    },
  };
}

/** An embedded message that is absent is never taken for an empty one. */
function fieldsOf(fields: Fields, name: string): Fields {
  const value = fields[name];
  return typeof value === "object" && value !== null ? (value as Fields) : theirs(`no ${name}`);
}

function listOf(fields: Fields, name: string): readonly Fields[] {
  return fields[name] as readonly Fields[];
}

function textOf(fields: Fields, name: string): string {
  return fields[name] as string;
}

function bigintOf(fields: Fields, name: string): bigint {
  return fields[name] as bigint;
}

function numberOf(fields: Fields, name: string): number {
  return Number(fields[name]);
}

function bytesOf(fields: Fields, name: string): Uint8Array {
  return Uint8Array.from(fields[name] as Uint8Array);
}
