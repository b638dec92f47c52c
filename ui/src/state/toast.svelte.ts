import { toApiError } from '../lib/api';

/** One short message at the bottom of the window, for what has no better place. */
export interface ToastAction {
  label: string;
  do: () => void;
}

class Toast {
  text = $state('');
  action = $state.raw<ToastAction | null>(null);
  #timer = 0;

  show(text: string, action: ToastAction | null = null) {
    this.text = text;
    this.action = action;
    clearTimeout(this.#timer);
    // Something to press takes longer to reach than something to read.
    this.#timer = window.setTimeout(() => this.hide(), action ? 12_000 : 5000);
  }

  /** What went wrong: longer to be seen, as it is not expected. */
  fail(error: unknown) {
    this.show(toApiError(error).message);
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => this.hide(), 12_000);
  }

  hide() {
    this.text = '';
    this.action = null;
  }
}

export const toast = new Toast();

class ByHand {
  /** A text that the system did not take; it is shown, selected. */
  text = $state<string | null>(null);
}

export const byHand = new ByHand();

/**
 * Copies; says whether it worked. The system allows it within a person's gesture alone, so the text must
 * be there by then: an `await` before this may use the gesture up.
 */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    byHand.text = text;
    return false;
  }
}
