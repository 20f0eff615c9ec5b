import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { Rig } from "./rig.ts";

const here = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

/**
 * The examples as an operator types them, each with its own tool, into a CIB file in place of a cluster, on a machine that has the
 * agents which they name.
 */
describe("the examples of a cluster's configuration", function () {
  this.timeout(300_000);
  let rig: Rig;

  before(async () => {
    rig = await Rig.up({ nodes: ["n1"], cluster: false });
    const fake = await run("", "install", "-m", "755", here("fence_ipmilan"), "/usr/sbin/fence_ipmilan");
    expect(fake).to.include({ code: 0 });
    // pcs does not listen to CIB_file, as crm and Pacemaker's own tools do.
    await mkdir(join(home(), "bin"));
    await writeFile(join(home(), "bin/pcs"), '#!/bin/sh\nexec /usr/sbin/pcs -f "$CIB_file" "$@"\n', { mode: 0o755 });
  });
  after(async () => {
    await rig?.[Symbol.asyncDispose]();
  });

  const home = (): string => rig.node("n1").home;
  async function run(file: string, ...words: string[]) {
    const environment = [`CIB_file=${file}`, `HOME=${home()}`, `PATH=${join(home(), "bin")}:${process.env.PATH}`];
    return await rig
      .node("n1")
      .run(["env", "-C", here("../../deploy/ocf/examples"), ...environment, ...words], 240_000);
  }

  /** Of a cluster that nobody has configured yet. */
  async function newCib(name: string): Promise<string> {
    const file = join(home(), `${name}.xml`);
    await writeFile(file, firstCib);
    return file;
  }

  it("are the same cluster with crmsh and with pcs, and Pacemaker finds no fault in it", async () => {
    const runbook = await readFile(here("../../deploy/docs/runbooks/ha-pacemaker.md"), "utf8");
    const printed = /<!-- test: set up -->\n```sh\n([\s\S]*?)\n```/.exec(runbook)?.[1]?.split("\n");
    expect(printed).to.have.lengthOf(2);
    const [crm, pcs] = await Promise.all(
      printed!.map(async (command, index) => {
        const file = await newCib(`example-${index}`);
        const typed = await run(file, "sh", "-c", command);
        expect(typed.code, `${command}: ${typed.stdout}${typed.stderr}`).to.equal(0);
        const verified = await run(file, "crm_verify", "--verbose", "--xml-file", file);
        expect(verified.code, `${command}: ${verified.stderr}`).to.equal(0);
        return facts(await readFile(file, "utf8"));
      }),
    );
    expect(pcs).to.deep.equal(crm);
    // It was found at all.
    expect(crm).to.include(
      "constraints / rsc_order first-action=promote first=app-clone kind=Mandatory then-action=start then=app-address",
    );
  });

  it("can rely on what the agent says of itself: its parameters, and the operations that pcs gives it unasked", async () => {
    const file = await newCib("agent");
    const create = async (...words: string[]) =>
      await run(file, "pcs", "resource", "create", "app", "ocf:understudy:understudy", ...words);
    const misspelt = await create("group=app", "maxlag=10", "promotable");
    expect(misspelt.code).to.equal(1);
    expect(misspelt.stderr).to.match(/invalid resource option 'maxlag', allowed options are: .*'group'.*'max_lag'/);

    const created = await create("group=app", "max_lag=10", "promotable");
    expect(created).to.include({ code: 0, stderr: "" });
    const operations = facts(await readFile(file, "utf8")).flatMap(
      (fact) => / \/ operations \/ (.*)/.exec(fact)?.[1] ?? [],
    );
    expect(operations).to.deep.equal([
      "op interval=0s name=demote timeout=60s",
      "op interval=0s name=notify timeout=20s",
      "op interval=0s name=promote timeout=60s",
      "op interval=0s name=start timeout=60s",
      "op interval=0s name=stop timeout=60s",
      "op interval=10s name=monitor role=Unpromoted timeout=20s",
      "op interval=3s name=monitor role=Promoted timeout=20s",
    ]);
  });
});

/**
 * All that a CIB's configuration says, a line for each element, sorted. Left out is what each tool does in its own way and Pacemaker
 * reads alike: the order, the ids of what is no resource (nobody refers to them), and the role `Started`, which a resource has in a
 * colocation that names none.
 */
function facts(cib: string): string[] {
  const configuration = /<configuration>([\s\S]*)<\/configuration>/.exec(cib)?.[1] ?? "";
  const within: string[] = [];
  const said: string[] = [];
  const elements = configuration.matchAll(/<(\/?)(\w+)((?:\s+[\w-]+="[^"]*")*)\s*(\/?)>/g);
  for (const [, end, name = "", attributes = "", empty] of elements) {
    if (end === "/") {
      within.pop();
      continue;
    }
    const own = [...attributes.matchAll(/[\w-]+="[^"]*"/g)]
      .map(([attribute]) => attribute.replaceAll('"', ""))
      .filter((attribute) => !attribute.startsWith("id=") || name === "primitive" || name === "clone")
      .filter((attribute) => attribute !== "rsc-role=Started");
    const element = [name, ...own.toSorted()].join(" ");
    said.push([...within, element].join(" / "));
    if (empty !== "/") within.push(element);
  }
  return said.toSorted();
}

/** Three nodes that are there. */
const firstCib = `<cib crm_feature_set="3.0.14" validate-with="pacemaker-3.7" epoch="1" num_updates="0" admin_epoch="0" have-quorum="1">
<configuration>
<crm_config/>
<nodes>${nodes((id, name) => `<node id="${id}" uname="${name}"/>`)}</nodes>
<resources/>
<constraints/>
</configuration>
<status>${nodes((id, name) => `<node_state id="${id}" uname="${name}" in_ccm="true" crmd="online" join="member" expected="member"/>`)}</status>
</cib>
`;

function nodes(text: (id: number, name: string) => string): string {
  return ["alpha", "bravo", "charlie"].map((name, index) => text(index + 1, name)).join("");
}
