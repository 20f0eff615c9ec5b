import fc from "fast-check";
import type { Extent, Hello, Message, ObjectRow, PathRow } from "../../../shared/wire/messages.ts";
import type { CutId } from "../../../shared/words.ts";

/** Any valid message of each kind, for properties. */
const uint64 = fc.oneof(fc.bigInt(0n, 2n ** 64n - 1n), fc.constantFrom(0n, 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n));
const number = fc.oneof(
  fc.nat(),
  fc.maxSafeNat(),
  fc.constantFrom(0, 127, 128, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER),
);
const uint32 = fc.oneof(fc.nat(), fc.constantFrom(0, 127, 128, 2 ** 28, 2 ** 32 - 1));
const object = fc.oneof(fc.integer({ min: 1, max: 1000 }), fc.constantFrom(2 ** 32, Number.MAX_SAFE_INTEGER));
const text = fc.string({ maxLength: 40, unit: "grapheme" });
const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const digest = fc.oneof(bytes(32), fc.constant(new Uint8Array(32)));
const latin1 = fc.uint8Array({ maxLength: 60 }).map((value) => Buffer.from(value).toString("latin1"));
const cut = fc.record({ epoch: uint64, seq: uint64 }) as fc.Arbitrary<CutId>;
const hex = (length: number) =>
  fc.oneof(
    fc.constant(""),
    bytes(length / 2).map((value) => Buffer.from(value).toString("hex")),
  );

const switchover = bytes(8).map((value) => Buffer.from(value).toString("hex"));

const hello = fc.record({
  major: uint32,
  minor: uint32,
  features: fc.array(text),
  software: text,
  node: text,
  group: text,
  groupId: hex(32),
  role: fc.constantFrom("unformed", "replica", "promoting", "primary", "fenced"),
  epoch: uint64,
  epochs: fc.array(fc.record({ epoch: uint64, firstSeq: uint64 })),
  incarnation: hex(16),
  committed: cut,
  digest: fc.oneof(digest, fc.constant(new Uint8Array(0))),
  stores: fc.array(fc.record({ name: text, kind: text, digest: fc.oneof(digest, fc.constant(new Uint8Array(0))) })),
  generation: uint64,
  epochSeen: uint64,
  lastObject: number,
}) as fc.Arbitrary<Hello>;

const objectRow = fc
  .record(
    {
      object,
      type: fc.constantFrom("file", "directory", "symlink"),
      mode: fc.integer({ min: 0, max: 0o7777 }),
      uid: uint32,
      gid: uint32,
      mtimeUs: fc.oneof(fc.maxSafeInteger(), fc.constantFrom(0, -1, 2 ** 31, -(2 ** 31), Number.MIN_SAFE_INTEGER)),
      size: number,
      blockSize: fc.constantFrom(512, 4096, 65536, 2 ** 32 - 1),
      target: latin1,
      content: digest,
      store: uint32,
      owner: fc.string({ minLength: 1, maxLength: 10 }),
      ownerGroup: fc.string({ minLength: 1, maxLength: 10 }),
    },
    {
      requiredKeys: [
        "object",
        "type",
        "mode",
        "uid",
        "gid",
        "mtimeUs",
        "size",
        "blockSize",
        "target",
        "content",
        "store",
      ],
    },
  )
  .map((row) => ({
    ...row,
    blockSize: row.type === "file" ? row.blockSize : 0,
    target: row.type === "symlink" ? row.target : "",
  })) as fc.Arbitrary<ObjectRow>;

const pathRow = fc.record({
  store: uint32,
  path: latin1,
  object: fc.option(object, { nil: undefined }),
}) as fc.Arbitrary<PathRow>;

const extent = fc
  .record({
    object,
    block: fc.nat(2 ** 36),
    blocks: fc.integer({ min: 1, max: 5 }),
    short: fc.nat(511),
    blockSize: fc.constantFrom(512, 4096, 65536),
    kind: fc.constantFrom("plain", "zero", "held", "held ahead"),
    store: uint32,
    fresh: fc.boolean(),
    fill: fc.nat(255),
  })
  .map(({ block, blocks, short, kind, fill, ...rest }) => ({
    ...rest,
    offset: block * rest.blockSize,
    length: blocks * rest.blockSize - short,
    hashes: new Uint8Array(kind === "zero" || kind === "held ahead" ? 0 : blocks * 32).fill(fill),
    zero: kind === "zero",
    held: kind.startsWith("held"),
  })) as fc.Arbitrary<Extent>;

