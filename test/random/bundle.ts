import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "../../deploy/build/build.ts";

/** The program as it is installed, in a directory of its own: it starts in less time than its sources do. */
export class Bundle implements AsyncDisposable {
  readonly launcher: string;
  readonly #directory: string;

  private constructor(directory: string, launcher: string) {
    this.#directory = directory;
    this.launcher = launcher;
  }

  static async build(): Promise<Bundle> {
    const directory = await mkdtemp(join(tmpdir(), "us-bundle-"));
    const bundle = join(directory, "understudy");
    const launcher = join(directory, "launch");
    await build(bundle);
    // What was compiled is kept as long as the bundle is. As the launcher of the bundle, which looks for a Node that is new enough each time.
    await writeFile(
      launcher,
      `#!/bin/sh\nNODE_COMPILE_CACHE='${join(directory, "compiled")}' exec '${process.execPath}' --max-semi-space-size=1 '${join(bundle, "main.js")}' "$@"\n`,
    );
    await chmod(launcher, 0o755);
    return new Bundle(directory, launcher);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#directory, { recursive: true });
  }
}
