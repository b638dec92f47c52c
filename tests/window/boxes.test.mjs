// Pairs with a second edge process by code, chats through it, and revokes it, in the real window.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { VERIFIER, program } from '../../scripts/lib/system.mjs';
import { database, id, line, open } from './driver.mjs';

const data = mkdtempSync(path.join(os.tmpdir(), 'tandem-boxes-'));
const state = path.join(data, 'second-edge');
const shots = process.env.TANDEM_SCREENSHOTS;
let page;
let edge;
let url;

const sql = database(data);
const shoot = (name) => shots && page.screenshot(path.join(shots, `${name}.png`));
const devices = () => JSON.parse(readFileSync(path.join(state, 'devices.json'), 'utf8'));

/** How many bundled edges this test's app runs. */
function bundled() {
  const read = (pid, file) => {
    try {
      return readFileSync(`/proc/${pid}/${file}`, 'utf8');
    } catch {
      return '';
    }
  };
  return readdirSync('/proc').filter(
    (pid) =>
      /^\d+$/.test(pid) &&
      read(pid, 'cmdline').includes('--exit-with-parent') &&
      read(pid, 'environ').includes(data),
  ).length;
}

function pairing() {
  const child = spawn(program('tandem-edge'), ['pair', '--state', state], {
    stdio: ['ignore', 'pipe', 2],
  });
  return { child, code: line(child, /^\s+code\s+(\S+)/) };
}

async function fill(css, text) {
  const field = await page.one(css);
  await page.run(`document.querySelector('${css}').value = ''`);
  await page.type(field, text);
}

/** The card of the box that is not the bundled one. */
const card = (part) => `${id('box')}:nth-of-type(2) ${part}`;

before(async () => {
  const serve = ['serve', '--model', VERIFIER, '--listen', '127.0.0.1:0', '--tls'];
  edge = spawn(program('tandem-edge'), [...serve, '--name', 'attic', '--state', state], {
    stdio: ['ignore', 'pipe', 2],
    env: { ...process.env, RUST_LOG: 'warn' },
  });
  url = await line(edge, /ready at (wss:\S+)/);
  page = await open(program('tandem-app'), { TANDEM_DATA_DIR: data, TANDEM_KEY_STORE: 'file' });
  await page.connected();
  assert.equal(bundled(), 1);
});
after(async () => {
  await page?.close();
  edge?.kill();
  rmSync(data, { recursive: true, force: true });
});

test('a wrong code is explained, the right one pairs', { timeout: 120_000 }, async () => {
  await page.shortcut('3');
  await page.until('the bundled box', async () => (await page.find(id('box'))).length === 1);
  await shoot('boxes-empty');
  const { child, code } = pairing();
  const right = await code;
  const address = url.replace('wss://', '');
  await fill(id('box-place'), address);
  await fill(id('box-code'), right === '0000-0000' ? '1111-1111' : '0000-0000');
  await page.click(await page.one(id('box-pair')));
  const problem = await page.until('an explanation', () => page.one(id('box-add-problem')), 15);
  assert.match(await page.text(problem), /wrong/);
  assert.equal(sql("SELECT count(*) FROM boxes WHERE kind = 'paired'")[0][0], 0);

  await fill(id('box-place'), address);
  await fill(id('box-code'), right.toLowerCase());
  const ended = new Promise((resolve) => child.on('exit', resolve));
  await page.click(await page.one(id('box-pair')));
  await page.until('the new box', async () => (await page.find(id('box'))).length === 2, 15);
  assert.equal(await ended, 0);
  assert.equal(devices().length, 1);
  const [[name, kept]] = sql("SELECT name, address FROM boxes WHERE kind = 'paired'");
  assert.deepEqual([name, kept], ['attic', address]);
  await shoot('boxes-light');
  await page.run("document.documentElement.dataset.theme = 'dark'");
  await shoot('boxes-dark');
  await page.run("document.documentElement.dataset.theme = 'light'");
});

test('the link is tested, and the box answers a chat', { timeout: 240_000 }, async () => {
  await page.click(await page.one(card(id('box-test'))));
  await page.until(
    'a round trip',
    async () => / ms /.test(await page.text(await page.one(card(id('box-result'))))),
    15,
  );
  await page.click(await page.one(card(id('box-use'))));
  await page.until('the box in use', () =>
    page.one(`${id('box')}:nth-of-type(2)[data-active="true"]`),
  );
  await page.connected();
  const list = () =>
    execFileSync(program('tandem-edge'), ['devices', 'list', '--state', state], {
      encoding: 'utf8',
    });
  await page.shortcut('1');
  await page.until('the composer', () => page.one(id('composer')));
  await page.ask('Write a haiku about rain.');
  await page.until(
    'the answer',
    () => page.one(`${id('message-assistant')}[data-status="done"]`),
    150,
  );
  const [[mode, rounds]] = sql('SELECT min(mode), count(*) FROM rounds');
  assert.equal(mode, 'dssd');
  assert.ok(rounds > 1);
  // The bundled edge has ended: these rounds can only be the second one's.
  await page.until('the bundled edge to end', async () => bundled() === 0);
  assert.match(list(), /used just now/);
});

test(
  'revoking it goes back to the bundled edge and forgets the token on both sides',
  { timeout: 120_000 },
  async () => {
    await page.shortcut('3');
    await page.until('both boxes', async () => (await page.find(id('box'))).length === 2);
    await page.click(await page.one(card(id('box-revoke'))));
    await page.click(await page.until('a question', () => page.one(id('box-confirm'))));
    await page.until('one box', async () => (await page.find(id('box'))).length === 1, 20);
    assert.deepEqual(devices(), []);
    assert.equal(readFileSync(path.join(data, 'tokens.json'), 'utf8').includes('tandem_'), false);
    await page.connected();
    assert.equal(
      await page.run(`return document.querySelector('${id('box')}').dataset.active`),
      'true',
    );
  },
);

test('a device that the box revokes is told why', { timeout: 120_000 }, async () => {
  const { code } = pairing();
  await fill(id('box-place'), url);
  await fill(id('box-code'), await code);
  await page.click(await page.one(id('box-pair')));
  await page.until('the box', () => page.one(card(id('box-use'))), 15);
  await page.click(await page.one(card(id('box-use'))));
  await page.linked('attic');
  const [{ id: device }] = devices();
  execFileSync(program('tandem-edge'), ['devices', 'revoke', device, '--state', state]);
  // First the end of the connection is told, then what the box says to the next one.
  await page.until(
    'an explanation',
    async () =>
      /does not know this device/.test(await page.text(await page.one(card(id('box-problem'))))),
    20,
  );
  assert.ok(await page.one(`${id('status-badge')}[data-edge="offline"]`));
  await page.size(390, 800);
  await shoot('boxes-phone');
});
