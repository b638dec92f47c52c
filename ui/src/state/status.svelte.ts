/** What the backend says about the edge and the drafter. */
import * as api from '../lib/api';

class StatusState {
  current = $state.raw<api.Status | null>(null);

  async init() {
    // Subscribe first: a change between the two calls must not be missed.
    let changed = false;
    await api.onStatus((status) => {
      changed = true;
      this.current = status;
    });
    const first = await api.appStatus();
    if (!changed) this.current = first;
  }

  /** True when some model can answer, be it the drafter alone. */
  get canAnswer(): boolean {
    const status = this.current;
    return status?.drafter.state === 'ready' || status?.edge.state === 'connected';
  }
}

export const status = new StatusState();
