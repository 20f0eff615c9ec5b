import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import { expect } from "chai";
import fc from "fast-check";
import type { ReplicaSink } from "../../primary/ship/shipment.ts";
import { applyNext } from "../../replica/apply/apply.ts";
import { commit } from "../../replica/commit/commit.ts";
import type { Receiver } from "../../replica/receive/receive.ts";
import type { ReplicaContext } from "../../replica/replica-context.ts";
import { RealDisk } from "../../shared/durable/real-disk.ts";
import { UnderstudyError } from "../../shared/errors.ts";
import { decodeMessage, encodeMessage } from "../../shared/wire/codec.ts";
import { encodeFrame, type Frame, FrameDecoder } from "../../shared/wire/frame.ts";
import type { BulkMessage } from "../../shared/wire/messages.ts";
import { cutInto, deliver, openPrimary, openReplica, randomBytes, receiverOf, sinkInto } from "../model/in-process.ts";
import { ModelSource } from "../model/model-store.ts";
import { catalogDump, treeDigest } from "./footprint.ts";

/** What a receiver may say of bytes that are not a cut; anything else ends the agent. */
const refusals = [
  "BASE_MISMATCH",
  "CUT_DAMAGED",
  "CUT_MALFORMED",
  "SENDER_REFUSED",
  "PATH_REFUSED",
  "PROTOCOL_VIOLATION",
];

type Mutation =
  | { readonly kind: "flip"; readonly at: number; readonly bit: number }
  | { readonly kind: "overwrite"; readonly at: number; readonly value: number }
  | { readonly kind: "truncate"; readonly at: number }
  | { readonly kind: "insert"; readonly at: number; readonly value: number }
  | { readonly kind: "duplicate" | "drop" | "swap"; readonly frame: number }
  | { readonly kind: "repeat-from"; readonly frame: number; readonly to: number }
  | { readonly kind: "header"; readonly frame: number; readonly at: number; readonly value: number }
  | { readonly kind: "payload"; readonly frame: number; readonly length: number };

/** Anywhere alike: left to itself, fast-check would look at the beginning most of the time. */
const share = fc.noBias(fc.integer({ min: 0, max: 999_999 })).map((part) => part / 1_000_000);
const byte = fc.integer({ min: 0, max: 255 });
const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc.record({ kind: fc.constant("flip" as const), at: share, bit: fc.integer({ min: 0, max: 7 }) }),
  fc.record({ kind: fc.constant("overwrite" as const), at: share, value: byte }),
  fc.record({ kind: fc.constant("truncate" as const), at: share }),
  fc.record({ kind: fc.constant("insert" as const), at: share, value: byte }),
  fc.record({ kind: fc.constantFrom("duplicate" as const, "drop" as const, "swap" as const), frame: share }),
  fc.record({ kind: fc.constant("repeat-from" as const), frame: share, to: share }),
  // Most bytes of a session are payload: what a header says is spoilt as often.
  fc.record({ kind: fc.constant("header" as const), frame: share, at: share, value: byte }),
  fc.record({ kind: fc.constant("payload" as const), frame: share, length: fc.integer({ min: 0, max: 10_000 }) }),
);

