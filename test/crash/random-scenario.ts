import type { ModelSource } from "../model/model-store.ts";
import { abort, apply, commit, receive, type Scenario, type Step, whole } from "./crash-matrix.ts";
import type { Change, Changes } from "./recorded-cuts.ts";
import { seededRandom } from "./seeded-random.ts";

const cutCount = 7;

/** A few cuts of anything that a source may do, taken in batches as chance has it; the same one for the same seed. */
export function randomScenario(seed: number): Scenario {
  const random = seededRandom(seed);
  const below = (end: number): number => Math.floor(random() * end);
  const changes: Changes[] = [];
  for (let cut = 1; cut <= cutCount; cut++) {
    // Decided when it is recorded, on what is there then; the generator is its own, so that recording twice is the same.
    const round = (number: number): Change => {
      return ({ tree }, text) => {
        const own = seededRandom(seed * 1000 + cut + number / 10);
        const count = cut === 1 && number === 0 ? 12 : 1 + Math.floor(own() * 5);
        for (let i = 0; i < count; i++) act(tree!, text, (end) => Math.floor(own() * end));
        // A cut that changes nothing is none.
        tree!.write("counter", text(20 + cut));
      };
    };
    // A first copy is built while it comes, also of what changes until it is whole.
    changes.push(cut === 1 ? [0, 1, 2].map(round) : round(0));
  }
  const steps: Step[] = [...whole(1)];
  for (let cut = 2; cut <= cutCount; cut++) {
    if (below(6) === 0) steps.push(commit, receive(cut, 0, random()), abort);
    steps.push(receive(cut));
    if (below(3) > 0) steps.push(commit);
    if (steps.at(-1) === commit && below(2) === 0) steps.push(apply);
  }
  steps.push(commit, apply);
  return {
    name: `random scenario ${seed}`,
    changes,
    steps,
    crashFrom: 3,
    keepHistory: below(4) > 0,
    limits: {
      singleSyncsMax: [0, 2, 64][below(3)]!,
      resumeBytesMin: [4096, 1 << 20][below(2)]!,
      batchBytesMax: [1, 20_000, 1 << 20][below(3)]!,
    },
  };
}

function act(tree: ModelSource, text: (length: number) => Uint8Array, below: (end: number) => number): void {
  const paths = [...tree.nodes.keys()].filter((path) => path !== "" && path !== "counter");
  const files = paths.filter((path) => tree.nodes.get(path)!.type === "file");
  const directories = [...tree.nodes.keys()].filter((path) => tree.nodes.get(path)!.type === "directory");
  const pick = <T>(from: readonly T[]): T | undefined => from[below(from.length)];
  const parent = pick(directories)!;
  const free = `${parent === "" ? "" : `${parent}/`}${"abcdefgh"[below(8)]!}`;
  const file = pick(files);
  const any = pick(paths);
  const sizes = [0, 10, 4096, 5000, 3 * 4096, 5 * 4096 + 7];
  switch (below(12)) {
    case 0:
    case 1:
      // What is a directory must go with all that is below it.
      tree.remove(free);
      tree.write(free, text(pick(sizes)!));
      return;
    case 2:
      if (file !== undefined) tree.write(file, text(pick(sizes)!), below(3) * 3000);
      return;
    case 3:
      if (file !== undefined) tree.write(file, text(100), tree.nodes.get(file)!.bytes.length);
      return;
    case 4:
      if (file !== undefined) tree.truncate(file, below(3 * 4096));
      return;
    case 5:
      if (any !== undefined && free !== any && !free.startsWith(`${any}/`) && !any.startsWith(`${free}/`))
        tree.rename(any, free);
      return;
    case 6:
      if (any !== undefined) tree.remove(any);
      return;
    case 7:
      tree.remove(free);
      tree.makeDirectory(free);
      return;
    case 8:
      tree.remove(free);
      tree.symlink(free, `target ${below(3)}`);
      return;
    case 9:
      if (file !== undefined && free !== file && !tree.nodes.has(free)) tree.link(file, free);
      return;
    case 10:
      if (any !== undefined && tree.nodes.get(any)!.type !== "symlink")
        tree.chmod(any, [0o600, 0o644, 0o755][below(3)]!);
      return;
    case 11:
      if (any !== undefined) tree.chown(any, below(3));
  }
}
