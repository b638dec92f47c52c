/**
 * Where things are on this machine, and how the scripts talk to people.
 *
 * Standard output belongs to the answer; everything that the scripts say goes to standard error.
 */
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The checkout. */
export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

/** The models that `npm start` uses and the one more that the tests need. */
export const DRAFTER = 'qwen2.5-coder-0.5b-instruct-q4_k_m';
export const VERIFIER = 'qwen2.5-coder-1.5b-instruct-q4_k_m';
export const TEST_MODEL = 'smollm2-135m-instruct-q4_1';

/** A failure whose text says what happened and what to do; shown without a stack. */
export class Problem extends Error {}

/**
 * Says what is being done.
 * @param {string} text
 */
export function say(text) {
  process.stderr.write(`tandem: ${text}\n`);
}

/**
 * The folder for models and build output: the same that the programs use (the crate `directories`).
 * @param {Record<string, string | undefined>} env
 * @param {string} platform as in `process.platform`
 * @param {string} home
 * @returns {string}
 */
export function cacheFolder(env = process.env, platform = process.platform, home = os.homedir()) {
  if (env.TANDEM_CACHE_DIR) return env.TANDEM_CACHE_DIR;
  if (platform === 'darwin') return path.join(home, 'Library', 'Caches', 'tandem');
  if (platform === 'win32') {
    const local = env.LOCALAPPDATA || path.join(home, 'AppData', 'Local');
    return path.join(local, 'tandem', 'cache');
  }
  // A relative path in this variable is invalid and ignored, says its standard.
  const xdg = env.XDG_CACHE_HOME;
  return path.join(xdg && path.isAbsolute(xdg) ? xdg : path.join(home, '.cache'), 'tandem');
}

// For every cargo that the scripts start, so that one folder holds one build.
process.env.CARGO_TARGET_DIR ||= path.join(cacheFolder(), 'target');
const target = path.resolve(root, process.env.CARGO_TARGET_DIR);

/**
 * Path of a built program.
 * @param {string} name
 * @returns {string}
 */
export function program(name) {
  const file = process.platform === 'win32' ? `${name}.exe` : name;
  return path.join(target, 'release', file);
}

/**
 * Whether a window can be shown.
 * @param {Record<string, string | undefined>} env
 * @param {string} platform
 * @returns {boolean}
 */
export function hasDisplay(env = process.env, platform = process.platform) {
  return platform !== 'linux' || Boolean(env.DISPLAY || env.WAYLAND_DISPLAY);
}
