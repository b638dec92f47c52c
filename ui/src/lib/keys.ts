/**
 * Keys that belong to an input method: while one is composing, Enter takes a candidate and Escape drops
 * it, and neither is the window's. Chromium and Firefox say so by `isComposing`. WebKit ends the
 * composition first and sends the key after it, with the key code 229.
 */
export function isComposing(event: Pick<KeyboardEvent, 'isComposing' | 'keyCode'>): boolean {
  return event.isComposing || event.keyCode === 229;
}

/** Keeps such keys from every handler of the window, whatever field they are pressed in. */
export function leaveKeysToInputMethods(target: Window = window): () => void {
  const keep = (event: KeyboardEvent) => {
    if (isComposing(event)) event.stopImmediatePropagation();
  };
  target.addEventListener('keydown', keep, { capture: true });
  return () => target.removeEventListener('keydown', keep, { capture: true });
}
