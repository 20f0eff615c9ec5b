import { execFile } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { AgentStatus, GroupStatus } from "../../../deploy/control/api.ts";
import { Child } from "../../../deploy/demo/child-process.ts";
import { controlOf, keyOf } from "../../../deploy/demo/local-agent.ts";
import { isSystemError } from "../../../shared/errors.ts";
import { until } from "../harness.ts";
import { nodePorts } from "../node-ports.ts";
import { notAsShown } from "./as-shown.ts";

/**
 * The commands of a runbook, run by a shell exactly as they are printed, on directories that stand for machines: what is
 * replaced is where a machine has its files and its address, and nothing else. `understudy` is installed below each machine's
 * /opt, its options are in the environment, and `systemctl` starts and stops what it would on a real one.
 */

export interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const run = promisify(execFile);
const checkout = fileURLToPath(new URL("../../../", import.meta.url));
const places = ["/var/lib/understudy", "/var/tmp", "/etc", "/srv", "/opt"];

/** `$MACHINE` is the machine's directory. Like the unit it waits until the agent says that it answers, or has ended. */
const systemctl = `#!/bin/sh
set -eu
pid=$MACHINE/agent.pid
case "$*" in
  "start understudy")
    rm -f "$MACHINE/agent.ready"
    NOTIFY_SOCKET=$MACHINE/agent.ready nohup understudy run >>"$MACHINE/log" 2>&1 </dev/null &
    echo $! >"$pid"
    looks=0
    while [ ! -e "$MACHINE/agent.ready" ] && kill -0 "$(cat "$pid")" 2>/dev/null; do
      looks=$((looks + 1))
      [ $looks -le 1000 ] || { echo "the agent does not say that it answers" >&2; exit 1; }
      sleep 0.05
    done ;;
  "stop understudy")
    kill "$(cat "$pid")"
    while grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$(cat "$pid")/status"; do sleep 0.05; done
    rm "$pid" ;;
  "restart understudy") "$0" stop understudy && "$0" start understudy ;;
  "enable --now understudy") "$0" start understudy ;;
  "start app")
    test ! -e "$MACHINE/app.fails" || { echo "app failed" >&2; exit 1; }
    touch "$MACHINE/app.runs" ;;
  "stop app")
    test ! -e "$MACHINE/app.stays" || { echo "app does not stop" >&2; exit 1; }
    rm -f "$MACHINE/app.runs" ;;
  "is-active app") if test -e "$MACHINE/app.runs"; then echo active; else echo inactive; exit 3; fi ;;
  "daemon-reload") ;;
  "disable --now app") rm -f "$MACHINE/app.runs" ;;
  "enable app") test -e "$MACHINE/etc/systemd/system/app.service" ;;
  *"start understudy-primary@app.target") touch "$MACHINE/target.reached" ;;
  *"stop understudy-primary@app.target") rm -f "$MACHINE/target.reached" ;;
  *) echo "no such unit: $*" >&2; exit 5 ;;
esac
`;

/** Whoever is told here can ask the agent. */
const notify = `#!/bin/sh
test "$*" = --ready || exit 2
understudy is-primary app >/dev/null
test $? -le 1 && touch "$NOTIFY_SOCKET"
`;

export class ScratchMachines implements AsyncDisposable {
  readonly directory: string;
  readonly names: readonly string[];
  /** Beside that of the test itself, of every command on every machine. */
  readonly environment: Record<string, string> = {};
  /** What else is another one here than in the runbook: addresses, keys, and names that only the day gives. */
  readonly replaced = new Map<string, string>();
  readonly #ports: readonly number[];
  readonly #blocks: ReadonlyMap<string, string>;
  readonly #walked = new Set<string>();
  readonly #mounted: string[] = [];

  private constructor(directory: string, names: readonly string[], ports: readonly number[], runbook: string) {
    this.directory = directory;
    this.names = names;
    this.#ports = ports;
    this.#blocks = blocksOf(runbook);
  }

  /** Machines with `understudy` installed, and the runbook that is walked through on them. */
  static async open(runbook: string, names: readonly string[] = ["alpha", "bravo"]): Promise<ScratchMachines> {
    const directory = await mkdtemp(join(tmpdir(), "us-runbook-"));
    const text = await readFile(join(checkout, "deploy/docs/runbooks", runbook), "utf8");
    const machines = new ScratchMachines(directory, names, await nodePorts(names.length), text);
    for (const name of names) {
      for (const place of ["bin", ...places]) await mkdir(machines.path(name, place), { recursive: true });
      await writeFile(machines.path(name, "bin/systemctl"), systemctl);
      await chmod(machines.path(name, "bin/systemctl"), 0o755);
      await writeFile(machines.path(name, "bin/systemd-notify"), notify);
      await chmod(machines.path(name, "bin/systemd-notify"), 0o755);
      await symlink(machines.path(name, "opt/understudy/understudy"), machines.path(name, "bin/understudy"));
      await symlink(join(checkout, "deploy"), machines.path(name, "opt/understudy"));
      await symlink(process.execPath, machines.path(name, "bin/node"));
    }
    return machines;
  }

