import { randomBytes } from "node:crypto";
import { zstdCompressSync } from "node:zlib";
import { zeroHash } from "../../shared/manifest/block-hash.ts";
import { encodeMessage } from "../../shared/wire/codec.ts";
import type { BulkMessage, Extent, ObjectRow, PathRow } from "../../shared/wire/messages.ts";
import { epoch, type ObjectId, type StorePath, seq } from "../../shared/words.ts";
import { body, type RawField, rawEnvelope, rawMessage } from "./raw-message.ts";
import { blockSize, type Draft, hashesOf, type Part } from "./scripted-node.ts";

/** A cut that is right but for one thing. */
export interface CutCase {
  readonly name: string;
  /** Of the refusal, in the replica's log and in the answer. */
  readonly code: string;
  /** What the message must name. */
  readonly names: RegExp;
  /** The correct cut, where the usual one is of no use. */
  readonly draft?: (draft: Draft) => Draft;
  readonly spoil: (parts: Part[], draft: Draft) => readonly Part[];
}

/** What the cases spoil unless they bring their own: a rewritten file, a new one and a new directory. */
export function usualDraft(draft: Draft): Draft {
  return draft
    .rewrite("uploads", "docs/a.txt", randomBytes(3 * blockSize))
    .directory("uploads", "fresh")
    .file("uploads", "fresh/file", randomBytes(2 * blockSize));
}

type Kind = BulkMessage["kind"];
type Of<K extends Kind> = Extract<BulkMessage, { kind: K }>;

/** The first message of a kind, changed. */
function changed<K extends Kind>(parts: readonly Part[], kind: K, change: (message: Of<K>) => Of<K>): Part[] {
  const at = parts.findIndex(({ message }) => message.kind === kind);
  return parts.with(at, { ...parts[at]!, message: change(parts[at]!.message as Of<K>) });
}

function withPayload(parts: readonly Part[], change: (payload: Uint8Array) => Uint8Array): Part[] {
  const at = parts.findIndex(({ message }) => message.kind === "extents");
  return parts.with(at, { ...parts[at]!, payload: change(parts[at]!.payload!) });
}

function withExtent(parts: readonly Part[], change: (extent: Extent) => Extent): Part[] {
  return changed(parts, "extents", (message) => ({ ...message, extents: message.extents.map(change) }));
}

function withObject(parts: readonly Part[], at: number, change: (row: ObjectRow) => ObjectRow): Part[] {
  return changed(parts, "rows", (message) => ({
    ...message,
    objects: message.objects.with(at, change(message.objects[at]!)),
  }));
}

/** Also counted in the cut's end, so that nothing else is wrong. */
function withMoreRows(parts: readonly Part[], objects: readonly ObjectRow[], paths: readonly PathRow[]): Part[] {
  const more = changed(parts, "rows", (message) => ({
    ...message,
    objects: [...message.objects, ...objects],
    paths: [...message.paths, ...paths],
  }));
  return changed(more, "cutEnd", (message) => ({
    ...message,
    objects: message.objects + objects.length,
    paths: message.paths + paths.length,
  }));
}

/** In the place of the first message of a kind, what only other programs would send. */
function raw(parts: readonly Part[], kind: Kind, header: Uint8Array): Part[] {
  const at = parts.findIndex(({ message }) => message.kind === kind);
  return parts.with(at, { ...parts[at]!, raw: header });
}

function before(parts: readonly Part[], kind: Kind, ...more: Part[]): Part[] {
  const at = parts.findIndex(({ message }) => message.kind === kind);
  return parts.toSpliced(at, 0, ...more);
}

function rawExtent(fields: readonly RawField[], more: readonly RawField[] = []): Uint8Array {
  return rawEnvelope(body.extents, [[1, rawMessage(fields)], ...more]);
}

function rawObject(fields: readonly RawField[]): Uint8Array {
  return rawEnvelope(body.rows, [[1, rawMessage(fields)]]);
}

