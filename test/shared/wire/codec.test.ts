import { readFileSync } from "node:fs";
import { expect } from "chai";
import fc from "fast-check";
import protobuf from "protobufjs";
import { InvariantBroken, ProtocolViolation } from "../../../shared/errors.ts";
import { decodeMessage, encodeMessage, frameKindOf } from "../../../shared/wire/codec.ts";
import type { Message } from "../../../shared/wire/messages.ts";
import { epoch, type ObjectId, type StorePath, seq } from "../../../shared/words.ts";
import { cpuMsOf } from "../../cpu-time.ts";
import { anyMessage } from "./sample-messages.ts";

const envelope = protobuf
  .parse(readFileSync(new URL("../../../proto/understudy.proto", import.meta.url), "utf8"))
  .root.lookupType("understudy.v1.Envelope");
const decode = (header: Uint8Array) => decodeMessage(new Uint8Array(header));
const encoded = (fields: { [name: string]: unknown }) => envelope.encode(envelope.fromObject(fields)).finish();
const cut = { epoch: epoch(1), seq: seq(2) };
const cutFields = { epoch: 1, seq: 2 };
const file = {
  object: 1,
  type: 1,
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtimeUs: -1,
  size: 1,
  blockSize: 4096,
  content: new Uint8Array(32),
};
const extent = { object: 1, offset: 0, length: 4096, blockSize: 4096, hashes: new Uint8Array(32) };

