export interface Literal {
  /** From 1. */
  readonly line: number;
  readonly value: string;
  /** Code before it, comments and other texts blanked, trimmed at its end. */
  readonly before: string;
}

export interface Scanned {
  /** The source with comments, texts and regular expressions blanked; lines and columns as they were. */
  readonly code: string;
  readonly literals: readonly Literal[];
}

/**
 * Tells code from comments and texts, which is all that import rules need: a parser of TypeScript would be the largest
 * dependency of the project for it.
 */
export function scan(source: string): Scanned {
  const literals: Literal[] = [];
  const code: string[] = [];
  /** Depth of braces at which each open `${` began. */
  const templates: number[] = [];
  let braces = 0;
  let at = 0;
  let line = 1;

  const blank = (end: number): void => {
    for (; at < end; at++) {
      const newline = source[at] === "\n";
      if (newline) line += 1;
      code.push(newline ? "\n" : " ");
    }
  };
  const keep = (): void => {
    if (source[at] === "\n") line += 1;
    code.push(source[at]!);
    at += 1;
  };
  /** From a backtick, or from the brace that ends an inserted expression, to the next end or insertion. */
  const template = (): void => {
    let end = at + 1;
    while (end < source.length && source[end] !== "`" && !source.startsWith("${", end))
      end += source[end] === "\\" ? 2 : 1;
    if (source.startsWith("${", end)) {
      templates.push(braces);
      blank(end + 2);
    } else blank(end + 1);
  };

  while (at < source.length) {
    const character = source[at]!;
    if (source.startsWith("//", at)) blank(endOr(source.indexOf("\n", at), source));
    else if (source.startsWith("/*", at)) blank(endOr(source.indexOf("*/", at + 2) + 2, source, 1));
    else if (character === '"' || character === "'") {
      let end = at + 1;
      while (end < source.length && source[end] !== character && source[end] !== "\n")
        end += source[end] === "\\" ? 2 : 1;
      literals.push({ line, value: source.slice(at + 1, end), before: lastCode(code) });
      blank(Math.min(end + 1, source.length));
    } else if (character === "`") {
      template();
    } else if (character === "}" && templates.at(-1) === braces) {
      templates.pop();
      template();
    } else if (character === "/" && beginsRegularExpression(lastCode(code))) {
      blank(endOfRegularExpression(source, at));
    } else {
      if (character === "{") braces += 1;
      if (character === "}") braces -= 1;
      keep();
    }
  }
  return { code: code.join(""), literals };
}

function endOr(end: number, source: string, least = 0): number {
  return end <= least ? source.length : end;
}

/** Enough of the code so far to see what kind of expression a text or slash stands in. */
function lastCode(code: readonly string[]): string {
  return code.slice(-400).join("").trimEnd();
}

function beginsRegularExpression(before: string): boolean {
  if (before === "") return true;
  if (/(?:^|[^\w$.])(?:return|typeof|case|in|of|do|else|await|yield|void|delete|throw|new)$/.test(before)) return true;
  return !/[\w$)\]}]$/.test(before);
}

function endOfRegularExpression(source: string, start: number): number {
  let inClass = false;
  let end = start + 1;
  for (; end < source.length && source[end] !== "\n"; end++) {
    const character = source[end];
    if (character === "\\") end += 1;
    else if (character === "[") inClass = true;
    else if (character === "]") inClass = false;
    else if (character === "/" && !inClass) break;
  }
  return Math.min(end + 1, source.length);
}
