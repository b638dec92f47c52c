/** Commands on conversations; the mirror of `src-tauri/src/conversations.rs` and `startup.rs`. */
import { invoke } from '@tauri-apps/api/core';
import { channel, type ChatEvent, type Conversation, type Preset, type Sent } from '../api';

/** What is left out stays as it is. */
export interface Change {
  title?: string;
  pinned?: boolean;
  systemPrompt?: string | null;
  sampling?: Preset | null;
}

export interface Hit {
  conversationId: number;
  title: string;
  /** null: in the title. */
  messageId: number | null;
  role: 'user' | 'assistant' | null;
  at: number;
  snippet: { text: string; hit: boolean }[];
}

/** In tokens. */
export interface Usage {
  used: number;
  context: number;
}

type OnEvent = (event: ChatEvent) => void;

export const startup = (again: boolean) => invoke<string | null>('startup', { again });
export const painted = () => invoke<void>('painted');

export const conversationChange = (id: number, change: Change) =>
  invoke<Conversation>('conversation_change', { id, change });
export const conversationDelete = (id: number) => invoke<void>('conversation_delete', { id });
export const conversationRestore = (id: number) =>
  invoke<Conversation>('conversation_restore', { id });
export const conversationSearch = (query: string) =>
  invoke<Hit[]>('conversation_search', { query });

/** null when the person changed their mind. */
export const conversationsExport = (id: number | null, markdown: boolean) =>
  invoke<string | null>('conversations_export', { id, markdown });
/** Rows of the new ones, and how many were here already. */
export const conversationsImport = () =>
  invoke<{ added: number[]; known: number } | null>('conversations_import');

export const messageEdit = (
  conversationId: number,
  messageId: number,
  text: string,
  onEvent: OnEvent,
) => invoke<Sent>('message_edit', { conversationId, messageId, text, onEvent: channel(onEvent) });
export const answerAgain = (conversationId: number, messageId: number, onEvent: OnEvent) =>
  invoke<Sent>('answer_again', { conversationId, messageId, onEvent: channel(onEvent) });
export const answerContinue = (conversationId: number, messageId: number, onEvent: OnEvent) =>
  invoke<Sent>('answer_continue', { conversationId, messageId, onEvent: channel(onEvent) });
export const branchChoose = (messageId: number) => invoke<void>('branch_choose', { messageId });
/** null while the models are loading. */
export const contextUsage = (conversationId: number) =>
  invoke<Usage | null>('context_usage', { conversationId });