  /** Where a machine has a path. */
  path(name: string, path: string): string {
    return join(this.directory, name, path);
  }

  /** A small filesystem of its own. Who may not mount one must not take a test that needs it for passed. */
  async mount(name: string, path: string, size: string): Promise<void> {
    const at = this.path(name, path);
    await mkdir(at, { recursive: true });
    await run("mount", ["-t", "tmpfs", "-o", `size=${size},mode=700`, "understudy-test", at]);
    this.#mounted.push(at);
  }

  /** Writes the configuration of all: `groups` as it would be on real machines. */
  async configure(groups: string): Promise<void> {
    const lines: string[] = ["nodes:"];
    for (const [index, name] of this.names.entries()) {
      const key = await keyOf(this.path(name, "var/lib/understudy"));
      lines.push(`  ${name}: { address: "127.0.0.1:${this.#ports[index]}", key: "${key}" }`);
    }
    for (const name of this.names)
      await writeFile(
        this.path(name, "etc/understudy.yaml"),
        `${lines.join("\n")}\ngroups:\n${this.#onMachine(groups, name, true)}`,
      );
  }

  async start(...names: string[]): Promise<void> {
    for (const name of names.length === 0 ? this.names : names) {
      const { code, stderr } = await this.shell("systemctl start understudy", name);
      if (code !== 0) throw new Error(stderr);
    }
  }

  /** A block of the runbook: each of its lines on the machines that its comment names. The results in this order. */
  async walk(block: string): Promise<Result[]> {
    const results: Result[] = [];
    for (const { command, on } of this.lines(block))
      for (const name of on) results.push(await this.shell(command, name));
    return results;
  }

  /** As `walk`; fails where one of the commands does. */
  async walkWell(block: string): Promise<Result[]> {
    const results = await this.walk(block);
    for (const [index, { code, stdout, stderr }] of results.entries())
      if (code !== 0) throw new Error(`command ${index + 1} of ${block} ended with ${code}: ${stdout}${stderr}`);
    return results;
  }

  /** As `walk`; and what the page shows of it, in `BLOCK shows`, is printed. Also where it says that a command fails. */
  async walkAsShown(block: string): Promise<Result[]> {
    const results = await this.walk(block);
    this.#compare(block, results.map(({ stdout, stderr }) => stdout + stderr).join(""));
    return results;
  }

  /** The one command of a block as a person types it at a terminal, who answers when asked. */
  async answer(block: string, question: string, answer: string): Promise<number> {
    const [line] = this.lines(block);
    const [name = ""] = line?.on ?? [];
    const command = this.#onMachine(line?.command ?? "", name);
    await using child = new Child("script", ["-qec", command, "/dev/null"], {
      cwd: this.directory,
      env: this.#environmentOf(name),
      stdio: "pipe",
    });
    const { stdin, stdout } = child.process;
    let output = "";
    stdout?.setEncoding("utf8").on("data", (text: string) => {
      if (!output.includes(question) && (output + text).includes(question)) stdin?.write(`${answer}\n`);
      output += text;
    });
    const [code] = (await once(child.process, "close")) as [number | null];
    this.#compare(block, output);
    return code ?? -1;
  }

