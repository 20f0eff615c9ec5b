import { execFile, spawn } from "node:child_process";
import { access, appendFile, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { assert, isSystemError } from "../../shared/errors.ts";
import { until } from "../end-to-end/harness.ts";

/**
 * A cluster of Pacemaker and Corosync on this machine: each node has namespaces of its own (net, mount, pid, ipc, uts), its
 * cable ends in a bridge in one more, and this process is its power switch. Needs root and the packages that `.ci/run` names.
 * The file system is shared: what is to be a node's own has a path of its own.
 */

const run = promisify(execFile);
const here = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
export const agentFile = here("../../deploy/ocf/understudy");
const tokenMs = 1000;
export const agentPort = 7522;
/** Before a command: it ends with this process, however that ends. */
export const bound = ["setpriv", "--pdeathsig", "KILL"] as const;

export interface RigOptions {
  readonly nodes: readonly string[];
  /** Whether Pacemaker runs on the nodes, with the switch to fence them and nothing else; without it they are mere machines. */
  readonly cluster: boolean;
  /** Before the nodes boot: what they are to find. A node's own directory is `/run/node` there. */
  readonly prepare?: (directory: string) => Promise<void>;
}

export class Rig implements AsyncDisposable {
  readonly directory: string;
  readonly nodes: ReadonlyMap<string, Machine>;
  /** In the namespace of the switch, which is on the net too. */
  readonly switch: string;
  readonly #power: string;
  /** The switch does not switch. */
  broken = false;
  #watching: Promise<void> | undefined;
  #down = false;

  static async up(options: RigOptions): Promise<Rig> {
    const directory = await mkdtemp(join(tmpdir(), "us-pcmk-"));
    const rig = new Rig(directory, options);
    try {
      await rig.#build(options);
      return rig;
    } catch (error) {
      await rig[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor(directory: string, { nodes, cluster }: RigOptions) {
    this.directory = directory;
    this.#power = join(directory, "power");
    const prefix = `us${process.pid}`;
    this.switch = `${prefix}-sw`;
    this.nodes = new Map(
      nodes.map((name, index) => [
        name,
        new Machine(name, join(directory, name), `${prefix}-${name}`, address(index + 1), this.switch, !cluster),
      ]),
    );
  }

  node(name: string): Machine {
    const node = this.nodes.get(name);
    if (node === undefined) throw new Error(`the rig has no node ${name}`);
    return node;
  }

  async #build({ cluster, prepare }: RigOptions): Promise<void> {
    await mkdir(this.#power);
    await writeFile(join(this.#power, "nodes"), [...this.nodes.keys(), ""].join("\n"));
    const fence = await readFile(here("fence_switch"), "utf8");
    await writeFile(join(this.directory, "fence_switch"), fence.replace("=SWITCH", `=${this.#power}`));
    await writeFile(join(this.directory, "understudy.ocf"), await readFile(agentFile));
    await writeFile(join(this.directory, "corosync.conf"), corosyncConf([...this.nodes.values()]));
    await writeFile(join(this.directory, "cib.xml"), firstCib);
    await removeOrphans();
    await run("ip", ["netns", "add", this.switch]);
    await run("ip", ["-n", this.switch, "link", "set", "lo", "up"]);
    await run("ip", ["-n", this.switch, "link", "add", "br0", "type", "bridge"]);
    await run("ip", ["-n", this.switch, "addr", "add", `${address(254)}/24`, "dev", "br0"]);
    await run("ip", ["-n", this.switch, "link", "set", "br0", "up"]);
    for (const node of this.nodes.values()) await node.plug();
    await prepare?.(this.directory);
    this.#watching = this.#serveSwitch();
    await Promise.all([...this.nodes.values()].map(async (node) => await node.on()));
    if (cluster) await this.online();
  }

  /**
   * Waits until these nodes (all) are members of one partition that has the quorum. Whichever of them is off boots, also when it
   * was being fenced as it was switched on.
   */
  async online(names: readonly string[] = [...this.nodes.keys()], deadlineMs = 120_000): Promise<void> {
    let last = "";
    await until(
      async () => {
        for (const name of names) await this.node(name).on();
        const asked = this.node(names[0]!);
        last = (await asked.run(["crm_mon", "-1", "--output-as=xml"])).stdout;
        return (
          /with_quorum="true"/.test(last) &&
          names.every((name) => {
            const node = new RegExp(`<node name="${name}" [^>]*>`).exec(last)?.[0] ?? "";
            return ['online="true"', 'unclean="false"', 'pending="false"'].every((part) => node.includes(part));
          })
        );
      },
      deadlineMs,
      () => `${names.join(", ")} online; it is ${last}`,
      200,
    );
  }

  /** What the switch was asked for and did, one line each. */
  async switched(): Promise<string[]> {
    const text = await readFile(join(this.directory, "power.log"), "utf8").catch(() => "");
    return text.split("\n").filter((line) => line !== "");
  }

  async #serveSwitch(): Promise<void> {
    while (!this.#down) {
      for (const file of await readdir(this.#power)) {
        if (!file.endsWith(".request")) continue;
        const path = join(this.#power, file);
        const [action = "", name = ""] = (await readFile(path, "utf8")).trim().split(" ");
        await rm(path);
        const code = await this.#switch(action, name);
        await appendFile(join(this.directory, "power.log"), `${new Date().toISOString()} ${action} ${name} ${code}\n`);
        const answer = path.replace(/request$/, "answer");
        await writeFile(`${answer}.new`, `${code}\n`);
        await rename(`${answer}.new`, answer);
      }
      await sleep(50);
    }
  }

  async #switch(action: string, name: string): Promise<number> {
    const node = this.nodes.get(name);
    if (this.broken || node === undefined) return 1;
    switch (action) {
      case "on":
        await node.on();
        return 0;
      case "off":
      case "reboot":
        // One that reboots takes its time, on a real machine: when it is back, says the test.
        await node.off();
        return 0;
      case "status":
        return node.running ? 0 : 2;
      default:
        return 1;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#down = true;
    try {
      await this.#watching;
    } finally {
      // Whatever became of the switch: nodes that run on would keep this process, too.
      await Promise.all([...this.nodes.values()].map(async (node) => await node.off()));
      for (const name of [this.switch, ...[...this.nodes.values()].map(({ space }) => space)]) await removeSpace(name);
    }
    if (process.env.UNDERSTUDY_KEEP) process.stderr.write(`kept: ${this.directory}\n`);
    else await rm(this.directory, { recursive: true, force: true });
  }
}

/** One node: what it is from outside. */
export class Machine {
  readonly name: string;
  readonly home: string;
  readonly space: string;
  readonly address: string;
  readonly #switch: string;
  readonly #bare: boolean;
  #pid: number | undefined;
  /** Said when it is off by then, by whoever cut the power. */
  onOff: (name: string) => Promise<void> = async () => {};

  constructor(name: string, home: string, space: string, at: string, bridge: string, bare: boolean) {
    this.name = name;
    this.home = home;
    this.space = space;
    this.address = at;
    this.#switch = bridge;
    this.#bare = bare;
  }

  get running(): boolean {
    return this.#pid !== undefined;
  }

  async plug(): Promise<void> {
    await mkdir(this.home);
    await run("ip", ["netns", "add", this.space]);
    const ends = ["type", "veth", "peer", "name", "eth0", "netns", this.space];
    await run("ip", ["-n", this.#switch, "link", "add", this.name, ...ends]);
    await run("ip", ["-n", this.#switch, "link", "set", this.name, "master", "br0", "up"]);
  }

  /** Boots it. */
  async on(): Promise<void> {
    if (this.running) return;
    const pidFile = join(this.home, "init.pid");
    await rm(pidFile, { force: true });
    // Whatever ends this process, the node's power is gone with it.
    const spaces = ["--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--propagation", "private"];
    const init = ["sh", here("node-init.sh"), this.home, this.name, this.address, ...(this.#bare ? ["bare"] : [])];
    const log = join(this.home, "console.log");
    const child = spawn(
      "sh",
      ["-c", 'exec "$@" >>"$0" 2>&1', log, ...bound, "ip", "netns", "exec", this.space, "unshare", ...spaces, ...init],
      {
        stdio: "ignore",
        detached: true,
      },
    );
    let ended = false;
    child.once("exit", () => {
      ended = true;
    });
    const pid = await until(
      async () => {
        if (ended) throw new Error(`${this.name} did not boot: ${await readFile(log, "utf8").catch(() => "")}`);
        const text = await readFile(pidFile, "utf8").catch(() => "");
        return text === "" ? undefined : Number(text);
      },
      60_000,
      `${this.name} boots`,
    );
    this.#pid = pid;
  }

  /** The power fails: everything on it is gone at once. */
  async off(): Promise<void> {
    const pid = this.#pid;
    if (pid === undefined) return;
    signal(pid, "SIGKILL");
    await until(async () => !(await exists(`/proc/${pid}`)), 60_000, `${this.name} is off`, 5);
    // The net's namespace outlives the machine, and would answer for an address that moves meanwhile.
    await run("ip", ["-n", this.space, "link", "set", "eth0", "down"]);
    await run("ip", ["-n", this.space, "addr", "flush", "dev", "eth0"]);
    this.#pid = undefined;
    await this.onOff(this.name);
  }

  async cut(): Promise<void> {
    await run("ip", ["-n", this.#switch, "link", "set", this.name, "down"]);
  }

  async heal(): Promise<void> {
    await run("ip", ["-n", this.#switch, "link", "set", this.name, "up"]);
  }

  /** What its agent is asked by others is answered no more, until it boots anew or `talk`; the cluster hears it as before. */
  async stopTalking(): Promise<void> {
    await this.#rule("add", "ipproto", "tcp", "sport", String(agentPort), "blackhole");
  }

  async talk(): Promise<void> {
    await this.#rule("flush");
    await this.#rule("add", "pref", "32766", "lookup", "main");
  }

  async #rule(...words: string[]): Promise<void> {
    const { code, stderr } = await this.run(["ip", "rule", ...words]);
    if (code !== 0) throw new Error(stderr);
  }

  /** The cluster's own programs are gone at once; whatever they have started runs on. */
  async dropCluster(): Promise<void> {
    const cluster = /^(?:corosync|pacemaker)/;
    for (const { pid, command } of await this.#processes()) if (cluster.test(command)) signal(pid, "SIGKILL");
    const left = async () => (await this.#processes()).filter(({ command }) => cluster.test(command));
    await until(async () => (await left()).length === 0, 60_000, `nothing of the cluster runs on ${this.name}`);
  }

  async startCluster(): Promise<void> {
    const { code, stderr } = await this.run(["sh", here("start-cluster.sh"), this.home]);
    if (code !== 0) throw new Error(`the cluster does not start on ${this.name}: ${stderr}`);
  }

  /** It hangs: every process stands still, and goes on with `thaw` as if nothing had been. */
  async freeze(): Promise<void> {
    // What is started while the others are stopped is found the next time.
    for (;;) {
      const running = (await this.#processes()).filter(({ state }) => !/^[TtZX]/.test(state));
      if (running.length === 0) return;
      for (const { pid } of running) signal(pid, "SIGSTOP");
    }
  }

  async thaw(): Promise<void> {
    for (const { pid } of await this.#processes()) signal(pid, "SIGCONT");
  }

  async #processes(): Promise<{ readonly pid: number; readonly state: string; readonly command: string }[]> {
    const init = this.#pid;
    if (init === undefined) return [];
    const { stdout } = await run("lsns", ["--noheadings", "--output", "NS", "--type", "pid", "--task", String(init)]);
    const space = stdout.trim();
    const { stdout: all } = await run("ps", ["-e", "-o", "pidns=,pid=,stat=,comm="]);
    return all
      .split("\n")
      .map((line) => line.trim().split(/\s+/))
      .filter(([at, pid]) => at === space && pid !== String(init))
      .map(([, pid, state = "", command = ""]) => ({ pid: Number(pid), state, command }));
  }

  /** A command on the node; never throws for what it exits with. */
  async run(words: readonly string[], timeoutMs = 30_000): Promise<{ code: number; stdout: string; stderr: string }> {
    const pid = this.#pid;
    if (pid === undefined) return { code: 255, stdout: "", stderr: `${this.name} is off` };
    const enter = ["-t", String(pid), "-m", "-p", "-i", "-u", "-n", "--", ...words];
    try {
      return { code: 0, ...(await run("nsenter", enter, { timeout: timeoutMs, maxBuffer: 64 * 2 ** 20 })) };
    } catch (error) {
      const failed = error as { code?: unknown; stdout?: string; stderr?: string };
      return { code: Number(failed.code ?? 255), stdout: failed.stdout ?? "", stderr: failed.stderr ?? "" };
    }
  }
}

export function address(host: number): string {
  return `10.77.0.${host}`;
}

function signal(pid: number, name: NodeJS.Signals): void {
  // 0 would be this process and all of its group.
  assert(pid > 1, `${pid} is a process of a node`);
  try {
    process.kill(pid, name);
  } catch (error) {
    // It has just ended by itself.
    if (!isSystemError(error, "ESRCH")) throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

/** What a process of these tests left behind that was killed. */
async function removeOrphans(): Promise<void> {
  for (const name of await readdir("/run/netns").catch(() => [])) {
    const pid = /^us(\d+)-/.exec(name)?.[1];
    if (pid === undefined || (await exists(`/proc/${pid}`))) continue;
    await removeSpace(name).catch(async (error: unknown) => {
      // Another process of these tests has just done it.
      if (await exists(`/run/netns/${name}`)) throw error;
    });
  }
}

async function removeSpace(name: string): Promise<void> {
  if (await exists(`/run/netns/${name}`)) await run("ip", ["netns", "del", name]);
}

function corosyncConf(nodes: readonly Machine[]): string {
  const list = nodes
    .map(
      ({ name, address: at }, index) =>
        `  node {\n    ring0_addr: ${at}\n    name: ${name}\n    nodeid: ${index + 1}\n  }`,
    )
    .join("\n");
  return `totem {
  version: 2
  cluster_name: understudy
  transport: knet
  token: ${tokenMs}
  crypto_cipher: none
  crypto_hash: none
}
logging {
  to_logfile: yes
  logfile: /var/log/corosync/corosync.log
  to_syslog: no
  to_stderr: no
}
quorum {
  provider: corosync_votequorum
}
nodelist {
${list}
}
`;
}

/** There from the first start on: the first election does not wait for nodes that nobody knows. */
const firstCib = `<cib crm_feature_set="3.0.14" validate-with="pacemaker-3.7" epoch="1" num_updates="0" admin_epoch="0"><configuration>
<crm_config><cluster_property_set id="cib-bootstrap-options">
<nvpair id="dead" name="dc-deadtime" value="4s"/>
</cluster_property_set></crm_config>
<nodes/>
<resources>
<primitive id="switch" class="stonith" type="fence_switch"><operations>
<op id="switch-monitor" name="monitor" interval="60s" timeout="20s"/></operations></primitive>
</resources>
<constraints/>
</configuration><status/></cib>
`;
