import { createHash } from "node:crypto";

/**
 * What the demo's writer does to a directory of files: step after step, each wholly decided by its number. So whoever
 * reads the files can tell, from their bytes alone, which step each of them stands at, and that nothing of it is missing
 * or from another one.
 */

export type Step =
  | { readonly number: number; readonly kind: "replace" | "remove"; readonly path: string }
  | { readonly number: number; readonly kind: "append"; readonly path: typeof journalPath; readonly line: number };

const journalPath = "journal.log";
const documents = 24;

/** Three documents are replaced by a rename, then a line is appended to the journal; now and then one is removed. */
export function stepOf(number: number): Step {
  if (number % 4 === 0) return { number, kind: "append", path: journalPath, line: number / 4 };
  const document = (number * 13 + Math.floor(number / 8)) % documents;
  const path = `folder-${document % 3}/document-${document}.txt`;
  return { number, kind: number % 29 === 5 ? "remove" : "replace", path };
}

/** What a document holds after step `number`: its number, its name, filler of a size that differs, its checksum. */
export function documentText(number: number, path: string): string {
  const lines = 1 + ((number * 7919) % 400);
  const filler = Array.from(
    { length: lines },
    (_, line) => `line ${line} of step ${number}: ${(number * line) % 9973}\n`,
  );
  const body = `step ${number}\npath ${path}\n${filler.join("")}`;
  return `${body}sha256 ${sha256(body)}\n`;
}

/** Line `line` of the journal, which only ever grows. */
export function journalLine(line: number): string {
  const text = `line ${line}, step ${line * 4}`;
  return `${text} ${sha256(text).slice(0, 16)}\n`;
}

/** The step at which the file of this path stands; undefined when it is in no state that the writer ever made. */
export function stepIn(path: string, text: string): number | undefined {
  return path === journalPath ? stepInJournal(text) : stepInDocument(path, text);
}

function stepInDocument(path: string, text: string): number | undefined {
  const number = Number(/^step (\d{1,15})\n/.exec(text)?.[1]);
  if (!Number.isSafeInteger(number) || number < 1) return undefined;
  const step = stepOf(number);
  return step.kind === "replace" && step.path === path && documentText(number, path) === text ? number : undefined;
}

function stepInJournal(text: string): number | undefined {
  const lines = text.split("\n");
  if (lines.pop() !== "") return undefined;
  if (lines.some((line, index) => `${line}\n` !== journalLine(index + 1))) return undefined;
  return lines.length * 4;
}

/** Which steps a directory has: what `coveredUpTo` finds, and in what it is none that the writer could have made. */
export interface FilesAudit {
  /** Where each file that is there stands, by its path. */
  readonly standing: ReadonlyMap<string, number>;
  /** Files in no state that the writer ever made. */
  readonly torn: readonly string[];
}

/**
 * The last step such that it and all before it are in the files: no file is behind it. At most `last`, the last that was
 * made. The files are not of one instant, so some may well be ahead of it.
 */
export function coveredUpTo({ standing }: Pick<FilesAudit, "standing">, last: number): number {
  // A path that is not there may stand at any step that removed it: at the last one, for its own good.
  const removed = new Map<string, number>();
  for (let number = 1; number <= last + 1; number++) {
    const step = stepOf(number);
    if (step.kind === "remove") removed.set(step.path, number);
  }
  for (let number = 1; number <= last; number++) {
    const { path } = stepOf(number);
    if (number > (standing.get(path) ?? removed.get(path) ?? 0)) return number - 1;
  }
  return last;
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
