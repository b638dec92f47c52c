/** The boxes that this device knows. */
import { toApiError } from '../lib/api';
import * as api from '../lib/api/boxes';

class BoxesState {
  list = $state.raw<api.Box[]>([]);
  error = $state<string | null>(null);
  loaded = $state(false);

  async load() {
    try {
      this.list = await api.boxesList();
      this.error = null;
    } catch (reason) {
      this.error = toApiError(reason).message;
    }
    this.loaded = true;
  }
}

export const boxes = new BoxesState();
