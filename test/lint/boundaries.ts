import { readdir, readFile } from "node:fs/promises";
import { dirname, join, normalize, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { scan } from "./source-scan.ts";

/**
 * The import table of the house style and "the main thread never blocks" as a lint: run by `npm run check`, prints
 * `file:line: what` for each violation and fails when there is one.
 */

export interface Violation {
  readonly file: string;
  readonly line: number;
  readonly what: string;
}

/** Top folders, and what each may import beside itself. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  primary: ["shared"],
  replica: ["shared"],
  shared: [],
  deploy: ["primary", "replica", "shared"],
  test: ["primary", "replica", "shared", "deploy"],
};

/** Where the store kinds are, a folder each. */
const adapters = ["primary/stores/"];

/** Packages that a single place wraps, so that their traps are met once. */
const oneModuleEach: Readonly<Record<string, string>> = {
  ssh2: "shared/link/",
  protobufjs: "shared/wire/",
  chokidar: "primary/watch/",
  yaml: "shared/config/",
  pino: "shared/log.ts",
  "prom-client": "shared/metrics.ts",
  commander: "deploy/cli/",
};

/** Needed to build or test only, so not there where the program is installed. */
const developmentOnly: Readonly<Record<string, string>> = {
  esbuild: "deploy/build/",
  typescript: "test/",
  mocha: "test/",
  chai: "test/",
  "fast-check": "test/",
};

/**
 * Where a call may stand still until the disk answers: code that runs in worker threads or in processes of its own.
 * What runs on the agent's main thread (link, wire, control, agent) is not here.
 */
const mayBlock = [
  "primary/",
  "replica/",
  "shared/durable/",
  "shared/catalog/",
  "shared/manifest/",
  // Reads the wire's schema once, while it is loaded.
  "shared/wire/codec.ts",
  "deploy/workers/",
  "deploy/build/",
  // The processes that the demo replicates for: the writer and the reader of the promoted copy.
  "deploy/demo/application/",
  // A command of its own, which ends when it has looked.
  "deploy/cli/check-clock.ts",
  "test/",
];

/** All that the tables name: what is not there any more is watched over by nobody. */
export const namedPlaces: readonly string[] = [
  ...Object.keys(mayImport),
  ...adapters,
  ...Object.values(oneModuleEach),
  ...Object.values(developmentOnly),
  ...mayBlock,
];

/** @param file relative to the project, with "/" */
export function violationsOf(file: string, source: string): Violation[] {
  const { code, literals } = scan(source);
  const violations: Violation[] = [];
  const report = (line: number, what: string): void => {
    violations.push({ file, line, what });
  };
  for (const { line, value, before } of literals) {
    if (/(?:^|[^\w$.])(?:from|import|import\s*\(|require\s*\()$/.test(before)) {
      for (const what of importFaults(file, value)) report(line, what);
    } else if (/(?:^|[^\w$.])new\s+URL\s*\($/.test(before) && /^\.{1,2}\/.*\.[cm]?[jt]s$/.test(value)) {
      // How worker threads and child processes are named: an import in all but syntax.
      for (const what of importFaults(file, value)) report(line, what);
    }
  }
  if (!mayBlock.some((folder) => file.startsWith(folder))) {
    for (const [index, text] of code.split("\n").entries()) {
      for (const [, name] of text.matchAll(/([A-Za-z]\w*Sync)\s*\(/g)) {
        report(index + 1, `${name}() blocks the thread: only code of workers and child processes may`);
      }
      if (/\bDatabaseSync\b/.test(text.replaceAll(/\bDatabaseSync\s*\(/g, ""))) {
        report(index + 1, "DatabaseSync blocks the thread: only code of workers and child processes may use it");
      }
    }
  }
  return violations;
}

function importFaults(file: string, specifier: string): string[] {
  if (specifier.startsWith("node:")) return [];
  if (!specifier.startsWith(".")) return packageFaults(file, specifier);
  const faults: string[] = [];
  if (!/\.(?:[cm]?ts|json|proto)$/.test(specifier)) faults.push(`"${specifier}" does not name its .ts file`);
  const target = normalize(join(dirname(file), specifier));
  const [from, to] = [topFolder(file), topFolder(target)];
  // Every part may say which version it is.
  if (target === "package.json") return faults;
  if (from !== to && mayImport[from] && !mayImport[from].includes(to)) {
    const allowed = mayImport[from].length === 0 ? "nothing of the others" : mayImport[from].join(", ");
    faults.push(
      `${from}/ imports ${to === ".." ? "from outside the project" : `${to}/`} ("${specifier}"); it may import ${allowed}`,
    );
  }
  const adapter = adapters.find((folder) => target.startsWith(folder));
  if (adapter) {
    if (isStage(file)) {
      faults.push(`a stage imports ${adapter} ("${specifier}"): it knows store kinds by their port only`);
    }
    const [ours, theirs] = [kindFolder(file, adapter), kindFolder(target, adapter)];
    if (ours !== undefined && theirs !== undefined && ours !== theirs) {
      faults.push(`the kind ${ours} imports the kind ${theirs} ("${specifier}")`);
    }
  }
  return faults;
}

function packageFaults(file: string, specifier: string): string[] {
  const name = specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");
  if (file.startsWith("test/")) return [];
  const home = oneModuleEach[name] ?? developmentOnly[name];
  if (home !== undefined && !file.startsWith(home)) return [`the package ${name} is imported outside ${home}`];
  return [];
}

function topFolder(path: string): string {
  return path.split("/")[0]!;
}

/** The steps of the data's way, and what they share: they know store kinds by the ports in shared/ only. */
function isStage(file: string): boolean {
  return ["primary", "replica"].includes(topFolder(file)) && !adapters.some((folder) => file.startsWith(folder));
}

/** The folder of one store kind below `adapter`; undefined for a file that stands beside the kinds. */
function kindFolder(path: string, adapter: string): string | undefined {
  if (!path.startsWith(adapter)) return undefined;
  const [kind, ...rest] = path.slice(adapter.length).split("/");
  return rest.length === 0 ? undefined : kind;
}

/** Every source file of the project below `root`. */
export async function sourceFiles(root: string): Promise<string[]> {
  const files: string[] = [];
  for (const folder of Object.keys(mayImport)) {
    for (const entry of await readdir(join(root, folder), { recursive: true, withFileTypes: true })) {
      const path = relative(root, join(entry.parentPath, entry.name)).replaceAll(sep, "/");
      if (entry.isFile() && /\.[cm]?[jt]s$/.test(path) && !path.includes("/node_modules/")) files.push(path);
    }
  }
  return files.toSorted();
}

async function main(): Promise<void> {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  const files = await sourceFiles(root);
  let count = 0;
  for (const file of files) {
    for (const { line, what } of violationsOf(file, await readFile(join(root, file), "utf8"))) {
      process.stderr.write(`${file}:${line}: ${what}\n`);
      count += 1;
    }
  }
  process.stdout.write(`boundaries: ${files.length} files, ${count} violations\n`);
  // A lint that looked at nothing has shown nothing.
  if (count > 0 || files.length === 0) process.exitCode = 1;
}

if (import.meta.main) await main();
