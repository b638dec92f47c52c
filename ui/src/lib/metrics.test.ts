import { describe, expect, it } from 'vitest';
import { metrics as t } from '../i18n/metrics';
import type { Metrics, Split, SplitRound, Way } from './api/metrics';
import { advised, charts, limits, overEdge, tiles, timeLabel, verdict, wayName } from './metrics';

const kind = {
  answers: 1,
  tokensPerS: 10,
  ttftMs: 100,
  rounds: 10,
  tokens: 30,
  tested: 40,
  accepted: 20,
  bytes: 600,
};
const metrics: Metrics = {
  answers: 2,
  rounds: 20,
  widthMs: 60_000,
  speed: [{ at: 0, answers: 2, tokensPerS: 10, ttftMs: 200 }],
  acceptance: [{ at: 0, tested: 40, accepted: 20 }],
  positions: [
    { position: 1, tested: 10, accepted: 8 },
    { position: 2, tested: 8, accepted: 2 },
  ],
  tokens: [{ tokens: 3, rounds: 10 }],
  time: [
    {
      mode: 'dssd',
      rounds: 10,
      draftMs: 1,
      linkMs: 2,
      queueMs: 3,
      promptMs: 4,
      verifyMs: 5,
      residualMs: 6,
    },
  ],
  trips: [{ mode: 'dssd', rounds: 9, p50: 1, p90: 2, p95: 3, p99: 4 }],
  bytes: {
    rounds: 10,
    uplink: 400,
    downlink: 200,
    dsdUplink: 24_000_000,
    dsdDownlink: 80,
    dssdUplink: 320,
    dssdDownlink: 6_000_000,
  },
  compared: [
    { mode: 'dssd', gamma: 4, ...kind },
    { mode: 'edge', gamma: 0, ...kind, rounds: 10, tokens: 10, tested: 0, accepted: 0, bytes: 0 },
    { mode: 'mixed', gamma: null, ...kind, rounds: 0, tokens: 0, tested: 0, accepted: 0, bytes: 0 },
  ],
};

const round = (parts: Partial<SplitRound>): SplitRound => ({
  round: 1,
  mode: 'dssd',
  gamma: 4,
  drafted: 4,
  accepted: 2,
  ignored: 1,
  alternatives: 0,
  followed: 0,
  outcome: 'token',
  draftMs: 40,
  rttMs: 60,
  queueMs: 0,
  verifyMs: 50,
  residualMs: 0,
  uplinkBytes: 40,
  downlinkBytes: 20,
  decision: null,
  tokens: [],
  ...parts,
});
const split = (parts: Partial<Split>): Split => ({
  rounds: [round({})],
  edge: 'local',
  verifier: 'large',
  drafter: 'small',
  splitMs: 33,
  streamMs: 60,
  streamRounds: 50,
  ...parts,
});

describe('charts', () => {
  it('have a value for each label, so that table and picture are the same', () => {
    const all = charts(metrics);
    expect(all.map((chart) => chart.id)).toEqual([
      'speed',
      'acceptance',
      'positions',
      'tokens',
      'time',
      'trips',
      'bytes',
      'compared',
    ]);
    for (const chart of all)
      for (const series of chart.series) expect(series.values.length).toBe(chart.labels.length);
  });

  it('show shares of what was tested and parts of a round in their order', () => {
    const by = Object.fromEntries(charts(metrics).map((chart) => [chart.id, chart]));
    expect(by.positions!.series[0]!.values).toEqual([0.8, 0.25]);
    expect(by.time!.series.map((s) => s.values[0])).toEqual([1, 2, 3, 4, 5, 6]);
    expect(by.bytes!.series.map((s) => s.values)).toEqual([
      [400, 320, 24_000_000],
      [200, 6_000_000, 80],
    ]);
    expect(by.bytes!.log).toBe(true);
  });

  it('are left out when they would be empty', () => {
    const none = {
      ...metrics,
      speed: [],
      trips: [],
      bytes: { ...metrics.bytes, rounds: 0 },
      compared: [],
    };
    const ids = charts(none).map((chart) => chart.id);
    expect(ids).toEqual(['acceptance', 'positions', 'tokens', 'time']);
  });

  it('sum up in the tiles', () => {
    const values = tiles(metrics).map((tile) => tile.value);
    expect(values).toEqual(['20', '50.0 %', '3.00', '15.0']);
  });
});

