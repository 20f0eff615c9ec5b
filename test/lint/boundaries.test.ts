// biome-ignore-all lint/suspicious/noTemplateCurlyInString: the texts are sources to be judged
import { access, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { namedPlaces, sourceFiles, violationsOf } from "./boundaries.ts";
import { scan } from "./source-scan.ts";

describe("import boundaries", () => {
  const refused: [why: string, file: string, source: string, line: number, what: RegExp][] = [
    [
      "primary imports replica",
      "primary/ship/ship.ts",
      'import { a } from "../../replica/receive/receive.ts";',
      1,
      /primary\/ imports replica\//,
    ],
    ["only a type of it", "primary/ship/ship.ts", 'import type { A } from "../../replica/a.ts";', 1, /imports replica/],
    [
      "only at run time",
      "primary/ship/ship.ts",
      '\nconst a = await import("../../replica/a.ts");',
      2,
      /imports replica/,
    ],
    ["by exporting it again", "shared/a.ts", 'export * from "../replica/a.ts";', 1, /shared\/ imports replica\//],
    [
      "by a worker's address",
      "replica/a.ts",
      'new Worker(new URL("../primary/a.ts", import.meta.url));',
      1,
      /imports primary/,
    ],
    ["over several lines", "replica/a.ts", 'import {\n  a,\n  b,\n} from "../primary/a.ts";', 4, /imports primary/],
    ["without what it binds", "replica/a.ts", 'import "../primary/a.ts";', 1, /imports primary/],
    ["shared imports deploy", "shared/link/a.ts", 'import { a } from "../../deploy/a.ts";', 1, /nothing of the others/],
    ["deploy imports test", "deploy/a.ts", 'import { a } from "../test/a.ts";', 1, /deploy\/ imports test\//],
    ["outside the project", "deploy/a.ts", 'import { a } from "../../elsewhere/a.ts";', 1, /outside the project/],
    [
      "a stage names an adapter",
      "primary/plan/plan.ts",
      'import { a } from "../stores/files/a.ts";',
      1,
      /by their port only/,
    ],
    ...["scrub/a.ts", "a step to come/a.ts", "a.ts"].map((file): (typeof refused)[number] => [
      `${file} names an adapter`,
      `primary/${file}`,
      `import { a } from "${file.includes("/") ? ".." : "."}/stores/sqlite/a.ts";`,
      1,
      /by their port only/,
    ]),
    [
      "a kind names another",
      "primary/stores/files/a.ts",
      'import { a } from "../sqlite/a.ts";',
      1,
      /kind files imports the kind sqlite/,
    ],
    ["ssh2 elsewhere", "deploy/agent/a.ts", 'import ssh2 from "ssh2";', 1, /ssh2 is imported outside shared\/link\//],
    ["a file of ssh2 elsewhere", "shared/wire/a.ts", 'import c from "ssh2/lib/protocol/crypto.js";', 1, /ssh2/],
    ["ssh2 by require", "primary/a.ts", 'const a = require("ssh2");', 1, /ssh2/],
    ["protobufjs elsewhere", "replica/a.ts", 'import protobuf from "protobufjs";', 1, /protobufjs/],
    ["chokidar elsewhere", "primary/stores/files/a.ts", 'import { watch } from "chokidar";', 1, /chokidar/],
    [
      "a development package",
      "shared/a.ts",
      'import { build } from "esbuild";',
      1,
      /esbuild is imported outside deploy\/build\//,
    ],
    ["no .ts", "shared/a.ts", 'import { a } from "./b.js";', 1, /does not name its \.ts file/],
    [
      "after a template",
      "shared/a.ts",
      'const t = `${"}"}//`; // `\nimport { a } from "../deploy/a.ts";',
      2,
      /imports deploy/,
    ],
    [
      "after a regular expression",
      "shared/a.ts",
      'const r = /["/*]/;\nimport { a } from "../deploy/a.ts";',
      2,
      /imports deploy/,
    ],
  ];
  for (const [why, file, source, line, what] of refused) {
    it(`are crossed: ${why}`, () => {
      const found = violationsOf(file, source);
      expect(found).to.have.length(1);
      expect(found[0]).to.include({ file, line });
      expect(found[0]?.what).to.match(what);
    });
  }

  const allowed: [why: string, file: string, source: string][] = [
    ["primary imports shared", "primary/ship/ship.ts", 'import { a } from "../../shared/words.ts";'],
    ["deploy names an adapter", "deploy/agent/a.ts", 'import { a } from "../../primary/stores/files/a.ts";'],
    ["a kind uses a stage", "primary/stores/files/a.ts", 'import { a } from "../../watch/watch.ts";'],
    [
      "a kind uses what stands beside the kinds",
      "primary/stores/files/a.ts",
      'import { a } from "../source-unusable.ts";',
    ],
    ["the link uses ssh2", "shared/link/a.ts", 'import ssh2 from "ssh2";'],
    ["a test uses anything", "test/a.test.ts", 'import ssh2 from "ssh2";\nimport { a } from "../replica/a.ts";'],
    ["a comment", "primary/a.ts", '// import { a } from "../replica/a.ts";\n/* import "../replica/a.ts" */'],
    ["a text", "primary/a.ts", "const a = 'import x from \"../replica/a.ts\"';"],
    ["a template", "primary/a.ts", 'const a = `import x from "../replica/a.ts" ${f("../replica/a.ts")}`;'],
    ["a method of that name", "primary/a.ts", 'Array.from("../replica/a.ts");'],
  ];
  for (const [why, file, source] of allowed) {
    it(`hold: ${why}`, () => expect(violationsOf(file, source)).to.deep.equal([]));
  }
});

describe("the places that are watched over", () => {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  for (const place of new Set(namedPlaces)) it(`${place} is there`, async () => await access(join(root, place)));
});

describe("blocking calls", () => {
  for (const [file, source, what] of [
    ["deploy/agent/agent.ts", "fs.readFileSync(path);", /readFileSync\(\) blocks/],
    ["deploy/control/server.ts", "\nspawnSync (argv);", /spawnSync\(\) blocks/],
    ["shared/link/session.ts", "const database = new DatabaseSync(path);", /DatabaseSync\(\) blocks/],
    ["shared/link/session.ts", 'import type { DatabaseSync } from "node:sqlite";', /DatabaseSync blocks/],
    ["deploy/cli/check.ts", "const x = `${statSync(path).size}`;", /statSync/],
  ] as const) {
    it(`are refused on the main thread: ${source.trim()}`, () => {
      const found = violationsOf(file, source);
      expect(found).to.have.length(1);
      expect(found[0]?.line).to.equal(source.startsWith("\n") ? 2 : 1);
      expect(found[0]?.what).to.match(what);
    });
  }

  for (const [file, source] of [
    ["replica/apply/apply.ts", "readSync(descriptor, buffer);"],
    ["shared/durable/real-disk.ts", "fsyncSync(descriptor);"],
    ["deploy/workers/catalog.ts", "new DatabaseSync(path);"],
    ["deploy/agent/agent.ts", "// readFileSync( would block\nconst sync = resync(1);"],
    ["deploy/agent/agent.ts", 'log("readFileSync(path)");'],
  ] as const) {
    it(`are allowed: ${source} in ${file}`, () => expect(violationsOf(file, source)).to.deep.equal([]));
  }
});

describe("the scanner", () => {
  it("keeps every line and column of the code", () => {
    const source = 'a = "x"; /* y\n */ b = `p${c}q${`r${d}`}`; // z\ne = f / 2 / g; h = /"/.test(i);';
    const { code } = scan(source);
    expect(code).to.have.length(source.length);
    expect(code.split("\n").map((line) => line.length)).to.deep.equal(source.split("\n").map((line) => line.length));
    expect(code.replaceAll(/\s+/g, "")).to.equal("a=;b=cd;e=f/2/g;h=.test(i);");
  });

  it("reads every file of the project to its end", async () => {
    const root = fileURLToPath(new URL("../..", import.meta.url));
    const files = await sourceFiles(root);
    expect(files).to.include("test/lint/boundaries.ts");
    for (const file of files) {
      const source = await readFile(join(root, file), "utf8");
      // Whoever loses their way in a text or template ends up with unbalanced code.
      const { code } = scan(source);
      const count = (character: string) => code.split(character).length;
      expect(count("("), file).to.equal(count(")"));
      expect(count("["), file).to.equal(count("]"));
    }
  });
});
