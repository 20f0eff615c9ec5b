import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import {
  type Config,
  groupNamed,
  groupsOf,
  membersOf,
  NotConfigured,
  nodeNamed,
  replicaSettings,
  type StoreOnNode,
  storeOnNode,
} from "../../../shared/config/config.ts";
import { configurationDigest } from "../../../shared/config/digest.ts";
import { ConfigurationUnreadable, loadConfig } from "../../../shared/config/load.ts";
import { editDistance, nearest } from "../../../shared/config/nearest.ts";
import { ConfigurationInvalid, parseConfig } from "../../../shared/config/parse.ts";
import { exitCodes } from "../../../shared/errors.ts";
import type { NodeName, StoreName } from "../../../shared/words.ts";

const keys = ["A", "B", "C", "D", "E"].map((letter) => publicKey(letter));
const [keyA, keyB, keyC, keyD, keyE] = keys as [string, string, string, string, string];

function publicKey(letter: string): string {
  const head = Buffer.from("\0\0\0\x0bssh-ed25519\0\0\0\x20", "latin1");
  return `ssh-ed25519 ${Buffer.concat([head, Buffer.alloc(32, letter)]).toString("base64")}`;
}

/** The example of the documentation, with real keys. */
const example = `nodes:
  alpha:   { address: "10.0.0.1:7522", key: "${keyA} alpha@rack1", role_listener: "127.0.0.1:7523", primary_target: systemd }
  bravo:   { address: "10.0.0.2:7522", keys: ["${keyB}", "${keyE}"] }
  charlie: { key: "${keyC}", line: { rate: 1.5Mbit/s, compress: auto } }
groups:
  app:
    primary: alpha
    replicas: { bravo: {}, charlie: { rpo: 1h, interval: 15m } }
    stores:
      db:      { kind: sqlite, path: /srv/app/app.db }
      uploads: { kind: files, path: /srv/app/uploads, exclude: ["*.tmp"], at: { bravo: /standby/uploads } }
    interval: on-change
    freeze_every: 5m
    require: { uploads: whole }
    hooks: { freeze: [fz, "1"], thaw: [th], stop_service: { run: [stop], timeout: 30s }, start_service: [start], before_promote: [bp], after_promote: [ap] }
    retention: { keep: { all: 5m, per_minute: 1h, per_hour: 1d, per_day: 7d }, max_bytes: 20GiB }
    rpo: 5s
    limits: { staging: 10GiB, snapshot_hold: 30s }
`;

/** The least that is right, with places to change. */
function least(change: { nodes?: string; group?: string; stores?: string; primary?: string; replicas?: string } = {}) {
  const nodes =
    change.nodes ?? `  alpha: { address: "a:1", key: "${keyA}" }\n  bravo: { address: "b:1", key: "${keyB}" }`;
  const stores = change.stores ?? "      db: { kind: sqlite, path: /srv/a.db }";
  return `nodes:
${nodes}
groups:
  app:
    primary: ${change.primary ?? "alpha"}
    replicas: ${change.replicas ?? "[bravo]"}
    stores:
${stores}
${change.group ?? ""}
`;
}

function problemsOf(text: string): string[] {
  try {
    parseConfig(text, "cluster.yaml");
  } catch (error) {
    expect(error).to.be.instanceOf(ConfigurationInvalid);
    expect((error as ConfigurationInvalid).exitCode).to.equal(exitCodes.usage);
    return (error as ConfigurationInvalid).message.split("\n");
  }
  return [];
}

function storeAt(config: Config, group: string, store: string, node: string): StoreOnNode {
  return storeOnNode(groupNamed(config, group).stores.get(store as StoreName)!, nodeNamed(config, node).name);
}

function nodesAre(config: Config): string[] {
  return [...config.nodes.keys()];
}

