// What goes wrong around the real window: its own edge is killed, the hub is out of reach, a row of the
// database makes no sense, a file is no conversation, the system's clipboard has its rules.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { DRAFTER, VERIFIER, cacheFolder, program } from '../../scripts/lib/system.mjs';
import { database, id, open } from './driver.mjs';

const data = mkdtempSync(path.join(os.tmpdir(), 'tandem-trouble-'));
const files = path.join(data, 'files');
const models = path.join(data, 'cache', 'models');
const sql = database(data);
const shots = process.env.TANDEM_SCREENSHOTS;
const env = {
  TANDEM_DATA_DIR: data,
  TANDEM_CACHE_DIR: path.join(data, 'cache'),
  TANDEM_DIALOG_DIR: files,
  TANDEM_IMPORT_FILE: path.join(files, 'no-model.gguf'),
  // Nothing listens there.
  TANDEM_HUB: 'http://127.0.0.1:9',
  PIP_INDEX_URL: 'http://127.0.0.1:9',
  PIP_RETRIES: '0',
  PIP_CONFIG_FILE: os.devNull,
  RUST_BACKTRACE: '1',
};
let page;

const shoot = (name) => shots && page.screenshot(path.join(shots, `${name}.png`));
const invoke = (command, args) =>
  page.run(
    'return window.__TAURI_INTERNALS__.invoke(arguments[0], arguments[1])',
    command,
    args ?? {},
  );
const edge = async () => (await invoke('app_status')).edge;
const press = (css) => page.run('document.querySelector(arguments[0]).click()', css);
const textOf = async (css) => page.text(await page.one(css));

/** The process of this app's own edge; 0 while there is none. */
function edgePid() {
  const app = page.pid();
  try {
    return Number(execFileSync('pgrep', ['-P', app, 'tandem-edge'], { encoding: 'utf8' }));
  } catch {
    return 0;
  }
}
const log = () => {
  const folder = path.join(data, 'logs');
  return readdirSync(folder)
    .map((name) => readFileSync(path.join(folder, name), 'utf8'))
    .join('');
};

before(async () => {
  for (const folder of [files, models]) mkdirSync(folder, { recursive: true });
  for (const name of [DRAFTER, VERIFIER]) {
    const file = path.join(cacheFolder(), 'models', `${name}.gguf`);
    symlinkSync(file, path.join(models, `${name}.gguf`));
    copyFileSync(`${file}.verified`, path.join(models, `${name}.gguf.verified`));
  }
  page = await open(program('tandem-app'), env);
  await page.connected();
});
after(async () => {
  await page?.close();
  rmSync(data, { recursive: true, force: true });
});

test(
  'an edge that is killed is started again, and an answer goes on',
  { timeout: 400_000 },
  async () => {
    const settings = await invoke('settings_get');
    await invoke('settings_set', { settings: { ...settings, maxTokens: 96 } });
    await page.ask('Count from 1 to 120 in words, separated by commas.');
    await page.until('text', async () => (await textOf(id('message-assistant'))).length > 20);
    const first = edgePid();
    assert.ok(first > 0);
    process.kill(first, 'SIGKILL');
    await page.until('another edge', async () => ![0, first].includes(edgePid()), 60);
    await page.connected(60);
    assert.match(log(), /the edge of this device ended: signal: 9/);
    assert.match(log(), /is started again in/);
    await page.until(
      'the end of the answer',
      () => page.one(`${id('message-assistant')}[data-status="done"]`),
      240,
    );
    // The new one has written as well, or checked what was drafted.
    const [[after]] = sql(
      `SELECT count(*) FROM rounds WHERE mode IN ('dssd', 'edge') AND round >
     (SELECT coalesce(min(round), 0) FROM rounds WHERE mode = 'device')`,
    );
    assert.ok(after > 0, 'nothing after it was back');
  },
);

test(
  'one that keeps ending is left, said, and started by a button',
  { timeout: 400_000 },
  async () => {
    const ended = async () => (await edge()).problem === 'ended';
    await page.until(
      'that it is given up',
      async () => {
        const pid = edgePid();
        if (pid) process.kill(pid, 'SIGKILL');
        return ended();
      },
      240,
    );
    await sleep(3000);
    assert.equal(edgePid(), 0, 'it is left');
    assert.match(log(), /keeps ending, and is not started again/);
    const badge = await page.one(id('status-badge'));
    assert.equal(await page.attribute(badge, 'data-edge'), 'off');
    await shoot('edge-ended');
    await page.click(await page.one(id('edge-restart')));
    await page.connected(60);
    assert.ok(edgePid() > 0);
    assert.equal(await page.one(id('edge-ended')), undefined);
  },
);