function zeroExtent(object: number, change: Partial<Extent> = {}): Part {
  const extent: Extent = {
    object: object as ObjectId,
    offset: 0,
    length: blockSize,
    hashes: new Uint8Array(0),
    zero: true,
    store: 0,
    blockSize,
    fresh: true,
    held: false,
    ...change,
  };
  return { message: { kind: "extents", extents: [extent], encoding: "plain", decodedBytes: 0 } };
}

function fileRow(draft: Draft, object: number, change: Partial<ObjectRow> = {}): ObjectRow {
  return {
    ...draft.row(draft.object("uploads", "docs/b.txt")),
    object: object as ObjectId,
    size: 0,
    content: zeroHash,
    ...change,
  };
}

function pathRow(path: string, object: number | undefined, store = 0): PathRow {
  return { store, path: path as StorePath, object: object as ObjectId | undefined };
}

const damaged = "CUT_DAMAGED";
const malformed = "CUT_MALFORMED";
const violation = "PROTOCOL_VIOLATION";
const path = "PATH_REFUSED";
const sender = "SENDER_REFUSED";

const payloads: readonly CutCase[] = [
  {
    name: "a payload shorter than its extents",
    code: damaged,
    names: /payload of 12287 bytes is shorter than its extents/,
    spoil: (parts) => withPayload(parts, (payload) => payload.subarray(0, -1)),
  },
  {
    name: "a payload longer than its extents",
    code: damaged,
    names: /payload of 12289 bytes, its extents take 12288/,
    spoil: (parts) => withPayload(parts, (payload) => Buffer.concat([payload, Buffer.of(1)])),
  },
  {
    name: "a block that does not have its hash",
    code: damaged,
    names: /block 1 of object 3 does not have its hash/,
    spoil: (parts) => withPayload(parts, (payload) => payload.with(blockSize + 5, payload[blockSize + 5]! ^ 1)),
  },
  {
    name: "a zero extent with a payload",
    code: damaged,
    names: /its extents take 0/,
    spoil: (parts) => withExtent(parts, (extent) => ({ ...extent, zero: true, hashes: new Uint8Array(0) })),
  },
  {
    name: "a zstd bomb that decodes to 256 MiB where 4 KiB are announced",
    code: damaged,
    names: /cannot be decoded/,
    spoil: (parts) =>
      changed(
        withPayload(parts, () => zstdCompressSync(new Uint8Array(256 * 1024 * 1024))),
        "extents",
        (message) => ({ ...message, encoding: "zstd", decodedBytes: 4096 }),
      ),
  },
  {
    name: "a payload that is no zstd",
    code: damaged,
    names: /cannot be decoded/,
    spoil: (parts) => changed(parts, "extents", (message) => ({ ...message, encoding: "zstd", decodedBytes: 12288 })),
  },
  {
    name: "a payload that decodes to less than it says",
    code: damaged,
    names: /payload of 12288 bytes that says 12289/,
    spoil: (parts) =>
      changed(withPayload(parts, zstdCompressSync), "extents", (message) => ({
        ...message,
        encoding: "zstd",
        decodedBytes: 12289,
      })),
  },
  {
    name: "a payload that decodes to more than a frame may hold",
    code: damaged,
    names: /says it decodes to 67108864 bytes/,
    spoil: (parts) =>
      changed(withPayload(parts, zstdCompressSync), "extents", (message) => ({
        ...message,
        encoding: "zstd",
        decodedBytes: 64 * 1024 * 1024,
      })),
  },
  {
    name: "an encoding that does not exist",
    code: violation,
    names: /unknown payload encoding/,
    spoil: (parts) => raw(parts, "extents", rawEnvelope(body.extents, [[2, 7]])),
  },
];

