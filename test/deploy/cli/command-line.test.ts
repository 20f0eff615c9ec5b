import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { callerName } from "../../../deploy/cli/caller.ts";
import { runCommandLine } from "../../../deploy/cli/command-line.ts";
import { parseRestorePoint, RestorePointInvalid } from "../../../deploy/cli/restore-point.ts";
import { groupSentence, promotionText } from "../../../deploy/cli/text.ts";
import type { GroupStatus } from "../../../deploy/control/api.ts";
import { ForkDamaged } from "../../../replica/rejoin/fork-bundle.ts";
import { exitCodes, UnderstudyError } from "../../../shared/errors.ts";
import {
  FakeAgent,
  fakeTerminal,
  forkDescription,
  inService,
  peerStreaming,
  replicaGroup,
  serveFake,
  statusWith,
} from "./fake-agent.ts";

class LossRefused extends UnderstudyError {
  readonly code = "LOSS_REFUSED";
  readonly remedy = "stop";
  readonly state = "Nothing was changed: this node is still a replica.";
  readonly hint = "Give --accept-loss=1.42 to go on from cut 1.42.";
  override readonly exitCode = exitCodes.refused;
}

const caller = callerName({});

async function run(words: string[], options: Parameters<typeof fakeTerminal>[0] = {}) {
  const { terminal, written } = fakeTerminal(options);
  const code = await runCommandLine(words, terminal);
  return { code, ...written };
}

