// `npm start` as a person uses it: one answer in the terminal, the chat without a display, the window.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { root } from '../../scripts/lib/system.mjs';

const data = mkdtempSync(path.join(os.tmpdir(), 'tandem-start-'));
after(() => rmSync(data, { recursive: true, force: true }));

/** `npm start` in a group of its own, so that a test can end all of it. */
function start(args, env = {}) {
  const clean = { ...process.env, TANDEM_DATA_DIR: data, ...env };
  if (!env.DISPLAY) delete clean.DISPLAY;
  delete clean.WAYLAND_DISPLAY;
  const child = spawn('npm', ['start', '--silent', '--', ...args], {
    cwd: root,
    env: clean,
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const out = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr']) {
    child[name].setEncoding('utf8');
    child[name].on('data', (text) => (out[name] += text));
  }
  const ended = new Promise((resolve) => child.on('close', (code) => resolve(code)));
  return { child, out, ended };
}

test('one prompt is answered on stdout, its figures on stderr', { timeout: 300_000 }, async () => {
  const args = ['--prompt', 'Write a haiku about rain.', '--max-tokens', '48'];
  const { child, out, ended } = start(args);
  child.stdin.end();
  let pieces = 0;
  child.stdout.on('data', () => (pieces += 1));
  assert.equal(await ended, 0, out.stderr);
  assert.match(out.stdout, /\w+ \w+/);
  assert.ok(pieces > 2, `the text came in ${pieces} pieces`);
  assert.match(out.stderr, /tokens\/s/);
  assert.match(out.stderr, /acceptance \d+ %/);
  assert.doesNotMatch(out.stderr, /Compiling|installing|Downloading/, 'something was done again');
});

test('without a display the chat is in the terminal', { timeout: 300_000 }, async () => {
  const { child, out, ended } = start([]);
  child.stdin.end('Say yes.\n');
  assert.equal(await ended, 0, out.stderr);
  assert.match(out.stderr, /there is no display/);
  assert.match(out.stdout, /\w/);
});

test('with a display a window opens, and its edge ends with it', { timeout: 300_000 }, async () => {
  const display = `:${500 + Math.floor(Math.random() * 400)}`;
  const xvfb = spawn('Xvfb', [display, '-screen', '0', '1100x800x24'], { stdio: 'ignore' });
  await sleep(1000);
  const { child, out, ended } = start([], { DISPLAY: display });
  try {
    const windows = () =>
      execFileSync('xwininfo', ['-root', '-tree', '-display', display], { encoding: 'utf8' });
    let seen = '';
    for (let i = 0; i < 900 && !/"Tandem"/.test(seen); i++) {
      await sleep(200);
      seen = windows();
    }
    assert.match(seen, /"Tandem"/, out.stderr);
  } finally {
    process.kill(-child.pid, 'SIGTERM');
    await ended;
    xvfb.kill();
  }
  await sleep(1500);
  const left = () => {
    try {
      return execFileSync('pgrep', ['-f', 'tandem-edge serve .*exit-with-parent'], {
        encoding: 'utf8',
      });
    } catch {
      return '';
    }
  };
  assert.equal(left(), '', 'an edge was left behind');
});
