import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { expect } from "chai";
import { nativeCryptoAvailable } from "../../../shared/link/ssh-algorithms.ts";

describe("ssh2's native addon", () => {
  it("is built for the Node that runs", () => {
    expect(nativeCryptoAvailable()).to.equal(true);
  });

  it("is built with our object wrap: the stock one aborts the process when its ciphers are collected", () => {
    const addon = createRequire(import.meta.url).resolve("ssh2/lib/protocol/crypto/build/Release/sshcrypto.node");
    const symbols = execFileSync("nm", ["-D", "-C", addon], { encoding: "utf8" });
    expect(symbols).to.match(/napi|node|v8/i);
    expect(symbols).not.to.match(/EnvironmentCleanupHook/);
  });
});
