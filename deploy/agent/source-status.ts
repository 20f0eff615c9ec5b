import type { StoreHealth } from "../../shared/ports/store-adapter.ts";
import { readablePath } from "../../shared/store-path.ts";
import type { StorePath } from "../../shared/words.ts";
import type { SourceStatus } from "../control/api.ts";
import type { NamedPath } from "../control/json-names.ts";
import type { ScrubState } from "./scrub-state.ts";

/** A status is read by people and polled by programs: it names the first, and counts all. */
const pathsNamedMax = 20;

/** How the source of a store is read on its primary, for status. */
export function sourceStatus(
  health: StoreHealth,
  behind: readonly StorePath[],
  scrub: ScrubState | undefined,
): SourceStatus {
  const { mode, reason, watchedDirectories, losses, unreadable, skipped, excluded, reflink } = health;
  return {
    mode,
    reason,
    watchedDirectories,
    eventsLost: losses,
    unreadable: unreadable.size,
    unreadablePaths: [...unreadable]
      .slice(0, pathsNamedMax)
      .map(([path, why]) => ({ ...namedPath(path), reason: why })),
    behindPaths: behind.slice(0, pathsNamedMax).map(namedPath),
    skipped,
    excluded: excluded.length,
    excludedPaths: excluded.slice(0, pathsNamedMax).map(namedPath),
    cloned: reflink?.cloned ?? 0,
    notCloned: reflink?.reason ?? "",
    scrub: scrub === undefined ? null : scrubStatus(scrub),
  };
}

function scrubStatus({ after: _, ...said }: ScrubState): SourceStatus["scrub"] {
  return said;
}

/** Names are bytes: JSON has them as text where they are UTF-8. */
export function namedPath(path: StorePath): NamedPath {
  const readable = readablePath(path);
  return readable === undefined ? { pathB64: Buffer.from(path, "latin1").toString("base64") } : { path: readable };
}