const headers: readonly CutCase[] = [
  {
    name: "a message that nobody knows within a cut",
    code: violation,
    names: /no message that this version knows/,
    spoil: (parts) => raw(parts, "rows", rawEnvelope(200, [[1, "what is this?"]])),
  },
  {
    name: "a header of garbage",
    code: violation,
    names: /malformed|wire type|header|field of/,
    spoil: (parts) => raw(parts, "rows", Buffer.from("8a018affffffff", "hex")),
  },
  {
    name: "an empty header",
    code: violation,
    names: /no message/,
    spoil: (parts) => raw(parts, "rows", new Uint8Array(0)),
  },
  {
    name: "a header with two messages",
    code: violation,
    names: /both rows and cutEnd/,
    spoil: (parts) =>
      raw(
        parts,
        "rows",
        rawMessage([
          [17, new Uint8Array(0)],
          [20, new Uint8Array(0)],
        ]),
      ),
  },
  {
    name: "a row cut short",
    code: violation,
    names: /field of 100 bytes where/,
    spoil: (parts) => raw(parts, "rows", Buffer.from("8a01020a64", "hex")),
  },
  {
    name: "a control message as part of a cut",
    code: violation,
    names: /a ping came as part of a cut/,
    spoil: (parts) => raw(parts, "rows", encodeMessage({ kind: "ping", nonce: 1 })),
  },
];

const order: readonly CutCase[] = [
  {
    name: "rows outside a cut",
    code: malformed,
    names: /rows outside a cut/,
    spoil: (parts) => parts.slice(-2),
  },
  {
    name: "extents outside a cut",
    code: malformed,
    names: /extents outside a cut/,
    spoil: (parts) => parts.slice(1),
  },
  {
    name: "an end outside a cut",
    code: malformed,
    names: /cutEnd outside a cut/,
    spoil: (parts) => parts.slice(-1),
  },
  {
    name: "an object dropped outside a cut",
    code: malformed,
    names: /objectDropped outside a cut/,
    spoil: () => [{ message: { kind: "objectDropped", object: 3 as ObjectId } }],
  },
  {
    name: "a begin within a cut",
    code: malformed,
    names: /cut 1\.\d+ begins within 1\.\d+/,
    spoil: (parts) => before(parts, "rows", parts[0]!),
  },
  {
    name: "the end of another cut",
    code: malformed,
    names: /ends as 1\.999/,
    spoil: (parts) => changed(parts, "cutEnd", (message) => ({ ...message, cut: { ...message.cut, seq: seq(999) } })),
  },
  ...(["paths", "objects", "payloadBytes"] as const).map(
    (what): CutCase => ({
      name: `an end that counts other ${what}`,
      code: damaged,
      names: /its end says/,
      spoil: (parts) => changed(parts, "cutEnd", (message) => ({ ...message, [what]: message[what] + 1 })),
    }),
  ),
  {
    name: "rows that were lost on the way",
    code: damaged,
    names: /has 0 objects, 0 paths|extents of object/,
    spoil: (parts) => parts.filter(({ message }) => message.kind !== "rows"),
  },
  {
    name: "another digest of the set",
    code: damaged,
    names: /the set's digest after cut 1\.\d+ comes to/,
    spoil: (parts) => changed(parts, "cutEnd", (message) => ({ ...message, digest: new Uint8Array(32).fill(7) })),
  },
  {
    name: "another digest of a content",
    code: damaged,
    names: /content of object 3 comes to/,
    spoil: (parts) => withObject(parts, 0, (row) => ({ ...row, content: new Uint8Array(32).fill(7) })),
  },
  {
    name: "extents of an object whose row never comes",
    code: malformed,
    names: /extents of object \d+ and no row of it/,
    spoil: (parts, draft) => before(parts, "rows", zeroExtent(draft.nextObject)),
  },
  {
    name: "an object dropped after its row",
    code: damaged,
    names: /object 3 is dropped after its row/,
    spoil: (parts) => before(parts, "cutEnd", { message: { kind: "objectDropped", object: 3 as ObjectId } }),
  },
  {
    name: "an end that says nothing of the stores",
    code: malformed,
    names: /ends with other stores/,
    spoil: (parts) => changed(parts, "cutEnd", (message) => ({ ...message, stores: [] })),
  },
];

