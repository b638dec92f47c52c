// The model manager in the real window: a download that is paused and goes on, an imported file, a
// pair that does not go together, a change of the pair with an answer from it, and deletion. The
// hub is a server in this file that behaves as the public one; the files are real models.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { DRAFTER, VERIFIER, cacheFolder, program } from '../../scripts/lib/system.mjs';
import { database, id, open } from './driver.mjs';

const SMALL = path.join(cacheFolder(), 'models', 'SmolLM2-135M-Instruct.Q4_1.gguf');
/** A model of the catalogue that is not here; the test's hub has the small model's bytes for it. */
const OTHER = 'qwen2.5-0.5b-instruct-q4_k_m';
const data = mkdtempSync(path.join(os.tmpdir(), 'tandem-models-'));
const folder = path.join(data, 'cache', 'models');
const own = path.join(data, 'own-small.gguf');
const shots = process.env.TANDEM_SCREENSHOTS;
let page;
let hub;
const ranges = [];

const sql = database(data);
const shoot = (name) => shots && page.screenshot(path.join(shots, `${name}.png`));
const row = (name) => `${id('model')}[data-name="${name}"]`;
const stateOf = (name) =>
  page.run(`return document.querySelector(arguments[0])?.dataset.state`, row(name));
const press = (css) => page.run('document.querySelector(arguments[0]).click()', css);
const choose = (name, value) =>
  page.run(
    `const s = document.querySelector(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change', { bubbles: true }))`,
    id(name),
    value,
  );
/** Sends 4 MB every tenth of a second, from where it is asked. */
async function send(request, response) {
  const size = statSync(SMALL).size;
  if (!request.url.startsWith('/bytes/')) {
    const hash = createHash('sha256').update(readFileSync(SMALL)).digest('hex');
    response.writeHead(302, {
      location: `/bytes${request.url}`,
      'x-linked-etag': `"${hash}"`,
      'x-linked-size': size,
    });
    return response.end();
  }
  const start = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
  ranges.push(start);
  const range = { 'content-range': `bytes ${start}-${size - 1}/${size}` };
  response.writeHead(start ? 206 : 200, {
    'content-length': size - start,
    ...(start ? range : {}),
  });
  for await (const chunk of createReadStream(SMALL, { start, highWaterMark: 4 << 20 })) {
    if (response.destroyed) return undefined;
    response.write(chunk);
    await sleep(100);
  }
  return response.end();
}

before(async () => {
  mkdirSync(folder, { recursive: true });
  for (const name of [DRAFTER, VERIFIER]) {
    const file = path.join(cacheFolder(), 'models', `${name}.gguf`);
    symlinkSync(file, path.join(folder, `${name}.gguf`));
    copyFileSync(`${file}.verified`, path.join(folder, `${name}.gguf.verified`));
  }
  copyFileSync(SMALL, own);
  hub = http.createServer(send).listen(0, '127.0.0.1');
  await new Promise((ready) => hub.once('listening', ready));
  page = await open(program('tandem-app'), {
    TANDEM_DATA_DIR: data,
    TANDEM_CACHE_DIR: path.join(data, 'cache'),
    TANDEM_HUB: `http://127.0.0.1:${hub.address().port}`,
    TANDEM_IMPORT_FILE: own,
  });
  await page.linked(VERIFIER);
  await page.shortcut('4');
  await page.until('the pairs', async () => (await page.find(id('pair'))).length > 5);
});
after(async () => {
  await page?.close();
  hub?.closeAllConnections();
  hub?.close();
  rmSync(data, { recursive: true, force: true });
});

test('the pair in use is shown, and what fits', { timeout: 60_000 }, async () => {
  const text = await page.text(await page.one(`${id('pair')}[data-name="${DRAFTER}+${VERIFIER}"]`));
  assert.match(text, /In use/);
  assert.match(text, /Compatible/);
  assert.match(text, /memory/);
  assert.equal(await stateOf(VERIFIER), 'ready');
  await shoot('models-light');
  await page.run("document.documentElement.dataset.theme = 'dark'");
  await shoot('models-dark');
  await page.size(390, 800);
  await sleep(400);
  await shoot('models-phone');
  await page.run("document.documentElement.dataset.theme = 'light'");
  await page.size(1100, 800);
});

