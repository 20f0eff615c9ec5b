import { durationText } from "../../shared/units.ts";
import type { GroupStatus } from "../control/api.ts";
import { cutRefText } from "../control/api.ts";
import type { CutRef } from "../control/json-names.ts";
import type { Confirmations } from "./application/confirmations.ts";

/** Some lines of a terminal that are written again in place; elsewhere than on a terminal, one line each time. */
export class LiveBlock {
  readonly #out: NodeJS.WritableStream;
  readonly #tty: boolean;
  #height = 0;

  constructor(out: NodeJS.WritableStream, tty: boolean) {
    this.#out = out;
    this.#tty = tty;
  }

  say(text: string): void {
    this.#height = 0;
    this.#out.write(`${text}\n`);
  }

  show(lines: readonly string[]): void {
    if (!this.#tty) {
      this.#out.write(`${lines.map((line) => line.replaceAll(/ +/g, " ")).join("; ")}\n`);
      return;
    }
    const up = this.#height === 0 ? "" : `\u001b[${this.#height}A`;
    this.#out.write(`${up}${lines.map((line) => `\u001b[2K  ${line}\n`).join("")}`);
    this.#height = lines.length;
  }
}

/** @param secondsLeft infinite where Enter is waited for */
export function liveLines(
  alpha: GroupStatus | undefined,
  bravo: GroupStatus | undefined,
  confirmations: Confirmations,
  secondsLeft: number,
): string[] {
  const follower = alpha?.peers.bravo;
  const cut = (at: CutRef | null | undefined): string => (at ? cutRefText(at) : "none yet");
  const lag = follower?.lag.seconds;
  const behind = typeof lag === "number" ? `${durationText(Math.round(lag * 1000))} behind` : "";
  const when = Number.isFinite(secondsLeft) ? `in ${Math.max(0, Math.ceil(secondsLeft))} s` : "with Enter";
  return [
    `application  ${confirmations.commits.last} commits, ${confirmations.steps.last} file changes confirmed`,
    `alpha        ${alpha?.role ?? "silent"} at cut ${cut(alpha?.cut)}`,
    `bravo        ${bravo?.role ?? "silent"}, ${follower?.state ?? "unknown"}, durable ${cut(bravo?.cut)}, applied ${cut(follower?.applied)}, ${behind}`,
    `${when}: SIGKILL for alpha and the application, promotion of bravo`,
  ];
}
