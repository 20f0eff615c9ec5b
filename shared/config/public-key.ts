/** An ed25519 key as OpenSSH writes it, without its comment; undefined for anything else. */
export function normalPublicKey(text: string): string | undefined {
  const match = /^ssh-ed25519 ([A-Za-z0-9+/]+={0,2})(?: [^\r\n]*)?$/.exec(text);
  const encoded = match?.[1];
  if (encoded === undefined) return undefined;
  const blob = Buffer.from(encoded, "base64");
  // Two strings with their lengths: the type again, then 32 bytes. Anything else was cut or pasted wrongly.
  const head = Buffer.from("\0\0\0\x0bssh-ed25519\0\0\0\x20", "latin1");
  if (blob.length !== head.length + 32 || !blob.subarray(0, head.length).equals(head)) return undefined;
  return `ssh-ed25519 ${blob.toString("base64")}`;
}

const hostKeyTypes = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];

/** A host key of any type that an OpenSSH server has, without its comment; undefined for anything else. */
export function normalHostKey(text: string): string | undefined {
  const match = /^([a-z0-9-]+) ([A-Za-z0-9+/]+={0,2})(?: [^\r\n]*)?$/.exec(text);
  const [, type, encoded] = match ?? [];
  if (type === undefined || encoded === undefined || !hostKeyTypes.includes(type)) return undefined;
  if (type === "ssh-ed25519") return normalPublicKey(text);
  const blob = Buffer.from(encoded, "base64");
  const head = Buffer.alloc(4 + type.length);
  head.writeUInt32BE(type.length);
  head.write(type, 4, "latin1");
  return blob.length > head.length && blob.subarray(0, head.length).equals(head)
    ? `${type} ${blob.toString("base64")}`
    : undefined;
}
