/**
 * One state of a whole cluster as a row of bytes: cheap to copy, to hash and to compare. Numbers are small on purpose: the
 * explorer walks few cuts and few reigns, in every order.
 */

export const roles = ["unformed", "replica", "promoting", "primary", "fenced"] as const;
export const REPLICA = 1;
export const PROMOTING = 2;
export const PRIMARY = 3;
export const FENCED = 4;

export const steps = ["in service", "stopping", "cutting", "handing", "rolling-back"] as const;
export const NO_STEP = 0;
export const STOPPING = 1;
export const CUTTING = 2;
export const HANDING = 3;
export const ROLLING_BACK = 4;

/** What one end of a session is there for. */
export const DOWN = 0;
/** The dialer waits for the answer to its hello. */
export const GREETING = 1;
export const SHIPS = 2;
export const FOLLOWS = 3;
export const IDLE = 4;
/** It has a fork, and knows a primary that has not. */
export const FORKED = 5;

export const messages = [
  "",
  "welcome",
  "cut",
  "acknowledgement",
  "handover",
  "revoke",
  "answer",
  "ping",
  "pong",
] as const;
export const WELCOME = 1;
export const CUT = 2;
export const ACKNOWLEDGEMENT = 3;
export const HANDOVER = 4;
export const REVOKE = 5;
export const ANSWER = 6;
export const PING = 7;
export const PONG = 8;

export const epochsMax = 6;
export const reignsMax = 24;
export const queueMax = 3;
const messageBytes = 3;

/** Fields of a node, durable but for those that say otherwise. */
export const Role = 0;
export const Epoch = 1;
export const Seen = 2;
/** `epochsMax` pairs of (epoch, first seq); 0 ends them. */
export const Epochs = 3;
/** The last cut: its seq, and the reign that it is of. What comes before it follows from that reign. */
export const Length = Epochs + 2 * epochsMax;
export const Top = Length + 1;
export const Flags = Top + 1;
/** The epoch whose reign was confirmed in this boot; 0 none. */
export const Confirmed = Flags + 1;
export const Step = Confirmed + 1;
/** Where a switchover goes to, plus one. */
export const Target = Step + 1;
export const SealTop = Target + 1;
export const SealLength = SealTop + 1;
/** Whose cuts it has taken in its epoch, plus one. */
export const Followed = SealLength + 1;
/** What is kept as a fork: its last cut. */
export const BundleTop = Followed + 1;
export const BundleLength = BundleTop + 1;
export const nodeBytes = BundleLength + 1;

/** Written by the service since the last cut. */
export const DIRTY = 1;
/** The service runs; it is a process of its own, which an agent's death does not end. */
export const SERVICE = 2;
/** It has something otherwise than its last cut, from when it was primary. */
export const TOUCHED = 4;
export const UP = 8;
/** A replica is newer: nothing is cut until a person decides. */
export const HALTED = 16;
/** Volatile: it takes over what it was handed; nothing else is heard meanwhile. */
export const HANDED = 32;
/** The switchover goes back as soon as that is possible. */
export const GOES_BACK = 64;
/** Of a node that is being promoted, in the same place: somebody has accepted that what it has becomes a cut. */
export const ACCEPTED = GOES_BACK;
/** Volatile: it is about to be promoted, and asks whether the others still are what they said. */
export const ASPIRING = 128;

/** Fields of what a node knows of a session with another: volatile. */
export const End = 0;
/** Up to which cut it was shipped; before that, what this node said that it has. */
export const Sent = 1;
export const Durable = 2;
/** Number of messages under way from here. */
export const Under = 3;
/** The role and the highest epoch that the other one spoke of. */
export const Said = 4;
export const Highest = 5;
/** It said that it rejoins, so it was asked what it has otherwise. */
export const Asked = 6;
/** It still is what it said when the session began. */
export const Answered = 7;
export const Queue = 8;
export const sessionBytes = Queue + queueMax * messageBytes;

/** What no node knows: who began which reign from where, and what is left to be tried. */
export const reignBytes = 3;
/** In the number of who began a reign: it was told that it is over. */
export const OVER = 0x80;
export const ghosts = {
  accepted: 0,
  ackTop: 1,
  ackLength: 2,
  faults: 3,
  operations: 4,
  doubles: 5,
  writes: 6,
} as const;
export type Ghost = keyof typeof ghosts;

export class Layout {
  readonly nodes: number;
  readonly sessions: number;
  readonly reigns: number;
  readonly ghosts: number;
  readonly bytes: number;

  constructor(nodes: number) {
    this.nodes = nodes;
    this.sessions = nodes * nodeBytes;
    this.reigns = this.sessions + nodes * nodes * sessionBytes;
    this.ghosts = this.reigns + reignsMax * reignBytes;
    this.bytes = (this.ghosts + Object.keys(ghosts).length + 3) & ~3;
  }

  node(index: number): number {
    return index * nodeBytes;
  }

  session(from: number, to: number): number {
    return this.sessions + (from * this.nodes + to) * sessionBytes;
  }

  reign(epoch: number): number {
    return this.reigns + epoch * reignBytes;
  }
}
