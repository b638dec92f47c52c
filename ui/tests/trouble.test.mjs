// What goes wrong, and what is easily done wrong: each is said where it was begun, with a way on, and
// nothing that was typed is lost.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { go, id, launch, shoot } from './rig.mjs';

let rig;
before(async () => (rig = await launch()));
after(() => rig?.close());

const withChat = () => localStorage.setItem('tandem.open', '1');
const calls = (page, name) =>
  page.evaluate((name) => window.fake.calls.filter((call) => call[0] === name).length, name);
const shown = (page, css) => page.locator(css).first().waitFor();

test('Enter that takes a candidate does nothing else', { timeout: 60_000 }, async () => {
  const page = await rig.open({ prepare: withChat });
  await page.locator(id('stats')).first().waitFor();
  /** As WebKit sends it, behind the composition; and as Chromium does, in it. */
  const confirm = (css) =>
    page.evaluate((css) => {
      for (const isComposing of [false, true]) {
        const init = { key: 'Enter', keyCode: 229, isComposing, bubbles: true, cancelable: true };
        document.querySelector(css).dispatchEvent(new KeyboardEvent('keydown', init));
      }
    }, css);
  await page.locator(id('composer')).fill('にほ');
  await confirm(id('composer'));
  await page.locator(id('edit')).last().click();
  await confirm(id('edit-text'));
  await page.locator(id('search')).fill('にほ');
  await confirm(id('search'));
  const row = page.locator(`${id('conversation')}[data-id="1"]`);
  await page.locator(id('search')).fill('');
  await row.locator('.select').dblclick();
  await confirm(`${id('conversation')} input`);
  await page.waitForTimeout(200);
  assert.equal(await row.locator('input').count(), 1, 'still being renamed');
  assert.equal(await page.locator(id('edit-text')).count(), 1, 'still being edited');
  assert.equal(await page.locator(id('composer')).inputValue(), 'にほ');
  for (const name of ['send_message', 'message_edit', 'conversation_change'])
    assert.equal(await calls(page, name), 0, name);
  // The same keys without an input method.
  await row.locator('input').press('Enter');
  await page.locator(id('composer')).press('Enter');
  await shown(page, id('stop'));
});

test('Enter ends a renaming and opens nothing', { timeout: 60_000 }, async () => {
  const page = await rig.open({ prepare: withChat });
  const row = page.locator(`${id('conversation')}[data-id="2"]`);
  await row.locator('.more').focus();
  await page.keyboard.press('Enter');
  await page.locator(id('rename')).focus();
  await page.keyboard.press('Enter');
  await page.keyboard.type('Another name');
  await page.keyboard.press('Enter');
  await row.getByText('Another name').waitFor();
  await page.waitForTimeout(200);
  assert.equal(await page.locator(id('pin')).count(), 0);
  assert.equal(await row.locator('.select').count(), 1);
});

test('a double click on Stop leaves the half-typed text', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      localStorage.setItem('tandem.open', '1');
      window.fake.answer = 'word '.repeat(200);
      // It ends at once, so that Send is there for the second click.
      const { stop_generation: stop } = window.fake.commands;
      window.fake.commands.stop_generation = (args) => void (stop(args), (window.fake.pause = 1));
    },
  });
  const ask = async (text) => {
    await page.locator(id('composer')).fill(text);
    await page.keyboard.press('Enter');
    await shown(page, id('stop'));
    await page.locator(id('composer')).fill('half a sen');
    await page.waitForTimeout(200);
  };
  const unsent = async (what) => {
    await shown(page, id('send'));
    await page.waitForTimeout(400);
    assert.equal(await page.locator(id('composer')).inputValue(), 'half a sen', what);
    assert.equal(await page.locator(id('stop')).count(), 0, what);
  };
  await ask('Go on');
  const { x, y, width, height } = await page.locator(id('stop')).boundingBox();
  await page.mouse.click(x + width / 2, y + height / 2);
  await shown(page, id('send'));
  await page.mouse.click(x + width / 2, y + height / 2);
  await unsent('clicks');

  await ask('Go on');
  await page.locator(id('stop')).focus();
  await page.keyboard.press('Enter');
  await shown(page, id('send'));
  await page.keyboard.press('Enter');
  await unsent('keys');

  // Whoever has typed since then means it.
  await page.keyboard.type('tence');
  await page.keyboard.press('Enter');
  await shown(page, id('stop'));
});

