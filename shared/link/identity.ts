import { randomBytes } from "node:crypto";
import { link, mkdir, open, unlink } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import ssh2 from "ssh2";
import { syncDirectory } from "../durable/durable-files.ts";
import { assert, isSystemError } from "../errors.ts";
import { IdentityExposed, IdentityUnusable } from "./link-errors.ts";
import { ed25519Text, fingerprintOf } from "./public-keys.ts";

/** A node's one key pair: its host key where it listens, its client key where it dials. */
export interface Identity {
  /** `ssh-ed25519 AAAA...`, without a comment. */
  readonly publicKey: string;
  /** In OpenSSH's own format, so that `ssh -i` takes the file as well. */
  readonly privateKeyPem: string;
  /** `SHA256:...` */
  readonly fingerprint: string;
}

export const identityFileName = "identity";
const exposedBits = 0o077;

/**
 * The identity of the node whose state is in `directory`; made there, durably, when there is none yet. Two that come at
 * once get the same one.
 * @throws {IdentityUnusable | IdentityExposed}
 */
export async function ensureIdentity(directory: string): Promise<Identity> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, identityFileName);
  const existing = await readIdentity(path);
  if (existing !== undefined) return existing;
  await createIdentity(directory, path);
  const identity = await readIdentity(path);
  assert(identity !== undefined, "an identity that was linked can be read");
  return identity;
}

async function readIdentity(path: string): Promise<Identity | undefined> {
  let pem: string;
  try {
    await using file = await open(path, "r");
    const { mode } = await file.stat();
    if ((mode & exposedBits) !== 0) {
      throw new IdentityExposed(`others may read the private key ${path} (mode ${(mode & 0o777).toString(8)})`);
    }
    pem = await file.readFile("utf8");
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return undefined;
    throw error;
  }
  return parseIdentity(pem) ?? fail(path);
}

function fail(path: string): never {
  throw new IdentityUnusable(`${path} holds no usable ed25519 private key`);
}

function parseIdentity(pem: string): Identity | undefined {
  const key = ssh2.utils.parseKey(pem);
  if (key instanceof Error || !key.isPrivateKey()) return undefined;
  const blob = key.getPublicSSH();
  const publicKey = ed25519Text(blob);
  return publicKey === undefined ? undefined : { publicKey, privateKeyPem: pem, fingerprint: fingerprintOf(blob) };
}

/** Linked into place, not renamed: whoever comes second finds the first one's key and keeps it. */
async function createIdentity(directory: string, path: string): Promise<void> {
  const pem = await generateKey();
  const staged = `${path}.${randomBytes(8).toString("hex")}`;
  {
    await using file = await open(staged, "wx", 0o600);
    await file.writeFile(pem);
    await file.sync();
  }
  try {
    await link(staged, path);
  } catch (error) {
    if (!isSystemError(error, "EEXIST")) throw error;
  } finally {
    await unlink(staged);
  }
  await syncDirectory(directory);
}

const generateKeyPair = promisify<"ed25519", { private: string }>(ssh2.utils.generateKeyPair);
const attemptsMax = 20;

/** The library's generator gives one key in some two hundred that it cannot read itself: each is tried before it is kept. */
async function generateKey(): Promise<string> {
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    const pair = await generateKeyPair("ed25519");
    const key = ssh2.utils.parseKey(pair.private);
    if (key instanceof Error || parseIdentity(pair.private) === undefined) continue;
    const probe = Buffer.from("understudy");
    const signature = key.sign(probe);
    if (Buffer.isBuffer(signature) && key.verify(probe, signature) === true) return pair.private;
  }
  throw new IdentityUnusable(`no usable key in ${attemptsMax} tries`);
}
