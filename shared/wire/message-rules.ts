import { assert, ProtocolViolation } from "../errors.ts";
import { pathBytesMax } from "../store-path.ts";
import { type CutId, consistencies, unreachable } from "../words.ts";
import type { Digest, Extent, Hello, Message, ObjectRow, PathRow } from "./messages.ts";
import { wholeObject } from "./touched-list.ts";

/**
 * What a message must satisfy on either side of the wire: the decoder refuses the peer's, the encoder our own (protobuf
 * would wrap a number that does not fit, or drop half of a character, without a word). Only the form is judged here;
 * whether a path may be touched or a cut is in its place is for those who know.
 */
type Fail = (rule: string) => never;

export const ours: Fail = (rule) => assert(false, `message to send: ${rule}`) as never;
export const theirs: Fail = (rule) => {
  throw new ProtocolViolation(`message refused: ${rule}`);
};

const digestBytes = 32;
/** Far above what a sender makes of one payload; an allocation that a peer can ask for needs a bound. */
const decodedBytesMax = 64 * 1024 * 1024;

/** Damaged objects that one acknowledgement asks for; a replica has a bound below it. */
const damagedMax = 16 * 1024;

const uint64Max = 2n ** 64n - 1n;
const uint32Max = 2 ** 32 - 1;
const modeMax = 0o7777;
const runMax = 2 ** 31 - 1;
const nameLengthMax = 255;
const textLengthMax = 16 * 1024;
const groupIdPattern = /^(?:[0-9a-f]{32})?$/;
const incarnationPattern = /^(?:[0-9a-f]{16})?$/;
const switchoverPattern = /^[0-9a-f]{16}$/;
const obstaclesMax = 64;
const latin1Pattern = /^[\u0000-\u00ff]*$/;

