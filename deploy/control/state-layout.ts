import { join } from "node:path";

/** What lies where in a node's state directory. */
export function identityDirectory(state: string): string {
  return join(state, "identity");
}

export function groupDirectory(state: string, group: string): string {
  return join(state, "groups", group);
}

/** The command line's way to the agent. */
export function controlSocketPath(state: string): string {
  return join(state, "control.sock");
}

/** The way of peers that come through the system's OpenSSH. */
export function bridgeSocketPath(state: string): string {
  return join(state, "bridge.sock");
}

/** Everything that concerned who is what, one JSON object a line. */
export function eventLogPath(state: string): string {
  return join(state, "events.jsonl");
}

/** Which hooks are under way. */
export function hooksDirectory(state: string): string {
  return join(state, "hooks");
}

/** What former primaries had beyond the cuts that they share with the others. */
export function forksDirectory(state: string, group: string): string {
  return join(forksRoot(state), group);
}

export function forksRoot(state: string): string {
  return join(state, "forks");
}
