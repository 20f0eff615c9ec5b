import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { ServiceManager } from "../../../deploy/agent/service-manager.ts";
import { createLog, silentLog } from "../../../shared/log.ts";

describe("the manager of services that waits for an agent", () => {
  const path = process.env.PATH;
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "us-manager-"));
    process.env.PATH = `${directory}:${path}`;
  });
  after(async () => {
    process.env.PATH = path;
    await rm(directory, { recursive: true });
  });

  async function program(text: string): Promise<void> {
    await writeFile(join(directory, "systemd-notify"), `#!/bin/sh\n${text}\n`);
    await chmod(join(directory, "systemd-notify"), 0o755);
  }

  it("is told at its socket, of which no hook hears", async () => {
    await program(`echo "$* $NOTIFY_SOCKET" >> ${directory}/told`);
    const environment: NodeJS.ProcessEnv = { NOTIFY_SOCKET: "/run/x", OTHER: "stays" };
    const manager = new ServiceManager(environment);
    expect(environment).to.deep.equal({ OTHER: "stays" });
    await manager.ready(silentLog);
    expect(await readFile(join(directory, "told"), "utf8")).to.equal("--ready /run/x\n");
  });

  it("is left alone where nobody waits", async () => {
    await program(`touch ${directory}/never`);
    await new ServiceManager({}).ready(silentLog);
    expect(await readFile(join(directory, "never")).catch(() => undefined)).to.equal(undefined);
  });

  it("stops nothing where it cannot be told", async () => {
    await program("echo gone >&2; exit 1");
    const said: string[] = [];
    const log = createLog("info", { write: (line) => said.push(line) });
    await new ServiceManager({ NOTIFY_SOCKET: "/run/x" }).ready(log);
    expect(said).to.have.length(1);
    for (const part of [/"manager\.untold"/, /systemd-notify exited with 1/, /gone/]) expect(said[0]).to.match(part);
  });
});
