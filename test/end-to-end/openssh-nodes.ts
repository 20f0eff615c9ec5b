import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type OpenSshServer, startOpenSshServer } from "../shared/link/openssh-server.ts";
import { type Cluster, type ClusterOptions, startCluster } from "./harness.ts";

/**
 * A cluster in which one node is reached through the system's OpenSSH, with a private sshd on an ephemeral port, and the
 * other has no address and dials. Nobody runs yet.
 */
export async function clusterOverOpenSsh(
  options: Pick<ClusterOptions, "groupYaml" | "environment"> & {
    readonly listens: string;
    readonly dials: string;
    readonly directory: string;
  },
  cleanup: AsyncDisposableStack,
): Promise<Cluster> {
  const { listens, dials, directory } = options;
  const server: OpenSshServer = await startOpenSshServer(directory, [], cleanup);
  const cluster = cleanup.use(
    await startCluster({
      ...options,
      start: [],
      address: (node) => (node === listens ? `ssh://${server.user}@127.0.0.1:${server.port}` : undefined),
      nodeYaml: (node) => (node === listens ? `host_key: "${server.hostKey}"` : ""),
    }),
  );
  const { code, stdout, stderr } = await cluster.node(listens).cli("authorize", dials);
  if (code !== 0) throw new Error(`authorize ended with ${code}: ${stderr}`);
  // What an operator would append to the authorized_keys of the agent's user.
  await writeFile(join(directory, "authorized_keys"), stdout, { mode: 0o600 });
  return cluster;
}
