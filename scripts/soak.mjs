// `npm run bench:soak`: the edge under the load of many clients for ten minutes; `-- --seconds 60` to
// try it out, `-- --help` for the rest.
import path from 'node:path';
import { build, checkToolchain, models, program, root, run } from './lib/system.mjs';

checkToolchain();
await build({ more: ['-p', 'tandem-bench'] });
await models(['smollm2-135m-instruct-q4_1']);
const out = ['--out', path.join(root, 'bench', 'results', 'soak.json')];
const { code } = await run(program('tandem-bench'), ['soak', ...out, ...process.argv.slice(2)]);
process.exitCode = code;
