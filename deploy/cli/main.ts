import { runCommandLine } from "./command-line.ts";

const interrupted = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  // The second one is the system's own: whoever asks twice does not want to wait.
  process.once(signal, () => interrupted.abort(new Error(`ended by ${signal}`)));
}
// `understudy points | head` closes the pipe: that is the reader's right and no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

process.exit(
  await runCommandLine(process.argv.slice(2), {
    out: process.stdout,
    err: process.stderr,
    input: process.stdin,
    interactive: process.stdin.isTTY === true && process.stderr.isTTY === true,
    environment: process.env,
    signal: interrupted.signal,
  }),
);