describe("command line", () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "us-cmd-"));
  });
  afterEach(() => rm(directory, { recursive: true }));

  describe("usage", () => {
    for (const [words, text] of [
      [[], /Usage: understudy/],
      [["statsu"], /unknown command 'statsu'/],
      [["status", "--jsn"], /unknown option '--jsn'/],
      [["status"], /the state directory is not given[\s\S]*--state DIR or UNDERSTUDY_STATE/],
      [["init", "--state", "x"], /the node is not given/],
      [["run", "--state", "x", "--node", "a"], /the configuration is not given/],
      [["restore", "app", "--state", "x", "--at", "1.1"], /--to <directory>' not specified/],
      [["restore", "app", "--state", "x", "--at", "soon", "--to", "y"], /neither a cut nor a time/],
      [["wait", "app", "--state", "x", "--timeout", "5"], /without its unit/],
      [["wait", "app", "--state", "x", "--replicas", "0"], /whole number of replicas/],
      [["promote", "app", "--state", "x", "--accept-loss=all"], /--accept-loss=EPOCH\.SEQ/],
      [["promote", "app", "--state", "x", "--force"], /unknown option '--force'/],
      [["is-primary", "--state", "x"], /missing required argument 'group'/],
      [["demo", "--seconds", "soon"], /whole number of seconds/],
    ] as const) {
      it(`ends with 2 for: understudy ${words.join(" ")}`, async () => {
        const { code, err } = await run([...words]);
        expect(err).to.match(text);
        expect(code).to.equal(exitCodes.usage);
      });
    }

    it("ends with 0 for help and version, and hides what is not for people", async () => {
      const help = await run(["--help"]);
      expect(help.code).to.equal(exitCodes.done);
      for (const verb of ["init", "run", "check", "status", "cut", "wait", "points", "restore", "verify", "promote"]) {
        expect(help.out).to.match(new RegExp(`^  ${verb} `, "m"));
      }
      for (const verb of ["is-primary", "form", "adopt", "authorize", "demo"]) {
        expect(help.out).to.match(new RegExp(`^  ${verb} `, "m"));
      }
      expect(help.out).to.not.include("bridge");
      expect((await run(["promote", "--help"])).out).to.include("--accept-suspect");
      expect((await run(["wait", "--help"])).out, "as it would be written").to.include("(default: 1m)");
      expect(await run(["--version"])).to.include({ code: exitCodes.done, out: "0.1.0\n" });
    });
  });

  it("makes a node's identity once and prints it", async () => {
    const words = ["init", "--node", "alpha", "--state", join(directory, "state")];
    const first = await run([...words, "--json"]);
    expect(first.code).to.equal(exitCodes.done);
    const made = JSON.parse(first.out) as { node: string; key: string };
    expect(made.node).to.equal("alpha");
    expect(made.key).to.match(/^ssh-ed25519 AAAA/);
    expect((await run([...words, "--json"])).out).to.equal(first.out);
    expect((await run(words)).out).to.equal(`alpha: { key: "${made.key}" }\n`);
  });

  describe("with an agent", () => {
    it("shows the status for people, as JSON, and by its exit code that a promise is broken", async () => {
      const agent = new FakeAgent();
      await using served = await serveFake(agent);
      const shown = await run(["status", "--state", served.state]);
      expect(shown.code).to.equal(exitCodes.done);
      expect(shown.out).to.match(/^node bravo, understudy 0\.1\.0/);
      expect(shown.out).to.match(
        /app: replica of alpha \(streaming\) at cut 1\.42, .*promotable in about 300 ms, losing 1 cut, 4 KiB, 100 ms\./,
      );
      expect(shown.out).to.match(/^ {2}alpha +streaming +0 cuts, 0 B, 100 ms +1\.42 +1\.42 +1\.41 +5 s kept$/m);
      expect(shown.out).to.match(/^ {2}db +sqlite +transactional +1 +8 KiB +- +salt 1 frame 7$/m);
      expect(shown.out).to.include("up: 2 files moved while being read");
      const json = await run(["status", "--state", served.state, "--json"]);
      expect(JSON.parse(json.out)).to.deep.equal(agent.current);

      const alpha = { ...peerStreaming, rpo: { seconds: 5, broken: true } };
      agent.current = statusWith({ app: { ...replicaGroup, peers: { alpha } } });
      const broken = await run(["status", "--state", served.state]);
      expect(broken.code).to.equal(exitCodes.promiseBroken);
      expect(broken.out).to.include("5 s BROKEN");
      expect(broken.err).to.match(/promise broken: app towards alpha: 5 s promised/);
    });

    it("watches the status until it is interrupted, over a restart of the agent", async () => {
      await using served = await serveFake(new FakeAgent());
      const interrupted = new AbortController();
      const { terminal, written } = fakeTerminal({ signal: interrupted.signal });
      const err = terminal.err;
      const watching = runCommandLine(["status", "--watch", "--state", served.state], terminal);
      await shown(() => written.out.includes("app: replica"));
      await served.stop();
      await shown(() => written.err.includes("no agent answers"));
      interrupted.abort(new Error("SIGINT"));
      expect(await watching).to.equal(exitCodes.done);
      expect(err).to.equal(terminal.err);
    });

    it("means the only group where none is named, and asks for a name where there are more", async () => {
      const agent = new FakeAgent();
      await using served = await serveFake(agent);
      expect((await run(["cut", "--state", served.state])).out).to.match(
        /^cut 1\.42, .*: db transactional, up whole\n$/,
      );
      agent.current = statusWith({ app: replicaGroup, web: replicaGroup });
      const unclear = await run(["cut", "--state", served.state]);
      expect(unclear).to.include({ code: exitCodes.usage });
      expect(unclear.err).to.include("app, web");
      expect(agent.calls).to.have.length(1);
    });

    it("finds the state and the node in the environment, and refuses another node's agent", async () => {
      await using served = await serveFake(new FakeAgent());
      const environment = { UNDERSTUDY_STATE: served.state, UNDERSTUDY_NODE: "bravo" };
      expect((await run(["status"], { environment })).code).to.equal(exitCodes.done);
      const other = await run(["status", "--node", "alpha"], { environment });
      expect(other.code).to.equal(exitCodes.usage);
      expect(other.err).to.include("the agent there is bravo, not alpha");
      for (const words of [["cut", "app"], ["forks"], ["forks", "drop", "a", "--yes"]])
        expect((await run([...words, "--node", "alpha"], { environment })).code).to.equal(exitCodes.usage);
    });

    it("checks a group's name against the configuration that is given", async () => {
      const agent = new FakeAgent();
      await using served = await serveFake(agent);
      const path = join(directory, "cluster.yaml");
      await writeFile(path, cluster());
      const words = ["--state", served.state, "-c", path];
      expect((await run(["points", ...words])).out).to.match(/^ {2}CUT +TAKEN/);
      const wrong = await run(["points", "ap", ...words]);
      expect(wrong.code).to.equal(exitCodes.usage);
      expect(wrong.err).to.include('did you mean "app"');
    });

    it("waits with a time-out and for whom it is told", async () => {
      const agent = new FakeAgent();
      await using served = await serveFake(agent);
      const { out } = await run(["wait", "app", "--state", served.state, "--timeout", "90s", "--replica", "alpha"]);
      expect(out).to.equal("cut 1.43 is durable on alpha (1.44) after 4 ms\n");
      await run(["wait", "app", "--state", served.state]);
      expect(agent.calls).to.deep.equal([
        ["wait", "app", { timeoutMs: 90_000, replicas: ["alpha"] }],
        ["wait", "app", { timeoutMs: 60_000, replicas: [] }],
      ]);
    });

    it("waits for so many, and ends with 6 where what is written is not protected", async () => {
      const agent = new FakeAgent();
      agent.degraded = true;
      await using served = await serveFake(agent);
      const { code, out } = await run(["wait", "app", "--state", served.state, "--replicas", "2"]);
      expect(code).to.equal(6);
      expect(out).to.match(/^cut 1\.43 is taken and not protected.*; durable there: alpha \(1\.44\)\n$/);
      expect(agent.calls).to.deep.equal([["wait", "app", { timeoutMs: 60_000, replicas: [], count: 2 }]]);
    });

    it("restores to an absolute directory", async () => {
      const agent = new FakeAgent();
      await using served = await serveFake(agent);
      const { out } = await run(["restore", "app", "--state", served.state, "--at", "1.40", "--to", "there"]);
      expect(out).to.match(/^restored cut 1\.40, .* to .*\/there: 1 file, 8 KiB\n$/);
      expect(agent.calls).to.deep.equal([
        ["restore", "app", { at: { cut: { epoch: 1, seq: 40 } }, to: join(process.cwd(), "there") }],
      ]);
      await run(["restore", "app", "--state", served.state, "--at", "1.40", "--to", "/there", "--only", "up/a"]);
      expect(agent.calls.at(-1)).to.deep.equal([
        "restore",
        "app",
        { at: { cut: { epoch: 1, seq: 40 } }, to: "/there", only: "up/a" },
      ]);
    });

    it("verifies, and ends with 1 where something differs", async () => {
      const agent = new FakeAgent();
      await using served = await serveFake(agent);
      expect(await run(["verify", "--state", served.state, "--quick"])).to.include({
        code: exitCodes.done,
        out: "cut 1.42: equal (digests compared)\n",
      });
      agent.equal = false;
      const differing = await run(["verify", "app", "--state", served.state]);
      expect(differing.code).to.equal(exitCodes.failed);
      expect(differing.out).to.equal(
        'cut 1.42: 2 differences (13 files read, 8 KiB, in 1.5 s)\n  up "a\\nb": content\n  and 1 more\n',
      );
    });

    it("says by its exit code whether this node is primary", async () => {
      const agent = new FakeAgent();
      await using served = await serveFake(agent);
      const words = ["is-primary", "app", "--state", served.state];
      expect(await run(words)).to.include({ code: exitCodes.failed, out: "replica epoch 1\n" });
      const primary = { ...replicaGroup, role: "primary", epoch: 2 } as const;
      agent.current = statusWith({ app: { ...primary, service: inService } });
      expect(await run(words)).to.include({ code: exitCodes.done, out: "primary epoch 2\n", err: "" });
      const why = { code: "UNCONFIRMED", message: "alpha did not answer", hint: "Start it.", flag: "confirm --accept" };
      agent.current = statusWith({ app: { ...primary, service: { running: false, why } } });
      const refused = await run(words);
      expect(refused).to.include({ code: exitCodes.failed, out: "primary epoch 2\n" });
      expect(refused.err).to.equal(
        "not in service: alpha did not answer. Start it. To go on all the same: confirm --accept\n",
      );
      const json = await run([...words, "--json"]);
      expect(json).to.include({ code: exitCodes.failed, err: "" });
      expect(JSON.parse(json.out)).to.deep.equal({ primary: false, role: "primary", epoch: 2, why });
      expect((await run(["status", "--state", served.state])).out).to.include("It is not in service: alpha did not");
      await served.stop();
      expect((await run(words)).code).to.equal(exitCodes.unreachable);
    });

    it("forms and adopts", async () => {
      const agent = new FakeAgent();
      await using served = await serveFake(agent);
      expect((await run(["form", "app", "--alone", "--state", served.state])).out).to.equal(
        "app: primary in epoch 1\n",
      );
      const confirming = await run(["confirm", "app", "--accept-unreachable", "--state", served.state]);
      expect(confirming.out).to.equal("app: in service as primary of epoch 1\n");
      const [verb, group, accepted] = agent.calls.pop() as [string, string, { acceptUnreachable: boolean; by: string }];
      expect([verb, group, accepted.acceptUnreachable]).to.deep.equal(["confirm", "app", true]);
      expect(accepted.by).to.not.equal("");
      expect((await run(["adopt", "app", "--state", served.state, "--json"])).out).to.equal(
        '{"role":"replica","epoch":1}\n',
      );
      expect(agent.calls).to.deep.equal([
        ["form", "app", { alone: true, by: caller }],
        ["adopt", "app", { by: caller }],
      ]);
    });

    it("shows and gives out forks, and drops one only when somebody says so", async () => {
      const agent = new FakeAgent();
      await using served = await serveFake(agent);
      const { name } = forkDescription;
      const forks = async (words: string[], how: Parameters<typeof run>[1] = {}) =>
        await run(["forks", ...words, "--state", served.state], how);
      expect((await forks([])).out).to.equal((await forks(["list"])).out);
      expect((await forks([])).out)
        .to.match(/^ {2}FORK +COMMON CUT +LAST CUT +BEYOND IT +PROMOTED\n/)
        .and.include(`${name}  1.42        1.44      3 paths (1 created, 1 changed, 1 removed)  bravo, epoch 2`);
      expect(JSON.parse((await forks(["list", "--json"])).out)).to.deep.equal({
        forks: [forkDescription],
        damaged: [],
      });
      const shown = await forks(["show", name]);
      expect(shown.out)
        .to.include("what alpha had of app beyond cut 1.42, when bravo went on without it in epoch 2.")
        .and.include('  changed db "app.db": 8 KiB\n')
        .and.include('  created up "a\\nb": 8 B\n')
        .and.include("and 1 more");
      expect((await forks(["show"])).code).to.equal(exitCodes.usage);
      expect((await forks(["burn", name])).code).to.equal(exitCodes.usage);
      expect((await forks(["export", name])).err).to.match(/--to DIR/);
      expect((await forks(["export", name, "--to", "/x/../y"])).out).to.match(/^exported .* to \/y: 2 files, 8 KiB/);
      agent.calls.length = 0;
      expect(await forks(["drop", name])).to.include({ code: exitCodes.refused });
      expect(await forks(["drop", name], { answer: "n" })).to.include({ code: exitCodes.refused });
      expect(agent.calls.flat()).not.to.include("dropFork");
      expect(await forks(["drop", name], { answer: "y" })).to.include({ code: exitCodes.done });
      expect((await forks(["drop", name, "--yes"])).out).to.equal(`dropped ${name}\n`);
      expect(agent.calls.flat().filter((call) => call === "dropFork")).to.have.length(2);
      agent.showFork = async () => {
        throw new ForkDamaged("fork.json is no JSON");
      };
      const unread = await forks(["drop", name], { answer: "y" });
      expect(unread).to.include({ code: exitCodes.done });
      expect(unread.err).to.match(/cannot be read: fork.json is no JSON/);
      expect((await run(["rejoin", "app", "--state", served.state])).out).to.equal(
        `app: follows bravo from cut 1.42; what was beyond it is kept as ${name}: 3 paths (1 created, 1 changed, 1 removed), 8 KiB\n`,
      );
      agent.current = statusWith({ app: { ...replicaGroup, forks: { count: 1, names: [name] } } });
      expect((await run(["status", "--state", served.state])).out).to.include(`1 fork kept here: ${name}`);
    });

    describe("promote", () => {
      it("says what is lost and asks", async () => {
        const agent = new FakeAgent();
        await using served = await serveFake(agent);
        const words = ["promote", "app", "--state", served.state];
        const answered = await run(words, { answer: "y" });
        expect(answered.err).to.match(
          /^bravo would become primary of app, losing 1 cut, 4 KiB, 100 ms\.\n.*cut 1\.42, its last durable one, taken .* \(\S+ \w+.* ago\)[\s\S]*Promote it\? \[y\/N\]/,
        );
        expect(answered).to.include({ code: exitCodes.done });
        expect(answered.out).to.equal(
          "app: primary in epoch 2 after 250 ms, from cut 1.42, losing nothing that is known of.\n",
        );
        for (const answer of ["", "n", "yeah", "Y?"]) {
          expect(await run(words, { answer }), answer).to.include({ code: exitCodes.refused, out: "" });
        }
        const nobody = await run(words);
        expect(nobody.code).to.equal(exitCodes.refused);
        expect(nobody.err).to.include("--yes");
        expect(agent.calls).to.deep.equal([["promote", "app", { accept: [], acceptLoss: "1.42", by: caller }]]);
      });

      it("hands on exactly the flags that were given", async () => {
        const agent = new FakeAgent();
        await using served = await serveFake(agent);
        const words = ["promote", "--yes", "--state", served.state];
        await run([...words, "app"]);
        await run([...words, "--accept-loss", "app"]);
        const flags = [
          "--accept-loss=1.42",
          "--accept-live-primary",
          "--accept-unreachable-primary",
          "--accept-suspect",
        ];
        await run([...words, ...flags, "app"]);
        await run([...words, "--abort", "app"]);
        expect(agent.calls).to.deep.equal([
          ["promote", "app", { accept: [], by: caller }],
          ["promote", "app", { accept: [], acceptLoss: true, by: caller }],
          [
            "promote",
            "app",
            { accept: ["suspect", "live-primary", "unreachable-primary"], acceptLoss: "1.42", by: caller },
          ],
          ["abortPromotion", "app"],
        ]);
      });

      it("names the user who asks, and who became it by sudo", () => {
        expect(callerName({ SUDO_USER: "maria" })).to.equal(`maria as ${caller}`);
        expect(callerName({ SUDO_USER: caller })).to.equal(caller);
      });

      it("says what is known to be missing of what was written in the silence", async () => {
        const agent = new FakeAgent();
        const loss = { cuts: 2, bytes: 4096, seconds: 90, basis: "silence" } as const;
        agent.current = statusWith({ app: { ...replicaGroup, promotable: { ...replicaGroup.promotable, loss } } });
        await using served = await serveFake(agent);
        const { err } = await run(["promote", "app", "--state", served.state], { answer: "n" });
        expect(err).to.include(
          "losing at most what was written in the last 1 min 30 s (known to be missing: 2 cuts, 4 KiB).\n",
        );
      });

      it("says before it asks what is wanted where the primary does not answer", async () => {
        const agent = new FakeAgent();
        const peers = Object.entries(replicaGroup.peers);
        const silent = Object.fromEntries(peers.map(([peer, at]) => [peer, { ...at, state: "connecting" as const }]));
        agent.current = statusWith({ app: { ...replicaGroup, peers: silent } });
        await using served = await serveFake(agent);
        const { err } = await run(["promote", "app", "--state", served.state], { answer: "n" });
        expect(err).to.include(
          "alpha does not answer: make sure that its service does not run, and say so by --accept-",
        );
        agent.current = statusWith({ app: replicaGroup });
        const heard = await run(["promote", "app", "--state", served.state], { answer: "n" });
        expect(heard.err).not.to.include("does not answer");
      });

      it("does not ask for what was given", async () => {
        const agent = new FakeAgent();
        const peers = Object.entries(replicaGroup.peers);
        const silent = Object.fromEntries(peers.map(([peer, at]) => [peer, { ...at, state: "connecting" as const }]));
        const why = [{ code: "SUSPECT", message: "the copy is suspect", hint: "", flag: "--accept-suspect" }];
        const promotable = { ...replicaGroup.promotable, ok: false, why };
        agent.current = statusWith({ app: { ...replicaGroup, peers: silent, promotable } });
        await using served = await serveFake(agent);
        const words = ["promote", "app", "--yes", "--state", served.state];
        const plain = await run(words);
        expect(plain.err).to.include("In the way: the copy is suspect. To go on all the same: --accept-suspect\n");
        const { err } = await run([...words, "--accept-suspect", "--accept-unreachable-primary"]);
        expect(err).not.to.include("--accept-").and.not.to.include("In the way");
        expect(err).to.include("Accepted: the copy is suspect.\nalpha does not answer: it is accepted that");
      });

      it("says of a former primary that it gives up nothing that it has", async () => {
        const agent = new FakeAgent();
        agent.reinstated = true;
        agent.current = statusWith({ app: { ...replicaGroup, role: "fenced" } });
        await using served = await serveFake(agent);
        const { err, out } = await run(["promote", "app", "--yes", "--accept-fenced", "--state", served.state]);
        expect(err).to.match(
          /^bravo would become primary of app again: all that it has stays, and what was written else/,
        );
        expect(err).to.match(/\nIt goes on from what lies here, since cut 1\.42, its last one, taken /);
        expect(out).to.match(
          /^app: primary in epoch 2 after 250 ms, from cut 1\.42, with all that it had; what was wr/,
        );
        expect(err + out).not.to.match(/losing|its last durable one/);
      });

      it("prints a refusal with the flag that would pass it", async () => {
        const agent = new FakeAgent();
        agent.failure = new LossRefused("1 cut would be lost");
        await using served = await serveFake(agent);
        const refused = await run(["promote", "app", "--yes", "--state", served.state]);
        expect(refused.code).to.equal(exitCodes.refused);
        expect(refused.err).to.match(
          /understudy: 1 cut would be lost\n {2}Nothing was changed.*\n {2}Give --accept-loss=1\.42/,
        );
      });

      it("shows what stands in the way before it asks", async () => {
        const agent = new FakeAgent();
        const why = [{ code: "S", message: "the copy is suspect", hint: "Verify it.", flag: "--accept-suspect" }];
        agent.current = statusWith({
          app: { ...replicaGroup, promotable: { ...replicaGroup.promotable, ok: false, why } },
        });
        await using served = await serveFake(agent);
        const { err } = await run(["promote", "app", "--state", served.state], { answer: "n" });
        expect(err).to.include("In the way: the copy is suspect. Verify it. To go on all the same: --accept-suspect\n");
      });
    });
  });

  describe("authorize", () => {
    it("prints the forced-command line, installs it once and takes a rotated key away", async () => {
      const path = join(directory, "cluster.yaml");
      await writeFile(path, cluster());
      const words = ["authorize", "alpha", "-c", path, "--state", join(directory, "state dir")];
      const printed = await run(words);
      expect(printed.out).to.match(
        /^restrict,command="\S+\/deploy\/understudy bridge --peer alpha --state '\S+\/state dir'" ssh-ed25519 \S+ understudy:alpha\n$/,
      );
      const environment = { HOME: directory };
      const keys = join(directory, ".ssh", "authorized_keys");
      await run([...words, "--install"], { environment });
      await writeFile(keys, `${await readFile(keys, "utf8")}ssh-ed25519 AAAA somebody\n`);
      expect((await run([...words, "--install"], { environment })).out).to.include("is as it should be");
      await writeFile(path, cluster("Z"));
      const rotated = await run(words);
      await run([...words, "--install"], { environment });
      expect(await readFile(keys, "utf8")).to.equal(`ssh-ed25519 AAAA somebody\n${rotated.out}`);
      expect(rotated.out).to.not.equal(printed.out);
    });

    it("refuses a node that the configuration does not have", async () => {
      const path = join(directory, "cluster.yaml");
      await writeFile(path, cluster());
      const { code, err } = await run(["authorize", "alfa", "-c", path, "--state", directory]);
      expect(code).to.equal(exitCodes.usage);
      expect(err).to.include('did you mean "alpha"');
    });
  });

  describe("check", () => {
    it("names what would go wrong, each with what to do", async () => {
      const path = join(directory, "cluster.yaml");
      await writeFile(path, cluster());
      const state = join(directory, "state");
      const words = ["check", "-c", path, "--node", "bravo", "--state", state, "--json"];
      const before = JSON.parse((await run(words)).out) as {
        findings: { subject: string; level: string; message: string }[];
      };
      const levels = new Map(before.findings.map(({ subject, level }) => [subject, level]));
      expect(levels.get("configuration")).to.equal("ok");
      expect(levels.get("state directory")).to.equal("failed");
      expect(levels.get("identity")).to.equal("failed");
      expect(levels.get("peer alpha")).to.equal("unreachable");
      expect(levels.get("hook app.startService")).to.equal("ok");
      expect(levels.get("hook app.stopService")).to.equal("failed");
      const key = (
        JSON.parse((await run(["init", "--node", "bravo", "--state", state, "--json"])).out) as { key: string }
      ).key;
      await writeFile(path, cluster("A", key));
      const after = await run(words.slice(0, -1));
      expect(after.out).to.match(/^ {2}ok +identity +its key is the one/m);
      expect(after.out).to.match(/^ {2}ok +state directory/m);
      expect(after.out).to.match(/^ {2}unreachable +peer alpha .*\n {6}Start the agent/m);
      expect(after.out).to.match(/Not ready: 2 findings/);
      expect(after.code).to.equal(exitCodes.failed);
    });

    it("ends with 2 and all faults where the configuration is wrong", async () => {
      const path = join(directory, "cluster.yaml");
      await writeFile(path, cluster().replace("primary:", "primery:"));
      const { code, err } = await run(["check", "-c", path, "--node", "bravo", "--state", directory]);
      expect(code).to.equal(exitCodes.usage);
      expect(err).to.match(/cluster\.yaml:6: groups\.app\.primery: is an unknown key: did you mean "primary"/);
    });
  });

  it("starts by its launcher, also through symlinks and from anywhere", async () => {
    const launcher = fileURLToPath(new URL("../../../deploy/understudy", import.meta.url));
    await symlink(launcher, join(directory, "one"));
    await symlink("one", join(directory, "two"));
    const { code, out } = await child(join(directory, "two"), ["--version"], "/");
    expect({ code, out }).to.deep.equal({ code: 0, out: "0.1.0\n" });
    const missing = await child(launcher, ["status", "--state", directory], directory);
    expect(missing.code).to.equal(exitCodes.unreachable);
    expect(missing.err).to.include("no agent answers");
  });
});

