import { common } from '../i18n/common';

/** One short message at the bottom of the window, for what has no better place. */
class Toast {
  text = $state('');
  #timer = 0;

  show(text: string) {
    this.text = text;
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => (this.text = ''), 5000);
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
