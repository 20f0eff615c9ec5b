import { normalPublicKey } from "../config/public-key.ts";
import { UnderstudyError } from "../errors.ts";

class AuthorizedKeyRefused extends UnderstudyError {
  readonly code = "AUTHORIZED_KEY_REFUSED";
  readonly remedy = "stop";
  readonly state = "Nothing was written.";
  readonly hint =
    "A line of authorized_keys is one line: look at what was given for the key, the peer and the command.";
}

/**
 * The line for `~/.ssh/authorized_keys` of the user that the agent runs as: whoever has this key gets the bridge to the
 * agent as `peerName` and nothing else, whatever is asked for.
 * @throws {AuthorizedKeyRefused}
 */
export function authorizedKeysLine(publicKey: string, peerName: string, command: string): string {
  const key = normalPublicKey(publicKey);
  if (key === undefined) throw new AuthorizedKeyRefused(`not an ed25519 public key: ${JSON.stringify(publicKey)}`);
  if (!peerNamePattern.test(peerName)) throw new AuthorizedKeyRefused(`not a node's name: ${JSON.stringify(peerName)}`);
  // sshd ends the option at the first quote without a backslash before it, and knows no other escape.
  if (command === "" || /[\r\n\0]/.test(command) || command.endsWith("\\")) {
    throw new AuthorizedKeyRefused(`this command cannot be written into one line: ${JSON.stringify(command)}`);
  }
  return `restrict,command="${command.replaceAll('"', '\\"')}" ${key} understudy:${peerName}`;
}

/** What a node may be called where its name is part of a line. */
export const peerNamePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
