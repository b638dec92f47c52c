/**
 * The only door to the backend: the types of every command and event, and one thin function each.
 */
import { Channel, invoke } from '@tauri-apps/api/core';
import { listen } from '@tauri-apps/api/event';
import { errorText, said, type Said } from '../i18n/errors';

export type Mode = 'auto' | 'dssd' | 'edge' | 'device';

export interface Status {
  edge: {
    /** The box in use. */
    box: { id: number; name: string };
    state: 'off' | 'starting' | 'connecting' | 'connected' | 'offline';
    url: string | null;
    bundled: boolean;
    model: string | null;
    detail: string | null;
    /** Where pairing again is the remedy; or the app's own edge ends each time it is started. */
    /** Drafts change its text a little: its verifier is not batch-invariant. */
    approximate: boolean;
    problem: 'certificate' | 'access' | 'ended' | null;
  };
  drafter: {
    state: 'missing' | 'loading' | 'ready' | 'failed';
    model: string | null;
    detail: string | null;
  };
  mode: Mode;
  version: string;
  /** Whether a camera can read a box's code. */
  scanner: boolean;
}

/** How answers are drawn; the numbers of the named ones are the backend's. */
export type Preset =
  | { preset: 'precise' | 'balanced' | 'creative' }
  | { preset: 'custom'; temperature: number; topK: number; topP: number };

export interface Conversation {
  id: number;
  title: string;
  /** Whether the app chose the title. */
  autoTitle: boolean;
  pinned: boolean;
  /** null takes the settings'. */
  systemPrompt: string | null;
  /** null takes the settings'. */
  sampling: Preset | null;
  /** Milliseconds since the epoch, as all times here. */
  createdAt: number;
  updatedAt: number;
}

export interface Stats {
  /** Who wrote it. `both`: the edge throughout, partly with drafts; `mixed`: the device alone in a part. */
  mode: 'dssd' | 'edge' | 'device' | 'both' | 'mixed';
  tokens: number;
  rounds: number;
  drafted: number;
  accepted: number;
  ttftMs: number | null;
  tokensPerS: number | null;
  uplinkBytes: number;
  downlinkBytes: number;
  finish: 'stop' | 'length' | 'cancelled' | null;
}

export interface Message {
  id: number;
  conversationId: number;
  /** The message that it follows. */
  parent: number | null;
  /** All that follow the same one, oldest first, itself included. */
  siblings: number[];
  role: 'user' | 'assistant';
  content: string;
  status: 'streaming' | 'done' | 'stopped' | 'interrupted' | 'failed';
  createdAt: number;
  error: string | null;
  stats: Stats | null;
}

/** The round that an answer's figures were just added from. */
export interface LiveRound {
  mode: 'dssd' | 'edge' | 'device';
  gamma: number;
  rttMs: number;
  decision: string | null;
}

/** Within one answer `seq` starts at 1 and grows by 1 with every event, whatever its kind. */
export type ChatEvent = { seq: number } & (
  | { kind: 'text'; text: string }
  | { kind: 'stats'; stats: Stats; round: LiveRound }
  | { kind: 'notice'; level: 'info' | 'warning'; text: string }
  | { kind: 'done'; message: Message }
);

/** `userMessage` is null where the question was there already. */
export interface Sent {
  userMessage: Message | null;
  answerMessage: Message;
}

export interface ModelEntry {
  name: string;
  file: string;
  /** What the app uses it as; null when it does not. */
  role: 'drafter' | 'verifier' | null;
  bytes: number;
  /** null for a file that the catalogue does not know, as all that only it knows. */
  licence: string | null;
  state: 'missing' | 'partial' | 'downloading' | 'verifying' | 'ready' | 'failed';
  haveBytes: number;
  /** Why the file cannot be used. */
  detail: string | null;
}

export type ModelEvent = Pick<ModelEntry, 'state' | 'haveBytes' | 'bytes'>;

export interface Settings {
  mode: Mode;
  /** Draft length; null lets the app choose. */
  gamma: number | null;
  temperature: number;
  topK: number;
  topP: number;
  maxTokens: number;
  systemPrompt: string;
  theme: 'system' | 'light' | 'dark';
  language: 'auto' | 'en' | 'de' | 'fr';
  whenEdgeLost: 'continue' | 'stop';
}

/** What a command rejects with. */
export interface ApiError extends Said {
  code: string;
}

export function toApiError(error: unknown): ApiError {
  if (typeof error !== 'object' || error === null || !('message' in error))
    return { code: 'unknown', ...said(String(error)) };
  const code = 'code' in error ? String(error.code) : 'unknown';
  const detail = 'detail' in error && error.detail ? String(error.detail) : null;
  return { code, ...errorText(code, String(error.message), detail) };
}

export function channel<T>(onEvent: (event: T) => void): Channel<T> {
  return new Channel<T>(onEvent);
}

export const appStatus = () => invoke<Status>('app_status');
export const onStatus = (handler: (status: Status) => void) =>
  listen<Status>('status', (event) => handler(event.payload));

/** Starts the app's own edge once more, after it has kept ending. */
export const edgeRestart = () => invoke<void>('edge_restart');

export const conversationsList = () => invoke<Conversation[]>('conversations_list');
export const conversationCreate = (title: string) =>
  invoke<Conversation>('conversation_create', { title });

export const messagesList = (conversationId: number) =>
  invoke<Message[]>('messages_list', { conversationId });
export const sendMessage = (
  conversationId: number,
  text: string,
  onEvent: (event: ChatEvent) => void,
) =>
  invoke<Sent>('send_message', {
    conversationId,
    text,
    onEvent: channel(onEvent),
  });
export const generationAttach = (conversationId: number, onEvent: (event: ChatEvent) => void) =>
  invoke<{ answerMessage: Message; seq: number } | null>('generation_attach', {
    conversationId,
    onEvent: channel(onEvent),
  });
export const stopGeneration = (conversationId: number) =>
  invoke<void>('stop_generation', { conversationId });

export const modelsList = () => invoke<ModelEntry[]>('models_list');
export const modelDownload = (name: string, onEvent: (event: ModelEvent) => void) =>
  invoke<void>('model_download', { name, onEvent: channel(onEvent) });
export const modelCancel = (name: string) => invoke<void>('model_cancel', { name });

export const settingsGet = () => invoke<Settings>('settings_get');
export const settingsSet = (settings: Settings) => invoke<Settings>('settings_set', { settings });
