import type { Algorithms } from "ssh2";
import sshCrypto from "ssh2/lib/protocol/crypto.js";

/**
 * What both sides offer. aes128-gcm first: with the native addon it is the fastest by far, and both ends being ours it is
 * what gets chosen. No compression: payloads are compressed by who knows them. No SHA-1, no CBC.
 */
export const sshAlgorithms = {
  kex: [
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group14-sha256",
  ],
  cipher: [
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
  ],
  hmac: ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"],
  compress: ["none"],
} satisfies Algorithms;

/**
 * False when ssh2 runs without its native addon, a third to a tenth as fast, which it does not say by itself: the addon is missing
 * or was built for another Node.
 */
export function nativeCryptoAvailable(): boolean {
  return sshCrypto.bindingAvailable;
}