const extents: readonly CutCase[] = [
  {
    name: "a hash list that is too short",
    code: violation,
    names: /hashes of 32 bytes where its blocks have 96/,
    spoil: (parts) =>
      raw(
        parts,
        "extents",
        rawExtent([
          [1, 3],
          [3, 3 * blockSize],
          [4, new Uint8Array(32)],
          [7, blockSize],
        ]),
      ),
  },
  {
    name: "a zero extent with hashes",
    code: violation,
    names: /hashes of 32 bytes where its blocks have 0/,
    spoil: (parts) =>
      raw(
        parts,
        "extents",
        rawExtent([
          [1, 3],
          [3, blockSize],
          [4, new Uint8Array(32)],
          [5, true],
          [7, blockSize],
        ]),
      ),
  },
  {
    name: "a negative offset",
    code: violation,
    names: /larger than this side can hold/,
    spoil: (parts) =>
      raw(
        parts,
        "extents",
        rawExtent([
          [1, 3],
          [2, -4096],
          [3, 4096],
          [5, true],
          [7, blockSize],
        ]),
      ),
  },
  {
    name: "an extent that ends beyond 2^53",
    code: violation,
    names: /end of an extent/,
    spoil: (parts) =>
      raw(
        parts,
        "extents",
        rawExtent([
          [1, 3],
          [2, 2n ** 53n - 4096n],
          [3, 8192],
          [5, true],
          [7, blockSize],
        ]),
      ),
  },
  {
    name: "an offset that is not at a block",
    code: malformed,
    names: /extent at 100 of 4096 bytes/,
    spoil: (parts) => before(parts, "rows", zeroExtent(3, { offset: 100, fresh: false })),
  },
  {
    name: "an extent without bytes",
    code: violation,
    names: /extent of no bytes/,
    spoil: (parts) =>
      raw(
        parts,
        "extents",
        rawExtent([
          [1, 3],
          [5, true],
          [7, blockSize],
        ]),
      ),
  },
  {
    name: "block size 0",
    code: violation,
    names: /without a block size/,
    spoil: (parts) =>
      raw(
        parts,
        "extents",
        rawExtent([
          [1, 3],
          [3, 4096],
          [5, true],
        ]),
      ),
  },
  ...[1, 256, 4097, 2 ** 23, 2 ** 31].map(
    (size): CutCase => ({
      name: `blocks of ${size} bytes`,
      code: malformed,
      names: new RegExp(`block size ${size}$`),
      spoil: (parts, draft) => before(parts, "rows", zeroExtent(draft.nextObject, { blockSize: size, length: size })),
    }),
  ),
  {
    name: "an extent with another block size than its object's",
    code: malformed,
    names: /extent of object 3: it is a file with blocks of 4096/,
    spoil: (parts) => before(parts, "rows", zeroExtent(3, { blockSize: 512, fresh: false })),
  },
  {
    name: "extents of a new object with two block sizes",
    code: malformed,
    names: /changes its block size/,
    spoil: (parts, draft) =>
      before(
        parts,
        "rows",
        zeroExtent(draft.nextObject, { blockSize: 512 }),
        zeroExtent(draft.nextObject, { blockSize: 1024, offset: 1024 }),
      ),
  },
  {
    name: "a new object whose row has another block size than its extents",
    code: malformed,
    names: /changes its block size from 4096 to 512/,
    draft: (draft) => draft.file("uploads", "fresh", randomBytes(400)),
    spoil: (parts) => withObject(parts, 0, (row) => ({ ...row, blockSize: 512 })),
  },
  {
    name: "an extent of 2^40 bytes",
    code: malformed,
    names: /extent at 0 of 1099511627776 bytes/,
    spoil: (parts, draft) => before(parts, "rows", zeroExtent(draft.nextObject, { length: 2 ** 40 })),
  },
  {
    name: "a zero extent of 2^38 bytes in the largest blocks",
    code: malformed,
    names: /end at 274877906944/,
    draft: (draft) => draft,
    spoil: (parts, draft) => [
      parts[0]!,
      zeroExtent(draft.nextObject, { length: 2 ** 38, blockSize: 2 ** 22 }),
      {
        message: {
          kind: "rows",
          objects: [fileRow(draft, draft.nextObject, { blockSize: 2 ** 22, size: 1 })],
          paths: [pathRow("huge", draft.nextObject)],
        },
      },
      parts.at(-1)!,
    ],
  },
  {
    name: "an extent beyond the largest file",
    code: malformed,
    names: /extent at 4503599627370496 of 4096 bytes/,
    spoil: (parts, draft) => before(parts, "rows", zeroExtent(draft.nextObject, { offset: 2 ** 52 })),
  },
  {
    name: "an extent beyond its object's end",
    code: malformed,
    names: /extents of object 3 end at 16384, its row says 12288/,
    spoil: (parts) => before(parts, "rows", zeroExtent(3, { offset: 3 * blockSize, fresh: false })),
  },
  {
    name: "an extent of half a block in the middle of its object",
    code: malformed,
    names: /extents of object 3 end within a block at 100/,
    spoil: (parts) => {
      const half = randomBytes(100);
      const extent: Extent = {
        object: 3 as ObjectId,
        offset: 0,
        length: half.length,
        hashes: hashesOf(half, blockSize),
        zero: false,
        store: 0,
        blockSize,
        fresh: false,
        held: false,
      };
      return before(parts, "rows", {
        message: { kind: "extents", extents: [extent], encoding: "plain", decodedBytes: 0 },
        payload: half,
      });
    },
  },
  {
    name: "a million blocks of zeros in one small message",
    code: malformed,
    names: /blocks in one message/,
    spoil: (parts, draft) => {
      const one = zeroExtent(draft.nextObject, { length: 65536 * 512, blockSize: 512 });
      const message = one.message as Of<"extents">;
      return before(parts, "rows", {
        message: { ...message, extents: Array.from({ length: 20_000 }, () => message.extents[0]!) },
      });
    },
  },
  {
    name: "extents of ever more objects without rows",
    code: malformed,
    names: /objects with extents and no row/,
    spoil: (parts, draft) => [
      parts[0]!,
      ...Array.from({ length: 20 }, (_, frame): Part => {
        const items = Array.from({ length: 1000 }, (_, index) => {
          const { message } = zeroExtent(draft.nextObject + frame * 1000 + index);
          return (message as Of<"extents">).extents[0]!;
        });
        return { message: { kind: "extents", extents: items, encoding: "plain", decodedBytes: 0 } };
      }),
    ],
  },
  {
    name: "an extent of a directory",
    code: malformed,
    names: /extent of object 2: it is a directory/,
    spoil: (parts) => before(parts, "rows", zeroExtent(2, { fresh: false })),
  },
  {
    name: "an extent of a known object that says that it is new",
    code: malformed,
    names: /extent of object 3 says new: it is not/,
    spoil: (parts) => withExtent(parts, (extent) => ({ ...extent, fresh: true })),
  },
  {
    name: "an extent of a new object that says that it is known",
    code: malformed,
    names: /says known: it is not/,
    spoil: (parts, draft) => before(parts, "rows", zeroExtent(draft.nextObject, { fresh: false })),
  },
  {
    name: "an extent that is held and never was staged",
    code: damaged,
    names: /block 0 of object \d+ is not staged/,
    spoil: (parts, draft) =>
      before(
        parts,
        "rows",
        zeroExtent(draft.nextObject, { zero: false, held: true, hashes: new Uint8Array(32).fill(1) }),
      ),
  },
  {
    name: "a held extent of an object that the copy has",
    code: malformed,
    names: /extent of object 3 is held/,
    spoil: (parts) =>
      before(parts, "rows", zeroExtent(3, { zero: false, held: true, fresh: false, hashes: new Uint8Array(32) })),
  },
  {
    name: "extents of one new object in two stores",
    code: malformed,
    names: /object \d+ .* store/,
    draft: (draft) => draft.file("uploads", "fresh", randomBytes(700_000)),
    spoil: (parts) => withExtent(parts, (extent) => ({ ...extent, store: 1 })),
  },
  {
    name: "large extents of a known object in another store",
    code: malformed,
    names: /object 8 .* store/,
    draft: (draft) => draft.rewrite("uploads", "big", randomBytes(700_000)),
    spoil: (parts) => withExtent(parts, (extent) => ({ ...extent, store: 1 })),
  },
];