describe('names', () => {
  it('say the draft length where there is one', () => {
    expect(wayName('dssd', 4)).toContain('γ 4');
    expect(wayName('dssd', null, 'auto')).toContain('auto');
    expect(wayName('edge', 0)).not.toContain('γ');
  });

  it('are as exact as the width of a point', () => {
    const at = new Date(2026, 4, 17, 13, 5, 9).getTime();
    expect(timeLabel(at, 86_400_000)).not.toContain('13');
    expect(timeLabel(at, 60_000)).toMatch(/13:05$/);
    expect(timeLabel(at, 1_000)).toMatch(/13:05:09$/);
  });
});

describe('limits', () => {
  it('of a day are the midnights of the user', () => {
    const { from, until } = limits('day', '2026-05-17', 0);
    expect(new Date(from!).getHours()).toBe(0);
    expect(new Date(until!).getDate()).toBe(18);
  });

  it('of a broken day are none', () => {
    expect(limits('day', '', 0)).toEqual({ from: null, until: null });
  });

  it('of a week end now', () => {
    expect(limits('week', '', 8 * 86_400_000)).toEqual({ from: 86_400_000, until: null });
  });
});

describe('verdict', () => {
  it('compares with what the same box streams', () => {
    expect(verdict(split({}))).toMatchObject({ tone: 'good' });
    expect(verdict(split({}))!.text).toContain('82 %');
    expect(verdict(split({ streamMs: 20 }))).toMatchObject({ tone: 'bad' });
    expect(verdict(split({ streamMs: 20 }))!.text).toMatch(/40 ms.*3\.0 tokens/);
    expect(verdict(split({ streamMs: 33.5 }))).toMatchObject({ tone: 'plain' });
  });

  it('does not claim what was not measured', () => {
    expect(verdict(split({ streamMs: null }))).toMatchObject({ tone: 'plain' });
    expect(verdict(split({ rounds: [] }))).toBe(null);
  });

  it('gives the reason for going without drafts', () => {
    const rounds = [round({ mode: 'edge', decision: 'stream 41.2 58.4' })];
    expect(verdict(split({ rounds }))!.text).toMatch(/58 ms .*41 ms/);
    const foreign = [round({ mode: 'edge', decision: 'written by a later version' })];
    expect(verdict(split({ rounds: foreign }))!.text).toBe(t.off);
    expect(verdict(split({ rounds: [round({ mode: 'device' })] }))).toMatchObject({ tone: 'bad' });
  });
});

describe('a device that is not well', () => {
  it('says why it did not draft', () => {
    const rounds = [round({ mode: 'edge', decision: 'stream memory' }), round({ mode: 'edge' })];
    expect(verdict(split({ rounds }))).toEqual({ text: t.advised.memory, tone: 'plain' });
  });

  it('says why it drafted less, beside the figures', () => {
    const rounds = [
      round({}),
      round({ decision: 'turns heat' }),
      round({ mode: 'edge', decision: 'stream battery' }),
      round({ decision: 'turns recovered' }),
    ];
    const { text, tone } = verdict(split({ rounds }))!;
    expect(tone).toBe('good');
    expect(text).toContain('82 %');
    expect(text.endsWith(t.advised.battery)).toBe(true);
    expect(text).not.toContain(t.advised.recovered);
  });

  it('leaves what it does not know', () => {
    const rounds = [round({ decision: 'turns moonlight' }), round({ decision: 'turns 41.0 58.0' })];
    expect(rounds.map((r) => advised(r.decision))).toEqual([null, null]);
    expect(verdict(split({ rounds }))!.text).not.toContain(t.advised.heat);
  });
});

describe('overEdge', () => {
  const way = (mode: Way['mode'], tokensPerS: number): Way => ({
    mode,
    gamma: null,
    tokensPerS,
    ttftMs: 1,
    acceptance: null,
    tokensPerRound: 1,
    bytesPerToken: 1,
    same: null,
  });

  it('is the gain, and nothing when the edge itself is best', () => {
    expect(overEdge([way('edge', 10), way('dssd', 15)], 1)).toBe(0.5);
    expect(overEdge([way('edge', 10), way('dssd', 5)], 0)).toBe(null);
    expect(overEdge([way('device', 10)], null)).toBe(null);
  });
});
