// First window to first answer, stop, and what is in SQLite after the app was killed.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { program } from '../../scripts/lib/system.mjs';
import { database, id, open } from './driver.mjs';

const data = mkdtempSync(path.join(os.tmpdir(), 'tandem-window-'));
const shots = process.env.TANDEM_SCREENSHOTS;
let page;

const sql = database(data);
const edges = () => {
  try {
    return execFileSync('pgrep', ['-f', 'tandem-edge serve .*exit-with-parent'], {
      encoding: 'utf8',
    }).split('\n');
  } catch {
    return [];
  }
};
const shoot = (name) => shots && page.screenshot(path.join(shots, `${name}.png`));

before(async () => {
  page = await open(program('tandem-app'), { TANDEM_DATA_DIR: data });
});
after(async () => {
  await page?.close();
  rmSync(data, { recursive: true, force: true });
});

test('the bundled edge comes up behind the window', { timeout: 120_000 }, async () => {
  await page.connected(60);
  assert.equal(edges().filter(Boolean).length >= 1, true);
});

test('an answer streams, and its figures are shown and stored', { timeout: 180_000 }, async () => {
  await page.ask('Write a haiku about rain.');
  const answer = `${id('message-assistant')}[data-status="done"]`;
  await page.until('the answer', async () => page.one(answer), 120);
  assert.match(await page.text(await page.one(answer)), /\w+ \w+/);
  const stats = await page.one(id('stats'));
  // The app is in auto mode: its first rounds are drafts, and it may try the edge's own steps.
  assert.match(await page.attribute(stats, 'data-mode'), /^(dssd|mixed)$/);
  const [[content, tokens]] = sql("SELECT content, tokens FROM messages WHERE role='assistant'");
  const [[rounds, sum]] = sql('SELECT count(*), sum(accepted + 1) FROM rounds');
  assert.ok(content.length > 10 && rounds > 1 && sum >= tokens && tokens > 5);
  await shoot('light');
  await page.run("document.documentElement.dataset.theme = 'dark'");
  await shoot('dark');
});

test('stop ends an answer at once and keeps its text', { timeout: 120_000 }, async () => {
  await page.ask('Count from 1 to 500 in words, separated by commas.');
  await page.until('text', async () => {
    const all = await page.find(id('message-assistant'));
    return all.length === 2 && (await page.text(all[1])).length > 20;
  });
  const start = Date.now();
  await page.click(await page.one(id('stop')));
  await page.until(
    'the end',
    async () => page.one(`${id('message-assistant')}[data-status="stopped"]`),
    10,
  );
  assert.ok(Date.now() - start < 2000, `${Date.now() - start} ms`);
});

test('a killed app leaves what was streamed, and its edge ends', { timeout: 180_000 }, async () => {
  await page.ask('Tell me a long story about a lighthouse keeper.');
  await page.until('text', async () => {
    const [[length]] = sql('SELECT length(content) FROM messages ORDER BY id DESC LIMIT 1');
    const all = await page.find(id('message-assistant'));
    return all.length === 3 && length > 60;
  });
  const mine = String(page.pid());
  process.kill(Number(mine), 'SIGKILL');
  await page.close();
  const [[content]] = sql('SELECT content FROM messages ORDER BY id DESC LIMIT 1');
  assert.ok(content.length > 40, content);
  assert.ok(existsSync(path.join(data, 'tandem.db')));
  page = await open(program('tandem-app'), { TANDEM_DATA_DIR: data }, { width: 400, height: 800 });
  await page.until('a composer', async () => page.one(id('composer')));
  const [[status]] = sql('SELECT status FROM messages ORDER BY id DESC LIMIT 1');
  assert.equal(status, 'interrupted');
  await shoot('phone');
});
