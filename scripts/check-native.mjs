// `npm run check:native`: the syntax of the Kotlin and Swift sources, by tree-sitter's grammars. It
// proves less than a compiler would: that takes the SDKs.
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { must, pythonTools, root } from './lib/system.mjs';

const env = await pythonTools('check-native', {
  'tree-sitter': '0.26.1',
  'tree-sitter-kotlin': '1.1.0',
  'tree-sitter-swift': '0.7.4',
});
const files = ['mobile/android', 'mobile/ios', 'src-tauri/gen/android'].flatMap((folder) =>
  readdirSync(path.join(root, folder), { recursive: true })
    // Tauri puts copies of its own there.
    .filter((file) => /\.(kts?|swift)$/.test(file) && !file.includes('.tauri'))
    .map((file) => path.join(folder, file)),
);
await must('python3', ['scripts/lib/syntax.py', ...files], { env });
