/** The installation, and notes outside the window: mirrors `src-tauri/src/about.rs` and `desktop.rs`. */
import { invoke } from '@tauri-apps/api/core';
import { listen } from '@tauri-apps/api/event';

/** Plain text without a word of any chat. */
export const diagnostics = () => invoke<string>('diagnostics');

/** Shows a note if the person looks at another window. */
export const notify = (title: string, body: string) => invoke<boolean>('notify', { title, body });

/** The words of the system's notification while a long answer is written in the background. */
export const noticeWords = (channel: string, title: string) =>
  invoke<void>('notice_words', { channel, title });

/** Of every conversation, open or not; `ms` since it was asked for. */
export const onAnswerEnded = (handler: (ended: { ms: number; failed: boolean }) => void) =>
  listen<{ ms: number; failed: boolean }>('answer-ended', (event) => handler(event.payload));
