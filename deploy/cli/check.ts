import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access, readdir, stat, statfs } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { ballastFreeBytesMin } from "../../replica/apply/ballast.ts";
import {
  type Address,
  type Command,
  type GroupConfig,
  groupsOf,
  membersOf,
  nodeNamed,
  type StoreOnNode,
  storeOnNode,
} from "../../shared/config/config.ts";
import { loadConfig } from "../../shared/config/load.ts";
import { type ExitCode, exitCodes, explain, isSystemError, UnderstudyError } from "../../shared/errors.ts";
import { executable } from "../../shared/executable.ts";
import { ensureIdentity } from "../../shared/link/identity.ts";
import { nativeCryptoAvailable } from "../../shared/link/ssh-algorithms.ts";
import { membersHint } from "../../shared/session/connect.ts";
import { sizeText } from "../../shared/units.ts";
import { connectControl } from "../control/client.ts";
import { controlSocketPath, groupDirectory, identityDirectory } from "../control/state-layout.ts";
import { clockProbe } from "./check-clock.ts";
import type { CheckContext, Finding, Probe } from "./check-probe.ts";
import { count, table } from "./text.ts";
import { softwareVersion } from "./version.ts";

export interface CheckOptions {
  readonly configPath: string;
  readonly node: string;
  readonly stateDirectory: string;
}

const peerTimeoutMs = 3000;
const stateFreeBytesLow = 2 ** 30;

const probes: readonly Probe[] = [
  { subject: "versions", look: async () => versions() },
  { subject: "ssh addon", look: async () => addon() },
  { subject: "state directory", look: stateDirectory },
  { subject: "identity", look: identity },
  { subject: "listening address", look: ownAddress },
  { subject: "role listener", look: roleListener },
  { subject: "peers", look: peers },
  { subject: "stores", look: stores },
  { subject: "hooks", look: hooks },
  { subject: "members", look: membersAlike },
  clockProbe,
];

/**
 * Looks for what would go wrong. `further` are the probes that need more than this machine's files, such as the clocks
 * of peers.
 * @throws {ConfigurationInvalid | NotConfigured} since nothing else can be looked at without a configuration
 */
export async function checkNode(
  options: CheckOptions,
  signal: AbortSignal,
  further: readonly Probe[] = [],
): Promise<Finding[]> {
  const config = await loadConfig(options.configPath);
  const node = nodeNamed(config, options.node);
  const groups = groupsOf(config, node.name);
  const context: CheckContext = {
    config,
    node,
    groups,
    stateDirectory: options.stateDirectory,
    agentRuns: await agentRuns(options.stateDirectory),
    signal,
  };
  const findings: Finding[] = [ok("configuration", `${config.fileName} is right`)];
  if (groups.length === 0) {
    findings.push(
      warning("configuration", `${node.name} takes part in no group`, "Name it as primary or replica of one."),
    );
  }
  const looked = await Promise.all([...probes, ...further].map((probe) => guarded(probe, context)));
  return [...findings, ...looked.flat()];
}

async function guarded(probe: Probe, context: CheckContext): Promise<Finding[]> {
  try {
    return await probe.look(context);
  } catch (error) {
    const hint = error instanceof UnderstudyError ? error.hint : "";
    return [failed(probe.subject, explain(error), hint)];
  }
}

export function exitCodeOf(findings: readonly Finding[]): ExitCode {
  const levels = findings.map(({ level }) => level);
  if (levels.includes("failed")) return exitCodes.failed;
  return levels.includes("unreachable") ? exitCodes.unreachable : exitCodes.done;
}

export function findingsText(findings: readonly Finding[]): string {
  const rows = findings.map(({ level, subject, message }) => [level, subject, message]);
  const lines = table(["RESULT", "OF", "FOUND"], rows);
  // The hint of a row stands below it, where there is one.
  const text = lines.flatMap((line, index) => {
    const hint = index === 0 ? "" : (findings[index - 1]?.hint ?? "");
    return hint === "" ? [line] : [line, `      ${hint}`];
  });
  const bad = findings.filter(({ level }) => level === "failed" || level === "unreachable").length;
  const warnings = findings.filter(({ level }) => level === "warning").length;
  const summary = bad === 0 ? "Ready to run" : `Not ready: ${count(bad, "finding")}`;
  return `${text.join("\n")}\n${summary}${warnings === 0 ? "" : `, ${count(warnings, "warning")}`}.\n`;
}

function ok(subject: string, message: string): Finding {
  return { subject, level: "ok", message, hint: "" };
}

