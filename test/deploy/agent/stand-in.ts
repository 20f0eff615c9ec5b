/** Some of what a `T` has, down to whatever a test needs; what is there is of the real type. */
export type Part<T> = T extends ((...words: never[]) => unknown) | string | bigint
  ? T
  : T extends ReadonlyMap<infer K, infer V>
    ? ReadonlyMap<K, Part<V>>
    : T extends object
      ? { readonly [K in keyof T]?: Part<T[K]> }
      : T;

/**
 * Stands for a `T` that would need half of an agent around it. The compiler holds what is given against the real one, and who
 * asks for anything else is told so, where `undefined` would lead to something by chance.
 */
export function standIn<T extends object>(what: string, part: Part<T>): T {
  return new Proxy(part, {
    get(from, name) {
      // Whoever hands it on by a promise asks whether it is one.
      if (!(name in from) && name !== "then") throw new Error(`nobody said what ${what}.${String(name)} is here`);
      return Reflect.get(from, name);
    },
  }) as unknown as T;
}
