/** Which view is open. */
import { tick } from 'svelte';
import type { ViewId } from '../lib/views';

class ViewState {
  current = $state<ViewId>('chat');

  async open(id: ViewId) {
    if (this.current === id) return;
    this.current = id;
    await tick();
    // The view that had the focus is gone: a new view starts at its heading, the chat at its field.
    if (id !== 'chat') document.getElementById('view-title')?.focus();
  }
}

export const view = new ViewState();
