/**
 * Running commands, and ending them with the script.
 *
 * Each command leads a process group of its own. A terminal's Ctrl-C then reaches the script alone,
 * and the script ends each group once: cargo's test programs and the tests' servers as well.
 */
import { spawn } from 'node:child_process';
import os from 'node:os';
import { Problem, root, say } from './system.mjs';

/** Time that an interrupted command has for ending by itself. */
const GRACE_MS = 10_000;
const groups = process.platform !== 'win32';
/** @type {Set<import('node:child_process').ChildProcess>} */
const running = new Set();
/** @type {((signal: NodeJS.Signals) => void) | undefined} */
let interrupted;

/**
 * Starts a command in the checkout, in a group of its own, which ends with the script.
 * @param {string} command
 * @param {string[]} args
 * @param {import('node:child_process').SpawnOptions} options
 * @returns {import('node:child_process').ChildProcess}
 */
export function start(command, args, options = {}) {
  const child = spawn(command, args, { cwd: root, detached: groups, ...options });
  running.add(child);
  child.on('close', () => running.delete(child));
  child.on('error', () => running.delete(child));
  return child;
}

/**
 * Exit code of an ended process, as a shell gives it.
 * @param {number | null} code
 * @param {NodeJS.Signals | null} signal
 * @returns {number}
 */
export function exitCode(code, signal) {
  return code ?? 128 + ((signal && os.constants.signals[signal]) || 1);
}

/**
 * Runs a command with its output on standard error.
 * @param {string} command
 * @param {string[]} args
 * @param {{ capture?: boolean, env?: NodeJS.ProcessEnv, quiet?: boolean }} options `capture` also
 *   gives the output back
 * @returns {Promise<{ code: number, output: string }>} never rejects: 127 says that there is no
 *   such command
 */
export function run(command, args, { capture = false, env = process.env } = {}) {
  return new Promise((resolve) => {
    /** @type {import('node:child_process').StdioOptions} */
    const stdio = capture ? ['ignore', 'pipe', 'pipe'] : ['ignore', 2, 2];
    // npm is a script on Windows, and only a shell runs it there.
    const shell = !groups && command === 'npm';
    const child = start(command, args, { stdio, shell, env });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8');
      stream?.on('data', (data) => {
        output += data;
        process.stderr.write(data);
      });
    }
    child.on('error', (error) => resolve({ code: 127, output: String(error) }));
    child.on('close', (code, signal) => resolve({ code: exitCode(code, signal), output }));
  });
}

/**
 * Runs a command that must succeed.
 * @param {string} command
 * @param {string[]} args
 * @param {{ env?: NodeJS.ProcessEnv }} options
 */
export async function must(command, args, options) {
  const { code } = await run(command, args, options);
  if (code !== 0) {
    throw new Problem(`\`${[command, ...args].join(' ')}\` failed with exit code ${code}`);
  }
}

/** @param {NodeJS.Signals} signal */
function signalAll(signal) {
  for (const child of running) {
    try {
      if (groups && child.pid) process.kill(-child.pid, signal);
      else child.kill(signal);
    } catch {
      // It has just ended.
    }
  }
}

/** @param {NodeJS.Signals} signal */
function endAll(signal) {
  const code = exitCode(null, signal);
  const end = () => running.size === 0 && process.exit(code);
  signalAll('SIGINT');
  setInterval(end, 20);
  setTimeout(() => {
    signalAll('SIGKILL');
    process.exit(code);
  }, GRACE_MS);
}

/**
 * What Ctrl-C means from now on; without an argument: end everything.
 * @param {(signal: NodeJS.Signals) => void} [handler]
 */
export function onInterrupt(handler) {
  interrupted = handler;
}

/**
 * The frame of a script: ends its commands on Ctrl-C, shows a `Problem` as a line.
 * @param {() => Promise<number>} work gives the exit code
 */
export async function main(work) {
  let ending = false;
  for (const signal of /** @type {NodeJS.Signals[]} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
    process.on(signal, () => {
      if (interrupted) return interrupted(signal);
      // A terminal's Ctrl-C comes twice: from it, and passed on by npm.
      if (!ending) endAll(signal);
      ending = true;
    });
  }
  try {
    process.exitCode = await work();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(error.message);
    process.exitCode = 1;
  }
}
