import { mkdir } from "node:fs/promises";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import { applicationData, applicationYaml, startCluster } from "./harness.ts";

describe("what following a database costs its writers", function () {
  this.timeout(300_000);

  it("is shown by the primary's status and metrics, not by the replica's", async () => {
    await using cluster = await startCluster({
      groupYaml: async (paths) => {
        using database = new DatabaseSync(`${paths.data("alpha")}/ledger.db`);
        // Read whole under its lock at each cut: a wait without a busy writer to provoke it.
        database.exec("PRAGMA journal_mode = DELETE; CREATE TABLE notes(text TEXT)");
        await mkdir(`${paths.data("alpha")}/files`);
        return applicationYaml(paths);
      },
    });
    const [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
    await bravo.until(({ cut }) => cut !== null);
    using database = new DatabaseSync(applicationData(alpha).database, { timeout: 5000 });
    database.exec("INSERT INTO notes VALUES ('first')");
    expect(await alpha.cli("wait", "--timeout", "20s")).to.include({ code: 0 });
    await alpha.until(({ stores }) => (stores.ledger?.writerWaitMs?.max ?? 0) > 0);
    const { ledger, files } = (await alpha.group())!.stores;
    expect(ledger?.counts).to.include({ opened: 1, holdersLost: 0, turnsLocked: 0 });
    expect(ledger?.writerWaitMs?.p50).to.be.at.most(ledger!.writerWaitMs!.max);
    expect(files).not.to.have.any.keys("writerWaitMs", "counts");
    const metrics = await alpha.control.metrics();
    expect(metrics).to.match(/store_writer_wait_seconds\{group="app",store="ledger",quantile="0\.99"\} 0\.\d*[1-9]/);
    expect(metrics).to.include('understudy_store_counts_total{group="app",store="ledger",count="opened"} 1');
    expect((await alpha.cli("status")).stdout).to.match(/ms p99/);
    expect((await bravo.group())?.stores.ledger).not.to.have.any.keys("writerWaitMs", "counts");
  });
});
