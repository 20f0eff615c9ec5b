import type { StoreAdapter } from "./store-adapter.ts";

/** What `adapter` is, but for what is given; what it cannot do, this cannot either. */
export function adapterAround(adapter: StoreAdapter, own: Partial<StoreAdapter>): StoreAdapter {
  return {
    kind: adapter.kind,
    defaultRequire: adapter.defaultRequire,
    start: async (wake) => await adapter.start(wake),
    dirty: () => adapter.dirty(),
    backlogBytes: () => adapter.backlogBytes(),
    ...(adapter.costs === undefined ? {} : { costs: () => adapter.costs!() }),
    ...(adapter.users === undefined ? {} : { users: () => adapter.users!() }),
    ...(adapter.commitsCounted === undefined ? {} : { commitsCounted: () => adapter.commitsCounted!() }),
    peek: (path, offset, length) => adapter.peek(path, offset, length),
    enter: async (seen, request, signal) => await adapter.enter(seen, request, signal),
    get health() {
      return adapter.health;
    },
    close: async () => await adapter.close(),
    ...(adapter.end === undefined ? {} : { end: async () => await adapter.end!() }),
    ...own,
  };
}
