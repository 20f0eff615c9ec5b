import { type IncomingMessage, request } from "node:http";
import { type ExitCode, exitCodes, explain, isSystemError, UnderstudyError } from "../../shared/errors.ts";
import { durationText } from "../../shared/units.ts";
import type { ControlFailure, ControlHandler } from "./api.ts";

export class AgentNotRunning extends UnderstudyError {
  readonly code = "AGENT_NOT_RUNNING";
  readonly remedy = "retry";
  readonly state = "Nothing was asked of anybody.";
  readonly hint = "Start it with `understudy run`, or name the state directory of the one that runs with --state.";
  override readonly exitCode = exitCodes.unreachable;

  constructor(path: string, options?: ErrorOptions) {
    super(`no agent answers at ${path}`, options);
  }
}

class ControlForbidden extends UnderstudyError {
  readonly code = "CONTROL_FORBIDDEN";
  readonly remedy = "stop";
  readonly state = "Nothing was asked of the agent.";
  readonly hint = "Run the command as the user of the agent, or as root.";

  constructor(path: string, options?: ErrorOptions) {
    super(`this user may not open ${path}`, options);
  }
}

export class ControlTimedOut extends UnderstudyError {
  readonly code = "CONTROL_TIMED_OUT";
  readonly remedy = "retry";
  readonly state = "The agent may still be doing what was asked.";
  readonly hint = "Look at `understudy status` and at the agent's log.";
  override readonly exitCode = exitCodes.timedOut;

  constructor(what: string, timeoutMs: number) {
    super(`the agent did not answer ${what} within ${durationText(timeoutMs)}`);
  }
}

/** What the agent answered with, as it was thrown there. */
export class AgentRefused extends UnderstudyError {
  readonly code: string;
  readonly remedy = "stop";
  readonly state: string;
  readonly hint: string;
  override readonly exitCode: ExitCode;

  constructor(failure: ControlFailure) {
    super(failure.message);
    this.code = failure.code;
    this.state = failure.state;
    this.hint = failure.hint;
    this.exitCode = failure.exitCode;
  }
}

/** The connection broke, or what came back is no answer of an agent. */
export class ControlBroken extends UnderstudyError {
  readonly code = "CONTROL_BROKEN";
  readonly remedy = "retry";
  readonly state = "Whether the agent did what was asked is not known.";
  readonly hint = "Look at `understudy status` and at the agent's log.";
  override readonly exitCode = exitCodes.unreachable;
}

export interface ControlTimeouts {
  /** For questions that an agent answers from its memory. */
  readonly questionMs: number;
  /** What a time-out that the agent itself keeps is given beyond it. */
  readonly graceMs: number;
}

/** The agent behind a control socket; each call is a connection of its own. */
export function connectControl(
  path: string,
  { questionMs, graceMs }: ControlTimeouts = { questionMs: 10_000, graceMs: 10_000 },
): ControlHandler {
  const get = <T>(route: string, query: Record<string, string> = {}): Promise<T> => {
    const search = new URLSearchParams(query).toString();
    return json<T>(path, "GET", search === "" ? route : `${route}?${search}`, undefined, questionMs);
  };
  /** Without a time-out where the work may take as long as the data is large. */
  const post = <T>(route: string, body: unknown, timeoutMs?: number, signal?: AbortSignal): Promise<T> =>
    json<T>(path, "POST", route, body, timeoutMs, signal);
  return {
    status: () => get("/status"),
    metrics: () => exchange(path, "GET", "/metrics", undefined, questionMs),
    isPrimary: (group) => get("/is-primary", { group }),
    points: (group) => get("/points", { group }),
    cut: (group, options, signal) => post("/cut", { group, ...options }, undefined, signal),
    wait: (group, options, signal) => post("/wait", { group, ...options }, options.timeoutMs + graceMs, signal),
    restore: (group, options, signal) => post("/restore", { group, ...options }, undefined, signal),
    verify: (group, options, signal) => post("/verify", { group, ...options }, undefined, signal),
    promote: (group, options) => post("/promote", { group, ...options }),
    abortPromotion: (group) => post("/promote/abort", { group }),
    planSwitchover: (group, options) => post("/switchover/plan", { group, ...options }),
    switchover: (group, options) => post("/switchover", { group, ...options }),
    switchoverProgress: (group, after) => get("/switchover", { group, after: String(after) }),
    scheduleSwitchover: (group, options, at) => post("/switchover/schedule", { group, ...options, at }),
    abortSwitchover: (group, options) => post("/switchover/abort", { group, ...options }),
    form: (group, options) => post("/form", { group, ...options }),
    pause: (group, options) => post("/pause", { group, ...options }),
    resume: (group, options) => post("/resume", { group, ...options }),
    confirm: (group, options) => post("/confirm", { group, ...options }),
    adopt: (group, caller) => post("/adopt", { group, ...caller }),
    forks: () => get("/forks"),
    showFork: (name) => get("/forks/show", { name }),
    exportFork: (name, options, signal) => post("/forks/export", { name, ...options }, undefined, signal),
    dropFork: (name, caller) => post("/forks/drop", { name, ...caller }),
    ha: (group, request) => post("/ha", { group, request }),
    rejoin: (group, caller) => post("/rejoin", { group, ...caller }),
  };
}

