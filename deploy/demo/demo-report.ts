import type { PromoteAnswer } from "../control/api.ts";
import type { Confirmations } from "./application/confirmations.ts";
import type { Findings } from "./application/demo-auditor.ts";
import { coveredUpTo } from "./application/documents.ts";

/** What the demo found, as `--json` prints it. Times in ms. */
export interface DemoReport {
  readonly schema: 1;
  /** No commit has a hole before it, no transaction and no file is torn, and nothing that was seen as durable is lost. */
  readonly clean: boolean;
  readonly faults: readonly string[];
  readonly directory: string;
  readonly configuration: string;
  /** One line for each thing that the application confirmed: what, its number, monotonic ns. */
  readonly confirmed: string;
  readonly nodes: Readonly<Record<string, NodePaths>>;
  readonly commits: {
    readonly confirmed: number;
    /** 1 to this one are in the promoted database. */
    readonly present: number;
    readonly holes: number;
    readonly rowsAudited: number;
    readonly unbalancedAccounts: number;
    readonly integrityCheck: string;
  };
  readonly files: {
    readonly confirmed: number;
    /** Every change up to this one is in the promoted files. */
    readonly present: number;
    readonly filesAudited: number;
    readonly torn: readonly string[];
  };
  /** What was confirmed and is not there, in numbers and by the time between the last confirmed and the last present. */
  readonly rpo: {
    readonly commits: number;
    readonly ms: number;
    readonly fileChanges: number;
    readonly filesMs: number;
  };
  /** From the kill to the first commit in the promoted database. */
  readonly rtoMs: number;
  readonly promoteMs: number;
  readonly promoted: { readonly epoch: number; readonly cut: { readonly epoch: number; readonly seq: number } };
  /** The last cut that the replica was seen to have durable before the kill. */
  readonly durableSeen: { readonly epoch: number; readonly seq: number };
}

interface NodePaths {
  readonly database: string;
  readonly files: string;
  readonly state: string;
  readonly log: string;
}

export function reportOf(found: {
  readonly directory: string;
  readonly configPath: string;
  readonly confirmedPath: string;
  readonly nodes: Readonly<Record<string, NodePaths>>;
  readonly confirmations: Confirmations;
  readonly findings: Findings;
  readonly promoted: PromoteAnswer;
  readonly killedAtNs: bigint;
  readonly durableSeen: { readonly epoch: number; readonly seq: number };
}): DemoReport {
  const { confirmations, findings, promoted, durableSeen } = found;
  const { commits, steps } = confirmations;
  const stepPresent = coveredUpTo({ standing: new Map(findings.standing) }, steps.last);
  const ahead = findings.standing.filter(([, number]) => number > steps.last + 1).map(([path]) => path);
  const faults = [
    ...(findings.integrity === "ok" ? [] : [`integrity_check: ${findings.integrity}`]),
    ...(findings.holes === 0 ? [] : [`${findings.holes} commits are missing before the last one`]),
    ...(findings.unbalanced === 0 ? [] : [`${findings.unbalanced} accounts are not what their bookings make`]),
    ...(findings.last <= commits.last + 1 ? [] : [`commit ${findings.last} was never made`]),
    ...findings.torn.map((path) => `${path} is in no state that it ever had`),
    ...ahead.map((path) => `${path} is in a state that was never made`),
    ...(precedes(promoted.cut, durableSeen)
      ? [`cut ${durableSeen.epoch}.${durableSeen.seq} was durable and is lost`]
      : []),
  ];
  return {
    schema: 1,
    clean: faults.length === 0,
    faults,
    directory: found.directory,
    configuration: found.configPath,
    confirmed: found.confirmedPath,
    nodes: found.nodes,
    commits: {
      confirmed: commits.last,
      present: findings.last,
      holes: findings.holes,
      rowsAudited: findings.rows,
      unbalancedAccounts: findings.unbalanced,
      integrityCheck: findings.integrity,
    },
    files: {
      confirmed: steps.last,
      present: stepPresent,
      filesAudited: findings.standing.length + findings.torn.length,
      torn: findings.torn,
    },
    rpo: {
      commits: Math.max(0, commits.last - findings.last),
      ms: round(commits.behindLastMs(findings.last)),
      fileChanges: steps.last - stepPresent,
      filesMs: round(steps.behindLastMs(stepPresent)),
    },
    rtoMs: round(Number(BigInt(findings.wroteAtNs) - found.killedAtNs) / 1e6),
    promoteMs: round(promoted.seconds * 1000),
    promoted: { epoch: promoted.epoch, cut: promoted.cut },
    durableSeen,
  };
}

export function reportText(report: DemoReport): string {
  const { commits, files, rpo, nodes, promoted } = report;
  const { bravo } = nodes;
  const lines = [
    `bravo is primary in epoch ${promoted.epoch}, from cut ${promoted.cut.epoch}.${promoted.cut.seq}.`,
    "",
    `  RTO       ${report.rtoMs} ms from the kill to the first commit in the promoted database (promotion: ${report.promoteMs} ms)`,
    `  RPO       ${rpo.commits} of ${commits.confirmed} confirmed commits lost, the last ${rpo.ms} ms`,
    `            ${rpo.fileChanges} of ${files.confirmed} confirmed file changes lost, the last ${rpo.filesMs} ms`,
    `  database  commits 1 to ${commits.present}, ${count(commits.holes, "hole")}; ${count(commits.rowsAudited, "row")} audited; ${count(commits.unbalancedAccounts, "account")} out of balance; integrity_check: ${commits.integrityCheck}`,
    `  files     ${count(files.filesAudited, "file")} audited, ${files.torn.length} torn`,
    "",
    report.clean
      ? "Everything that is there is whole."
      : `NOT CLEAN:\n${report.faults.map((fault) => `  ${fault}`).join("\n")}`,
    "",
    "Count again:",
    `  ${bravo?.database}`,
    `  ${bravo?.files}`,
    `  ${report.confirmed}  (what the application had confirmed)`,
    "",
  ];
  return lines.join("\n");
}

function precedes(a: { epoch: number; seq: number }, b: { epoch: number; seq: number }): boolean {
  return a.epoch < b.epoch || (a.epoch === b.epoch && a.seq < b.seq);
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}
