import type { Coherency, Consistency, CutId, Epoch, ObjectId, Seq, StorePath } from "../words.ts";
import { unreachable } from "../words.ts";
import { theirs } from "./message-rules.ts";
import type { CutStore, Hello, Message, ReplicaReport } from "./messages.ts";

type Kind = Message["kind"];
export type Fields = Readonly<Record<string, unknown>>;

/** What the generated code takes and gives for the messages that go through it. */
export function toFields(message: Exclude<Message, { kind: "rows" | "extents" | "ahead" }>): {
  [name: string]: unknown;
} {
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

export function fromFields(kind: Exclude<Kind, "rows" | "extents" | "ahead"> | Kind, fields: Fields): Message {
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
        path: latin1Of(bytesOf(fields, "path")) as StorePath,
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
        path: latin1Of(bytesOf(fields, "path")) as StorePath,
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
    behind: (fields.behind as readonly Uint8Array[]).map((path) => latin1Of(path) as StorePath),
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

function latin1Of(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");
}
