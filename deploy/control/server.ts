import { chmod, mkdtemp, rename, rm, stat, unlink } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { dirname, join } from "node:path";
import { z } from "zod";
import { exitCodes, explain, InvariantBroken, isSystemError, UnderstudyError } from "../../shared/errors.ts";
import { type Log, silentLog } from "../../shared/log.ts";
import type { ControlFailure, ControlHandler } from "./api.ts";

const bodyBytesMax = 64 * 1024;
/** `sun_path` of unix(7), less its terminating NUL. */
const socketPathBytesMax = 107;

export class SocketPathTooLong extends UnderstudyError {
  readonly code = "SOCKET_PATH_TOO_LONG";
  readonly remedy = "stop";
  readonly state = "The agent was not started.";
  readonly hint = `Use a state directory with a shorter path: a socket's name has at most ${socketPathBytesMax} bytes.`;
  override readonly exitCode = exitCodes.usage;

  constructor(path: string) {
    super(`the control socket ${path} has a name of ${Buffer.byteLength(path)} bytes`);
  }
}

/** What came over the socket is no request that this agent knows. */
class RequestRefused extends UnderstudyError {
  readonly code: string = "REQUEST_REFUSED";
  readonly remedy = "stop";
  readonly state = "Nothing was done.";
  readonly hint = "Use the command line of the same version as the agent.";
  override readonly exitCode = exitCodes.usage;
}

/**
 * Answers requests at a unix socket that only the agent's own user (and root) can open. Replaces what a former agent
 * left there; whether one still runs is the business of the state directory's lock.
 */
export async function serveControl(
  path: string,
  handler: ControlHandler,
  log: Log = silentLog,
): Promise<AsyncDisposable> {
  const server = createServer((request, response) => {
    // What `answer` cannot turn into an answer is a broken invariant: it ends the process, as everywhere else.
    answer(request, response, handler, log).catch((error: unknown) => {
      setImmediate(() => {
        throw error;
      });
    });
  });
  await listenPrivately(server, path);
  server.on("error", (error) => log.error("control.failed", { error }));
  const { ino } = await stat(path);
  return {
    async [Symbol.asyncDispose]() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
      await unlinkOwn(path, ino);
    },
  };
}

/** Bound in a directory that nobody else can enter, then moved into place: there is no moment with a wider mode. */
async function listenPrivately(server: Server, path: string): Promise<void> {
  const directory = await mkdtemp(join(dirname(path), ".c"));
  try {
    const staged = join(directory, "s");
    for (const name of [path, staged]) {
      if (Buffer.byteLength(name) > socketPathBytesMax) throw new SocketPathTooLong(name);
    }
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(staged, () => {
        server.off("error", reject);
        resolve();
      });
    });
    await chmod(staged, 0o600);
    await rename(staged, path);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** A successor may already have put its own socket there. */
async function unlinkOwn(path: string, inode: number): Promise<void> {
  try {
    if ((await stat(path)).ino === inode) await unlink(path);
  } catch (error) {
    if (!isSystemError(error, "ENOENT")) throw error;
  }
}

type Answerer = (handler: ControlHandler, input: unknown, signal: AbortSignal) => Promise<unknown>;

const group = z.string().min(1);
const acceptNames = z.array(z.string()).default([]);
/** Who asks, as he says: the socket is the agent's user's and root's, and tells nobody apart. */
const callerName = z.string().max(256).optional();
const cutRefSchema = z.strictObject({ epoch: z.int().min(0), seq: z.int().min(0) });

const remembered = { clusterEpoch: z.int().min(0).nullable(), mark: z.string() };
const haRequest = z.discriminatedUnion("action", [
  z.strictObject({ action: z.enum(["status", "monitor"]), lagSecondsMax: z.number().min(0), ...remembered }),
  z.strictObject({
    action: z.literal("grant"),
    votes: z.array(z.strictObject({ node: z.string(), vote: z.string() })),
    seal: z.string(),
    ...remembered,
  }),
  z.strictObject({ action: z.literal("promote"), epoch: z.int().min(1) }),
  z.strictObject({ action: z.literal("demote"), shipMs: z.int().min(0) }),
]);

