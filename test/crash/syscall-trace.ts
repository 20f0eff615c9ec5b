/**
 * Reads what `strace -f -y -xx` wrote: one line for each system call, or two when others came in between. A call has
 * begun at its first line and is done at its last.
 */
export interface SystemCall {
  readonly thread: number;
  readonly name: string;
  /** Of its descriptor, or its first path: as -y shows it. */
  readonly path: string;
  /** Second path of a rename, else "". */
  readonly target: string;
  readonly flags: string;
  /** What was written, where it was asked for. */
  readonly bytes: Buffer;
  readonly result: number;
  /** Line numbers. */
  readonly begun: number;
  readonly done: number;
}

export function parseTrace(text: string): SystemCall[] {
  const calls: SystemCall[] = [];
  const unfinished = new Map<string, { text: string; line: number }>();
  /** Where each descriptor leads that was opened so far: a rename names its directories by /proc/self/fd. */
  const opened = new Map<string, string>();
  for (const [line, whole] of text.split("\n").entries()) {
    const match = /^(\d+) +(.*)$/.exec(whole);
    if (match === null) continue;
    const thread = match[1]!;
    let said = match[2]!;
    let begun = line;
    const cut = /^(.*) <unfinished \.\.\.>$/.exec(said);
    if (cut !== null) {
      unfinished.set(thread, { text: cut[1]!, line });
      continue;
    }
    const resumed = /^<\.\.\. \w+ resumed>(.*)$/.exec(said);
    if (resumed !== null) {
      const first = unfinished.get(thread);
      unfinished.delete(thread);
      // Attached in the middle of it.
      if (first === undefined) continue;
      said = first.text + resumed[1]!;
      begun = first.line;
    }
    const call = /^(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?/.exec(said);
    if (call === null) continue;
    const [, name = "", words = "", result = "", gave] = call;
    const texts = [...words.matchAll(/"((?:\\x[0-9a-f]{2})*)"/g)].map(([, hex = ""]) => unhex(hex));
    const [descriptor] = [...words.matchAll(/^\d+<([^>]*)>/g)].map(([, path = ""]) => decodedPath(path));
    const named = texts.map((bytes) => resolved(bytes.toString("latin1"), opened));
    if (name === "openat" && gave !== undefined) {
      opened.set(result, decodedPath(gave));
      named[0] = decodedPath(gave);
    }
    const writes = descriptor !== undefined && writing.has(name);
    calls.push({
      thread: Number(thread),
      name,
      path: descriptor ?? named[0] ?? "",
      target: name.startsWith("rename") || name.startsWith("link") ? (named[1] ?? "") : "",
      flags: name === "openat" ? words.replace(/^.*",/, "") : "",
      bytes: writes ? Buffer.concat(texts) : Buffer.alloc(0),
      result: Number(result),
      begun,
      done: line,
    });
  }
  return calls;
}

const writing = new Set(["write", "writev", "pwrite64", "sendto", "sendmsg"]);

function unhex(text: string): Buffer {
  return Buffer.from(text.replaceAll("\\x", ""), "hex");
}

function decodedPath(text: string): string {
  return text.includes("\\x") ? unhex(text).toString("latin1") : text;
}

function resolved(path: string, opened: ReadonlyMap<string, string>): string {
  const match = /^\/proc\/self\/fd\/(\d+)(.*)$/.exec(path);
  return match === null ? path : `${opened.get(match[1]!) ?? "unknown"}${match[2]}`;
}
