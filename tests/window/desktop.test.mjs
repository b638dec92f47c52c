// What a desktop gives to an app: notes while the person looks elsewhere, a window that is found as it
// was left, one instance, and a key store. On a session bus and a window manager of the test's own.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { VERIFIER, cacheFolder, program } from '../../scripts/lib/system.mjs';
import { database, id, line, open } from './driver.mjs';

const home = mkdtempSync(path.join(os.tmpdir(), 'tandem-desktop-'));
const data = path.join(home, 'tandem');
const state = path.join(home, 'edge');
const sql = database(data);
// Debian's, for which `python3-gi` is: there may be another one before it.
const python = '/usr/bin/python3';
const helper = fileURLToPath(new URL('bus.py', import.meta.url));
const env = {
  ...process.env,
  XDG_DATA_HOME: home,
  XDG_CONFIG_HOME: home,
  XDG_RUNTIME_DIR: home,
  TANDEM_CACHE_DIR: cacheFolder(),
};
// With it there could be two instances.
delete env.TANDEM_DATA_DIR;
delete env.TANDEM_KEY_STORE;
const started = [];
const notes = [];
let page;
let frame;

function start(program, args, options = {}) {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 2], env, ...options });
  started.push(child);
  return child;
}

const x = (...args) =>
  execFileSync('xdotool', args, {
    encoding: 'utf8',
    env: { ...env, DISPLAY: page.display },
  }).trim();
const size = () => /Geometry: (\d+x\d+)/.exec(x('getwindowgeometry', frame))[1];
const focused = () => page.run('return document.hasFocus()');
const invoke = (command, args) =>
  page.run(
    'return window.__TAURI_INTERNALS__.invoke(arguments[0], arguments[1])',
    command,
    args ?? {},
  );

async function launch() {
  page = await open(program('tandem-app'), env, { managed: true, width: 1300, height: 900 });
  await page.until('a composer', () => page.one(id('composer')), 30);
  await page.until('the focus', focused, 10);
  frame = x('getactivewindow');
}

/** Closes the window as a person does, and waits for the program's end. */
async function quit() {
  const pid = String(page.pid());
  // What was just paired may have taken the keyboard for a moment: keys go to who has it.
  x('windowactivate', '--sync', frame);
  x('key', 'alt+F4');
  const gone = () => !readdirSync('/proc').includes(pid);
  try {
    await page.until('the end of the app', async () => gone(), 10);
  } catch (error) {
    const windows = x('search', '--onlyvisible', '--name', '.');
    throw new Error(`${error.message}; active: ${x('getactivewindow')}, all: ${windows}`);
  }
  await page.close();
}

before(async () => {
  mkdirSync(home, { recursive: true });
  // No services that it would start by itself, as a desktop's bus has.
  const config = path.join(home, 'bus.conf');
  writeFileSync(
    config,
    `<busconfig><type>session</type><listen>unix:dir=${home}</listen><policy context="default">
     <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`,
  );
  const bus = start('dbus-daemon', [`--config-file=${config}`, '--nofork', '--print-address']);
  env.DBUS_SESSION_BUS_ADDRESS = await line(bus, /^(unix:.*)/);
  const daemon = start(python, [helper, 'notifications']);
  await line(daemon, /^"(ready)"/);
  createInterface({ input: daemon.stdout }).on('line', (text) => notes.push(JSON.parse(text)));
  await launch();
  await page.connected();
});
after(async () => {
  await page?.close();
  for (const child of started) child.kill();
  await sleep(300);
  rmSync(home, { recursive: true, force: true });
});

/** An answer of so many tokens, and so many seconds for which the app is stopped in the middle. */
async function answer(maxTokens, seconds, { hidden, question = 'Tell me of the xylophone of Zanzibar.' }) {
  const settings = await invoke('settings_get');
  await invoke('settings_set', { settings: { ...settings, maxTokens } });
  const answers = () => sql("SELECT count(*) FROM messages WHERE role = 'assistant' AND status = 'done'");
  const [[before]] = answers();
  await page.ask(question);
  await page.until('a beginning', () => page.one(id('stop')), 20);
  if (hidden) {
    x('windowminimize', frame);
    await page.until('no focus', async () => !(await focused()), 10);
  }
  if (seconds > 0) {
    assert.equal(answers()[0][0], before, 'it ended too early');
    const app = page.pid();
    process.kill(app, 'SIGSTOP');
    await sleep(seconds * 1000);
    process.kill(app, 'SIGCONT');
  }
  await page.until('the end', async () => answers()[0][0] > before, 60);
  // What is to be shown was asked for by now.
  await sleep(1000);
}

