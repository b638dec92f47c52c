// `npm run check:deny`: licences, sources and banned crates, by cargo-deny. With `--advisories`
// the list of known vulnerabilities instead, which needs the network.
import { existsSync } from 'node:fs';
import path from 'node:path';
import { cacheFolder, must, say } from './lib/system.mjs';

const VERSION = '0.20.2';
const folder = path.join(cacheFolder(), 'tools', `cargo-deny-${VERSION}`);
const file = path.join(
  folder,
  'bin',
  process.platform === 'win32' ? 'cargo-deny.exe' : 'cargo-deny',
);
if (!existsSync(file)) {
  say(`building cargo-deny ${VERSION} (once, some minutes)`);
  await must('cargo', [
    'install',
    'cargo-deny',
    '--version',
    VERSION,
    '--locked',
    '--root',
    folder,
  ]);
}
const advisories = process.argv.includes('--advisories');
const checks = advisories ? ['advisories'] : ['licenses', 'sources', 'bans'];
await must(file, ['--workspace', '--all-features', 'check', '--hide-inclusion-graph', ...checks]);
