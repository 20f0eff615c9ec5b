import { expect } from "chai";
import { compileExclude, ExcludeInvalid } from "../../../../primary/stores/files/exclude.ts";
import type { StorePath } from "../../../../shared/words.ts";
import { cpuMsOf } from "../../../cpu-time.ts";

/** As a walk does: a path is excluded when it matches, or a directory above it. */
function excluded(patterns: string[], path: string): boolean {
  const exclude = compileExclude(patterns);
  const bytes = Buffer.from(path.replace(/\/$/, ""), "utf8").toString("latin1") as StorePath;
  return exclude.hides(bytes) || exclude.matches(bytes, path.endsWith("/"));
}

describe("exclude", () => {
  // A path with a slash at its end is a directory.
  const table: [patterns: string[], path: string, excluded: boolean][] = [
    [["*.tmp"], "a.tmp", true],
    [["*.tmp"], "deep/er/a.tmp", true],
    [["*.tmp"], "a.tmp/inside", true],
    [["*.tmp"], "a.tmp.keep", false],
    [["*.tmp"], ".tmp", true],
    [["cache/"], "cache/", true],
    [["cache/"], "cache", false],
    [["cache/"], "a/cache/", true],
    [["cache/"], "a/cache/b/c", true],
    [["/rooted"], "rooted", true],
    [["/rooted"], "a/rooted", false],
    [["a/b"], "a/b", true],
    [["a/b"], "x/a/b", false],
    [["**/b"], "b", true],
    [["**/b"], "x/y/b", true],
    [["a/**"], "a/b/c", true],
    [["a/**"], "a/", false],
    [["a/**/z"], "a/z", true],
    [["a/**/z"], "a/b/c/z", true],
    [["a/**/z"], "b/a/z", false],
    [["a*z"], "abcz", true],
    [["a*z"], "ab/z", false],
    [["a**z"], "abcz", true],
    [["*a*b*"], "xaxxbx", true],
    [["*a*b*"], "xbxa", false],
    [["*ab*ab"], "abab", true],
    [["*ab*ab"], "ab", false],
    [["*ab*2"], "ab12", true],
    [["x/*a*b*/y"], "x/ab/y", true],
    [["x/*a*b*/y"], "x/a/b/y", false],
    [["a?c"], "abc", true],
    [["a?c"], "a/c", false],
    [["[a-c]x"], "bx", true],
    [["[!a-c]x"], "bx", false],
    [["[!a-c]x"], "dx", true],
    [["[]]x"], "]x", true],
    [["a.b+c(d)"], "a.b+c(d)", true],
    [["a.b"], "axb", false],
    [["\\*"], "*", true],
    [["\\*"], "x", false],
    [["*.log", "!keep.log"], "a/keep.log", false],
    [["*.log", "!keep.log"], "a/other.log", true],
    [["!keep.log", "*.log"], "keep.log", true],
    [["größe"], "größe", true],
    [["*"], "größe", true],
    [["**"], "a", true],
    [[], ".understudy/", true],
    [[], ".understudy/staging/x", true],
    [["!.understudy"], ".understudy/", true],
    [[], "a/.understudy/", false],
    [["*"], "", false],
  ];
  for (const [patterns, path, expected] of table) {
    it(`${JSON.stringify(patterns)} ${expected ? "excludes" : "keeps"} ${JSON.stringify(path)}`, () =>
      expect(excluded(patterns, path)).to.equal(expected));
  }

  for (const pattern of ["", "/", "!", "a//b", "../a", "a/./b", "[ab", "[z-a]", "[ä]", "a\0"]) {
    it(`refuses ${JSON.stringify(pattern)}`, () => expect(() => compileExclude([pattern])).to.throw(ExcludeInvalid));
  }

  it("takes no exponential time", () => {
    const cpuMs = cpuMsOf(() => excluded([`${"*a".repeat(8)}b`, "**/**/**/**/x"], "a".repeat(200)));
    expect(cpuMs).to.be.below(2000);
  });
});
