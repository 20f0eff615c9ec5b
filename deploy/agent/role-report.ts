import { cutRef, jsonNumber } from "../control/api.ts";
import type { RoleReport } from "../control/role-listener.ts";
import type { GroupAgent } from "./group.ts";
import { groupStatus } from "./status.ts";

/** What others may know of a group on this node: from what it knows at this instant, nobody is asked. */
export function roleReport(group: GroupAgent): RoleReport {
  const { role, standing } = group;
  const { state } = group.service;
  const { promotable, halted } = groupStatus(group);
  const committed = standing?.committed;
  const primary = role === "primary";
  // What a person holds back is no fault of the copy.
  const faults = promotable.why.filter(({ code }) => code !== "PAUSED");
  return {
    node: group.node,
    group: group.config.name,
    role,
    epoch: jsonNumber(standing?.epoch ?? 0n),
    cut: committed === undefined || committed.seq === 0n ? null : cutRef(committed),
    outOfService: state.kind === "in-service" ? "" : state.kind === "out" ? state.message : "it is being confirmed",
    unhealthy: primary ? "" : (halted?.message ?? faults.map(({ message }) => message).join("; ")),
    following: group.peers.primaryAlive(),
    lagSeconds: primary ? null : promotable.loss.seconds,
  };
}
