import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { PlannedSwitchovers } from "../../../deploy/agent/planned-switchover.ts";

describe("a planned switchover", () => {
  let directory: string;
  const said: string[] = [];
  const plan = { to: "bravo", at: new Date(Date.now() + 3_600_000).toISOString(), accept: [], by: "root" };
  const plans = (): PlannedSwitchovers =>
    new PlannedSwitchovers(
      join(directory, "planned.json"),
      {
        due: async () => void said.push("due"),
        missed: async () => void said.push("missed"),
        damaged: async ({ code }) => void said.push(code),
      },
      (error) => said.push(String(error)),
    );
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "us-planned-"));
    said.length = 0;
  });
  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  it("that cannot be read is put aside and told, and keeps no agent from starting", async () => {
    await writeFile(join(directory, "planned.json"), '{"to":"bra');
    const found = plans();
    await found.load();
    expect(found.plan).to.equal(undefined);
    expect(said).to.deep.equal(["STATE_FILE_DAMAGED"]);
    expect(await readdir(directory)).to.deep.equal(["planned.json.damaged"]);
    await found.set(plan);
    found.stop();
  });

  it("is there for whoever looks before it is written down, and what is taken back meanwhile stays so", async () => {
    const made = plans();
    const set = made.set(plan);
    expect(made.plan).to.equal(plan);
    const taken = made.cancel();
    await Promise.all([set, taken]);
    expect(await taken).to.equal(plan);
    expect(await readdir(directory)).to.deep.equal([]);
    await made.set(plan);
    expect(JSON.parse(await readFile(join(directory, "planned.json"), "utf8"))).to.deep.equal(plan);
    made.stop();
  });
});
