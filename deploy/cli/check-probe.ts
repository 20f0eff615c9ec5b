import type { Config, GroupConfig, NodeConfig } from "../../shared/config/config.ts";

export interface Finding {
  /** What was looked at: `configuration`, `peer bravo`, `store app.db`. */
  readonly subject: string;
  /** `failed`: the agent cannot do its work. `unreachable`: a peer is not there now. `warning`: works, but look. */
  readonly level: "ok" | "warning" | "unreachable" | "failed";
  readonly message: string;
  /** What to do; "" where nothing is to be done. */
  readonly hint: string;
}

export interface CheckContext {
  readonly config: Config;
  readonly node: NodeConfig;
  readonly groups: readonly GroupConfig[];
  readonly stateDirectory: string;
  readonly agentRuns: boolean;
  readonly signal: AbortSignal;
}

/** One thing that is looked at. What it throws becomes a finding: one probe never hides another. */
export interface Probe {
  readonly subject: string;
  look(context: CheckContext): Promise<Finding[]>;
}
