// `npm run check:all`: the checks that are too long for `npm test`, or need the network; says how long
// each took. `-- NAME …` runs only these.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { root, run, say } from './lib/system.mjs';

const { scripts } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));
const all = Object.keys(scripts).filter(
  (name) => name.startsWith('check:') && name !== 'check:all',
);
const wanted = process.argv.slice(2).map((name) => (name.includes(':') ? name : `check:${name}`));
const unknown = wanted.filter((name) => !all.includes(name));
if (unknown.length > 0) {
  say(`there is no ${unknown.join(', ')}; there are: ${all.join(', ')}`);
  process.exit(2);
}

// What asks a list of known vulnerabilities says so when the list cannot be reached.
const AWAY = /audit endpoint returned an error|failed to fetch advisory database/;
const done = [];
const shell = process.platform === 'win32';
async function check(name, args) {
  const start = Date.now();
  say(`--- ${name}`);
  const { code, output } = await run('npm', args, { shell, capture: true });
  const result = code === 0 ? 'ok' : AWAY.test(output) ? 'not reached' : 'FAILED';
  done.push({ name, result, seconds: Math.round((Date.now() - start) / 1000) });
}
for (const name of wanted.length > 0 ? wanted : all) await check(name, ['run', '-s', name]);
if (wanted.length === 0) {
  await check('known vulnerabilities: crates', ['run', '-s', 'check:deny', '--', '--advisories']);
  await check('known vulnerabilities: npm', ['audit', '--audit-level=moderate']);
}
for (const { name, result, seconds } of done) say(`${result}: ${name} (${seconds} s)`);
const away = done.filter(({ result }) => result === 'not reached').map(({ name }) => name);
if (away.length > 0) say(`NOT CHECKED, their lists cannot be reached from here: ${away.join('; ')}`);
process.exitCode = done.some(({ result }) => result === 'FAILED') ? 1 : 0;
