import { mkdir, readFile, realpath } from "node:fs/promises";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { type Config, nodeNamed } from "../../shared/config/config.ts";
import { replaceFile } from "../../shared/durable/durable-files.ts";
import { isSystemError } from "../../shared/errors.ts";
import { authorizedKeysLine } from "../../shared/link/authorized-keys.ts";

/** Beside the command line in a checkout, beside the bundle when installed. */
const launcher = fileURLToPath(
  new URL(import.meta.url.endsWith(".ts") ? "../understudy" : "./understudy", import.meta.url),
);

/** The lines that let `peer` in through this machine's OpenSSH, to the agent's bridge and nothing else. */
export function authorizedLines(config: Config, peer: string, state: string): string[] {
  const node = nodeNamed(config, peer);
  const words = [launcher, "bridge", "--peer", node.name, "--state", resolve(state)];
  const command = words.map(shellWord).join(" ");
  return node.keys.map((key) => authorizedKeysLine(key, node.name, command));
}

/** sshd hands the command to the user's shell. */
function shellWord(word: string): string {
  return /^[\w./@%+=:,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/**
 * Puts the lines of `peer` into this user's authorized_keys in place of those it had there before, so that a rotated key
 * goes when it leaves the configuration. Nobody else's line is touched. Gives the path and whether anything changed.
 */
export async function installAuthorizedLines(peer: string, lines: readonly string[], home = homedir()) {
  const directory = join(home, ".ssh");
  await mkdir(directory, { recursive: true, mode: 0o700 });
  // Where it is a symlink, the file that it means is replaced, not the link.
  const path = await existing(join(directory, "authorized_keys"));
  const before = await textOf(path);
  const others = before.split("\n").filter((line) => line !== "" && !line.endsWith(` understudy:${peer}`));
  const after = [...others, ...lines].map((line) => `${line}\n`).join("");
  const current = before.split("\n").filter((line) => line.endsWith(` understudy:${peer}`));
  const changed = current.join("\n") !== lines.join("\n");
  if (changed) await replaceFile(path, after);
  return { path, changed };
}

async function existing(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return path;
    throw error;
  }
}

async function textOf(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return "";
    throw error;
  }
}
