/** Runs one asynchronous step at a time, in the order asked for. */
export class Exclusive {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(step: () => Promise<T>): Promise<T> {
    const result = this.#last.then(step);
    // Whoever asked gets the failure; who comes next only waits for the end.
    this.#last = result.catch(() => undefined);
    return result;
  }
}
