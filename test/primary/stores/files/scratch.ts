import { mkdirSync, mkdtempSync, rmSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  createFilesStore,
  type FilesStore,
  type FilesStoreOptions,
} from "../../../../primary/stores/files/files-store.ts";
import { ModelConsumer } from "./model-consumer.ts";

const tmpfsMagic = 0x01021994;

/** An empty tree in a directory of its own, with a store on it. */
export class Scratch implements AsyncDisposable {
  readonly directory: string;
  readonly root: string;
  readonly stores: FilesStore[] = [];
  readonly consumer = new ModelConsumer();
  wakes = 0;
  /** Added to the wall clock: files look as much older. */
  aheadMs = 0;

  /** `onDisk`: not on a tmpfs, where stores through mmap leave no trace. */
  constructor(options: { onDisk?: boolean; within?: string } = {}) {
    const isTmpfs = statfsSync(tmpdir()).type === tmpfsMagic;
    const within = options.within ?? (options.onDisk && isTmpfs ? process.cwd() : tmpdir());
    this.directory = mkdtempSync(join(within, "understudy-files-"));
    this.root = join(this.directory, "tree");
    mkdirSync(this.root);
  }

  async store(options: Partial<FilesStoreOptions> = {}): Promise<FilesStore> {
    const store = createFilesStore({ path: this.root, exclude: [], now: () => Date.now() + this.aheadMs, ...options });
    this.stores.push(store);
    await store.start(() => {
      this.wakes++;
    });
    return store;
  }

  at(...path: string[]): string {
    return join(this.root, ...path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const store of this.stores) await store.close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
