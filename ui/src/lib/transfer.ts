/** The speed of a transfer over the last few seconds. */
const WINDOW_MS = 5000;

export class Speed {
  #samples: { at: number; bytes: number }[] = [];

  /** Takes the bytes present at a time and returns bytes per second, or null while unknown. */
  add(at: number, bytes: number): number | null {
    const last = this.#samples.at(-1);
    // Fewer bytes than before: the transfer began again.
    if (last && bytes < last.bytes) this.#samples = [];
    this.#samples.push({ at, bytes });
    while (this.#samples.length > 2 && at - this.#samples[0]!.at > WINDOW_MS) this.#samples.shift();
    const first = this.#samples[0]!;
    const elapsed = at - first.at;
    return elapsed < 500 ? null : ((bytes - first.bytes) * 1000) / elapsed;
  }
}
