import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Smaller ones mkfs.xfs does not make. The file has holes: it takes what is written. */
const volumeBytes = 320 * 2 ** 20;

/** A small filesystem of its own in a file. Who may not mount one must not take a test that needs it for passed. */
export class LoopVolume implements Disposable {
  readonly #directory: string;
  /** The file that the filesystem lies in. */
  readonly image: string;
  readonly path: string;

  constructor(filesystem: "xfs" | "btrfs" | "ext4") {
    this.#directory = mkdtempSync(join(tmpdir(), "understudy-volume-"));
    this.image = join(this.#directory, "image");
    this.path = join(this.#directory, "mounted");
    mkdirSync(this.path);
    writeFileSync(this.image, "");
    truncateSync(this.image, volumeBytes);
    const environment = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
    execFileSync(`mkfs.${filesystem}`, ["-q", this.image], {
      env: environment,
      stdio: ["ignore", "ignore", "inherit"],
    });
    execFileSync("mount", ["-o", "loop", this.image, this.path], { env: environment });
  }

  /** Fails where a file of it is still open, also one without a name. */
  [Symbol.dispose](): void {
    execFileSync("umount", [this.path]);
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
