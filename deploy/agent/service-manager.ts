import { runHook } from "../../shared/hooks.ts";
import type { Log } from "../../shared/log.ts";

/** Its program waits until the message has been taken. */
const tellMs = 30_000;

/**
 * Whoever started this agent and waits until it answers. systemd's socket is one of datagrams, which Node has not: its own
 * program speaks there.
 */
export class ServiceManager {
  readonly #socket: string | undefined;

  /** Takes its socket out of the environment: hooks have nothing to say there. */
  constructor(environment: NodeJS.ProcessEnv) {
    this.#socket = environment.NOTIFY_SOCKET;
    delete environment.NOTIFY_SOCKET;
  }

  /** That it cannot be told is loud, and stops nothing. */
  async ready(log: Log): Promise<void> {
    if (this.#socket === undefined) return;
    try {
      const command = { run: ["systemd-notify", "--ready"], timeoutMs: tellMs } as const;
      await runHook("systemd-notify", command, { NOTIFY_SOCKET: this.#socket });
    } catch (error) {
      log.error("manager.untold", { error });
    }
  }
}
