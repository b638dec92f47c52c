/** What the model manager shows, and what it can do. */
import * as api from '../lib/api';
import * as manage from '../lib/api/models';
import { Speed } from '../lib/transfer';
import { models } from './models.svelte';

/** A look at the files while something runs: an event may get lost on its way to the window. */
const LOOK_MS = 1500;
/** An import among the transfers; no model has this name. */
export const IMPORT = '';

/** A pair's name among the errors. */
export const pairKey = ({ drafter, verifier }: manage.Choice) => `${drafter} + ${verifier}`;

export interface Transfer extends api.ModelEvent {
  /** Bytes per second; null while unknown. */
  speed: number | null;
}

class Manager {
  overview = $state.raw<manage.Overview | null>(null);
  /** By model name. */
  transfers = $state<Record<string, Transfer>>({});
  /** By model name, and by [`pairKey`]: what went wrong last. */
  errors = $state<Record<string, api.ApiError>>({});
  /** Of what concerns no single model. */
  error = $state.raw<api.ApiError | null>(null);
  /** The pair that is being changed to. */
  choosing = $state<manage.Choice | null>(null);

  find(name: string): manage.Model | undefined {
    return this.overview?.models.find((model) => model.name === name);
  }

  get running(): boolean {
    const busy = ({ state }: manage.Model) => state === 'downloading' || state === 'verifying';
    return Boolean(this.overview?.importing || this.overview?.models.some(busy));
  }

  async refresh() {
    try {
      this.overview = await manage.modelsOverview();
      this.error = null;
    } catch (error) {
      this.error = api.toApiError(error);
    }
  }

  /** Keeps the view true while it is open. */
  watch(): () => void {
    void this.refresh();
    const timer = setInterval(() => {
      if (this.running || Object.keys(this.transfers).length > 0) void this.refresh();
    }, LOOK_MS);
    return () => clearInterval(timer);
  }

  download(name: string) {
    return this.#transfer(name, (onEvent) => api.modelDownload(name, onEvent));
  }

  import() {
    return this.#transfer(IMPORT, manage.modelImport);
  }

  async pause(name: string) {
    await this.#attempt(name, () =>
      name === IMPORT ? manage.importCancel() : api.modelCancel(name),
    );
  }

  discard(name: string) {
    return this.#attempt(name, () => manage.modelDiscard(name));
  }

  remove(name: string) {
    return this.#attempt(name, () => manage.modelDelete(name));
  }

  /** Gets what is missing of a pair, then uses it: until then the old pair goes on. */
  async use(pair: manage.Pair) {
    delete this.errors[pairKey(pair)];
    for (const name of [pair.drafter, pair.verifier]) {
      if (this.find(name)?.state !== 'ready') await this.download(name);
      if (this.find(name)?.state !== 'ready') return;
    }
    const { drafter, verifier } = this.overview!.choice;
    if (drafter === pair.drafter && verifier === pair.verifier) return;
    await this.choose(pair, pair.problem?.code === 'memory');
  }

  /** Uses a pair at once. */
  async choose(choice: manage.Choice, anyway: boolean): Promise<boolean> {
    const { drafter, verifier } = choice;
    this.choosing = { drafter, verifier };
    delete this.errors[pairKey(choice)];
    try {
      await manage.modelsChoose({ drafter, verifier }, anyway);
      return true;
    } catch (error) {
      this.errors[pairKey(choice)] = api.toApiError(error);
      return false;
    } finally {
      this.choosing = null;
      await this.#look();
    }
  }

  /** What is there now, for this view and for the first screen. */
  async #look() {
    await this.refresh();
    await models.init().catch((error) => (this.error ??= api.toApiError(error)));
  }

  async #attempt(name: string, action: () => Promise<void>) {
    delete this.errors[name];
    try {
      await action();
    } catch (error) {
      this.errors[name] = api.toApiError(error);
    }
    await this.refresh();
  }

  async #transfer(
    name: string,
    start: (onEvent: (event: api.ModelEvent) => void) => Promise<unknown>,
  ) {
    if (this.transfers[name]) return;
    delete this.errors[name];
    const speed = new Speed();
    const known = this.find(name);
    // Shown at once: the first event may take a connection's time, or a person's.
    if (known) {
      const { haveBytes, bytes } = known;
      this.transfers[name] = { state: 'downloading', haveBytes, bytes, speed: null };
    }
    try {
      await start((event) => {
        this.transfers[name] = {
          ...event,
          speed: speed.add(performance.now(), event.haveBytes),
        };
      });
    } catch (error) {
      const problem = api.toApiError(error);
      if (problem.code !== 'cancelled') this.errors[name] = problem;
    } finally {
      delete this.transfers[name];
      await this.#look();
    }
  }
}

export const manager = new Manager();