function warning(subject: string, message: string, hint: string): Finding {
  return { subject, level: "warning", message, hint };
}

function failed(subject: string, message: string, hint: string): Finding {
  return { subject, level: "failed", message, hint };
}

async function agentRuns(state: string): Promise<boolean> {
  try {
    await connectControl(controlSocketPath(state)).status();
    return true;
  } catch (error) {
    if (error instanceof UnderstudyError) return false;
    throw error;
  }
}

function versions(): Finding[] {
  const { node, sqlite } = process.versions;
  return [ok("versions", `understudy ${softwareVersion}, Node ${node}, SQLite ${sqlite}`)];
}

function addon(): Finding[] {
  if (nativeCryptoAvailable()) return [ok("ssh addon", "ssh2 runs with its native addon")];
  const hint = "Run `npm run build:ssh-crypto` (needs python3, make and g++), or install the package for this machine.";
  return [warning("ssh addon", "ssh2 runs without its native addon: a third to a tenth of the speed", hint)];
}

async function stateDirectory({ stateDirectory: state }: CheckContext): Promise<Finding[]> {
  const subject = "state directory";
  const found = await statOrNothing(state);
  if (!found) return [failed(subject, `${state} does not exist`, "Run `understudy init` with the same --state.")];
  const findings: Finding[] = [];
  if ((found.mode & 0o022) !== 0) {
    findings.push(failed(subject, `others may write to ${state}`, `chmod 700 ${state}`));
  }
  if (!(await may(state, constants.R_OK | constants.W_OK | constants.X_OK))) {
    findings.push(failed(subject, `this user may not write to ${state}`, "Run the agent as the directory's owner."));
  }
  const free = await freeBytes(state);
  if (free < stateFreeBytesLow) {
    findings.push(
      warning(subject, `only ${sizeText(free)} are free at ${state}`, "The catalog lives there: make room."),
    );
  }
  if (findings.length === 0) findings.push(ok(subject, `${state}, ${sizeText(free)} free`));
  return findings;
}

async function identity({ node, stateDirectory: state }: CheckContext): Promise<Finding[]> {
  const directory = identityDirectory(state);
  const hint = "Run `understudy init` and put the key that it prints into the configuration, on every node.";
  // Looked for first: a check makes nothing.
  if (!(await statOrNothing(join(directory, "identity"))))
    return [failed("identity", "this node has no identity yet", hint)];
  const { publicKey } = await ensureIdentity(directory);
  if (node.keys.includes(publicKey))
    return [ok("identity", `its key is the one that the configuration has for ${node.name}`)];
  return [failed("identity", `its key is not the one that the configuration has for ${node.name}: ${publicKey}`, hint)];
}

async function ownAddress({ node, agentRuns: running }: CheckContext): Promise<Finding[]> {
  const subject = "listening address";
  const { address } = node;
  if (!address) return [ok(subject, "none: this node dials its peers")];
  if (running) return [ok(subject, `the agent runs`)];
  if (address.kind === "openssh") return [await sshBanner(subject, address)];
  return [await freeToListen(subject, address)];
}

async function roleListener({ node, agentRuns: running }: CheckContext): Promise<Finding[]> {
  const subject = "role listener";
  if (node.roleListener === undefined) return [ok(subject, "none: nobody asks this node over HTTP who is what")];
  return [running ? ok(subject, "the agent runs") : await freeToListen(subject, node.roleListener)];
}

function freeToListen(
  subject: string,
  { host, port }: { readonly host: string; readonly port: number },
): Promise<Finding> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", (error) => {
      const hint = "Give the node an address of this machine and a port that is free.";
      resolve(failed(subject, `cannot listen at ${host}:${port}: ${error.message}`, hint));
    });
    server.listen({ host, port }, () => {
      server.close(() => resolve(ok(subject, `${host}:${port} is free`)));
    });
  });
}

async function peers({ config, node, groups }: CheckContext): Promise<Finding[]> {
  const names = new Set(groups.flatMap(membersOf).filter((name) => name !== node.name));
  return Promise.all(
    [...names].map((name) => {
      const { address } = nodeNamed(config, name);
      return address ? sshBanner(`peer ${name}`, address) : ok(`peer ${name}`, "has no address: it dials this node");
    }),
  );
}