describe("a receiver under random mutations of a session", () => {
  let directory: string;
  let replica: ReplicaContext;
  let recorded: Frame[];

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), "understudy-fuzz-"));
    const source = new ModelSource();
    source.makeDirectory("docs");
    source.makeDirectory("docs/old");
    source.write("docs/a.txt", randomBytes(9000));
    source.write("docs/old/b.txt", "beta");
    source.write("docs/kept.txt", randomBytes(5000));
    source.symlink("link", "docs/a.txt");
    const primary = openPrimary(join(directory, "primary.db"), { tree: source.adapter() });
    replica = openReplica(join(directory, "replica.db"), new RealDisk(), { tree: join(directory, "copy") });
    const receiver = receiverOf(replica);
    const sink = sinkInto(replica, receiver, { compress: true });
    await cutInto(primary, [sink]);
    commit(replica, receiver);
    while (applyNext(replica, true) !== undefined);

    recorded = [];
    source.write("docs/a.txt", randomBytes(4096), 4096);
    source.remove("docs/old");
    source.write("docs/old", "a file now");
    source.rename("docs/kept.txt", "moved.txt");
    source.write("large", randomBytes(700_000));
    source.write("text", "again and again ".repeat(1000));
    source.remove("link");
    source.symlink("link", "moved.txt");
    const recorder: ReplicaSink = {
      ...sink,
      async send(message, payload) {
        recorded.push({ kind: "bulk", header: encodeMessage(message), payload: Uint8Array.from(payload) });
      },
    };
    await cutInto(primary, [recorder]);
    primary.catalog.close();
  });

  after(() => {
    for (const home of replica.homes.values()) home.close();
    replica.catalog.close();
    rmSync(directory, { recursive: true, force: true });
  });

  function mutated(mutations: readonly Mutation[]): Uint8Array {
    let frames = recorded;
    for (const item of mutations) {
      if (!("frame" in item)) continue;
      const at = Math.floor(item.frame * frames.length);
      const frame = frames[at];
      if (frame === undefined) continue;
      switch (item.kind) {
        case "duplicate":
          frames = frames.toSpliced(at, 0, frame);
          break;
        case "drop":
          frames = frames.toSpliced(at, 1);
          break;
        case "swap":
          frames = frames.toSpliced(at, 2, ...frames.slice(at, at + 2).toReversed());
          break;
        case "repeat-from":
          frames = frames.toSpliced(Math.floor(item.to * frames.length), 0, ...frames.slice(at));
          break;
        case "header": {
          const header = Uint8Array.from(frame.header);
          header[Math.floor(item.at * header.length)] = item.value;
          frames = frames.with(at, { ...frame, header });
          break;
        }
        case "payload":
          frames = frames.with(at, { ...frame, payload: frame.payload.subarray(0, item.length) });
          break;
      }
    }
    let bytes: Uint8Array = Buffer.concat(frames.flatMap((frame) => encodeFrame(frame)));
    for (const item of mutations) {
      if ("frame" in item || bytes.length === 0) continue;
      const at = Math.floor(item.at * bytes.length);
      switch (item.kind) {
        case "flip":
          bytes = bytes.with(at, bytes[at]! ^ (1 << item.bit));
          break;
        case "overwrite":
          bytes = bytes.with(at, item.value);
          break;
        case "truncate":
          bytes = bytes.subarray(0, at);
          break;
        case "insert":
          bytes = Buffer.concat([bytes.subarray(0, at), Buffer.of(item.value), bytes.subarray(at)]);
          break;
      }
    }
    return bytes;
  }

  /** Takes what comes as the agent's worker does; the code of the refusal, or undefined. */
  function take(receiver: Receiver, bytes: Uint8Array): string | undefined {
    try {
      for (const frame of new FrameDecoder().push(bytes)) {
        const message = decodeMessage(frame.header) as BulkMessage;
        deliver(receiver, message, readable(message, frame.payload));
      }
      return undefined;
    } catch (error) {
      if (error instanceof UnderstudyError) return error.code;
      throw error;
    }
  }

  /** The worker bounds what it decodes; what cannot be decoded is a damaged cut there. */
  function readable(message: BulkMessage, payload: Uint8Array): Uint8Array {
    if (message.kind !== "extents" || message.encoding !== "zstd") return payload;
    try {
      const decoded = zstdDecompressSync(payload, { maxOutputLength: 4 * 1024 * 1024 });
      return decoded.length === message.decodedBytes ? payload : damagedZstd;
    } catch {
      return damagedZstd;
    }
  }
  // Decodes to nothing, so that the receiver finds its extents without their bytes.
  const damagedZstd = Buffer.from("28b52ffd2000010000", "hex");

  it("keeps nothing of what it refused, and refuses in words that the agent knows", () => {
    const before = catalogDump(join(directory, "replica.db"));
    const copy = treeDigest(join(directory, "copy"), join(directory, ".understudy"));
    const digest = replica.catalog.standing.digest;
    const found = new Map<string, number>();
    fc.assert(
      fc.property(fc.array(mutation, { minLength: 1, maxLength: 3 }), (mutations) => {
        const receiver = receiverOf(replica);
        const code = take(receiver, mutated(mutations));
        if (code !== undefined) expect(code).to.be.oneOf(refusals);
        const outcome = code ?? (receiver.ended.length > 0 ? "taken" : "unfinished");
        found.set(outcome, (found.get(outcome) ?? 0) + 1);
        receiver.abort();
        expect(replica.catalog.standing.digest).to.deep.equal(digest);
        expect(catalogDump(join(directory, "replica.db"))).to.equal(before);
        expect(treeDigest(join(directory, "copy"), join(directory, ".understudy"))).to.equal(copy);
      }),
      { numRuns: 350 },
    );
    for (const outcome of ["PROTOCOL_VIOLATION", "CUT_DAMAGED", "CUT_MALFORMED", "unfinished"]) {
      expect(found.get(outcome), outcome).to.be.greaterThan(5);
    }
  });

  it("takes the session as it was recorded, after all of that", () => {
    const receiver = receiverOf(replica);
    expect(take(receiver, mutated([]))).to.equal(undefined);
    expect(receiver.ended.length).to.equal(1);
    commit(replica, receiver);
    while (applyNext(replica, true) !== undefined);
    expect(replica.catalog.standing.applied).to.equal(2n);
  });
});