function route<T>(
  schema: z.ZodType<T>,
  call: (handler: ControlHandler, input: T, signal: AbortSignal) => Promise<unknown>,
) {
  const answerer: Answerer = (handler, input, signal) => {
    const parsed = schema.safeParse(input);
    if (!parsed.success) throw new RequestRefused(`this request is not understood: ${z.prettifyError(parsed.error)}`);
    return call(handler, parsed.data, signal);
  };
  return answerer;
}

const switchover = { group, to: z.string().min(1), accept: acceptNames, by: callerName };

/** Without what was not said. */
function caller<T extends { readonly by?: string | undefined }>({
  by,
  ...options
}: T): Omit<T, "by"> & { by?: string } {
  return by === undefined ? options : { ...options, by };
}

const nothing = z.strictObject({});
const ofGroup = z.strictObject({ group });
const ofFork = z.strictObject({ name: group });

const pauseOptions = z.strictObject({
  group,
  shipping: z.boolean().default(false),
  failover: z.boolean().default(false),
  by: z.string().max(256).default(""),
});

/** The metrics are text; every other answer is JSON. */
const metricsRoute = "GET /metrics";

const routes: ReadonlyMap<string, Answerer> = new Map([
  ["GET /status", route(nothing, (handler) => handler.status())],
  [metricsRoute, route(nothing, (handler) => handler.metrics())],
  ["GET /points", route(ofGroup, (handler, input) => handler.points(input.group))],
  ["GET /is-primary", route(ofGroup, (handler, input) => handler.isPrimary(input.group))],
  [
    "POST /cut",
    route(
      z.strictObject({ group, accept: acceptNames, prune: z.literal(true).optional(), by: callerName }),
      (handler, { group, accept, prune, by }, signal) =>
        handler.cut(group, caller({ accept, by, ...(prune === undefined ? {} : { prune }) }), signal),
    ),
  ],
  [
    "POST /wait",
    route(
      z.strictObject({
        group,
        timeoutMs: z.int().min(0),
        replicas: z.array(z.string()).default([]),
        count: z.int().min(1).optional(),
      }),
      (handler, { group, count, ...options }, signal) =>
        handler.wait(group, { ...options, ...(count === undefined ? {} : { count }) }, signal),
    ),
  ],
  [
    "POST /restore",
    route(
      z.strictObject({
        group,
        at: z.union([z.strictObject({ cut: cutRefSchema }), z.strictObject({ time: z.iso.datetime() })]),
        to: z.string().startsWith("/"),
        only: z.string().min(1).optional(),
      }),
      (handler, { group, only, ...options }, signal) =>
        handler.restore(group, { ...options, ...(only === undefined ? {} : { only }) }, signal),
    ),
  ],
  [
    "POST /verify",
    route(z.strictObject({ group, quick: z.boolean().default(false) }), (handler, { group, ...options }, signal) =>
      handler.verify(group, options, signal),
    ),
  ],
  [
    "POST /promote",
    route(
      z.strictObject({
        group,
        acceptLoss: z.union([z.literal(true), z.string().regex(/^\d+\.\d+$/)]).optional(),
        accept: acceptNames,
        by: callerName,
      }),
      (handler, { group, accept, acceptLoss, by }) =>
        handler.promote(group, {
          accept,
          ...(acceptLoss === undefined ? {} : { acceptLoss }),
          ...(by === undefined ? {} : { by }),
        }),
    ),
  ],
  ["POST /promote/abort", route(ofGroup, (handler, input) => handler.abortPromotion(input.group))],
  [
    "POST /switchover",
    route(z.strictObject(switchover), (handler, { group, ...options }) => handler.switchover(group, caller(options))),
  ],
  [
    "POST /switchover/plan",
    route(z.strictObject(switchover), (handler, { group, ...options }) =>
      handler.planSwitchover(group, caller(options)),
    ),
  ],
  [
    "POST /switchover/schedule",
    route(z.strictObject({ ...switchover, at: z.iso.datetime() }), (handler, { group, at, ...options }) =>
      handler.scheduleSwitchover(group, caller(options), at),
    ),
  ],
  [
    "POST /switchover/abort",
    route(z.strictObject({ group, accept: acceptNames, by: callerName }), (handler, { group, ...options }) =>
      handler.abortSwitchover(group, caller(options)),
    ),
  ],
  [
    "GET /switchover",
    route(z.strictObject({ group, after: z.coerce.number().int().min(0).default(0) }), (handler, { group, after }) =>
      handler.switchoverProgress(group, after),
    ),
  ],
  [
    "POST /form",
    route(
      z.strictObject({ group, alone: z.boolean().default(false), by: callerName }),
      (handler, { group, ...options }) => handler.form(group, caller(options)),
    ),
  ],
  ["POST /pause", route(pauseOptions, (handler, { group, ...options }) => handler.pause(group, options))],
  ["POST /resume", route(pauseOptions, (handler, { group, ...options }) => handler.resume(group, options))],
  [
    "POST /confirm",
    route(
      z.strictObject({ group, acceptUnreachable: z.boolean().default(false), by: z.string().max(256).default("") }),
      (handler, { group, ...options }) => handler.confirm(group, options),
    ),
  ],
  [
    "POST /ha",
    route(z.strictObject({ group, request: haRequest }), (handler, input) => handler.ha(input.group, input.request)),
  ],
  [
    "POST /adopt",
    route(z.strictObject({ group, by: callerName }), (handler, { group, by }) => handler.adopt(group, caller({ by }))),
  ],
  [
    "POST /rejoin",
    route(z.strictObject({ group, by: callerName }), (handler, { group, by }) => handler.rejoin(group, caller({ by }))),
  ],
  ["GET /forks", route(nothing, (handler) => handler.forks())],
  ["GET /forks/show", route(ofFork, (handler, input) => handler.showFork(input.name))],
  [
    "POST /forks/export",
    route(z.strictObject({ name: group, to: z.string().startsWith("/") }), (handler, { name, to }, signal) =>
      handler.exportFork(name, { to }, signal),
    ),
  ],
  [
    "POST /forks/drop",
    route(z.strictObject({ name: group, by: callerName }), (handler, { name, by }) =>
      handler.dropFork(name, caller({ by })),
    ),
  ],
]);

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  handler: ControlHandler,
  log: Log,
): Promise<void> {
  const gone = new AbortController();
  response.on("close", () => {
    if (!response.writableFinished) gone.abort(new Error("the caller is gone"));
  });
  try {
    const url = new URL(request.url ?? "/", "http://agent");
    const name = `${request.method} ${url.pathname}`;
    const answerer = routes.get(name);
    if (!answerer) throw new RequestRefused(`there is no ${name}`);
    const input = request.method === "GET" ? Object.fromEntries(url.searchParams) : await body(request);
    const result = await answerer(handler, input, gone.signal);
    if (name === metricsRoute) send(response, 200, "text/plain; version=0.0.4; charset=utf-8", String(result));
    else send(response, 200, "application/json", `${JSON.stringify(result)}\n`);
  } catch (error) {
    if (error instanceof InvariantBroken) throw error;
    if (gone.signal.aborted) return;
    const failure = failureOf(error);
    if (!(error instanceof UnderstudyError)) log.error("request.failed", { url: request.url, error });
    send(response, httpStatus(failure), "application/json", `${JSON.stringify({ error: failure })}\n`);
  }
}

function send(response: ServerResponse, status: number, type: string, text: string): void {
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(text) });
  response.end(text);
}

async function body(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > bodyBytesMax) throw new RequestRefused(`a request has at most ${bodyBytesMax} bytes`);
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks).toString("utf8");
  try {
    return text === "" ? {} : JSON.parse(text);
  } catch (cause) {
    throw new RequestRefused("the request is not JSON", { cause });
  }
}

function failureOf(error: unknown): ControlFailure {
  if (error instanceof UnderstudyError) {
    return {
      code: error.code,
      message: explain(error),
      state: error.state,
      hint: error.hint,
      exitCode: error.exitCode,
    };
  }
  return {
    code: "INTERNAL",
    message: explain(error),
    state: "The agent goes on; what was asked for may be done in part.",
    hint: "Look at `understudy status` and at the agent's log, and report this as a bug.",
    exitCode: exitCodes.failed,
  };
}

function httpStatus({ exitCode }: ControlFailure): number {
  switch (exitCode) {
    case exitCodes.usage:
      return 400;
    case exitCodes.refused:
      return 409;
    case exitCodes.unreachable:
      return 503;
    case exitCodes.timedOut:
      return 504;
    default:
      return 500;
  }
}