test(
  'a download is paused, goes on where it was, and is checked',
  { timeout: 120_000 },
  async () => {
    await press(`${row(OTHER)} ${id('model-download')}`);
    await page.until(
      'a third of it',
      () =>
        page.run(
          `const p = document.querySelector(arguments[0]); return p && p.value > p.max / 3`,
          `${row(OTHER)} progress`,
        ),
      30,
    );
    await shoot('models-download');
    await press(`${row(OTHER)} ${id('model-pause')}`);
    await page.until('a pause', async () => (await stateOf(OTHER)) === 'partial', 10);
    const part = statSync(path.join(folder, `${OTHER}.gguf.part`)).size;
    assert.ok(part > 1e7 && part < statSync(SMALL).size, `${part} bytes`);
    await press(`${row(OTHER)} ${id('model-resume')}`);
    await page.until('the file', async () => (await stateOf(OTHER)) === 'ready', 60);
    assert.deepEqual(ranges, [0, part]);
    assert.ok(readFileSync(path.join(folder, `${OTHER}.gguf`)).equals(readFileSync(SMALL)));
  },
);

test('an imported file is refused beside another tokenizer', { timeout: 60_000 }, async () => {
  await press(id('model-import'));
  await page.until('the imported model', async () => (await stateOf('own-small')) === 'ready', 30);
  // It is the catalogue's file, and is called so; what it holds is mostly of other formats.
  assert.match(await page.text(await page.one(`${row('own-small')} .muted`)), /^135M · Q4_1 · .*Apache/);
  await choose('own-drafter', 'own-small');
  await choose('own-verifier', VERIFIER);
  const problem = await page.until('a problem', () => page.one(id('own-problem')), 15);
  assert.match(await page.text(problem), /different tokenizers/);
  assert.equal(await page.run(`return document.querySelector('${id('own-use')}').disabled`), true);
});

test('another pair is used at once and answers', { timeout: 180_000 }, async () => {
  await choose('own-verifier', 'own-small');
  await page.until('a pair that goes together', () => page.enabled(id('own-use')), 15);
  await press(id('own-use'));
  await page.linked('own-small');
  await page.shortcut('1');
  await page.until('the composer', () => page.one(id('composer')));
  await page.ask('Say yes.');
  await page.until(
    'the answer',
    async () => (await page.one(id('stats'))) && !(await page.one(id('stop'))),
    90,
  );
  const [[drafter, verifier]] = sql(
    'SELECT p.drafter, p.verifier FROM rounds r JOIN pairs p ON p.id = r.pair ORDER BY r.message DESC LIMIT 1',
  );
  assert.deepEqual([drafter, verifier], ['own-small', 'own-small']);
});

test(
  'a model in use stays; another can be deleted, and text is no model',
  { timeout: 180_000 },
  async () => {
    await page.shortcut('4');
    const remove = async (name) => {
      await page.until('its row', () => page.one(`${row(name)} ${id('model-delete')}`), 15);
      await press(`${row(name)} ${id('model-delete')}`);
      await page.until('the question', () => page.one(id('model-delete-sure')), 5);
      await press(id('model-delete-sure'));
    };
    await remove('own-small');
    await page.until(
      'a refusal',
      async () =>
        /in use/.test(await page.text(await page.one(`${row('own-small')} [role="alert"]`))),
      10,
    );
    assert.ok(existsSync(path.join(folder, 'own-small.gguf')));

    await press(`${id('pair')}[data-name="${DRAFTER}+${VERIFIER}"] ${id('pair-use')}`);
    await page.linked(VERIFIER);
    await remove('own-small');
    await page.until('it to be gone', async () => !(await page.one(row('own-small'))), 10);
    assert.ok(!existsSync(path.join(folder, 'own-small.gguf')) && existsSync(own));

    rmSync(own);
    writeFileSync(own, 'no model at all');
    await press(id('model-import'));
    await page.until(
      'an explanation',
      async () => /GGUF/.test(await page.text(await page.one(id('import-error')))),
      10,
    );
  },
);