const objects: readonly CutCase[] = [
  {
    name: "a file that turns into a directory under its number",
    code: malformed,
    names: /object 3 turns from a file into a directory/,
    spoil: (parts) => withObject(parts, 0, (row) => ({ ...row, type: "directory", blockSize: 0 })),
  },
  {
    name: "another block size in the row of a known object",
    code: malformed,
    names: /object 3 changes its block size from 4096 to 8192/,
    spoil: (parts) => withObject(parts, 0, (row) => ({ ...row, blockSize: 8192 })),
  },
  {
    name: "a size of 2^53",
    code: violation,
    names: /larger than this side can hold/,
    spoil: (parts) =>
      raw(
        parts,
        "rows",
        rawObject([
          [1, 50],
          [2, 1],
          [7, 2n ** 53n],
          [8, 4096],
          [10, zeroHash],
        ]),
      ),
  },
  {
    name: "a size of 2^53 - 1, which no filesystem holds",
    code: malformed,
    names: /object \d+ .* size 9007199254740991/,
    spoil: (parts, draft) =>
      withMoreRows(parts, [fileRow(draft, draft.nextObject, { size: 2 ** 53 - 1 })], [pathRow("x", draft.nextObject)]),
  },
  {
    name: "object 0",
    code: violation,
    names: /object 0 is not a safe number/,
    spoil: (parts) =>
      raw(
        parts,
        "rows",
        rawObject([
          [1, 0],
          [2, 2],
          [10, zeroHash],
        ]),
      ),
  },
  {
    name: "object 2^53",
    code: violation,
    names: /larger than this side can hold/,
    spoil: (parts) =>
      raw(
        parts,
        "rows",
        rawObject([
          [1, 2n ** 53n],
          [2, 2],
          [10, zeroHash],
        ]),
      ),
  },
  {
    name: "a type that does not exist",
    code: violation,
    names: /unknown type 9/,
    spoil: (parts) =>
      raw(
        parts,
        "rows",
        rawObject([
          [1, 50],
          [2, 9],
          [10, zeroHash],
        ]),
      ),
  },
  {
    name: "mode 0o177777",
    code: violation,
    names: /mode 65535/,
    spoil: (parts) =>
      raw(
        parts,
        "rows",
        rawObject([
          [1, 50],
          [2, 2],
          [3, 0o177777],
          [10, zeroHash],
        ]),
      ),
  },
  ...(
    [
      ["with a NUL in its target", "/etc/\0passwd", /symlink with a target/],
      ["without a target", "", /symlink with a target of 0 bytes/],
      ["with a target of 1 MB", "x".repeat(1_000_000), /symlink with a target of 1000000 bytes/],
    ] as const
  ).map(
    ([what, target, names]): CutCase => ({
      name: `a symlink ${what}`,
      code: malformed,
      names,
      spoil: (parts, draft) =>
        withMoreRows(
          parts,
          [fileRow(draft, draft.nextObject, { type: "symlink", blockSize: 0, target })],
          [pathRow("link", draft.nextObject)],
        ),
    }),
  ),
  {
    name: "the number of an object that has died",
    code: malformed,
    names: /object 9 .*again/,
    spoil: (parts, draft) => withMoreRows(parts, [fileRow(draft, 9)], [pathRow("again", 9)]),
  },
  {
    name: "a path to an object that nobody knows",
    code: malformed,
    names: /leads to object 12345, which is unknown/,
    spoil: (parts) => withMoreRows(parts, [], [pathRow("fresh/ghost", 12345)]),
  },
  {
    name: "a path to an object that has died",
    code: malformed,
    names: /leads to object 9, which is unknown/,
    spoil: (parts) => withMoreRows(parts, [], [pathRow("fresh/ghost", 9)]),
  },
  {
    name: "an object in two stores",
    code: malformed,
    names: /object 10 .* store/,
    spoil: (parts) => withMoreRows(parts, [], [pathRow("fresh/database", 10)]),
  },
];