test('diagnostics reach the clipboard by a real click', { timeout: 60_000 }, async () => {
  await page.shortcut(',');
  await page.until('the section', () => page.one(id('about')));
  await page.click(await page.one(id('copy-diagnostics')));
  await page.until(
    'the message',
    async () => /Diagnostics copied/.test(await textOf('.toast')),
    10,
  );
  await page.shortcut('1');
  const composer = await page.until('the composer', () => page.one(id('composer')));
  await page.type(composer, '\uE009v\uE000');
  const pasted = await page.until(
    'the pasted text',
    () => page.run(`return document.querySelector('${id('composer')}').value`),
    10,
  );
  assert.match(pasted, /^Tandem: /);
  await page.run(
    `const c = document.querySelector('${id('composer')}'); c.value = ''; c.dispatchEvent(new Event('input', { bubbles: true }))`,
  );
});

test('a hub out of reach is said where the download began', { timeout: 120_000 }, async () => {
  await page.shortcut('4');
  const card = await page.until(
    'a pair to download',
    () =>
      page.run(
        `return [...document.querySelectorAll('${id('pair')}')].find((card) =>
           /Download/.test(card.querySelector('button:enabled')?.textContent))?.dataset.name`,
      ),
    20,
  );
  const at = `${id('pair')}[data-name="${card}"]`;
  await press(`${at} ${id('pair-use')}`);
  const problem = `${at} ${id('pair-problem')}`;
  await page.until('the reason', () => page.one(problem), 90);
  const text = await textOf(`${problem} p`);
  assert.match(text, /cannot be downloaded.*check the connection/);
  assert.doesNotMatch(text, /127\.0\.0\.1|os error/);
  const detail = await page.run(
    `const d = document.querySelector(arguments[0]); return [d.open, d.textContent]`,
    `${problem} details`,
  );
  assert.equal(detail[0], false, 'folded in');
  assert.match(detail[1], /os error/);
  assert.match(await textOf(`${at} ${id('pair-use')}`), /Try again/);
  await shoot('hub-away');
});

test('a file that is no model is refused in words', { timeout: 60_000 }, async () => {
  writeFileSync(path.join(files, 'no-model.gguf'), 'no model at all');
  await press(id('model-import'));
  await page.until('the reason', () => page.one(id('import-error')), 20);
  const text = await textOf(`${id('import-error')} p`);
  assert.match(text, /GGUF/);
  assert.doesNotMatch(text, /\n|::|backtrace|at \/|\.rs/i);
});

test('a file that is no conversation is refused in words', { timeout: 60_000 }, async () => {
  for (const [name, content] of [
    ['import.json', '{ "format": '],
    ['import.json', '[1, 2]'],
  ]) {
    writeFileSync(path.join(files, name), content);
    const refused = await page.run(
      `return window.__TAURI_INTERNALS__.invoke('conversations_import').then(
         () => null, (error) => error)`,
    );
    assert.match(refused.message, /nothing was imported$/);
    assert.doesNotMatch(refused.message, /line \d|column|expected|EOF|invalid/, refused.message);
  }
});

test('rows with an absurd time leave the window whole', { timeout: 120_000 }, async () => {
  await page.shortcut('1');
  for (const title of ['before all calendars', 'behind all calendars'])
    await invoke('conversation_create', { title });
  await page.close();
  const most = '9223372036854775807';
  sql(`UPDATE conversations SET updated_at = -${most} WHERE title LIKE 'before%'`);
  sql(
    `UPDATE conversations SET updated_at = ${most}, created_at = ${most} WHERE title LIKE 'behind%'`,
  );
  page = await open(program('tandem-app'), env);
  await page.until(
    'all conversations',
    async () => (await page.find(id('conversation'))).length === 3,
    30,
  );
  assert.ok(await page.one(id('composer')));
  assert.equal(await page.one(id('broken')), undefined);
});
