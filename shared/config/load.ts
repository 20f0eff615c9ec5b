import { readFile } from "node:fs/promises";
import { exitCodes, explain, UnderstudyError } from "../errors.ts";
import type { Config } from "./config.ts";
import { ConfigurationInvalid, parseConfig } from "./parse.ts";

export class ConfigurationUnreadable extends UnderstudyError {
  readonly code = "CONFIGURATION_UNREADABLE";
  readonly remedy = "stop";
  readonly state = "Nothing was started or changed.";
  readonly hint = "Give the file with -c FILE or UNDERSTUDY_CONFIG, and let the agent's user read it.";
  override readonly exitCode = exitCodes.usage;

  constructor(path: string, options: ErrorOptions) {
    super(`cannot read the configuration ${path}: ${explain(options.cause)}`, options);
  }
}

/** @throws {ConfigurationUnreadable} @throws {ConfigurationInvalid} */
export async function loadConfig(path: string): Promise<Config> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new ConfigurationUnreadable(path, { cause: error });
  }
  return parseConfig(decoded(bytes, path), path);
}

/** Replacement characters in a path would name another file than the one that was meant. */
function decoded(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new ConfigurationInvalid(path, [{ line: 1, path: [], message: "the file is not UTF-8" }]);
  }
}
