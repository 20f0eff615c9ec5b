import { expect } from "chai";
import fc from "fast-check";
import { ProtocolViolation } from "../../../shared/errors.ts";
import {
  encodeFrame,
  type Frame,
  FrameDecoder,
  frameBytes,
  headerBytesMax,
  payloadBytesMax,
} from "../../../shared/wire/frame.ts";

const anyFrame: fc.Arbitrary<Frame> = fc.record({
  kind: fc.constantFrom("control", "bulk"),
  header: fc.uint8Array({ maxLength: 300 }),
  payload: fc.uint8Array({ maxLength: 2000 }),
});
const ping: Frame = { kind: "control", header: Uint8Array.from([1, 2, 3]), payload: new Uint8Array(0) };

function bytesOf(...frames: Frame[]): Buffer {
  return Buffer.concat(frames.flatMap((frame) => encodeFrame(frame)));
}

function prefix(fields: {
  version?: number;
  kind?: number;
  reserved?: number;
  header?: number;
  payload?: number;
}): Buffer {
  const bytes = Buffer.alloc(12);
  bytes[0] = fields.version ?? 1;
  bytes[1] = fields.kind ?? 1;
  bytes.writeUInt16BE(fields.reserved ?? 0, 2);
  bytes.writeUInt32BE(fields.header ?? 0, 4);
  bytes.writeUInt32BE(fields.payload ?? 0, 8);
  return bytes;
}

