import { closeSync, constants, openSync, readFileSync, unlinkSync, writeSync } from "node:fs";
import type { CommitObserver } from "../../shared/catalog/catalog.ts";
import { isSystemError } from "../../shared/errors.ts";
import { adapterAround } from "../../shared/ports/adapter-around.ts";
import type { Disk } from "../../shared/ports/disk.ts";
import type { StoreAdapter } from "../../shared/ports/store-adapter.ts";

/**
 * A hook for tests that kill the agent: with UNDERSTUDY_STEP_FILE set, the first 64 bytes of that file say at every
 * instant what the worker is about to do, so that whoever kills it can tell afterwards where it died, or wait for a step
 * that is rare. With UNDERSTUDY_KILL_FILE, too, the agent is killed as it comes to the step that this file names, and the file
 * goes. Without the variable nothing is opened, written or wrapped.
 */

const stepBytes = 64;
const path = process.env.UNDERSTUDY_STEP_FILE ?? "";
const killPath = process.env.UNDERSTUDY_KILL_FILE ?? "";
const descriptor = path === "" ? undefined : openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
if (descriptor !== undefined) process.once("exit", () => closeSync(descriptor));

let stage = "start";

/** The worker enters a stage of the data's way; `wait` is none. */
export function enterStage(name: string): void {
  stage = name;
  note(name);
}

function note(step: string): void {
  if (descriptor === undefined) return;
  writeSync(descriptor, step.padEnd(stepBytes), 0);
  if (killPath !== "" && step === stepToDieAt()) {
    unlinkSync(killPath);
    process.kill(process.pid, "SIGKILL");
  }
}

function stepToDieAt(): string | undefined {
  try {
    return readFileSync(killPath, "utf8");
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return undefined;
    throw error;
  }
}

/** For the catalog: which of its commits is under way. With the mark `applying` the copy begins to be written. */
export const traceCommits: { observer: CommitObserver } | Record<never, never> =
  descriptor === undefined
    ? {}
    : {
        observer: (when: "before" | "after", purpose: string) => {
          if (when === "after" && purpose === "applying") stage = "write copy";
          note(`${stage}: ${when === "before" ? "" : "after "}catalog ${purpose}`);
        },
      };

const diskSteps: Partial<Record<keyof Disk, string>> = {
  write: "write",
  writeUncached: "write",
  truncate: "write",
  syncFile: "sync",
  syncDirectory: "sync",
  syncFilesystem: "sync",
  rename: "rename",
  link: "link",
  unlink: "remove",
  removeDirectory: "remove",
  makeDirectory: "make",
  makeSymlink: "make",
  setMeta: "meta",
  setFileMeta: "meta",
  setDirectoryMeta: "meta",
};

/** For the replica's files: which operation is under way. */
export function traceDisk(disk: Disk): Disk {
  if (descriptor === undefined) return disk;
  return new Proxy(disk, {
    get(target, name) {
      const operation: unknown = Reflect.get(target, name, target);
      if (typeof operation !== "function") return operation;
      const step = diskSteps[name as keyof Disk];
      return (...words: unknown[]): unknown => {
        if (step !== undefined) note(`${stage}: ${step}`);
        return operation.apply(target, words);
      };
    },
  });
}

/** For the primary's stores: entering a snapshot, and from then on reading and comparing what is in it. */
export function traceAdapter(adapter: StoreAdapter): StoreAdapter {
  if (descriptor === undefined) return adapter;
  return adapterAround(adapter, {
    enter: async (seen, request, signal) => {
      enterStage("snapshot");
      const view = await adapter.enter(seen, request, signal);
      enterStage("plan");
      return view;
    },
  });
}
