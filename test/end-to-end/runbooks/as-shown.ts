/**
 * What a page shows of a command's output, against what the command printed: line by line in this order, with other lines
 * between them. Times, durations, sizes, the names of forks and the second half of a cut are of the day; `...` stands for anything.
 */
const ofTheDay: readonly { readonly shown: RegExp; readonly printed: string }[] = [
  { shown: /\.\.\./y, printed: ".*" },
  { shown: /[a-z]+-\d+\.\d+-\d{8}T\d{6}/y, printed: "[a-z]+-\\d+\\.\\d+-\\d{8}T\\d{6}" },
  { shown: /\d{4}-\d\d-\d\dT[\d:.]+Z/y, printed: "\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z" },
  {
    shown: /\d[\d.]* (?:ms|s|min|B|KiB|MiB)\b(?: \d+ s\b)?/y,
    printed: "\\d[\\d.]* (?:ms|s|min|B|KiB|MiB)(?: \\d+ s)?",
  },
  { shown: /\d\d:\d\d (?:today|yesterday)/y, printed: "\\d\\d:\\d\\d (?:today|yesterday)" },
  { shown: /(?<=\d\.)\d+/y, printed: "\\d+" },
  { shown: /\s+/y, printed: "\\s+" },
];

/** The first line that is shown and was not printed; undefined: all of them were. */
export function notAsShown(shown: string, printed: string): string | undefined {
  let rest = printed.replaceAll("\r\n", "\n").split("\n");
  for (const line of shown.split("\n").filter((text) => text.trim() !== "")) {
    const wanted = asPattern(line.trim());
    const at = rest.findIndex((text) => wanted.test(text.trim()));
    if (at === -1) return line;
    rest = rest.slice(at + 1);
  }
  return undefined;
}

function asPattern(line: string): RegExp {
  let pattern = "";
  for (let at = 0; at < line.length; ) {
    let length = 1;
    let printed = (line[at] ?? "").replace(/[\\^$.*+?()[\]{}|]/, "\\$&");
    for (const variable of ofTheDay) {
      variable.shown.lastIndex = at;
      const [found = ""] = variable.shown.exec(line) ?? [];
      if (found === "") continue;
      length = found.length;
      printed = variable.printed;
      break;
    }
    pattern += printed;
    at += length;
  }
  return new RegExp(`^${pattern}$`);
}
