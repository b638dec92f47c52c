/** From the backend's figures to what charts and tables show. Plain data: no canvas, no window. */
import { common } from '../i18n/common';
import { date, fixed, number, percent } from '../i18n/core.svelte';
import { metrics as t } from '../i18n/metrics';
import type { Compared, Filter, Metrics, Mode, RoundTimes, Split, Way } from './api/metrics';
import { bytes } from './format';

export interface Series {
  label: string;
  values: (number | null)[];
  /** Which of the theme's chart colours. */
  color: number;
  format: (value: number) => string;
  /** On the right axis. */
  right?: boolean;
}

export interface ChartModel {
  id: string;
  title: string;
  help: string;
  /** `rows` are bars that lie, for long names; `stacked` are such bars in parts. */
  kind: 'line' | 'bar' | 'rows' | 'stacked';
  /** Head of the first column of the table. */
  head: string;
  labels: string[];
  series: Series[];
  log?: boolean;
  /** The axis ends here, so that a share is seen as one. */
  max?: number;
}

export const noFilter: Filter = {
  conversation: null,
  edge: null,
  mode: null,
  gamma: null,
  from: null,
  until: null,
};

export const boxName = (edge: string) => (edge === 'local' ? t.local : edge);
const one = (value: number) => fixed(value, 1);
const share = (value: number) => percent(value, 1);
export const ms = (value: number) => `${fixed(value, value < 10 ? 1 : 0)} ms`;
const ratio = (a: number, b: number) => (b > 0 ? a / b : null);

/** "drafter + edge, γ 4"; null is a length that was chosen each round. */
export function wayName(mode: Mode, gamma: number | null, open: string = t.varied): string {
  const name = common.modes[mode];
  if (mode === 'dssd' || mode === 'both' || mode === 'mixed')
    return `${name}, ${gamma ? t.liveGamma(gamma) : open}`;
  return name;
}

/** A point's time, as exact as its width. */
export function timeLabel(at: number, widthMs: number): string {
  if (widthMs >= 86_400_000) return date(at, { day: 'numeric', month: 'short' });
  const exact = widthMs < 60_000 ? ({ second: '2-digit' } as const) : {};
  return date(at, {
    day: 'numeric',
    month: 'short',
    hour: '2-digit',
    minute: '2-digit',
    ...exact,
  });
}

const timeKeys = [
  ['draft', 'draftMs'],
  ['link', 'linkMs'],
  ['queue', 'queueMs'],
  ['prompt', 'promptMs'],
  ['verify', 'verifyMs'],
  ['residual', 'residualMs'],
] as const satisfies [keyof typeof t.times, keyof RoundTimes][];

