// Branches, files, undo, search, lost messages and a crash in mid-answer, in the real window with
// the real pair. What is shown is compared with what SQLite holds.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { program } from '../../scripts/lib/system.mjs';
import { database, id, open } from './driver.mjs';

const data = mkdtempSync(path.join(os.tmpdir(), 'tandem-chat-'));
const files = path.join(data, 'files');
const env = { TANDEM_DATA_DIR: data, TANDEM_DIALOG_DIR: files };
let page;

const sql = database(data);
const count = async (css) => (await page.find(css)).length;
const press = (name, at = -1) =>
  page.run(
    `const all = [...document.querySelectorAll(arguments[0])]; all.at(arguments[1]).click()`,
    id(name),
    at,
  );
const answers = () =>
  page.run(
    `return [...document.querySelectorAll('${id('message-assistant')}')].map((a) => a.querySelector('.markdown')?.innerText ?? '')`,
  );
const questions = () =>
  page.run(
    `return [...document.querySelectorAll('${id('message-user')}')].map((a) => a.textContent)`,
  );
const idle = () =>
  page.until(
    'the answer',
    async () => (await page.one(id('send'))) && !(await page.one(id('stop'))),
    120,
  );

async function ask(text) {
  await page.ask(text);
  await page.until('a new answer', () => page.one(`${id('message-assistant')}`), 30);
}

before(async () => {
  mkdirSync(files);
  page = await open(program('tandem-app'), env);
  await page.connected(120);
});
after(async () => {
  await page?.close();
  rmSync(data, { recursive: true, force: true });
});

test(
  'another answer and an edited question keep the old branch',
  { timeout: 240_000 },
  async () => {
    await ask('Name one colour, in one word.');
    await idle();
    await press('again');
    await page.until('the switch', () => page.one(id('branches')), 60);
    await idle();
    assert.equal(sql("SELECT count(*) FROM messages WHERE role = 'assistant'")[0][0], 2);
    assert.equal(await count(id('message-assistant')), 1);
    const second = sql("SELECT id FROM messages WHERE role = 'assistant' ORDER BY id DESC")[0][0];
    const shown = () =>
      page.run(`return document.querySelector('${id('message-assistant')}').dataset.id`);
    assert.equal(Number(await shown()), second);
    await press('branch-previous');
    await page.until('the first answer', async () => Number(await shown()) !== second, 10);

    await press('edit');
    await page.until('the field', () => page.one(id('edit-text')), 10);
    await page.type(await page.one(id('edit-text')), ' And one animal.');
    await press('edit-send');
    await page.until(
      'the edited question',
      async () => (await questions())[0]?.includes('animal'),
      30,
    );
    await idle();
    assert.equal(
      sql("SELECT count(*) FROM messages WHERE role = 'user' AND parent IS NULL")[0][0],
      2,
    );
    await press('branch-previous', 0);
    await page.until(
      'the first question',
      async () => !(await questions())[0].includes('animal'),
      10,
    );
    assert.notEqual(Number(await shown()), second);
  },
);

test('what was exported is imported as the same conversation', { timeout: 120_000 }, async () => {
  const before = await answers();
  await press('export-all');
  await page.until(
    'the toast',
    () => page.run("return document.querySelector('.toast')?.textContent.includes('.json')"),
    20,
  );
  // What is here already is not imported again.
  const exported = path.join(files, 'tandem-conversations.json');
  copyFileSync(exported, path.join(files, 'import.json'));
  await press('import');
  const told = (text) =>
    page.run("return document.querySelector('.toast')?.textContent.includes(arguments[0])", text);
  await page.until('that it is here', () => told('already'), 20);
  assert.equal(await count(id('conversation')), 1);
  // The same of another time is another conversation.
  const saved = JSON.parse(readFileSync(exported, 'utf8'));
  saved.conversations[0].createdAt -= 1;
  writeFileSync(path.join(files, 'import.json'), JSON.stringify(saved));
  await press('import');
  await page.until('two conversations', async () => (await count(id('conversation'))) === 2, 20);
  await page.until('the same answers', async () => (await answers()).join() === before.join(), 10);
  const tree = (c) =>
    sql(
      `SELECT role, content, status, tokens, ttft_ms, parent - (SELECT min(id) FROM messages WHERE conversation = ${c}) FROM messages WHERE conversation = ${c} ORDER BY id`,
    );
  assert.deepEqual(tree(2), tree(1));
  const rounds = (c) =>
    sql(
      `SELECT count(*), sum(accepted), sum(rtt_ms) FROM rounds JOIN messages ON message = id WHERE conversation = ${c}`,
    );
  assert.deepEqual(rounds(2), rounds(1));

  writeFileSync(
    path.join(files, 'import.json'),
    '{"format":"tandem-conversations","version":1,"conversations":[{}]}',
  );
  await press('import');
  await page.until(
    'a clear message',
    () =>
      page.run(
        "return document.querySelector('.toast')?.textContent.includes('nothing was imported')",
      ),
    20,
  );
  assert.equal(await count(id('conversation')), 2);
});

