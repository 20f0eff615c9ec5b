import { Worker } from "node:worker_threads";

/** Starts a worker of this program: beside this module in a checkout, beside the bundle when installed. */
export function startWorker(
  name: "primary-worker" | "replica-worker" | "history-worker" | "scrub-worker" | "fork-worker",
  workerData: unknown,
): Worker {
  const here = import.meta.url;
  const file = here.endsWith(".ts") ? `./${name}.ts` : `./${name}.js`;
  return new Worker(new URL(file, here), { workerData, name });
}
