// `npm run check:workflows`: the workflow files against their schema, and for what is known to be
// unsafe in them. Both tools are Python packages and need no network once they are here.
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { must, pythonTools, root } from './lib/system.mjs';

const env = await pythonTools('check-workflows', {
  'check-jsonschema': '0.39.0',
  zizmor: '1.32.0',
});
const folder = path.join(root, '.github', 'workflows');
const files = readdirSync(folder).map((file) => path.join(folder, file));
const schema = ['--builtin-schema', 'vendor.github-workflows'];
await must('python3', ['-m', 'check_jsonschema', ...schema, ...files], { env });
const config = ['--config', path.join(root, '.github', 'zizmor.yml')];
const zizmor = path.join(env.PYTHONPATH, 'bin', 'zizmor');
await must(zizmor, ['--offline', '--no-progress', ...config, ...files], { env });
