import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { access, mkdir, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { userInfo } from "node:os";
import { join } from "node:path";
import { ensureIdentity, identityFileName } from "../../../shared/link/identity.ts";
import { nodePorts } from "../../end-to-end/node-ports.ts";

const sshdPath = "/usr/sbin/sshd";

export interface OpenSshServer {
  readonly port: number;
  readonly user: string;
  readonly hostKey: string;
  /** What sshd said so far. */
  said(): string;
}

/**
 * The system's sshd, in the foreground, with a configuration of its own. Fails when there is none: the OpenSSH way of
 * listening is half of what is promised, and a skipped test would promise it unseen.
 */
export async function startOpenSshServer(
  directory: string,
  authorizedKeys: readonly string[],
  cleanup: AsyncDisposableStack,
  /** Lines of configuration that go before ours: the first of a kind counts. */
  more: readonly string[] = [],
): Promise<OpenSshServer> {
  await access(sshdPath).catch((error: unknown) => {
    throw new Error("these tests need OpenSSH's server: apt-get install openssh-server", { cause: error });
  });
  if (process.getuid?.() === 0) await mkdir("/run/sshd", { recursive: true, mode: 0o755 }); // sshd insists on it.
  const identity = await ensureIdentity(join(directory, "sshd"));
  const keysFile = join(directory, "authorized_keys");
  await writeFile(keysFile, `${authorizedKeys.join("\n")}\n`, { mode: 0o600 });
  const port = (await nodePorts(1))[0]!;
  const configuration = [
    ...more,
    `Port ${port}`,
    "ListenAddress 127.0.0.1",
    `HostKey ${join(directory, "sshd", identityFileName)}`,
    `AuthorizedKeysFile ${keysFile}`,
    "PidFile none",
    "StrictModes no",
    "UsePAM no",
    "PasswordAuthentication no",
    "KbdInteractiveAuthentication no",
    "PermitRootLogin prohibit-password",
    "LogLevel VERBOSE",
    // New keys after each MiB, so that every larger transfer of these tests goes through some.
    "RekeyLimit 1M",
  ].join("\n");
  const file = join(directory, "sshd_config");
  await writeFile(file, `${configuration}\n`);
  const sshd = spawn(sshdPath, ["-D", "-e", "-f", file], { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  sshd.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  cleanup.defer(() => stop(sshd));
  await answers(sshd, port, () => said);
  return { port, user: userInfo().username, hostKey: identity.publicKey, said: () => said };
}

async function answers(sshd: ChildProcess, port: number, said: () => string): Promise<void> {
  const end = performance.now() + 10_000;
  for (;;) {
    if (sshd.exitCode !== null || performance.now() > end) throw new Error(`sshd does not run: ${said()}`);
    const socket = connect(port, "127.0.0.1");
    const reached = await new Promise<boolean>((resolve) => {
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    });
    socket.destroy();
    if (reached) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function stop(sshd: ChildProcess): Promise<void> {
  if (sshd.exitCode !== null || sshd.signalCode !== null) return;
  const exited = once(sshd, "exit");
  sshd.kill("SIGTERM");
  await exited;
}
