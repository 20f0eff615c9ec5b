import { kindOf, nodeOf, otherOf } from "./actions.ts";
import { type Cluster, members } from "./cluster.ts";
import { promotions } from "./decisions.ts";
import * as at from "./layout.ts";
import { askedBit, kindCodes } from "./messages.ts";

/** One line for one action, in the state before it. */
export function describe(c: Cluster, s: Uint8Array, action: number): string {
  const kind = kindOf(action);
  const [i, j] = [nodeOf(action), otherOf(action)];
  const [who, whom] = [members[i]!, members[j]!];
  switch (kind) {
    case "deliver":
    case "double": {
      const queue = c.layout.session(i, j) + at.Queue;
      const what = at.messages[s[queue]!]!;
      const detail = s[queue] === at.WELCOME ? ` (${kindCodes[s[queue + 1]! & ~askedBit]})` : "";
      return `${whom} hears the ${what}${detail} of ${who}${kind === "double" ? ", and will once more" : ""}`;
    }
    case "open":
      return `${who} dials ${whom}`;
    case "ship":
      return `${who} ships to ${whom}`;
    case "notice":
      return `${who} notices that ${whom} has ended the session`;
    case "break":
      return `${who} loses the session with ${whom}, and what was on its way`;
    case "switchover":
      return `an operator asks ${who} for a switchover to ${whom}`;
    case "rejoin":
      return `${who} rejoins ${whom}, one step`;
    case "promote": {
      const flags = promotions[j]!.map((flag) => `--accept-${flag === "rejoining" ? flag : `${flag}-primary`}`);
      return `an operator promotes ${who} ${["--accept-loss", ...flags].join(" ")}`;
    }
    default:
      return `${who}: ${kind}`;
  }
}

/** What a node is, in a few words. */
export function picture(c: Cluster, s: Uint8Array): string {
  const nodes = c.all.map((i) => {
    const n = c.layout.node(i);
    const flags = s[n + at.Flags]!;
    const words = [
      flags & at.UP ? "" : "down",
      c.roleName(s, i),
      `epoch ${s[n + at.Epoch]}${s[n + at.Seen] === s[n + at.Epoch] ? "" : ` (seen ${s[n + at.Seen]})`}`,
      `cut ${s[n + at.Top]}.${s[n + at.Length]}`,
      flags & at.DIRTY ? "written since" : "",
      flags & at.SERVICE ? "serves" : "",
      flags & at.TOUCHED ? "touched" : "",
      s[n + at.Step] === 0 ? "" : at.steps[s[n + at.Step]!]!,
    ];
    return `${members[i]} ${words.filter((word) => word !== "").join(", ")}`;
  });
  return nodes.join("; ");
}
