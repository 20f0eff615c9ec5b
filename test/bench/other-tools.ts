import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { ensureIdentity, identityFileName } from "../../shared/link/identity.ts";
import { startOpenSshServer } from "../shared/link/openssh-server.ts";
import { isInstalled, timed } from "./scratch.ts";

/** rsync, tar and cat over the system's OpenSSH, to an sshd of our own on loopback. */
export interface Ssh {
  readonly port: number;
  readonly user: string;
  readonly keyFile: string;
  readonly client: readonly string[];
}

/** Undefined, with the reason printed into the table by the caller, where OpenSSH is not installed. */
export function missingTools(programs: readonly string[]): string[] {
  return programs.filter((program) => !isInstalled(program === "sshd" ? "/usr/sbin/sshd" : program));
}

export async function startSsh(directory: string, cleanup: AsyncDisposableStack): Promise<Ssh> {
  const home = join(directory, "ssh");
  await mkdir(home, { recursive: true, mode: 0o700 });
  const client = await ensureIdentity(join(home, "client"));
  const keyFile = join(home, "client", identityFileName);
  // The tests' server asks for new keys after each MiB, which would be unfair to whoever is measured through it.
  const server = await startOpenSshServer(home, [client.publicKey], cleanup, [
    "RekeyLimit default none",
    "Subsystem sftp internal-sftp",
  ]);
  const known = join(home, "known_hosts");
  writeFileSync(known, `[127.0.0.1]:${server.port} ${server.hostKey}\n`);
  const options = ["IdentitiesOnly=yes", "BatchMode=yes", `UserKnownHostsFile=${known}`, "LogLevel=ERROR"];
  const flags = ["-p", String(server.port), "-i", keyFile, ...options.flatMap((option) => ["-o", option])];
  return { port: server.port, user: server.user, keyFile, client: ["-F", "/dev/null", ...flags] };
}

export interface RsyncResult {
  readonly ms: number;
  /** What went over its connection, both ways, without SSH's own. */
  readonly wireBytes: number;
}

export async function rsync(ssh: Ssh, from: string, to: string, more: readonly string[] = []): Promise<RsyncResult> {
  const shell = ["ssh", ...ssh.client].join(" ");
  const log = `${to}.rsync-stats`;
  const parameters = ["-a", "--stats", ...more, "-e", shell, from, `${ssh.user}@127.0.0.1:${to}`];
  const ms = await timed("sh", ["-c", 'log=$1; shift; exec rsync "$@" > "$log"', "sh", log, ...parameters]);
  const stats = readFileSync(log, "utf8").replaceAll(",", "");
  const number = (what: string): number => Number(new RegExp(`${what}: (\\d+)`).exec(stats)?.[1] ?? Number.NaN);
  return { ms, wireBytes: number("Total bytes sent") + number("Total bytes received") };
}

export async function tarOverSsh(ssh: Ssh, from: string, to: string): Promise<number> {
  const script = 'from=$1; to=$2; shift 2; mkdir -p "$to"; tar -C "$from" -cf - . | ssh "$@" "tar -C $to -xpf -"';
  return await timed("sh", ["-c", script, "sh", from, to, ...ssh.client, `${ssh.user}@127.0.0.1`]);
}

export async function catOverSsh(ssh: Ssh, from: string, to: string): Promise<number> {
  const script = 'from=$1; to=$2; shift 2; ssh "$@" "cat > $to && sync $to" < "$from"';
  return await timed("sh", ["-c", script, "sh", from, to, ...ssh.client, `${ssh.user}@127.0.0.1`]);
}

/** Where `npm install @flydotio/litestream` put the program, or undefined. */
export function findLitestream(named: string | undefined): string | undefined {
  return [named, "litestream"].find((program) => program !== undefined && isInstalled(program));
}

/** Litestream replicating to the local sshd, as quick as it can be set. */
export function startLitestream(
  program: string,
  ssh: Ssh,
  directory: string,
  database: string,
  replica: string,
  cleanup: AsyncDisposableStack,
): void {
  const config = join(directory, "litestream.yml");
  writeFileSync(
    config,
    [
      "dbs:",
      `  - path: ${database}`,
      "    monitor-interval: 10ms",
      "    replicas:",
      "      - type: sftp",
      `        host: 127.0.0.1:${ssh.port}`,
      `        user: ${ssh.user}`,
      `        key-path: ${ssh.keyFile}`,
      `        path: ${replica}`,
      "        sync-interval: 10ms",
    ].join("\n"),
  );
  const child = spawn(program, ["replicate", "-config", config], { stdio: "ignore" });
  cleanup.defer(async () => {
    if (child.exitCode !== null) return;
    const exited = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    await exited;
  });
}
