import { open } from "node:fs/promises";
import { join } from "node:path";
import type { CutRef } from "../../deploy/control/json-names.ts";
import type { ClusterNode } from "../end-to-end/harness.ts";

/** A cut that a node took, as its log has it. Wall clock, ms. */
export interface Taken extends CutRef {
  readonly node: string;
  /** What was committed this long before it is in it for sure, whatever the log was late by; what began after `at` is not. */
  readonly begunAt: number;
  readonly at: number;
}

/** A reign that a node began, from a cut that it said; undefined: from all that it had itself. */
export interface Begun {
  readonly epoch: number;
  readonly node: string;
  readonly from: CutRef | undefined;
  /** A person has promoted it. */
  readonly promoted: boolean;
}

/** When a node and another one have told each other what they are, or a node ended its reign because of that. */
export interface Contact {
  readonly node: string;
  readonly peer: string;
  readonly at: number;
}

/** So much may the log of a cut be late: the machine is shared. */
const lateMsMax = 300;

/** What one node has written down: read on from where it was read last. */
export class NodeRecord {
  readonly taken: Taken[] = [];
  readonly begun: Begun[] = [];
  /** In which it took a cut, or began a reign. */
  readonly epochs = new Set<number>();
  /** Of two primaries. */
  readonly contacts: Contact[] = [];
  readonly fencedAt: number[] = [];
  readonly node: string;
  readonly #log: GrowingFile;
  readonly #events: GrowingFile;

  constructor(node: ClusterNode) {
    this.node = node.name;
    this.#log = new GrowingFile(node.logPath);
    this.#events = new GrowingFile(join(node.stateDirectory, "events.jsonl"));
  }

  async readOn(): Promise<void> {
    for (const line of await this.#log.more(/"event":"(cut\.taken|session\.opened|primary\.fenced)"/))
      this.#logged(line);
    for (const line of await this.#events.more(
      /"event":"(group\.formed|replica\.promoted|primary\.reinstated|primary\.demoted|service\.entered)"/,
    ))
      this.#happened(line);
  }

  #logged(line: Record<string, unknown>): void {
    const { node } = this;
    const at = Date.parse(String(line.time));
    const epoch = Number(line.epoch);
    switch (line.event) {
      case "cut.taken":
        this.epochs.add(epoch);
        this.taken.push({ node, epoch, seq: Number(line.seq), at, begunAt: at - Number(line.ms) - lateMsMax });
        return;
      case "session.opened":
        if (line.role === "primary" && line.theirRole === "primary")
          this.contacts.push({ node, peer: String(line.peer), at });
        return;
      default:
        this.fencedAt.push(at);
    }
  }

  #happened(line: Record<string, unknown>): void {
    const { node } = this;
    if (line.event === "primary.demoted") {
      // Its last cut was for nobody, and is not in the log.
      const own = cutIn(line.own);
      if (own !== undefined) this.epochs.add(own.epoch);
      return;
    }
    // After a switchover that it gave up a primary goes on in a reign of its own.
    if (line.event === "service.entered" && line.reason !== "rollback") return;
    const epoch = Number(line.epoch);
    if (this.epochs.has(epoch) && line.event === "service.entered") return;
    this.epochs.add(epoch);
    const from = line.event === "replica.promoted" ? cutIn(line.cut) : undefined;
    const promoted = line.event === "primary.reinstated" || line.reason === "promote";
    this.begun.push({ epoch, node, from, promoted });
  }
}

function cutIn(text: unknown): CutRef | undefined {
  const [epoch, seq] = String(text).split(".").map(Number);
  return epoch === undefined || seq === undefined || Number.isNaN(seq) ? undefined : { epoch, seq };
}

/** Whole lines of JSON that were appended since it was read last. */
class GrowingFile {
  readonly #path: string;
  #position = 0;

  constructor(path: string) {
    this.#path = path;
  }

  async more(wanted: RegExp): Promise<Record<string, unknown>[]> {
    const bytes = await this.#moreBytes();
    const end = bytes.lastIndexOf(0x0a) + 1;
    this.#position += end;
    const lines = bytes.subarray(0, end).toString("utf8").split("\n");
    // A killed agent may leave half a line, and Node itself does not speak JSON.
    return lines
      .filter((line) => line.startsWith("{") && line.endsWith("}") && wanted.test(line))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  async #moreBytes(): Promise<Buffer> {
    await using file = await open(this.#path);
    const { size } = await file.stat();
    const buffer = Buffer.alloc(Math.max(0, size - this.#position));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, this.#position);
    return buffer.subarray(0, bytesRead);
  }
}
