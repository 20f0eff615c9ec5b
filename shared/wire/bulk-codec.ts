import protobuf from "protobufjs";
import type { ObjectId, StorePath } from "../words.ts";
import { checkExtent, checkMessage, checkObjectRow, checkPathRow, ours, theirs } from "./message-rules.ts";
import type { Extent, Message, ObjectRow, ObjectType, PathRow, PayloadEncoding } from "./messages.ts";

/** Rows and extents, by hand: see codec.ts. */
const typeNumbers: Readonly<Record<ObjectType, number>> = { file: 1, directory: 2, symlink: 3 };
const typeNames: readonly (ObjectType | undefined)[] = [undefined, "file", "directory", "symlink"];
const encodingNumbers: Readonly<Record<PayloadEncoding, number>> = { plain: 0, zstd: 1 };
const encodingNames: readonly PayloadEncoding[] = ["plain", "zstd"];

const noBytes: Uint8Array = new Uint8Array(0);
const none = {};

/** The body of a message of many rows or extents. */
export function writeBulk(
  writer: protobuf.Writer,
  message: Extract<Message, { kind: "rows" | "extents" | "ahead" }>,
): void {
  if (message.kind === "rows") {
    for (const row of message.objects) writeObjectRow(writer, row);
    for (const row of message.paths) writePathRow(writer, row);
    return;
  }
  checkMessage(message, ours);
  for (const extent of message.extents) writeExtent(writer, extent);
  if (message.encoding !== "plain") writer.uint32(16).uint32(encodingNumbers[message.encoding]);
  if (message.decodedBytes !== 0) writer.uint32(24).uint32(message.decodedBytes);
  if (message.kind === "ahead") for (const store of message.stores) writer.uint32(34).string(store);
}

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

export function decodeRows(body: Uint8Array): Message {
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

export function decodeExtents(kind: "extents" | "ahead", body: Uint8Array): Message {
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
export function endOf(reader: protobuf.Reader): number {
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
