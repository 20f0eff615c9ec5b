import { parentPort } from "node:worker_threads";
import type { ForkPath, ForkRecord } from "../../replica/rejoin/fork-bundle.ts";
import { dropFork, exportFork, type ForkExported, listForks, showFork } from "../../replica/rejoin/fork-shelf.ts";
import { RealDisk } from "../../shared/durable/real-disk.ts";
import { assert } from "../../shared/errors.ts";
import { PortPeer } from "./port-peer.ts";

/** The thread that reads the forks that are kept on this node, and gives them out. */

export type ForkWorkerCalls = {
  list(argument: { root: string }): (ForkRecord | { readonly name: string; readonly problem: string })[];
  show(argument: { root: string; name: string; pathsMax: number }): { fork: ForkRecord; paths: ForkPath[] };
  export(argument: { root: string; name: string; to: string }): Promise<ForkExported>;
  drop(argument: { root: string; name: string }): void;
  cancel(argument: undefined): void;
  close(argument: undefined): void;
};

export type ForkMainCalls = Record<never, never>;

const disk = new RealDisk();
const cancelled = new AbortController();

assert(parentPort !== null, "runs as a worker");
new PortPeer<ForkWorkerCalls, ForkMainCalls>(
  parentPort,
  {
    list: ({ root }) => listForks(disk, root),
    show: ({ root, name, pathsMax }) => showFork(disk, root, name, pathsMax),
    export: async ({ root, name, to }) => await exportFork(disk, root, { name, to }, cancelled.signal),
    drop: ({ root, name }) => dropFork(disk, root, name),
    cancel() {
      cancelled.abort(new Error("the request was ended by its caller"));
    },
    close() {},
  },
  (error) => {
    throw error;
  },
);
