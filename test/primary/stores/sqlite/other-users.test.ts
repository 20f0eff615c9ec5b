import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import { Child } from "../../../../deploy/demo/child-process.ts";
import { otherUsers } from "../../../../primary/stores/sqlite/other-users.ts";
import { createSqliteStore } from "../../../../primary/stores/sqlite/sqlite-store.ts";
import { until } from "../../../end-to-end/harness.ts";

describe("who else has a SQLite database open", () => {
  it("is told in WAL mode, without the agent's own holder", async () => {
    const directory = mkdtempSync(join(tmpdir(), "us-users-"));
    try {
      const path = join(directory, "app.db");
      const database = new DatabaseSync(path);
      database.exec("PRAGMA journal_mode = WAL; CREATE TABLE t (a)");
      database.close();
      expect(otherUsers(path), "nobody").to.deep.equal([]);
      const store = createSqliteStore({ path, holdSecondsMax: 5 });
      try {
        await store.start(() => {});
        expect(store.users?.(), "the holder is ours").to.deep.equal([]);
        // A grandchild: a service is no child of the agent.
        const program = `const { DatabaseSync } = require("node:sqlite");
          new DatabaseSync(${JSON.stringify(path)}).prepare("SELECT count(*) FROM t").get();
          process.stdin.on("end", () => process.exit(0)).resume();`;
        await using service = new Child("sh", ["-c", `"${process.execPath}" -e '${program}'; true`], {
          stdio: ["pipe", "inherit", "inherit"],
        });
        await until(() => store.users?.().length === 1, 10_000, "the service is seen");
        service.process.stdin?.end();
        await until(() => store.users?.().length === 0, 10_000, "it is seen that the service ended");
      } finally {
        await store.close();
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
