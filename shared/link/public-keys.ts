import { createHash } from "node:crypto";
import ssh2 from "ssh2";
import { normalPublicKey } from "../config/public-key.ts";

/** `SHA256:...` as ssh-keygen -l prints it, of a key's blob. */
export function fingerprintOf(blob: Uint8Array): string {
  return `SHA256:${createHash("sha256").update(blob).digest("base64").replace(/=+$/, "")}`;
}

/** The blob of a public key of any type that SSH knows: an OpenSSH server's host key need not be ed25519. */
export function blobOf(publicKey: string): Buffer | undefined {
  const parsed = ssh2.utils.parseKey(publicKey);
  return parsed instanceof Error || parsed.isPrivateKey() ? undefined : parsed.getPublicSSH();
}

/** `ssh-ed25519 AAAA...` of a blob that a peer sent; undefined when it is anything but an ed25519 key. */
export function ed25519Text(blob: Uint8Array): string | undefined {
  return normalPublicKey(`ssh-ed25519 ${Buffer.from(blob).toString("base64")}`);
}
