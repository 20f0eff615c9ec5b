import type { Role } from "../../shared/words.ts";

/**
 * What a cluster manager's resource agent asks of the node's agent. Every answer is one flat object, its keys in the order in
 * which they stand here: a shell reads it line by line, without a JSON parser.
 */
export const haSchema = 1;

export type HaRequest =
  /** `monitor` acts on what it is told: a primary ends at once where the cluster has granted a higher epoch. */
  | ({ readonly action: "status" | "monitor"; readonly lagSecondsMax: number } & HaMemory)
  | ({
      readonly action: "grant";
      readonly votes: readonly { readonly node: string; readonly vote: string }[];
      /** What the primary before had last, "" where it is gone. */
      readonly seal: string;
    } & HaMemory)
  /** `epoch`: as it was granted, and as the cluster remembers it by now. */
  | { readonly action: "promote"; readonly epoch: number }
  /** `shipMs`: how long replicas are waited for, at most. */
  | { readonly action: "demote"; readonly shipMs: number };

/** What the cluster remembers of the group and of this node. */
export interface HaMemory {
  /** The epoch that was granted last; 0 where none ever was. Null: nobody has said, so nothing is said of a claim. */
  readonly clusterEpoch: number | null;
  readonly mark: string;
}

export interface HaAnswer {
  readonly schema: typeof haSchema;
  readonly group: string;
  readonly node: string;
  readonly role: Role;
  /** Primary, confirmed, and not demoted: its service runs, or may. */
  readonly inService: boolean;
  readonly epoch: number;
  /** The last durable cut, `EPOCH.SEQ`; "" where there is none. */
  readonly cut: string;
  /** The last cut of a primary that was demoted, with its digest: `REIGN:EPOCH.SEQ:DIGEST`; else "". */
  readonly seal: string;
  /** For the others to compare, `EPOCH#SEQ`; "" where this node does not stand. */
  readonly vote: string;
  /** The promotion score that this node may give itself: a number, `none`, or `keep`; "" where that was not asked. */
  readonly claim: string;
  /** Why it may not be promoted, or what else is wrong; "". Without quotes or backslashes, one line. */
  readonly why: string;
  /** Only of `grant`: `grant`, `give-way` or `refuse`; else "". */
  readonly decision: string;
  /** Only of `grant`: the epoch that is granted, to be written down before `promote`; else 0. */
  readonly granted: number;
  /** Of `give-way`: to whom, and the mark that this node passes on ("" for none). */
  readonly giveWayTo: string;
  readonly giveWayMark: string;
  readonly seconds: number;
  /** Of a primary in service: what it says of the others. `score` is a number or `none`. */
  readonly members: readonly HaMember[];
}

export interface HaMember {
  readonly member: string;
  readonly mark: string;
  readonly score: string;
}