const cuts: readonly CutCase[] = [
  {
    name: "a cut that is not above its base",
    code: malformed,
    names: /does not come after its base/,
    spoil: (parts) => changed(parts, "cutBegin", (message) => ({ ...message, cut: message.base })),
  },
  {
    name: "a base that is not held",
    code: "BASE_MISMATCH",
    names: /replica holds cut 1\.\d+, received a cut based on 1\.1$/,
    spoil: (parts) => changed(parts, "cutBegin", (message) => ({ ...message, base: { epoch: epoch(1), seq: seq(1) } })),
  },
  {
    name: "a first cut for a replica that has one",
    code: "BASE_MISMATCH",
    names: /received a cut based on 0\.0$/,
    spoil: (parts) => changed(parts, "cutBegin", (message) => ({ ...message, base: { epoch: epoch(0), seq: seq(0) } })),
  },
  ...[2n ** 53n, 2n ** 63n, 2n ** 64n - 1n].map(
    (number): CutCase => ({
      name: `cut number ${number}`,
      code: malformed,
      names: /out of range/,
      spoil: (parts) =>
        changed(parts, "cutBegin", (message) => ({ ...message, cut: { ...message.cut, seq: seq(number) } })),
    }),
  ),
  ...[0n, 2n, 2n ** 64n - 1n].map(
    (number): CutCase => ({
      name: `a cut of epoch ${number}`,
      code: sender,
      names: new RegExp(`is of epoch ${number}, this replica follows epoch 1$`),
      spoil: (parts) =>
        changed(parts, "cutBegin", (message) => ({ ...message, cut: { ...message.cut, epoch: epoch(number) } })),
    }),
  ),
  {
    name: "a cut of another incarnation than the session's",
    code: sender,
    names: /is of incarnation ffffffffffffffff, the session is of/,
    spoil: (parts) => changed(parts, "cutBegin", (message) => ({ ...message, incarnation: "f".repeat(16) })),
  },
  {
    name: "a cut of another group",
    code: sender,
    names: /is of group ffffffffffffffffffffffffffffffff, this is/,
    spoil: (parts) => changed(parts, "cutBegin", (message) => ({ ...message, groupId: "f".repeat(32) })),
  },
  {
    name: "a store that is not configured",
    code: malformed,
    names: /store "etc"/,
    spoil: (parts) => changed(parts, "cutBegin", (message) => ({ ...message, stores: ["uploads", "db", "etc"] })),
  },
  {
    name: "the number of a store that the cut does not have",
    code: malformed,
    names: /store 2 of 2/,
    spoil: (parts) => withMoreRows(parts, [], [pathRow("a", 3, 2)]),
  },
];

