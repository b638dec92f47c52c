// `npm test`: everything, on a clean clone. Goes on after a failed step and counts at the end.
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import {
  DRAFTER,
  VERIFIER,
  build,
  checkToolchain,
  models,
  pythonTools,
  root,
  run,
  say,
  systemPackages,
} from './lib/system.mjs';

let passed = 0;
let failed = 0;

/** Runs a step; `count` reads [passed, failed] tests from its output, otherwise the step is one. */
async function step(name, command, args, count) {
  const start = Date.now();
  say(`--- ${name}`);
  const { code, output } = await run(command, args, { capture: true });
  const [good, bad] = count?.(output) ?? [0, 0];
  passed += good + (good + bad === 0 && code === 0 ? 1 : 0);
  failed += bad + (bad === 0 && code !== 0 ? 1 : 0);
  const seconds = ((Date.now() - start) / 1000).toFixed(0);
  say(`${code === 0 ? 'ok' : 'FAILED'}: ${name} (${seconds} s)`);
}

const sum = (output, pattern) =>
  [...output.matchAll(pattern)].reduce((n, match) => n + Number(match[1]), 0);
const cargoTests = (output) => [
  sum(output, /test result: \w+\. (\d+) passed/g),
  sum(output, /test result: \w+\. \d+ passed; (\d+) failed/g),
];
const colour = new RegExp(String.fromCharCode(27) + '\\[[0-9;]*m', 'g');
const vitest = (output) => {
  const plain = output.replace(colour, '');
  return [sum(plain, /^\s*Tests\s+.*?(\d+) passed/gm), sum(plain, /^\s*Tests\s+(\d+) failed/gm)];
};

const nodeTests = (output) => [sum(output, /^. pass (\d+)/gm), sum(output, /^. fail (\d+)/gm)];

checkToolchain();
await systemPackages([
  'webkit2gtk-driver',
  'xvfb',
  'x11-utils',
  'dbus-daemon',
  'python3-gi',
  'gnome-keyring',
  'openbox',
  'xdotool',
  'chromium',
  'haproxy',
  'python3-venv',
]);
await build({ window: true });
await models([DRAFTER, VERIFIER, 'smollm2-135m-instruct-q4_1']);

const { scripts } = JSON.parse(readFileSync(path.join(root, 'ui', 'package.json'), 'utf8'));
await step('rust: format', 'cargo', ['fmt', '--all', '--check']);
for (const name of ['check', 'lint', 'test'].filter((name) => scripts[name])) {
  await step(`ui: ${name}`, 'npm', ['run', name, '-w', 'ui'], name === 'test' ? vitest : undefined);
}
await step('ui: chromium', 'npm', ['run', 'test:chromium', '-w', 'ui'], nodeTests);
await step('rust: clippy', 'cargo', [
  'clippy',
  '--release',
  '--locked',
  '--workspace',
  '--all-targets',
  '--',
  '-D',
  'warnings',
]);
await step('list of licences', 'node', ['scripts/licences.mjs', '--check']);
await step('rust: licences and sources', 'node', ['scripts/check-deny.mjs']);
await step('native sources: syntax', 'node', ['scripts/check-native.mjs']);
await step('workflows', 'node', ['scripts/check-workflows.mjs']);
// The reference of the chat templates' test (crates/inference/tests/chat_templates.rs), which names this
// folder; trl has templates and needs nothing of what it would bring.
await pythonTools(
  'templates',
  { transformers: '5.24.0', tokenizers: '0.23.3', jinja2: '3.1.6', trl: '1.16.0' },
  ['trl'],
);
await step(
  'rust: tests',
  'cargo',
  ['test', '--release', '--locked', '--no-fail-fast', '--workspace'],
  cargoTests,
);
await step('open door', 'node', ['--test', 'tests/openai/openai.test.mjs'], nodeTests);
const windows = readdirSync(path.join(root, 'tests', 'window'))
  .filter((name) => name.endsWith('.test.mjs'))
  .map((name) => path.join('tests', 'window', name));
await step('app: window', 'node', ['--test', '--test-concurrency=1', ...windows], nodeTests);
await step('npm start', 'node', ['--test', 'tests/start/start.test.mjs'], nodeTests);
say(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
