const { writeFileSync } = require("node:fs");
const { inspect } = require("node:util");
const { reporters, Runner } = require("mocha");

/**
 * The usual report, with what a failure of the clean-up after a test would hide, and beside it what mocha itself counted, as `N passed, N failed` in the file that the reporter
 * option `counts` names: whoever reads it need not guess it from a text for people.
 */
module.exports = class extends reporters.Spec {
  constructor(runner, options) {
    super(runner, options);
    const { counts } = options.reporterOptions ?? {};
    if (!counts) throw new Error("the reporter option `counts` names no file");
    runner.on(Runner.constants.EVENT_TEST_FAIL, (_test, error) => {
      if (error instanceof SuppressedError)
        error.stack = `${error.stack}\nat first: ${inspect(error.suppressed)}\nthen: ${inspect(error.error)}`;
    });
    runner.once(Runner.constants.EVENT_RUN_END, () => {
      writeFileSync(counts, `${this.stats.passes} passed, ${this.stats.failures} failed\n`);
    });
  }
};
