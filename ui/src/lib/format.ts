/** Numbers and times as the user reads them. */
import type { Stats } from './api';

export function bytes(count: number): string {
  const units = ['B', 'kB', 'MB', 'GB'];
  let value = count;
  let unit = 0;
  // 999.95 would round to "1000.0".
  while (value >= 999.95 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function duration(seconds: number): string {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function relativeTime(then: number, now: number): string {
  const minutes = Math.floor((now - then) / 60_000);
  if (minutes < 1) return 'now';
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h`;
  const days = Math.floor(minutes / (24 * 60));
  if (days < 7) return days === 1 ? 'yesterday' : `${days} days`;
  const sameYear = new Date(then).getFullYear() === new Date(now).getFullYear();
  return new Date(then).toLocaleDateString('en-GB', {
    day: 'numeric',
    month: 'short',
    year: sameYear ? undefined : 'numeric',
  });
}

/** The title of a conversation before the user has given it one. */
export function titleFrom(text: string): string {
  const line = text.trim().split('\n', 1)[0]!.replace(/\s+/g, ' ').trim();
  if (line.length <= 60) return line;
  const cut = line.slice(0, 60);
  const word = cut.lastIndexOf(' ');
  return `${word > 40 ? cut.slice(0, word) : cut}…`;
}

export const modeNames: Record<Stats['mode'], string> = {
  dssd: 'drafter + edge',
  edge: 'edge only',
  device: 'device only',
  mixed: 'partly device only',
};

export interface StatsPart {
  text: string;
  help: string;
}

/** What is known of an answer's numbers, in the order of the line under it. */
export function statsParts(stats: Stats): StatsPart[] {
  const parts: StatsPart[] = [];
  const add = (text: string, help: string) => parts.push({ text, help });
  if (stats.tokensPerS !== null)
    add(`${stats.tokensPerS.toFixed(1)} tok/s`, 'Tokens per second over the whole answer');
  if (stats.ttftMs !== null)
    add(
      `first word ${(stats.ttftMs / 1000).toFixed(1)} s`,
      'Time from sending to the first token (TTFT)',
    );
  if (stats.drafted > 0)
    add(
      `${Math.round((100 * stats.accepted) / stats.drafted)} % accepted`,
      `Acceptance: the verifier kept ${stats.accepted} of ${stats.drafted} drafted tokens in ${stats.rounds} rounds`,
    );
  if (stats.uplinkBytes + stats.downlinkBytes > 0)
    add(
      `↑ ${bytes(stats.uplinkBytes)} ↓ ${bytes(stats.downlinkBytes)}`,
      'Bytes sent to and received from the edge for this answer',
    );
  add(stats.tokens === 1 ? '1 token' : `${stats.tokens} tokens`, 'Length of the answer');
  if (stats.finish === 'length')
    add('length limit reached', 'The answer ended at the maximum length in the settings');
  return parts;
}