test('a click as the answer ends by itself sends nothing', { timeout: 60_000 }, async () => {
  const page = await rig.open({ prepare: withChat });
  await page.locator(id('composer')).fill('Weather?');
  await page.keyboard.press('Enter');
  await shown(page, id('stop'));
  await page.locator(id('composer')).fill('half a sen');
  await shown(page, id('send'));
  await page.locator(id('send')).click();
  await page.waitForTimeout(300);
  assert.equal(await page.locator(id('composer')).inputValue(), 'half a sen');
  await page.waitForTimeout(300);
  await page.locator(id('send')).click();
  await shown(page, id('stop'));
});

test('of a first message that is refused only its text is left', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      const { send_message: send } = window.fake.commands;
      window.fake.refuse = { code: 'drafter', message: 'the model is not ready yet' };
      window.fake.commands.send_message = (args) => {
        if (window.fake.refuse) throw window.fake.refuse;
        return send(args);
      };
    },
  });
  const rows = page.locator(id('conversation'));
  const before = await rows.count();
  await page.locator(id('composer')).fill('A long thought');
  await page.keyboard.press('Enter');
  await page.getByText('The model is not ready yet.').waitFor();
  assert.equal(await rows.count(), before, 'no empty conversation');
  assert.equal(await page.locator(id('composer')).inputValue(), 'A long thought');
  await shoot(page, 'refused-desktop');

  const context = { code: 'context', message: 'go on in a new conversation' };
  await page.evaluate((refuse) => (window.fake.refuse = refuse), context);
  await page.locator(id('send-again')).click();
  await page.getByText('This message alone is longer').waitFor();
  assert.equal(await page.locator(id('go-on')).count(), 0, 'a new one is no better');
  assert.equal(await page.locator(id('send-again')).count(), 0, 'nor is trying again');
  assert.equal(await rows.count(), before);

  await page.evaluate(() => (window.fake.refuse = { code: 'x', message: 'not now' }));
  await page.keyboard.press('Enter');
  await page.getByText('Not now.').waitFor();
  await page.evaluate(() => (window.fake.refuse = null));
  await page.locator(id('send-again')).click();
  await shown(page, `${id('message-assistant')}[data-status="done"]`);
  assert.equal(await page.locator(id('message-user')).textContent(), 'A long thought');
  assert.equal(await rows.count(), before + 1);
  assert.equal(await page.locator(id('composer')).inputValue(), '');
});

test('a benchmark outlives its view, and what it stops says so', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      localStorage.setItem('tandem.open', '1');
      window.fake.pause = 60_000;
      const { send_message: send } = window.fake.commands;
      window.fake.commands.send_message = (args) => {
        if (window.fake.commands.benchmark_state().running)
          throw { code: 'benchmark_running', message: 'a benchmark is running' };
        return send(args);
      };
    },
  });
  await go(page, 'metrics');
  await page.locator(id('bench-start')).click();
  await shown(page, `${id('bench-progress')} span`);
  await go(page, 'chat');
  await page.getByText('A benchmark is running (1 of 8)').waitFor();
  await go(page, 'metrics');
  await shown(page, `${id('bench-progress')} span`);
  await go(page, 'chat');
  await page.locator(id('composer')).fill('Weather?');
  await page.keyboard.press('Enter');
  await page.getByText('A benchmark is running.').waitFor();
  await shoot(page, 'benchmark-refusal-desktop');
  assert.equal(await page.locator(id('composer')).inputValue(), 'Weather?');
  await page.evaluate(() => (window.fake.pause = 1));
  await page.locator(id('bench-cancel-send')).click();
  await page.getByText('Rain falls. It is wet, and it is fine.').waitFor();
  await go(page, 'metrics');
  await page.getByText('The benchmark was cancelled.').waitFor();
});

test('a benchmark is found again when the window reloads', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      const progress = { done: 2, total: 8, mode: 'dssd', gamma: 4, prompt: 'code' };
      let state = { running: true, progress, problem: null };
      window.fake.commands.benchmark_state = () => state;
      window.fake.end = () =>
        (state = { running: false, progress: null, problem: { code: 'x', message: 'it broke' } });
    },
  });
  await page.getByText('A benchmark is running (3 of 8)').waitFor();
  await page.evaluate(() => window.fake.end());
  await page.locator(id('bench-runs')).waitFor({ state: 'detached' });
  await go(page, 'metrics');
  await page.getByText('It broke.').waitFor();
});

