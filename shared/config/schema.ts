import { posix } from "node:path";
import { z } from "zod";
import { parseDurationMs, parseRateBytesPerSecond, parseSizeBytes, UnitInvalid } from "../units.ts";
import { consistencies, engines, storeKinds } from "../words.ts";
import type { Address, Command, Interval, RetentionLadder } from "./config.ts";
import { normalHostKey, normalPublicKey } from "./public-key.ts";

/**
 * Every key that the file may have, and what its value must be. Each of these looks at its own value only; what must
 * hold between them is in `parse.ts`.
 */

/** What a wrong value is answered with; `input` is undefined where the key is missing. */
function mustBe(what: string): (issue: { input?: unknown }) => string {
  return ({ input }) => (input === undefined ? "is missing" : `must be ${what}, not ${described(input)}`);
}

function described(value: unknown): string {
  if (value === null) return "empty";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "a map";
  if (typeof value === "number") return `the number ${value}: write it in quotes`;
  if (typeof value === "boolean") return `the truth value ${value}: write it in quotes`;
  return JSON.stringify(value);
}

/** A map whose unknown keys are errors. The message for these lists the right ones, for `parse.ts` to choose from. */
function strict<Shape extends z.ZodRawShape>(shape: Shape) {
  return z.strictObject(shape, {
    error: (issue) => (issue.code === "unrecognized_keys" ? Object.keys(shape).join(" ") : mustBe("a map")(issue)),
  });
}

const text = z.string({ error: mustBe("text") }).refine((value) => value !== "" && !value.includes("\0"), {
  error: "must not be empty, nor hold a NUL",
});
const truth = z.boolean({ error: ({ input }) => `must be true or false, not ${described(input).split(":")[0]}` });
const list = z.array(text, { error: mustBe("a list") });

function oneOf<const Values extends readonly [string, ...string[]]>(values: Values) {
  return z.enum(values, { error: mustBe(`one of ${values.join(", ")}`) });
}

const engine = z.enum(engines, {
  error: ({ input }) =>
    typeof input === "string"
      ? `${JSON.stringify(input)} is an unknown engine: the known ones are ${engines.join(", ")}`
      : mustBe(`one of ${engines.join(", ")}`)({ input }),
});

/** Text that `parse` understands; it throws or returns undefined for what it does not. */
function parsed<T>(parse: (value: string) => T | undefined, what: string) {
  return text.transform((value, context): T => {
    const result = parse(value);
    if (result !== undefined) return result;
    context.addIssue({ code: "custom", message: `must be ${what}, not ${JSON.stringify(value)}` });
    return z.NEVER;
  });
}

function quantity(parse: (value: string) => number, example: string) {
  return z
    .string({
      error: ({ input }) =>
        typeof input === "number"
          ? `the bare number ${input} has no unit: write it as in ${example}`
          : mustBe(`text such as ${example}`)({ input }),
    })
    .transform((value, context) => {
      try {
        const result = parse(value);
        if (result > 0) return result;
        context.addIssue({ code: "custom", message: "must be more than nothing" });
      } catch (error) {
        if (!(error instanceof UnitInvalid)) throw error;
        context.addIssue({ code: "custom", message: `${error.message}. ${error.hint}` });
      }
      return z.NEVER;
    });
}

const duration = quantity(parseDurationMs, "30s");
const size = quantity(parseSizeBytes, "20GiB");
const rate = quantity(parseRateBytesPerSecond, "1.5Mbit/s");

/** Judges a value by the schema that fits its form, so that the answer is about what was meant. */
function byForm<T>(choose: (value: unknown) => z.ZodType<T>) {
  return z.unknown().transform((value, context): T => {
    const result = choose(value).safeParse(value);
    if (result.success) return result.data;
    forward(result.error, value, [], context);
    return z.NEVER;
  });
}

/** Hands on what an inner schema found, with its place, and with the unknown keys for `parse.ts` to answer. */
function forward(error: z.ZodError, input: unknown, prefix: readonly string[], context: z.RefinementCtx): void {
  for (const issue of error.issues) {
    const path = [...prefix, ...issue.path];
    if (issue.code === "unrecognized_keys") {
      context.issues.push({ code: issue.code, keys: issue.keys, message: issue.message, path, input: {} });
    } else {
      context.issues.push({ code: "custom", message: issue.message, path, input });
    }
  }
}

