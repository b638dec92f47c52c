/** The model manager's part of the door to the backend; mirrors `src-tauri/src/models.rs`. */
import { Channel, invoke } from '@tauri-apps/api/core';
import type { ModelEntry, ModelEvent } from '../api';

export interface Choice {
  drafter: string;
  verifier: string;
}

export interface Model extends ModelEntry {
  family: string | null;
  /** For people: `1.5B`. */
  parameters: string;
  quantisation: string;
  /** Tokens of a context at most. */
  context: number;
  /** Whether `bytes` is known and not an estimate. */
  exact: boolean;
  /** Bytes with one conversation; an estimate. */
  memory: number;
}

export interface Problem {
  code: 'tokenizer' | 'memory' | 'file' | 'missing';
  text: string;
}

export interface Pair extends Choice {
  /** Bytes of both together, with one conversation; an estimate. */
  memory: number;
  /** Known from the files themselves and not from the catalogue. */
  checked: boolean;
  problem: Problem | null;
}

export interface Overview {
  models: Model[];
  /** The first is in use when the catalogue does not know it. */
  pairs: Pair[];
  choice: Choice;
  folder: string;
  usedBytes: number;
  freeBytes: number | null;
  availableMemory: number | null;
  importing: boolean;
}

export const modelsOverview = () => invoke<Overview>('models_overview');
export const modelsCheck = (choice: Choice) => invoke<Pair>('models_check', { choice });
/** `anyway` takes a pair that may not fit into memory. */
export const modelsChoose = (choice: Choice, anyway: boolean) =>
  invoke<void>('models_choose', { choice, anyway });
export const modelDiscard = (name: string) => invoke<void>('model_discard', { name });
export const modelDelete = (name: string) => invoke<void>('model_delete', { name });
/** Opens the system's file dialog; resolves with the model's name, or null when none was chosen. */
export const modelImport = (onEvent: (event: ModelEvent) => void) =>
  invoke<string | null>('model_import', { onEvent: new Channel<ModelEvent>(onEvent) });
export const importCancel = () => invoke<void>('model_cancel', { name: null });