for (const size of ['desktop', 'phone']) {
  test(`a download that fails is said where it began, ${size}`, { timeout: 60_000 }, async () => {
    const page = await rig.open({
      size,
      prepare: () => {
        const { models_overview: overview, model_download: download } = window.fake.commands;
        window.fake.reachable = false;
        window.fake.commands.models_overview = () => {
          const all = overview();
          // It fits, but is not here.
          all.pairs[1].problem = null;
          return all;
        };
        window.fake.commands.model_download = (args) => {
          if (window.fake.reachable) return download(args);
          throw {
            code: 'hub',
            message: 'it cannot be downloaded; check the connection',
            detail: 'https://hub: connection refused',
          };
        };
      },
    });
    await go(page, 'models');
    await page.evaluate(() =>
      document.querySelectorAll('details').forEach((d) => (d.open = false)),
    );
    const card = page.locator(id('pair')).nth(1);
    await card.locator(id('pair-use')).click();
    const problem = card.locator(id('pair-problem'));
    await problem.getByText('It cannot be downloaded; check the connection.').waitFor();
    assert.equal(await problem.getByText('connection refused').isVisible(), false);
    await problem.locator('summary').click();
    await problem.getByText('connection refused').waitFor();
    await problem.scrollIntoViewIfNeeded();
    await shoot(page, `download-failed-${size}`);
    await page.evaluate(() => Object.assign(window.fake, { reachable: true, pause: 5000 }));
    await card.getByRole('button', { name: /Try again/ }).click();
    await card.locator(id('pair-progress')).waitFor();
    await shoot(page, `download-runs-${size}`);
  });
}

test('what fails after its view was left is said all the same', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      window.fake.commands.box_pair = async () => {
        await window.fake.sleep(500);
        throw { code: 'code', message: 'the code is not right' };
      };
    },
  });
  await go(page, 'boxes');
  await page.locator(id('box-place')).fill('192.168.1.20:7470');
  await page.locator(id('box-code')).fill('ABCD-EFGH');
  await page.locator(id('box-pair')).click();
  await go(page, 'chat');
  await page.locator('.toast').getByText('The code is not right.').waitFor();
});

test('only the pair that is changed to says so', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      const { models_overview: overview } = window.fake.commands;
      for (const file of window.fake.files) Object.assign(file, { state: 'ready', detail: null });
      window.fake.commands.models_overview = () => {
        const all = overview();
        for (const pair of all.pairs) pair.problem = null;
        return all;
      };
      window.fake.commands.models_choose = () => window.fake.sleep(60_000);
    },
  });
  await go(page, 'models');
  await page.locator(id('pair-use')).first().click();
  await page.getByText('Changing…').waitFor();
  assert.equal(await page.getByText('Changing…').count(), 1);
  assert.equal(await page.locator(`${id('pair-use')}:enabled`).count(), 0);
});

test('a time that no calendar has costs nothing', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      localStorage.setItem('tandem.open', '1');
      window.fake.conversations[1].updatedAt = -9e18;
      window.fake.conversations[2].updatedAt = 9.2e18;
      window.fake.benchmarks[0].startedAt = 9.2e18;
      window.fake.metrics.speed[0].at = -9e18;
      window.fake.metrics.acceptance[0].at = 9.2e18;
    },
  });
  await shown(page, `${id('message-assistant')}`);
  assert.equal(await page.locator(id('conversation')).count(), 4);
  await go(page, 'metrics');
  await shown(page, id('tiles'));
  await shown(page, id('bench-result'));
  assert.equal(await page.locator(id('broken')).count(), 0);
  assert.deepEqual(page.problems, []);
});

test(
  'a part that fails is said in its place, and the rest lives',
  { timeout: 60_000 },
  async () => {
    const page = await rig.open({
      prepare: () => {
        localStorage.setItem('tandem.open', '1');
        // What no code expects, in a row, in a view, in a message.
        window.fake.conversations[1].title = { not: 'a text' };
        Object.defineProperty(window.fake.conversations[3], 'updatedAt', {
          enumerable: true,
          value: 0,
        });
        window.fake.commands.models_overview = () => ({ models: null, pairs: 7 });
        window.fake.commands.metrics_read = () => ({ rounds: 3 });
      },
    });
    await shown(page, id('message-assistant'));
    for (const view of ['models', 'metrics']) {
      await go(page, view);
      await shown(page, id('broken'));
      await shoot(page, `broken-${view}-desktop`);
      assert.match(await page.locator(id('broken')).first().textContent(), /cannot be shown/);
    }
    await go(page, 'settings');
    await shown(page, id('theme'));
    assert.equal(await page.locator(id('broken')).count(), 0);
    await go(page, 'chat');
    await page.locator(id('composer')).fill('Still there?');
    await page.keyboard.press('Enter');
    await page.getByText('Rain falls. It is wet, and it is fine.').waitFor();
  },
);

