import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import type { CutRef } from "../../deploy/control/json-names.ts";
import { auditCopy, isWhole } from "../../deploy/demo/application/audit-copy.ts";
import { startWriter } from "../../deploy/demo/application/start-application.ts";
import { type Cluster, type ClusterNode, startCluster, until } from "./harness.ts";

const deadlineMs = 120_000;

/** What the source holds, or what was restored of it: names to texts, and the rows. */
interface Content {
  readonly files: Readonly<Record<string, string>>;
  readonly rows: readonly unknown[];
}

async function contentOf(files: string, database: string): Promise<Content> {
  const names = (await readdir(files, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
  const texts = names.map(async (entry) => {
    const path = join(entry.parentPath, entry.name);
    return [path.slice(files.length + 1), await readFile(path, "utf8")] as const;
  });
  using opened = new DatabaseSync(database, { timeout: deadlineMs });
  const rows = opened.prepare("SELECT text FROM notes ORDER BY rowid").all();
  return { files: Object.fromEntries((await Promise.all(texts)).sort()), rows: rows.map(({ text }) => text) };
}

describe("recovery points", function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let alpha: ClusterNode;
  let bravo: ClusterNode;
  let source: { readonly files: string; readonly database: string };
  let restored = 0;

  before(async () => {
    cluster = await startCluster({
      groupYaml: async ({ data }) => {
        const store = (name: string): string =>
          `path: ${JSON.stringify(join(data("alpha"), name))}, at: { bravo: ${JSON.stringify(join(data("bravo"), name))} }`;
        for (const name of ["notes", "short", "small"]) {
          await mkdir(join(data("alpha"), name));
          await writeFile(join(data("alpha"), name, "file"), "0");
        }
        using database = new DatabaseSync(join(data("alpha"), "notes.db"));
        database.exec("PRAGMA journal_mode = WAL; CREATE TABLE notes(text TEXT)");
        // Damage stays until somebody asks for it: a sweep would find it first, and have it mended.
        const group = (name: string, stores: string, retention: string): string => `  ${name}:
    primary: alpha
    replicas: [bravo]
    stores: { ${stores} }
    limits: { sweep: 1h }
    retention: ${retention}`;
        return [
          group(
            "notes",
            `db: { kind: sqlite, ${store("notes.db")} }, files: { kind: files, ${store("notes")} }`,
            "{ keep: { all: 1h }, max_bytes: 1GiB }",
          ),
          group("short", `files: { kind: files, ${store("short")} }`, "{ keep: { all: 2s }, max_bytes: 1GiB }"),
          group("small", `files: { kind: files, ${store("small")} }`, "{ keep: { all: 1h }, max_bytes: 1MiB }"),
          group(
            "busy",
            `db: { kind: sqlite, ${store("ledger.db")} }, files: { kind: files, exclude: ["*.tmp"], ${store("files")} }`,
            "{ keep: { all: 1h }, max_bytes: 1GiB }",
          ),
        ].join("\n");
      },
      start: ["bravo"],
    });
    [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
    source = { files: join(alpha.dataDirectory, "notes"), database: join(alpha.dataDirectory, "notes.db") };
  });
  after(async () => await cluster?.[Symbol.asyncDispose]());

  /** A state of the source that has a cut of its own, and what it was. */
  async function recorded(change: () => Promise<void>): Promise<{ cut: CutRef; content: Content }> {
    await change();
    const { cut } = await alpha.control.wait("notes", { timeoutMs: deadlineMs, replicas: [] });
    return { cut, content: await contentOf(source.files, source.database) };
  }

  async function note(text: string): Promise<void> {
    using database = new DatabaseSync(source.database, { timeout: deadlineMs });
    database.prepare("INSERT INTO notes VALUES (?)").run(text);
  }

  /** Of a cut, or as of a time. */
  async function restore(at: CutRef | string, group = "notes"): Promise<string> {
    const to = join(cluster.directory, `restored-${++restored}`);
    const wanted = typeof at === "string" ? { time: at } : { cut: { epoch: at.epoch, seq: at.seq } };
    await bravo.control.restore(group, { at: wanted, to });
    return to;
  }

  /** A cut is durable before it is a point: it has to be applied. The newest stays one, however old it is. */
  async function becomesPoint(cut: CutRef | undefined, group = "notes"): Promise<void> {
    await until(
      async () => (await bravo.control.points(group)).points[0]?.seq === cut?.seq,
      deadlineMs,
      "the newest cut is a point",
    );
  }

  async function restoredContent(at: CutRef | string): Promise<Content> {
    const to = await restore(at);
    return await contentOf(join(to, "files"), join(to, "db", "notes.db"));
  }

  it("gives by cut and by time what the source had then, while an application writes on", async () => {
    const data = { database: join(alpha.dataDirectory, "ledger.db"), files: join(alpha.dataDirectory, "files") };
    await using writer = startWriter(data, { commitsPerSecond: 50, stepsPerSecond: 20 });
    writer.process.stdout?.resume();
    await until(
      async () => await readFile(join(data.files, "journal.log")).catch(() => undefined),
      deadlineMs,
      "writes",
    );
    await alpha.start();
    for (const group of ["notes", "busy"])
      await until(async () => (await bravo.group(group))?.cut ?? undefined, deadlineMs, `${group} has a first cut`);

    const states = [
      await recorded(async () => {
        await writeFile(join(source.files, "file"), "first");
        await note("first");
      }),
      await recorded(async () => {
        await mkdir(join(source.files, "folder"));
        await rename(join(source.files, "file"), join(source.files, "folder", "moved"));
        await writeFile(join(source.files, "file"), "another");
        await note("second");
      }),
      await recorded(async () => {
        await rm(join(source.files, "folder"), { recursive: true });
        await writeFile(join(source.files, "file"), "third".repeat(20_000));
        using database = new DatabaseSync(source.database, { timeout: deadlineMs });
        database.exec("DELETE FROM notes WHERE text = 'first'");
        // As far as the agent's reader lets it: that one never ends.
        database.exec("PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint(TRUNCATE)");
      }),
    ];
    await becomesPoint(states.at(-1)?.cut);
    expect(new Set(states.map(({ content }) => JSON.stringify(content))).size).to.equal(3);
    for (const { cut, content } of states) expect(await restoredContent(cut)).to.deep.equal(content);

    const { points } = await bravo.control.points("notes");
    for (const { cut, content } of states) {
      const takenAt = points.find(({ seq }) => seq === cut.seq)?.takenAt;
      expect(await restoredContent(takenAt ?? ""), `as of ${takenAt}`).to.deep.equal(content);
    }
    const [first] = states;
    const to = join(cluster.directory, "by-hand");
    const at = `${first?.cut.epoch}.${first?.cut.seq}`;
    const told = await bravo.cli("restore", "notes", "--at", at, "--to", to);
    expect(told, told.stderr).to.include({ code: 0 });
    expect(told.stdout).to.include(`restored cut ${at}, taken `);
    expect(await contentOf(join(to, "files"), join(to, "db", "notes.db"))).to.deep.equal(first?.content);
    const tooOld = await bravo.cli("restore", "notes", "--at", "1h ago", "--to", join(cluster.directory, "none"));
    expect(tooOld.code).to.equal(1);
    expect(tooOld.stderr).to.match(/no recovery point is as old as/);

    const busy = await until(
      async () => {
        const answer = await bravo.control.points("busy");
        return answer.points.length > 5 && answer;
      },
      deadlineMs,
      "more than five points of the busy group",
    );
    for (const point of [busy.points[0], busy.points[Math.floor(busy.points.length / 2)], busy.points.at(-1)]) {
      const to = await restore(point!, "busy");
      const audit = auditCopy(join(to, "db", "ledger.db"), join(to, "files"));
      expect(isWhole(audit), JSON.stringify(audit)).to.equal(true);
      expect(audit.ledger.last).to.be.above(0);
    }
    expect(await bravo.control.verify("busy", { quick: false })).to.deep.include({ ok: true, differencesTotal: 0 });
  });

  it("gives a point that was overwritten many times since", async () => {
    const file = join(source.files, "file");
    const states = [];
    for (let round = 0; round < 25; round++)
      states.push(
        await recorded(async () => {
          // In place, the same blocks again and again; and a rewrite now and then.
          await using handle = await open(file, "r+");
          await handle.write(`round ${round} `.repeat(500), 0);
          if (round % 5 === 0) await writeFile(file, `rewritten ${round}`.repeat(3000));
          await note(`round ${round}`);
        }),
      );
    await becomesPoint(states.at(-1)?.cut);
    for (const index of [0, 1, 12, 24]) {
      const { cut, content } = states[index]!;
      expect(await restoredContent(cut), `round ${index}`).to.deep.equal(content);
    }
  });

  it("drops points that are older than retention keeps", async () => {
    const file = join(alpha.dataDirectory, "short", "file");
    const cuts: CutRef[] = [];
    for (let round = 1; round <= 5; round++) {
      await writeFile(file, `${round}`);
      const { cut } = await alpha.control.wait("short", { timeoutMs: deadlineMs, replicas: [] });
      // One by one: where a round is slow, the first of them is dropped before the last one is there.
      await becomesPoint(cut, "short");
      cuts.push(cut);
    }
    const [oldest] = cuts as [CutRef];
    await until(
      async () => (await bravo.control.points("short")).points.every(({ seq }) => seq > oldest.seq),
      deadlineMs,
      "old points are dropped",
    );
    const told = await bravo.cli(
      ...["restore", "short", "--at", `${oldest.epoch}.${oldest.seq}`, "--to", join(cluster.directory, "none")],
    );
    expect(told.code).to.equal(1);
    expect(told.stderr).to.match(/is no recovery point/);
    expect(await readFile(join(bravo.dataDirectory, "short", "file"), "utf8")).to.equal("5");
    expect(await bravo.control.verify("short", { quick: false })).to.include({ ok: true });
  });

  it("keeps history within max_bytes, and what is left of it restores", async () => {
    const file = join(alpha.dataDirectory, "small", "file");
    const contents = new Map<number, string>();
    for (let round = 1; round <= 30; round++) {
      // 100 KiB of other bytes each time: thirty old images are three MiB.
      const content = `${round} `.repeat(50 * 1024).slice(0, 100 * 1024);
      await writeFile(file, content);
      const { cut } = await alpha.control.wait("small", { timeoutMs: deadlineMs, replicas: [] });
      contents.set(cut.seq, content);
    }
    const history = join(bravo.dataDirectory, ".understudy", "small.files", "history");
    await until(
      async () => {
        const newest = (await bravo.control.points("small")).points[0]?.seq;
        const names = await readdir(history);
        // One that is gone by now counts as nothing.
        const sizes = await Promise.all(
          names.map((name) =>
            stat(join(history, name)).then(
              ({ size }) => size,
              () => 0,
            ),
          ),
        );
        const group = await bravo.group("small");
        return (
          newest === [...contents.keys()].at(-1) &&
          sizes.reduce((sum, size) => sum + size, 0) <= 1024 * 1024 &&
          (group?.history.bytes ?? Number.NaN) <= 1024 * 1024
        );
      },
      deadlineMs,
      "history is within its budget",
    );
    const { points } = await bravo.control.points("small");
    // Between two of ours there may be cuts of a file that was just truncated: it really had that state, which costs nothing.
    const ours = points.filter(({ seq }) => contents.has(seq));
    expect(ours.length).to.be.within(3, 12);
    for (const point of ours) {
      const to = await restore(point, "small");
      expect(
        (await readFile(join(to, "files", "file"), "utf8")) === contents.get(point.seq),
        `cut ${point.seq}`,
      ).to.equal(true);
    }
  });

  it("verify is content with the copy, quickly and thoroughly, until a byte of it is flipped", async () => {
    for (const words of [[], ["--quick"]]) {
      const told = await bravo.cli("verify", "notes", ...words);
      expect(told, told.stdout + told.stderr).to.include({ code: 0 });
      expect(told.stdout).to.match(/equal/);
    }
    const path = join(bravo.dataDirectory, "notes", "file");
    {
      await using handle = await open(path, "r+");
      await handle.write("#", 1000);
    }
    const found = await bravo.cli("verify", "notes");
    expect(found.code).to.equal(1);
    expect(found.stdout).to.match(/difference.*\n {2}files "file": /);
    expect((await bravo.cli("verify", "notes", "--quick")).code, "it reads no disk").to.equal(0);
  });
});