test('the end of a long answer is told to whoever looks elsewhere', { timeout: 240_000 }, async () => {
  await answer(150, 10, { hidden: false });
  assert.deepEqual(notes, [], 'whoever waits at the window sees it');
  await answer(32, 0, { hidden: true });
  assert.deepEqual(notes, [], 'a short answer is not worth a note');
  x('windowactivate', frame);
  await page.until('the focus', focused, 10);
  // Long enough for the window to go, and nothing that the chat has said before and could be looked up.
  const question = 'Write the numbers from one to one hundred as words.';
  await answer(400, 10, { hidden: true, question });
  assert.equal(notes.length, 1);
  const [{ title, body }] = notes;
  assert.deepEqual([title, body], ['Tandem', 'Your answer is ready.'], 'and no word of a chat');
});

test('a second start brings the hidden window back and ends', { timeout: 60_000 }, async () => {
  assert.equal(await focused(), false);
  const second = start(program('tandem-app'), [], { env: { ...env, DISPLAY: page.display } });
  const ended = new Promise((resolve) => second.on('exit', resolve));
  assert.equal(await Promise.race([ended, sleep(15_000, 'it runs')]), 0);
  await page.until('the window in front', focused, 10);
});

test('the window is found as it was left', { timeout: 120_000 }, async () => {
  assert.notEqual(size(), '900x640');
  x('windowsize', '--sync', frame, '900', '640');
  x('windowmove', '--sync', frame, '120', '90');
  await page.until('the size', async () => size() === '900x640', 10);
  const place = () => x('getwindowgeometry', frame);
  await sleep(500);
  const left = place();
  await quit();
  await launch();
  await page.until('the size', async () => size() === '900x640', 10);
  assert.equal(place().replace(/^.*\n/, ''), left.replace(/^.*\n/, ''));
});

/** Pairs with the edge, and gives the box as the window knows it. */
async function pair(address) {
  const child = start(program('tandem-edge'), ['pair', '--state', state]);
  const code = await line(child, /^\s+code\s+(\S+)/);
  return invoke('box_pair', { place: address, code });
}
/** What the key store has for us under a name. */
const secret = (name) =>
  execFileSync(python, [helper, 'secret', name], { env, encoding: 'utf8' }).trim();
const inFiles = (text) =>
  readdirSync(data, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .filter((entry) => readFileSync(path.join(entry.parentPath, entry.name)).includes(text))
    .map((entry) => entry.name);

test(
  'a token is in the key store where there is one, and in a file where there is none',
  { timeout: 180_000 },
  async () => {
    const edge = start(
      program('tandem-edge'),
      'serve --listen 127.0.0.1:0 --tls --name attic'.split(' ').concat('--model', VERIFIER, '--state', state),
    );
    const address = (await line(edge, /ready at (wss:\S+)/)).replace('wss://', '');
    const first = await pair(address);
    assert.equal(first.kept, 'file');
    const keys = start('gnome-keyring-daemon', [
      '--foreground',
      '--unlock',
      '--components=secrets',
    ]);
    keys.stdin.end('a password');
    await page.until('the key store', async () => secret('none') === '', 10);
    // It is looked for once, when a token is first kept.
    await quit();
    await launch();
    const box = await pair(address);
    assert.equal(box.kept, 'system');
    const [[name]] = sql("SELECT device FROM boxes WHERE kind = 'paired'");
    const token = secret(name);
    assert.match(token, /^tandem_\S{20,}$/);
    assert.deepEqual(inFiles(token), []);
    await invoke('box_choose', { id: box.id });
    await page.linked('attic');
    await quit();
    await launch();
    await page.linked('attic');
    assert.equal(secret(name), token);

    keys.kill();
    await quit();
    await launch();
    const problem = async () => (await invoke('app_status')).edge.detail ?? '';
    await page.until('an explanation', async () => /key store/.test(await problem()), 20);
    const again = await pair(address);
    assert.equal(again.kept, 'file');
    const [kept] = Object.values(JSON.parse(readFileSync(path.join(data, 'tokens.json'))));
    assert.deepEqual(inFiles(kept), ['tokens.json']);
    await page.linked('attic');
  },
);