export function checkMessage(message: Message, fail: Fail): void {
  switch (message.kind) {
    case "hello":
    case "welcome":
      checkHello(message.hello, fail);
      return;
    case "refusal":
      checkText(message.code, "code", nameLengthMax, fail);
      checkText(message.message, "message", textLengthMax, fail);
      checkText(message.hint, "hint", textLengthMax, fail);
      return;
    case "ping":
    case "pong":
    case "roleAsked":
    case "roleHeld":
      checkNumber(message.nonce, "nonce", fail);
      return;
    case "sourceState":
      checkCut(message.taken, "taken", fail);
      checkNumber(message.backlogBytes, "backlogBytes", fail);
      checkNumber(message.waitingMs, "waitingMs", fail);
      checkText(message.halted, "halted", textLengthMax, fail);
      return;
    case "acknowledgement":
      checkCut(message.received, "received", fail);
      checkCut(message.durable, "durable", fail);
      checkCut(message.applied, "applied", fail);
      checkText(message.suspect, "suspect", textLengthMax, fail);
      checkNumber(message.unappliedBytes, "unappliedBytes", fail);
      if (message.damaged.length > damagedMax) fail(`${message.damaged.length} damaged objects, max ${damagedMax}`);
      for (const object of message.damaged) checkObject(object, fail);
      if (message.report !== undefined) {
        checkNumber(message.report.verifiedAtUs, "verifiedAtUs", fail);
        checkUint32(message.report.forks, "forks", fail);
      }
      return;
    case "cutRejected":
      checkCut(message.cut, "cut", fail);
      checkText(message.code, "code", nameLengthMax, fail);
      checkText(message.message, "message", textLengthMax, fail);
      if (!["retry", "replan", "stop"].includes(message.remedy)) fail(`remedy ${JSON.stringify(message.remedy)}`);
      checkCut(message.committed, "committed", fail);
      return;
    case "stagedRequest":
      checkObject(message.object, fail);
      checkText(message.store, "store name", nameLengthMax, fail);
      checkBytes(message.path, "path", fail);
      checkUint32(message.blockSize, "blockSize", fail);
      return;
    case "objectDropped":
      checkObject(message.object, fail);
      return;
    case "aheadRequest":
      checkNumber(message.object, "object", fail);
      checkUint32(message.run, "run", fail);
      return;
    case "aheadHeld":
      return;
    case "aheadRefused":
      checkText(message.reason, "reason", textLengthMax, fail);
      return;
    case "touchedRequest":
      checkText(message.store, "store name", nameLengthMax, fail);
      checkBytes(message.path, "path", fail);
      if (message.path.length > pathBytesMax) fail(`path of ${message.path.length} bytes, max ${pathBytesMax}`);
      checkNumber(message.object, "object", fail);
      if (!Number.isInteger(message.run) || message.run < wholeObject || message.run > runMax)
        fail(`run ${message.run} of an object`);
      return;
    case "touchedHeld":
      return;
    case "stagedRuns":
      checkObject(message.object, fail);
      checkUint32(message.blockSize, "blockSize", fail);
      return;
    case "switchoverPrepare":
    case "handoverRevoke":
      checkSwitchover(message.id, fail);
      return;
    case "switchoverReady":
      checkSwitchover(message.id, fail);
      checkNumber(message.startMs, "startMs", fail);
      if (message.obstacles.length > obstaclesMax) fail(`${message.obstacles.length} obstacles, max ${obstaclesMax}`);
      for (const { code, message: text, hint } of message.obstacles) {
        checkText(code, "code", nameLengthMax, fail);
        checkText(text, "message", textLengthMax, fail);
        checkText(hint, "hint", textLengthMax, fail);
      }
      return;
    case "handover":
      checkSwitchover(message.id, fail);
      checkCut(message.cut, "cut", fail);
      checkDigest(message.digest, "digest", fail);
      return;
    case "handoverAnswer":
      checkSwitchover(message.id, fail);
      checkText(message.reason, "reason", textLengthMax, fail);
      checkUint64(message.epoch, "epoch", fail);
      checkDigest(message.digest, "digest", fail);
      return;
    case "serviceStarted":
      checkSwitchover(message.id, fail);
      checkNumber(message.ms, "ms", fail);
      checkText(message.reason, "reason", textLengthMax, fail);
      return;
    case "cutBegin":
      checkCut(message.cut, "cut", fail);
      checkCut(message.base, "base", fail);
      if (!incarnationPattern.test(message.incarnation)) fail("incarnation is not 16 hex digits");
      if (!groupIdPattern.test(message.groupId)) fail("groupId is not 32 hex digits");
      checkNumber(message.takenAtUs, "takenAtUs", fail);
      for (const store of message.stores) checkText(store, "store name", nameLengthMax, fail);
      return;
    case "rows":
      for (const row of message.objects) checkObjectRow(row, fail);
      for (const row of message.paths) checkPathRow(row, fail);
      return;
    case "ahead":
      for (const store of message.stores) checkText(store, "store name", nameLengthMax, fail);
      for (const extent of message.extents) if (extent.held || extent.zero) fail("an extent ahead without bytes");
      checkPayload(message, fail);
      return;
    case "extents":
      checkPayload(message, fail);
      return;
    case "cutEnd":
      checkCut(message.cut, "cut", fail);
      checkDigest(message.digest, "digest", fail);
      if (message.coherency !== "instant" && message.coherency !== "independent") fail("unknown coherency");
      checkNumber(message.paths, "paths", fail);
      checkNumber(message.objects, "objects", fail);
      checkNumber(message.payloadBytes, "payloadBytes", fail);
      if (!(message.freezeMs >= 0 && message.freezeMs < Number.MAX_SAFE_INTEGER)) fail(`freezeMs ${message.freezeMs}`);
      for (const store of message.stores) {
        checkText(store.name, "store name", nameLengthMax, fail);
        checkText(store.kind, "store kind", nameLengthMax, fail);
        if (!consistencies.includes(store.consistency)) fail(`consistency ${JSON.stringify(store.consistency)}`);
        checkText(store.position, "position", textLengthMax, fail);
        checkNumber(store.bytes, "bytes", fail);
        checkNumber(store.files, "files", fail);
        for (const path of store.behind) checkBytes(path, "path behind", fail);
      }
      return;
    case "cutAborted":
      checkCut(message.cut, "cut", fail);
      checkText(message.reason, "reason", textLengthMax, fail);
      return;
    default:
      unreachable(message);
  }
}

function checkPayload(message: Extract<Message, { kind: "extents" | "ahead" }>, fail: Fail): void {
  if (message.encoding !== "plain" && message.encoding !== "zstd") fail("unknown payload encoding");
  checkNumber(message.decodedBytes, "decodedBytes", fail);
  if (message.decodedBytes > decodedBytesMax) fail(`decodedBytes ${message.decodedBytes}, max ${decodedBytesMax}`);
  for (const extent of message.extents) checkExtent(extent, fail);
}

function checkHello(hello: Hello, fail: Fail): void {
  checkUint32(hello.major, "major", fail);
  checkUint32(hello.minor, "minor", fail);
  for (const feature of hello.features) checkText(feature, "feature", nameLengthMax, fail);
  checkText(hello.software, "software", nameLengthMax, fail);
  checkText(hello.node, "node", nameLengthMax, fail);
  checkText(hello.group, "group", nameLengthMax, fail);
  if (!groupIdPattern.test(hello.groupId)) fail("groupId is not 32 hex digits");
  checkText(hello.role, "role", nameLengthMax, fail);
  checkUint64(hello.epoch, "epoch", fail);
  for (const start of hello.epochs) {
    checkUint64(start.epoch, "epochs.epoch", fail);
    checkUint64(start.firstSeq, "epochs.firstSeq", fail);
  }
  if (!incarnationPattern.test(hello.incarnation)) fail("incarnation is not 16 hex digits");
  checkCut(hello.committed, "committed", fail);
  if (hello.digest.length !== 0) checkDigest(hello.digest, "digest", fail);
  for (const store of hello.stores) {
    checkText(store.name, "store name", nameLengthMax, fail);
    checkText(store.kind, "store kind", nameLengthMax, fail);
    if (store.digest.length !== 0) checkDigest(store.digest, "store digest", fail);
  }
  checkUint64(hello.generation, "generation", fail);
  checkUint64(hello.epochSeen, "epochSeen", fail);
  checkNumber(hello.lastObject, "lastObject", fail);
}

