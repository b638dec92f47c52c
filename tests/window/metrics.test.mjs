// The metrics view in the real window: what it shows of answers that were just written is what plain
// SQL and plain loops make of the same file. Then the exports, and the benchmark.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { program } from '../../scripts/lib/system.mjs';
import { database, id, open } from './driver.mjs';

const data = mkdtempSync(path.join(os.tmpdir(), 'tandem-metrics-'));
const files = path.join(data, 'files');
const sql = database(data);
const shots = process.env.TANDEM_SCREENSHOTS;
let page;

before(async () => {
  mkdirSync(files);
  page = await open(program('tandem-app'), {
    TANDEM_DATA_DIR: data,
    TANDEM_EXPORT_DIR: files,
  });
  await page.connected(120);
});
after(async () => {
  await page?.close();
  rmSync(data, { recursive: true, force: true });
});

const COLUMNS =
  'mode outcome message round gamma drafted accepted ignored followed draft_ms rtt_ms queue_ms verify_ms residual_ms uplink_bytes downlink_bytes'.split(
    ' ',
  );
/** Rounds as SQLite has them. */
function rounds(where = 'TRUE') {
  const rows = sql(`SELECT ${COLUMNS.join()} FROM rounds WHERE ${where} ORDER BY message, round`);
  return rows.map((row) => Object.fromEntries(COLUMNS.map((name, i) => [name, row[i]])));
}

const sum = (list, value) => list.reduce((total, one) => total + value(one), 0);
const mean = (list, value) => sum(list, value) / list.length;
const tested = (r) => r.drafted - r.ignored;

/** A number as it is shown: its value, and half of its last digit. */
function number(text) {
  const [, digits, unit] = /^([\d,.]+)\s*(\S*)$/.exec(text.trim()) ?? assert.fail(text);
  const plain = digits.replaceAll(',', '');
  const scale = { '%': 0.01, kB: 1e3, MB: 1e6, GB: 1e9, s: 1000 }[unit] ?? 1;
  const half = 0.5 * 10 ** -(plain.split('.')[1]?.length ?? 0);
  return { value: Number(plain) * scale, half: half * scale };
}

function assertShown(text, expected, what) {
  const { value, half } = number(text);
  assert.ok(Math.abs(value - expected) <= half * 1.001, `${what}: ${text} is not ${expected}`);
}

/** The rows of a chart's table: its first column, and the others. */
async function table(chart) {
  const rows = await page.run(
    `return [...document.querySelectorAll('[data-testid="chart-' + arguments[0] + '"] tbody tr')]
       .map((row) => [...row.children].map((cell) => cell.textContent))`,
    chart,
  );
  return rows.map(([name, ...cells]) => ({ name, cells }));
}

const tiles = () =>
  page.run(
    `return [...document.querySelectorAll('${id('tiles')} dd')].map((cell) => cell.textContent)`,
  );

async function settings(change) {
  await page.run(
    `const { invoke } = window.__TAURI_INTERNALS__;
     return invoke('settings_get').then((settings) =>
       invoke('settings_set', { settings: { ...settings, ...arguments[0] } }))`,
    change,
  );
}

async function answer(text) {
  const done = () =>
    sql("SELECT count(*) FROM messages WHERE role = 'assistant' AND status = 'done'");
  const [[before]] = done();
  await page.ask(text);
  await page.until('the answer', async () => done()[0][0] > before, 120);
}

/** Waits until the view speaks of so many rounds. */
async function shown(count) {
  await page.until('the figures', async () => (await tiles())[0] === String(count), 20);
}

