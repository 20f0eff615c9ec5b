import { isPageSize } from "./wal.ts";

/** Bytes to read of a database file for `parseDatabaseHeader`. */
export const databaseHeaderBytes = 100;

export interface DatabaseHeader {
  readonly pageSize: number;
  readonly journal: "wal" | "rollback";
  /** Counted up by each transaction in rollback mode; in WAL mode it stands still. */
  readonly changeCounter: number;
  /** Pages of the database file, or undefined when written by a SQLite too old to keep it. */
  readonly pages: number | undefined;
}

const magic = Buffer.from("SQLite format 3\0", "latin1");

/** `empty`: a database that holds nothing yet is a file without bytes. Undefined: not a database. */
export function parseDatabaseHeader(bytes: Uint8Array): DatabaseHeader | "empty" | undefined {
  if (bytes.length === 0) return "empty";
  if (bytes.length < databaseHeaderBytes || !magic.equals(bytes.subarray(0, 16))) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, databaseHeaderBytes);
  const storedSize = view.getUint16(16);
  const pageSize = storedSize === 1 ? 65536 : storedSize;
  if (!isPageSize(pageSize)) return undefined;
  const changeCounter = view.getUint32(24);
  const pages = view.getUint32(28);
  return {
    pageSize,
    journal: bytes[18] === 2 && bytes[19] === 2 ? "wal" : "rollback",
    changeCounter,
    pages: pages > 0 && changeCounter === view.getUint32(92) ? pages : undefined,
  };
}
