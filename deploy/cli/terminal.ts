import { createInterface } from "node:readline/promises";

/** What a command may use of the process it runs in; a test gives it something else. */
export interface Terminal {
  readonly out: NodeJS.WritableStream;
  readonly err: NodeJS.WritableStream;
  readonly input: NodeJS.ReadableStream;
  /** Somebody sits there and can answer a question. */
  readonly interactive: boolean;
  readonly environment: NodeJS.ProcessEnv;
  /** SIGINT and SIGTERM. */
  readonly signal: AbortSignal;
}

/** Asks for y or N; anything but a clear yes is a no. */
export async function confirmed(terminal: Terminal, question: string): Promise<boolean> {
  const lines = createInterface({ input: terminal.input, output: terminal.err });
  try {
    const answer = await lines.question(`${question} [y/N] `, { signal: terminal.signal });
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    lines.close();
  }
}