test('the view agrees with SQL on what was just done', { timeout: 400_000 }, async () => {
  await page.shortcut('2');
  await page.until('an empty view that teaches', () => page.one(id('metrics-empty')));
  await page.shortcut('1');
  await page.until('the composer', () => page.one(id('composer')));
  await settings({ mode: 'dssd', gamma: 4, maxTokens: 48 });
  await answer('Count from one to fifteen in words.');
  await settings({ mode: 'dssd', gamma: 2, maxTokens: 48 });
  await answer('Now the same in French.');
  await settings({ mode: 'edge', maxTokens: 24 });
  await answer('Name three animals.');
  await page.shortcut('2');

  const all = rounds();
  const dssd = all.filter((r) => r.mode === 'dssd');
  assert.ok(dssd.length > 8 && all.length > dssd.length, 'both modes took part');
  assert.deepEqual([...new Set(dssd.map((r) => r.gamma))].sort(), [2, 4]);
  await shown(all.length);
  if (shots) await page.screenshot(path.join(shots, 'metrics.png'));

  const given = (r) => r.accepted + r.followed + (r.outcome === 'continue' ? 0 : 1);
  const [, acceptance, tokensARound, bytesAToken] = await tiles();
  assertShown(acceptance, sum(all, (r) => r.accepted) / sum(all, tested), 'acceptance');
  assertShown(tokensARound, mean(dssd, given), 'tokens a round');
  const bytes = (list) => sum(list, (r) => r.uplink_bytes + r.downlink_bytes);
  assertShown(bytesAToken, bytes(all) / sum(all, given), 'bytes a token');

  const places = await table('positions');
  assert.equal(places.length, Math.max(...all.map(tested)));
  for (const { name, cells } of places) {
    const there = all.filter((r) => tested(r) >= Number(name));
    const taken = there.filter((r) => r.accepted >= Number(name)).length;
    assertShown(cells[0], taken / there.length, `acceptance at ${name}`);
  }
  for (const { name, cells } of await table('tokens')) {
    const such = dssd.filter((r) => given(r) === Number(name)).length;
    assertShown(cells[0], such, `rounds of ${name} tokens`);
  }

  const modes = ['dssd', 'edge'].map((mode) => all.filter((r) => r.mode === mode));
  const times = await table('time');
  assert.equal(times.length, modes.length);
  for (const [i, list] of modes.entries()) {
    const first = (r) => (r.round === 0 ? r.queue_ms : 0);
    const parts = [
      (r) => r.draft_ms,
      (r) => r.rtt_ms - r.queue_ms - r.verify_ms,
      (r) => r.queue_ms - first(r),
      first,
      (r) => r.verify_ms,
      (r) => r.residual_ms,
    ];
    for (const [k, part] of parts.entries())
      assertShown(times[i].cells[k], mean(list, part), `${list[0].mode}, part ${k}`);
  }
  const trips = await table('trips');
  for (const [i, list] of modes.entries()) {
    const sorted = list.filter((r) => r.round > 0).map((r) => r.rtt_ms);
    sorted.sort((a, b) => a - b);
    for (const [k, percent] of [50, 90, 95, 99].entries())
      assertShown(
        trips[i].cells[k],
        sorted[Math.max(Math.ceil((sorted.length * percent) / 100), 1) - 1],
        `${list[0].mode}, p${percent}`,
      );
  }

  const [[vocab]] = sql('SELECT DISTINCT p.vocab FROM rounds r JOIN pairs p ON p.id = r.pair');
  const rejected = dssd.filter((r) => r.accepted < tested(r)).length;
  const drafted = sum(dssd, (r) => r.drafted);
  const expected = [
    [sum(dssd, (r) => r.uplink_bytes), sum(dssd, (r) => r.downlink_bytes)],
    [8 * drafted, rejected * (4 + 4 * vocab) + 8 * (dssd.length - rejected)],
    [drafted * (8 + 4 * vocab), 8 * dssd.length],
  ];
  const sent = await table('bytes');
  for (const [i, pair] of expected.entries())
    for (const [k, count] of pair.entries())
      assertShown(sent[i].cells[k], count, `bytes ${i} ${k}`);

  // Speed: all tokens of the answers of a kind by the time that their speed was taken over.
  const answers = sql(
    "SELECT writer, gamma, tokens, tokens_per_s, ttft_ms FROM messages WHERE role = 'assistant' ORDER BY writer, gamma",
  );
  const compared = await table('compared');
  assert.equal(compared.length, answers.length);
  for (const [i, [, , , speed]] of answers.entries())
    assertShown(compared[i].cells[0], speed, compared[i].name);
  const points = await table('speed');
  const slowest = Math.max(...answers.map((a) => a[4]));
  assert.ok(points.every(({ cells }) => number(cells[1]).value <= slowest + 1));
});

