import { copyFile, cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build as bundle, type Metafile } from "esbuild";

/**
 * What is installed: JavaScript, since Node strips no types inside node_modules, and one file for each thread and child
 * process, since each of them loads what it needs by itself. All lie in one directory: a module that starts another
 * names it `./name.ts` in a checkout and `./name.js` beside the bundle.
 *
 *     understudy  main.js  primary-worker.js ...  sshcrypto.node  ocf/  systemd/  LICENSE  THIRD-PARTY-LICENSES.txt
 */

const root = fileURLToPath(new URL("../..", import.meta.url));
const sourceFolders = ["primary", "replica", "shared", "deploy"];

/** Packages in the old module format count on names that a module does not have. */
const oldModuleFormat = `import { createRequire as createBundleRequire } from "node:module";
const require = createBundleRequire(import.meta.url);
const __dirname = import.meta.dirname;
const __filename = import.meta.filename;`;

export async function build(outDirectory: string): Promise<string[]> {
  await rm(outDirectory, { recursive: true, force: true });
  await mkdir(outDirectory, { recursive: true });
  const entries = await entryPoints();
  const { metafile } = await bundle({
    absWorkingDir: root,
    entryPoints: Object.fromEntries([...entries].map(([name, file]) => [name, file])),
    outdir: outDirectory,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node24",
    keepNames: true,
    metafile: true,
    logLevel: "warning",
    // ssh2 asks for it in vain and goes on: it is only a faster way to know the processor.
    external: ["cpu-features"],
    loader: { ".node": "copy" },
    assetNames: "[name]",
    define: { UNDERSTUDY_PROTO: JSON.stringify(await readFile(join(root, "proto/understudy.proto"), "utf8")) },
    banner: { js: oldModuleFormat },
  });
  await copyFile(join(root, "deploy/understudy"), join(outDirectory, "understudy"));
  for (const folder of ["ocf", "systemd"])
    await cp(join(root, "deploy", folder), join(outDirectory, folder), { recursive: true });
  await copyFile(join(root, "LICENSE"), join(outDirectory, "LICENSE"));
  await writeFile(join(outDirectory, "THIRD-PARTY-LICENSES.txt"), await licenses(metafile));
  return (await readdir(outDirectory)).toSorted();
}

/** The command line, and every file that another one starts as a thread or process. */
async function entryPoints(): Promise<Map<string, string>> {
  const entries = new Map([["main", "deploy/cli/main.ts"]]);
  const add = (file: string): void => {
    const name = basename(file, ".ts");
    const other = entries.get(name);
    if (other !== undefined && other !== file) throw new Error(`${other} and ${file} would be one file of the bundle`);
    entries.set(name, file);
  };
  for (const file of await readdir(join(root, "deploy/workers"))) {
    if (file.endsWith("-worker.ts")) add(`deploy/workers/${file}`);
  }
  for (const folder of sourceFolders) {
    for (const entry of await readdir(join(root, folder), { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || !entry.name.endsWith(".ts") || entry.name.endsWith(".d.ts")) continue;
      const path = join(entry.parentPath, entry.name);
      // Imports name the .ts file, so a .js beside a module is always something that it starts.
      for (const [, name] of (await readFile(path, "utf8")).matchAll(/"\.\/([\w-]+)\.js"/g)) {
        add(join(dirname(path), `${name}.ts`).slice(root.length));
      }
    }
  }
  return entries;
}

/** The terms of every package that is in the bundle. */
async function licenses({ inputs }: Metafile): Promise<string> {
  const packages = new Set<string>();
  for (const path of Object.keys(inputs)) {
    const match = /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path);
    if (match?.[1] !== undefined) packages.add(match[1]);
  }
  const texts: string[] = [];
  for (const path of [...packages].toSorted()) {
    const { name, version, license } = JSON.parse(await readFile(join(root, path, "package.json"), "utf8")) as {
      name: string;
      version: string;
      license?: string;
    };
    const file = (await readdir(join(root, path))).find((entry) => /^licen[cs]e/i.test(entry));
    const text = file === undefined ? "" : await readFile(join(root, path, file), "utf8");
    texts.push(`${name} ${version}${license === undefined ? "" : ` (${license})`}\n\n${text.trim()}\n`);
  }
  return texts.join(`\n${"-".repeat(80)}\n\n`);
}

if (import.meta.main) {
  const outDirectory = resolve(process.argv[2] ?? join(root, "dist"));
  const files = await build(outDirectory);
  process.stdout.write(`${outDirectory}: ${files.join(" ")}\n`);
}