describe("wire codec", () => {
  it("gives back every message as it was, with 64-bit numbers up to 2^64-1", () => {
    fc.assert(
      fc.property(anyMessage, (message) => {
        expect(decode(encodeMessage(message))).to.deep.equal(message);
      }),
      { numRuns: 1500 },
    );
  });

  it("writes by hand what the schema says, byte for byte where the library's own writer is asked", () => {
    fc.assert(
      fc.property(anyMessage, (message) => {
        const bytes = encodeMessage(message);
        // Parsed and written again by the generated code alone: a wrong field number or wire type would be lost here.
        expect(Buffer.from(envelope.encode(envelope.decode(bytes)).finish())).to.deep.equal(Buffer.from(bytes));
      }),
      { numRuns: 500 },
    );
  });

  it("reads by hand the fields that the schema names", () => {
    const message = decode(
      encoded({
        rows: {
          objects: [
            {
              ...file,
              type: 3,
              blockSize: 0,
              target: Buffer.from("caf\xe9", "latin1"),
              owner: "o",
              ownerGroup: "g",
              store: 7,
            },
          ],
          paths: [{ store: 3, path: Buffer.from("a/\xff", "latin1"), object: 9 }, { path: Buffer.from("gone") }],
        },
      }),
    );
    expect(message).to.deep.equal({
      kind: "rows",
      objects: [{ ...file, type: "symlink", blockSize: 0, target: "caf\xe9", owner: "o", ownerGroup: "g", store: 7 }],
      paths: [
        { store: 3, path: "a/\xff", object: 9 },
        { store: 0, path: "gone", object: undefined },
      ],
    });
    const extents = decode(
      encoded({
        extents: {
          extents: [
            { ...extent, store: 2, fresh: true, held: true },
            { ...extent, hashes: [], zero: true },
          ],
          encoding: 1,
          decodedBytes: 4096,
        },
      }),
    );
    expect(extents).to.deep.equal({
      kind: "extents",
      extents: [
        { ...extent, zero: false, store: 2, fresh: true, held: true },
        { ...extent, hashes: new Uint8Array(0), zero: true, store: 0, fresh: false, held: false },
      ],
      encoding: "zstd",
      decodedBytes: 4096,
    });
  });

  it("tolerates fields that a newer minor version added, in every message", () => {
    const unknown = [0xf8, 0x7f, 0x05, 0xfa, 0x7f, 0x02, 0x01, 0x02]; // Fields 2047: a varint, then bytes.
    fc.assert(
      fc.property(anyMessage, (message) => {
        const bytes = encodeMessage(message);
        expect(decode(Buffer.concat([Uint8Array.from(unknown), bytes, Uint8Array.from(unknown)]))).to.deep.equal(
          message,
        );
        const reader = new protobuf.Reader(bytes);
        const tag = reader.uint32();
        const body = Buffer.concat([reader.bytes(), Uint8Array.from(unknown)]);
        const extended = protobuf.Writer.create().uint32(tag).bytes(body).finish();
        expect(decode(extended)).to.deep.equal(message);
      }),
      { numRuns: 300 },
    );
  });

  it("says which messages the worker must decode", () => {
    expect(frameKindOf({ kind: "ping", nonce: 1 })).to.equal("control");
    expect(frameKindOf({ kind: "cutAborted", cut, reason: "" })).to.equal("bulk");
  });

  it("throws nothing but ProtocolViolation for random bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
        onlyViolations(bytes);
      }),
      { numRuns: 20_000 },
    );
  });

  it("throws nothing but ProtocolViolation for valid headers with bytes changed, cut off or repeated", () => {
    const damage = fc.record({ at: fc.nat(), to: fc.nat(255), end: fc.nat(), twice: fc.boolean() });
    fc.assert(
      fc.property(anyMessage, fc.array(damage, { minLength: 1, maxLength: 4 }), (message, damages) => {
        let bytes = Uint8Array.from(encodeMessage(message));
        for (const { at, to, end, twice } of damages) {
          if (bytes.length === 0) break;
          bytes[at % bytes.length] = to;
          if (end % 5 === 0) bytes = bytes.slice(0, end % (bytes.length + 1));
          if (twice) bytes = Uint8Array.from([...bytes, ...bytes]);
        }
        onlyViolations(bytes);
      }),
      { numRuns: 5000 },
    );
  });

  const hostile: readonly [string, Uint8Array, RegExp][] = [
    ["an empty header", new Uint8Array(0), /no message/],
    ["a message of an unknown kind", Uint8Array.from([0xf2, 0x7f, 0]), /no message/],
    ["garbage", Buffer.from("GET / HTTP/1.1\r\n\r\n"), /malformed|message refused/],
    ["two messages in one header", Buffer.concat([encoded({ ping: {} }), encoded({ pong: {} })]), /both ping and pong/],
    ["the same message twice", Buffer.concat([encoded({ ping: {} }), encoded({ ping: {} })]), /both ping and ping/],
    ["a body of the wrong wire type", Uint8Array.from([0x20, 1]), /wire type 0/],
    ["a body longer than the header", Uint8Array.from([0x22, 0x7f, 8, 1]), /127 bytes where 2 are left/],
    ["a body of 2^32-1 bytes", Uint8Array.from([0x22, 0xff, 0xff, 0xff, 0xff, 0x0f]), /where 0 are left/],
    ["groups nested without end", new Uint8Array(500_000).fill(0xfb), /malformed/],
    ["a varint without end", Uint8Array.from([0x22, 12, 8, ...new Array(11).fill(0xff)]), /malformed/],
    ["a nonce above 2^53", encoded({ ping: { nonce: 2n ** 53n } }), /nonce/],
    ["an object of 0", encoded({ stagedRequest: {} }), /object 0/],
    ["an object above 2^53", encoded({ rows: { objects: [{ ...file, object: 2n ** 60n }] } }), /larger than/],
    ["a size above 2^53", encoded({ rows: { objects: [{ ...file, size: 2n ** 53n }] } }), /larger than/],
    ["an mtime below -2^53", encoded({ rows: { objects: [{ ...file, mtimeUs: -(2n ** 60n) }] } }), /mtimeUs/],
    ["a type of 4", encoded({ rows: { objects: [{ ...file, type: 4 }] } }), /unknown type 4/],
    ["a type of 0", encoded({ rows: { objects: [{ ...file, type: 0 }] } }), /unknown type 0/],
    ["a mode beyond 07777", encoded({ rows: { objects: [{ ...file, mode: 0o10000 }] } }), /mode/],
    [
      "a content digest of 31 bytes",
      encoded({ rows: { objects: [{ ...file, content: new Uint8Array(31) }] } }),
      /31 bytes/,
    ],
    ["no content digest", encoded({ rows: { objects: [{ ...file, content: [] }] } }), /0 bytes/],
    ["a file without a block size", encoded({ rows: { objects: [{ ...file, blockSize: 0 }] } }), /blockSize 0/],
    ["a directory with a block size", encoded({ rows: { objects: [{ ...file, type: 2 }] } }), /blockSize 4096/],
    ["a target of a file", encoded({ rows: { objects: [{ ...file, target: Buffer.from("x") }] } }), /target/],
    ["a row that reaches out of its message", Uint8Array.from([0x8a, 1, 4, 0x0a, 9, 8, 1]), /9 bytes where 2/],
    ["a field that reaches out of its row", Uint8Array.from([0x8a, 1, 6, 0x12, 2, 0x12, 9, 0, 0]), /9 bytes where 0/],
    ["an extent of no bytes", encoded({ extents: { extents: [{ ...extent, length: 0 }] } }), /no bytes/],
    [
      "an extent beyond 2^53",
      encoded({ extents: { extents: [{ ...extent, offset: Number.MAX_SAFE_INTEGER }] } }),
      /end of an extent/,
    ],
    [
      "hashes of 33 bytes",
      encoded({ extents: { extents: [{ ...extent, hashes: new Uint8Array(33) }] } }),
      /hashes of 33 bytes/,
    ],
    ["hashes of a zero extent", encoded({ extents: { extents: [{ ...extent, zero: true }] } }), /have 0/],
    ["fewer hashes than blocks", encoded({ extents: { extents: [{ ...extent, length: 4097 }] } }), /have 64/],
    ["an extent without a block size", encoded({ extents: { extents: [{ ...extent, blockSize: 0 }] } }), /block size/],
    [
      "an extent both zero and held",
      encoded({ extents: { extents: [{ ...extent, hashes: [], zero: true, held: true }] } }),
      /both zero and held/,
    ],
    ["a held extent ahead", encoded({ ahead: { extents: [{ ...extent, held: true }] } }), /without bytes/],
    ["a zero extent ahead", encoded({ ahead: { extents: [{ ...extent, hashes: [], zero: true }] } }), /without bytes/],
    ["a path of 4000 bytes", encoded({ touchedRequest: { path: new Uint8Array(4000) } }), /path of 4000 bytes/],
    ["a run below that of a whole object", encoded({ touchedRequest: { run: -2 } }), /run -2/],
    ["an unknown encoding", encoded({ extents: { encoding: 2 } }), /encoding/],
    ["a decoded size of 4 GiB", encoded({ extents: { decodedBytes: 2 ** 32 - 1 } }), /decodedBytes/],
    ["a cut without its number", encoded({ cutAborted: { reason: "x" } }), /no cut/],
    ["a welcome without a hello", encoded({ welcome: {} }), /no self/],
    [
      "a group id that is not hex",
      encoded({ cutBegin: { cut: cutFields, base: cutFields, groupId: "../../etc" } }),
      /groupId/,
    ],
    ["an incarnation that is not hex", encoded({ hello: { committed: cutFields, incarnation: "x" } }), /incarnation/],
    ["a digest of 5 bytes", encoded({ hello: { committed: cutFields, digest: new Uint8Array(5) } }), /5 bytes/],
    [
      "an unknown remedy",
      encoded({ cutRejected: { cut: cutFields, committed: cutFields, remedy: "ignore" } }),
      /remedy/,
    ],
    ["a coherency that is none", encoded({ cutEnd: { cut: cutFields, digest: new Uint8Array(32) } }), /coherency/],
    [
      "a consistency that is none",
      encoded({
        cutEnd: { cut: cutFields, digest: new Uint8Array(32), coherency: "instant", stores: [{ consistency: "fine" }] },
      }),
      /consistency/,
    ],
    [
      "a freeze that is not a number",
      encoded({ cutEnd: { cut: cutFields, digest: new Uint8Array(32), coherency: "instant", freezeMs: Number.NaN } }),
      /freezeMs/,
    ],
    ["a name of 300 characters", encoded({ hello: { committed: cutFields, node: "n".repeat(300) } }), /node of 300/],
    ["a control message of 1 MiB", encoded({ hello: { epochs: new Array(500_000).fill({}) } }), /max 262144/],
  ];
  for (const [what, header, expected] of hostile) {
    it(`refuses ${what}`, () => {
      const cpuMs = cpuMsOf(() => expect(() => decode(header)).to.throw(ProtocolViolation));
      expect(messageOf(header)).to.match(expected);
      expect(cpuMs, "bounded work").to.be.below(1000);
    });
  }

  const unsendable: readonly [string, Message][] = [
    ["an epoch of 2^64", { kind: "cutAborted", cut: { epoch: epoch(2n ** 64n), seq: seq(1) }, reason: "" }],
    ["a negative seq", { kind: "cutAborted", cut: { epoch: epoch(1), seq: seq(-1) }, reason: "" }],
    ["a fraction", { kind: "ping", nonce: 0.5 }],
    ["a negative number", { kind: "ping", nonce: -1 }],
    [
      "a path that is no bytes",
      { kind: "rows", objects: [], paths: [{ store: 0, path: "\u0100" as StorePath, object: undefined }] },
    ],
    ["half a surrogate pair", { kind: "cutAborted", cut, reason: "\ud800" }],
    ["an object of 0", { kind: "objectDropped", object: 0 as ObjectId }],
  ];
  for (const [what, message] of unsendable) {
    it(`does not send ${what}: it would arrive as something else`, () => {
      expect(() => encodeMessage(message)).to.throw(InvariantBroken);
    });
  }

  it("does not keep the header's memory in anything but hashes and contents", () => {
    const header = Uint8Array.from(encodeMessage({ kind: "cutAborted", cut, reason: "because" }));
    const message = decodeMessage(header);
    header.fill(0);
    expect(message).to.deep.equal({ kind: "cutAborted", cut, reason: "because" });
  });
});

function onlyViolations(bytes: Uint8Array): void {
  try {
    decode(bytes);
  } catch (error) {
    expect(error).to.be.instanceOf(ProtocolViolation);
  }
}

function messageOf(header: Uint8Array): string {
  try {
    decode(header);
    return "";
  } catch (error) {
    return (error as Error).message;
  }
}
