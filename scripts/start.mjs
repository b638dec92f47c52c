// `npm start`: sets everything up and opens the app, or chats in the terminal.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import {
  DRAFTER,
  VERIFIER,
  build,
  checkToolchain,
  fail,
  models,
  program,
  root,
  say,
} from './lib/system.mjs';

const args = process.argv.slice(2);
const display = process.platform !== 'linux' || process.env.DISPLAY || process.env.WAYLAND_DISPLAY;
const terminal = args.length > 0 || !display;

checkToolchain();
if (!display && args.length === 0) say('there is no display, so this is the chat in the terminal');
await build({ window: !terminal });
await models([DRAFTER, VERIFIER]);
process.exitCode = terminal ? await chat() : await window();

/** The terminal's chat with an edge of its own. */
async function chat() {
  say('starting the edge');
  const serve = ['serve', '--model', VERIFIER, '--listen', '127.0.0.1:0', '--exit-with-parent'];
  // Its own group, so that Ctrl-C reaches only the chat.
  const edge = spawn(program('tandem-edge'), serve, {
    stdio: ['pipe', 'pipe', 2],
    detached: true,
    env: { ...process.env, RUST_LOG: process.env.RUST_LOG ?? 'warn' },
  });
  const url = await new Promise((resolve) => {
    const lines = createInterface({ input: edge.stdout });
    lines.on('line', (line) => resolve(/ready at (ws:\S+)/.exec(line)?.[1]));
    edge.on('exit', () => resolve(undefined));
  });
  if (!url) fail('the edge did not start; its message is above');
  const child = spawn(program('tandem'), ['chat', '--edge', url, '--drafter', DRAFTER, ...args], {
    cwd: root,
    stdio: 'inherit',
  });
  // The chat decides what Ctrl-C means.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGINT'));
  const code = await new Promise((resolve) => child.on('close', (code) => resolve(code ?? 1)));
  edge.stdin.end();
  await new Promise((resolve) => (edge.exitCode === null ? edge.on('exit', resolve) : resolve()));
  return code;
}

/** The app. */
async function window() {
  say('opening the window');
  const app = spawn(program('tandem-app'), [], { cwd: root, stdio: 'inherit' });
  return new Promise((resolve) => app.on('close', (code) => resolve(code ?? 1)));
}
