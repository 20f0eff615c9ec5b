import type { Catalog } from "../../shared/catalog/catalog.ts";
import { CatalogFull, catalogProblem } from "../../shared/catalog/catalog-errors.ts";

const checkpointMs = 1000;
/** A cut that comes or is taken waits for the disk, and nothing would be gained but a shorter log; a very long one lets it grow. */
const checkpointBusyMs = 10_000;

/**
 * Copies the catalog's log back each second, which is idle work that no commit should pay for. `failed` hears of all but a
 * full disk, which leaves what is committed in the log.
 */
export function checkpointing(
  catalog: () => Catalog | undefined,
  busy: () => boolean,
  failed: (error: unknown) => void,
): void {
  let checkpointedAt = performance.now();
  const later = (): void => {
    setTimeout(() => {
      try {
        if (!busy() || performance.now() - checkpointedAt >= checkpointBusyMs) {
          catalog()?.checkpoint();
          checkpointedAt = performance.now();
        }
      } catch (error) {
        if (!(catalogProblem(error) instanceof CatalogFull)) failed(error);
      }
      later();
    }, checkpointMs).unref();
  };
  later();
}
