import { posix } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { checkStorePath, nameBytesMax, PathRefused, pathBytesMax, readablePath } from "../../shared/store-path.ts";
import type { StorePath } from "../../shared/words.ts";

function accepted(path: string): boolean {
  try {
    checkStorePath(path);
    return true;
  } catch (error) {
    if (error instanceof PathRefused) return false;
    throw error;
  }
}

describe("the path of a peer", () => {
  const good: readonly [string, string][] = [
    ["is taken as the root when it is empty", ""],
    ["may be one name", "file"],
    ["may have many components", "a/b/c/d"],
    ["may have a name of three dots", "..."],
    ["may have a hidden name", ".hidden/..hidden"],
    ["may have any bytes in it", "\xff\x01\n\t \\*?[\x7f"],
    ["may have a name of 255 bytes", "x".repeat(nameBytesMax)],
    ["may have 3072 bytes", `${"x/".repeat(pathBytesMax / 2 - 1)}xx`],
    ["may only look like the private directory", ".understudy2/x"],
    ["may be called as the private directory deeper down", "a/.understudy/x"],
  ];
  for (const [what, path] of good) {
    it(what, () => expect(checkStorePath(path)).to.equal(path));
  }

  const bad: readonly [string, string, RegExp][] = [
    ["is refused where it climbs", "..", /component "\.\."/],
    ["is refused where it climbs in the middle", "a/../b", /component "\.\."/],
    ["is refused where it climbs at its end", "a/..", /component "\.\."/],
    ["is refused where it stands still", ".", /component "\."/],
    ["is refused where it stands still in the middle", "a/./b", /component "\."/],
    ["is refused where it is absolute", "/etc", /absolute/],
    ["is refused where it is the root of all", "/", /absolute/],
    ["is refused with two slashes", "a//b", /component ""/],
    ["is refused with a slash at its end", "a/", /component ""/],
    ["is refused with a NUL", "a\0b", /NUL/],
    ["is refused with a name of 256 bytes", "x".repeat(nameBytesMax + 1), /name of 256 bytes/],
    ["is refused with 3073 bytes", `${"x/".repeat(pathBytesMax / 2)}x`, /path of 3073 bytes/],
    ["is refused as the private directory", ".understudy", /private directory/],
    ["is refused in the private directory", ".understudy/app.uploads/staging/o1", /private directory/],
    ["is refused where it is text and not bytes", "a\u012fb", /not bytes/],
  ];
  for (const [what, path, names] of bad) {
    it(what, () => expect(() => checkStorePath(path)).to.throw(PathRefused, names));
  }

  it("never leaves the root that it is joined to, whatever its bytes are", () => {
    // Slashes, dots and NULs come often, or nothing dangerous would be among the examples.
    const byte = fc.oneof(
      fc.constantFrom("/", ".", "..", "\0", ".understudy"),
      fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)),
    );
    let taken = 0;
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 12 }), (bytes) => {
        const path = bytes.join("");
        if (!accepted(path)) return;
        taken++;
        const root = "/srv/copy";
        const joined = posix.normalize(`${root}/${path}`);
        expect(joined).to.equal(path === "" ? `${root}/` : `${root}/${path}`);
        expect(`${posix.relative(root, joined)}/`.startsWith("../")).to.equal(false);
        expect(path === ".understudy" || path.startsWith(".understudy/")).to.equal(false);
        expect(path.includes("\0")).to.equal(false);
      }),
      { numRuns: 3000 },
    );
    expect(taken).to.be.greaterThan(200);
  });

  it("comes back as it was by way of the kernel's bytes, and as text only where it is text", () => {
    const name = fc.array(fc.integer({ min: 1, max: 255 }), { minLength: 1, maxLength: 20 });
    fc.assert(
      fc.property(name, (bytes) => {
        const path = String.fromCharCode(...bytes) as StorePath;
        expect(Buffer.from(path, "latin1").toString("latin1")).to.equal(path);
        const text = readablePath(path);
        if (text !== undefined) expect(Buffer.from(text, "utf8").toString("latin1")).to.equal(path);
      }),
    );
    expect(readablePath(Buffer.from("größe", "utf8").toString("latin1") as StorePath)).to.equal("größe");
    expect(readablePath("\xff" as StorePath)).to.equal(undefined);
  });
});