const argv = z
  .array(text, {
    error: ({ input }) =>
      typeof input === "string"
        ? "is given to no shell: write it as a list, [command, argument]"
        : mustBe("a list")({ input }),
  })
  .refine((words) => words.length > 0, { error: "names no command" })
  .transform((words) => words as [string, ...string[]]);

const commandTimeoutMs = 10_000;
const command = byForm<Command>((value) =>
  value !== null && typeof value === "object" && !Array.isArray(value)
    ? strict({ run: argv, timeout: duration.default(commandTimeoutMs) }).transform(({ run, timeout }) => ({
        run,
        timeoutMs: timeout,
      }))
    : argv.transform((run) => ({ run, timeoutMs: commandTimeoutMs })),
);

const absolutePath = text.transform((value, context): string => {
  const path = value.length > 1 ? value.replace(/\/+$/, "") : value;
  const fault = !path.startsWith("/")
    ? "must be an absolute path"
    : path === "/"
      ? "must not be the root of the whole machine"
      : posix.normalize(path) !== path
        ? `must be written plainly: ${posix.normalize(path)}`
        : undefined;
  if (fault === undefined) return path;
  context.addIssue({ code: "custom", message: `${fault}, not ${JSON.stringify(value)}` });
  return z.NEVER;
});

const dailySchedule = parsed(parseDaily, 'a schedule such as "daily 02:30"');
const interval = byForm<Interval>((value) => {
  if (value === "on-change") return z.literal("on-change").transform(() => ({ kind: "on-change" }) as const);
  if (typeof value === "string" && value.startsWith("daily")) return dailySchedule;
  return quantity(parseDurationMs, "15m, on-change or daily 02:30").transform((ms) => ({ kind: "every", ms }) as const);
});

function parseDaily(value: string): Interval | undefined {
  const match = /^daily ([01]\d|2[0-3]):([0-5]\d)$/.exec(value);
  return match ? { kind: "daily", hour: Number(match[1]), minute: Number(match[2]) } : undefined;
}

const publicKey = parsed(normalPublicKey, "a whole ed25519 public key, ssh-ed25519 AAAA...");

const hostKey = parsed(normalHostKey, "a whole host key as in ssh_host_ed25519_key.pub");

/** An address as written; the host key of the second kind stands beside it. */
type WrittenAddress = Extract<Address, { kind: "embedded" }> | Omit<Extract<Address, { kind: "openssh" }>, "hostKey">;

function parseAddress(value: string): WrittenAddress | undefined {
  const match =
    /^(?:ssh:\/\/([A-Za-z0-9_][A-Za-z0-9_.-]*)@)?(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?))(?::(\d{1,5}))?$/.exec(
      value,
    );
  if (!match) return undefined;
  const [, user, bracketed, name, digits] = match;
  const host = bracketed ?? name ?? "";
  // Only ssh has a port that everybody knows.
  const port = digits === undefined ? (user === undefined ? 0 : 22) : Number(digits);
  if (port < 1 || port > 65_535) return undefined;
  return user === undefined ? { kind: "embedded", host, port } : { kind: "openssh", user, host, port };
}

function parseListener(value: string): { readonly host: string; readonly port: number } | undefined {
  const address = parseAddress(value);
  return address?.kind === "embedded" ? { host: address.host, port: address.port } : undefined;
}

export const rootSchema = strict({ nodes: z.unknown(), groups: z.unknown() });

export const nodeSchema = strict({
  address: parsed(parseAddress, '"host:port", or "ssh://user@host:port" for the OpenSSH there').optional(),
  host_key: hostKey.optional(),
  key: publicKey.optional(),
  keys: z
    .array(publicKey, { error: mustBe("a list of keys") })
    .refine((keys) => keys.length > 0, { error: "names no key" })
    .optional(),
  role_listener: parsed(parseListener, '"host:port" of this machine, such as "127.0.0.1:7523"').optional(),
  primary_target: byForm<"systemd" | { start: Command; stop: Command }>((value) =>
    typeof value === "string" ? oneOf(["systemd"]) : strict({ start: command, stop: command }),
  ).optional(),
  line: strict({ rate: rate.optional(), compress: oneOf(["auto", "always", "never"]).default("auto") }).optional(),
});

const replicaSchema = strict({
  rpo: duration.optional(),
  interval: interval.optional(),
  schedule: dailySchedule.optional(),
});
/** `[bravo, charlie]` or `{ bravo: {}, charlie: { rpo: 1h } }`. */
const replicas = byForm<Map<string, z.output<typeof replicaSchema>>>((value) =>
  Array.isArray(value)
    ? list.transform((names, context) => {
        names.forEach((name, index) => {
          if (names.indexOf(name) < index) {
            context.issues.push({ code: "custom", message: "the same node a second time", path: [index], input: name });
          }
        });
        return new Map(names.map((name) => [name, {}]));
      })
    : mapOf(replicaSchema),
);

