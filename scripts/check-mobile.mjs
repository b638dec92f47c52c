// `npm run check:android` and `check:ios`: type-check the whole app for a phone on a machine without the
// phone's SDK. It proves types, not a running app.
//
// Where rustup has the target, that is used. Otherwise, on Debian, the standard library is checked
// from the sources that Debian packages, with the compiler that fits them. What the build scripts
// compile in C or assembly is compiled by zig, from PyPI, against another library of C: nothing is linked.
import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { rustFor } from './lib/cross.mjs';
import { checkToolchain, fail, must, npmPackages, pythonTools, root, say } from './lib/system.mjs';

const PHONES = {
  android: { target: 'aarch64-linux-android', c: 'aarch64-linux-musl' },
  ios: { target: 'aarch64-apple-ios', c: 'aarch64-macos' },
};
const { target, c } =
  PHONES[process.argv[2]] ?? fail(`say which phone: ${Object.keys(PHONES).join(' or ')}`);

/** zig as a C compiler for the target. Drops the target that build scripts add. */
async function zig() {
  const { PYTHONPATH: folder } = await pythonTools('zig', { ziglang: '0.17.1' });
  const wrapper = (name, text) => {
    const file = path.join(folder, name);
    writeFileSync(file, `#!/bin/sh\n${text}\n`);
    chmodSync(file, 0o755);
    return file;
  };
  const call = `PYTHONPATH='${folder}' exec python3 -m ziglang`;
  const others = '--target=*|-miphoneos-version-min=*';
  const drop = `for a do shift; case "$a" in ${others}) ;; *) set -- "$@" "$a" ;; esac; done`;
  const name = target.replaceAll('-', '_');
  return {
    [`CC_${name}`]: wrapper(`cc-${c}`, `${drop}\n${call} cc -target ${c} "$@"`),
    [`AR_${name}`]: wrapper('ar-any', `${call} ar "$@"`),
    // Build scripts ask Xcode where it is, unless they are told.
    ...(c.endsWith('macos') ? { SDKROOT: folder } : {}),
  };
}

checkToolchain();
if (!existsSync(path.join(root, 'ui/dist/index.html'))) {
  await npmPackages();
  await must('npm', ['run', 'build', '-w', 'ui'], {
    shell: process.platform === 'win32',
  });
}
const rust = await rustFor(target, 'panic_abort');
const env = {
  ...process.env,
  ...rust.env,
  ...(await zig()),
  // Another compiler: a folder of its own.
  CARGO_TARGET_DIR: path.join(process.env.CARGO_TARGET_DIR, 'mobile'),
};
const start = Date.now();
await must(
  'cargo',
  ['check', '--locked', '-p', 'tandem-app', '--lib', '--target', target, ...rust.args],
  {
    env,
  },
);
const seconds = ((Date.now() - start) / 1000).toFixed(0);
say(`the app's types fit ${target} (${seconds} s); it was not linked or run`);
