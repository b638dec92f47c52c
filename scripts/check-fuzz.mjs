// `npm run check:fuzz`: hostile bytes, files and templates, many more than `npm test` tries.
import { parseArgs } from 'node:util';
import { checkToolchain, run, say } from './lib/system.mjs';

const { values } = parseArgs({ options: { cases: { type: 'string', default: '1000' } } });
checkToolchain();
const cargo = ['test', '--release', '--locked', '--workspace', '--no-fail-fast'];
const bytes = ['any_bytes', 'altered_messages', 'garbage', 'a_cut_message', 'texts_are', 'pairing_ends'];
// A name, how many times as many cases, targets, and tests. Bytes take microseconds, files hundredths of
// a second.
const parts = [
  ['bytes and texts', 100, ['--test', 'wire', '--test', 'hostile'], bytes],
  ['model files and templates', 1, ['--test', 'hostile'], ['other_']],
  ['imported conversations', 2, ['--lib'], ['transfer_tests', 'control::tests']],
];
for (const [name, times, targets, tests] of parts) {
  const cases = String(Number(values.cases) * times);
  say(`${name}: ${cases} cases of each kind`);
  const env = { ...process.env, PROPTEST_CASES: cases };
  const { code } = await run('cargo', [...cargo, ...targets, '--', ...tests], { env });
  if (code !== 0) {
    say(`${name}: FAILED; the case is above`);
    process.exitCode = 1;
  }
}
