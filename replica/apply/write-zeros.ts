import type { Disk, OpenFile } from "../../shared/ports/disk.ts";

const zeros = new Uint8Array(1024 * 1024);

export function writeZeros(disk: Disk, file: OpenFile, offset: number, length: number): void {
  for (let at = 0; at < length; at += zeros.length) {
    disk.write(file, zeros.subarray(0, Math.min(zeros.length, length - at)), offset + at);
  }
}
