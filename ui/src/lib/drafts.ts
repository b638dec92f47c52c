/**
 * Unsent text, kept per conversation so that nothing typed is lost: not when the window reloads,
 * not when sending fails, and not when the app goes down between the two.
 */

/** The conversation's id, or 'new' for the one that does not exist yet. */
export type DraftKey = number | 'new';

const draftSlot = (key: DraftKey) => `tandem.draft.${key}`;
/** Holds the text from pressing send until the backend has stored it. */
const sendingSlot = (key: DraftKey) => `tandem.sending.${key}`;

function write(slot: string, text: string) {
  if (text) localStorage.setItem(slot, text);
  else localStorage.removeItem(slot);
}

export function saveDraft(key: DraftKey, text: string) {
  write(draftSlot(key), text);
}

/** The text for the composer; a text whose sending did not end comes back in front. */
export function loadDraft(key: DraftKey): string {
  const parts = [sendingSlot(key), draftSlot(key)].map((slot) => localStorage.getItem(slot));
  const text = parts.filter(Boolean).join('\n\n');
  write(draftSlot(key), text);
  write(sendingSlot(key), '');
  return text;
}

export function beginSend(key: DraftKey, text: string) {
  write(sendingSlot(key), text);
  write(draftSlot(key), '');
}

export function sendSucceeded(key: DraftKey) {
  write(sendingSlot(key), '');
}

/** The first message gives the conversation its id; what belongs to it moves along. */
export function moveDraft(from: DraftKey, to: DraftKey) {
  for (const slot of [draftSlot, sendingSlot]) {
    write(slot(to), localStorage.getItem(slot(from)) ?? '');
    write(slot(from), '');
  }
}

export function forgetDraft(key: DraftKey) {
  write(draftSlot(key), '');
  write(sendingSlot(key), '');
}
