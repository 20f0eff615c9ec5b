/** Holds a database until it is killed, and says which process does it. */
import { createSqliteStore } from "../../../../primary/stores/sqlite/sqlite-store.ts";

const store = createSqliteStore({ path: process.argv[2]!, holdSecondsMax: 30 });
await store.start(() => {});
process.stdout.write(`${store.holderPid()}\n`);
