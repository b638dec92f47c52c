// What a machine must have before anything is built, and where things are kept.
import { spawn, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
export const DRAFTER = 'qwen2.5-coder-0.5b-instruct-q4_k_m';
export const VERIFIER = 'qwen2.5-coder-1.5b-instruct-q4_k_m';

/** Says what is being done; standard output belongs to the answer. */
export function say(text) {
  process.stderr.write(`tandem: ${text}\n`);
}

export function fail(text) {
  say(text);
  process.exit(1);
}

/** The folder for models and build output: the same that the programs use. */
export function cacheFolder(env = process.env, platform = process.platform, home = os.homedir()) {
  if (env.TANDEM_CACHE_DIR) return env.TANDEM_CACHE_DIR;
  if (platform === 'darwin') return path.join(home, 'Library', 'Caches', 'tandem');
  if (platform === 'win32') {
    const local = env.LOCALAPPDATA ?? path.join(home, 'AppData', 'Local');
    return path.join(local, 'tandem', 'cache');
  }
  return path.join(env.XDG_CACHE_HOME || path.join(home, '.cache'), 'tandem');
}

process.env.CARGO_TARGET_DIR ??= path.join(cacheFolder(), 'target');

/** A built program. */
export function program(name) {
  const file = process.platform === 'win32' ? `${name}.exe` : name;
  return path.join(process.env.CARGO_TARGET_DIR, 'release', file);
}

/**
 * Builds the programs, with the app if there is to be a window or it was built before: cargo chooses
 * features for all packages of one call together, so another set would build nearly all again. `more`
 * are further arguments for it.
 */
export async function build({ window = false, more = [], options = {} } = {}) {
  const app =
    window || (existsSync(program('tandem-app')) && existsSync(path.join(dist, 'index.html')));
  if (window) {
    await systemPackages(['libwebkit2gtk-4.1-dev']);
    await npmPackages();
    if (uiChanged()) {
      await must('npm', ['run', 'build', '-w', 'ui'], { shell: process.platform === 'win32' });
    }
  }
  const packages = ['tandem-cli', 'tandem-edge', ...(app ? ['tandem-app'] : [])];
  say('building (the first time takes some minutes)');
  const all = packages.flatMap((p) => ['-p', p]);
  await must('cargo', ['build', '--release', '--locked', ...all, ...more], options);
}

const dist = path.join(root, 'ui', 'dist');

/** Whether the built UI is older than what it is made from. */
function uiChanged() {
  const built = statSync(path.join(dist, 'index.html'), { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const ui = path.join(root, 'ui');
  const settings = readdirSync(ui, { withFileTypes: true }).filter((entry) => entry.isFile());
  const all = [
    ...readdirSync(path.join(ui, 'src'), { recursive: true }).map((file) => `src/${file}`),
    ...settings.map((entry) => entry.name),
    '../package-lock.json',
  ];
  return all.some((file) => statSync(path.join(ui, file)).mtimeMs > built);
}

/** Runs a command with its output on standard error; resolves with its exit code and output. */
export function run(command, args, { capture = false, ...options } = {}) {
  return new Promise((resolve) => {
    const stdio = capture ? ['ignore', 'pipe', 'pipe'] : ['ignore', 2, 2];
    const child = spawn(command, args, { cwd: root, stdio, shell: false, ...options });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8');
      stream?.on('data', (data) => {
        output += data;
        process.stderr.write(data);
      });
    }
    child.on('error', (error) => resolve({ code: 127, output: String(error) }));
    child.on('close', (code, signal) => resolve({ code: code ?? (signal ? 130 : 1), output }));
  });
}

export async function must(command, args, options) {
  const { code } = await run(command, args, options);
  if (code !== 0) fail(`\`${command} ${args.join(' ')}\` failed with ${code}`);
}

function has(command, args) {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0;
}

export function checkToolchain() {
  const cargo = spawnSync('cargo', ['--version'], { encoding: 'utf8' });
  if (cargo.status !== 0) fail('Rust is missing: install it from https://rustup.rs and try again');
  const [, major, minor] = /(\d+)\.(\d+)/.exec(cargo.stdout) ?? [];
  if (Number(major) === 1 && Number(minor) < 90) {
    fail(`Rust 1.90 or newer is needed, here is ${cargo.stdout.trim()}: run \`rustup update\``);
  }
  forgetOtherCheckout();
}

/**
 * Tauri's build scripts write the checkout's own path into what they make, and cargo does not see that
 * it is another one when two share this folder, or one was moved: what they made is forgotten then.
 */
function forgetOtherCheckout() {
  const target = process.env.CARGO_TARGET_DIR;
  const mark = path.join(target, 'checkout');
  if (existsSync(mark) && readFileSync(mark, 'utf8') === root) return;
  const mobile = path.join(target, 'mobile');
  const inside = (folder) =>
    existsSync(folder) ? readdirSync(folder).map((name) => path.join(folder, name)) : [];
  const made = [target, mobile, ...inside(mobile)]
    .flatMap((at) => ['debug', 'release'].map((profile) => path.join(at, profile)))
    .flatMap((at) => [...inside(path.join(at, 'build')), ...inside(path.join(at, '.fingerprint'))])
    .filter((at) => /^(tandem-app|tauri-plugin-tandem-mobile)-/.test(path.basename(at)));
  for (const folder of made) rmSync(folder, { recursive: true });
  mkdirSync(target, { recursive: true });
  writeFileSync(mark, root);
}

/** Installs Debian packages that are missing, if that is allowed here. */
export async function systemPackages(packages) {
  if (process.platform !== 'linux') return;
  if (!has('dpkg-query', ['--version'])) {
    say(`if the build fails, install what corresponds to: ${packages.join(' ')}`);
    return;
  }
  const installed = (name) => {
    const found = spawnSync('dpkg-query', ['-W', '-f', '${Status}', name], { encoding: 'utf8' });
    return found.stdout?.includes('ok installed');
  };
  const missing = packages.filter((name) => !installed(name));
  if (missing.length === 0) return;
  const sudo = process.getuid() === 0 ? [] : ['sudo', '-n'];
  const install = ['apt-get', 'install', '-y', '--no-install-recommends', ...missing];
  if (sudo.length && !has('sudo', ['-n', 'true'])) {
    fail(`packages are missing; run \`sudo ${install.join(' ')}\` and try again`);
  }
  say(`installing ${missing.join(' ')}`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const call = (args) => must([...sudo, ...args][0], [...sudo, ...args].slice(1), { env });
  await call(['apt-get', 'update', '-q']);
  await call(install);
}

/**
 * Python packages of these versions in a folder of the cache, those in `alone` without what they need;
 * resolves with an environment in which Python finds them.
 */
export async function pythonTools(name, versions, alone = []) {
  const wanted = ([tool, version]) => `${tool}==${version}`;
  const all = Object.entries(versions).filter(([tool]) => !alone.includes(tool)).map(wanted);
  const bare = Object.entries(versions).filter(([tool]) => alone.includes(tool)).map(wanted);
  const folder = path.join(cacheFolder(), 'tools', `${name}-${Object.values(versions).join('-')}`);
  if (!existsSync(folder)) {
    say(`installing ${all.join(', ')}`);
    // Moved when it is whole: what was broken off is begun again.
    const part = `${folder}.part`;
    rmSync(part, { recursive: true, force: true });
    const pip = ['-m', 'pip', 'install', '-q', '--root-user-action=ignore', '--target', part];
    await must('python3', [...pip, ...all]);
    if (bare.length) await must('python3', [...pip, '--no-deps', ...bare]);
    renameSync(part, folder);
  }
  return { ...process.env, PYTHONPATH: folder };
}

/** `npm ci`, if what is installed is not what the lock says. */
export async function npmPackages() {
  const lock = readFileSync(path.join(root, 'package-lock.json'));
  const sum = createHash('sha256').update(lock).digest('hex');
  const stamp = path.join(root, 'node_modules', '.tandem-lock');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === sum) return;
  say('installing npm packages');
  await must('npm', ['ci', '--no-audit', '--no-fund'], { shell: process.platform === 'win32' });
  writeFileSync(stamp, sum);
}

/** Downloads models that are not here and checks them. Needs the built `tandem`. */
export async function models(names) {
  for (const name of names) await must(program('tandem'), ['models', 'download', name]);
}
