import { common } from '../i18n/common';

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

  hide() {
    this.text = '';
    this.action = null;
  }
}

export const toast = new Toast();

export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    toast.show(common.copyRefused);
    return false;
  }
}
