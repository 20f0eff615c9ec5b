import { execFile } from "node:child_process";
import { access, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect } from "chai";
import { targetCommands, targetUnit } from "../../deploy/agent/primary-target.ts";
import { runCommandLine } from "../../deploy/cli/command-line.ts";
import { FakeAgent, fakeTerminal, inService, replicaGroup, serveFake, statusWith } from "./cli/fake-agent.ts";

const folder = fileURLToPath(new URL("../../deploy/systemd/", import.meta.url));
const docs = fileURLToPath(new URL("../../deploy/docs/role.md", import.meta.url));

/** Section to key to values, in order; strict: what is no section, assignment or comment fails. */
function parseUnit(text: string): Map<string, Map<string, string[]>> {
  const sections = new Map<string, Map<string, string[]>>();
  let section: Map<string, string[]> | undefined;
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const [, name] = /^\[(\w+)\]$/.exec(line) ?? [];
    if (name !== undefined) {
      section = new Map();
      sections.set(name, section);
      continue;
    }
    const [, key = "", value = ""] = /^(\w+)=(.+)$/.exec(line) ?? [];
    expect(section === undefined ? "" : key, line).to.not.equal("");
    section?.set(key, [...(section.get(key) ?? []), ...value.split(" ")]);
  }
  return sections;
}

const read = async (name: string) => parseUnit(await readFile(join(folder, name), "utf8"));

describe("units of systemd", () => {
  it("start the agent as one that begins anew whatever ended it, with what it needs in its environment", async () => {
    const unit = await read("understudy.service");
    const service = unit.get("Service")!;
    expect(service.get("ExecStart")).to.deep.equal(["/usr/bin/understudy", "run"]);
    expect(service.get("Restart")).to.deep.equal(["always"]);
    expect(unit.get("Unit")?.get("Before"), "a cluster ends before it, asking it").to.deep.equal(["pacemaker.service"]);
    // It says itself when it answers, by a program; a recovery is never cut short.
    expect(service.get("Type")).to.deep.equal(["notify"]);
    expect(service.get("NotifyAccess")).to.deep.equal(["all"]);
    expect(service.get("TimeoutStartSec")).to.deep.equal(["infinity"]);
    expect(unit.get("Install")?.get("WantedBy")).to.deep.equal(["multi-user.target"]);
    const text = await readFile(join(folder, "understudy.service"), "utf8");
    const variables = [...text.matchAll(/^# {3}(UNDERSTUDY_\w+)=\S+$/gm)].map(([, name]) => name!);
    // Without any of them the command line says which is missing.
    for (const missing of variables) {
      const environment = Object.fromEntries(variables.filter((name) => name !== missing).map((name) => [name, "/x"]));
      const { terminal, written } = fakeTerminal({ environment });
      await runCommandLine(["run"], terminal);
      expect(written.err).to.include(missing);
    }
    expect(variables).to.have.length(3);
  });

  it("have a target for each group, which the agent reaches and leaves, and which starts at no boot", async () => {
    const target = await read("understudy-primary@.target");
    expect([...target.keys()], "nothing installs it").to.deep.equal(["Unit"]);
    expect(targetUnit("app")).to.equal("understudy-primary@app.target");
    const commands = targetCommands("systemd", "my-app");
    expect(commands?.start.run).to.include.members(["--no-block", "start", "understudy-primary@my-app.target"]);
    expect(commands?.stop.run).to.include.members(["stop", "understudy-primary@my-app.target"]);
    expect(commands?.stop.run, "who waits for it waits for the service").to.not.include("--no-block");
    expect(targetCommands(undefined, "app")).to.equal(undefined);
  });

  it("show an application how it hangs on the target, and how it asks itself", async () => {
    const example = /<!-- example[^>]*-->\n```ini\n([\s\S]*?)```/.exec(await readFile(docs, "utf8"))?.[1] ?? "";
    for (const unit of [await read("application.service"), parseUnit(example)]) {
      expect(unit.get("Unit")?.get("PartOf")).to.deep.equal([targetUnit("app")]);
      expect(unit.get("Install")?.get("WantedBy"), "and by nothing else").to.deep.equal([targetUnit("app")]);
      const [program, ...words] = unit.get("Service")?.get("ExecCondition") ?? [];
      expect(program).to.equal("/usr/bin/understudy");
      expect(unit.get("Service")?.get("EnvironmentFile")).to.deep.equal(["/etc/understudy/environment"]);
      const agent = new FakeAgent();
      await using served = await serveFake(agent);
      const ask = async (): Promise<number> =>
        await runCommandLine(words, fakeTerminal({ environment: { UNDERSTUDY_STATE: served.state } }).terminal);
      // 1 to 254: systemd skips the unit.
      expect(await ask()).to.equal(1);
      agent.current = statusWith({ app: { ...replicaGroup, role: "primary", service: inService } });
      expect(await ask()).to.equal(0);
    }
  });

  it("are what systemd itself takes, where it is there", async () => {
    const tool = "/usr/bin/systemd-analyze";
    if (
      !(await access(tool).then(
        () => true,
        () => false,
      ))
    )
      return;
    const scratch = await mkdtemp(join(tmpdir(), "us-units-"));
    try {
      const files = new Map([
        ["understudy.service", "understudy.service"],
        ["understudy-primary@app.target", "understudy-primary@.target"],
        ["application.service", "application.service"],
      ]);
      // Whose programs are there; all else as it is installed.
      for (const [name, from] of files)
        await writeFile(
          join(scratch, name),
          (await readFile(join(folder, from), "utf8")).replaceAll(/=\/usr\/bin\/(?:understudy|app)\b/g, "=/bin/true"),
        );
      const { stderr } = await promisify(execFile)(tool, [
        "verify",
        ...[...files.keys()].map((name) => join(scratch, name)),
      ]);
      expect(stderr).to.equal("");
    } finally {
      await rm(scratch, { recursive: true });
    }
  });
});