/** That something speaks SSH there; who it is only the handshake of the agents can say. */
function sshBanner(subject: string, { host, port }: Address): Promise<Finding> {
  const unreachable = (message: string): Finding => ({
    subject,
    level: "unreachable",
    message: `${host}:${port} ${message}`,
    hint: "Start the agent (or sshd) there, and look at addresses, routes and firewalls.",
  });
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    let received = "";
    const settle = (finding: Finding): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(finding);
    };
    const timer = setTimeout(
      () => settle(unreachable(`did not answer within ${peerTimeoutMs / 1000} s`)),
      peerTimeoutMs,
    );
    socket.on("error", (error) => settle(unreachable(`cannot be reached: ${error.message}`)));
    socket.on("end", () => settle(unreachable("closed the connection without a word of SSH")));
    socket.on("data", (chunk) => {
      received += chunk.toString("latin1");
      if (received.startsWith("SSH-2.0-")) settle(ok(subject, `${host}:${port} speaks SSH`));
      else if (received.length >= 8) settle(unreachable("speaks something else than SSH"));
    });
  });
}

/** Whether the others name the same members in the same order, as far as a running agent has heard. */
async function membersAlike({ agentRuns: running, stateDirectory: state, groups }: CheckContext): Promise<Finding[]> {
  if (!running) return [ok("members", "the agent does not run: whom the others name is compared when it does")];
  const status = await connectControl(controlSocketPath(state)).status();
  const findings = groups.flatMap(({ name }) =>
    (status.groups[name]?.membersDiffer ?? []).map((other) =>
      failed(
        "members",
        `${other} has a configuration that names other members of ${name}, or in another order`,
        membersHint,
      ),
    ),
  );
  return findings.length > 0 ? findings : [ok("members", "whoever is connected names the same, in the same order")];
}

async function stores(context: CheckContext): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const group of context.groups) {
    for (const configured of group.stores.values()) {
      const store = storeOnNode(configured, context.node.name);
      findings.push(...(await storeFindings(context, group, store)));
    }
  }
  return findings;
}

async function storeFindings(context: CheckContext, group: GroupConfig, store: StoreOnNode): Promise<Finding[]> {
  const subject = `store ${group.name}.${store.name}`;
  const begun = (await statOrNothing(groupDirectory(context.stateDirectory, group.name))) !== undefined;
  const found = await statOrNothing(store.path);
  const findings: Finding[] = [];
  const parent = await nearestDirectory(store.path);
  if (!found && group.primary === context.node.name && !begun) {
    findings.push(
      failed(subject, `${store.path} does not exist`, "The group's first primary has the data: give its path."),
    );
  }
  if (found) findings.push(...(await presentFindings(context, group, store, subject, begun)));
  // The private directory of a copy lies beside it.
  if (!(await may(dirname(store.path), constants.W_OK | constants.X_OK)) && (found || dirname(store.path) === parent)) {
    const hint = "A replica keeps staging and history beside the copy: let the agent's user write there.";
    findings.push(warning(subject, `this user may not write to ${dirname(store.path)}`, hint));
  }
  const free = await freeBytes(parent);
  if (free < group.limits.stagingBytes) {
    const hint = "Make room, or lower limits.staging: a full disk refuses cuts.";
    findings.push(
      warning(subject, `${sizeText(free)} free where up to ${sizeText(group.limits.stagingBytes)} may be staged`, hint),
    );
  }
  const ballast = free < ballastFreeBytesMin ? ", too little for a ballast" : "";
  if (findings.length === 0) findings.push(ok(subject, `${store.path}, ${sizeText(free)} free${ballast}`));
  return findings;
}

async function presentFindings(
  context: CheckContext,
  group: GroupConfig,
  store: StoreOnNode,
  subject: string,
  begun: boolean,
): Promise<Finding[]> {
  const findings: Finding[] = [];
  const found = await stat(store.path);
  const rightType = store.kind === "files" ? found.isDirectory() : found.isFile();
  if (!rightType) {
    const expected = store.kind === "files" ? "a directory" : "a file";
    return [
      failed(subject, `${store.path} is not ${expected}, which the kind ${store.kind} expects`, "Give the right path."),
    ];
  }
  const mode = found.isDirectory() ? constants.R_OK | constants.X_OK : constants.R_OK;
  if (!(await may(store.path, mode))) {
    findings.push(
      failed(subject, `this user may not read ${store.path}`, "Run the agent as root or as the data's owner."),
    );
  }
  const user = process.geteuid?.() ?? 0;
  if (store.kind === "sqlite" && user !== 0 && user !== found.uid) {
    const hint = "Its WAL is held as its owner: run the agent as that user or as root.";
    findings.push(failed(subject, `${store.path} belongs to user ${found.uid}, the agent runs as ${user}`, hint));
  }
  if (store.kind === "files" && user !== 0 && store.owners !== "ignore") {
    const hint = "Run the agent as root, or say `owners: ignore`; until then owners count as partial.";
    findings.push(warning(subject, "only root may give files to other owners", hint));
  }
  if (group.primary !== context.node.name && !begun && !(await isEmpty(store.path))) {
    const hint = `Move it away, or run \`understudy adopt ${group.name}\` once the agent runs.`;
    findings.push(warning(subject, `${store.path} is not empty and no copy of this group`, hint));
  }
  if (store.kind === "files" && group.primary === context.node.name)
    findings.push(...(await attributes(store.path, subject)));
  return findings;
}

