// `npm run bench`: measures the engine, decoding over links and the edge under load, and makes the
// page with the results.
import { mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import {
  DRAFTER,
  VERIFIER,
  build,
  checkToolchain,
  fail,
  models,
  program,
  root,
  run,
  say,
} from './lib/system.mjs';

const { values } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    llama: { type: 'boolean', default: false },
    out: { type: 'string', default: path.join('bench', 'results') },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  process.stdout.write(`npm run bench -- [OPTIONS]

  --full        all sizes; takes more than an hour on two cores
  --llama       llama.cpp as a peer of the engine: takes cmake and clang, and a quarter of an hour for
                its first build
  --out FOLDER  where the results go (bench/results)
`);
  process.exit(0);
}

const sizes = values.full
  ? {
      engine: ['--contexts', '64,1024,4096', '--rows', '1,2,3,5,9,17,33,128'],
      decode: [
        '--tokens',
        '96',
        '--wall',
        '0,20,50',
        '--wall-prompts',
        '4',
        '--wall-tokens',
        '64',
      ],
      load: ['--clients', '1,2,4,8,16,32'],
    }
  : {
      engine: [
        '--contexts',
        '64',
        '--rows',
        '1,2,5,9,33,128',
        '--repeat',
        '3',
        '--stock-repeat',
        '1',
      ],
      decode: ['--tokens', '64', '--wall', '0,50', '--wall-prompts', '3', '--wall-tokens', '32'],
      load: ['--clients', '1,4,16', '--seconds', '10', '--gamma', '1,2,4'],
    };

checkToolchain();
const features = values.llama ? ['--features', 'tandem-bench/llama'] : [];
if (values.llama) say('building with llama.cpp (the first time takes a quarter of an hour)');
// Without AMX: llama.cpp's kernels for it crash (seen with llama-cpp-2 0.1.160 on two cores).
const flags = '-march=native -mno-amx-tile -mno-amx-int8 -mno-amx-bf16';
const native = { CMAKE_C_FLAGS: flags, CMAKE_CXX_FLAGS: flags };
await build({
  more: ['-p', 'tandem-bench', ...features],
  options: { env: { ...process.env, ...native } },
});
await models([DRAFTER, VERIFIER]);
const folder = path.resolve(root, values.out);
mkdirSync(folder, { recursive: true });

/** One part; the others go on when it fails. */
async function part(name, args) {
  say(`measuring: ${name}`);
  const file = path.join(folder, `${name}.json`);
  const { code } = await run(program('tandem-bench'), [name, ...args, '--out', file]);
  if (code !== 0) {
    say(`${name} failed with ${code}; its results of an earlier run, if any, stay`);
    process.exitCode = 1;
  }
}

const pair = ['--drafter', DRAFTER, '--verifier', VERIFIER];
await part('engine', ['--model', VERIFIER, '--model', DRAFTER, ...sizes.engine]);
// Written once, for both parts that play them.
const answers = path.join(folder, 'traces.json');
rmSync(answers, { force: true });
const traces = ['--traces', answers];
await part('decode', [...pair, ...sizes.decode, ...traces]);
await part('load', [...pair, ...sizes.load, ...traces]);
const page = ['page', '--results', folder];
const own = path.resolve(root, 'bench', 'results') === folder;
const pages = ['README.md', path.join('docs', 'capacity.md')];
const fill = own ? pages.flatMap((file) => ['--fill', path.join(root, file)]) : [];
if ((await run(program('tandem-bench'), [...page, ...fill])).code !== 0) {
  fail('the page cannot be made; its message is above');
}
say(`the results are in ${path.join(values.out, 'README.md')}`);