export const anyMessage = fc.oneof(
  fc.record({ kind: fc.constantFrom("hello", "welcome"), hello }),
  fc.record({ kind: fc.constant("refusal"), code: text, message: text, hint: text }),
  fc.record({ kind: fc.constantFrom("ping", "pong", "roleAsked", "roleHeld"), nonce: number }),
  fc.record({
    kind: fc.constant("sourceState"),
    taken: cut,
    backlogBytes: number,
    waitingMs: number,
    paused: fc.boolean(),
    halted: text,
  }),
  fc.record({
    kind: fc.constant("acknowledgement"),
    received: cut,
    durable: cut,
    applied: cut,
    suspect: text,
    unappliedBytes: number,
    damaged: fc.array(object, { maxLength: 20 }),
    report: fc.record({ verifiedAtUs: number, differed: fc.boolean(), forks: fc.nat(1000), paused: fc.boolean() }),
  }),
  fc.record({
    kind: fc.constant("cutRejected"),
    cut,
    code: text,
    message: text,
    remedy: fc.constantFrom("retry", "replan", "stop"),
    committed: cut,
  }),
  fc.record({
    kind: fc.constant("ahead"),
    extents: fc.array(extent.filter((item) => !item.zero && !item.held)),
    encoding: fc.constantFrom("plain", "zstd"),
    decodedBytes: fc.nat(64 * 1024 * 1024),
    stores: fc.array(text),
  }),
  fc.record({ kind: fc.constant("aheadRequest"), object: number, run: uint32, files: fc.boolean() }),
  fc.record({ kind: fc.constant("aheadHeld"), last: fc.boolean() }),
  fc.record({ kind: fc.constant("aheadRefused"), reason: text }),
  fc.record({
    kind: fc.constant("touchedRequest"),
    store: text,
    path: latin1,
    object: number,
    run: fc.integer({ min: -1, max: 2 ** 31 - 1 }),
  }),
  fc.record({ kind: fc.constant("touchedHeld"), last: fc.boolean() }),
  fc.record({ kind: fc.constantFrom("switchoverPrepare", "handoverRevoke"), id: switchover }),
  fc.record({
    kind: fc.constant("switchoverReady"),
    id: switchover,
    obstacles: fc.array(fc.record({ code: text, message: text, hint: text })),
    startMs: number,
  }),
  fc.record({ kind: fc.constant("handover"), id: switchover, cut, digest }),
  fc.record({
    kind: fc.constant("handoverAnswer"),
    id: switchover,
    accepted: fc.boolean(),
    reason: text,
    epoch: uint64,
    digest,
  }),
  fc.record({ kind: fc.constant("serviceStarted"), id: switchover, ms: number, reason: text }),
  fc.record({ kind: fc.constant("objectDropped"), object }),
  fc.record({ kind: fc.constant("stagedRequest"), object, store: text, path: latin1, blockSize: uint32 }),
  fc.record({ kind: fc.constant("stagedRuns"), object, blockSize: uint32 }),
  fc.record({
    kind: fc.constant("cutBegin"),
    cut,
    base: cut,
    incarnation: hex(16),
    takenAtUs: number,
    groupId: hex(32),
    stores: fc.array(text),
  }),
  fc.record({ kind: fc.constant("rows"), objects: fc.array(objectRow), paths: fc.array(pathRow) }),
  fc.record({
    kind: fc.constant("extents"),
    extents: fc.array(extent),
    encoding: fc.constantFrom("plain", "zstd"),
    decodedBytes: fc.nat(64 * 1024 * 1024),
  }),
  fc.record({
    kind: fc.constant("cutEnd"),
    cut,
    digest,
    stores: fc.array(
      fc.record({
        name: text,
        kind: text,
        consistency: fc.constantFrom("transactional", "quiesced", "crash", "whole", "fuzzy"),
        position: text,
        bytes: number,
        files: number,
        behind: fc.array(latin1),
      }),
    ),
    coherency: fc.constantFrom("instant", "independent"),
    paths: number,
    objects: number,
    payloadBytes: number,
    freezeMs: fc.double({ min: 0, max: 1e9, noNaN: true }).map((value) => value + 0),
  }),
  fc.record({ kind: fc.constant("cutAborted"), cut, reason: text }),
) as fc.Arbitrary<Message>;