/** Every chart that has something to show. */
export function charts(m: Metrics): ChartModel[] {
  const at = (points: { at: number }[]) => points.map((p) => timeLabel(p.at, m.widthMs));
  const compared = m.compared.filter((c) => c.tokensPerS !== null);
  const all: ChartModel[] = [
    {
      id: 'speed',
      title: t.speedTitle,
      help: t.speedHelp,
      kind: 'line',
      head: t.period,
      labels: at(m.speed),
      series: [
        { label: t.speed, values: m.speed.map((p) => p.tokensPerS), color: 1, format: one },
        {
          label: t.ttft,
          values: m.speed.map((p) => p.ttftMs),
          color: 2,
          format: (value) => fixed(value, 0),
          right: true,
        },
      ],
    },
    {
      id: 'acceptance',
      title: t.acceptanceTitle,
      help: t.acceptanceHelp,
      kind: 'line',
      head: t.period,
      labels: at(m.acceptance),
      series: [
        {
          label: t.acceptance,
          values: m.acceptance.map((p) => ratio(p.accepted, p.tested)),
          color: 1,
          format: share,
        },
      ],
      max: 1,
    },
    {
      id: 'positions',
      title: t.positionsTitle,
      help: t.positionsHelp,
      kind: 'bar',
      head: t.place,
      labels: m.positions.map((p) => String(p.position)),
      series: [
        {
          label: t.acceptance,
          values: m.positions.map((p) => ratio(p.accepted, p.tested)),
          color: 1,
          format: share,
        },
      ],
      max: 1,
    },
    {
      id: 'tokens',
      title: t.tokensTitle,
      help: t.tokensHelp,
      kind: 'bar',
      head: t.tokensARound,
      labels: m.tokens.map((p) => String(p.tokens)),
      series: [
        { label: t.roundsColumn, values: m.tokens.map((p) => p.rounds), color: 3, format: number },
      ],
    },
    {
      id: 'time',
      title: t.timeTitle,
      help: t.timeHelp,
      kind: 'stacked',
      head: t.mode,
      labels: m.time.map((p) => common.modes[p.mode]),
      series: timeKeys.map(([name, key], i) => ({
        label: t.times[name],
        values: m.time.map((p) => p[key]),
        color: i + 1,
        format: ms,
      })),
    },
    {
      id: 'trips',
      title: t.tripsTitle,
      help: t.tripsHelp,
      kind: 'bar',
      head: t.mode,
      labels: m.trips.map((p) => common.modes[p.mode]),
      series: (['p50', 'p90', 'p95', 'p99'] as const).map((key, i) => ({
        label: t.percentile(key.slice(1)),
        values: m.trips.map((p) => p[key]),
        color: i + 1,
        format: ms,
      })),
    },
    {
      id: 'bytes',
      title: t.bytesTitle,
      help: t.bytesHelp,
      kind: 'rows',
      head: '',
      labels: m.bytes.rounds > 0 ? [t.schemes.own, t.schemes.dssd, t.schemes.dsd] : [],
      series: [
        {
          label: t.up,
          values: [m.bytes.uplink, m.bytes.dssdUplink, m.bytes.dsdUplink],
          color: 1,
          format: bytes,
        },
        {
          label: t.down,
          values: [m.bytes.downlink, m.bytes.dssdDownlink, m.bytes.dsdDownlink],
          color: 2,
          format: bytes,
        },
      ],
      log: true,
    },
    {
      id: 'compared',
      title: t.comparedTitle,
      help: t.comparedHelp,
      kind: 'rows',
      head: t.way,
      labels: compared.map((c) => wayName(c.mode, c.gamma)),
      series: [
        { label: t.speed, values: compared.map((c) => c.tokensPerS), color: 1, format: one },
      ],
    },
  ];
  return all.filter((chart) => chart.labels.length > 0);
}

/** The numbers above the charts. */
export function tiles(m: Metrics): { label: string; value: string }[] {
  const sum = (f: (c: Compared) => number) => m.compared.reduce((total, c) => total + f(c), 0);
  const tested = sum((c) => c.tested);
  const dssd = m.compared.filter((c) => c.mode === 'dssd');
  const rounds = dssd.reduce((total, c) => total + c.rounds, 0);
  const tokens = dssd.reduce((total, c) => total + c.tokens, 0);
  const list = [
    { label: t.roundsColumn, value: number(m.rounds) },
    { label: t.acceptance, value: tested > 0 ? share(sum((c) => c.accepted) / tested) : '–' },
    { label: t.tokensARound, value: rounds > 0 ? fixed(tokens / rounds, 2) : '–' },
  ];
  const all = sum((c) => c.tokens);
  if (all > 0) list.push({ label: t.bytesAToken, value: one(sum((c) => c.bytes) / all) });
  return list;
}

const DAY = 86_400_000;
export type Period = 'all' | 'day' | 'week' | 'month';

