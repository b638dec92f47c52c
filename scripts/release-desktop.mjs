// `npm run release:desktop`: what is installed on this kind of desktop, with the local edge in it.
// `-- --bundles deb` makes one kind only.
import { copyFileSync, mkdirSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { checkToolchain, must, npmPackages, program, root, systemPackages } from './lib/system.mjs';

const shell = process.platform === 'win32';
const npm = (...args) => must('npm', args, { shell });

checkToolchain();
await systemPackages(['libwebkit2gtk-4.1-dev']);
await npmPackages();
await npm('run', 'build', '-w', 'ui');
await must('cargo', ['build', '--release', '--locked', '-p', 'tandem-edge']);
const host = /^host: (.+)$/m.exec(spawnSync('rustc', ['-vV'], { encoding: 'utf8' }).stdout)[1];
const binaries = path.join(root, 'src-tauri', 'binaries');
mkdirSync(binaries, { recursive: true });
// Tauri finds a side-car by the machine that it is for, and installs it beside the app.
const end = shell ? '.exe' : '';
copyFileSync(program('tandem-edge'), path.join(binaries, `tandem-edge-${host}${end}`));
await npm(
  'run',
  'tauri',
  '--',
  'icon',
  'src-tauri/icons/icon.png',
  '--output',
  'src-tauri/icons/made',
);
const config = ['--config', 'src-tauri/tauri.release.conf.json'];
await npm('run', 'tauri', '--', 'build', '--ci', ...config, ...process.argv.slice(2));
