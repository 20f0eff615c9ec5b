import type { SourceEvent, SwitchoverRecord } from "../../shared/session/switchover.ts";
import { epoch } from "../../shared/words.ts";
import type { Bounds } from "./model.ts";
import { type Drivers, type Rules, rules } from "./rules.ts";

export interface Mutant {
  readonly name: string;
  readonly nodes: 2 | 3;
  /** Few, so that it is met soon. */
  readonly bounds: Bounds;
  readonly rules: Rules;
  /** What the first state that must not be is called. */
  readonly violates: RegExp;
}

const drivers = (change: Partial<Drivers>): Rules => ({ ...rules, drivers: { ...rules.drivers, ...change } });
const bounds = (faults: number, operations: number, writes = 0, doubles = 0): Bounds => ({
  faults,
  operations,
  writes,
  doubles,
});

/** Goes back by itself although the target may have taken over. */
function goesBackWhen(kind: SourceEvent["kind"]): Rules["sourceStep"] {
  return (record, event) =>
    record?.step === "handing" && event.kind === kind
      ? { record: { ...baseOf(record), step: "rolling-back" }, actions: ["start-service"] }
      : rules.sourceStep(record, event);
}

function baseOf({ id, to, reason }: SwitchoverRecord): { id: string; to: string; reason: string } {
  return { id, to, reason };
}