const run = promisify(execFile);
const attributeScanMs = 5000;

/** Extended attributes and ACLs are not carried; Node has no call to look for them. */
async function attributes(path: string, subject: string): Promise<Finding[]> {
  const hint = "They are not carried to the replica.";
  const findings: Finding[] = [];
  for (const [what, command, words] of [
    ["extended attributes", "getfattr", ["-R", "-h", "-m", "-", "--absolute-names", path]],
    ["access control lists", "getfacl", ["-R", "-P", "-s", "-p", path]],
  ] as const) {
    try {
      const { stdout } = await run(command, [...words], { timeout: attributeScanMs, maxBuffer: 64 * 1024 });
      const first = /^# file: (.*)$/m.exec(stdout)?.[1];
      if (first !== undefined) findings.push(warning(subject, `${what} are in use, as at ${first}`, hint));
    } catch (error) {
      if (isSystemError(error, "ENOENT")) continue; // The tool is not installed: there is no way to know.
      const text = error instanceof Error && "stdout" in error ? String(error.stdout) : "";
      const first = /^# file: (.*)$/m.exec(text)?.[1];
      if (first !== undefined) findings.push(warning(subject, `${what} are in use, as at ${first}`, hint));
    }
  }
  return findings;
}

async function hooks({ groups, node }: CheckContext): Promise<Finding[]> {
  const findings: Finding[] = await primaryTarget(node);
  for (const group of groups) {
    const commands: [string, Command | undefined][] = Object.entries(group.hooks);
    for (const configured of group.stores.values()) {
      const store = storeOnNode(configured, node.name);
      if (store.kind !== "files") continue;
      commands.push([`${store.name}.list`, store.list]);
      commands.push([`${store.name}.snapshot.create`, store.snapshot?.create]);
      commands.push([`${store.name}.snapshot.remove`, store.snapshot?.remove]);
    }
    for (const [name, command] of commands) {
      // Where the file does not say otherwise it is the same command under another name.
      if (!command || (name === "onFenced" && command === group.hooks.stopService)) continue;
      const subject = `hook ${group.name}.${name}`;
      const [program] = command.run;
      if (await executable(program)) findings.push(ok(subject, program));
      else
        findings.push(
          failed(subject, `${program} is no command that this user may run`, "Give its path, or install it."),
        );
    }
  }
  return findings;
}

async function primaryTarget({ primaryTarget: target }: CheckContext["node"]): Promise<Finding[]> {
  if (target === undefined) return [];
  const programs = target === "systemd" ? ["systemctl"] : [target.start.run[0], target.stop.run[0]];
  const findings: Finding[] = [];
  for (const program of new Set(programs)) {
    const subject = "primary target";
    if (await executable(program)) findings.push(ok(subject, program));
    else
      findings.push(
        failed(subject, `${program} is no command that this user may run`, "Give its path, or install it."),
      );
  }
  return findings;
}

async function statOrNothing(path: string) {
  try {
    return await stat(path);
  } catch (error) {
    if (isSystemError(error, "ENOENT", "ENOTDIR")) return undefined;
    throw error;
  }
}

async function may(path: string, mode: number): Promise<boolean> {
  try {
    await access(path, mode);
    return true;
  } catch (error) {
    if (isSystemError(error, "EACCES", "EPERM", "EROFS", "ENOENT", "ENOTDIR")) return false;
    throw error;
  }
}

async function isEmpty(path: string): Promise<boolean> {
  if (!(await stat(path)).isDirectory()) return false;
  return (await readdir(path)).length === 0;
}

/** The directory that exists, at or above the place where `path` will be. */
async function nearestDirectory(path: string): Promise<string> {
  let directory = dirname(path);
  while (directory !== "/" && !(await statOrNothing(directory))?.isDirectory()) directory = dirname(directory);
  return directory;
}

async function freeBytes(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path);
  return bavail * bsize;
}
