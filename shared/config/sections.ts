import type { z } from "zod";
import { didYouMean } from "./nearest.ts";
import { isMap } from "./schema.ts";
import type { KeyPath, Problem, YamlDocument } from "./yaml-document.ts";

export type Output<Schema extends z.ZodObject> = Partial<z.output<Schema>>;

const nameMax = 64;
const nameForm = /^[a-z0-9][a-z0-9_-]*$/;

/** Reads a document section by section and goes on after a fault, so that one run shows all of them. */
export class Sections {
  readonly problems: Problem[] = [];
  readonly #document: YamlDocument;

  constructor(document: YamlDocument) {
    this.#document = document;
  }

  /** The entries of a map from names that a person chose. */
  named(value: unknown, path: KeyPath): [string, unknown][] {
    if (!isMap(value)) {
      this.problem(path, value === undefined ? "is missing" : "must be a map from names");
      return [];
    }
    const entries = Object.entries(value);
    if (entries.length === 0) this.problem(path, "is empty");
    return entries.filter(([name]) => {
      if (nameForm.test(name) && name.length <= nameMax) return true;
      const form = `a name is made of a-z, 0-9, _ and -, begins with a letter or digit and has at most ${nameMax}`;
      this.problem([...path, name], form);
      return false;
    });
  }

  /**
   * The keys of a map that are as they should be, each judged on its own: one bad key hides no other. Undefined where
   * there is no map at all.
   */
  section<Schema extends z.ZodObject>(schema: Schema, value: unknown, path: KeyPath): Output<Schema> | undefined {
    if (!isMap(value)) {
      this.problem(path, value === undefined || value === null ? "is empty" : "must be a map");
      return undefined;
    }
    const right = Object.keys(schema.shape);
    for (const key of Object.keys(value)) if (!right.includes(key)) this.#unknownKey(path, key, right);
    const output: Record<string, unknown> = {};
    for (const [key, each] of Object.entries(schema.shape)) {
      // zod's own inference of an object's output is by key as well; only the loop hides it from the compiler.
      const result = (each as z.ZodType).safeParse(value[key]);
      if (result.success) output[key] = result.data;
      else for (const issue of result.error.issues) this.#issue(issue, [...path, key]);
    }
    return output as Output<Schema>;
  }

  #issue(issue: z.core.$ZodIssue, path: KeyPath): void {
    const place = [...path, ...issue.path.map((key) => (typeof key === "symbol" ? String(key) : key))];
    if (issue.code !== "unrecognized_keys") {
      this.problem(place, issue.message);
      return;
    }
    for (const key of issue.keys) this.#unknownKey(place, key, issue.message.split(" "));
  }

  #unknownKey(path: KeyPath, key: string, right: readonly string[]): void {
    this.problem([...path, key], `is an unknown key${didYouMean(key, right)} (right here: ${right.join(", ")})`);
  }

  problem(path: KeyPath, message: string): void {
    this.problems.push({ line: this.#document.lineOf(path), path, message });
  }

  /** What was written at `path`, right or wrong. */
  written(path: KeyPath): unknown {
    let value: unknown = this.#document.value;
    for (const key of path) value = isMap(value) && typeof key === "string" ? value[key] : undefined;
    return value;
  }
}