export function checkObjectRow(row: ObjectRow, fail: Fail): void {
  checkObject(row.object, fail);
  if (!Number.isInteger(row.mode) || row.mode < 0 || row.mode > modeMax) fail(`mode ${row.mode}`);
  checkUint32(row.uid, "uid", fail);
  checkUint32(row.gid, "gid", fail);
  if (!Number.isSafeInteger(row.mtimeUs)) fail(`mtimeUs ${row.mtimeUs}`);
  checkNumber(row.size, "size", fail);
  checkUint32(row.blockSize, "blockSize", fail);
  if (row.type === "file" ? row.blockSize === 0 : row.blockSize !== 0)
    fail(`blockSize ${row.blockSize} of a ${row.type}`);
  checkBytes(row.target, "target", fail);
  if (row.type !== "symlink" && row.target !== "") fail(`target of a ${row.type}`);
  checkDigest(row.content, "content", fail);
  checkUint32(row.store, "store", fail);
  if (row.owner !== undefined) checkText(row.owner, "owner", nameLengthMax, fail);
  if (row.ownerGroup !== undefined) checkText(row.ownerGroup, "ownerGroup", nameLengthMax, fail);
}

export function checkPathRow(row: PathRow, fail: Fail): void {
  checkUint32(row.store, "store", fail);
  checkBytes(row.path, "path", fail);
  if (row.object !== undefined) checkObject(row.object, fail);
}

export function checkExtent(extent: Extent, fail: Fail): void {
  checkObject(extent.object, fail);
  checkNumber(extent.offset, "offset", fail);
  checkNumber(extent.length, "length", fail);
  if (extent.length === 0) fail("extent of no bytes");
  checkNumber(extent.offset + extent.length, "end of an extent", fail);
  checkUint32(extent.store, "store", fail);
  checkUint32(extent.blockSize, "blockSize", fail);
  if (extent.blockSize === 0) fail("extent without a block size");
  if (extent.zero && extent.held) fail("extent that is both zero and held");
  if (extent.held && extent.hashes.length === 0) return;
  const hashes = extent.zero ? 0 : blocksOf(extent) * digestBytes;
  if (extent.hashes.length !== hashes) fail(`hashes of ${extent.hashes.length} bytes where its blocks have ${hashes}`);
}

/** Blocks that an extent touches, the last one of the object possibly in part. */
function blocksOf(extent: Extent): number {
  const first = Math.floor(extent.offset / extent.blockSize);
  return Math.floor((extent.offset + extent.length - 1) / extent.blockSize) - first + 1;
}

function checkCut(cut: CutId, name: string, fail: Fail): void {
  checkUint64(cut.epoch, `${name}.epoch`, fail);
  checkUint64(cut.seq, `${name}.seq`, fail);
}

function checkSwitchover(id: string, fail: Fail): void {
  if (!switchoverPattern.test(id)) fail("the id of a switchover is not 16 hex digits");
}

function checkUint64(value: bigint, name: string, fail: Fail): void {
  if (typeof value !== "bigint" || value < 0n || value > uint64Max)
    fail(`${name} ${value} is not an unsigned 64-bit number`);
}

function checkNumber(value: number, name: string, fail: Fail): void {
  if (!Number.isSafeInteger(value) || value < 0) fail(`${name} ${value} is not a safe unsigned number`);
}

function checkUint32(value: number, name: string, fail: Fail): void {
  if (!Number.isInteger(value) || value < 0 || value > uint32Max)
    fail(`${name} ${value} is not an unsigned 32-bit number`);
}

function checkObject(value: number, fail: Fail): void {
  if (!Number.isSafeInteger(value) || value < 1) fail(`object ${value} is not a safe number from 1`);
}

function checkDigest(value: Uint8Array, name: string, fail: Fail): asserts value is Digest {
  if (value.length !== digestBytes) fail(`${name} of ${value.length} bytes instead of ${digestBytes}`);
}

function checkText(value: string, name: string, lengthMax: number, fail: Fail): void {
  if (value.length > lengthMax) fail(`${name} of ${value.length} characters, max ${lengthMax}`);
  if (!value.isWellFormed()) fail(`${name} is not valid text`);
}

function checkBytes(value: string, name: string, fail: Fail): void {
  if (!latin1Pattern.test(value)) fail(`${name} is not bytes in latin1`);
}
