import { type FileHandle, open } from "node:fs/promises";
import { dirname } from "node:path";
import { syncDirectory } from "../../shared/durable/durable-files.ts";
import { eventLogPath } from "../control/state-layout.ts";

/** Values as JSON has them; bigints become numbers where they are exact, as everywhere towards an operator. */
export type EventFields = Readonly<Record<string, string | number | bigint | boolean | null | readonly string[]>>;

/**
 * Who was what, and when: every change of role, step of a switchover, refusal that was overridden, fork and rejoin. An
 * append-only file of JSON lines in the state directory, for people and their auditors; nothing is decided by it.
 */
export class EventLog implements AsyncDisposable {
  readonly #node: string;
  readonly #file: FileHandle;
  #torn = false;
  #last: Promise<void> = Promise.resolve();

  private constructor(node: string, file: FileHandle) {
    this.#node = node;
    this.#file = file;
  }

  static async open(stateDirectory: string, node: string): Promise<EventLog> {
    const path = eventLogPath(stateDirectory);
    const file = await open(path, "a+", 0o600);
    const { size } = await file.stat();
    if (size > 0) {
      const { buffer } = await file.read(Buffer.alloc(1), 0, 1, size - 1);
      // The last line may be torn by a crash: the next one begins a line of its own.
      if (buffer.toString() !== "\n") await file.appendFile("\n");
    }
    await file.datasync();
    await syncDirectory(dirname(path));
    return new EventLog(node, file);
  }

  /** Resolves when it is durable. Lines are written in the order of the calls. */
  async append(event: string, fields: EventFields): Promise<void> {
    const line = `${JSON.stringify({ at: new Date().toISOString(), node: this.#node, event, ...fields }, plain)}\n`;
    const write = async (): Promise<void> => {
      // What met a full disk may be there in part: it stays a line of its own.
      const text = this.#torn ? `\n${line}` : line;
      this.#torn = true;
      await this.#file.appendFile(text);
      this.#torn = false;
      await this.#file.datasync();
    };
    const turn = this.#last.then(write, write);
    this.#last = turn.catch(() => undefined);
    await turn;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#last;
    await this.#file.close();
  }
}

/** As they would stand in it, for whoever cannot write there. */
export function fieldsText(fields: EventFields): string {
  return JSON.stringify(fields, plain);
}

function plain(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? Number(value) : value;
}
