/** The boxes that this device knows. */
import { toApiError, type ApiError } from '../lib/api';
import * as api from '../lib/api/boxes';

class BoxesState {
  list = $state.raw<api.Box[]>([]);
  error = $state.raw<ApiError | null>(null);
  loaded = $state(false);

  async load() {
    try {
      this.list = await api.boxesList();
      this.error = null;
    } catch (reason) {
      this.error = toApiError(reason);
    }
    this.loaded = true;
  }
}

export const boxes = new BoxesState();
