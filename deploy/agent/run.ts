import { mkdir } from "node:fs/promises";
import { groupsOf, nodeNamed } from "../../shared/config/config.ts";
import { loadConfig } from "../../shared/config/load.ts";
import { lockDirectory } from "../../shared/durable/directory-lock.ts";
import { UnderstudyError } from "../../shared/errors.ts";
import { ensureIdentity } from "../../shared/link/identity.ts";
import { createProcessLog, logLevelFrom } from "../../shared/log.ts";
import { createMetrics } from "../../shared/metrics.ts";
import { softwareVersion } from "../cli/version.ts";
import { RoleListener, type RoleReport } from "../control/role-listener.ts";
import { serveControl } from "../control/server.ts";
import { controlSocketPath, hooksDirectory, identityDirectory } from "../control/state-layout.ts";
import { readBootId } from "./boot-id.ts";
import { tuneCollector } from "./collector.ts";
import { AgentControl } from "./control-handler.ts";
import { EventLog } from "./event-log.ts";
import { Forks } from "./forks.ts";
import { GroupAgent } from "./group.ts";
import { HookLedger } from "./hook-ledger.ts";
import { runLinks } from "./links.ts";
import { roleReport } from "./role-report.ts";
import { ServiceManager } from "./service-manager.ts";

/** The state directory belongs to another node than the one that was asked for. */
class OtherIdentity extends UnderstudyError {
  readonly code = "OTHER_IDENTITY";
  readonly remedy = "stop";
  readonly state = "Nothing was started.";
  readonly hint = "Put the key that `understudy init` prints into the configuration of every node.";
}

/**
 * The agent: everything of one node, in the foreground, until the signal. Resolves after an orderly end. Whatever
 * leaves a state that nobody understands ends the process instead: the next start recovers.
 */
export async function runAgent(
  options: { configPath: string; node: string; stateDirectory: string },
  signal: AbortSignal,
): Promise<void> {
  tuneCollector();
  const manager = new ServiceManager(process.env);
  const config = await loadConfig(options.configPath);
  const node = nodeNamed(config, options.node);
  await mkdir(options.stateDirectory, { recursive: true, mode: 0o700 });
  await using closing = new AsyncDisposableStack();
  closing.use(await lockDirectory(options.stateDirectory));
  const identity = await ensureIdentity(identityDirectory(options.stateDirectory));
  if (!node.keys.includes(identity.publicKey)) {
    throw new OtherIdentity(
      `the key in ${options.stateDirectory} is not one of node ${node.name} in ${config.fileName}`,
    );
  }
  const log = createProcessLog(logLevelFrom(process.env)).with({ node: node.name });
  const events = await EventLog.open(options.stateDirectory, node.name);
  closing.use(events);
  const hooks = await HookLedger.open(hooksDirectory(options.stateDirectory), log);
  const bootId = await readBootId();
  const metrics = createMetrics();
  closing.defer(() => metrics[Symbol.dispose]());
  const software = softwareVersion;
  const stopping = new AbortController();
  const onFatal = (error: unknown): void => {
    log.error("agent.failed", { error });
    // Not an orderly end on purpose: no more writes from a state that nobody understands.
    process.exit(1);
  };
  const forks = new Forks(options.stateDirectory, log, events);
  const groups = new Map<string, GroupAgent>();
  for (const group of groupsOf(config, node.name)) {
    groups.set(
      group.name,
      new GroupAgent({
        config,
        group,
        node: node.name,
        stateDirectory: options.stateDirectory,
        software,
        log,
        events,
        forks,
        hooks,
        bootId,
        metrics,
        onFatal,
      }),
    );
  }
  closing.defer(async () => {
    stopping.abort(new Error("the agent stops"));
    for (const group of groups.values()) await group.stop();
  });
  for (const group of groups.values()) await group.start();
  closing.use(
    await serveControl(
      controlSocketPath(options.stateDirectory),
      new AgentControl(node.name, software, groups, forks, metrics),
      log,
    ),
  );
  if (node.roleListener !== undefined) {
    const report = (name: string): RoleReport | undefined => {
      const group = groups.get(name);
      return group === undefined ? undefined : roleReport(group);
    };
    closing.use(new RoleListener(node.roleListener, { report, metrics: async () => await metrics.text() }, log));
  }
  for (const group of groups.values()) group.service.serve();
  manager.ready(log).catch(onFatal);
  log.info("agent.started", { software, groups: [...groups.keys()].join(",") });
  const either = AbortSignal.any([signal, stopping.signal]);
  await runLinks({ config, node: node.name, identity, stateDirectory: options.stateDirectory, groups, log }, either);
  log.info("agent.stopped", {});
}
