import { spawn } from "node:child_process";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { machineMs } from "./sqlite-writer.ts";

/**
 * An application that moves with its primary, as a process of its own: `node following-writer.ts JSON`. It runs on the node
 * whose directory has a file `service`, says so by a file `running`, and commits one numbered row after the other at a
 * rate, on whichever node that is. At the file `end` it prints when each commit returned.
 */
export interface FollowingWriter {
  readonly rate: number;
  readonly nodes: readonly { readonly directory: string; readonly database: string }[];
  /** It ends when this file is there. */
  readonly end: string;
}

export interface Followed {
  /** Monotonic, ms, with the number of the node. */
  readonly commits: readonly (readonly [atMs: number, node: number])[];
}

/** Hooks of a node whose service such a writer is, as configuration in one line. */
export function serviceHooks(directory: (node: string) => string): string {
  const shell = (text: string): string => `[sh, -c, ${JSON.stringify(text)}]`;
  const here = directory("$UNDERSTUDY_NODE");
  const stop = `rm -f "${here}/service"; while [ -e "${here}/running" ]; do sleep 0.001; done`;
  return `    hooks: { stop_service: ${shell(stop)}, start_service: ${shell(`: > "${here}/service"`)} }\n`;
}

export function startFollowingWriter(options: FollowingWriter): { readonly done: Promise<Followed> } {
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), JSON.stringify(options)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let out = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    out += text;
  });
  const done = new Promise<Followed>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) =>
      code === 0 ? resolve(JSON.parse(out) as Followed) : reject(new Error(`the writer ended with ${code}`)),
    );
  });
  return { done };
}

function follow({ rate, nodes, end }: FollowingWriter): Followed {
  const commits: [number, number][] = [];
  const pause = new Int32Array(new SharedArrayBuffer(4));
  while (!existsSync(end)) {
    const node = nodes.findIndex(({ directory }) => existsSync(join(directory, "service")));
    const { directory = "", database: path = "" } = nodes[node] ?? {};
    if (node < 0) {
      Atomics.wait(pause, 0, 0, 1);
      continue;
    }
    writeFileSync(join(directory, "running"), "");
    try {
      using database = new DatabaseSync(path, { timeout: 5000 });
      database.exec("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL");
      const insert = database.prepare("INSERT INTO entries (id, body) VALUES (?, ?)");
      const body = new Uint8Array(200);
      const begun = machineMs();
      for (let n = 0; existsSync(join(directory, "service")) && !existsSync(end); n++) {
        insert.run(commits.length + 1, body);
        commits.push([machineMs(), node]);
        const due = begun + ((n + 1) * 1000) / rate - machineMs();
        if (due > 0) Atomics.wait(pause, 0, 0, due);
      }
    } finally {
      rmSync(join(directory, "running"));
    }
  }
  return { commits };
}

if (import.meta.main) process.stdout.write(`${JSON.stringify(follow(JSON.parse(process.argv[2] ?? "")))}\n`);
