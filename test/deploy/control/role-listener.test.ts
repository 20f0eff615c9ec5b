import { once } from "node:events";
import { request } from "node:http";
import { connect, createServer, type Server } from "node:net";
import { expect } from "chai";
import { RoleListener, type RoleReport, type RoleSource, roleAnswer } from "../../../deploy/control/role-listener.ts";
import { silentLog } from "../../../shared/log.ts";
import { until } from "../../end-to-end/harness.ts";

const replica: RoleReport = {
  node: "bravo",
  group: "app",
  role: "replica",
  epoch: 4,
  cut: { epoch: 4, seq: 42 },
  outOfService: "this node is replica",
  unhealthy: "",
  following: true,
  lagSeconds: 0.25,
};
const primary: RoleReport = {
  ...replica,
  node: "alpha",
  role: "primary",
  outOfService: "",
  following: false,
  lagSeconds: null,
};

function sourceOf(report: RoleReport): RoleSource {
  return { report: (group) => (group === report.group ? report : undefined), metrics: async () => "up 1\n" };
}

describe("who is what, over HTTP", () => {
  const table: [string, RoleReport, string, number, RegExp][] = [
    ["a primary in service", primary, "/primary", 200, /"why":null/],
    [
      "one that is not confirmed",
      { ...primary, outOfService: "bravo did not answer" },
      "/primary",
      503,
      /"why":"bravo did/,
    ],
    ["a replica", replica, "/primary", 503, /this node is replica/],
    ["a replica that follows", replica, "/replica", 200, /"lagSeconds":0.25,"why":null/],
    ["one that hears nobody", { ...replica, following: false }, "/replica", 503, /no primary is heard of/],
    ["one that does, near enough", { ...replica, following: false }, "/replica?lag=1s", 200, /null/],
    ["one at the limit", replica, "/replica?lag=250ms", 200, /null/],
    ["one beyond it", replica, "/replica?lag=200ms", 503, /it is 0\.3 s behind/],
    ["one of unknown lag", { ...replica, lagSeconds: null }, "/replica?lag=1d", 503, /unknown how far behind/],
    ["one whose copy is suspect", { ...replica, unhealthy: "the copy is suspect" }, "/replica", 503, /is suspect/],
    ["one whose copy is suspect, near enough", { ...replica, unhealthy: "suspect" }, "/replica?lag=1h", 503, /suspect/],
    ["a primary asked for a replica", primary, "/replica", 503, /this node is primary/],
    ["a limit without unit", replica, "/replica?lag=5", 400, /unit/],
    ["an empty limit", replica, "/replica?lag=", 400, /error/],
    ["two limits", replica, "/replica?lag=1s&lag=2s", 400, /only parameter/],
    ["an unknown parameter", replica, "/replica?log=1s", 400, /only parameter/],
    ["a parameter for a primary", primary, "/primary?lag=1s", 400, /no parameter/],
    ["another thing", primary, "/secondary", 404, /\/groups\/GROUP\/primary/],
  ];
  for (const [what, report, path, status, body] of table)
    it(`answers ${status} of ${what} to ${path}`, async () => {
      for (const method of ["GET", "HEAD", "OPTIONS"]) {
        const answer = await roleAnswer(sourceOf(report), method, `/groups/app${path}`);
        expect(answer.status, method).to.equal(status);
        expect(answer.body).to.match(body);
        if (status === 200 || status === 503) expect(answer.headers["understudy-epoch"]).to.equal("4");
      }
    });

  it("knows no other group, no odd name and no other method", async () => {
    const source = sourceOf(primary);
    for (const path of [
      "/groups/other/primary",
      "/groups/../primary",
      "/groups/a%70p/primary",
      "/",
      "//",
      "/groups/app",
    ])
      expect((await roleAnswer(source, "GET", path)).status, path).to.equal(404);
    for (const method of ["POST", "PUT", "DELETE", "TRACE"])
      expect((await roleAnswer(source, method, "/groups/app/primary")).status, method).to.equal(405);
    expect(await roleAnswer(source, "GET", "/metrics")).to.include({ status: 200, body: "up 1\n" });
    expect((await roleAnswer(source, "GET", "/metrics?x")).status).to.equal(400);
  });

  describe("on a socket", () => {
    let listener: RoleListener;
    beforeEach(async () => {
      listener = new RoleListener({ host: "127.0.0.1", port: 0 }, sourceOf(primary), silentLog);
      await listens(listener);
    });
    afterEach(async () => await listener[Symbol.asyncDispose]());

    it("answers, and to HEAD and OPTIONS without a body", async () => {
      for (const method of ["GET", "HEAD", "OPTIONS"]) {
        const { status, headers, text } = await ask(listener.port, method, "/groups/app/primary");
        expect(status).to.equal(200);
        expect(headers).to.include({
          "understudy-epoch": "4",
          "cache-control": "no-store",
          allow: "GET, HEAD, OPTIONS",
        });
        expect(text === "", method).to.equal(method !== "GET");
      }
    });

    it("reads no body, and no head that is larger than any needs to be", async () => {
      expect((await ask(listener.port, "GET", "/groups/app/primary", "x")).status).to.equal(413);
      const { status } = await ask(listener.port, "GET", `/groups/app/primary?lag=${"1".repeat(9000)}`);
      expect(status).to.equal(431);
    });

    it("lets go of who says nothing, and ends with open connections", async () => {
      const socket = connect(listener.port, "127.0.0.1");
      await once(socket, "connect");
      const closed = once(socket, "close");
      await listener[Symbol.asyncDispose]();
      await closed;
    });
  });

  it("says that its address is taken, and listens as soon as it is not", async () => {
    const other = createServer().listen(0, "127.0.0.1");
    await once(other, "listening");
    const port = portOf(other);
    const said: string[] = [];
    const log = { ...silentLog, error: (event: string) => said.push(event) };
    await using listener = new RoleListener({ host: "127.0.0.1", port }, sourceOf(primary), log, 20);
    await until(() => said.length > 0, 5000, "it complains");
    other.close();
    await listens(listener);
    expect((await ask(port, "GET", "/groups/app/primary")).status).to.equal(200);
    expect(said, "once").to.deep.equal(["role_listener.failed"]);
  });
});

async function listens(listener: RoleListener): Promise<void> {
  await until(() => listener.port > 0, 5000, "it listens");
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}

async function ask(port: number, method: string, path: string, body?: string) {
  return await new Promise<{ status: number; headers: Record<string, unknown>; text: string }>((resolve, reject) => {
    const headers = body === undefined ? {} : { "content-length": body.length };
    const outgoing = request({ host: "127.0.0.1", port, method, path, headers, agent: false }, (response) => {
      let text = "";
      response.on("data", (chunk) => (text += chunk));
      response.on("error", reject);
      response.on("end", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, text }));
    });
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}
