// Rust for a target whose standard library is not here.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { cacheFolder, fail, must, say } from './system.mjs';

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
async function debianRust(target) {
  const folder = path.join(cacheFolder(), 'tools', 'rust-phones');
  await once(folder, async (part) => {
    if (!existsSync('/usr/bin/apt-get')) {
      fail(`the target's standard library is missing: run \`rustup target add ${target}\``);
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

/**
 * Environment and arguments of cargo for a target: nothing when rustup has it, otherwise Debian's compiler,
 * which makes the standard library with this crate for panics.
 */
export async function rustFor(target, panic) {
  const installed = output('rustup', ['target', 'list', '--installed']).includes(target);
  if (installed) return { env: {}, args: [] };
  return { env: await debianRust(target), args: [`-Zbuild-std=std,${panic}`] };
}
