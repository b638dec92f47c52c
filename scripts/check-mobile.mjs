// `npm run check:android` and `check:ios`: type-check the whole app for a phone on a machine without the
// phone's SDK. It proves types, not a running app.
//
// Where rustup has the target, that is used. Otherwise, on Debian, the standard library is checked
// from the sources that Debian packages, with the compiler that fits them. What the build scripts
// compile in C or assembly is compiled by zig, from PyPI, against another library of C: nothing is linked.
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import {
  cacheFolder,
  checkToolchain,
  fail,
  must,
  npmPackages,
  pythonTools,
  root,
  say,
} from './lib/system.mjs';

const PHONES = {
  android: { target: 'aarch64-linux-android', c: 'aarch64-linux-musl' },
  ios: { target: 'aarch64-apple-ios', c: 'aarch64-macos' },
};
const { target, c } =
  PHONES[process.argv[2]] ?? fail(`say which phone: ${Object.keys(PHONES).join(' or ')}`);
const tools = path.join(cacheFolder(), 'tools');

const output = (command, args) => spawnSync(command, args, { encoding: 'utf8' }).stdout ?? '';

/** The first package with such a name that another one needs. */
function needs(name, pattern) {
  const found = output('apt-cache', ['depends', name]).match(pattern);
  return found ? found[0] : fail(`Debian's ${name} needs no ${pattern}: this is not known here`);
}

/** Fills a folder of the cache once; what was broken off is begun again. */
async function once(folder, fill) {
  if (existsSync(folder)) return;
  const part = `${folder}.part`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(part, { recursive: true });
  await fill(part);
  renameSync(part, folder);
}

/** Debian's compiler and the sources of its standard library; nothing is installed. */
async function debianRust() {
  const folder = path.join(tools, 'rust-phones');
  await once(folder, async (part) => {
    if (!existsSync('/usr/bin/apt-get')) {
      fail(`the phone's standard library is missing: run \`rustup target add ${target}\``);
    }
    const library = needs('libstd-rust-web-dev', /libstd-rust-web-[\d.]+/);
    const llvm = needs(library, /libllvm\d+/);
    const packages = ['rustc-web', library, 'libstd-rust-web-dev', 'rust-web-src', llvm];
    say(`downloading ${packages.join(' ')}`);
    await must('apt-get', ['download', '-q', ...packages], { cwd: part });
    for (const file of readdirSync(part).filter((name) => name.endsWith('.deb'))) {
      await must('dpkg-deb', ['-x', file, '.'], { cwd: part });
      rmSync(path.join(part, file));
    }
  });
  const libraries = readdirSync(path.join(folder, 'usr/lib')).filter((name) => name !== 'rustlib');
  const paths = libraries.map((name) => path.join(folder, 'usr/lib', name));
  return {
    RUSTC: path.join(folder, 'usr/bin/rustc'),
    RUSTDOC: path.join(folder, 'usr/bin/rustdoc'),
    LD_LIBRARY_PATH: [...paths, ...paths.map((p) => path.join(p, 'lib'))].join(':'),
    // Building the standard library is not stable yet.
    RUSTC_BOOTSTRAP: '1',
  };
}

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
const installed = output('rustup', ['target', 'list', '--installed']).includes(target);
const rust = installed ? {} : await debianRust();
const std = installed ? [] : ['-Zbuild-std=std,panic_abort'];
const env = {
  ...process.env,
  ...rust,
  ...(await zig()),
  // Another compiler: a folder of its own.
  CARGO_TARGET_DIR: path.join(process.env.CARGO_TARGET_DIR, 'mobile'),
};
const start = Date.now();
await must(
  'cargo',
  ['check', '--locked', '-p', 'tandem-app', '--lib', '--target', target, ...std],
  {
    env,
  },
);
const seconds = ((Date.now() - start) / 1000).toFixed(0);
say(`the app's types fit ${target} (${seconds} s); it was not linked or run`);