/** A map from names to values of one kind; null counts as an empty one, as in `bravo:` with nothing behind it. */
function mapOf<T>(each: z.ZodType<T>) {
  return z.unknown().transform((value, context): Map<string, T> => {
    const entries = new Map<string, T>();
    if (!isMap(value)) {
      context.addIssue({ code: "custom", message: mustBe("a map")({ input: value }) });
      return z.NEVER;
    }
    for (const [name, written] of Object.entries(value)) {
      const result = each.safeParse(written ?? {});
      if (result.success) entries.set(name, result.data);
      else forward(result.error, written, [name], context);
    }
    return entries;
  });
}

export function isMap(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === "object" && !Array.isArray(value) && !ArrayBuffer.isView(value);
}

const hooks = strict({
  freeze: command.optional(),
  thaw: command.optional(),
  stop_service: command.optional(),
  start_service: command.optional(),
  before_promote: command.optional(),
  after_promote: command.optional(),
  on_fenced: command.optional(),
});

const retention = strict({
  keep: strict({
    all: duration.optional(),
    per_minute: duration.optional(),
    per_hour: duration.optional(),
    per_day: duration.optional(),
  })
    .transform(
      (keep): RetentionLadder => ({
        allMs: keep.all,
        perMinuteMs: keep.per_minute,
        perHourMs: keep.per_hour,
        perDayMs: keep.per_day,
      }),
    )
    .optional(),
  max_bytes: size.optional(),
});

const semiSyncMs = 2000;
const replicaCount = z.int({ error: ({ input }) => `must be a whole number, not ${described(input).split(":")[0]}` });

export const groupSchema = strict({
  primary: text,
  replicas,
  stores: z.unknown(),
  interval: interval.optional(),
  schedule: dailySchedule.optional(),
  freeze_every: duration.optional(),
  require: mapOf(oneOf(consistencies)).optional(),
  hooks: hooks.optional(),
  retention: retention.optional(),
  rpo: duration.optional(),
  scrub: byForm<{ every?: number | undefined; rate?: number | undefined } | "never">((value) =>
    typeof value === "string" ? oneOf(["never"]) : strict({ every: duration.optional(), rate: rate.optional() }),
  ).optional(),
  limits: strict({
    staging: size.optional(),
    snapshot_hold: duration.optional(),
    sweep: duration.optional(),
    switchover_step: duration.optional(),
  }).optional(),
  durability: byForm<"async" | { semi_sync: { replicas: number; timeout: number } }>((value) =>
    typeof value === "string"
      ? oneOf(["async"])
      : strict({ semi_sync: strict({ replicas: replicaCount.default(1), timeout: duration.default(semiSyncMs) }) }),
  ).optional(),
  ha: strict({ engine: engine.default("none") }).optional(),
  rejoin: oneOf(["auto", "manual"]).optional(),
});

export const kindSchema = oneOf(storeKinds);

/** `at: { bravo: /standby/uploads }`, short for `{ bravo: { path: /standby/uploads } }`. */
function at<T>(each: z.ZodType<T>) {
  return mapOf(
    byForm<T>((value) =>
      typeof value === "string" ? absolutePath.transform((path, context) => outputOf(each, { path }, context)) : each,
    ),
  ).optional();
}

function outputOf<T>(schema: z.ZodType<T>, value: unknown, context: z.RefinementCtx): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  forward(result.error, value, [], context);
  return z.NEVER;
}

/** What may differ from node to node. `exclude` may not: it decides what is shipped, and both sides must agree on it. */
const filesKeys = {
  snapshot: strict({ create: command, remove: command, path: absolutePath }).optional(),
  list: command.optional(),
  trust_watcher: truth.optional(),
  reflink: truth.optional(),
  owners: oneOf(["numeric", "ignore"]).optional(),
};

export const filesSchema = strict({
  kind: z.literal("files"),
  path: absolutePath,
  exclude: list.optional(),
  ...filesKeys,
  at: at(strict({ path: absolutePath.optional(), ...filesKeys })),
});

export const sqliteSchema = strict({
  kind: z.literal("sqlite"),
  path: absolutePath,
  at: at(strict({ path: absolutePath.optional() })),
});