/**
 * The shape of an answer is what this version's agent gives: both come from one installation. Whoever reads it over the
 * socket on their own has the schema number.
 */
async function json<T>(
  path: string,
  method: string,
  route: string,
  body: unknown,
  timeoutMs: number | undefined,
  signal?: AbortSignal,
): Promise<T> {
  return decoded(await exchange(path, method, route, body, timeoutMs, signal)) as T;
}

async function exchange(
  path: string,
  method: string,
  route: string,
  body: unknown,
  timeoutMs: number | undefined,
  signal?: AbortSignal,
): Promise<string> {
  const what = `${method} ${route}`;
  const timeout = timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs);
  const signals = [timeout, signal].filter((each) => each !== undefined);
  try {
    const { status, text } = await roundTrip(path, method, route, body, AbortSignal.any(signals));
    if (status === 200) return text;
    throw new AgentRefused(failureIn(decoded(text)));
  } catch (error) {
    if (error instanceof UnderstudyError) throw error;
    if (timeout?.aborted && timeoutMs !== undefined) throw new ControlTimedOut(what, timeoutMs);
    signal?.throwIfAborted();
    if (isSystemError(error, "ENOENT", "ECONNREFUSED", "ENOTDIR")) throw new AgentNotRunning(path, { cause: error });
    if (isSystemError(error, "EACCES", "EPERM")) throw new ControlForbidden(path, { cause: error });
    throw new ControlBroken(`the connection to ${path} broke: ${explain(error)}`, { cause: error });
  }
}

async function roundTrip(
  socketPath: string,
  method: string,
  route: string,
  body: unknown,
  signal: AbortSignal,
): Promise<{ status: number; text: string }> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const headers = body === undefined ? {} : { "content-type": "application/json" };
    const outgoing = request({ socketPath, method, path: route, headers, signal, agent: false }, resolve);
    outgoing.on("error", reject);
    outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  });
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  return { status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString("utf8") };
}

function decoded(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ControlBroken(`the answer is not JSON: ${text.slice(0, 200)}`, { cause });
  }
}

const knownExitCodes: readonly unknown[] = Object.values(exitCodes);

/** By hand: a validation library takes longer to load than `is-primary` does all the rest. */
function failureIn(answer: unknown): ControlFailure {
  const error = isRecord(answer) && isRecord(answer.error) ? answer.error : {};
  const { code, message, state, hint, exitCode } = error;
  const texts = [code, message, state, hint].every((text) => typeof text === "string");
  if (texts && knownExitCodes.includes(exitCode)) return { code, message, state, hint, exitCode } as ControlFailure;
  throw new ControlBroken(`the answer is no failure of an agent: ${JSON.stringify(answer).slice(0, 200)}`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
