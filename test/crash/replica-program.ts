import { join } from "node:path";
import { pathToFileURL } from "node:url";
import * as apply from "../../replica/apply/apply.ts";
import * as commit from "../../replica/commit/commit.ts";
import * as promote from "../../replica/promote/promote.ts";
import * as adopt from "../../replica/receive/adopt.ts";
import * as ahead from "../../replica/receive/ahead.ts";
import * as receive from "../../replica/receive/receive.ts";
import * as resume from "../../replica/receive/resume.ts";
import * as demotion from "../../replica/rejoin/demote.ts";
import * as repairing from "../../replica/repair/repairing.ts";
import * as storeHome from "../../replica/store-home.ts";

/** What the crash tests drive: the replica's own modules, or a copy of them with one line changed. */
export interface ReplicaProgram {
  readonly Receiver: typeof receive.Receiver;
  readonly commit: typeof commit.commit;
  readonly closeTransaction: typeof commit.closeTransaction;
  readonly recoverStaging: typeof resume.recoverStaging;
  readonly stagedRunDigests: typeof resume.stagedRunDigests;
  readonly applyNext: typeof apply.applyNext;
  readonly recoverApply: typeof apply.recoverApply;
  readonly openStoreHomes: typeof storeHome.openStoreHomes;
  readonly seal: typeof promote.seal;
  readonly unseal: typeof promote.unseal;
  readonly takeOver: typeof promote.takeOver;
  readonly Repairing: typeof repairing.Repairing;
  readonly adopting: typeof resume.adopting;
  readonly beginAdoption: typeof adopt.beginAdoption;
  readonly endAdoption: typeof adopt.endAdoption;
  readonly stageFromCopy: typeof adopt.stageFromCopy;
  readonly aheadOf: typeof ahead.aheadOf;
  readonly goBack: typeof demotion.goBack;
  readonly settleFiles: typeof demotion.settleFiles;
  readonly demote: typeof demotion.demote;
}

export const realProgram: ReplicaProgram = {
  ...receive,
  ...commit,
  ...resume,
  ...apply,
  ...storeHome,
  ...promote,
  ...adopt,
  ...repairing,
  ...ahead,
  ...demotion,
};

/** The program in a copy of `replica/`, whose imports of `shared/` lead to the same modules as ours. */
export async function loadProgram(replicaDirectory: string): Promise<ReplicaProgram> {
  const names = [
    "receive/receive.ts",
    "receive/resume.ts",
    "commit/commit.ts",
    "apply/apply.ts",
    "store-home.ts",
    "promote/promote.ts",
    "receive/adopt.ts",
    "repair/repairing.ts",
    "receive/ahead.ts",
    "rejoin/demote.ts",
  ];
  const modules = await Promise.all(
    names.map((name) => import(pathToFileURL(join(replicaDirectory, name)).href) as Promise<object>),
  );
  return Object.assign({}, ...modules) as ReplicaProgram;
}
