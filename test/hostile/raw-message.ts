/**
 * Headers that our own encoder refuses to write. The wire's schema is small enough to be written by hand here: what is
 * tested is what arrives, whoever made it.
 */
export type RawField = readonly [number: number, value: bigint | number | boolean | string | Uint8Array];

/** An Envelope with one body. Numbers are varints (negative ones take ten bytes), the rest is length-prefixed. */
export function rawEnvelope(body: number, fields: readonly RawField[]): Uint8Array {
  return rawMessage([[body, rawMessage(fields)]]);
}

export function rawMessage(fields: readonly RawField[]): Uint8Array {
  const chunks: Uint8Array[] = [];
  for (const [number, value] of fields) {
    if (typeof value === "string" || value instanceof Uint8Array) {
      const bytes = typeof value === "string" ? Buffer.from(value, "utf8") : value;
      chunks.push(varint(BigInt(number << 3) | 2n), varint(BigInt(bytes.length)), bytes);
    } else {
      chunks.push(varint(BigInt(number << 3)), varint(BigInt(value)));
    }
  }
  return Buffer.concat(chunks);
}

function varint(value: bigint): Uint8Array {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, value);
  for (;;) {
    const low = Number(rest & 0x7fn);
    rest >>= 7n;
    if (rest === 0n) return Uint8Array.from([...bytes, low]);
    bytes.push(low | 0x80);
  }
}

/** Numbers of the Envelope's bodies in proto/understudy.proto. */
export const body = { hello: 1, cutBegin: 16, rows: 17, extents: 18, cutEnd: 20 } as const;