describe("restore point", () => {
  const now = Date.parse("2026-11-21T09:00:00Z");
  for (const [text, point] of [
    ["1.42", { cut: { epoch: 1, seq: 42 } }],
    ["2026-11-21T08:00:00Z", { time: "2026-11-21T08:00:00.000Z" }],
    ["2026-11-21T08:00:00.5+01:00", { time: "2026-11-21T07:00:00.500Z" }],
    ["1m ago", { time: "2026-11-21T08:59:00.000Z" }],
    ["7d ago", { time: "2026-11-14T09:00:00.000Z" }],
  ] as const) {
    it(`understands ${text}`, () => expect(parseRestorePoint(text, now)).to.deep.equal(point));
  }

  it("takes a time without a zone as this machine's", () => {
    const time = new Date(2026, 10, 21, 9, 30).toISOString();
    expect(parseRestorePoint("2026-11-21 09:30", now)).to.deep.equal({ time });
  });

  for (const text of ["", "42", "1.2.3", "yesterday", "5 ago", "2026-11-21", "2026-13-41T00:00Z", "999999999d ago"]) {
    it(`refuses ${JSON.stringify(text)}`, () =>
      expect(() => parseRestorePoint(text, now)).to.throw(RestorePointInvalid));
  }
});

describe("a group in one sentence", () => {
  const rows: [GroupStatus, string][] = [
    [
      { ...replicaGroup, role: "unformed", waitingFor: ["bravo", "charlie"] },
      "app: unformed, waits for bravo, charlie.",
    ],
    [
      { ...replicaGroup, role: "primary", service: inService },
      "app: primary at cut 1.42, taken 2026-11-21T09:00:00.000Z; alpha streaming (0 cuts, 0 B, 100 ms).",
    ],
    [{ ...replicaGroup, role: "promoting", cut: null }, "app: being promoted without a cut yet."],
    [
      { ...replicaGroup, role: "promoting", cut: null, membersDiffer: ["charlie"] },
      "app: being promoted without a cut yet. The configuration of charlie NAMES OTHER MEMBERS, or in another order: nobody is promoted.",
    ],
    [
      { ...replicaGroup, role: "fenced", cut: null },
      "app: fenced without a cut yet: another node is primary by a later epoch, and nothing is shipped from here.",
    ],
    [
      {
        ...replicaGroup,
        role: "primary",
        service: inService,
        cut: null,
        peers: {},
        halted: { code: "X", message: "the source is gone", hint: "Mount it.", flag: "cut --accept-source" },
      },
      "app: primary without a cut yet; no replica. It stands still: the source is gone. Mount it. To go on all the same: cut --accept-source",
    ],
  ];
  for (const [group, sentence] of rows) {
    it(sentence, () => expect(groupSentence("app", group)).to.equal(sentence));
  }
});

