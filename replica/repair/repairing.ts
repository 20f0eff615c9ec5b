import { isSystemError } from "../../shared/errors.ts";
import type { ObjectId } from "../../shared/words.ts";
import { restamp, type StrangersChange, type SweepSlice, sweep } from "../history/sweep.ts";
import type { ReplicaContext } from "../replica-context.ts";
import { anyDamage, type Damage, noteDamage, settleSuspect, unexamined } from "./damage.ts";
import { type Excluded, ExtraNames, type PutAside } from "./extra-names.ts";
import { mend } from "./mend.ts";
import { Backoff, RepairPace } from "./repair-pace.ts";

const sweepObjectsMax = 500;

/** What a name says when it is not, or no more, what it was a moment ago: somebody else is at work in the copy. */
export const strangersCodes = ["EEXIST", "ENOENT", "ENOTDIR", "ENOTEMPTY", "EISDIR", "ELOOP", "EINVAL"] as const;

/** And what keeps us from it for now: a mode that shuts us out, a disk that is full. */
const laterCodes = ["EACCES", "EPERM", "ENOSPC", "EDQUOT"] as const;

/** Told as it happens, for the log. */
export interface RepairEvents {
  /** The copy became suspect, or is it no more. */
  suspectChanged(): void;
  damaged(found: readonly StrangersChange[]): void;
  mended(damage: Damage): void;
  /** Recovery points lack it from here on. */
  lost(damage: Damage): void;
  putAside(found: readonly PutAside[]): void;
  /** Somebody damages it again and again. */
  again(damage: Damage, attempt: number): void;
}

/** The attempt from which on it is worth a line in the log. */
const loudAttempt = 3;

/**
 * Finds what somebody else did to the copy, and mends it from what is here. Its generators are run in small steps by the
 * worker, which has no transaction open at any of them.
 */
export class Repairing {
  readonly #context: ReplicaContext;
  readonly #events: RepairEvents;
  readonly #extra: ExtraNames;
  readonly #pace = new RepairPace();
  /** Of asking the primary: a cut with all that is damaged may not fit here. */
  readonly asking = new Backoff(10_000, 3600_000);
  /** Of writing a batch again that a stranger broke. */
  readonly redoing = new Backoff(1000, 60_000);

  constructor(context: ReplicaContext, excluded: Excluded, events: RepairEvents) {
    this.#context = context;
    this.#events = events;
    this.#extra = new ExtraNames(context, excluded);
  }

  /** Looks at every object's file and at every directory. What a batch is being written into is left to the next sweep. */
  *sweep(nowMs: () => number): Generator<void> {
    const { catalog } = this.#context;
    const whole = catalog.standing;
    for (let after: ObjectId | 0 | undefined = 0; after !== undefined; ) {
      const slice: SweepSlice | undefined = this.#hurried(() => sweep(this.#context, after ?? 0, sweepObjectsMax));
      if (slice === undefined) return;
      this.note(slice.changes);
      restamp(this.#context, slice.restamps);
      after = slice.next;
      yield;
    }
    for (const found of this.#extra.putAside()) {
      if (found.length > 0) this.#events.putAside(found);
      yield;
    }
    this.#pace.forgetOld(nowMs());
    // Suspect for a reason that nothing in the copy bears out: an older program's, or one that was put right.
    const { suspect, applying } = catalog.standing;
    if (suspect !== "" && whole.suspect === suspect && applying === undefined && !anyDamage(catalog)) {
      catalog.transaction("suspect", () => settleSuspect(catalog));
      this.#events.suspectChanged();
    }
  }

  /** Damage that was found here, or elsewhere, as by `verify`. */
  note(found: readonly StrangersChange[]): void {
    const homes = [...this.#context.homes.values()];
    const damage = found.flatMap(({ store, object, path, what }): Damage[] => {
      const home = homes.find(({ placement }) => placement.name === store);
      return home === undefined ? [] : [{ object, store: home.number, path, what }];
    });
    if (noteDamage(this.#context, damage) === 0) return;
    this.#events.damaged(found);
    this.#events.suspectChanged();
  }

  /** Mends what can be mended from here; what only the primary has is asked for from then on. */
  *mend(nowMs: () => number): Generator<void> {
    for (const damage of unexamined(this.#context)) {
      const { object } = damage;
      if (!this.#pace.mayBegin(object, nowMs())) continue;
      const attempt = this.#pace.begin(object, nowMs());
      if (attempt >= loudAttempt) this.#events.again(damage, attempt);
      try {
        const outcome = yield* mend(this.#context, damage);
        if (outcome === "mended") this.#events.mended(damage);
        if (outcome === "lost") this.#events.lost(damage);
        if (outcome !== "again") this.#events.suspectChanged();
      } catch (error) {
        this.#insistOnStranger(error);
      }
      yield;
    }
  }

  /** Undefined when a stranger is quicker than we are, or has shut us out: when it is its turn again. */
  #hurried<T>(look: () => T): T | undefined {
    try {
      return look();
    } catch (error) {
      this.#insistOnStranger(error);
      return undefined;
    }
  }

  #insistOnStranger(error: unknown): void {
    if (!isSystemError(error, ...strangersCodes, ...laterCodes)) throw error;
    for (const home of this.#context.homes.values()) home.tree.forget();
  }
}
