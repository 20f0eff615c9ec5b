import { fileURLToPath } from "node:url";
import { Child } from "../child-process.ts";

const inCheckout = import.meta.url.endsWith(".ts");
const writerFile = fileURLToPath(new URL(inCheckout ? "./demo-writer.ts" : "./demo-writer.js", import.meta.url));
const auditorFile = fileURLToPath(new URL(inCheckout ? "./demo-auditor.ts" : "./demo-auditor.js", import.meta.url));

export interface ApplicationData {
  readonly database: string;
  readonly files: string;
}

/** What it says on its standard output is for `Confirmations`. It ends with its standard input. */
export function startWriter(data: ApplicationData, rates: { commitsPerSecond: number; stepsPerSecond: number }): Child {
  const words = [writerFile, data.database, data.files, String(rates.commitsPerSecond), String(rates.stepsPerSecond)];
  return new Child(process.execPath, words, { stdio: ["pipe", "pipe", "inherit"] });
}

/** At a line on its standard input it writes, reads everything, prints its findings and ends. */
export function startAuditor(data: ApplicationData): Child {
  return new Child(process.execPath, [auditorFile, data.database, data.files], { stdio: ["pipe", "pipe", "inherit"] });
}
