import { mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { type ControlHandler, cutRef } from "../../../deploy/control/api.ts";
import {
  AgentNotRunning,
  AgentRefused,
  ControlBroken,
  ControlTimedOut,
  connectControl,
} from "../../../deploy/control/client.ts";
import { SocketPathTooLong, serveControl } from "../../../deploy/control/server.ts";
import { controlSocketPath } from "../../../deploy/control/state-layout.ts";
import { exitCodes, ProtocolViolation, UnderstudyError } from "../../../shared/errors.ts";
import { epoch, seq } from "../../../shared/words.ts";
import { FakeAgent, forkDescription, serveFake } from "./fake-agent.ts";

class Refused extends UnderstudyError {
  readonly code = "COPY_SUSPECT";
  readonly remedy = "stop";
  readonly state = "Nothing was changed.";
  readonly hint = "Give --accept-suspect.";
  override readonly exitCode = exitCodes.refused;
}

function raw(
  socketPath: string,
  method: string,
  path: string,
  body?: string,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath, method, path, agent: false }, (response) => {
      let text = "";
      response.on("data", (chunk) => (text += chunk));
      response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
    });
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

describe("control socket", () => {
  it("hands every call and its options to the agent, and its answer back", async () => {
    const agent = new FakeAgent();
    await using served = await serveFake(agent);
    const client: ControlHandler = connectControl(controlSocketPath(served.state));
    expect(await client.status()).to.deep.equal(agent.current);
    expect(await client.metrics()).to.equal("understudy_cuts_total 1\n");
    expect(await client.isPrimary("app")).to.deep.equal({
      primary: false,
      role: "replica",
      epoch: 1,
      why: agent.current.groups.app?.service.why,
    });
    expect((await client.points("app")).points).to.have.length(1);
    await client.cut("app", { accept: ["source"], by: "maria" });
    await client.cut("app", { accept: [], prune: true });
    await client.wait("app", { timeoutMs: 1000, replicas: ["alpha"] });
    await client.restore("app", { at: { cut: { epoch: 1, seq: 2 } }, to: "/x" });
    await client.restore("app", { at: { time: "2026-11-21T09:00:00.000Z" }, to: "/x" });
    await client.verify("app", { quick: true });
    await client.promote("app", { accept: ["suspect"], acceptLoss: "1.2" });
    await client.promote("app", { accept: [], acceptLoss: true });
    await client.promote("app", { accept: ["unreachable-primary"], by: "maria" });
    await client.abortPromotion("app");
    await client.form("app", { alone: true, by: "maria" });
    await client.confirm("app", { acceptUnreachable: true, by: "root" });
    await client.adopt("app", { by: "root" });
    expect((await client.forks()).forks).to.deep.equal([forkDescription]);
    await client.showFork("a b&c");
    await client.exportFork("a", { to: "/x" });
    await client.dropFork("a");
    await client.dropFork("a", { by: "root" });
    expect((await client.rejoin("app", { by: "root" })).peer).to.equal("bravo");
    expect(agent.calls).to.deep.equal([
      ["isPrimary", "app"],
      ["points", "app"],
      ["cut", "app", { accept: ["source"], by: "maria" }],
      ["cut", "app", { accept: [], prune: true }],
      ["wait", "app", { timeoutMs: 1000, replicas: ["alpha"] }],
      ["restore", "app", { at: { cut: { epoch: 1, seq: 2 } }, to: "/x" }],
      ["restore", "app", { at: { time: "2026-11-21T09:00:00.000Z" }, to: "/x" }],
      ["verify", "app", { quick: true }],
      ["promote", "app", { accept: ["suspect"], acceptLoss: "1.2" }],
      ["promote", "app", { accept: [], acceptLoss: true }],
      ["promote", "app", { accept: ["unreachable-primary"], by: "maria" }],
      ["abortPromotion", "app"],
      ["form", "app", { alone: true, by: "maria" }],
      ["confirm", "app", { acceptUnreachable: true, by: "root" }],
      ["adopt", "app", { by: "root" }],
      ["forks"],
      ["showFork", "a b&c"],
      ["exportFork", "a", "/x"],
      ["dropFork", "a", {}],
      ["dropFork", "a", { by: "root" }],
      ["rejoin", "app", { by: "root" }],
    ]);
  });

  it("can be opened by its owner only, and leaves nothing else in the state directory", async () => {
    await using served = await serveFake(new FakeAgent());
    const { mode } = await stat(controlSocketPath(served.state));
    expect(mode & 0o777).to.equal(0o600);
    expect(await readdir(served.state)).to.deep.equal(["control.sock"]);
    await served.stop();
    expect(await readdir(served.state)).to.deep.equal([]);
  });

  it("takes the place of what a killed agent left, and leaves that of a successor", async () => {
    const directory = await mkdtemp(join(tmpdir(), "us-socket-"));
    const path = join(directory, "s");
    try {
      await writeFile(path, "left behind");
      const first = await serveControl(path, new FakeAgent());
      const second = await serveControl(path, new FakeAgent());
      await first[Symbol.asyncDispose]();
      expect((await connectControl(path).status()).node).to.equal("bravo");
      await second[Symbol.asyncDispose]();
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it("refuses a path that the kernel would cut short", async () => {
    const directory = await mkdtemp(join(tmpdir(), "us-long-"));
    try {
      const error = await failure(serveControl(join(directory, "s".repeat(100)), new FakeAgent()));
      expect(error).to.be.instanceOf(SocketPathTooLong).with.property("exitCode", exitCodes.usage);
      expect(await readdir(directory)).to.deep.equal([]);
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it("carries a failure as it was thrown, with its exit code", async () => {
    const agent = new FakeAgent();
    await using served = await serveFake(agent);
    const client = connectControl(controlSocketPath(served.state));
    agent.failure = new Refused("the copy is suspect");
    const refused = await failure(client.promote("app", { accept: [] }));
    expect(refused).to.be.instanceOf(AgentRefused);
    expect(refused).to.include({
      code: "COPY_SUSPECT",
      message: "the copy is suspect",
      state: "Nothing was changed.",
      hint: "Give --accept-suspect.",
      exitCode: exitCodes.refused,
    });
    agent.failure = new TypeError("x is not a function");
    expect(await failure(client.adopt("app"))).to.include({ code: "INTERNAL", exitCode: exitCodes.failed });
    agent.failure = new ProtocolViolation("bad frame");
    expect(await failure(client.adopt("app"))).to.include({ code: "PROTOCOL_VIOLATION", exitCode: exitCodes.failed });
  });

  for (const [what, method, path, body, reason] of [
    ["an unknown route", "GET", "/nothing", undefined, /there is no GET \/nothing/],
    ["a question by the wrong method", "GET", "/promote?group=app", undefined, /there is no GET/],
    ["no group", "POST", "/adopt", "{}", /group/],
    ["an unknown key", "POST", "/promote", '{"group":"app","force":true}', /force/],
    ["a wrong type", "POST", "/wait", '{"group":"app","timeoutMs":"1"}', /timeoutMs/],
    ["a relative directory", "POST", "/restore", '{"group":"app","at":{"cut":{"epoch":1,"seq":1}},"to":"x"}', /to/],
    ["something else than JSON", "POST", "/adopt", "group=app", /not JSON/],
    ["more than any request has", "POST", "/adopt", `{"group":"${"a".repeat(70_000)}"}`, /at most 65536 bytes/],
  ] as const) {
    it(`refuses ${what}`, async () => {
      const agent = new FakeAgent();
      await using served = await serveFake(agent);
      const { status, text } = await raw(controlSocketPath(served.state), method, path, body);
      expect(status).to.equal(400);
      const { error } = JSON.parse(text) as { error: { message: string; exitCode: number } };
      expect(error.message).to.match(reason);
      expect(error.exitCode).to.equal(exitCodes.usage);
      expect(agent.calls).to.deep.equal([]);
    });
  }

  it("gives up on an agent that does not answer", async () => {
    const agent = new FakeAgent();
    agent.hang = true;
    agent.status = () => new Promise(() => {});
    await using served = await serveFake(agent);
    const client = connectControl(controlSocketPath(served.state), { questionMs: 20, graceMs: 20 });
    for (const call of [client.status(), client.wait("app", { timeoutMs: 20, replicas: [] })]) {
      expect(await failure(call))
        .to.be.instanceOf(ControlTimedOut)
        .with.property("exitCode", exitCodes.timedOut);
    }
    expect(await agent.waited.promise, "the agent heard of it").to.be.instanceOf(Error);
  });

  it("tells a waiting agent when its caller is gone", async () => {
    const agent = new FakeAgent();
    agent.hang = true;
    await using served = await serveFake(agent);
    const caller = new AbortController();
    const waiting = connectControl(controlSocketPath(served.state)).wait(
      "app",
      { timeoutMs: 60_000, replicas: [] },
      caller.signal,
    );
    const failed = failure(waiting);
    setImmediate(() => caller.abort(new Error("interrupted")));
    expect(await failed).to.have.property("message", "interrupted");
  });

  it("says that no agent runs where there is none, and that the agent broke where it did", async () => {
    const directory = await mkdtemp(join(tmpdir(), "us-none-"));
    const path = join(directory, "control.sock");
    const server = createServer((socket) => socket.destroy());
    try {
      expect(await failure(connectControl(path).status())).to.be.instanceOf(AgentNotRunning);
      await new Promise<void>((resolve) => server.listen(path, resolve));
      expect(await failure(connectControl(path).status())).to.be.instanceOf(ControlBroken);
    } finally {
      await new Promise((resolve) => server.close(resolve));
      await rm(directory, { recursive: true });
    }
  });

  it("gives cuts as numbers that JSON keeps exactly, or not at all", () => {
    expect(cutRef({ epoch: epoch(1), seq: seq(42) })).to.deep.equal({ epoch: 1, seq: 42 });
    expect(() => cutRef({ epoch: epoch(1), seq: seq(2n ** 53n) })).to.throw(RangeError);
  });
});

async function failure(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}
