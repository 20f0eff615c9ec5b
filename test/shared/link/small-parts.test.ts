import { execFile } from "node:child_process";
import { chmod, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import fc from "fast-check";
import { authorizedKeysLine } from "../../../shared/link/authorized-keys.ts";
import { backoffDelayMs } from "../../../shared/link/backoff.ts";
import { ensureIdentity, identityFileName } from "../../../shared/link/identity.ts";
import { sparing } from "../../../shared/link/link-log.ts";
import { type LinkClock, RateLimiter } from "../../../shared/link/rate-limit.ts";
import { never, recorder, scratch, someIdentities } from "./link-fixtures.ts";

const run = promisify(execFile);

describe("backoff", () => {
  const rows: readonly [number, number, number][] = [
    [0, 0, 125],
    [0, 0.999_999, 250],
    [1, 0, 250],
    [3, 0.5, 1500],
    [6, 0, 8000],
    [7, 0, 15_000],
    [7, 0.999_999, 30_000],
    [1000, 0.999_999, 30_000],
  ];
  it("waits no longer than it was told", () => {
    expect(backoffDelayMs(2, 0, 5000)).to.equal(500);
    expect(backoffDelayMs(1000, 0.999_999, 5000)).to.equal(5000);
  });
  for (const [attempt, random, delayMs] of rows) {
    it(`waits ${delayMs} ms after ${attempt} failures when chance says ${random}`, () => {
      expect(backoffDelayMs(attempt, random)).to.equal(delayMs);
    });
  }
});

describe("rate limit", () => {
  /** Time passes only by sleeping. */
  function clock(): LinkClock & { at: number } {
    const fake = {
      at: 1000,
      now: () => fake.at,
      sleep: async (ms: number, signal: AbortSignal) => {
        signal.throwIfAborted();
        fake.at += ms;
      },
    };
    return fake;
  }

  it("lets a burst of 50 ms through and then keeps to its rate, whatever the sizes", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 70_000 }), { minLength: 50 }), async (sizes) => {
        const time = clock();
        const limiter = new RateLimiter(100_000, time);
        let total = 0;
        for (const size of sizes) {
          await limiter.take(size, never);
          // What goes out now was paid for by the time that passed, but for the burst.
          expect(total).to.be.at.most((time.at - 1000) * 100 + 5000 + 1e-6);
          total += size;
        }
        expect(total).to.be.at.least((time.at - 1000) * 100 - 1e-6);
      }),
    );
  });

  it("does not save up what was not used", async () => {
    const time = clock();
    const limiter = new RateLimiter(1000, time);
    await limiter.take(10, never);
    time.at += 60_000;
    const before = time.at;
    for (let count = 0; count < 10; count++) await limiter.take(100, never);
    expect(time.at - before).to.be.within(800, 1000);
  });

  it("hands out slices of some 50 ms, never absurdly small or large ones", () => {
    expect(new RateLimiter(187_500).sliceBytes).to.equal(9375);
    expect(new RateLimiter(1).sliceBytes).to.equal(512);
    expect(new RateLimiter(1e9).sliceBytes).to.equal(65_536);
    expect(() => new RateLimiter(0)).to.throw(RangeError);
  });

  it("gives up waiting when it is told to", async () => {
    const limiter = new RateLimiter(10);
    const stop = new AbortController();
    await limiter.take(1000, stop.signal);
    const waiting = limiter.take(1000, stop.signal).catch((error: unknown) => error);
    stop.abort();
    expect(await waiting).to.have.property("name", "AbortError");
  });
});

describe("log lines that anybody can cause", () => {
  it("are so many each second for each event, and then counted", () => {
    let now = 0;
    const { log, lines } = recorder();
    const spared = sparing(log, 3, () => now);
    for (let count = 0; count < 100; count++) spared("warn", "a.refused", {});
    spared("warn", "b.refused", {});
    now = 1500;
    spared("warn", "a.refused", { x: 1 });
    expect(lines.map(({ event }) => event)).to.deep.equal([
      "a.refused",
      "a.refused",
      "a.refused",
      "b.refused",
      "a.refused",
    ]);
    expect(lines.at(-1)!.fields).to.deep.equal({ x: 1, suppressed: 97 });
  });
});

