/** The benchmark belongs to the app: it goes on while another view is open, or the window reloads. */
import { toApiError, type ApiError } from '../lib/api';
import * as api from '../lib/api/metrics';

const LOOK_MS = 700;

class BenchmarkState {
  running = $state(false);
  progress = $state.raw<api.Progress | null>(null);
  problem = $state.raw<ApiError | null>(null);
  /** How many have ended, well or not, since the window was opened. */
  ended = $state(0);
  #over: (() => void)[] = [];

  /** One may be running already. */
  async init() {
    this.#take(await api.benchmarkState());
  }

  /** Resolves at its end. */
  async start(quick: boolean) {
    if (this.running) return;
    this.problem = null;
    this.#run();
    try {
      await api.benchmarkStart(quick);
      this.#end(null);
    } catch (error) {
      const refused = toApiError(error);
      // Another one runs: it is shown, and can be cancelled.
      if (refused.code === 'benchmark_running') return;
      this.#end(refused);
    }
  }

  /** Resolves when it has ended. */
  async cancel() {
    if (!this.running) return;
    const over = new Promise<void>((done) => this.#over.push(done));
    await api.benchmarkCancel();
    await over;
  }

  #run() {
    if (this.running) return;
    this.running = true;
    this.progress = null;
    const timer = setInterval(() => {
      if (!this.running) clearInterval(timer);
      // Told next time, if not now.
      else
        api.benchmarkState().then(
          (state) => this.#take(state),
          () => {},
        );
    }, LOOK_MS);
  }

  #take({ running, progress, problem }: api.BenchmarkState) {
    if (running) {
      this.#run();
      this.progress = progress;
    } else if (this.running) {
      this.#end(problem && toApiError(problem));
    }
  }

  #end(problem: ApiError | null) {
    if (!this.running) return;
    this.running = false;
    this.progress = null;
    this.problem = problem;
    this.ended += 1;
    this.#over.splice(0).forEach((done) => done());
  }
}

export const benchmark = new BenchmarkState();