  #compare(block: string, output: string): void {
    const shown = this.#blocks.get(`${block} shows`);
    if (shown === undefined) throw new Error(`the runbook does not show what ${block} prints:\n${output}`);
    this.#walked.add(`${block} shows`);
    const missing = notAsShown(shown, output);
    if (missing !== undefined) throw new Error(`${block} does not print\n${missing}\nbut\n${output}`);
  }

  /** What a file is on a machine, of which the runbook shows it. */
  text(block: string, name: string): string {
    const text = this.#blocks.get(block);
    if (text === undefined) throw new Error(`the runbook has no block with the marker <!-- test: ${block} -->`);
    this.#walked.add(block);
    return this.#onMachine(text, name, true);
  }

  /** Everything that is named `10.0.0.<n>` in the runbook, in the order of the machines, and the keys of all. */
  async placed(): Promise<void> {
    const listeners = await nodePorts(this.names.length);
    for (const [index, name] of this.names.entries()) {
      this.replaced.set(`10.0.0.${index + 1}:7522`, `127.0.0.1:${this.#ports[index]}`);
      this.replaced.set(`10.0.0.${index + 1}:7523`, `127.0.0.1:${listeners[index]}`);
      this.replaced.set(`ssh-ed25519 AAAA-of-${name}`, await keyOf(this.path(name, "var/lib/understudy")));
    }
  }

  lines(block: string): { readonly command: string; readonly on: readonly string[] }[] {
    const text = this.#blocks.get(block);
    if (text === undefined) throw new Error(`the runbook has no block with the marker <!-- test: ${block} -->`);
    this.#walked.add(block);
    return text
      .split("\n")
      .filter((line) => line.trim() !== "")
      .map((command) => {
        const where = /# on (each|[a-z]+)\b/.exec(command)?.[1] ?? "";
        if (where !== "each" && !this.names.includes(where))
          throw new Error(`the runbook does not say on which machine this is run: ${command}`);
        return { command, on: where === "each" ? this.names : [where] };
      });
  }

  /** Blocks that nobody has run. */
  get notWalked(): string[] {
    return [...this.#blocks.keys()].filter((block) => !this.#walked.has(block));
  }

  async shell(command: string, name: string): Promise<Result> {
    const environment = this.#environmentOf(name);
    return await new Promise((resolve) => {
      const words = ["-c", this.#onMachine(command, name)];
      execFile("bash", words, { cwd: this.directory, env: environment }, (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
        resolve({ code, stdout, stderr });
      });
    });
  }

  #environmentOf(name: string): NodeJS.ProcessEnv {
    return {
      ...process.env,
      ...this.environment,
      PATH: `${this.path(name, "bin")}:${process.env.PATH}`,
      MACHINE: this.path(name, ""),
      UNDERSTUDY_CONFIG: this.path(name, "etc/understudy.yaml"),
      UNDERSTUDY_NODE: name,
      UNDERSTUDY_STATE: this.path(name, "var/lib/understudy"),
    };
  }

  async group(name: string, group = "app"): Promise<GroupStatus | undefined> {
    const status: AgentStatus | undefined = await controlOf(this.path(name, "var/lib/understudy"))
      .status()
      .catch(() => undefined);
    return status?.groups[group];
  }

  async until(name: string, wish: (group: GroupStatus) => boolean, deadlineMs = 40_000): Promise<GroupStatus> {
    let last: GroupStatus | undefined;
    return await until(
      async () => {
        last = await this.group(name);
        return last !== undefined && wish(last) ? last : undefined;
      },
      deadlineMs,
      () => `${name}: ${wish.toString()}; it is ${JSON.stringify(last)}`,
    );
  }

  async log(name: string): Promise<string> {
    return await readFile(this.path(name, "log"), "utf8").catch(() => "");
  }

  /** `alpha:/srv/x` is what a copy between machines names. */
  #onMachine(text: string, name: string, quoted = false): string {
    const replaced = new RegExp(
      `(?<![\\w/.])(?:(${this.names.join("|")}):)?(${places.join("|")})(?=[/\\s"',}]|$)`,
      "gm",
    );
    const moved = text.replaceAll(replaced, (_, of: string | undefined, place: string) =>
      quoted ? this.path(name, place) : this.path(of ?? name, place),
    );
    return [...this.replaced].reduce((done, [shown, here]) => done.replaceAll(shown, here), moved);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of this.names) {
      const pid = Number(await readFile(this.path(name, "agent.pid"), "utf8").catch(() => "0"));
      if (pid === 0) continue;
      try {
        process.kill(pid, "SIGKILL");
      } catch (error) {
        if (!isSystemError(error, "ESRCH")) throw error;
      }
    }
    // Until the killed agents have let go of it.
    for (const at of this.#mounted)
      await until(
        async () =>
          await run("umount", [at]).then(
            () => true,
            () => false,
          ),
        10_000,
        `${at} is unmounted`,
      );
    if (process.env.UNDERSTUDY_KEEP) process.stderr.write(`kept: ${this.directory}\n`);
    else await rm(this.directory, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** Marker to text of the fenced block that follows it. */
function blocksOf(markdown: string): Map<string, string> {
  const found = markdown.matchAll(/<!-- test: ([a-z ]+) -->\n```\w+\n([\s\S]*?)```/g);
  return new Map([...found].map(([, name = "", text = ""]) => [name, text]));
}
