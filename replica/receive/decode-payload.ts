import { zstdDecompressSync } from "node:zlib";
import { payloadBytesMax } from "../../shared/wire/frame.ts";
import type { PayloadEncoding } from "../../shared/wire/messages.ts";
import { CutDamaged } from "./refusals.ts";

/** @throws {CutDamaged} when it is not what it says */
export function decodePayload(encoding: PayloadEncoding, decodedBytes: number, payload: Uint8Array): Uint8Array {
  if (encoding === "plain") return payload;
  if (decodedBytes > payloadBytesMax) throw new CutDamaged(`a payload that says it decodes to ${decodedBytes} bytes`);
  try {
    const decoded = zstdDecompressSync(payload, { maxOutputLength: Math.max(decodedBytes, 1) });
    if (decoded.length !== decodedBytes)
      throw new CutDamaged(`a payload of ${decoded.length} bytes that says ${decodedBytes}`);
    return decoded;
  } catch (error) {
    if (error instanceof CutDamaged) throw error;
    throw new CutDamaged("a payload that cannot be decoded", { cause: error });
  }
}
