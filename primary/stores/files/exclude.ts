import { exitCodes, UnderstudyError } from "../../../shared/errors.ts";
import { privateName } from "../../../shared/store-path.ts";
import type { StorePath } from "../../../shared/words.ts";
import { ancestorsOf } from "./source-path.ts";

export class ExcludeInvalid extends UnderstudyError {
  readonly code = "EXCLUDE_INVALID";
  readonly remedy = "stop";
  readonly state = "The store was not started; nothing was changed.";
  readonly hint =
    "Correct `exclude` of the store: globs as in .gitignore, such as `*.tmp`, `cache/`, `/var/run`, `logs/**/*.gz`.";
  override readonly exitCode = exitCodes.usage;

  constructor(pattern: string, why: string) {
    super(`exclude pattern ${JSON.stringify(pattern)} ${why}`);
  }
}

export interface Exclude {
  /** Judges one path by itself; what lies above it was judged on the way down. */
  matches(path: StorePath, directory: boolean): boolean;
  /** True when a directory above the path is excluded, so that the path is too. */
  hides(path: StorePath): boolean;
}

interface Rule {
  readonly expression: RegExp;
  readonly directoriesOnly: boolean;
  readonly excludes: boolean;
}

/**
 * Compiles globs as in .gitignore: without a slash (but at the end) a pattern means a name at any depth, with one it
 * is anchored at the root; a slash at the end means directories only; `*` and `?` stop at slashes, `**` does not; `!`
 * takes back, and the last pattern that matches decides. Works on bytes: `?` is one byte. The private directory of
 * Understudy at the root is excluded in any case.
 * @throws {ExcludeInvalid}
 */
export function compileExclude(patterns: readonly string[]): Exclude {
  const rules = patterns.map(compileRule);
  const matches = (path: StorePath, directory: boolean): boolean => {
    if (path === privateName) return true;
    for (let index = rules.length - 1; index >= 0; index--) {
      const rule = rules[index]!;
      if ((directory || !rule.directoriesOnly) && rule.expression.test(path)) return path !== "" && rule.excludes;
    }
    return false;
  };
  return {
    matches,
    hides(path) {
      for (const directory of ancestorsOf(path)) if (matches(directory, true)) return true;
      return false;
    },
  };
}

function compileRule(pattern: string): Rule {
  let glob = Buffer.from(pattern, "utf8").toString("latin1");
  const excludes = !glob.startsWith("!");
  if (!excludes) glob = glob.slice(1);
  const directoriesOnly = glob.endsWith("/");
  if (directoriesOnly) glob = glob.slice(0, -1);
  const anchored = glob.includes("/");
  if (glob.startsWith("/")) glob = glob.slice(1);
  if (glob === "") throw new ExcludeInvalid(pattern, "names nothing");
  if (glob.includes("\0")) throw new ExcludeInvalid(pattern, "has a NUL byte");
  if (glob.split("/").some((name) => name === "" || name === "." || name === "..")) {
    throw new ExcludeInvalid(pattern, "has a component that no path has");
  }
  const source = `^${anchored ? "" : "(?:.*/)?"}${expressionOf(glob, pattern)}$`;
  try {
    return { expression: new RegExp(source, "s"), directoriesOnly, excludes };
  } catch (error) {
    if (error instanceof SyntaxError) throw new ExcludeInvalid(pattern, "has a range in `[]` that is out of order");
    throw error;
  }
}

function expressionOf(glob: string, pattern: string): string {
  let out = "";
  for (let i = 0; i < glob.length; ) {
    const rest = glob.slice(i);
    const starsBetween = /^\*\*(\/\*\*)*\//.exec(rest);
    if (starsBetween && (i === 0 || glob[i - 1] === "/")) {
      out += "(?:.*/)?";
      i += starsBetween[0].length;
    } else if (rest === "**" && (i === 0 || glob[i - 1] === "/")) {
      out += ".+";
      i += 2;
    } else if (rest[0] === "*") {
      out += "[^/]*";
      while (glob[i] === "*") i++; // A run of stars is one, or matching would take exponential time.
    } else if (rest[0] === "?") {
      out += "[^/]";
      i++;
    } else if (rest[0] === "[") {
      const set = /^\[([!^]?)(\]?[^\]/]*)\]/.exec(rest);
      if (!set) throw new ExcludeInvalid(pattern, "has a `[` without its `]`");
      if (/[^\0-\x7f]/.test(set[2]!)) throw new ExcludeInvalid(pattern, "has a character in `[]` that is not ASCII");
      out += `(?!/)[${set[1] ? "^" : ""}${set[2]!.replace(/[\\\]^[]/g, "\\$&")}]`;
      i += set[0].length;
    } else {
      const escaped = rest[0] === "\\" && rest.length > 1;
      out += (escaped ? rest[1]! : rest[0]!).replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
      i += escaped ? 2 : 1;
    }
  }
  return out;
}