test('a right click has the system’s menu in text fields alone', { timeout: 60_000 }, async () => {
  const page = await rig.open({ prepare: withChat });
  await page.locator(id('stats')).first().waitFor();
  const menu = (css) =>
    page.evaluate((css) => {
      const init = { bubbles: true, cancelable: true };
      return document.querySelector(css).dispatchEvent(new MouseEvent('contextmenu', init));
    }, css);
  for (const css of ['body', id('message-assistant'), id('conversation'), 'header'])
    assert.equal(await menu(css), false, css);
  for (const css of [id('composer'), id('search')]) assert.equal(await menu(css), true, css);
});

test('a text that cannot be copied is shown, selected', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      const refuse = () => Promise.reject(new Error('not allowed'));
      Object.defineProperty(navigator, 'clipboard', { value: { writeText: refuse } });
    },
  });
  await go(page, 'settings');
  await page.locator(id('copy-diagnostics')).click();
  await shown(page, id('copy-by-hand'));
  await shoot(page, 'copy-by-hand-desktop');
  const selected = await page.evaluate(() => {
    const { value, selectionStart, selectionEnd } = document.activeElement;
    return value.slice(selectionStart, selectionEnd);
  });
  assert.match(selected, /^Tandem 0\.1\.0\n/);
  await page.keyboard.press('Escape');
  await page.locator(id('copy-by-hand')).waitFor({ state: 'detached' });
});

test('diagnostics are copied within the press', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      // As WebKit does it: the press allows it until something was waited for.
      let allowed = false;
      window.fake.commands.diagnostics = () => window.fake.sleep(100).then(() => 'Tandem 0.1.0');
      addEventListener('click', () => (allowed = true), true);
      addEventListener('click', () => (allowed = false));
      const writeText = async (text) => {
        if (!allowed) throw new Error('not allowed');
        window.copied = text;
      };
      Object.defineProperty(navigator, 'clipboard', { value: { writeText } });
    },
  });
  await go(page, 'settings');
  await page.waitForTimeout(300);
  await page.locator(id('copy-diagnostics')).click();
  await page.getByText('Diagnostics copied.').waitFor();
  assert.match(await page.evaluate(() => window.copied), /^Tandem/);
});

test('the tokens of the last answer open within sight', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      localStorage.setItem('tandem.open', '2');
      const question = window.fake.add(2, null, { role: 'user', content: 'Long?' });
      const content = 'A paragraph of the answer.\n\n'.repeat(40);
      window.fake.add(2, question.id, { content, stats: window.fake.stats });
    },
  });
  const button = page.locator(id('split-open'));
  await button.waitFor();
  await button.click();
  const panel = page.locator(id('split'));
  await page.locator(id('round')).first().waitFor();
  await page.waitForTimeout(300);
  const box = await panel.boundingBox();
  const composer = await page.locator('form.composer').boundingBox();
  assert.ok(box.y > 0 && box.y + box.height <= composer.y, JSON.stringify([box, composer]));
  await shoot(page, 'tokens-desktop');
});

test('theme and language are kept when they are chosen', { timeout: 60_000 }, async () => {
  const page = await rig.open({});
  await go(page, 'settings');
  await page.locator('textarea').fill('Answer in verse.');
  await page.locator(id('theme')).selectOption('dark');
  await page.locator(id('language')).selectOption('de');
  const kept = await page.evaluate(() => window.fake.commands.settings_get());
  assert.deepEqual([kept.theme, kept.language, kept.systemPrompt], ['dark', 'de', '']);
  // The rest waits to be saved, and who leaves is told.
  assert.equal(await page.locator('textarea').inputValue(), 'Answer in verse.');
  await page.locator(`${id('settings-save')}:enabled`).waitFor();
  await go(page, 'chat');
  await page.getByText('Es gibt Änderungen, die nicht gespeichert sind.').waitFor();
  await page.locator(id('undo')).click();
  await page.waitForFunction(
    () => window.fake.commands.settings_get().systemPrompt === 'Answer in verse.',
  );
  assert.equal(await page.locator('html').getAttribute('data-theme'), 'dark');
});

test('an edge that keeps ending can be started again', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      Object.assign(window.fake.status.edge, {
        state: 'off',
        problem: 'ended',
        detail: 'the edge of this device keeps ending: signal: 9',
      });
    },
  });
  await shown(page, id('edge-ended'));
  await page.locator(id('status-badge')).click();
  await shoot(page, 'edge-ended-desktop');
  await page.locator(id('edge-restart')).click();
  assert.equal(await calls(page, 'edge_restart'), 1);
});
