import { pino } from "pino";
import { exitCodes, explain, UnderstudyError } from "./errors.ts";
import type { Epoch, GroupName, NodeName, Seq } from "./words.ts";

const logLevels = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof logLevels)[number];

/** `noun.verb` in the past tense: `cut.committed`, `replica.promoted`. */
export type LogEvent = `${string}.${string}`;

/** Numbers carry their unit in the name (`lagSeconds`); never secrets or payload. */
export interface LogFields {
  readonly node?: NodeName | string;
  readonly group?: GroupName | string;
  readonly epoch?: Epoch | number;
  readonly seq?: Seq | number;
  /** Written as its message with causes, code, state and hint. */
  readonly error?: unknown;
  readonly [field: string]: unknown;
}

/** One structured line for each event. `info` reads as the story of a normal day, `error` means a person must act. */
export interface Log {
  debug(event: LogEvent, fields?: LogFields): void;
  info(event: LogEvent, fields?: LogFields): void;
  warn(event: LogEvent, fields?: LogFields): void;
  error(event: LogEvent, fields?: LogFields): void;
  /** The same log with these fields in every line. */
  with(fields: LogFields): Log;
}

export interface LogTarget {
  write(line: string): void;
}

/**
 * Lines of JSON: `{"time":"2026-11-21T09:00:00.123Z","level":"info","event":"cut.committed","group":"app","epoch":1,...}`.
 * Written at once: the last line before a crash is the one that is needed.
 */
export function createLog(level: LogLevel, target: LogTarget): Log {
  const logger = pino(
    {
      level,
      // pid and hostname are what the collector of the lines knows better.
      base: null,
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
      messageKey: "event",
    },
    target,
  );
  return wrap(logger);
}

function wrap(logger: pino.Logger): Log {
  return {
    debug: (event, fields) => logger.debug(plainFields(fields), event),
    info: (event, fields) => logger.info(plainFields(fields), event),
    warn: (event, fields) => logger.warn(plainFields(fields), event),
    error: (event, fields) => logger.error(plainFields(fields), event),
    with: (fields) => wrap(logger.child(plainFields(fields))),
  };
}

function plainFields(fields: LogFields = {}): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields)
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => [name, plainValue(value, 0)]),
  );
}

const depthMax = 6;

/** JSON has no bigint, no bytes and no cycles; a log line must come out whatever it is given. */
function plainValue(value: unknown, depth: number): unknown {
  if (typeof value === "bigint") return plainNumber(value);
  if (typeof value !== "object" || value === null) return typeof value === "function" ? "function" : value;
  if (value instanceof UnderstudyError) {
    return { code: value.code, message: explain(value), state: value.state, hint: value.hint };
  }
  if (value instanceof Error) return { code: errorCode(value), message: explain(value), stack: value.stack };
  if (ArrayBuffer.isView(value)) {
    return Buffer.from(value.buffer, value.byteOffset, Math.min(value.byteLength, 64)).toString("hex");
  }
  if (value instanceof Date) return value.toISOString();
  if (depth >= depthMax) return "...";
  if (Array.isArray(value) || value instanceof Set) return [...value].map((item) => plainValue(item, depth + 1));
  const entries = value instanceof Map ? [...value].map(([key, item]) => [String(key), item]) : Object.entries(value);
  return Object.fromEntries(entries.map(([key, item]) => [key, plainValue(item, depth + 1)]));
}

/** Epochs and seqs stay numbers as long as a reader of JSON keeps them exact, and are text from then on. */
function plainNumber(value: bigint): number | string {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) && value >= BigInt(Number.MIN_SAFE_INTEGER)
    ? Number(value)
    : value.toString();
}

function errorCode(error: Error): string {
  return "code" in error && typeof error.code === "string" ? error.code : error.name;
}

export class LogLevelUnknown extends UnderstudyError {
  readonly code = "LOG_LEVEL_UNKNOWN";
  readonly remedy = "stop";
  readonly state = "Nothing was started.";
  readonly hint = `Use one of ${logLevels.join(", ")}.`;
  override readonly exitCode = exitCodes.usage;

  constructor(text: string) {
    super(`unknown log level ${JSON.stringify(text)}`);
  }
}

/** @throws {LogLevelUnknown} */
export function parseLogLevel(text: string): LogLevel {
  const level = logLevels.find((known) => known === text);
  if (!level) throw new LogLevelUnknown(text);
  return level;
}

/** The level that UNDERSTUDY_LOG asks for, else `info`. @throws {LogLevelUnknown} */
export function logLevelFrom(environment: NodeJS.ProcessEnv): LogLevel {
  const text = environment.UNDERSTUDY_LOG;
  return text === undefined || text === "" ? "info" : parseLogLevel(text);
}

/** Standard error of this process: standard output is for what a command was asked. */
export function createProcessLog(level: LogLevel): Log {
  return createLog(level, pino.destination({ fd: 2, sync: true }));
}

/** For code that must be given a log and whose lines nobody wants. */
export const silentLog: Log = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  with: () => silentLog,
};
