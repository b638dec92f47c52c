/** Figures, the split of an answer, exports and the benchmark; mirror of src-tauri/src/metrics.rs. */
import { invoke } from '@tauri-apps/api/core';

export type Mode = 'dssd' | 'edge' | 'device' | 'both' | 'mixed';
export type Origin = 'accepted' | 'residual' | 'token' | 'bonus' | 'edge' | 'device';

/** What is absent does not matter. `edge` is a box's name, `local` for one on this machine. */
export interface Filter {
  conversation: number | null;
  edge: string | null;
  mode: Mode | null;
  gamma: number | null;
  /** Milliseconds since the epoch, as all times here; `until` itself is not meant any more. */
  from: number | null;
  until: number | null;
}

export interface Trips {
  mode: Mode;
  rounds: number;
  p50: number;
  p90: number;
  p95: number;
  p99: number;
}

export interface RoundTimes {
  mode: Mode;
  rounds: number;
  draftMs: number;
  linkMs: number;
  queueMs: number;
  promptMs: number;
  verifyMs: number;
  residualMs: number;
}

export interface Compared {
  mode: Mode;
  /** null: it varied within the answers. */
  gamma: number | null;
  answers: number;
  tokensPerS: number | null;
  ttftMs: number | null;
  rounds: number;
  tokens: number;
  tested: number;
  accepted: number;
  bytes: number;
}

export interface Metrics {
  answers: number;
  rounds: number;
  widthMs: number;
  speed: { at: number; answers: number; tokensPerS: number | null; ttftMs: number | null }[];
  acceptance: { at: number; tested: number; accepted: number }[];
  positions: { position: number; tested: number; accepted: number }[];
  tokens: { tokens: number; rounds: number }[];
  time: RoundTimes[];
  trips: Trips[];
  bytes: {
    rounds: number;
    uplink: number;
    downlink: number;
    dsdUplink: number;
    dsdDownlink: number;
    dssdUplink: number;
    dssdDownlink: number;
  };
  compared: Compared[];
}

export interface Choices {
  edges: string[];
  first: number | null;
  last: number | null;
}

export interface SplitRound {
  round: number;
  mode: Mode;
  gamma: number;
  drafted: number;
  accepted: number;
  ignored: number;
  alternatives: number;
  followed: number;
  outcome: 'bonus' | 'token' | 'sparse' | 'sampled' | 'full' | 'continue';
  draftMs: number;
  rttMs: number;
  queueMs: number;
  verifyMs: number;
  residualMs: number;
  uplinkBytes: number;
  downlinkBytes: number;
  decision: string | null;
  tokens: { id: number; text: string; origin: Origin }[];
}

export interface Split {
  rounds: SplitRound[];
  edge: string;
  verifier: string;
  drafter: string;
  /** Milliseconds a token took, split; null without speculative rounds after the first. */
  splitMs: number | null;
  /** The same when this box streams; null when that was never measured. */
  streamMs: number | null;
  streamRounds: number;
}

/** One way of answering, measured over all prompts. */
export interface Way {
  mode: Mode;
  gamma: number | null;
  tokensPerS: number | null;
  ttftMs: number | null;
  acceptance: number | null;
  tokensPerRound: number;
  bytesPerToken: number;
  /** Whether the text was the edge's own; null where that is not to be expected. */
  same: boolean | null;
}

export interface Benchmark {
  id: number;
  startedAt: number;
  pair: { edge: string; verifier: string; drafter: string; vocab: number };
  version: string;
  maxTokens: number;
  runs: { prompt: string }[];
  ways: Way[];
  /** A place in `ways`. */
  recommended: number | null;
}

export interface Progress {
  done: number;
  total: number;
  mode: Mode;
  gamma: number | null;
  prompt: string;
}

export interface BenchmarkState {
  running: boolean;
  progress: Progress | null;
  problem: { code: string; message: string; detail: string | null } | null;
}

export const answerSplit = (messageId: number) => invoke<Split>('answer_split', { messageId });
export const metricsChoices = () => invoke<Choices>('metrics_choices');
export const metricsRead = (filter: Filter) => invoke<Metrics>('metrics_read', { filter });
/** These two ask where to; null when nobody chose a place. */
export const metricsExport = (filter: Filter, format: 'csv' | 'json') =>
  invoke<string | null>('metrics_export', { filter, format });
export const metricsExportImage = (png: Uint8Array) =>
  invoke<string | null>('metrics_export_image', png);
export const benchmarksList = () => invoke<Benchmark[]>('benchmarks_list');
export const benchmarkDelete = (id: number) => invoke<void>('benchmark_delete', { id });
/** Resolves at its end, which may be minutes later and in another view. */
export const benchmarkStart = (quick: boolean) => invoke<Benchmark>('benchmark_start', { quick });
/** The benchmark that runs now, and what was wrong with the last one. */
export const benchmarkState = () => invoke<BenchmarkState>('benchmark_state');
export const benchmarkCancel = () => invoke<void>('benchmark_cancel');
