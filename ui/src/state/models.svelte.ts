/** The models the app needs, and getting them. */
import * as api from '../lib/api';
import { Speed } from '../lib/transfer';

const isRunning = ({ state }: api.ModelEntry) => state === 'downloading' || state === 'verifying';

class ModelsState {
  entries = $state<api.ModelEntry[]>([]);
  /** Bytes per second by model name; absent while unknown. */
  speeds = $state<Record<string, number | null>>({});
  busy = $state(false);
  error = $state.raw<api.ApiError | null>(null);
  #cancelled = false;

  get complete(): boolean {
    return this.entries.every((entry) => entry.state === 'ready');
  }

  get begun(): boolean {
    return this.entries.some((entry) => entry.state !== 'ready' && entry.haveBytes > 0);
  }

  async init() {
    this.entries = await api.modelsList();
    // A download goes on while the window reloads; asking again joins it.
    if (this.entries.some(isRunning)) void this.download();
  }

  /** Gets what is not there yet, one model after the other. */
  async download() {
    if (this.busy) return;
    this.busy = true;
    this.error = null;
    this.#cancelled = false;
    try {
      for (const entry of this.entries.filter((entry) => entry.state !== 'ready')) {
        if (this.#cancelled) break;
        await this.#downloadOne(entry);
      }
    } catch (error) {
      if (!this.#cancelled) this.error = api.toApiError(error);
    } finally {
      this.speeds = {};
      this.entries = await api.modelsList().catch(() => this.entries);
      this.busy = false;
    }
  }

  async cancel() {
    this.#cancelled = true;
    const running = this.entries.find(isRunning);
    try {
      if (running) await api.modelCancel(running.name);
    } catch (error) {
      this.error = api.toApiError(error);
    }
  }

  async #downloadOne(entry: api.ModelEntry) {
    const speed = new Speed();
    // Shown at once: the first event may take a connection's time.
    entry.state = 'downloading';
    entry.detail = null;
    await api.modelDownload(entry.name, (event) => {
      Object.assign(entry, event);
      this.speeds[entry.name] = speed.add(performance.now(), event.haveBytes);
    });
    entry.state = 'ready';
  }
}

export const models = new ModelsState();
