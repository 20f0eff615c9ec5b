import {
  appendFileSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { createFilesStore } from "../../../primary/stores/files/files-store.ts";
import type { Found } from "../../../shared/ports/store-adapter.ts";
import type { ObjectId, StorePath } from "../../../shared/words.ts";
import { cutInto, openPrimary } from "../../model/in-process.ts";

/** A tree with the files `a` and `b`, that was cut; `during` is called with what the next cuts find, before it is read. */
class Tree implements AsyncDisposable {
  readonly #scratch = mkdtempSync(join(tmpdir(), "understudy-inode-"));
  readonly #adapter = createFilesStore({ path: this.at(""), exclude: [], now: () => Date.now() + 10_000 });
  readonly #primary = openPrimary(join(this.#scratch, "catalog.db"), { tree: this.#adapter });
  during: (found: Found) => void = () => {};

  /** `prepare`: before the first cut. */
  static async begin(prepare: (tree: Tree) => void = () => {}): Promise<Tree> {
    const tree = new Tree();
    mkdirSync(tree.at(""));
    for (const name of ["a", "b"]) writeFileSync(tree.at(name), "old");
    prepare(tree);
    const enter = tree.#adapter.enter.bind(tree.#adapter);
    tree.#adapter.enter = async (...request) => {
      const view = await enter(...request);
      const changes = view.changes.bind(view);
      view.changes = async function* () {
        for await (const found of changes()) {
          tree.during(found);
          yield found;
        }
      };
      return view;
    };
    await tree.#adapter.start(() => {});
    await tree.cut();
    return tree;
  }

  at(name: string): string {
    return join(this.#scratch, "tree", name);
  }

  async cut(): Promise<void> {
    await cutInto(this.#primary, []);
  }

  objectOf(name: string): ObjectId | undefined {
    const { manifest, catalog, stores } = this.#primary;
    return manifest.objectAtPath(stores[0]!.number, name as StorePath, catalog.standing.committed.seq);
  }

  /** Of the file as the last cut has it; each text here has a length of its own. */
  bytesOf(name: string): number | undefined {
    const { manifest, catalog } = this.#primary;
    const object = this.objectOf(name);
    return object === undefined ? undefined : manifest.object(object, catalog.standing.committed.seq)?.size;
  }

  /** Digest of the content that the last cut has at a path. */
  contentOf(name: string): string | undefined {
    const { manifest, catalog } = this.#primary;
    const object = this.objectOf(name);
    const version = object === undefined ? undefined : manifest.object(object, catalog.standing.committed.seq);
    return version === undefined ? undefined : Buffer.from(version.content).toString("hex");
  }

  /** What is at the path moves each time it is read: cuts keep what they had of it. */
  restless(name: string): void {
    this.during = ({ path }) => {
      if (path === name) appendFileSync(this.at(name), "!");
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#adapter.close();
    this.#primary.catalog.close();
    rmSync(this.#scratch, { recursive: true });
  }
}

describe("an inode that comes to another path while a cut is taken", () => {
  it("leaves what it was known by as it was, where the file of that path is met in the next cut only", async () => {
    await using tree = await Tree.begin();
    writeFileSync(tree.at("a"), "a new");
    let met = 0;
    tree.during = ({ path }) => {
      if (path !== "a" || met++ > 0) return;
      // As when a file system gives the inode of a file that was replaced to the next one.
      renameSync(tree.at("b"), tree.at("a"));
      writeFileSync(tree.at("a"), "a that is newer");
      writeFileSync(tree.at("b"), "b newer");
    };
    await tree.cut();
    expect(met).to.be.above(1);
    expect(tree.bytesOf("a")).to.equal("a that is newer".length);
    expect(tree.bytesOf("b")).to.be.oneOf(["old".length, "b newer".length]);
    await tree.cut();
    expect(["a", "b"].map((name) => tree.bytesOf(name))).to.deep.equal(["a that is newer".length, "b newer".length]);
  });

  it("leaves what it was known by as it was, where the file of that path moves each time it is read", async () => {
    await using tree = await Tree.begin();
    renameSync(tree.at("b"), tree.at("a"));
    writeFileSync(tree.at("a"), "a that is newer");
    writeFileSync(tree.at("b"), "b newer");
    tree.restless("b");
    await tree.cut();
    expect(["a", "b"].map((name) => tree.bytesOf(name))).to.deep.equal(["a that is newer".length, "old".length]);
    tree.during = () => {};
    await tree.cut();
    expect(tree.bytesOf("b")).to.equal(statSync(tree.at("b")).size);
  });

  it("is told from the file that had it by its content, where size and time are the same", async () => {
    await using tree = await Tree.begin();
    utimesSync(tree.at("b"), 1, 1);
    await tree.cut();
    const old = tree.contentOf("b");
    renameSync(tree.at("b"), tree.at("a"));
    writeFileSync(tree.at("a"), "new");
    utimesSync(tree.at("a"), 1, 1);
    writeFileSync(tree.at("b"), "b newer");
    tree.restless("b");
    await tree.cut();
    expect(tree.contentOf("b")).to.equal(old);
    expect(tree.contentOf("a")).not.to.equal(old);
  });

  it("is told from the file that had it where the new one has two names", async () => {
    await using tree = await Tree.begin();
    const old = tree.contentOf("b");
    renameSync(tree.at("b"), tree.at("published"));
    writeFileSync(tree.at("published"), "new content");
    linkSync(tree.at("published"), tree.at("temporary"));
    writeFileSync(tree.at("b"), "b newer");
    tree.restless("b");
    await tree.cut();
    expect(tree.contentOf("b")).to.equal(old);
    expect(tree.contentOf("published")).not.to.equal(old);
    expect(tree.objectOf("temporary")).to.equal(tree.objectOf("published"));
    rmSync(tree.at("temporary"));
    appendFileSync(tree.at("published"), " and more");
    await tree.cut();
    expect(tree.contentOf("b")).to.equal(old);
    expect(tree.bytesOf("published")).to.equal("new content and more".length);
  });

  it("is told from the file that had it within the group's first cut, too", async () => {
    let met = 0;
    await using tree = await Tree.begin((begun) => {
      mkdirSync(begun.at("c"));
      begun.during = ({ path }) => {
        if (path !== "c" || met++ > 0) return;
        renameSync(begun.at("b"), begun.at("c/published"));
        writeFileSync(begun.at("c/published"), "new content");
        linkSync(begun.at("c/published"), begun.at("c/temporary"));
        writeFileSync(begun.at("b"), "b newer");
      };
    });
    expect(met).to.be.above(0);
    expect(tree.bytesOf("b")).to.equal("old".length);
    expect(tree.bytesOf("c/published")).to.equal("new content".length);
    expect(tree.objectOf("c/temporary")).to.equal(tree.objectOf("c/published"));
  });

  for (const moved of ["aa", "c"]) {
    it(`is the same file at ${moved}, and what took its place at b holds what it held until it holds still`, async () => {
      await using tree = await Tree.begin();
      const before = tree.objectOf("b");
      renameSync(tree.at("b"), tree.at(moved));
      writeFileSync(tree.at("b"), "b newer");
      tree.restless("b");
      await tree.cut();
      expect([tree.objectOf(moved), tree.objectOf("b")]).to.deep.equal([before, before]);
      appendFileSync(tree.at(moved), ", and longer");
      await tree.cut();
      expect(tree.bytesOf(moved)).to.equal("old, and longer".length);
      expect(tree.bytesOf("b")).to.equal("old".length);
      tree.during = () => {};
      await tree.cut();
      expect(tree.bytesOf("b")).to.equal(statSync(tree.at("b")).size);
    });
  }

  it("makes no other file of one that was moved and written to", async () => {
    await using tree = await Tree.begin();
    mkdirSync(tree.at("d"));
    renameSync(tree.at("b"), tree.at("d/b"));
    await tree.cut();
    const before = tree.objectOf("d/b");
    // Its old path comes last.
    renameSync(tree.at("d/b"), tree.at("b"));
    appendFileSync(tree.at("b"), ", and longer");
    await tree.cut();
    expect(tree.objectOf("b")).to.equal(before);
    expect(tree.objectOf("d/b")).to.equal(undefined);
  });
});
