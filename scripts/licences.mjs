// `npm run licences`: writes the list that the app shows, of everything that it is built with. With
// `--check` it only says whether the list is true.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { spawnSync } from 'node:child_process';
import { fail, root, say } from './lib/system.mjs';

const file = path.join(root, 'ui', 'src', 'lib', 'licences.json');

function crates() {
  const args = ['metadata', '--locked', '--format-version', '1'];
  const { status, stdout } = spawnSync('cargo', args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'pipe', 2],
  });
  if (status !== 0) fail('`cargo metadata` failed');
  const outside = JSON.parse(stdout).packages.filter(({ source }) => source !== null);
  return outside.map(({ name, version, license }) => [name, version, license ?? '']);
}

/** What goes into the window; tools of the build do not. */
function npm() {
  const { packages } = JSON.parse(readFileSync(path.join(root, 'package-lock.json'), 'utf8'));
  return Object.entries(packages)
    .filter(([at, { dev, link }]) => at.startsWith('node_modules/') && !dev && !link)
    .map(([at, { version, license }]) => [
      at.slice(at.lastIndexOf('node_modules/') + 'node_modules/'.length),
      version,
      license ?? '',
    ]);
}

const list = [...crates(), ...npm()].sort((a, b) => (a.join() < b.join() ? -1 : 1));
const text = `[\n${list.map((entry) => `  ${JSON.stringify(entry)}`).join(',\n')}\n]\n`;
const unnamed = list.filter((entry) => !entry[2]);
if (unnamed.length > 0) fail(`no licence is stated by ${unnamed.join('; ')}`);
if (!process.argv.includes('--check')) writeFileSync(file, text);
else if (readFileSync(file, 'utf8') !== text) {
  fail('the list of licences is out of date: run `npm run licences`');
}
say(`${list.length} packages and their licences`);
