import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { lockDirectory, StateDirectoryInUse } from "../../../shared/durable/directory-lock.ts";
import { readJsonFile, replaceFile, replaceJsonFile, StateFileDamaged } from "../../../shared/durable/durable-files.ts";

describe("durable files", () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "understudy-durable-"));
  });
  afterEach(() => rm(directory, { recursive: true }));

  it("leave the new bytes, the mode asked for and nothing beside, also over what a crash left", async () => {
    const path = join(directory, "state");
    await writeFile(path, "old and longer", { mode: 0o644 });
    await writeFile(`${path}.staged`, "left by a crash, longer than both others", { mode: 0o666 });
    await replaceFile(path, "new");
    expect(await readFile(path, "utf8")).to.equal("new");
    expect((await stat(path)).mode & 0o777).to.equal(0o600);
    await replaceFile(path, new Uint8Array([1, 2]), 0o644);
    expect([...(await readFile(path))]).to.deep.equal([1, 2]);
    expect((await stat(path)).mode & 0o777).to.equal(0o644);
    expect(await readdir(directory)).to.deep.equal(["state"]);
  });

  it("read as JSON what was written, undefined where there is no file, and refuse what is damaged", async () => {
    const path = join(directory, "state.json");
    const decode = (value: unknown) => {
      if (typeof value !== "object" || value === null || !("epoch" in value)) throw new Error("no epoch");
      return value.epoch;
    };
    expect(await readJsonFile(path, decode)).to.equal(undefined);
    await replaceJsonFile(path, { epoch: 7 });
    expect(await readJsonFile(path, decode)).to.equal(7);
    for (const damaged of ["", '{"epoch":', '{"other":1}']) {
      await writeFile(path, damaged);
      const error = await readJsonFile(path, decode).catch((caught: unknown) => caught);
      expect(error).to.be.instanceOf(StateFileDamaged);
    }
  });
});

describe("the lock of a state directory", () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "understudy-lock-"));
  });
  afterEach(() => rm(directory, { recursive: true }));

  const lockModule = new URL("../../../shared/durable/directory-lock.ts", import.meta.url).href;
  const refused = async () => {
    const error = await lockDirectory(directory).catch((caught: unknown) => caught);
    expect(error).to.be.instanceOf(StateDirectoryInUse);
    return String(error);
  };

  it("is refused twice within one process and free again once disposed of", async () => {
    {
      await using _lock = await lockDirectory(directory);
      expect(await refused()).to.contain(`process ${process.pid}`);
      await refused(); // The connection that was refused must not have released the one that holds.
    }
    await using again = await lockDirectory(directory);
    await again[Symbol.asyncDispose]();
    await using _third = await lockDirectory(directory);
    await again[Symbol.asyncDispose](); // A second dispose must not release somebody else's lock.
    await refused();
  });

  it("is refused while another process holds it, names that process, and is free at once when it is killed", async () => {
    const script = `
      const { lockDirectory } = await import(${JSON.stringify(lockModule)});
      await lockDirectory(${JSON.stringify(directory)});
      globalThis.gc();
      console.log("held");
      setInterval(() => globalThis.gc(), 5);`;
    const child = spawn(process.execPath, ["--expose-gc", "--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const exited = once(child, "exit");
    try {
      await once(child.stdout, "data");
      for (let attempt = 0; attempt < 5; attempt++) expect(await refused()).to.contain(`process ${child.pid}`);
    } finally {
      child.kill("SIGKILL");
      await exited;
    }
    await using _lock = await lockDirectory(directory);
  });
});
