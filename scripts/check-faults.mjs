// `npm run check:faults`: plays many seeds of the fault simulation, or one again, and keeps a report.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { checkToolchain, program, root, run, say } from './lib/system.mjs';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '10000' },
    first: { type: 'string', default: '1' },
    seed: { type: 'string' },
    report: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  process.stdout.write(`npm run check:faults -- [OPTIONS]

  --seeds N      how many runs (10000)
  --first N      the first seed (1)
  --seed N       this seed alone, as a failed run names it
  --report FILE  where the figures go, as JSON; added to what is there, if the seeds follow on it
`);
  process.exit(0);
}

checkToolchain();
const own = path.join(os.tmpdir(), `tandem-faults-${process.pid}.json`);
const env = {
  ...process.env,
  TANDEM_FAULT_SEEDS: values.seeds,
  TANDEM_FAULT_FIRST: values.first,
  TANDEM_FAULT_REPORT: own,
  ...(values.seed ? { TANDEM_FAULT_SEED: values.seed } : {}),
};
// Cargo chooses features for all packages of one call together: where the app was built, the same set.
const packages = existsSync(program('tandem-app')) ? ['--workspace'] : ['-p', 'tandem-tests'];
const args = ['test', '--release', '--locked', ...packages, '--test', 'faults', '--', '--nocapture'];
const { code } = await run('cargo', args, { env });
if (values.report && existsSync(own)) {
  const git = (...args) => spawnSync('git', args, { cwd: root, encoding: 'utf8' }).stdout?.trim();
  const report = {
    command: `npm run check:faults -- --seeds ${values.seeds} --report ${values.report}`,
    commit: git('rev-parse', '--short', 'HEAD'),
    machine: `${os.cpus()[0]?.model ?? 'unknown'}, ${os.cpus().length} threads`,
    ...JSON.parse(readFileSync(own, 'utf8')),
  };
  const file = path.resolve(root, values.report);
  const before = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined;
  const follows = before && before.first_seed + before.seeds === Number(values.first);
  const all = follows && before.commit === report.commit ? add(before, report) : report;
  writeFileSync(file, `${JSON.stringify(all, null, 2)}\n`);
  say(`${all.seeds} seeds, ${all.seeds_failed.length} failed: ${values.report}`);
}
rmSync(own, { force: true });
process.exitCode = code;

/** One report of two parts of a run. */
function add(a, b) {
  const sum = (x, y) => {
    if (typeof x === 'number') return x + y;
    if (Array.isArray(x)) return [...x, ...y];
    const keys = [...new Set([...Object.keys(x), ...Object.keys(y)])].sort();
    return Object.fromEntries(keys.map((key) => [key, (x[key] ?? 0) + (y[key] ?? 0)]));
  };
  const all = { ...a };
  for (const key of Object.keys(b)) {
    if (typeof b[key] !== 'string' && key !== 'first_seed') all[key] = sum(a[key], b[key]);
  }
  all.command = a.command.replace(/--seeds \d+/, `--seeds ${all.seeds}`);
  return all;
}
