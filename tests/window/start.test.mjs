// How the app starts: in the theme's colour from the first frame on, with its content before its models, and
// with both models beside each other. Nothing here depends on how fast the machine is.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { program } from '../../scripts/lib/system.mjs';
import { id, open, pixel } from './driver.mjs';

const data = mkdtempSync(path.join(os.tmpdir(), 'tandem-start-'));
const frames = mkdtempSync(path.join(os.tmpdir(), 'tandem-frames-'));
/** `--bg` of the page. */
const COLOURS = { light: '#fbfaf8', dark: '#161817' };
/** Of the screen without a window. */
const NOTHING = '#000000';
/** Where the page shows its background in every state: between the title and the first text. */
const PLACE = [700, 75];
let page;

after(async () => {
  await page?.close();
  for (const folder of [data, frames]) rmSync(folder, { recursive: true, force: true });
});

/** Starts the app; gives the colours that a place of the screen had until the content was there. */
async function launch() {
  await page?.close();
  rmSync(path.join(data, 'logs'), { recursive: true, force: true });
  const seen = [];
  const look = setInterval(() => {
    const colour = pixel(frames, PLACE);
    if (colour && colour !== seen.at(-1)) seen.push(colour);
  }, 5);
  try {
    page = await open(program('tandem-app'), { TANDEM_DATA_DIR: data }, { frames });
    await page.until('a composer', () => page.one(id('composer')));
    await page.until('content on the screen', async () => phases().includes('content painted'));
  } finally {
    clearInterval(look);
  }
  return seen.filter((colour) => colour !== NOTHING);
}

/** What the log says was reached, in order. */
function phases() {
  const folder = path.join(data, 'logs');
  const log = readdirSync(folder).map((name) => readFileSync(path.join(folder, name), 'utf8'));
  return [...log.join('').matchAll(/ start: (.*) ms=\d+$/gm)].map(([, what]) => what);
}

const keep = (theme) =>
  page.run(
    `const { invoke } = window.__TAURI_INTERNALS__;
    return invoke('settings_get').then((settings) =>
      invoke('settings_set', { settings: { ...settings, theme: arguments[0] } }))`,
    theme,
  );

test('the content is there before the models are loaded', { timeout: 240_000 }, async (t) => {
  await launch();
  await page.connected();
  const reached = phases();
  t.diagnostic(reached.join(', '));
  const before = (...order) => {
    const places = order.map((what) => reached.indexOf(what));
    assert.ok(!places.includes(-1), `${order} in ${reached}`);
    assert.deepEqual(places, places.toSorted((a, b) => a - b), `${order} in ${reached}`);
  };
  before('window made', 'store open', 'content painted', 'drafter begun', 'drafter loaded', 'connected');
  before('content painted', 'edge begun', 'edge ready', 'connected');
  // Neither model waits for the other.
  before('edge begun', 'drafter loaded');
  before('drafter begun', 'edge ready');
});

for (const theme of ['dark', 'light']) {
  test(`every frame of a start is ${theme} when that is chosen`, { timeout: 120_000 }, async () => {
    await keep(theme);
    const seen = await launch();
    assert.deepEqual(seen, [COLOURS[theme]]);
    assert.equal(await page.run('return document.documentElement.dataset.theme'), theme);
  });
}
