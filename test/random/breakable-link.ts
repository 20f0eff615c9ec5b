import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";

/** How a link is: bytes pass, pass slowly, stand still in both directions without anybody being told, or are refused. */
export type LinkState = "up" | "slow" | "silent" | "refused";

const slowBytesPerSecond = 200_000;
const slowPieceMs = 20;

/** A TCP link through this process, in place of the wire between two agents. */
export class BreakableLink implements AsyncDisposable {
  readonly #server: Server;
  readonly #targetPort: number;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #state: LinkState = "up";

  private constructor(server: Server, targetPort: number) {
    this.#server = server;
    this.#targetPort = targetPort;
  }

  static async open(port: number, targetPort: number): Promise<BreakableLink> {
    const server = createServer();
    const link = new BreakableLink(server, targetPort);
    server.on("connection", (socket) => link.#accept(socket));
    server.listen(port, "127.0.0.1");
    await once(server, "listening");
    return link;
  }

  get state(): LinkState {
    return this.#state;
  }

  set state(state: LinkState) {
    this.#state = state;
    for (const [one, other] of this.#pairs) {
      if (state === "refused") for (const socket of [one, other]) socket.resetAndDestroy();
      else if (state === "silent") for (const socket of [one, other]) socket.pause();
      else for (const socket of [one, other]) socket.resume();
    }
  }

  #accept(near: Socket): void {
    if (this.#state === "refused") {
      near.resetAndDestroy();
      return;
    }
    const far = connect(this.#targetPort, "127.0.0.1");
    const pair = [near, far] as const;
    this.#pairs.add(pair);
    this.#carry(near, far);
    this.#carry(far, near);
    for (const [socket, peer] of [pair, [far, near] as const]) {
      socket.on("error", () => peer.destroy());
      socket.on("close", () => {
        this.#pairs.delete(pair);
        peer.destroy();
      });
      if (this.#state === "silent") socket.pause();
    }
  }

  #carry(from: Socket, to: Socket): void {
    from.setNoDelay(true);
    from.on("data", (bytes) => {
      const more = to.write(bytes);
      if (more && this.#state !== "slow") return;
      from.pause();
      const goOn = (): void => {
        if (this.#state !== "silent") from.resume();
      };
      const waitMs = this.#state === "slow" ? Math.max(slowPieceMs, (1000 * bytes.length) / slowBytesPerSecond) : 0;
      if (more) setTimeout(goOn, waitMs);
      else to.once("drain", () => setTimeout(goOn, waitMs));
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.state = "refused";
    this.#server.close();
    await once(this.#server, "close");
  }
}
