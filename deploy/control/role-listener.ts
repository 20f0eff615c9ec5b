import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { explain } from "../../shared/errors.ts";
import type { Log } from "../../shared/log.ts";
import { parseDurationMs, UnitInvalid } from "../../shared/units.ts";
import type { Role } from "../../shared/words.ts";
import type { CutRef } from "./json-names.ts";

/** What a load balancer, or a client, has to know of a group on a node. */
export interface RoleReport {
  readonly node: string;
  readonly group: string;
  readonly role: Role;
  /** 0 while unformed. */
  readonly epoch: number;
  readonly cut: CutRef | null;
  /** Why the group's service must not run here; "" where it may. */
  readonly outOfService: string;
  /** Why the copy is not one to read from or to promote, whatever its age; "" where it is. A primary has none. */
  readonly unhealthy: string;
  /** A primary is heard of, and its cuts are taken. */
  readonly following: boolean;
  /** Age of the oldest change that is not durable here, as far as it is known; null on a primary. */
  readonly lagSeconds: number | null;
}

export interface RoleSource {
  /** Undefined: this node has no such group. */
  report(group: string): RoleReport | undefined;
  metrics(): Promise<string>;
}

export interface HttpAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

const methods = ["GET", "HEAD", "OPTIONS"];
const headBytesMax = 8 * 1024;
const requestMs = 5000;
const connectionsMax = 256;
const retryAfterMs = 5000;

/**
 * Who is what, for load balancers and clients: 200 or 503, and why. Asked by whoever reaches the address, so that it tells
 * nothing that is worth keeping, takes no body, and answers from memory. That it cannot listen is loud and stops nothing.
 */
export class RoleListener implements AsyncDisposable {
  readonly #server: Server;
  readonly #at: { readonly host: string; readonly port: number };
  readonly #log: Log;
  #timer: NodeJS.Timeout | undefined;
  #complained = false;
  #closed = false;

  constructor(
    at: { readonly host: string; readonly port: number },
    source: RoleSource,
    log: Log,
    retryMs = retryAfterMs,
  ) {
    this.#at = at;
    this.#log = log;
    this.#server = createServer(
      {
        maxHeaderSize: headBytesMax,
        headersTimeout: requestMs,
        requestTimeout: requestMs,
        keepAliveTimeout: requestMs,
        connectionsCheckingInterval: 1000,
      },
      (request, response) => {
        answer(source, request, response).catch((error: unknown) => {
          log.error("role.unanswered", { error });
          response.destroy();
        });
      },
    );
    this.#server.maxConnections = connectionsMax;
    this.#server.setTimeout(2 * requestMs);
    this.#server.on("error", (error) => {
      if (!this.#complained) log.error("role_listener.failed", { address: `${at.host}:${at.port}`, error });
      this.#complained = true;
      // One that it could not accept says nothing about the next.
      if (!this.#closed && !this.#server.listening) this.#timer = setTimeout(() => this.#listen(), retryMs).unref();
    });
    this.#server.on("listening", () => {
      this.#complained = false;
      log.info("role_listener.opened", { address: `${at.host}:${this.port}` });
    });
    this.#listen();
  }

  #listen(): void {
    this.#server.listen({ host: this.#at.host, port: this.#at.port });
  }

  /** 0 while it does not listen. */
  get port(): number {
    return (this.#server.address() as AddressInfo | null)?.port ?? 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    if (!this.#server.listening) return;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
    this.#log.debug("role_listener.closed", {});
  }
}

async function answer(source: RoleSource, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { method = "" } = request;
  const { status, headers, body } = hasBody(request)
    ? failure(413, "a request has no body", { connection: "close" })
    : await roleAnswer(source, method, request.url ?? "");
  const sent = method === "OPTIONS" ? "" : body;
  response.writeHead(status, { ...headers, "content-length": Buffer.byteLength(sent) });
  response.end(method === "HEAD" ? undefined : sent);
}

/** Never read: whoever sends one is not who this is for. */
function hasBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || (headers["content-length"] ?? "0") !== "0";
}

/** What a request is answered with; HEAD and OPTIONS as GET, without the body. */
export async function roleAnswer(source: RoleSource, method: string, target: string): Promise<HttpAnswer> {
  if (!methods.includes(method)) return failure(405, `${method} is not answered here`);
  const [path = "", query] = target.split("?", 2);
  if (path === "/metrics")
    return query === undefined
      ? answered(200, await source.metrics(), { "content-type": "text/plain; version=0.0.4; charset=utf-8" })
      : failure(400, "this takes no parameter");
  const [, group = "", what] = /^\/groups\/([a-z0-9][a-z0-9_-]{0,63})\/(primary|replica)$/.exec(path) ?? [];
  const report = what === undefined ? undefined : source.report(group);
  if (report === undefined)
    return failure(404, "there are /groups/GROUP/primary, /groups/GROUP/replica and /metrics, for groups of this node");
  if (what === "primary")
    return query === undefined ? judged(report, report.outOfService) : failure(400, "this takes no parameter");
  try {
    return judged(report, replicaFault(report, lagMsMax(query)));
  } catch (error) {
    if (error instanceof BadQuery || error instanceof UnitInvalid) return failure(400, explain(error));
    throw error;
  }
}

class BadQuery extends Error {}

function lagMsMax(query: string | undefined): number | undefined {
  if (query === undefined) return undefined;
  const parameters = [...new URLSearchParams(query)];
  const [name, value] = parameters[0] ?? ["", ""];
  if (parameters.length !== 1 || name !== "lag") throw new BadQuery("the only parameter is lag, once, as in lag=5s");
  return parseDurationMs(value);
}

/** Without a limit it has to be following; with one it may also have lost its primary a moment ago. */
function replicaFault(report: RoleReport, lagMs: number | undefined): string {
  if (report.role !== "replica") return `this node is ${report.role}`;
  if (report.unhealthy !== "") return report.unhealthy;
  if (lagMs === undefined) return report.following ? "" : "no primary is heard of";
  const behind = report.lagSeconds;
  if (behind !== null && behind * 1000 <= lagMs) return "";
  return `it is ${behind === null ? "unknown how far" : `${behind.toFixed(1)} s`} behind`;
}

function judged(report: RoleReport, why: string): HttpAnswer {
  const { node, group, role, epoch, cut, lagSeconds } = report;
  const body = { node, group, role, epoch, cut, lagSeconds, why: why === "" ? null : why };
  return answered(why === "" ? 200 : 503, `${JSON.stringify(body)}\n`, { "understudy-epoch": String(epoch) });
}

function failure(status: number, error: string, headers: Readonly<Record<string, string>> = {}): HttpAnswer {
  return answered(status, `${JSON.stringify({ error })}\n`, headers);
}

function answered(status: number, body: string, headers: Readonly<Record<string, string>>): HttpAnswer {
  return {
    status,
    headers: {
      "content-type": "application/json",
      "cache-control": "no-store",
      allow: methods.join(", "),
      ...headers,
    },
    body,
  };
}
