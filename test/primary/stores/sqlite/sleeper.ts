/** Does what its arguments say, one after the other; `block` keeps the thread still for longer than the watchdog bears. */
import { Watchdog } from "../../../../primary/stores/sqlite/watchdog.ts";

const watchdog = new Watchdog(100);
for (const order of process.argv.slice(2)) {
  if (order === "arm") await watchdog.arm();
  else if (order === "disarm") watchdog.disarm();
  else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 400);
}
watchdog.close();
