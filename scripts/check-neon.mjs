// `npm run check:neon`: the kernels' tests for ARM in an emulator: on a processor with 8-bit dot products,
// and on one without. It proves what they compute, and says nothing about their speed.
//
// On Debian it installs the emulator (qemu) and a linker; the rest is built for ARM as `lib/cross.mjs` says.
// Five minutes the first time on two cores, then two.
import path from 'node:path';
import { rustFor } from './lib/cross.mjs';
import { checkToolchain, fail, must, run, say, systemPackages } from './lib/system.mjs';

/** The kernels' tests by their files, and a whole model's pass. */
const FILES = ['attention', 'history', 'packed', 'product', 'rows', 'silu'];
const TESTS = [...FILES.map((file) => `${file}::tests`), 'qwen3_is_the_same_bits'];
/** Processors of the emulator, what the kernels then use, and what is tested. */
const PROCESSORS = [
  // Against candle too, which takes dot products for granted.
  ['max', 'CPU (NEON with dot products)', [...TESTS, 'qwen3_agrees_with_candle']],
  ['cortex-a53', 'CPU (NEON)', TESTS],
];
const target = 'aarch64-unknown-linux-gnu';

checkToolchain();
if (process.platform !== 'linux' || process.arch === 'arm64') {
  say('this runs on Linux on another processor; on ARM `npm test` runs the same tests itself');
  process.exit(0);
}
await systemPackages(['qemu-user', 'gcc-aarch64-linux-gnu', 'libc6-dev-arm64-cross']);
const rust = await rustFor(target, 'panic_unwind');
// Only the kernels have to be quick: the rest is built without optimisation, in a third of the time; but
// for one crate, whose assembly only assembles where it is inlined.
const profile = [
  'tandem-kernels.opt-level=3',
  'tandem-kernels.overflow-checks=false',
  'tandem-kernels.debug-assertions=false',
  'gemm-f16.opt-level=3',
].flatMap((setting) => ['--config', `profile.dev.package.${setting}`]);
const packages = ['-p', 'tandem-kernels', '-p', 'tandem-inference'];
const what = ['--locked', ...packages, '--lib', '--test', 'families'];
const cargo = ['test', ...what, '--target', target, ...rust.args, ...profile];
const environment = (cpu) => ({
  ...process.env,
  ...rust.env,
  CARGO_TARGET_DIR: path.join(process.env.CARGO_TARGET_DIR, 'neon'),
  CARGO_PROFILE_DEV_DEBUG: 'false',
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER: 'aarch64-linux-gnu-gcc',
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER: `qemu-aarch64 -L /usr/aarch64-linux-gnu -U LD_LIBRARY_PATH -cpu ${cpu}`,
});
const start = Date.now();
say(`building the tests for ${target}`);
await must('cargo', [...cargo, '--no-run'], { env: environment('max') });
for (const [cpu, kernels, filters] of PROCESSORS) {
  say(`running them on qemu's processor \`${cpu}\``);
  const tests = [...cargo, '--', '--nocapture', ...filters];
  const { code, output } = await run('cargo', tests, { env: environment(cpu), capture: true });
  if (code !== 0) fail(`the kernels' tests failed on \`${cpu}\``);
  if (!output.includes(`computed on ${kernels}\n`)) fail(`\`${cpu}\` did not use ${kernels}`);
}
const seconds = ((Date.now() - start) / 1000).toFixed(0);
say(`the kernels give the bits of plain code under qemu (${seconds} s); nothing was timed`);
