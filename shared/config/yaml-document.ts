import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseDocument,
  type YAMLError,
} from "yaml";

export type KeyPath = readonly (string | number)[];

export interface Problem {
  /** From 1. */
  readonly line: number;
  readonly path: KeyPath;
  readonly message: string;
}

export interface YamlDocument {
  /** Strings, numbers, booleans, null, arrays, and objects without a prototype. Undefined when `problems` has any. */
  readonly value: unknown;
  /** Where a key or list item stands; for what is not there, where its nearest parent is. */
  lineOf(path: KeyPath): number;
  readonly problems: readonly Problem[];
}

/** Bounds that no honest file comes near: a file is refused before it can take memory or stack. */
const textLengthMax = 1 << 20;
const nodesMax = 100_000;
const depthMax = 40;

/** Reads YAML 1.2 (core schema, no merge keys) into plain values, with the line of each; every fault is a problem. */
export function readYaml(text: string): YamlDocument {
  const fault = (line: number, message: string, path: KeyPath = []): YamlDocument => ({
    value: undefined,
    lineOf: () => line,
    problems: [{ line, path, message }],
  });
  if (text.length > textLengthMax) return fault(1, `longer than ${textLengthMax} characters`);

  const counter = new LineCounter();
  const line = (offset: number): number => Math.max(1, counter.linePos(offset).line);
  const document = parseDocument(text, {
    lineCounter: counter,
    prettyErrors: false,
    // `010:` as a key stays the text "010" instead of becoming the number 10.
    stringKeys: true,
    // "silent" would also be silent about a second document.
    logLevel: "error",
  });
  // A warning is a tag or directive that was not understood: not guessed here either.
  const syntax: YAMLError[] = [...document.errors, ...document.warnings];
  const overflow = syntax.find((error) => error.code === "RESOURCE_EXHAUSTION");
  if (overflow) return fault(line(overflow.pos[0]), "nested too deep");
  if (syntax.length > 0) {
    const problems = telling(syntax).map((error) => ({
      line: line(error.pos[0]),
      path: [],
      message: plainSentence(error),
    }));
    return { value: undefined, lineOf: () => 1, problems };
  }
  try {
    const reader = new Reader(document, line);
    const value = reader.plain(document.contents, []);
    return { value, lineOf: (path) => reader.lineOf(path), problems: [] };
  } catch (error) {
    if (error instanceof Unreadable) return fault(error.line, error.message, error.path);
    throw error;
  }
}

class Unreadable extends Error {
  readonly line: number;
  readonly path: KeyPath;

  constructor(line: number, path: KeyPath, message: string) {
    super(message);
    this.line = line;
    this.path = path;
  }
}

class Reader {
  readonly #document: Document.Parsed;
  readonly #line: (offset: number) => number;
  readonly #lines = new Map<string, number>();
  #nodes = 0;

  constructor(document: Document.Parsed, line: (offset: number) => number) {
    this.#document = document;
    this.#line = line;
  }

  plain(node: Node | null, path: KeyPath): unknown {
    if (node === null) return null;
    const line = this.#line(node.range?.[0] ?? 0);
    this.#nodes += 1;
    // An alias is read anew each time, so a few lines of them could unfold to billions of values.
    if (this.#nodes > nodesMax) throw new Unreadable(line, path, "its aliases unfold to too many values");
    if (path.length > depthMax) throw new Unreadable(line, path, "nested too deep");
    if (isAlias(node)) {
      const target = node.resolve(this.#document);
      if (!target) throw new Unreadable(line, path, `nothing is named &${node.source}`);
      return this.plain(target, path);
    }
    if (isScalar(node)) return node.value;
    if (isSeq<Node | null>(node)) {
      return node.items.map((item, index) => {
        const itemPath = [...path, index];
        this.#lines.set(pathKey(itemPath), item?.range ? this.#line(item.range[0]) : line);
        return this.plain(item, itemPath);
      });
    }
    if (isMap<Node, Node | null>(node)) {
      const value: Record<string, unknown> = Object.create(null);
      for (const pair of node.items) {
        const key = String(isScalar(pair.key) ? pair.key.value : pair.key);
        const keyPath = [...path, key];
        this.#lines.set(pathKey(keyPath), pair.key.range ? this.#line(pair.key.range[0]) : line);
        value[key] = this.plain(pair.value, keyPath);
      }
      return value;
    }
    throw new Unreadable(line, path, "is of a kind that has no place here");
  }

  lineOf(path: KeyPath): number {
    for (let length = path.length; length > 0; length--) {
      const line = this.#lines.get(pathKey(path.slice(0, length)));
      if (line !== undefined) return line;
    }
    return 1;
  }
}

function pathKey(path: KeyPath): string {
  return JSON.stringify(path);
}

/** Where the text stops being YAML only the first fault tells something; what the parser says after that is its guess. */
function telling(errors: YAMLError[]): YAMLError[] {
  const local = ["DUPLICATE_KEY", "TAG_RESOLVE_FAILED", "BAD_ALIAS", "NON_STRING_KEY"];
  const firstBreak = errors.find((error) => !local.includes(error.code));
  return errors.filter((error) => local.includes(error.code) || error === firstBreak);
}

function plainSentence(error: YAMLError): string {
  if (error.code === "DUPLICATE_KEY") return "the same key a second time";
  if (error.code === "MULTIPLE_DOCS") return "a second document begins here; the configuration is one document";
  return error.message.replace(/\s+/g, " ").trim();
}
