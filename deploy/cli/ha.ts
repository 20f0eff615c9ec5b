import { exitCodes, UnderstudyError } from "../../shared/errors.ts";
import type { HaAnswer, HaRequest } from "../control/ha-api.ts";

/** What a cluster manager's resource agent may ask; see `HaRequest`. */
export const haActions = ["status", "monitor", "grant", "promote", "demote"] as const;

export interface HaOptions {
  readonly epoch?: number;
  readonly mark?: string;
  readonly maxLag: number;
  readonly vote?: readonly string[];
  readonly seal?: string;
  readonly ship: number;
}

class HaUnclear extends UnderstudyError {
  readonly code = "HA_UNCLEAR";
  readonly remedy = "stop";
  readonly state = "Nothing was asked of the agent.";
  readonly hint = "See `understudy help ha`.";
  override readonly exitCode = exitCodes.usage;
}

/** What the words of the command line ask. @throws when they ask nothing that there is */
export function haRequest(action: string, options: HaOptions): HaRequest {
  const memory = { clusterEpoch: options.epoch ?? null, mark: options.mark ?? "" };
  switch (action) {
    case "status":
    case "monitor":
      return { action, lagSecondsMax: options.maxLag / 1000, ...memory };
    case "grant":
      return { action, votes: (options.vote ?? []).map(voteIn), seal: options.seal ?? "", ...memory };
    case "promote":
      if (options.epoch === undefined)
        throw new HaUnclear("--epoch is not given: a promotion is in one that was granted");
      return { action, epoch: options.epoch };
    case "demote":
      return { action, shipMs: options.ship };
    default:
      throw new HaUnclear(`there is no ${JSON.stringify(action)}: ask one of ${haActions.join(", ")}`);
  }
}

function voteIn(text: string): { node: string; vote: string } {
  const at = text.indexOf("=");
  if (at < 1) throw new HaUnclear(`a vote is NODE=EPOCH#SEQ, not ${JSON.stringify(text)}`);
  return { node: text.slice(0, at), vote: text.slice(at + 1) };
}

export function haText(answer: HaAnswer): string {
  const { group, node, role, inService, epoch, cut, decision, granted, giveWayTo, why } = answer;
  const lines = [`${group}: ${node} is ${role}${inService ? " in service" : ""}, epoch ${epoch}, cut ${cut || "none"}`];
  if (decision === "grant") lines.push(`  it may be promoted in epoch ${granted}`);
  if (decision === "give-way") lines.push(`  it gives way to ${giveWayTo}`);
  if (why !== "") lines.push(`  ${why}`);
  for (const { member, mark, score } of answer.members) lines.push(`  ${member}: ${mark}, score ${score}`);
  return `${lines.join("\n")}\n`;
}
