import type { Stat } from "../../shared/ports/disk.ts";

/**
 * What the catalog remembers of a file as we left it. A first copy has one of them for each of its files in memory, and a
 * whole Stat is three times as large.
 */
export interface Stamps {
  readonly inode: number;
  readonly size: number;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
}

export function stampsOf({ inode, size, mtimeNs, ctimeNs }: Stat): Stamps {
  return { inode, size, mtimeNs, ctimeNs };
}
