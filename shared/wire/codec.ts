import { readFileSync } from "node:fs";
import protobuf from "protobufjs";
import { assert, ProtocolViolation } from "../errors.ts";
import { decodeExtents, decodeRows, endOf, writeBulk } from "./bulk-codec.ts";
import { type Fields, fromFields, toFields } from "./message-fields.ts";
import { checkMessage, ours, theirs } from "./message-rules.ts";
import type { Message } from "./messages.ts";

/**
 * Between the typed messages and the Envelope of `proto/understudy.proto`; only this and bulk-codec.ts import protobufjs.
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

/** The header of a frame. @throws {InvariantBroken} for a value that the wire cannot carry or the peer would refuse. */
export function encodeMessage(message: Message): Uint8Array {
  const writer = protobuf.Writer.create();
  writer.uint32(tags.get(message.kind)!).fork();
  if (message.kind === "rows" || message.kind === "extents" || message.kind === "ahead") {
    writeBulk(writer, message);
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