describe("what is said before a promotion", () => {
  const now = new Date("2026-11-21T09:01:00Z");
  const rejoining = {
    common: { epoch: 1, seq: 40 },
    ownCut: { epoch: 1, seq: 57 },
    takenAt: "2026-11-21T09:00:00.000Z",
    fork: "app-1.57-20261121T090000",
  };

  it("names what a node that rejoins goes on from, and the fork that is kept", () => {
    const text = promotionText("app", "alpha", { ...replicaGroup, rejoining }, [], now);
    expect(text).to.include(
      "It rejoins: it goes on from what it has since cut 1.40 up to its own cut 1.57, taken 2026-11-21T09:00:00.000Z (1 min ago), which becomes the first cut of its new reign. Fork app-1.57-20261121T090000 is kept beside it.",
    );
    expect(text).not.to.include("its last durable one");
  });

  it("says no more of it than is known", () => {
    const unknown = { ...rejoining, ownCut: null, takenAt: null, fork: null };
    expect(promotionText("app", "alpha", { ...replicaGroup, rejoining: unknown }, [], now)).to.include(
      "It rejoins: it goes on from what it has since cut 1.40, which becomes the first cut of its new reign.\n",
    );
  });
});

function cluster(letter = "A", bravoKey = keyOf("B")): string {
  return `nodes:
  alpha: { address: "127.0.0.1:1", key: "${keyOf(letter)}" }
  bravo: { key: "${bravoKey}" }
groups:
  app:
    primary: alpha
    replicas: [bravo]
    stores: { db: { kind: sqlite, path: ${tmpdir()}/understudy-no-such.db } }
    hooks: { start_service: ["true"], stop_service: [/no/such/command] }
    limits: { staging: 1B }
`;
}

function keyOf(letter: string): string {
  const head = Buffer.from("\0\0\0\x0bssh-ed25519\0\0\0\x20", "latin1");
  return `ssh-ed25519 ${Buffer.concat([head, Buffer.alloc(32, letter)]).toString("base64")}`;
}

/** Waits for a condition; the deadline is for a test that would never end. */
async function shown(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error("it was never shown");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function child(command: string, words: string[], cwd: string): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    execFile(command, words, { cwd, env: { PATH: process.env.PATH } }, (error, out, err) => {
      resolve({ code: error === null ? 0 : Number(error.code), out, err });
    });
  });
}
