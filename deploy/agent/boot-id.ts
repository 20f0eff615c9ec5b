import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";

/** Another one each time the machine is started; where the kernel does not say, each time this is called. */
export async function readBootId(): Promise<string> {
  try {
    return (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  } catch {
    return randomUUID();
  }
}
