import { bridge } from "../../../shared/link/bridge.ts";

/** What the tests' authorized_keys force: the bridge alone, as the command line's own verb runs it. */
const [, , socketPath, peer] = process.argv;
try {
  await bridge(socketPath!, peer!, process.stdin, process.stdout);
  process.exit(0);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
}