describe("configuration", () => {
  it("reads the documented example whole", () => {
    const config = parseConfig(example, "cluster.yaml");
    expect(nodesAre(config)).to.deep.equal(["alpha", "bravo", "charlie"]);
    expect(nodeNamed(config, "alpha")).to.deep.equal({
      name: "alpha",
      address: { kind: "embedded", host: "10.0.0.1", port: 7522 },
      keys: [keyA],
      roleListener: { host: "127.0.0.1", port: 7523 },
      primaryTarget: "systemd",
      line: { rateBytesPerSecond: undefined, compress: "auto" },
    });
    expect(nodeNamed(config, "bravo").keys).to.deep.equal([keyB, keyE]);
    expect(nodeNamed(config, "charlie").address).to.equal(undefined);
    expect(nodeNamed(config, "charlie").line).to.deep.equal({ rateBytesPerSecond: 187_500, compress: "auto" });
    const app = groupNamed(config, "app");
    expect(membersOf(app)).to.deep.equal(["alpha", "bravo", "charlie"]);
    expect(app.interval).to.deep.equal({ kind: "on-change" });
    expect(app.freezeEveryMs).to.equal(300_000);
    expect([...app.require]).to.deep.equal([["uploads", "whole"]]);
    expect(app.hooks.freeze).to.deep.equal({ run: ["fz", "1"], timeoutMs: 10_000 });
    expect(app.hooks.stopService).to.deep.equal({ run: ["stop"], timeoutMs: 30_000 });
    expect(app.hooks.onFenced, "stop_service by default").to.deep.equal(app.hooks.stopService);
    expect(app.retention).to.deep.equal({
      keep: { allMs: 300_000, perMinuteMs: 3_600_000, perHourMs: 86_400_000, perDayMs: 604_800_000 },
      bytesMax: 20 * 2 ** 30,
    });
    expect(app.rpoMs).to.equal(5000);
    expect(app.limits).to.deep.equal({
      stagingBytes: 10 * 2 ** 30,
      snapshotHoldMs: 30_000,
      sweepMs: 60_000,
      switchoverStepMs: 30_000,
    });
    expect(app.scrub).to.deep.equal({ everyMs: 604_800_000, bytesPerSecond: 20 * 2 ** 20 });
    expect(app.ha).to.deep.equal({ engine: "none" });
    expect(app.rejoin).to.equal("manual");
    expect(app.semiSync).to.equal(undefined);
  });

  it("reads how many replicas a `wait` asks for, and for how long", () => {
    const semiSyncOf = (line: string) =>
      parseConfig(least({ group: line }), "cluster.yaml").groups.get("app" as never)?.semiSync;
    expect(semiSyncOf("    durability: async")).to.equal(undefined);
    expect(semiSyncOf("    durability: { semi_sync: {} }")).to.deep.equal({ replicas: 1, timeoutMs: 2000 });
    expect(semiSyncOf("    durability: { semi_sync: { replicas: 1, timeout: 250ms } }")).to.deep.equal({
      replicas: 1,
      timeoutMs: 250,
    });
  });

  it("reads how often everything is read again, and that it never is", () => {
    const scrubOf = (line: string) =>
      parseConfig(least({ group: line }), "cluster.yaml").groups.get("app" as never)?.scrub;
    expect(scrubOf("    scrub: { every: 1d, rate: 8Mbit/s }")).to.deep.equal({
      everyMs: 86_400_000,
      bytesPerSecond: 1_000_000,
    });
    expect(scrubOf("    scrub: { rate: 1MiB/s }")).to.deep.equal({ everyMs: 604_800_000, bytesPerSecond: 2 ** 20 });
    expect(scrubOf("    scrub: never")).to.equal(undefined);
    expect(problemsOf(least({ group: "    scrub: always" }))[0]).to.match(/must be one of never/);
  });

  it("fills in the documented values where the file says nothing", () => {
    const app = groupNamed(parseConfig(least(), "cluster.yaml"), "app");
    expect(app.interval).to.deep.equal({ kind: "on-change" });
    expect(app.freezeEveryMs).to.equal(undefined);
    expect(app.require.size).to.equal(0);
    expect(app.hooks.onFenced).to.equal(undefined);
    expect(app.retention.bytesMax).to.equal(20 * 2 ** 30);
    expect(app.retention.keep.perDayMs).to.equal(604_800_000);
    expect(app.rpoMs).to.equal(undefined);
    expect(app.limits).to.deep.equal({
      stagingBytes: 10 * 2 ** 30,
      snapshotHoldMs: 30_000,
      sweepMs: 60_000,
      switchoverStepMs: 30_000,
    });
  });

  it("gives a store as each node has it", () => {
    const config = parseConfig(example, "cluster.yaml");
    expect(storeAt(config, "app", "uploads", "alpha")).to.deep.equal({
      name: "uploads",
      kind: "files",
      path: "/srv/app/uploads",
      exclude: ["*.tmp"],
      snapshot: undefined,
      list: undefined,
      trustWatcher: false,
      reflink: true,
      owners: "numeric",
    });
    expect(storeAt(config, "app", "uploads", "bravo")).to.include({ path: "/standby/uploads", owners: "numeric" });
    expect(storeAt(config, "app", "db", "bravo")).to.deep.equal({
      name: "db",
      kind: "sqlite",
      path: "/srv/app/app.db",
    });
  });

  it("lets a node differ in any key of a files store but what decides what is shipped", () => {
    const at = "at: { bravo: { owners: ignore, trust_watcher: true, reflink: false, list: [ls], path: /b } }";
    const config = parseConfig(least({ stores: `      up: { kind: files, path: /a, ${at} }` }), "cluster.yaml");
    expect(storeAt(config, "app", "up", "bravo")).to.deep.include({
      path: "/b",
      owners: "ignore",
      trustWatcher: true,
      reflink: false,
      list: { run: ["ls"], timeoutMs: 10_000 },
    });
    expect(storeAt(config, "app", "up", "alpha")).to.deep.include({ path: "/a", owners: "numeric", list: undefined });
    expect(
      problemsOf(least({ stores: "      up: { kind: files, path: /a, at: { bravo: { exclude: [x] } } }" }))[0],
    ).to.match(/at\.bravo\.exclude: is an unknown key/);
  });

  it("reads a snapshot hook pair and a list command", () => {
    const stores = `      up:
        kind: files
        path: /a
        snapshot: { create: [mk, x], remove: { run: [rm, x], timeout: 1m }, path: /snap/a }`;
    expect(storeAt(parseConfig(least({ stores }), "c"), "app", "up", "alpha")).to.deep.include({
      snapshot: {
        create: { run: ["mk", "x"], timeoutMs: 10_000 },
        remove: { run: ["rm", "x"], timeoutMs: 60_000 },
        path: "/snap/a",
      },
    });
  });

  it("takes a replica's interval and rpo from the group where it has none of its own", () => {
    const config = parseConfig(example, "cluster.yaml");
    const app = groupNamed(config, "app");
    expect(replicaSettings(app, "bravo" as NodeName)).to.deep.equal({ interval: { kind: "on-change" }, rpoMs: 5000 });
    expect(replicaSettings(app, "alpha" as NodeName)).to.deep.equal({ interval: { kind: "on-change" }, rpoMs: 5000 });
    expect(replicaSettings(app, "charlie" as NodeName)).to.deep.equal({
      interval: { kind: "every", ms: 900_000 },
      rpoMs: 3_600_000,
    });
    expect(groupsOf(config, "charlie" as NodeName)).to.deep.equal([app]);
  });

  for (const [group, interval] of [
    ["    interval: 15m", { kind: "every", ms: 900_000 }],
    ['    interval: "daily 02:30"', { kind: "daily", hour: 2, minute: 30 }],
    ["    interval: daily 23:05", { kind: "daily", hour: 23, minute: 5 }],
    ['    schedule: "daily 02:30"', { kind: "daily", hour: 2, minute: 30 }],
  ] as const) {
    it(`reads ${group.trim()}`, () => {
      expect(groupNamed(parseConfig(least({ group }), "c"), "app").interval).to.deep.equal(interval);
    });
  }

  it("reads an OpenSSH address with its host key, and IPv6", () => {
    const nodes = `  alpha: { address: "ssh://under@host.example:2222", host_key: "${keyD}", key: "${keyA}" }
  bravo: { address: "[2001:db8::1]:7522", key: "${keyB}" }`;
    const config = parseConfig(least({ nodes }), "c");
    expect(nodeNamed(config, "alpha").address).to.deep.equal({
      kind: "openssh",
      user: "under",
      host: "host.example",
      port: 2222,
      hostKey: keyD,
    });
    expect(nodeNamed(config, "bravo").address).to.deep.equal({ kind: "embedded", host: "2001:db8::1", port: 7522 });
  });

  it("takes a host key of any type that OpenSSH has, whole", () => {
    const blob = Buffer.concat([Buffer.from("\0\0\0\x07ssh-rsa\0\0\0\x03", "latin1"), Buffer.from([1, 0, 1])]);
    const nodes = (hostKey: string) =>
      `  alpha: { address: "ssh://u@a", host_key: "${hostKey}", key: "${keyA}" }\n  bravo: { key: "${keyB}" }`;
    const text = `ssh-rsa ${blob.toString("base64")}`;
    const config = parseConfig(least({ nodes: nodes(`${text} root@a`) }), "c");
    expect(nodeNamed(config, "alpha").address).to.deep.include({ hostKey: text, port: 22 });
    for (const wrong of [
      `ssh-dss ${blob.toString("base64")}`,
      "ssh-rsa AAAA",
      `ecdsa-sha2-nistp256 ${blob.toString("base64")}`,
    ]) {
      expect(problemsOf(least({ nodes: nodes(wrong) }))[0]).to.match(/host_key: must be a whole host key/);
    }
  });

  it("reads aliases and comments as YAML means them", () => {
    const text = least({
      stores: `      a: { kind: files, path: /a, exclude: &tmp ["*.tmp"] } # why
      b: { kind: files, path: /b, exclude: *tmp }`,
    });
    expect(storeAt(parseConfig(text, "c"), "app", "b", "bravo")).to.deep.include({ exclude: ["*.tmp"] });
  });

  it("keeps names apart that JavaScript's objects would confuse", () => {
    const nodes = `  constructor: { address: "a:1", key: "${keyA}" }\n  010: { address: "b:1", key: "${keyB}" }`;
    const config = parseConfig(least({ nodes, primary: "constructor", replicas: '["010"]' }), "c");
    expect(nodesAre(config)).to.have.members(["constructor", "010"]);
  });

  describe("names every fault with its line", () => {
    const nodeLine = (alpha: string) =>
      least({ nodes: `  alpha: ${alpha}\n  bravo: { address: "b:1", key: "${keyB}" }` });
    const storeLine = (up: string) => least({ stores: `      up: ${up}` });
    const groupLine = (group: string) => least({ group: `    ${group}` });
    const rows: [why: string, text: string, ...expected: RegExp[]][] = [
      ["an unknown key at the top", `node: {}\n${least()}`, /^cluster.yaml:1: node: .*did you mean "nodes"\?/],
      ["an unknown key of a group", groupLine("freez_every: 5m"), /:10: groups.app.freez_every: .*"freeze_every"/],
      [
        "an unknown key of a node",
        nodeLine(`{ adress: "a:1", key: "${keyA}" }`),
        /:2: nodes.alpha.adress: .*"address"/,
      ],
      [
        "an unknown key of a line",
        nodeLine(`{ address: "a:1", key: "${keyA}", line: { rat: 1MB/s } }`),
        /:2: .*"rate"/,
      ],
      ["an unknown key of a store", storeLine("{ kind: files, path: /a, exlude: [x] }"), /:9: .*"exclude"/],
      ["a key of another kind", storeLine("{ kind: sqlite, path: /a, exclude: [x] }"), /:9: .*exclude: is an unknown/],
      ["an unknown hook", groupLine("hooks: { frezze: [x] }"), /:10: groups.app.hooks.frezze: .*"freeze"/],
      ["an unknown key of a hook", groupLine("hooks: { on_fenced: { run: [x], timout: 1s } }"), /:10: .*"timeout"/],
      ["an unknown rung", groupLine("retention: { keep: { per_min: 1h } }"), /:10: .*keep.per_min: .*"per_minute"/],
      [
        "an unknown engine",
        groupLine("ha: { engine: etcd }"),
        /:10: groups.app.ha.engine: "etcd" is an unknown engine: the known ones are none, pacemaker/,
      ],
      ["another way to rejoin", groupLine("rejoin: always"), /:10: groups.app.rejoin: must be one of auto, manual/],
      [
        "a rejoin that nobody's service is stopped for",
        groupLine("rejoin: auto"),
        /:10: groups.app.rejoin: is auto, and nothing stops the service/,
      ],
      ["another durability", groupLine("durability: sync"), /:10: groups.app.durability: must be one of async/],
      [
        "an unknown key of durability",
        groupLine("durability: { semi_sync: { replica: 1 } }"),
        /:10: groups.app.durability.semi_sync.replica: .*"replicas"/,
      ],
      [
        "a durability on half a replica",
        groupLine("durability: { semi_sync: { replicas: 0.5 } }"),
        /:10: groups.app.durability.semi_sync.replicas: must be a whole number/,
      ],
      [
        "a durability on none",
        groupLine("durability: { semi_sync: { replicas: 0 } }"),
        /:10: groups.app.durability.semi_sync.replicas: must be 1 at least/,
      ],
      [
        "a durability on more than there are",
        groupLine("durability: { semi_sync: { replicas: 2 } }"),
        /:10: .*semi_sync.replicas: asks for 2 replicas of this group, which has 1 with `interval: on-change`/,
      ],
      [
        "a durability on one that gets a cut now and then",
        groupLine("interval: 15m\n    durability: { semi_sync: {} }"),
        /:11: .*semi_sync.*: asks for 1 replicas of this group, which has 0 with/,
      ],
      ["an engine without a name", groupLine("ha: pacemaker"), /:10: groups.app.ha: must be a map/],
      ["an unknown limit", groupLine("limits: { stageing: 1GiB }"), /:10: .*"staging"/],
      [
        "an unknown key of a replica",
        least({ replicas: "{ bravo: { rop: 1s } }" }),
        /:7: .*replicas.bravo.rop: .*"rpo"/,
      ],
      ["an unknown key of `at`", storeLine("{ kind: files, path: /a, at: { bravo: { pth: /b } } }"), /:9: .*"path"/],
      ["a key __proto__", groupLine("__proto__: { rpo: 1s }"), /:10: groups.app.__proto__: is an unknown key/],
      ["a merge key", groupLine("<<: { rpo: 1s }"), /:10: groups.app."<<": is an unknown key/],
      ["an unknown kind", storeLine("{ kind: sqlit, path: /a }"), /:9: .*kind: must be one of .*"sqlite"/],
      ["a missing kind", storeLine("{ path: /a }"), /:9: .*kind: is missing/],
      ["a missing path", storeLine("{ kind: sqlite }"), /:9: .*path: is missing/],
      ["a missing primary", least().replace("    primary: alpha\n", ""), /:5: groups.app.primary: is missing/],
      [
        "a manager of services that is not known",
        nodeLine(`{ address: "a:1", key: "${keyA}", primary_target: upstart }`),
        /:2: nodes.alpha.primary_target: must be one of systemd/,
      ],
      [
        "a target that is only reached",
        nodeLine(`{ address: "a:1", key: "${keyA}", primary_target: { start: [a] } }`),
        /:2: nodes.alpha.primary_target.stop: is missing/,
      ],
      [
        "a role listener that is none",
        nodeLine(`{ address: "a:1", key: "${keyA}", role_listener: "ssh://u@a" }`),
        /:2: nodes.alpha.role_listener: must be "host:port"/,
      ],
      [
        "a role listener where the agent speaks SSH",
        nodeLine(`{ address: "a:1", key: "${keyA}", role_listener: "a:1" }`),
        /role_listener: is the node's own address/,
      ],
      ["a missing key of a node", nodeLine('{ address: "a:1" }'), /:2: nodes.alpha: has no key/],
      ["`key` beside `keys`", nodeLine(`{ key: "${keyA}", keys: ["${keyC}"] }`), /:2: nodes.alpha.keys: stands beside/],
      ["a key cut short", nodeLine(`{ key: "${keyA.slice(0, -8)}" }`), /:2: nodes.alpha.key: must be a whole ed25519/],
      ["an RSA key", nodeLine('{ key: "ssh-rsa AAAAB3NzaC1yc2EAAAA=" }'), /:2: .*ed25519/],
      [
        "a key that two nodes have",
        nodeLine(`{ address: "a:1", key: "${keyB}" }`),
        /:3: nodes.bravo: has the key of alpha/,
      ],
      [
        "an address that two nodes have",
        nodeLine(`{ address: "b:1", key: "${keyA}" }`),
        /:3: .*is the address of alpha/,
      ],
      [
        "an address without a port",
        nodeLine(`{ address: "a", key: "${keyA}" }`),
        /:2: nodes.alpha.address: must be "host:port"/,
      ],
      ["a port out of range", nodeLine(`{ address: "a:65536", key: "${keyA}" }`), /:2: .*host:port/],
      [
        "an ssh address without a user",
        nodeLine(`{ address: "ssh://a:22", key: "${keyA}" }`),
        /:2: .*ssh:\/\/user@host/,
      ],
      [
        "an ssh address without its host key",
        nodeLine(`{ address: "ssh://u@a:22", key: "${keyA}" }`),
        /:2: .*`host_key`/,
      ],
      [
        "a host key without an ssh address",
        nodeLine(`{ address: "a:1", key: "${keyA}", host_key: "${keyC}" }`),
        /:2: nodes.alpha.host_key: belongs to an ssh/,
      ],
      ["a primary that is no node", least({ primary: "alfa" }), /:6: groups.app.primary: "alfa" .*"alpha"/],
      ["a replica that is no node", least({ replicas: "[brvo]" }), /:7: groups.app.replicas.0: "brvo" .*"bravo"/],
      [
        "a primary that is its own replica",
        least({ replicas: "[bravo, alpha]" }),
        /:7: .*replicas.1: is the group's primary/,
      ],
      ["a replica named twice", least({ replicas: "[bravo, bravo]" }), /:7: .*replicas.1: the same node a second time/],
      ["no replica", least({ replicas: "[]" }), /:7: .*replicas: names no node/],
      ["replicas as one word", least({ replicas: "bravo" }), /:7: .*replicas: must be a map, not "bravo"/],
      [
        "two nodes that cannot reach one another",
        least({ nodes: `  alpha: { key: "${keyA}" }\n  bravo: { key: "${keyB}" }` }),
        /:5: groups.app: alpha and bravo have no address/,
      ],
      ["a relative path", storeLine("{ kind: sqlite, path: a/b }"), /:9: .*path: must be an absolute path/],
      ["the root of the machine", storeLine("{ kind: files, path: / }"), /:9: .*must not be the root/],
      ["a path with ..", storeLine("{ kind: files, path: /a/../b }"), /:9: .*must be written plainly: \/b/],
      [
        "a relative path in `at`",
        storeLine("{ kind: files, path: /a, at: { bravo: b } }"),
        /:9: .*at.bravo: must be an absolute/,
      ],
      ["`at` of no node", storeLine("{ kind: files, path: /a, at: { brav: /b } }"), /:9: .*at.brav: .*"bravo"/],
      [
        "`at` of a node outside the group",
        least({
          nodes: `  alpha: { address: "a:1", key: "${keyA}" }\n  bravo: { address: "b:1", key: "${keyB}" }\n  carol: { key: "${keyC}" }`,
          stores: "      up: { kind: files, path: /a, at: { carol: /b } }",
        }),
        /:10: .*at.carol: is neither primary nor replica/,
      ],
      [
        "two stores in one place",
        least({ stores: "      x: { kind: files, path: /a }\n      y: { kind: sqlite, path: /a/ }" }),
        /:10: groups.app.stores.y.path: is on alpha the same path as groups.app.stores.x: \/a/,
        /:10: .*is on bravo the same path/,
      ],
      [
        "a store inside another one",
        least({ stores: "      x: { kind: files, path: /a }\n      y: { kind: sqlite, path: /a/b.db }" }),
        /:10: .*lies on alpha inside/,
        /:10: .*lies on bravo inside/,
      ],
      [
        "stores that meet on one node only",
        least({
          stores: "      x: { kind: files, path: /x, at: { bravo: /y } }\n      y: { kind: files, path: /y/z }",
        }),
        /:10: .*lies on bravo inside/,
      ],
      [
        "a name in capitals",
        storeLine("{ kind: files, path: /a }").replace("up:", "Up:"),
        /:9: .*stores.Up: a name is made of/,
      ],
      ["a bare number as a duration", groupLine("rpo: 5"), /:10: groups.app.rpo: the bare number 5 has no unit/],
      ["a bare number in quotes", groupLine('rpo: "5"'), /:10: groups.app.rpo: "5" is a duration without its unit/],
      ["no time at all", groupLine("rpo: 0s"), /:10: groups.app.rpo: must be more than nothing/],
      ["a size as a duration", groupLine("rpo: 5MiB"), /:10: .*unknown unit "MiB"/],
      [
        "a rate without its time",
        nodeLine(`{ address: "a:1", key: "${keyA}", line: { rate: 1Mbit } }`),
        /:2: .*rate: "1Mbit"/,
      ],
      ["an interval of no kind", groupLine("interval: often"), /:10: groups.app.interval: "often" is not a duration/],
      ["a schedule at no time", groupLine('interval: "daily 25:00"'), /:10: .*schedule such as "daily 02:30"/],
      [
        "an interval beside a schedule",
        groupLine('interval: 1h\n    schedule: "daily 02:30"'),
        /:11: .*schedule: stands beside/,
      ],
      [
        "a number as a name",
        least({ primary: "10" }),
        /:6: groups.app.primary: must be text, not the number 10: write it in quotes/,
      ],
      [
        "text as a truth",
        storeLine('{ kind: files, path: /a, trust_watcher: "yes" }'),
        /:9: .*must be true or false, not "yes"/,
      ],
      ["text as a list", storeLine("{ kind: files, path: /a, exclude: x }"), /:9: .*exclude: must be a list, not "x"/],
      [
        "a number in a list",
        storeLine("{ kind: files, path: /a, exclude: [x, 1] }"),
        /:9: .*exclude.1: must be text, not the number 1/,
      ],
      ["a hook for a shell", groupLine("hooks: { on_fenced: stop it }"), /:10: .*on_fenced: is given to no shell/],
      ["an empty hook", groupLine("hooks: { on_fenced: [] }"), /:10: .*on_fenced: names no command/],
      ["a freeze without a thaw", groupLine("hooks: { freeze: [x] }"), /:10: .*hooks.freeze: has no `thaw`/],
      ["a thaw without a freeze", groupLine("hooks: { thaw: [x] }"), /:10: .*hooks.thaw: has no `freeze`/],
      ["freeze_every without hooks", groupLine("freeze_every: 5m"), /:10: .*freeze_every: does nothing without/],
      [
        "half a snapshot",
        storeLine("{ kind: files, path: /a, snapshot: { create: [x], path: /b } }"),
        /:9: .*remove: is missing/,
      ],
      ["a requirement of no store", groupLine("require: { dp: whole }"), /:10: .*require.dp: is no store .*"db"/],
      [
        "a requirement of no consistency",
        groupLine("require: { db: good }"),
        /:10: .*require.db: must be one of transactional/,
      ],
      [
        "a requirement that can never be met",
        least({ stores: "      up: { kind: files, path: /a }", group: "    require: { up: transactional }" }),
        /:10: .*require.up: can never be transactional/,
      ],
      [
        "a rung that keeps nothing",
        groupLine("retention: { keep: { all: 2h, per_minute: 1h } }"),
        /:10: .*per_minute: reaches back 1 h, no further than all \(2 h\)/,
      ],
      [
        "an rpo that cannot be kept",
        groupLine("rpo: 5s\n    interval: 15m"),
        /:10: groups.app.rpo: cannot be kept with a cut every 15 min/,
      ],
      [
        "the group's rpo where a replica cannot keep it",
        least({ replicas: "{ bravo: { interval: 15m } }", group: "    rpo: 5s" }),
        /:7: groups.app.replicas.bravo: the group's `rpo` cannot be kept with a cut every 15 min/,
      ],
      ["a sweep without a pause", groupLine("limits: { sweep: 100ms }"), /:10: .*limits.sweep: is shorter than 1 s/],
      ["the same key twice", `${least()}groups: {}\n`, /:11: the same key a second time/],
      ["a tab as indentation", least().replace("    primary", "\tprimary"), /:6: Tabs are not allowed/],
      ["a second document", `${least()}---\na: 1\n`, /:11: a second document begins here/],
      ["an open quote", "nodes: 'x\n", /:2: Missing closing 'quote/],
      ["a tag of a program", "nodes: !!js/function 'x'\n", /:1: Unresolved tag/],
      ["an alias of nothing", groupLine("rpo: *nope"), /:10: groups.app.rpo: nothing is named &nope/],
      ["bytes in place of text", least({ primary: "!!binary aGk=" }), /:6: groups.app.primary: must be text/],
      ["an empty file", "", /:1: is empty/],
      ["a list in place of the file", "- nodes\n", /:1: must be a map/],
      ["no nodes", "groups: {}\n", /nodes: is missing/, /:1: groups: is empty/],
      ["a NUL", 'nodes: "\\0"\ngroups: x\n', /:1: nodes: must be a map/, /:2: groups: must be a map/],
    ];
    for (const [why, text, ...expected] of rows) {
      it(why, () => {
        const found = problemsOf(text);
        expect(found.join("\n")).to.not.equal("");
        for (const [index, pattern] of expected.entries()) expect(found[index]).to.match(pattern);
        expect(found, found.join("\n")).to.have.length(expected.length);
      });
    }
  });

  it("names all faults at once, in the order of the file", () => {
    const text = `nodes:
  alpha: { adress: "a:1", key: "${keyA}" }
  bravo: { address: "b", key: "${keyB}" }
groups:
  app:
    primery: alpha
    primary: alfa
    replicas: [bravo]
    stores:
      db: { kind: sqlite, path: srv }
      up: { kind: files, path: /a, owners: all }
    rpo: 5
`;
    const lines = problemsOf(text).map((problem) => Number(problem.split(":")[1]));
    expect(lines).to.deep.equal([2, 3, 6, 7, 10, 11, 12]);
  });

  for (const [what, text] of [
    [
      "aliases that unfold to billions",
      `a: &a [x,x,x,x,x,x,x,x,x]\n${[..."bcdefghij"].map((c, i) => `${c}: &${c} [${Array(9).fill(`*${"abcdefghi"[i]}`)}]`).join("\n")}`,
    ],
    ["an alias inside itself", "nodes: &a [*a]"],
    ["brackets without end", "[".repeat(100_000)],
    ["maps without end", "a: {".repeat(10_000)],
    ["more text than any configuration has", `# ${"x".repeat(2 ** 20)}`],
  ] as const) {
    it(`refuses ${what} in bounded time`, function () {
      this.timeout(30_000);
      expect(problemsOf(text)).to.have.length(1);
    });
  }

  it("gives a configuration or its faults for any text and for any damage to a right one", () => {
    const damaged = fc
      .tuple(fc.nat(example.length), fc.nat(12), fc.string({ maxLength: 8 }))
      .map(([at, removed, inserted]) => example.slice(0, at) + inserted + example.slice(at + removed));
    fc.assert(
      fc.property(fc.oneof(damaged, fc.string()), (text) => {
        for (const problem of problemsOf(text)) expect(problem).to.match(/^cluster\.yaml:\d+: ./);
      }),
      { numRuns: 300 },
    );
  });

  it("finds the line of any misspelt key and the key that was meant", () => {
    const lines = example.split("\n");
    const places = ["interval", "freeze_every", "require", "hooks", "retention", "limits"].map((key) => ({
      key,
      line: lines.findIndex((line) => line.startsWith(`    ${key}:`)) + 1,
    }));
    fc.assert(
      fc.property(fc.constantFrom(...places), fc.nat(), ({ key, line }, where) => {
        const cut = where % key.length;
        const misspelt = key.slice(0, cut) + key.slice(cut + 1);
        const text = example.replace(`    ${key}:`, `    ${misspelt}:`);
        const fault = problemsOf(text).find((problem) => problem.includes("unknown key"));
        expect(fault).to.match(new RegExp(`^cluster.yaml:${line}: .*did you mean "${key}"`));
      }),
    );
  });

  it("digests what decides what is shipped, and nothing else", () => {
    const digest = (store: string) => {
      const config = parseConfig(least({ stores: `      up: ${store}` }), "c");
      return Buffer.from(configurationDigest(storeAt(config, "app", "up", "bravo"))).toString("hex");
    };
    const plain = digest("{ kind: files, path: /a, exclude: [x, y] }");
    expect(plain).to.have.length(64);
    expect(digest("{ kind: files, path: /b, exclude: [y, x, x], owners: ignore, at: { bravo: /c } }")).to.equal(plain);
    expect(digest("{ kind: files, path: /a, exclude: [x] }")).to.not.equal(plain);
    expect(digest("{ kind: sqlite, path: /a }")).to.not.equal(digest("{ kind: files, path: /a }"));
  });

  it("says which names there are when one is asked for that is not", () => {
    const config = parseConfig(example, "cluster.yaml");
    for (const [ask, hint] of [
      [() => nodeNamed(config, "brav"), /alpha, bravo, charlie: did you mean "bravo"/],
      [() => groupNamed(config, "ap"), /"app"/],
    ] as const) {
      expect(ask).to.throw(NotConfigured).with.property("hint").that.matches(hint);
    }
  });

  describe("loading", () => {
    let directory: string;
    beforeEach(async () => {
      directory = await mkdtemp(join(tmpdir(), "understudy-config-"));
    });
    afterEach(() => rm(directory, { recursive: true }));

    it("reads a file and names it in its faults", async () => {
      const path = join(directory, "cluster.yaml");
      await writeFile(path, example);
      expect((await loadConfig(path)).fileName).to.equal(path);
      await writeFile(path, "nodes: [");
      expect(await failure(loadConfig(path)))
        .to.have.property("message")
        .that.includes(`${path}:1: `);
    });

    it("says why a file cannot be read", async () => {
      const error = await failure(loadConfig(join(directory, "none.yaml")));
      expect(error).to.be.instanceOf(ConfigurationUnreadable).with.property("exitCode", exitCodes.usage);
    });

    it("refuses a file that is not UTF-8", async () => {
      const path = join(directory, "latin1.yaml");
      await writeFile(path, Buffer.from([0x61, 0x3a, 0x20, 0xe9]));
      expect(await failure(loadConfig(path)))
        .to.have.property("message")
        .that.includes("not UTF-8");
    });
  });
});

describe("nearest", () => {
  for (const [from, to, edits] of [
    ["", "", 0],
    ["a", "", 1],
    ["kitten", "sitting", 3],
    ["pirmary", "primary", 1],
    ["rpo", "rop", 1],
  ] as const) {
    it(`is ${edits} edits from ${JSON.stringify(from)} to ${JSON.stringify(to)}`, () =>
      expect(editDistance(from, to)).to.equal(edits));
  }

  it("is symmetrical, and zero only for equals", () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), (a, b) => {
        expect(editDistance(a, b)).to.equal(editDistance(b, a));
        expect(editDistance(a, b) === 0).to.equal(a === b);
      }),
    );
  });

  it("is nothing where there is nothing to choose from", () => expect(nearest("a", [])).to.equal(undefined));
});

async function failure(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}
