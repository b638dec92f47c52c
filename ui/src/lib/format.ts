/** Numbers and times as the user reads them. */
import { chat } from '../i18n/chat';
import { common } from '../i18n/common';
import { date, fixed, isTime, percent } from '../i18n/core.svelte';
import type { Stats } from './api';

export function bytes(count: number): string {
  const units = common.byteUnits.split(' ');
  let value = count;
  let unit = 0;
  // 999.95 would round to "1000.0".
  while (value >= 999.95 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${fixed(value, unit === 0 ? 0 : 1)} ${units[unit]}`;
}

export function duration(seconds: number): string {
  if (seconds < 60) return common.seconds(Math.max(1, Math.round(seconds)));
  if (seconds < 3600) return common.minutes(Math.round(seconds / 60));
  const minutes = Math.round(seconds / 60);
  return common.hoursMinutes(Math.floor(minutes / 60), minutes % 60);
}

/** For machines; undefined for a time that no calendar has. */
export const isoTime = (time: number) => (isTime(time) ? new Date(time).toISOString() : undefined);

export function relativeTime(then: number, now: number): string {
  if (!isTime(then)) return '–';
  const minutes = Math.floor((now - then) / 60_000);
  if (minutes < 1) return common.now;
  if (minutes < 60) return common.minutes(minutes);
  if (minutes < 24 * 60) return common.hours(Math.floor(minutes / 60));
  const days = Math.floor(minutes / (24 * 60));
  if (days < 7) return common.days(days);
  const sameYear = new Date(then).getFullYear() === new Date(now).getFullYear();
  return date(then, {
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

export interface StatsPart {
  text: string;
  help: string;
}

/** What is known of an answer's numbers, in the order of the line under it. */
export function statsParts(stats: Stats): StatsPart[] {
  const parts: StatsPart[] = [];
  const add = (text: string, help: string) => parts.push({ text, help });
  if (stats.tokensPerS !== null) add(chat.speed(fixed(stats.tokensPerS, 1)), chat.speedHelp);
  if (stats.ttftMs !== null) add(chat.ttft(fixed(stats.ttftMs / 1000, 1)), chat.ttftHelp);
  if (stats.drafted > 0)
    add(
      chat.accepted(percent(stats.accepted / stats.drafted)),
      chat.acceptedHelp(stats.accepted, stats.drafted, stats.rounds),
    );
  if (stats.uplinkBytes + stats.downlinkBytes > 0)
    add(`↑ ${bytes(stats.uplinkBytes)} ↓ ${bytes(stats.downlinkBytes)}`, chat.bytesHelp);
  add(common.tokens(stats.tokens), chat.lengthHelp);
  if (stats.finish === 'length') add(chat.limit, chat.limitHelp);
  return parts;
}
