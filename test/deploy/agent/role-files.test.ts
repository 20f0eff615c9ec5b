import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { lagText, primaryText, type RoleFacts, RoleFiles } from "../../../deploy/agent/role-files.ts";
import type { StoreOnNode } from "../../../shared/config/config.ts";
import { silentLog } from "../../../shared/log.ts";
import type { StoreName } from "../../../shared/words.ts";

const replica: RoleFacts = {
  node: "bravo",
  role: "replica",
  inService: false,
  epoch: 4n,
  followed: "alpha",
  lagSeconds: 0.26,
};

describe("files for scripts", () => {
  const table: [string, RoleFacts, string, string][] = [
    ["a replica", replica, "alpha 4\n", "0.3\n"],
    ["one that has not met its primary", { ...replica, followed: undefined }, "- 4\n", "0.3\n"],
    ["a primary in service", { ...replica, role: "primary", inService: true }, "bravo 4\n", "0.0\n"],
    ["one that is not", { ...replica, role: "primary" }, "- 4\n", "0.0\n"],
    ["a fenced node", { ...replica, role: "fenced" }, "- 4\n", "-\n"],
  ];
  for (const [what, facts, primary, lag] of table)
    it(`say of ${what}: ${primary.trim()}, ${lag.trim()}`, () => {
      expect([primaryText(facts), lagText(facts)]).to.deep.equal([primary, lag]);
    });

  it("lie where a copy is, in no store's way, are replaced when they change, and can be read by all", async () => {
    const directory = await mkdtemp(join(tmpdir(), "us-role-"));
    try {
      const stores = ["one/files", "two/app.db"].map((path) => ({
        name: "x" as StoreName,
        kind: "sqlite",
        path: join(directory, path),
      })) satisfies StoreOnNode[];
      await mkdir(join(directory, "one", ".understudy", "app.primary"), { recursive: true, mode: 0o700 });
      await mkdir(join(directory, "two"));
      let facts = replica;
      const files = new RoleFiles("app", stores, () => facts, silentLog);
      await files.write();
      const place = join(directory, "one", ".understudy", "app");
      expect((await readdir(place)).toSorted()).to.deep.equal([".lag", ".primary"]);
      expect(await readFile(join(place, ".primary"), "utf8")).to.equal("alpha 4\n");
      expect((await stat(join(place, ".lag"))).mode & 0o777).to.equal(0o644);
      expect((await stat(join(directory, "one", ".understudy"))).mode & 0o777).to.equal(0o711);
      expect(await readdir(join(directory, "two")), "where no copy is").to.deep.equal([]);

      expect(await files.formerEpoch()).to.equal(4n);
      await mkdir(join(directory, "two", ".understudy", "app"), { recursive: true });
      for (const [text, epoch] of [
        ["- 12\n", 12n],
        ["alpha 12", 4n],
        ["alpha x\n", 4n],
        ["", 4n],
      ] as const) {
        await writeFile(join(directory, "two", ".understudy", "app", ".primary"), text);
        expect(await files.formerEpoch(), text).to.equal(epoch);
      }
      await rm(join(directory, "two", ".understudy"), { recursive: true });

      const { ino } = await stat(join(place, ".primary"));
      facts = { ...replica, lagSeconds: 7 };
      await files.write();
      expect((await stat(join(place, ".primary"))).ino, "it says the same").to.equal(ino);
      expect(await readFile(join(place, ".lag"), "utf8")).to.equal("7.0\n");
      facts = { ...replica, role: "primary", inService: true, epoch: 5n };
      await files.write();
      expect(await readFile(join(place, ".primary"), "utf8")).to.equal("bravo 5\n");
      expect((await stat(join(place, ".primary"))).ino).to.not.equal(ino);
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it("are written nowhere that a symlink leads to, nor into what somebody else has put there", async () => {
    const directory = await mkdtemp(join(tmpdir(), "us-role-"));
    try {
      const outside = join(directory, "outside");
      const victim = join(outside, "victim");
      await mkdir(outside, { mode: 0o700 });
      await writeFile(victim, "as it was");
      const places = ["holder", "group", "staged"];
      for (const place of places) await mkdir(join(directory, place));
      await symlink(outside, join(directory, "holder", ".understudy"));
      await mkdir(join(directory, "group", ".understudy"));
      await symlink(outside, join(directory, "group", ".understudy", "app"));
      await mkdir(join(directory, "staged", ".understudy", "app"), { recursive: true });
      for (const name of [".primary", ".primary.staged", ".lag.staged"])
        await symlink(victim, join(directory, "staged", ".understudy", "app", name));
      const stores = places.map(
        (place) =>
          ({ name: place as StoreName, kind: "sqlite", path: join(directory, place, "app.db") }) satisfies StoreOnNode,
      );
      await new RoleFiles("app", stores, () => replica, silentLog).write();
      expect(await readdir(outside)).to.deep.equal(["victim"]);
      expect((await stat(outside)).mode & 0o777).to.equal(0o700);
      expect(await readFile(victim, "utf8")).to.equal("as it was");
      expect(await readFile(join(directory, "staged", ".understudy", "app", ".primary"), "utf8")).to.equal("alpha 4\n");
      expect(await readFile(victim, "utf8")).to.equal("as it was");
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});
