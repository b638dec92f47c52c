// The open door: OpenAI's Python client against real edges. It gets an environment of its own in the
// cache folder.
import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import { DRAFTER, VERIFIER, cacheFolder, program, root } from '../../scripts/lib/system.mjs';

const CLIENT = 'openai==3.57.0';
const TOKEN = 'a-token-for-this-test';
const CONTEXT = 1024;
/** Must not be found in what an edge logs. */
const PROMPT = 'Why do zebras-unlogged have stripes? Answer in two sentences.';
const SYSTEM = 'You are a helpful zoologist-unlogged.';

const data = mkdtempSync(path.join(os.tmpdir(), 'tandem-openai-'));
const edges = [];
after(() => {
  for (const { child } of edges) child.kill('SIGKILL');
  rmSync(data, { recursive: true, force: true });
});

/** Python with the client. */
function python() {
  const folder = path.join(cacheFolder(), 'python', CLIENT.replace('==', '-'));
  const bin = path.join(folder, 'bin', 'python3');
  const has = () => {
    try {
      execFileSync(bin, ['-c', 'import openai'], { stdio: 'ignore' });
      return true;
    } catch {
      return false;
    }
  };
  if (!existsSync(bin) || !has()) {
    rmSync(folder, { recursive: true, force: true });
    execFileSync('python3', ['-m', 'venv', folder]);
    const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', CLIENT];
    execFileSync(bin, pip, { stdio: ['ignore', 'inherit', 'inherit'] });
  }
  return bin;
}

/** A running edge that logs all it ever would. */
async function serve(...args) {
  const env = { ...process.env, TANDEM_EDGE_TOKEN: TOKEN, RUST_LOG: 'trace', TANDEM_DATA_DIR: data };
  const all = ['serve', '--listen', '127.0.0.1:0', '--context', String(CONTEXT), ...args];
  const child = spawn(program('tandem-edge'), all, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const edge = { child, log: '' };
  edges.push(edge);
  child.stderr.setEncoding('utf8').on('data', (text) => (edge.log += text));
  let out = '';
  const url = await new Promise((resolve, reject) => {
    child.on('close', () => reject(new Error(edge.log)));
    child.stdout.setEncoding('utf8').on('data', (text) => {
      out += text;
      const [, address] = /ready at ws(s?:\/\/\S+)/.exec(out) ?? [];
      if (address) resolve(`http${address}`);
    });
  });
  return { ...edge, url };
}

test('the official client', { timeout: 300_000 }, async (t) => {
  const [main, secure] = await Promise.all([
    serve('--model', VERIFIER, '--drafter', DRAFTER),
    serve('--model', 'smollm2-135m-instruct-q4_1', '--tls', '--state', path.join(data, 'edge')),
  ]);
  const args = ['chat', '--edge', main.url.replace('http', 'ws'), '--token', TOKEN, '--json'];
  args.push('--mode', 'edge', '--temperature', '0', '--max-tokens', '64');
  args.push('--db', path.join(data, 'chat.db'), '--system', SYSTEM, '--prompt', PROMPT);
  const run = promisify(execFile);
  const { stdout: chat } = await run(program('tandem'), args);
  const env = {
    ...process.env,
    TANDEM_TEST_URL: main.url,
    TANDEM_TEST_TOKEN: TOKEN,
    TANDEM_TEST_MODEL: VERIFIER,
    TANDEM_TEST_CONTEXT: String(CONTEXT),
    TANDEM_TEST_CHAT: chat,
    TANDEM_TEST_PROMPT: PROMPT,
    TANDEM_TEST_SYSTEM: SYSTEM,
    TANDEM_TEST_SECURE: JSON.stringify({
      url: secure.url,
      identity: path.join(data, 'edge', 'identity.pem'),
    }),
  };
  const file = path.join(root, 'tests', 'openai', 'client.py');
  const { stderr: report } = await run(python(), [file], { env }).catch((error) => error);
  const results = [...report.matchAll(/^(test_\w+) .*\.\.\. (\w+)$/gm)];
  assert.ok(results.length > 10, report);
  for (const [, name, result] of results) {
    await t.test(name.replaceAll('_', ' '), () => assert.equal(result, 'ok', report));
  }
  await t.test('nothing of a prompt, an answer or a token is logged', () => {
    for (const { log } of edges) {
      assert.match(log, /tandem_edge/);
      assert.doesNotMatch(log, /unlogged|stripes|zebra/i);
      assert.ok(!log.includes(TOKEN));
    }
  });
});
