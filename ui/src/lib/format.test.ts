import { describe, expect, it } from 'vitest';
import { date } from '../i18n/core.svelte';
import type { Stats } from './api';
import { bytes, duration, isoTime, relativeTime, statsParts, titleFrom } from './format';

const stats: Stats = {
  mode: 'dssd',
  tokens: 142,
  rounds: 41,
  drafted: 100,
  accepted: 78,
  ttftMs: 412,
  tokensPerS: 18.24,
  uplinkBytes: 1204,
  downlinkBytes: 870,
  finish: 'stop',
};
const line = (change: Partial<Stats>) =>
  statsParts({ ...stats, ...change })
    .map((part) => part.text)
    .join(' · ');

describe('statsParts', () => {
  it('gives the whole line of a finished answer', () => {
    expect(line({})).toBe(
      '18.2 tok/s · first word 0.4 s · 78 % accepted · ↑ 1.2 kB ↓ 870 B · 142 tokens',
    );
  });

  it('leaves out what has no value yet', () => {
    const first = { tokensPerS: null, ttftMs: null, drafted: 0, accepted: 0, tokens: 1 };
    expect(line({ ...first, uplinkBytes: 0, downlinkBytes: 0 })).toBe('1 token');
  });

  it('says when the answer was cut at the limit', () => {
    expect(line({ finish: 'length' })).toMatch(/142 tokens · length limit reached$/);
  });

  it('tells zero acceptance from no drafting', () => {
    expect(line({ accepted: 0 })).toContain('0 % accepted');
    expect(line({ mode: 'edge', drafted: 0, accepted: 0 })).not.toContain('accepted');
  });
});

describe('bytes', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.0 kB'],
    [999_960, '1.0 MB'],
    [1_930_000_000, '1.9 GB'],
  ])('%d is %s', (count, expected) => expect(bytes(count)).toBe(expected));
});

describe('duration', () => {
  it.each([
    [0.2, '1 s'],
    [59, '59 s'],
    [240, '4 min'],
    [3600 + 5 * 60, '1 h 5 min'],
    [2 * 3600 - 10, '2 h 0 min'],
  ])('%d s is %s', (seconds, expected) => expect(duration(seconds)).toBe(expected));
});

describe('relativeTime', () => {
  const now = new Date(2026, 4, 20, 12, 0).getTime();
  const minute = 60_000;
  it.each([
    [0, 'now'],
    [-5 * minute, 'now'],
    [59 * minute, '59 min'],
    [3 * 60 * minute, '3 h'],
    [25 * 60 * minute, 'yesterday'],
    [3 * 24 * 60 * minute, '3 days'],
    [10 * 24 * 60 * minute, '10 May'],
  ])('%d ms ago is %s', (ago, expected) => expect(relativeTime(now - ago, now)).toBe(expected));

  it('names the year when it is another one', () => {
    expect(relativeTime(new Date(2025, 4, 20).getTime(), now)).toBe('20 May 2025');
  });
});

describe('titleFrom', () => {
  it('takes the first line', () => {
    expect(titleFrom('  What is   TTFT?\nAnd why?')).toBe('What is TTFT?');
  });

  it('cuts long lines at a word', () => {
    const title = titleFrom('word '.repeat(30));
    expect(title).toBe(`${'word '.repeat(12).trimEnd()}…`);
    expect(titleFrom('x'.repeat(100))).toBe(`${'x'.repeat(60)}…`);
  });
});

describe('a time that no calendar has', () => {
  it.each([-9e18, 9e18, 8.64e15 + 1, NaN, Infinity])('%s is no reason to fail', (time) => {
    expect([isoTime(time), relativeTime(time, Date.now()), date(time)]).toEqual([
      undefined,
      '–',
      '–',
    ]);
  });

  it('is not one that is only far away', () => {
    expect(isoTime(8.64e15)).toBe('+275760-09-13T00:00:00.000Z');
    expect(relativeTime(-8.64e15, Date.now())).not.toBe('–');
  });
});
