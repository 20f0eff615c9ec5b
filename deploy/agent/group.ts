import type { GroupConfig, StoreOnNode } from "../../shared/config/config.ts";
import type { Role } from "../../shared/words.ts";
import type { PrimaryStanding } from "../workers/primary-calls.ts";
import type { ReplicaStanding } from "../workers/replica-calls.ts";
import { GroupHa } from "./group-ha.ts";
import { GroupHistory } from "./group-history.ts";
import { GroupPausing } from "./group-pausing.ts";
import { GroupPeers } from "./group-peers.ts";
import { GroupPromotion } from "./group-promotion.ts";
import { GroupRejoin } from "./group-rejoin.ts";
import { GroupRoles } from "./group-roles.ts";
import { GroupService } from "./group-service.ts";
import { GroupSwitchover } from "./group-switchover.ts";
import { type GroupOptions, GroupWorkers } from "./group-workers.ts";
import type { Reign } from "./reign.ts";
import { type RoleFacts, RoleFiles } from "./role-files.ts";
import type { Session } from "./session.ts";

/** One group on this node, in whatever role: its workers, whom it talks to, what it may become, what it can look back on. */
export class GroupAgent {
  readonly workers: GroupWorkers;
  readonly peers: GroupPeers;
  readonly service: GroupService;
  readonly pausing: GroupPausing;
  readonly roles: GroupRoles;
  readonly promotion: GroupPromotion;
  readonly history: GroupHistory;
  readonly ha: GroupHa;
  readonly switchover: GroupSwitchover;
  readonly rejoin: GroupRejoin;
  readonly #files: RoleFiles;

  constructor(options: GroupOptions) {
    this.workers = new GroupWorkers(options);
    this.peers = new GroupPeers(this.workers);
    this.#files = new RoleFiles(this.workers.config.name, this.workers.stores, () => this.#facts(), this.workers.log);
    this.pausing = new GroupPausing(this.workers);
    this.service = new GroupService(this.workers, this.peers);
    this.history = new GroupHistory(this.workers);
    this.promotion = new GroupPromotion(this.workers, this.peers, this.history, this.service);
    this.switchover = new GroupSwitchover(this.workers, this.peers, this.promotion, this.service);
    this.rejoin = new GroupRejoin(this.workers, this.peers);
    this.promotion.serviceQuiesced = async () => await this.rejoin.quiesce();
    this.roles = new GroupRoles(this.workers, this.peers, this.promotion, this.service, this.switchover, this.rejoin);
    this.ha = new GroupHa(this.workers, this.peers, this.promotion, this.roles, this.service);
  }

  #facts(): RoleFacts {
    const { role, standing, workers } = this;
    return {
      node: this.node,
      role,
      inService: this.service.state.kind === "in-service",
      epoch: standing?.epoch ?? 0n,
      followed: workers.following?.session.peer ?? workers.replicaStanding?.followed,
      lagSeconds: this.peers.loss().seconds,
    };
  }

  get config(): GroupConfig {
    return this.workers.config;
  }

  get node(): string {
    return this.workers.options.node;
  }

  get stores(): readonly StoreOnNode[] {
    return this.workers.stores;
  }

  get role(): Role {
    return this.workers.role;
  }

  get standing(): PrimaryStanding | ReplicaStanding | undefined {
    return this.workers.standing;
  }

  get reign(): Reign | undefined {
    return this.workers.primary?.reign;
  }

  async start(): Promise<void> {
    await this.workers.formerEpoch.load(await this.#toldFormerly());
    await this.roles.start();
    this.pausing.say();
    this.#files.start();
  }

  async #toldFormerly(): Promise<bigint> {
    try {
      return await this.#files.formerEpoch();
    } catch (error) {
      this.workers.log.warn("role_files.failed", { error });
      return 0n;
    }
  }

  async converse(session: Session): Promise<void> {
    await this.peers.converse(session, this.roles);
  }

  async stop(): Promise<void> {
    this.workers.stopping();
    this.service.stop();
    this.#files.stop();
    this.switchover.stop();
    this.rejoin.stop();
    this.peers.closeSessions();
    await this.workers.stop();
  }
}
