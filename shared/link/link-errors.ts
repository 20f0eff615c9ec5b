import { exitCodes, UnderstudyError } from "../errors.ts";

const unchanged = "No session is open; the copy and the catalog are unchanged.";
const ended = "The session is over; what was acknowledged is safe, what was not is planned again.";

export class PeerUnreachable extends UnderstudyError {
  readonly code = "PEER_UNREACHABLE";
  readonly remedy = "retry";
  readonly state = unchanged;
  readonly hint = "Check that the agent runs there, the address in the configuration, and firewalls in between.";
  override readonly exitCode = exitCodes.unreachable;
}

export class LinkTimedOut extends UnderstudyError {
  readonly code = "LINK_TIMED_OUT";
  readonly remedy = "retry";
  readonly state = unchanged;
  readonly hint = "Something answers too slowly or not at all: check the line, and what listens at this address.";
  override readonly exitCode = exitCodes.timedOut;
}

/** Who answers is not who was configured: an exchanged machine, a reinstalled one, or somebody in between. */
export class HostKeyMismatch extends UnderstudyError {
  readonly code = "HOST_KEY_MISMATCH";
  readonly remedy = "stop";
  readonly state = "Nothing was sent, not even this node's name; the copy and the catalog are unchanged.";
  readonly hint =
    "Find out why the key is another. Only if the change is meant, put the new key into the configuration of every node.";
  override readonly exitCode = exitCodes.refused;
  readonly expected: readonly string[];
  readonly offered: string;

  constructor(where: string, expected: readonly string[], offered: string, options?: ErrorOptions) {
    super(`${where} has the host key ${offered} instead of ${expected.join(" or ") || "a known one"}`, options);
    this.expected = expected;
    this.offered = offered;
  }
}

export class KeyRefused extends UnderstudyError {
  readonly code = "KEY_REFUSED";
  readonly remedy = "stop";
  readonly state = unchanged;
  readonly hint =
    "The other side does not know this node's key: add it to its configuration (or `understudy authorize` for OpenSSH).";
  override readonly exitCode = exitCodes.refused;
}

/** No agreement on the protocol, ciphers or keys before anybody was authenticated. */
export class HandshakeFailed extends UnderstudyError {
  readonly code = "HANDSHAKE_FAILED";
  readonly remedy = "retry";
  readonly state = unchanged;
  readonly hint = "Check that an SSH server of this decade listens at this address.";
  override readonly exitCode = exitCodes.unreachable;
}

/** The peer knows us but does not give a channel now (too many open). */
export class ChannelRefused extends UnderstudyError {
  readonly code = "CHANNEL_REFUSED";
  readonly remedy = "retry";
  readonly state = unchanged;
  readonly hint = "It is tried again; if it stays, raise MaxSessions of the OpenSSH server on the other side.";
}

/** The key is let in, but nothing on the other side speaks for Understudy. */
export class NoAgentBehind extends UnderstudyError {
  readonly code = "NO_AGENT_BEHIND";
  readonly remedy = "stop";
  readonly state = unchanged;
  readonly hint = "For OpenSSH, this key's line in authorized_keys needs the forced command of `understudy authorize`.";
  override readonly exitCode = exitCodes.refused;
}

/** The connection broke while it was in use. */
export class LinkLost extends UnderstudyError {
  readonly code = "LINK_LOST";
  readonly remedy = "retry";
  readonly state = ended;
  readonly hint = "It is dialed again; if it stays away, look at the line and at the log of the other side.";
  override readonly exitCode = exitCodes.unreachable;
}

/** Nothing was heard for as long as a peer that lives cannot be silent: a half-open link, or an agent that hangs. */
export class PeerSilent extends UnderstudyError {
  readonly code = "PEER_SILENT";
  readonly remedy = "retry";
  readonly state = ended;
  readonly hint =
    "It is dialed again; if it stays silent, look at the line and whether the agent there makes progress.";
  override readonly exitCode = exitCodes.unreachable;
}

/** Something was to be sent on a channel that is over. */
export class ChannelClosed extends UnderstudyError {
  readonly code = "CHANNEL_CLOSED";
  readonly remedy = "retry";
  readonly state = ended;
  readonly hint = "Nothing to do: the session begins again.";
}

export class ListenFailed extends UnderstudyError {
  readonly code = "LISTEN_FAILED";
  readonly remedy = "stop";
  readonly state = "Peers cannot reach this node; nothing else is changed.";
  readonly hint =
    "Another program may have the address, or it is not one of this machine: see `address` in the configuration.";
}

/** The agent that a forced command was to bridge to does not answer. */
export class BridgedAgentNotRunning extends UnderstudyError {
  readonly code = "BRIDGED_AGENT_NOT_RUNNING";
  readonly remedy = "retry";
  readonly state = unchanged;
  readonly hint =
    "Start the agent, and check that the forced command runs as its user with the same --state directory.";
  override readonly exitCode = exitCodes.unreachable;
}

export class IdentityUnusable extends UnderstudyError {
  readonly code = "IDENTITY_UNUSABLE";
  readonly remedy = "stop";
  readonly state = "No connection is made or accepted; the copy and the catalog are unchanged.";
  readonly hint =
    "Restore the file from a backup, or move it away: a new identity is made, and its key must go into every configuration.";
}

export class IdentityExposed extends UnderstudyError {
  readonly code = "IDENTITY_EXPOSED";
  readonly remedy = "stop";
  readonly state = "No connection is made or accepted; the copy and the catalog are unchanged.";
  readonly hint = "If nobody else can have read it, `chmod 600` it; otherwise move it away and distribute the new key.";
}
