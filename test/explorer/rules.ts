import { promotionRefusals } from "../../replica/promote/promote.ts";
import { decide } from "../../shared/session/connect.ts";
import { commonCut, newReign, nextEpoch } from "../../shared/session/epochs.ts";
import { serviceState } from "../../shared/session/in-service.ts";
import { handoverRefusal, revocationAnswer, sourceStep, takesCuts } from "../../shared/session/switchover.ts";

/**
 * Every decision that the model takes: the program's own functions. What the program's drivers do between them is few words
 * of the model's own; what of that must not be otherwise is named here too, so that it can be mutated.
 */
export interface Rules {
  readonly decide: typeof decide;
  readonly promotionRefusals: typeof promotionRefusals;
  readonly newReign: typeof newReign;
  readonly nextEpoch: typeof nextEpoch;
  readonly commonCut: typeof commonCut;
  readonly sourceStep: typeof sourceStep;
  readonly takesCuts: typeof takesCuts;
  readonly handoverRefusal: typeof handoverRefusal;
  readonly revocationAnswer: typeof revocationAnswer;
  readonly serviceState: typeof serviceState;
  readonly drivers: Drivers;
}

export interface Drivers {
  /** That a node is fenced survives its agent. */
  readonly fencedIsDurable: boolean;
  /** The record of a switchover is durable before its actions. */
  readonly recordIsDurable: boolean;
  /** What is handed over is all that was written. */
  readonly sealsWhatIsCut: boolean;
  /** What is handed over is durable at the target. */
  readonly sealsWhatIsThere: boolean;
  /** While the target takes over, it hears nothing else. */
  readonly handoverIsExclusive: boolean;
  /** Nobody says that he is sealed who is not. */
  readonly onlySealedSaySo: boolean;
  /** Whether a former primary is still sealed is looked at again when it is demoted. */
  readonly demotionLooksAgain: boolean;
  /** A fork is kept before anything of it is given up. */
  readonly forkIsKept: boolean;
  /** What was written after the last cut is cut before a fork is kept. */
  readonly forkIsCut: boolean;
  /** The service stands still before its node rejoins. */
  readonly rejoinStopsService: boolean;
  /** What a node had that rejoined, and is promoted all the same, is a cut of its new reign. */
  readonly acceptedIsCut: boolean;
  /** A primary asks a node that rejoins what it has otherwise than its last cut. */
  readonly primaryAsks: boolean;
  /** A change of role ends every conversation. */
  readonly roleEndsSessions: boolean;
  /** What a replica said that it has is compared with what it has when it takes an epoch. */
  readonly hellosHold: boolean;
  /** A promotion begins above every epoch that any other node spoke of. */
  readonly promotionHears: boolean;
  /** A promotion without flags asks the others before it seals. */
  readonly promotionAsks: boolean;
}

export const rules: Rules = {
  decide,
  promotionRefusals,
  newReign,
  nextEpoch,
  commonCut,
  sourceStep,
  takesCuts,
  handoverRefusal,
  revocationAnswer,
  serviceState,
  drivers: {
    fencedIsDurable: true,
    recordIsDurable: true,
    sealsWhatIsCut: true,
    sealsWhatIsThere: true,
    handoverIsExclusive: true,
    onlySealedSaySo: true,
    demotionLooksAgain: true,
    forkIsKept: true,
    forkIsCut: true,
    rejoinStopsService: true,
    acceptedIsCut: true,
    primaryAsks: true,
    roleEndsSessions: true,
    hellosHold: true,
    promotionHears: true,
    promotionAsks: true,
  },
};