export const mutants: readonly Mutant[] = [
  {
    name: "two nodes may begin the same epoch",
    nodes: 3,
    bounds: bounds(0, 2),
    rules: {
      ...rules,
      newReign: (before, turn) => {
        const next = epoch((before.epoch > before.epochSeen ? before.epoch : before.epochSeen) + 1n);
        const reign = rules.newReign(before, turn);
        return {
          ...reign,
          epoch: next,
          epochSeen: next,
          epochs: [...reign.epochs.slice(0, -1), { ...reign.epochs.at(-1)!, epoch: next }],
        };
      },
    },
    violates: /epoch 2 is begun by/,
  },
  {
    name: "a reign that is handed over is what neither looks at",
    nodes: 2,
    bounds: bounds(0, 1, 1),
    rules: { ...drivers({ sealsWhatIsThere: false }), handoverRefusal: () => "" },
    violates: /takes over without cut 1\.2, which it was handed/,
  },
  {
    name: "what was written after the last cut is sealed",
    nodes: 2,
    bounds: bounds(0, 1, 1),
    rules: drivers({ sealsWhatIsCut: false }),
    violates: /written after the seal/,
  },
  {
    name: "a revocation is answered while the target takes over, as if it had not",
    nodes: 2,
    bounds: bounds(0, 2),
    rules: {
      ...drivers({ handoverIsExclusive: false }),
      revocationAnswer: ({ role }) => ({ accepted: role === "primary", reason: role }),
    },
    violates: /two services run/,
  },
  {
    name: "the source goes back by itself when its handover is late",
    nodes: 2,
    bounds: bounds(0, 2),
    rules: { ...rules, sourceStep: goesBackWhen("failed") },
    violates: /two services run/,
  },
  {
    name: "the source goes back by itself when it is started again",
    nodes: 2,
    bounds: bounds(1, 1),
    rules: { ...rules, sourceStep: goesBackWhen("restarted") },
    violates: /two services run/,
  },
  {
    name: "the answer to another handover counts",
    nodes: 2,
    bounds: bounds(1, 3),
    rules: {
      ...rules,
      sourceStep: (record, event) =>
        rules.sourceStep(
          record,
          event.kind === "answered" && record !== undefined ? { ...event, id: record.id } : event,
        ),
    },
    violates: /two services run/,
  },
  {
    name: "the reign ends with the target's word, and not with its history",
    nodes: 2,
    bounds: bounds(0, 1),
    rules: {
      ...rules,
      sourceStep: (record, event) =>
        record?.step === "handing" && event.kind === "answered" && event.accepted
          ? { record: undefined, actions: [] }
          : rules.sourceStep(record, event),
    },
    violates: /two services run/,
  },
  {
    name: "how far a switchover is does not survive the agent",
    nodes: 2,
    bounds: bounds(1, 1),
    rules: drivers({ recordIsDurable: false }),
    violates: /two services run/,
  },
  {
    name: "the service runs on a primary that has handed over",
    nodes: 2,
    bounds: bounds(0, 1),
    rules: { ...rules, serviceState: (facts) => rules.serviceState({ ...facts, switchover: undefined }) },
    violates: /two services run|the service runs on alpha, a replica/,
  },
  {
    name: "a service is started although nobody has answered since the machine was off",
    nodes: 2,
    bounds: bounds(1, 1),
    rules: {
      ...rules,
      serviceState: (facts) => {
        const state = rules.serviceState(facts);
        return state.kind === "out" && state.code === "UNCONFIRMED" ? { kind: "in-service" } : state;
      },
    },
    violates: /after its machine was off, and another one reigns/,
  },
  {
    name: "one answer of two is enough to confirm a reign",
    nodes: 3,
    bounds: bounds(1, 1),
    rules: {
      ...rules,
      serviceState: (facts) => {
        const answered = facts.others.filter(({ highestEpoch }) => highestEpoch !== undefined);
        return rules.serviceState(answered.length === 0 ? facts : { ...facts, others: answered });
      },
    },
    violates: /which reigns, was not asked/,
  },
  {
    name: "a primary that meets a higher epoch goes on",
    nodes: 2,
    bounds: bounds(0, 1),
    rules: {
      ...rules,
      decide: (ours, theirs, history) => {
        const decision = rules.decide(ours, theirs, history);
        return decision.kind === "fenced" ? { kind: "idle", why: "goes on" } : decision;
      },
    },
    violates: /nobody can go on|for ever/,
  },
  {
    name: "that a node is fenced does not survive its agent",
    nodes: 2,
    bounds: bounds(1, 1),
    rules: drivers({ fencedIsDurable: false }),
    violates: /which it knew to be over/,
  },
  {
    name: "a replica that is ahead is shipped to, and follows",
    nodes: 3,
    bounds: bounds(0, 1, 2),
    rules: {
      ...rules,
      decide: (ours, theirs, history) => {
        const decision = rules.decide(ours, theirs, history);
        if (decision.kind === "ahead") return { kind: "ship", base: theirs.committed };
        if (decision.kind === "fork" && ours.role === "replica")
          return { kind: "follow", adoptEpoch: true, join: false };
        return decision;
      },
    },
    violates: /it diverges and nobody knows|nobody can go on|for ever/,
  },
  {
    name: "the common cut is one too far",
    nodes: 2,
    bounds: bounds(0, 1, 1),
    rules: {
      ...rules,
      decide: (ours, theirs, history) => {
        const decision = rules.decide(ours, theirs, history);
        if (decision.kind !== "fork" || decision.common === undefined) return decision;
        const { epoch: at, seq } = decision.common;
        return { kind: "fork", common: { epoch: at, seq: (seq + 1n) as typeof seq } };
      },
    },
    violates: /which \w+ has not/,
  },
  {
    name: "a fork is given up before it is kept",
    nodes: 2,
    bounds: bounds(0, 1, 1),
    rules: drivers({ forkIsKept: false }),
    violates: /gives up what is in no fork/,
  },
  {
    name: "what was written after the last cut is in no fork",
    nodes: 2,
    bounds: bounds(0, 1, 1),
    rules: drivers({ forkIsCut: false }),
    violates: /gives up what was written after its last cut/,
  },
  {
    name: "a node rejoins while its service runs",
    nodes: 2,
    bounds: bounds(0, 1),
    rules: drivers({ rejoinStopsService: false }),
    violates: /the service runs on alpha, a replica/,
  },
  {
    name: "nobody asks a node that rejoins what it has otherwise",
    nodes: 2,
    bounds: bounds(0, 1, 1),
    rules: drivers({ primaryAsks: false }),
    violates: /calls cut .* what is none|nobody can go on/,
  },
  {
    name: "a node that rejoins may be promoted",
    nodes: 2,
    bounds: bounds(0, 2, 1),
    rules: { ...rules, promotionRefusals: (facts) => rules.promotionRefusals({ ...facts, rejoining: false }) },
    violates: /is promoted with what is no cut/,
  },
  {
    name: "what is accepted while a node rejoins counts as the cut that it stands at",
    nodes: 2,
    bounds: bounds(1, 2, 1),
    rules: drivers({ acceptedIsCut: false }),
    violates: /alpha calls cut 1\.1 what is none/,
  },
  {
    name: "whoever does not answer does not count",
    nodes: 2,
    bounds: bounds(0, 1),
    rules: {
      ...rules,
      promotionRefusals: (facts) =>
        rules.promotionRefusals({ ...facts, others: facts.others.filter(({ says }) => says !== undefined) }),
    },
    violates: /two services run/,
  },
  {
    name: "whoever is not sealed says that he is",
    nodes: 2,
    bounds: bounds(0, 1, 1),
    rules: drivers({ onlySealedSaySo: false, demotionLooksAgain: false }),
    violates: /written after the seal|the service runs on alpha/,
  },
  {
    name: "a promotion begins below an epoch of which others spoke",
    nodes: 3,
    bounds: bounds(0, 2),
    rules: drivers({ promotionHears: false }),
    violates: /begins a reign that is over/,
  },
  {
    name: "sessions outlive a change of role",
    nodes: 3,
    bounds: bounds(0, 2),
    rules: drivers({ roleEndsSessions: false }),
    violates: /two services run|nobody can go on|for ever/,
  },
];
