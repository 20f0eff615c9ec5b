import { expect } from "chai";
import { NoRoom } from "../../replica/receive/refusals.ts";
import { FilesNotSynced } from "../../replica/rejoin/demote.ts";
import { CopyNotThere } from "../../replica/store-home.ts";
import { SyncFailed } from "../../replica/sync.ts";
import { explain } from "../../shared/errors.ts";
import { CrashMatrix, type CrashPoint, type Scenario } from "./crash-matrix.ts";
import { realProgram } from "./replica-program.ts";
import { scenarios } from "./scenarios.ts";
import type { OperationKind } from "./simulated-disk.ts";

const syncs: ReadonlySet<string> = new Set<OperationKind>(["syncFile", "syncDirectory", "syncFilesystem"]);
const takesRoom: ReadonlySet<string> = new Set<OperationKind>([
  "create",
  "write",
  "makeDirectory",
  "makeSymlink",
  "link",
  "rename",
]);

/** Opens a scenario with faults from its very first operation; of a rejoin, from where the node has parted. */
async function open(scenario: Scenario): Promise<CrashMatrix> {
  const { fork, crashFrom = 0 } = scenario;
  return await CrashMatrix.open({ ...scenario, crashFrom: fork === undefined ? 0 : crashFrom }, realProgram);
}

function text({ step, kind, detail }: CrashPoint): string {
  return `${step}: ${kind} ${detail}`;
}

describe("faults of the disk", function () {
  this.timeout(300_000);
  const counts = { syncs: 0, full: 0 };

  for (const scenario of scenarios) {
    for (const singleSyncsMax of [64, 0]) {
      const how = singleSyncsMax === 0 ? "whole filesystems" : "one by one";
      it(`${scenario.name}, ${how}: trusts no sync that failed, neither at once nor after a restart`, async () => {
        using matrix = await open({ ...scenario, limits: { ...scenario.limits, singleSyncsMax } });
        for (const point of matrix.points()) {
          if (!syncs.has(point.kind)) continue;
          counts.syncs++;
          const fault = matrix.runWithFault(({ index }) => (index === point.operation ? "EIO" : undefined));
          if (point.step === "open") expect(fault.error, text(point)).to.be.instanceof(Error);
          else if (point.step === "demote") expect(fault.error, text(point)).to.be.instanceof(FilesNotSynced);
          else expect(fault.error, `${text(point)}: ${explain(fault.error)}`).to.be.instanceof(SyncFailed);
          for (const mode of ["lose-all", "keep-all", "reordered"] as const) matrix.crash(fault.at, mode, 1);
          // Names are in the journal: when that fails, the kernel lets nobody write until the filesystem is mounted anew.
          if (point.kind === "syncDirectory") matrix.restartReadOnly(fault.at);
          else matrix.restart(fault.at);
          if (point.kind !== "syncDirectory") continue;
          // Or it goes on: then the next sync of that directory is a lie, and only one of everything is not.
          const once = ({ index }: { index: number }) => (index === point.operation ? ("EIO" as const) : undefined);
          matrix.restart(matrix.runWithFault(once, undefined, { goesOn: true }).at);
        }
      });
    }

    it(`${scenario.name}: stops at a full disk wherever it is met, and goes on when there is room`, async () => {
      using matrix = await open(scenario);
      for (const point of matrix.points()) {
        if (!takesRoom.has(point.kind)) continue;
        counts.full++;
        const full = ({ index, kind }: { index: number; kind: string }) =>
          index >= point.operation! && takesRoom.has(kind) ? ("ENOSPC" as const) : undefined;
        const fault = matrix.runWithFault(full);
        expect(explain(fault.error), text(point)).to.contain("ENOSPC");
        matrix.crash(fault.at, "reordered", 1);
        if (counts.full % 2 === 0) matrix.restart(fault.at);
        if (point.step !== "receive") continue;
        // Where there is no room to reuse what is adopted, the cut may come all the same.
        if (scenario.planted !== undefined && !(fault.error instanceof NoRoom)) continue;
        // The cut is refused, the session goes on with the same program when somebody has made room.
        expect(fault.error, text(point)).to.be.instanceof(NoRoom);
        const mended = matrix.runWithFault(full, (disk) => disk.stopFailing());
        expect(mended.error, text(point)).to.be.instanceof(NoRoom);
        expect(mended.at.acknowledged, text(point)).to.equal(matrix.points().at(-1)!.acknowledged);
        matrix.crash(mended.at, "lose-all", 1);
      }
    });
  }

  it("refuses a cut for which a filesystem has no room before it is promised, and keeps the old one", async () => {
    const growing: Scenario = {
      name: "growing",
      changes: [
        ({ tree }, bytes) => tree!.write("a", bytes(40 * 4096)),
        ({ tree }, bytes) => tree!.write("a", bytes(40 * 4096)),
      ],
      steps: [
        { do: "receive", cut: 1, from: 0, to: 1 },
        { do: "commit" },
        { do: "apply" },
        { do: "receive", cut: 2, from: 0, to: 1 },
      ],
    };
    using matrix = await CrashMatrix.open(growing, realProgram);
    // For the first there is just room; the second needs a segment, an image, and as much again.
    const fault = matrix.runWithFault(() => undefined, undefined, { capacityBytes: 100 * 4096 });
    expect(fault.error).to.be.instanceof(NoRoom);
    expect(fault.at.acknowledged).to.equal(1n);
    matrix.comeUp(fault.at);
  });

  it("does not start where a filesystem is not mounted, and writes nothing where it should be", async () => {
    const scenario = scenarios.find(({ stores }) => stores?.length === 2)!;
    using matrix = await open(scenario);
    const { disk, image } = matrix.points().at(-1)!;
    for (const store of scenario.stores!) {
      const unmounted = disk.clone();
      unmounted.setMounted(`/srv/${store}`, false);
      const before = unmounted.operations;
      expect(() => matrix.recover(unmounted, image, 0n), store).to.throw(CopyNotThere);
      expect(unmounted.tree(`/srv/${store}`), store)
        .to.have.property("entries")
        .that.deep.equals({});
      expect(unmounted.operations, "nothing was written anywhere").to.equal(before);
      unmounted.setMounted(`/srv/${store}`, true);
      matrix.recover(unmounted, image, 4n);
    }
  });

  after(() => console.log(`      ${counts.syncs} failed syncs, ${counts.full} full disks`));
});
