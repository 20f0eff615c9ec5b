import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import { build } from "../../../deploy/build/build.ts";

const run = promisify(execFile);

describe("bundle", () => {
  let directory: string;
  before(async () => {
    // Away from the checkout: nothing may be found in its node_modules.
    directory = await mkdtemp(join(tmpdir(), "us-bundle-"));
  });
  after(() => rm(directory, { recursive: true }));

  it("runs where nothing but Node is installed, with ssh2's native addon", async () => {
    const out = join(directory, "lib");
    const files = await build(out);
    expect(files).to.include.members([
      "main.js",
      "understudy",
      "sshcrypto.node",
      "LICENSE",
      "primary-worker.js",
      "holder.js",
      "ocf",
      "systemd",
    ]);
    const launcher = join(out, "understudy");
    const options = { cwd: directory, env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin` } };
    expect((await run(launcher, ["--version"], options)).stdout).to.equal("0.1.0\n");
    const keyOf = async (node: string): Promise<string> => {
      const { stdout } = await run(
        launcher,
        ["init", "--node", node, "--state", join(directory, node), "--json"],
        options,
      );
      return (JSON.parse(stdout) as { key: string }).key;
    };
    const config = join(directory, "cluster.yaml");
    await writeFile(
      config,
      `nodes:
  alpha: { key: "${await keyOf("alpha")}" }
  bravo: { address: "127.0.0.1:1", key: "${await keyOf("bravo")}" }
groups:
  app: { primary: alpha, replicas: [bravo], stores: { up: { kind: files, path: ${directory} } } }
`,
    );
    const state = join(directory, "alpha");
    const words = ["check", "-c", config, "--node", "alpha", "--state", state, "--json"];
    const checked = await run(launcher, words, options).catch((error: { stdout: string }) => error);
    const { findings } = JSON.parse(checked.stdout) as { findings: { subject: string; level: string }[] };
    expect(findings.find(({ subject }) => subject === "ssh addon")).to.have.property("level", "ok");
    const line = await run(launcher, ["authorize", "bravo", "-c", config, "--state", state], options);
    expect(line.stdout).to.include(`command="${launcher} bridge --peer bravo`);
    expect(await readFile(join(out, "THIRD-PARTY-LICENSES.txt"), "utf8")).to.match(/^ssh2 1\./m);
  });
});
