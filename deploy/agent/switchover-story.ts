import type { EventFields } from "./event-log.ts";
import type { GroupWorkers } from "./group-workers.ts";
import type { SwitchoverRun } from "./switchover-run.ts";

/** What is told of a switchover: to whoever follows it, in the log and in the record of events. */
export class SwitchoverStory {
  readonly #workers: GroupWorkers;
  /** The one that is under way, or was last. */
  run: SwitchoverRun | undefined;

  constructor(workers: GroupWorkers) {
    this.#workers = workers;
  }

  /** A step of it. */
  note(step: string, text: string, fields: EventFields = {}): void {
    const { run } = this;
    run?.step(step, text);
    this.#workers.log.info("switchover.stepped", { step, text, id: run?.id ?? "" });
    this.mark(step, { id: run?.id ?? "", to: run?.to ?? "", ...fields, text });
  }

  /** For the record of events alone. */
  mark(step: string, fields: EventFields): void {
    this.#workers.event(`switchover.${step.replaceAll("-", "_")}`, fields).catch(() => undefined);
  }
}