/** A new directory under a name that must not be. */
function namedPath(name: string, value: string, names: RegExp, code = path): CutCase {
  return {
    name: `the path ${name}`,
    code,
    names,
    spoil: (parts, draft) =>
      withMoreRows(
        parts,
        [fileRow(draft, draft.nextObject, { type: "directory", blockSize: 0 })],
        [pathRow(value, draft.nextObject)],
      ),
  };
}

const paths: readonly CutCase[] = [
  namedPath('".."', "..", /component "\.\."/),
  namedPath('"docs/../../outside"', "docs/../../outside", /component "\.\."/),
  namedPath('"."', ".", /component "\."/),
  namedPath('"docs/./x"', "docs/./x", /component "\."/),
  namedPath("that is absolute", "/etc/cron.d/x", /absolute path: "\/etc\/cron\.d\/x"/),
  namedPath("with an empty component", "docs//x", /component ""/),
  namedPath("with a slash at its end", "docs/", /component ""/),
  namedPath("with a NUL", "docs/a\0b", /NUL byte/),
  namedPath("of 3000 NULs", "\0".repeat(3000), /NUL byte/),
  namedPath("with a component of 256 bytes", "x".repeat(256), /name of 256 bytes/),
  namedPath("of 5000 bytes", "x/".repeat(2500), /path of 5000 bytes/),
  namedPath("of the private directory", ".understudy", /private directory/),
  namedPath("in the private directory", ".understudy/app.uploads/staging/o1", /private directory/),
  namedPath("below a file", "docs/b.txt/x", /below "docs\/b\.txt", which is no directory/, malformed),
  namedPath("below a symlink that leads outside", "out/x", /below "out", which is no directory/, malformed),
  namedPath("below nothing", "nowhere/x", /below "nowhere", which is no directory/, malformed),
  namedPath("below a directory that was removed", "gone/x", /below "gone", which is no directory/, malformed),
  {
    name: "a file as the root of a store",
    code: malformed,
    names: /the root of store uploads is a file/,
    spoil: (parts) => withMoreRows(parts, [], [pathRow("", 4)]),
  },
  {
    name: "the root of a store removed",
    code: malformed,
    names: /the root of a store cannot go/,
    spoil: (parts) => withMoreRows(parts, [], [pathRow("", undefined)]),
  },
  {
    name: "a directory removed that has children left",
    code: malformed,
    names: /removes directory "docs\/sub" and leaves "c\.txt"/,
    spoil: (parts) => withMoreRows(parts, [], [pathRow("docs/sub", undefined)]),
  },
  {
    name: "a directory replaced by a file that has children left",
    code: malformed,
    names: /removes directory "docs\/sub" and leaves "c\.txt"/,
    spoil: (parts, draft) =>
      withMoreRows(parts, [fileRow(draft, draft.nextObject)], [pathRow("docs/sub", draft.nextObject)]),
  },
  {
    name: "a symlink in the place of a directory with children",
    code: malformed,
    names: /removes directory "docs" and leaves/,
    spoil: (parts, draft) =>
      withMoreRows(
        parts,
        [fileRow(draft, draft.nextObject, { type: "symlink", target: "/etc", blockSize: 0 })],
        [pathRow("docs", draft.nextObject)],
      ),
  },
  {
    name: "the path of a file in a store that is a single file",
    code: malformed,
    names: /store db is a single file, received a path "app\.db-journal"/,
    spoil: (parts, draft) =>
      withMoreRows(parts, [fileRow(draft, draft.nextObject)], [pathRow("app.db-journal", draft.nextObject, 1)]),
  },
  {
    name: "a symlink as the single file of a store",
    code: malformed,
    names: /store db is a single file, received a symlink/,
    spoil: (parts, draft) =>
      withMoreRows(
        parts,
        [fileRow(draft, draft.nextObject, { type: "symlink", target: "/etc/passwd", blockSize: 0, store: 1 })],
        [pathRow("database", draft.nextObject, 1)],
      ),
  },
];

export const cutCases: readonly CutCase[] = [
  ...payloads,
  ...headers,
  ...order,
  ...extents,
  ...objects,
  ...cuts,
  ...paths,
];