test('a deleted conversation comes back, and search finds it', { timeout: 60_000 }, async () => {
  await page.run(`document.querySelector('${id('conversation')} .more').click()`);
  await page.until('the actions', () => page.one(id('delete')), 10);
  await press('delete');
  await page.until('one conversation', async () => (await count(id('conversation'))) === 1, 10);
  await press('undo');
  await page.until('both', async () => (await count(id('conversation'))) === 2, 10);
  assert.equal(sql('SELECT count(*) FROM conversations WHERE deleted_at IS NOT NULL')[0][0], 0);
  await page.type(await page.one(id('search')), 'anima');
  await page.until('a hit', async () => (await count(id('hit'))) > 0, 10);
  await press('hit', 0);
  await page.until(
    'the branch with it',
    async () => (await questions())[0]?.includes('animal'),
    10,
  );
  await page.run(
    `const f = document.querySelector('${id('search')}'); f.value = ''; f.dispatchEvent(new Event('input', { bubbles: true }))`,
  );
});

test(
  'a lost message of the channel leaves no wrong or hanging text',
  { timeout: 240_000 },
  async () => {
    await page.run(`
    const { callbacks } = window.__TAURI_INTERNALS__;
    const set = callbacks.set.bind(callbacks);
    let n = 0;
    window.lost = 0;
    callbacks.set = (id, callback) =>
      set(id, (data) => {
        const ofChannel = typeof data?.index === 'number' && data.message?.seq;
        if (ofChannel && n++ % 5 === 3) return void (window.lost += 1);
        return callback(data);
      });`);
    await ask('Write four short sentences about the sea.');
    await page.until('the end', async () => !(await page.one(id('stop'))), 180);
    assert.ok((await page.run('return window.lost')) > 0);
    const [[content, status]] = sql(
      "SELECT content, status FROM messages WHERE role = 'assistant' ORDER BY id DESC LIMIT 1",
    );
    assert.equal(status, 'done');
    const plain = (text) => text.replace(/[\s*_#`.\d-]+/g, '');
    assert.equal(plain((await answers()).at(-1)), plain(content));
  },
);

test(
  'a kill in mid-answer loses nothing, and the answer goes on',
  { timeout: 240_000 },
  async () => {
    await ask('Tell me a story about a lighthouse keeper, at least ten sentences long.');
    const half = () => sql('SELECT content FROM messages ORDER BY id DESC LIMIT 1')[0][0];
    await page.until('some text', async () => half().length > 60, 60);
    const mine = execFileSync('pgrep', ['-n', 'tandem-app'], { encoding: 'utf8' }).trim();
    process.kill(Number(mine), 'SIGKILL');
    const kept = half();
    await page.close();
    page = await open(program('tandem-app'), env);
    await page.until(
      'the interrupted answer',
      () => page.one(`${id('message-assistant')}[data-status="interrupted"]`),
      60,
    );
    await page.connected(120);
    await press('continue');
    await page.until('more', async () => half().length > kept.length + 20, 90);
    assert.ok(half().startsWith(kept));
    await press('stop');
    await idle();
    const [[rounds, last]] = sql(
      'SELECT count(*), max(round) FROM rounds WHERE message = (SELECT max(id) FROM messages)',
    );
    assert.equal(rounds, last + 1);
  },
);

const LOCK = `
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute('BEGIN IMMEDIATE')
print('locked', flush=True)
sys.stdin.read()`;

test(
  'an end that could not be written is written when that works again',
  { timeout: 180_000 },
  async () => {
    await ask('Count from 1 to 300 in words.');
    const last = () =>
      sql('SELECT status, length(content), error FROM messages ORDER BY id DESC LIMIT 1')[0];
    await page.until('some text', async () => last()[0] === 'streaming' && last()[1] > 20, 60);
    const lock = spawn('python3', ['-c', LOCK, path.join(data, 'tandem.db')], {
      stdio: ['pipe', 'pipe', 2],
    });
    try {
      await new Promise((locked) => lock.stdout.once('data', locked));
      await page.until(
        'a failed answer',
        () => page.one(`${id('message-assistant')}[data-status="failed"]`),
        40,
      );
      assert.equal(last()[0], 'streaming', 'the file could not be written to');
    } finally {
      const ended = new Promise((resolve) => lock.on('exit', resolve));
      lock.stdin.end();
      await ended;
    }
    // A row that is still being written could not be gone on with.
    await press('continue');
    await page.until('the rest', async () => last()[0] === 'streaming', 30);
    const [, kept] = last();
    await page.until('more', async () => last()[1] > kept, 60);
    await press('stop');
    await idle();
    assert.deepEqual([last()[0], last()[2]], ['stopped', null]);
  },
);

test(
  'a database from a newer version is explained in the window',
  { timeout: 120_000 },
  async () => {
    await page.close();
    sql("INSERT INTO _sqlx_migrations VALUES (9999, 'later', '2030-01-01', 1, x'00', 0)");
    page = await open(program('tandem-app'), env);
    const screen = await page.until('the screen', () => page.one(id('startup-error')), 30);
    assert.match(await page.text(screen), /newer version/);
    sql('DELETE FROM _sqlx_migrations WHERE version = 9999');
    await press('startup-again');
    await page.until('the composer', () => page.one(id('composer')), 30);
    await page.until('the conversations', async () => (await count(id('conversation'))) >= 2, 30);
  },
);
