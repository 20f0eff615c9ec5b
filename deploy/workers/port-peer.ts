import type { Transferable } from "node:worker_threads";
import { catalogProblem } from "../../shared/catalog/catalog-errors.ts";
import { type ExitCode, exitCodes, explain, UnderstudyError } from "../../shared/errors.ts";

/** Methods that one thread offers to another: one argument, one result, both structured-cloneable. */
// biome-ignore lint/suspicious/noExplicitAny: the argument of any method; each call is typed by its own signature.
export type Calls = Record<string, (argument: any, transfer?: undefined) => unknown>;

/** What a Worker, seen from outside, and a MessagePort, seen from inside, have in common. */
interface Port {
  postMessage(message: unknown, transfer?: readonly Transferable[]): void;
  on(event: "message", listener: (message: Envelope) => void): unknown;
}

type Envelope =
  | { readonly kind: "call"; readonly id: number; readonly name: string; readonly argument: unknown }
  | { readonly kind: "note"; readonly name: string; readonly argument: unknown }
  | { readonly kind: "result"; readonly id: number; readonly value: unknown }
  | { readonly kind: "failure"; readonly id: number; readonly error: PlainError };

/** An error of another thread: its class stayed there, what it says came along. */
export class RemoteError extends UnderstudyError {
  readonly code: string;
  readonly remedy: "retry" | "replan" | "stop";
  readonly state: string;
  readonly hint: string;
  override readonly exitCode: ExitCode;
  constructor(plain: PlainError) {
    super(plain.message);
    this.code = plain.code;
    this.remedy = plain.remedy;
    this.state = plain.state;
    this.hint = plain.hint;
    this.exitCode = plain.exitCode;
    if (plain.stack !== undefined) this.stack = plain.stack;
  }
}

export interface PlainError {
  readonly code: string;
  readonly message: string;
  readonly remedy: "retry" | "replan" | "stop";
  readonly state: string;
  readonly hint: string;
  readonly exitCode: ExitCode;
  readonly stack: string | undefined;
}

export function plainError(failure: unknown): PlainError {
  const error = catalogProblem(failure) ?? failure;
  if (error instanceof UnderstudyError) {
    const { code, remedy, state, hint, exitCode, stack } = error;
    return { code, message: explain(error), remedy, state, hint, exitCode, stack };
  }
  return {
    code: error instanceof Error ? error.name : "ERROR",
    message: explain(error),
    remedy: "stop",
    state: "Nothing more is done by this part of the agent.",
    hint: "This is a fault of the program or of the machine: see the log.",
    exitCode: exitCodes.failed,
    stack: error instanceof Error ? error.stack : undefined,
  };
}

/**
 * One end of a pair of threads that call each other. Calls are answered in any order, notes not at all; messages arrive
 * in the order in which they were sent.
 */
export class PortPeer<Local extends Calls, Remote extends Calls> {
  readonly #port: Port;
  readonly #handlers: Local;
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #onFailedNote: (error: unknown) => void;
  #next = 1;
  #closed: Error | undefined;

  constructor(port: Port, handlers: Local, onFailedNote: (error: unknown) => void) {
    this.#port = port;
    this.#handlers = handlers;
    this.#onFailedNote = onFailedNote;
    port.on("message", (message) => this.#receive(message));
  }

  async call<K extends keyof Remote & string>(
    name: K,
    argument: Parameters<Remote[K]>[0],
    transfer: readonly Transferable[] = [],
  ): Promise<Awaited<ReturnType<Remote[K]>>> {
    if (this.#closed !== undefined) throw this.#closed;
    const id = this.#next++;
    const answer = Promise.withResolvers<unknown>();
    this.#waiting.set(id, answer);
    this.#port.postMessage({ kind: "call", id, name, argument } satisfies Envelope, transfer);
    return (await answer.promise) as Awaited<ReturnType<Remote[K]>>;
  }

  note<K extends keyof Remote & string>(
    name: K,
    argument: Parameters<Remote[K]>[0],
    transfer: readonly Transferable[] = [],
  ): void {
    if (this.#closed === undefined)
      this.#port.postMessage({ kind: "note", name, argument } satisfies Envelope, transfer);
  }

  /** The other thread is gone: every waiting call fails with this. */
  close(error: Error): void {
    this.#closed ??= error;
    for (const answer of this.#waiting.values()) answer.reject(error);
    this.#waiting.clear();
  }

  #receive(message: Envelope): void {
    switch (message.kind) {
      case "call":
        this.#answer(message.id, message.name, message.argument).catch(this.#onFailedNote);
        return;
      case "note":
        this.#run(message.name, message.argument).catch(this.#onFailedNote);
        return;
      case "result":
        this.#take(message.id)?.resolve(message.value);
        return;
      case "failure":
        this.#take(message.id)?.reject(new RemoteError(message.error));
        return;
    }
  }

  #take(id: number): PromiseWithResolvers<unknown> | undefined {
    const answer = this.#waiting.get(id);
    this.#waiting.delete(id);
    return answer;
  }

  async #answer(id: number, name: string, argument: unknown): Promise<void> {
    try {
      const value = await this.#run(name, argument);
      this.#port.postMessage({ kind: "result", id, value } satisfies Envelope);
    } catch (error) {
      this.#port.postMessage({ kind: "failure", id, error: plainError(error) } satisfies Envelope);
    }
  }

  async #run(name: string, argument: unknown): Promise<unknown> {
    const handler = this.#handlers[name];
    if (handler === undefined) throw new Error(`no method ${name} in this thread`);
    return await handler(argument);
  }
}
