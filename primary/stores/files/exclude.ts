import { exitCodes, UnderstudyError } from "../../../shared/errors.ts";
import { privateName, trialName } from "../../../shared/store-path.ts";
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
 * takes back, and the last pattern that matches decides. Works on bytes: `?` is one byte. What Understudy has at
 * the root for itself is excluded in any case.
 * @throws {ExcludeInvalid}
 */
export function compileExclude(patterns: readonly string[]): Exclude {
  const rules = patterns.map(compileRule);
  const matches = (path: StorePath, directory: boolean): boolean => {
    if (path === privateName || path === trialName) return true;
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

/** `**` as a whole component stands for any number of them; at the end, for whatever is below. */
function expressionOf(glob: string, pattern: string): string {
  const groups = { count: 0 };
  const names = glob.split("/");
  let out = "";
  for (const [index, name] of names.entries()) {
    const last = index === names.length - 1;
    if (name !== "**") out += `${nameExpression(name, pattern, groups)}${last ? "" : "/"}`;
    else if (last) out += ".+";
    else if (names[index - 1] !== "**") out += "(?:.*/)?";
  }
  return out;
}

/**
 * One component. What stands between two stars is taken where it is first found and never tried elsewhere (a group in
 * a lookahead is atomic): any match can be moved there, and trying all places would take time without bound.
 */
function nameExpression(name: string, pattern: string, groups: { count: number }): string {
  const pieces = [""];
  for (let i = 0; i < name.length; ) {
    const rest = name.slice(i);
    const set = /^\[([!^]?)(\]?[^\]]*)\]/.exec(rest);
    if (rest[0] === "*") {
      while (name[i] === "*") i++;
      pieces.push("");
      continue;
    }
    if (rest[0] === "[" && !set) throw new ExcludeInvalid(pattern, "has a `[` without its `]`");
    const escaped = rest[0] === "\\" && rest.length > 1;
    if (set) {
      if (/[^\0-\x7f]/.test(set[2]!)) throw new ExcludeInvalid(pattern, "has a character in `[]` that is not ASCII");
      pieces[pieces.length - 1] += `(?!/)[${set[1] ? "^" : ""}${set[2]!.replace(/[\\\]^[]/g, "\\$&")}]`;
    } else if (rest[0] === "?") pieces[pieces.length - 1] += "[^/]";
    else pieces[pieces.length - 1] += (escaped ? rest[1]! : rest[0]!).replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
    i += set ? set[0].length : escaped ? 2 : 1;
  }
  let out = pieces[0]!;
  for (const [index, piece] of pieces.entries()) {
    if (index === 0) continue;
    if (index === pieces.length - 1) out += `[^/]*${piece}`;
    else out += `(?=([^/]*?${piece}))\\${++groups.count}(?:)`;
  }
  return out;
}
