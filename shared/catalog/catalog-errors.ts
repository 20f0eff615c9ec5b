import { UnderstudyError } from "../errors.ts";

/** The filesystem of the state directory is full. What was being written is taken back, and can be written later. */
export class CatalogFull extends UnderstudyError {
  readonly code = "CATALOG_FULL";
  readonly remedy = "retry";
  readonly state = "What was not committed is given up; the copy, and everything that was acknowledged, is as it was.";
  readonly hint = "Make room on the filesystem of the state directory: it is tried again by itself.";
}

/** The catalog can be neither read nor written any more. */
export class CatalogFailed extends UnderstudyError {
  readonly code = "CATALOG_FAILED";
  readonly remedy = "stop";
  readonly state =
    "The agent ends. What was acknowledged was durable before; nothing is written from what was read now.";
  readonly hint =
    "Look at the kernel's log for errors of the disk of the state directory. Where the file itself is damaged, move catalog.db with its -wal and -shm aside: the copy is then compared anew, with `understudy adopt`.";
}

const full = 13;
const noRoomForIndex = 10 | (19 << 8);
const failures: ReadonlySet<number> = new Set([10, 11, 14, 26]);

/** What an error of the catalog's SQLite means; undefined for all others. */
export function catalogProblem(error: unknown): CatalogFull | CatalogFailed | undefined {
  if (error instanceof CatalogFull || error instanceof CatalogFailed) return error;
  if (!(error instanceof Error) || !("errcode" in error)) return undefined;
  const code = Number(error.errcode);
  if ((code & 0xff) === full || code === noRoomForIndex)
    return new CatalogFull("there is no room for the catalog", { cause: error });
  if (failures.has(code & 0xff)) return new CatalogFailed("the catalog cannot be used", { cause: error });
  return undefined;
}