const choose = (filter, value) =>
  page.run(
    `const field = document.querySelector(arguments[0]);
     const option = [...field.options].find((one) => one.textContent.trim() === arguments[1]);
     field.selectedIndex = option.index;
     field.dispatchEvent(new Event('change', { bubbles: true }))`,
    id(filter),
    value,
  );

test('a filter leaves the rest out, of exports too', { timeout: 120_000 }, async () => {
  await choose('filter-gamma', '2');
  const some = rounds('gamma = 2');
  await shown(some.length);
  const [, acceptance] = await tiles();
  assertShown(acceptance, sum(some, (r) => r.accepted) / sum(some, tested), 'acceptance');

  const saved = async (button, name) => {
    await page.click(await page.one(id(button)));
    // The file is there before all of it is written: what counts is that the window says so.
    const said = async () => (await page.text(await page.one('.toast'))).includes(name);
    await page.until(name, said, 20);
    return readFileSync(path.join(files, name));
  };
  const csv = (await saved('export-csv', 'tandem-rounds.csv')).toString().trim().split(/\r?\n/);
  const column = csv[0].split(',').indexOf('uplink_bytes');
  assert.equal(csv.length - 1, some.length);
  // From the right, as the names on the left may hold commas.
  const fromEnd = csv[0].split(',').length - column;
  const uplink = (list) => sum(list, (r) => r.uplink_bytes);
  assert.equal(
    sum(csv.slice(1), (line) => Number(line.split(',').at(-fromEnd))),
    uplink(some),
  );
  const json = JSON.parse(await saved('export-json', 'tandem-rounds.json'));
  assert.equal(json.filter.gamma, 2);
  assert.deepEqual(
    json.rounds.map((r) => [r.round, r.drafted, r.accepted, r.rtt_ms]),
    some.map((r) => [r.round, r.drafted, r.accepted, r.rtt_ms]),
  );
  const png = await saved('export-image', 'tandem-metrics.png');
  assert.equal(png.subarray(1, 4).toString(), 'PNG');
  assert.ok(png.readUInt32BE(16) > 600 && png.length > 10_000, 'an image with something on it');
});

test(
  'the benchmark can be cancelled, and ends in a kept result',
  { timeout: 400_000 },
  async () => {
    await page.run(`document.querySelector('${id('bench-quick')}').click()`);
    await page.click(await page.one(id('bench-start')));
    await page.until('progress', () => page.one(`${id('bench-progress')} span`), 30);
    // It goes on while another view is open, which says so and can end it.
    await page.shortcut('1');
    await page.until('the benchmark in the chat', () => page.one(id('bench-runs')));
    await page.ask('Say yes.');
    await page.until('a refusal', () => page.one(id('bench-cancel-send')));
    await page.shortcut('2');
    await page.until('its progress', () => page.one(`${id('bench-progress')} span`), 30);
    await page.click(await page.one(id('bench-cancel')));
    await page.until('the end', () => page.one(id('bench-start')), 30);
    assert.equal(sql('SELECT count(*) FROM benchmarks')[0][0], 0);
    assert.match(await page.text(await page.one(id('bench-problem'))), /cancelled/);

    await page.click(await page.one(id('bench-start')));
    const card = await page.until('the result', () => page.one(id('bench-result')), 300);
    const ways = await page.run(
      `return [...document.querySelectorAll('${id('bench-result')} tbody tr')].map((row) =>
       [row.dataset.way.trim(), row.children[1].textContent])`,
    );
    const kept = sql(
      'SELECT mode, gamma, sum(later_tokens) * 1000.0 / sum(later_ms) FROM benchmark_runs GROUP BY 1, 2',
    );
    assert.equal(ways.length, kept.length);
    for (const [mode, gamma, speed] of kept) {
      const way = ways.find(([name]) => name === `${mode} ${gamma ?? ''}`.trim());
      assertShown(way[1], speed, way[0]);
    }
    const best = Math.max(...kept.filter(([mode]) => mode !== 'device').map((way) => way[2]));
    assert.match(await page.text(card), new RegExp(best.toFixed(1).replace('.', '\\.')));
    if (shots) {
      await page.run(`document.querySelector('${id('benchmark')}').scrollIntoView()`);
      await page.screenshot(path.join(shots, 'benchmark.png'));
    }
  },
);
