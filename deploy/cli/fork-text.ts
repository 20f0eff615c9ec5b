import { explain, UnderstudyError } from "../../shared/errors.ts";
import { sizeText } from "../../shared/units.ts";
import { cutRefText } from "../control/api.ts";
import type {
  DropAnswer,
  ExportAnswer,
  ForkAnswer,
  ForkDescription,
  ForkHandler,
  ForkPathAnswer,
  ForksAnswer,
  RejoinAnswer,
} from "../control/fork-answers.ts";
import { count, table } from "./text.ts";

/** Forks as a person reads of them. All pure; each ends with a newline. */

export function forksText({ forks, damaged }: ForksAnswer): string {
  const lines: string[] = [];
  if (forks.length > 0) {
    const rows = forks.map(({ name, common, last, counts, promotion }) => [
      name,
      cutRefText(common),
      cutRefText(last),
      countsText(counts),
      `${promotion.node}, epoch ${promotion.epoch}`,
    ]);
    lines.push(...table(["FORK", "COMMON CUT", "LAST CUT", "BEYOND IT", "PROMOTED"], rows));
  }
  for (const { name, problem } of damaged) lines.push(`  ${name}: ${problem}`);
  return lines.length === 0 ? "No fork is kept on this node.\n" : `${lines.join("\n")}\n`;
}

export function forkText({ fork, paths }: ForkAnswer): string {
  const { name, group, node, common, last, promotion, counts, epochs, madeAt } = fork;
  const reigns = epochs.map(({ epoch, firstSeq }) => `${epoch} from cut ${firstSeq} on`).join(", ");
  const lines = [
    `${name}: what ${node} had of ${group} beyond cut ${cutRefText(common)}, when ${promotion.node} went on without it in epoch ${promotion.epoch}.`,
    `Its own last cut is ${cutRefText(last)}, taken ${last.takenAt}; its epochs: ${reigns}. Kept since ${madeAt}.`,
    `${countsText(counts)}; ${count(counts.files, "file")} with ${sizeText(counts.bytes)} are in it.`,
    ...paths.map((path) => `  ${path.what} ${path.store} ${pathText(path)}${contentText(path)}`),
  ];
  const more = counts.created + counts.changed + counts.removed - paths.length;
  if (more > 0) lines.push(`  and ${more} more: all are in paths.jsonl of an export`);
  return `${lines.join("\n")}\n`;
}

export function exportedText({ name, to, files, bytes, metadataPartial }: ExportAnswer): string {
  const partial = metadataPartial === 0 ? "" : `; owner or mode of ${count(metadataPartial, "path")} could not be set`;
  return `exported ${name} to ${to}: ${count(files, "file")}, ${sizeText(bytes)}, all as they were kept${partial}\n`;
}

export function rejoinedText(group: string, { peer, cut, fork }: RejoinAnswer): string {
  const kept =
    fork === null
      ? "there was nothing beyond it"
      : `what was beyond it is kept as ${fork.name}: ${countsText(fork.counts)}, ${sizeText(fork.counts.bytes)}`;
  return `${group}: follows ${peer} from cut ${cutRefText(cut)}; ${kept}\n`;
}

/** What is about to be dropped, as far as it can be read. */
export async function shownFork(agent: Pick<ForkHandler, "showFork">, name: string): Promise<string> {
  try {
    return forkText(await agent.showFork(name));
  } catch (error) {
    if (!(error instanceof UnderstudyError && error.code === "FORK_DAMAGED")) throw error;
    return `${name} cannot be read: ${explain(error)}\n${error.hint}\n`;
  }
}

export function droppedText({ name }: DropAnswer): string {
  return `dropped ${name}\n`;
}

function countsText({ created, changed, removed }: ForkDescription["counts"]): string {
  return `${count(created + changed + removed, "path")} (${created} created, ${changed} changed, ${removed} removed)`;
}

function pathText(path: ForkPathAnswer): string {
  return "path" in path ? JSON.stringify(path.path) : `base64 ${path.pathB64}`;
}

function contentText({ type, size, content }: ForkPathAnswer): string {
  if (type === undefined) return "";
  if (type !== "file") return `: ${type}`;
  const what = { whole: "", blocks: ", its changed blocks", same: ", content as in the common cut", none: "" };
  return `: ${sizeText(size ?? 0)}${what[content ?? "none"]}`;
}