describe("identity", () => {
  let cleanup: AsyncDisposableStack;
  let directory: string;
  beforeEach(async () => {
    cleanup = new AsyncDisposableStack();
    directory = join(await scratch(cleanup), "state");
  });
  afterEach(() => cleanup.disposeAsync());

  it("is made once, readable by its owner alone, and is the same from then on", async () => {
    const first = await ensureIdentity(directory);
    expect(first.publicKey).to.match(/^ssh-ed25519 AAAA[A-Za-z0-9+/]+=*$/);
    expect(await ensureIdentity(directory)).to.deep.equal(first);
    expect((await stat(join(directory, identityFileName))).mode & 0o777).to.equal(0o600);
    expect((await stat(directory)).mode & 0o777).to.equal(0o700);
    expect(await readdir(directory)).to.deep.equal([identityFileName]);
  });

  it("is one also for two that come at once", async () => {
    const made = await Promise.all(Array.from({ length: 8 }, () => ensureIdentity(directory)));
    expect(new Set(made.map(({ publicKey }) => publicKey)).size).to.equal(1);
    expect(await readdir(directory)).to.deep.equal([identityFileName]);
  });

  it("is what OpenSSH's own tools read", async () => {
    const identity = await ensureIdentity(directory);
    const file = join(directory, identityFileName);
    expect((await run("ssh-keygen", ["-y", "-f", file])).stdout.trim()).to.equal(identity.publicKey);
    expect((await run("ssh-keygen", ["-l", "-f", file])).stdout).to.include(identity.fingerprint);
  });

  it("of ssh-keygen is taken as well", async () => {
    const identity = await ensureIdentity(directory);
    const file = join(directory, "other");
    await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", file]);
    await writeFile(join(directory, identityFileName), await readFile(file), { mode: 0o600 });
    expect((await ensureIdentity(directory)).publicKey).not.to.equal(identity.publicKey);
  });

  it("that others may read is refused, and not silently closed", async () => {
    await ensureIdentity(directory);
    await chmod(join(directory, identityFileName), 0o640);
    const error = await ensureIdentity(directory).catch((reason: unknown) => reason);
    expect(error).to.have.property("code", "IDENTITY_EXPOSED");
  });

  for (const [what, text] of [
    ["empty", ""],
    ["damaged", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"],
  ] as const) {
    it(`that is ${what} is refused and never replaced: peers know the old key`, async () => {
      await ensureIdentity(directory);
      await writeFile(join(directory, identityFileName), text);
      const error = await ensureIdentity(directory).catch((reason: unknown) => reason);
      expect(error).to.have.property("code", "IDENTITY_UNUSABLE");
      expect(await readFile(join(directory, identityFileName), "utf8")).to.equal(text);
    });
  }

  it("of another type is refused", async () => {
    await ensureIdentity(directory);
    const file = join(directory, "rsa");
    await run("ssh-keygen", ["-q", "-t", "ecdsa", "-N", "", "-f", file]);
    await writeFile(join(directory, identityFileName), await readFile(file));
    const error = await ensureIdentity(directory).catch((reason: unknown) => reason);
    expect(error).to.have.property("code", "IDENTITY_UNUSABLE");
  });
});

describe("a line of authorized_keys", () => {
  it("gives the key one command and nothing else", async () => {
    const [alpha] = await someIdentities();
    expect(authorizedKeysLine(`${alpha.publicKey} someone@somewhere`, "alpha", '"/opt/a b" x')).to.equal(
      `restrict,command="\\"/opt/a b\\" x" ${alpha.publicKey} understudy:alpha`,
    );
  });

  const refused: readonly [string, string | undefined, string, string][] = [
    ["a command of two lines", undefined, "alpha", 'x"\nssh-ed25519 AAAA'],
    ["a command that would escape its own end", undefined, "alpha", "x\\"],
    ["an empty command", undefined, "alpha", ""],
    ["a name with a space", undefined, "al pha", "x"],
    ["a name of two lines", undefined, "alpha\nssh-rsa", "x"],
    ["a key that is none", "ssh-ed25519 AAAA", "alpha", "x"],
    ["a key of two lines", "ssh-ed25519 AAAA\nssh-ed25519 BBBB", "alpha", "x"],
  ];
  for (const [what, key, name, command] of refused) {
    it(`is not made of ${what}`, async () => {
      const [alpha] = await someIdentities();
      expect(() => authorizedKeysLine(key ?? alpha.publicKey, name, command))
        .to.throw()
        .with.property("code", "AUTHORIZED_KEY_REFUSED");
    });
  }
});
