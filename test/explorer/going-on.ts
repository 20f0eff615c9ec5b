import { code, hasAgreed, mayCut, mayShip } from "./actions.ts";
import type { Cluster } from "./cluster.ts";
import { decisionOf, isRefused, serviceOf } from "./decisions.ts";
import * as at from "./layout.ts";

export const settled = -1;
export const stuck = -2;

/**
 * What happens next where everything is well from now on: all run, every message arrives, and a person does what status
 * tells him. `settled`: one primary is in service and all others follow it, equal. `stuck`: nothing happens any more.
 */
export function next(c: Cluster, s: Uint8Array): number {
  const all = c.all;
  const pairs = c.pairs;
  const field = (i: number, which: number): number => s[c.layout.node(i) + which]!;
  const flag = (i: number, which: number): boolean => (field(i, at.Flags) & which) !== 0;
  for (const i of all) if (!flag(i, at.UP)) return code("start", i);
  for (const i of all) if (field(i, at.Role) === at.PROMOTING) return code("finish", i);
  for (const [i, j] of pairs) {
    if (c.end(s, j, i) !== at.DOWN && s[c.layout.session(i, j) + at.Under]! > 0) return code("deliver", i, j);
  }
  for (const [i, j] of pairs) if (c.end(s, i, j) !== at.DOWN && c.end(s, j, i) === at.DOWN) return code("notice", i, j);
  for (const i of all) {
    if (field(i, at.Role) === at.FENCED && flag(i, at.SERVICE)) return code("on fenced", i);
    if (field(i, at.Role) !== at.PRIMARY) continue;
    const step = field(i, at.Step);
    if (step === at.STOPPING) return code("stopped", i);
    if (step === at.CUTTING && hasAgreed(c, s, i)) return code("agreed", i);
    const state = serviceOf(c, s, i);
    if (state === "confirmable") return code("confirm", i);
    if (step === at.ROLLING_BACK && state === "in-service") return code("started", i);
    if (state === "in-service" && !flag(i, at.SERVICE) && step === at.NO_STEP) return code("start service", i);
  }
  for (const [i, j] of pairs) {
    if (i > j || c.end(s, i, j) !== at.DOWN) continue;
    if (decisionOf(c, s, i, j).kind !== "refuse" && decisionOf(c, s, j, i).kind !== "refuse") return code("open", i, j);
  }
  for (const i of all) if (field(i, at.Role) === at.PRIMARY && mayCut(c, s, i)) return code("cut", i);
  for (const [i, j] of pairs) if (mayShip(c, s, i, j)) return code("ship", i, j);
  const primaries = all.filter((i) => field(i, at.Role) === at.PRIMARY);
  const [only] = primaries;
  if (primaries.length === 1 && only !== undefined && isServed(c, s, only)) return settled;
  for (const [i, j] of pairs)
    if (c.end(s, i, j) === at.FORKED && field(j, at.Role) === at.PRIMARY) return code("rejoin", i, j);
  for (const i of primaries) if (field(i, at.Step) !== at.NO_STEP) return code("fail", i);
  if (primaries.length > 0) return stuck;
  const aspiring = all.filter((i) => flag(i, at.ASPIRING));
  const ready = aspiring.find((i) => field(i, at.Role) === at.REPLICA && !isRefused(c, s, i, 0, true));
  if (ready !== undefined) return code("promote", ready);
  if (aspiring[0] !== undefined) return code("give up", aspiring[0]);
  const candidates = all.filter((i) => field(i, at.Role) === at.REPLICA && !isRefused(c, s, i, 0, false));
  const best = candidates.toSorted((a, b) => field(b, at.Length) - field(a, at.Length))[0];
  return best === undefined ? stuck : code("ask", best);
}

function isServed(c: Cluster, s: Uint8Array, primary: number): boolean {
  const p = c.layout.node(primary);
  if (!(s[p + at.Flags]! & at.SERVICE) || s[p + at.Step] !== at.NO_STEP) return false;
  return c.others(primary).every((i) => {
    const n = c.layout.node(i);
    return (
      s[n + at.Role] === at.REPLICA &&
      !(s[n + at.Flags]! & (at.TOUCHED | at.SERVICE)) &&
      c.end(s, i, primary) === at.FOLLOWS &&
      s[n + at.Length] === s[p + at.Length] &&
      s[n + at.Top] === s[p + at.Top]
    );
  });
}

/** Whether somebody can go on does not depend on what may still be tried, nor on what was promised. */
export function forget(c: Cluster, s: Uint8Array): void {
  s.fill(0, c.layout.ghosts);
  c.setGhost(s, "accepted", 1);
}
