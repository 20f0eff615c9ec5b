/** The one fact of ssh2's inside that we need: it hides whether its native addon was found. */
declare module "ssh2/lib/protocol/crypto.js" {
  const crypto: { readonly bindingAvailable: boolean };
  export default crypto;
}
