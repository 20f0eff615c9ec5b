const { writeFileSync } = require("node:fs");
const { inspect } = require("node:util");
const { reporters, Runner } = require("mocha");

/**
 * The usual report, with what a failure of the clean-up after a test would hide. Beside it, in the file that the reporter
 * option `counts` names, what mocha itself counted, as `N passed, N failed`, and below it the failures in short: whoever
 * reads it need not guess them from a text for people.
 */
module.exports = class extends reporters.Spec {
  constructor(runner, options) {
    super(runner, options);
    const { counts } = options.reporterOptions ?? {};
    if (!counts) throw new Error("the reporter option `counts` names no file");
    const failures = [];
    runner.on(Runner.constants.EVENT_TEST_FAIL, (test, error) => {
      failures.push(...inShort(test.fullTitle(), error));
      if (error instanceof SuppressedError)
        error.stack = `${error.stack}\nat first: ${inspect(error.suppressed)}\nthen: ${inspect(error.error)}`;
    });
    runner.once(Runner.constants.EVENT_RUN_END, () => {
      const counted = `${this.stats.passes} passed, ${this.stats.failures} failed`;
      writeFileSync(counts, `${[counted, ...failures].join("\n")}\n`);
    });
  }
};

/** A test's name, what went wrong and where: a line each, and one for a cause. */
function inShort(title, error) {
  const line = (text, indent) => indent + `${text}`.replaceAll(/\s+/g, " ").slice(0, 400);
  const where = `${error?.stack}`.split("\n").find((at) => /^\s+at .*\/test\//.test(at));
  const lines = [line(title, "- "), line(error?.message ?? error, "  ")];
  if (where !== undefined) lines.push(line(where.trim(), "  "));
  const cause = error instanceof SuppressedError ? error.suppressed : error?.cause;
  if (cause !== undefined) lines.push(line(`after: ${cause?.message ?? cause}`, "  "));
  return lines;
}