/** The limits of a period; `day` is what a date field gives, in the user's own time zone. */
export function limits(period: Period, day: string, now: number): Pick<Filter, 'from' | 'until'> {
  if (period === 'week') return { from: now - 7 * DAY, until: null };
  if (period === 'month') return { from: now - 30 * DAY, until: null };
  const [year, month, date] = day.split('-').map(Number);
  if (period === 'all' || !year || !month || !date) return { from: null, until: null };
  // Not 24 hours later: a day may have 23 or 25.
  const from = new Date(year, month - 1, date).getTime();
  return { from, until: new Date(year, month - 1, date + 1).getTime() };
}

/** Less of a difference is noise. */
const NOTABLE = 0.03;

/** What this device's state decided in a round, taken apart; null if it did not. */
export function advised(decision: string | null) {
  const parts = /^(stream|turns|ahead|colocated) (heat|battery|saver|memory|recovered)$/.exec(
    decision ?? '',
  );
  if (!parts) return null;
  return { way: parts[1] as keyof typeof t.ways, reason: parts[2] as keyof typeof t.advised };
}

/** What auto mode decided in a round, taken apart; null if it is of a form that is not known here. */
export function decided(decision: string | null) {
  const parts = /^(stream|turns|ahead|colocated) ([\d.]+) ([\d.]+)$/.exec(decision ?? '');
  if (!parts) return null;
  const way = parts[1] as keyof typeof t.ways;
  return { way, now: ms(Number(parts[2])), before: ms(Number(parts[3])) };
}

export type Verdict = { text: string; tone: 'good' | 'bad' | 'plain' };

/** Whether speculation helped this answer, and why not: from its own figures, and this device's state. */
export function verdict(split: Split): Verdict | null {
  const judged = measured(split);
  const said = split.rounds.map((r) => advised(r.decision)).filter((one) => one !== null);
  const why = said.findLast((one) => one.reason !== 'recovered');
  if (!judged || !why) return judged;
  const drafted = split.rounds.some((r) => r.mode === 'dssd');
  const text = t.advised[why.reason];
  return drafted ? { ...judged, text: `${judged.text} ${text}` } : { ...judged, text };
}

function measured(split: Split): Verdict | null {
  const dssd = split.rounds.filter((r) => r.mode === 'dssd');
  const why = decided(split.rounds.findLast((r) => r.decision !== null)?.decision ?? null);
  if (split.rounds.length === 0) return null;
  if (dssd.length === 0) {
    if (split.rounds.some((r) => r.mode === 'edge'))
      return {
        text:
          why?.way === 'stream' || why?.way === 'colocated'
            ? t.offBecause(why.now, why.before)
            : t.off,
        tone: 'plain',
      };
    return { text: t.alone, tone: 'bad' };
  }
  if (split.splitMs === null) return null;
  const mean = (f: (r: (typeof dssd)[0]) => number) =>
    dssd.reduce((sum, r) => sum + f(r), 0) / dssd.length;
  const tokens = fixed(
    mean((r) => r.accepted + r.followed + (r.outcome === 'continue' ? 0 : 1)),
    1,
  );
  const [own, stream] = [split.splitMs, split.streamMs];
  if (stream === null) return { text: t.notCompared(ms(own), tokens), tone: 'plain' };
  const gain = stream / own - 1;
  if (gain > NOTABLE) return { text: t.helped(ms(own), ms(stream), percent(gain)), tone: 'good' };
  if (gain < -NOTABLE)
    return { text: t.hurt(ms(own), ms(stream), ms(mean((r) => r.draftMs)), tokens), tone: 'bad' };
  return { text: t.even(ms(own), ms(stream)), tone: 'plain' };
}

/** How much faster the recommended way is than the edge alone; null when that is the edge. */
export function overEdge(ways: Way[], recommended: number | null): number | null {
  const best = recommended === null ? undefined : ways[recommended];
  const edge = ways.find((way) => way.mode === 'edge');
  if (!best?.tokensPerS || !edge?.tokensPerS || best === edge) return null;
  return best.tokensPerS / edge.tokensPerS - 1;
}
