import { readdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { runCommandLine } from "../../../deploy/cli/command-line.ts";
import { parseConfig } from "../../../shared/config/parse.ts";
import { filesSchema, groupSchema, nodeSchema } from "../../../shared/config/schema.ts";
import { exitCodes } from "../../../shared/errors.ts";
import { createMetrics } from "../../../shared/metrics.ts";
import { fakeTerminal, replicaGroup, statusWith } from "./fake-agent.ts";

const docs = fileURLToPath(new URL("../../../deploy/docs/", import.meta.url));
const read = (name: string) => readFile(join(docs, name), "utf8");

function example(text: string, language: string): string {
  const match = new RegExp(`<!-- example[^>]*-->\n\`\`\`${language}\n([\\s\\S]*?)\`\`\``).exec(text);
  if (match?.[1] === undefined) throw new Error(`no example in ${language}`);
  return match[1];
}

async function help(...words: string[]): Promise<string> {
  const { terminal, written } = fakeTerminal();
  await runCommandLine([...words, "--help"], terminal);
  return written.out;
}

describe("operator's documents", () => {
  it("have an example of the configuration that is right", async () => {
    let letter = 65;
    const text = example(await read("configuration.md"), "yaml").replaceAll("ssh-ed25519 AAAA...", () => {
      const head = Buffer.from("\0\0\0\x0bssh-ed25519\0\0\0\x20", "latin1");
      return `ssh-ed25519 ${Buffer.concat([head, Buffer.alloc(32, letter++)]).toString("base64")}`;
    });
    expect([...parseConfig(text, "example").groups.keys()]).to.deep.equal(["app"]);
  });

  it("name every key of the configuration", async () => {
    const text = await read("configuration.md");
    const keys = [nodeSchema, groupSchema, filesSchema].flatMap((schema) => Object.keys(schema.shape));
    const nested = ["rate", "compress", "keep", "all", "per_minute", "per_hour", "per_day", "max_bytes", "staging"];
    const hooks = ["freeze", "thaw", "stop_service", "start_service", "before_promote", "after_promote", "on_fenced"];
    for (const key of [...keys, ...nested, ...hooks, "snapshot_hold", "create", "remove", "run", "timeout"]) {
      expect(text, key).to.match(new RegExp(`\\b${key}\\b`));
    }
  });

  it("list every event, and no other", async () => {
    const folder = fileURLToPath(new URL("../../../deploy/agent/", import.meta.url));
    const written = new Set<string>();
    for (const file of await readdir(folder)) {
      const text = await readFile(join(folder, file), "utf8");
      for (const [, name] of text.matchAll(/(?<!#)\b(?:event|append)\(\s*"([a-z._]+)"/g)) written.add(name!);
      for (const [, name] of text.matchAll(/"(durability\.\w+ed|group\.(?:paused|resumed))"/g)) written.add(name!);
      for (const [, step] of text.matchAll(/#story\.(?:note|mark)\(\s*"([a-z-]+)"/g))
        written.add(`switchover.${step!.replaceAll("-", "_")}`);
    }
    written.delete("durability.unannounced");
    const rows = (await read("events.md")).split("\n").flatMap((line) => /^\| (`[^|]+)\|/.exec(line)?.[1] ?? []);
    const listed = rows.flatMap((cell) => [...cell.matchAll(/`([a-z._]+)`/g)].map(([, name]) => name!));
    expect(listed.toSorted()).to.deep.equal([...written].toSorted());
  });

  it("show a status that is one, with every key explained", async () => {
    const text = await read("status.md");
    const { db } = replicaGroup.stores;
    expect(JSON.parse(example(text, "json"))).to.deep.equal(
      statusWith({ app: { ...replicaGroup, stores: { db: db! } } }),
    );
    const keys = new Set<string>();
    const collect = (value: unknown): void => {
      if (typeof value !== "object" || value === null || Array.isArray(value)) return;
      for (const [key, inner] of Object.entries(value)) {
        keys.add(key);
        collect(inner);
      }
    };
    collect(JSON.parse(example(text, "json")));
    for (const key of ["app", "alpha", "db", "seq"]) keys.delete(key);
    for (const key of [...keys, "lastFreezeMs", "writerWaitMs", "flag"]) {
      expect(text, key).to.match(new RegExp(`\`(?:\\w+\\.)?${key}\``));
    }
  });

  it("name every command and option, and no other", async () => {
    const text = await read("commands.md");
    const verbs = [...(await help()).matchAll(/^ {2}([a-z-]+) (?:\[|<)/gm)].map(([, verb]) => verb!);
    expect(verbs).to.include("promote");
    const described = [...text.matchAll(/^### `([a-z-]+)(.*)`$/gm)];
    expect(described.map(([, verb]) => verb)).to.have.members(verbs.filter((verb) => verb !== "help"));
    for (const [, verb, line] of described) {
      const section = text.slice(text.indexOf(`### \`${verb}${line}`)).split("\n### ")[0]!;
      const own = [...(await help(verb!)).matchAll(/^ {2}(?:-\w, )?(--[a-z-]+)/gm)].map(([, option]) => option!);
      for (const option of own) {
        if (["--help", "--config", "--node", "--state", "--json"].includes(option)) continue;
        expect(section, `${verb} ${option}`).to.include(option);
      }
      for (const [option] of line!.matchAll(/--[a-z-]+/g)) expect(own, `${verb} ${option}`).to.include(option);
    }
  });

  it("name every exit code", async () => {
    const codes = [...(await read("exit-codes.md")).matchAll(/^\| (\d) +\|/gm)].map(([, code]) => Number(code));
    expect(codes).to.deep.equal(Object.values(exitCodes));
  });

  it("name every metric with its type and labels", async () => {
    using metrics = createMetrics();
    const text = await read("metrics.md");
    const exposed = [...(await metrics.text()).matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(
      ([, name, type]) => `${name} ${type}`,
    );
    const described = [...text.matchAll(/^\| `(understudy_\w+)` +\| (\w+) +\|/gm)].map(
      ([, name, type]) => `${name} ${type}`,
    );
    expect(described).to.have.members(exposed);
  });

  it("link only to what is there", async () => {
    const files = await readdir(docs, { recursive: true });
    for (const name of files.filter((file) => file.endsWith(".md"))) {
      for (const [, target = ""] of (await read(name)).matchAll(/\]\((?!https?:)([^)#]+)\)/g))
        expect(files, name).to.include(join(dirname(name), target));
    }
  });
});
