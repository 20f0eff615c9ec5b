import type { SQLInputValue } from "node:sqlite";
import type { Catalog } from "../../shared/catalog/catalog.ts";
import { forgottenUpTo, keepForgottenUpTo } from "../../shared/catalog/notes.ts";
import type { ObjectId, Seq } from "../../shared/words.ts";
import type { PrimaryContext } from "../primary-context.ts";

const pageRows = 500;

/**
 * A primary keeps one version of everything: what cut `birth` replaced goes, in the cut's own transaction. Marks of what
 * is gone stay until no replica can be further back than `mayForgetUpTo`.
 */
export function pruneSuperseded({ catalog }: PrimaryContext, birth: Seq, mayForgetUpTo: Seq): void {
  if (birth > 1n) {
    for (const row of each(catalog, "SELECT store, dir, name FROM path_versions WHERE birth = ?", birth)) {
      catalog.run(
        "DELETE FROM path_versions WHERE store=? AND dir=? AND name=? AND birth<?",
        Number(row.store),
        String(row.dir),
        String(row.name),
        birth,
      );
    }
    for (const row of each(catalog, "SELECT object, type FROM object_versions WHERE birth = ?", birth)) {
      const object = Number(row.object) as ObjectId;
      catalog.run("DELETE FROM object_versions WHERE object=? AND birth<?", object, birth);
      if (row.type === 0) {
        catalog.run("DELETE FROM run_versions WHERE object=?", object);
        catalog.run("DELETE FROM seen WHERE object=?", object);
      }
    }
    for (const row of each(catalog, "SELECT object, run FROM run_versions WHERE birth = ?", birth)) {
      catalog.run(
        "DELETE FROM run_versions WHERE object=? AND run=? AND birth<?",
        Number(row.object),
        Number(row.run),
        birth,
      );
    }
  } else {
    // It came and went within the first cut: nobody was ever told of it.
    for (const { object } of catalog.all("SELECT object FROM object_versions WHERE birth = ? AND type = 0", birth)) {
      for (const table of ["object_versions", "run_versions", "seen"])
        catalog.run(`DELETE FROM ${table} WHERE object = ?`, Number(object));
    }
  }
  const last = Number(forgottenUpTo(catalog));
  if (mayForgetUpTo > BigInt(last)) {
    forgetGone(catalog, last, mayForgetUpTo);
    // What lies further back was looked at before: after a promotion it is the points of a former replica.
    catalog.run("DELETE FROM cuts WHERE seq >= ? AND seq < ? AND point = 0", last, mayForgetUpTo);
    keepForgottenUpTo(catalog, mayForgetUpTo);
  }
}

/**
 * Of what was gone by a cut in (after, upTo] nothing is left. A replica that was promoted has what was there before as well,
 * for its recovery points: without the mark that it is gone it would be there again.
 */
function forgetGone(catalog: Catalog, after: number, upTo: Seq): void {
  // By the index of what is at no object: by birth, all that the first cut brought would be looked at once more.
  let path: SQLInputValue[] = [0, "", "", 0];
  for (;;) {
    const gone = catalog.all(
      `SELECT store, dir, name, birth FROM path_versions WHERE object IS NULL AND (store, dir, name, birth) > (?,?,?,?)
         AND +birth > ? AND +birth <= ? ORDER BY store, dir, name, birth LIMIT ${pageRows}`,
      ...path,
      after,
      upTo,
    );
    for (const row of gone) {
      path = [Number(row.store), String(row.dir), String(row.name), Number(row.birth)];
      catalog.run("DELETE FROM path_versions WHERE store=? AND dir=? AND name=? AND birth<=?", ...path);
    }
    if (gone.length < pageRows) break;
  }
  let death: SQLInputValue[] = [Math.max(after, 1), Number.MAX_SAFE_INTEGER];
  for (;;) {
    const dead = catalog.all(
      `SELECT birth, object FROM object_versions WHERE (birth, object) > (?,?) AND birth <= ? AND type = 0
         ORDER BY birth, object LIMIT ${pageRows}`,
      ...death,
      upTo,
    );
    for (const row of dead) {
      death = [Number(row.birth), Number(row.object)];
      catalog.run("DELETE FROM object_versions WHERE birth<=? AND object=?", ...death);
      catalog.run("DELETE FROM run_versions WHERE birth<=? AND object=?", ...death);
    }
    if (dead.length < pageRows) break;
  }
}

/** One by one: a cut may have as many as the store. Rows of other births may be deleted meanwhile. */
function each(catalog: Catalog, sql: string, birth: Seq): IterableIterator<Record<string, unknown>> {
  return catalog.statement(sql).iterate(birth) as IterableIterator<Record<string, unknown>>;
}

/**
 * Forgets a cut that was not finished, after a failure or a crash. What was seen of its objects goes too: else the next
 * cut would take for unchanged what no manifest has.
 */
export function dropTaking({ catalog, manifest }: PrimaryContext, birth: Seq): void {
  catalog.transaction("drop", () => {
    catalog.run("DELETE FROM seen WHERE object IN (SELECT object FROM object_versions WHERE birth = ?)", birth);
    catalog.run("DELETE FROM seen WHERE object IN (SELECT object FROM run_versions WHERE birth = ?)", birth);
    catalog.run("DELETE FROM seen WHERE object IN (SELECT object FROM path_versions WHERE birth = ?)", birth);
    manifest.dropBirth(birth);
  });
}
