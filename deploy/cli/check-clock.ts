import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { promisify } from "node:util";
import { groupDirectory } from "../control/state-layout.ts";
import type { CheckContext, Finding, Probe } from "./check-probe.ts";

const run = promisify(execFile);
const futureMsMax = 2000;

/**
 * Nothing is decided by a clock, but people find recovery points by it: is it kept by NTP, and does it stand before a
 * cut that this node has already?
 */
export const clockProbe: Probe = {
  subject: "clock",
  async look(context: CheckContext): Promise<Finding[]> {
    const findings = [await synchronized()];
    for (const { name } of context.groups) {
      const ahead = lastCutMs(join(groupDirectory(context.stateDirectory, name), "catalog.db")) - Date.now();
      if (ahead > futureMsMax) {
        findings.push({
          subject: "clock",
          level: "warning",
          message: `the last cut of ${name} was taken ${Math.round(ahead / 1000)} s in the future of this clock`,
          hint: "Set the clocks of the nodes by NTP: recovery points are found by time.",
        });
      }
    }
    return findings;
  },
};

async function synchronized(): Promise<Finding> {
  const hint = "Set the clocks of the nodes by NTP: recovery points are found by time.";
  try {
    const { stdout } = await run("timedatectl", ["show", "--property", "NTPSynchronized", "--value"], {
      timeout: 3000,
    });
    return stdout.trim() === "yes"
      ? { subject: "clock", level: "ok", message: "kept by NTP", hint: "" }
      : { subject: "clock", level: "warning", message: "not kept by NTP, says timedatectl", hint };
  } catch {
    // No systemd here: that is no fault, and whether another NTP client runs cannot be seen from outside.
    return {
      subject: "clock",
      level: "ok",
      message: `${new Date().toISOString()}; whether NTP keeps it cannot be told here`,
      hint: "",
    };
  }
}

function lastCutMs(catalog: string): number {
  if (!existsSync(catalog)) return 0;
  using db = new DatabaseSync(catalog, { readOnly: true });
  const row = db.prepare("SELECT max(taken_at_us) AS last FROM cuts").get();
  return Number(row?.last ?? 0) / 1000;
}
