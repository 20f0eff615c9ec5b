import type { Transferable, Worker } from "node:worker_threads";
import { type Calls, PortPeer, RemoteError } from "../workers/port-peer.ts";
import { startWorker } from "../workers/worker-file.ts";

export function isCatalogFailed(error: unknown): error is RemoteError {
  return error instanceof RemoteError && error.code === "CATALOG_FAILED";
}

/** A worker thread of the agent. When it dies, so does the agent: a restart through recovery is safer than going on. */
export class WorkerThread<Main extends Calls, Remote extends Calls> {
  readonly #worker: Worker;
  readonly #peer: PortPeer<Main, Remote>;
  readonly #onDeath: (error: Error) => void;
  /** What it says of its group's catalog is what this node is; others only read there. */
  readonly #ownsCatalog: boolean;
  #closing = false;

  constructor(name: Parameters<typeof startWorker>[0], handlers: Main, onDeath: (error: Error) => void) {
    this.#onDeath = onDeath;
    this.#ownsCatalog = name === "primary-worker" || name === "replica-worker";
    this.#worker = startWorker(name, undefined);
    this.#peer = new PortPeer<Main, Remote>(this.#worker, handlers, (error) =>
      onDeath(error instanceof Error ? error : new Error(String(error))),
    );
    this.#worker.on("error", (error: Error) => {
      this.#peer.close(error);
      onDeath(error);
    });
    this.#worker.on("exit", (code) => {
      const error = new Error(`worker ${name} ended with code ${code}`);
      this.#peer.close(error);
      if (!this.#closing) onDeath(error);
    });
  }

  async call<K extends keyof Remote & string>(
    name: K,
    argument: Parameters<Remote[K]>[0],
  ): Promise<Awaited<ReturnType<Remote[K]>>> {
    try {
      return await this.#peer.call(name, argument);
    } catch (error) {
      // What is durable nobody knows then, a commit that failed in its sync included. Who cannot open it at all is told so.
      if (this.#ownsCatalog && isCatalogFailed(error) && name !== "open" && name !== "close") this.#onDeath(error);
      throw error;
    }
  }

  note<K extends keyof Remote & string>(
    name: K,
    argument: Parameters<Remote[K]>[0],
    transfer: readonly Transferable[] = [],
  ): void {
    this.#peer.note(name, argument, transfer);
  }

  /** Closes what the worker has open, then ends it. */
  async close(): Promise<void> {
    this.#closing = true;
    try {
      await this.call("close", undefined as Parameters<Remote["close"]>[0]);
    } finally {
      await this.#worker.terminate();
    }
  }
}