describe("wire frames", () => {
  it("gives back the same frames wherever the stream is cut", () => {
    fc.assert(
      fc.property(fc.array(anyFrame, { maxLength: 6 }), fc.array(fc.nat(3000), { maxLength: 40 }), (frames, cuts) => {
        const stream = bytesOf(...frames);
        const decoder = new FrameDecoder();
        const received: Frame[] = [];
        let from = 0;
        for (const length of [...cuts, stream.length]) {
          received.push(...decoder.push(stream.subarray(from, from + length)));
          from = Math.min(stream.length, from + length);
        }
        expect(received).to.deep.equal(frames);
        expect(decoder.pending()).to.equal(0);
      }),
    );
  });

  it("gives back the same frames byte by byte, and says how much of one it holds", () => {
    const frames: Frame[] = [
      ping,
      { kind: "bulk", header: new Uint8Array(0), payload: new Uint8Array(0) },
      { kind: "bulk", header: new Uint8Array(200).fill(7), payload: new Uint8Array(500).fill(9) },
    ];
    const decoder = new FrameDecoder();
    const received: Frame[] = [];
    let held = 0;
    for (const byte of bytesOf(...frames)) {
      const complete = decoder.push(Uint8Array.of(byte));
      held = complete.length === 0 ? held + 1 : 0;
      expect(decoder.pending()).to.equal(held);
      received.push(...complete);
    }
    expect(received).to.deep.equal(frames);
  });

  it("does not copy a payload to send it, and sends prefix and header as one chunk", () => {
    const frame: Frame = { kind: "bulk", header: new Uint8Array(40), payload: new Uint8Array(1000) };
    const chunks = encodeFrame(frame);
    expect(chunks.map((chunk) => chunk.length)).to.deep.equal([52, 1000]);
    expect(chunks[1]).to.equal(frame.payload);
    expect(frameBytes(frame)).to.equal(1052);
  });

  it("gives header and payload memory of their own, that can be transferred to a worker", () => {
    const [frame] = new FrameDecoder().push(
      bytesOf({ kind: "bulk", header: new Uint8Array(40).fill(1), payload: new Uint8Array(1000).fill(2) }),
    );
    for (const bytes of [frame!.header, frame!.payload]) {
      expect(bytes.buffer.byteLength).to.equal(bytes.length);
      const moved = structuredClone(bytes, { transfer: [bytes.buffer as ArrayBuffer] });
      expect(moved.every((byte) => byte === moved[0])).to.equal(true);
      expect(bytes.length).to.equal(0);
    }
  });

  it("fills memory that was given back with the next payload of its length, and forgets what nobody needs", () => {
    const decoder = new FrameDecoder();
    const next = (fill: number): ArrayBuffer => {
      const payload = new Uint8Array(1024 * 1024).fill(fill);
      const [frame] = decoder.push(bytesOf({ kind: "bulk", header: new Uint8Array(1), payload }));
      expect(Buffer.compare(frame!.payload, payload)).to.equal(0);
      return frame!.payload.buffer as ArrayBuffer;
    };
    const first = next(1);
    decoder.reuse(first);
    decoder.reuse(new ArrayBuffer(1000));
    decoder.push(bytesOf(ping));
    expect(next(2)).to.equal(first);
    expect(next(3)).not.to.equal(first);
    decoder.reuse(first);
    decoder.forgetUnused();
    expect(next(4), "used since it was asked last").to.equal(first);
    decoder.forgetUnused();
    decoder.reuse(first);
    decoder.forgetUnused();
    expect(next(5)).not.to.equal(first);
  });

  it("takes the largest frame that it allows to be sent", () => {
    const frame: Frame = {
      kind: "bulk",
      header: new Uint8Array(headerBytesMax).fill(1),
      payload: new Uint8Array(payloadBytesMax).fill(2),
    };
    const [received] = new FrameDecoder().push(bytesOf(frame));
    expect(Buffer.compare(received!.header, frame.header)).to.equal(0);
    expect(Buffer.compare(received!.payload, frame.payload)).to.equal(0);
    expect(() => encodeFrame({ ...frame, header: new Uint8Array(headerBytesMax + 1) })).to.throw(RangeError);
    expect(() => encodeFrame({ ...frame, payload: new Uint8Array(payloadBytesMax + 1) })).to.throw(RangeError);
  });

  const hostile: readonly [string, Uint8Array, RegExp][] = [
    ["another version", prefix({ version: 2 }).subarray(0, 1), /version 2/],
    ["version 0", Buffer.alloc(1), /version 0/],
    ["text of another protocol", Buffer.from("SSH-2.0-x\r\n"), /version 83/],
    ["an unknown kind", prefix({ kind: 3 }).subarray(0, 2), /kind 3/],
    ["kind 0", prefix({ kind: 0 }).subarray(0, 2), /kind 0/],
    ["reserved bytes in use", prefix({ reserved: 1 }).subarray(0, 4), /reserved/],
    ["a header of one byte too many", prefix({ header: headerBytesMax + 1 }).subarray(0, 8), /header of 1048577/],
    ["a header of 4 GiB", prefix({ header: 2 ** 32 - 1 }).subarray(0, 8), /header of 4294967295/],
    ["a payload of one byte too many", prefix({ payload: payloadBytesMax + 1 }), /payload of 4194305/],
    ["a payload of 4 GiB", prefix({ payload: 2 ** 32 - 1 }), /payload of 4294967295/],
    ["garbage after a good frame", Buffer.concat([bytesOf(ping), Buffer.from([9])]), /version 9/],
  ];
  for (const [what, bytes, expected] of hostile) {
    it(`refuses ${what} as soon as it is known, in one piece or byte by byte, and stays closed`, () => {
      for (const size of [bytes.length, 1]) {
        const decoder = new FrameDecoder();
        const pushAll = () => {
          for (let at = 0; at < bytes.length; at += size) decoder.push(bytes.subarray(at, at + size));
        };
        expect(pushAll).to.throw(ProtocolViolation).with.property("message").that.matches(expected);
        expect(decoder.pending()).to.equal(0);
        expect(() => decoder.push(bytesOf(ping)), "a good frame afterwards").to.throw(ProtocolViolation);
      }
    });
  }

  it("throws nothing but ProtocolViolation for random bytes", () => {
    const almost = fc.tuple(fc.uint8Array({ maxLength: 12 }), fc.nat(11)).map(([noise, at]) => {
      const bytes = prefix({ header: 3, payload: 2 });
      bytes.set(noise.subarray(0, 12 - at), at);
      return Buffer.concat([bytes, noise]);
    });
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.uint8Array({ maxLength: 60 }), almost), { maxLength: 5 }), (chunks) => {
        const decoder = new FrameDecoder();
        try {
          for (const chunk of chunks) decoder.push(chunk);
        } catch (error) {
          expect(error).to.be.instanceOf(ProtocolViolation);
        }
      }),
      { numRuns: 3000 },
    );
  });

  it("holds no more than one frame, whatever lengths a peer announces", () => {
    const before = process.memoryUsage().arrayBuffers;
    const decoders = Array.from({ length: 20 }, () => new FrameDecoder());
    for (const decoder of decoders) decoder.push(prefix({ header: headerBytesMax, payload: payloadBytesMax }));
    expect(process.memoryUsage().arrayBuffers - before).to.be.below(21 * (headerBytesMax + payloadBytesMax));
    expect(decoders[0]!.pending()).to.equal(12);
  });
});
