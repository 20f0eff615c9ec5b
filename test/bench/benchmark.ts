/** One line of the table: what was measured, against whom, and whether the target was reached. */
export interface Finding {
  readonly what: string;
  readonly ours: string;
  readonly theirs: string;
  /** What the target speaks of, most often a ratio. */
  readonly figure: string;
  readonly target: string;
  readonly reached: boolean | undefined;
}

export interface BenchOptions {
  /** Where the scratch directories are made. */
  readonly directory: string | undefined;
  /** Files, bytes or commits, whatever the benchmark counts; its own default where it is not given. */
  readonly size: number | undefined;
  readonly repeat: number | undefined;
  readonly seconds: number | undefined;
  readonly stopSeconds: number | undefined;
  readonly litestream: string | undefined;
  readonly say: (text: string) => void;
}

export type Benchmark = (options: BenchOptions) => Promise<Finding[]>;

/** `value` against a bound that it must not pass. */
export function atMost(what: string, ours: string, theirs: string, value: number, bound: number, unit = ""): Finding {
  return finding(what, ours, theirs, `${round(value)}${unit}`, `<= ${bound}${unit}`, value <= bound);
}

export function atLeast(what: string, ours: string, theirs: string, value: number, bound: number): Finding {
  return finding(what, ours, theirs, `${round(value)}`, `>= ${bound}`, value >= bound);
}

export function noted(what: string, ours: string, theirs = "", figure = ""): Finding {
  return { what, ours, theirs, figure, target: "", reached: undefined };
}

export function absent(what: string, programs: readonly string[]): Finding {
  return noted(what, "", `not here: ${programs.join(", ")}`);
}

function finding(
  what: string,
  ours: string,
  theirs: string,
  figure: string,
  target: string,
  reached: boolean,
): Finding {
  return { what, ours, theirs, figure, target, reached };
}

export function round(value: number): string {
  if (!Number.isFinite(value)) return "?";
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(value >= 1 ? 2 : 3);
}

export function seconds(ms: number): string {
  return `${round(ms / 1000)} s`;
}

export function milliseconds(ms: number): string {
  return `${round(ms)} ms`;
}

export function mebibytes(bytes: number): string {
  return `${round(bytes / 2 ** 20)} MiB`;
}

/** As a table in markdown, so that it can be put beside the numbers of another machine. */
export function tableOf(findings: readonly Finding[]): string {
  const head = ["what", "ours", "theirs", "figure", "target", "reached"];
  const rows = findings.map((row) => [
    row.what,
    row.ours,
    row.theirs,
    row.figure,
    row.target,
    row.reached === undefined ? "" : row.reached ? "yes" : "NO",
  ]);
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]!.length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column]!)).join(" | ")} |`;
  return [line(head), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n");
}
