// The window without a mouse: what Tab reaches and in which order, what Escape closes, and where the
// focus is afterwards.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { go, id, launch, viewIds } from './rig.mjs';

let rig;
before(async () => (rig = await launch()));
after(() => rig?.close());

const withChat = () => localStorage.setItem('tandem.open', '1');
const focused = (page) =>
  page.evaluate(() => {
    const element = document.activeElement;
    if (!element || element === document.body) return null;
    const { outlineStyle, outlineWidth } = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    // The composer shows the focus on the frame around the field.
    const ring = outlineStyle !== 'none' && outlineWidth !== '0px';
    window.marked ??= new WeakMap();
    if (!window.marked.has(element))
      window.marked.set(element, (window.markCount = (window.markCount ?? 0) + 1));
    return {
      mark: window.marked.get(element),
      name:
        element.dataset.testid ?? element.getAttribute('aria-label') ?? element.textContent.trim(),
      ring: ring || element.matches('textarea'),
      seen: box.width > 1 && box.right > 0 && box.left < innerWidth,
    };
  });

const nameOf = async (page) => (await focused(page))?.name;

/** Tabs once around, out of the page and in again; fails when that never comes to its end. */
async function walk(page, { back = false } = {}) {
  const stops = [];
  for (let step = 0; step < 200; step += 1) {
    await page.keyboard.press(back ? 'Shift+Tab' : 'Tab');
    const stop = await focused(page);
    if (stops.some(({ mark }) => mark === stop?.mark)) return stops;
    if (stop) stops.push(stop);
  }
  assert.fail(`a trap at ${stops.at(-1)?.name}`);
}

test(
  'Tab reaches everything in every view, and never gets caught',
  { timeout: 240_000 },
  async () => {
    const page = await rig.open({ prepare: withChat });
    await page.locator(id('stats')).first().waitFor();
    for (const view of await viewIds(page)) {
      await go(page, view);
      await page.evaluate(() => document.activeElement?.blur());
      const stops = await walk(page);
      const missed = await page.evaluate(() => {
        const all = document.querySelectorAll('button, input, select, textarea, a[href], summary');
        return (
          [...all]
            .filter((element) => !element.disabled && element.offsetParent && element.tabIndex >= 0)
            // Of the radio buttons of a group Tab reaches the chosen one.
            .filter((element) => element.type !== 'radio' || element.checked)
            .filter((element) => !window.marked.has(element))
            .map((element) => element.outerHTML.slice(0, 100))
        );
      });
      assert.deepEqual(missed, [], `not reached in ${view}`);
      assert.deepEqual(
        stops.filter(({ ring, seen }) => !ring || !seen).map(({ name }) => name),
        [],
        `focus not visible in ${view}`,
      );
      assert.equal((await walk(page, { back: true })).length > 3, true);
    }
  },
);

test('what is closed is out of the way on a phone', { timeout: 60_000 }, async () => {
  const page = await rig.open({ size: 'phone', prepare: withChat });
  await page.locator(id('stats')).first().waitFor();
  const stops = (await walk(page)).map(({ name }) => name);
  assert.equal(stops.includes('new-conversation'), false, stops.join());
  await page.locator(id('drawer-open')).click();
  await page.waitForFunction(() => document.activeElement?.dataset.testid === 'new-conversation');
  const inDrawer = (await walk(page)).map(({ name }) => name);
  assert.equal(inDrawer.includes('composer'), false, inDrawer.join());
  await page.keyboard.press('Escape');
  assert.equal(await nameOf(page), 'drawer-open');
});

test('views open by their keys, with the focus at their start', { timeout: 60_000 }, async () => {
  const page = await rig.open({ prepare: withChat });
  await page.keyboard.press('Control+,');
  await page.locator(id('theme')).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), 'view-title');
  await page.keyboard.press('Control+1');
  await page.locator(id('composer')).waitFor();
  assert.equal(await nameOf(page), 'composer');
});

test('the help sheet gives the focus back', { timeout: 60_000 }, async () => {
  const page = await rig.open({ prepare: withChat });
  await page.locator(id('composer')).focus();
  // In the field it is a character.
  await page.keyboard.press('?');
  assert.equal(await page.locator(id('composer')).inputValue(), '?');
  await page.keyboard.press('Control+/');
  await page.locator(id('help')).waitFor();
  await page.keyboard.press('Escape');
  await page.locator(id('help')).waitFor({ state: 'detached' });
  assert.equal(await nameOf(page), 'composer');
});

test('Escape closes what is open before it stops an answer', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      window.fake.answer = 'word '.repeat(200);
    },
  });
  await page.locator(id('composer')).fill('Go on');
  await page.keyboard.press('Enter');
  await page.locator(id('stop')).waitFor();
  await page.locator(id('status-badge')).click();
  await page.keyboard.press('Escape');
  await page.locator('#status-details').waitFor({ state: 'detached' });
  assert.equal(await page.locator(id('stop')).count(), 1);
  await page.keyboard.press('Escape');
  await page.locator(`${id('message-assistant')}[data-status="stopped"]`).waitFor();
});

test('what asks takes the focus and gives it back', { timeout: 60_000 }, async () => {
  const page = await rig.open({ prepare: withChat });
  const name = () => nameOf(page);
  const press = async (...keys) => {
    for (const key of keys) await page.keyboard.press(key);
    // A row that hears that the focus left it looks again with the next frame.
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => setTimeout(done))));
  };

  const more = page.locator(`${id('conversation')}[data-id="1"] .more`);
  const label = await more.getAttribute('aria-label');
  await more.focus();
  await press('Enter');
  assert.equal(await name(), 'pin');
  await press('Escape');
  assert.equal(await name(), label);
  await press('Enter', 'Tab', 'Enter');
  assert.equal(await name(), 'New title');
  await press('Escape');
  assert.equal(await name(), label);
  await press('Enter', 'Shift+Tab');
  assert.equal(await page.locator(id('pin')).count(), 0, 'closed behind the focus');

  await page.locator(id('edit')).last().focus();
  await press('Enter');
  assert.equal(await name(), 'edit-text');
  await press('Escape');
  assert.equal(await name(), 'edit');

  await go(page, 'metrics');
  await page.locator(id('bench-start')).focus();
  await press('Enter');
  assert.equal(await name(), 'bench-cancel');
  await page.locator(id('bench-start')).waitFor();
  assert.equal(await name(), 'bench-start');

  await go(page, 'boxes');
  for (const opener of ['box-rename', 'box-revoke']) {
    await page.locator(id(opener)).last().focus();
    await press('Enter');
    assert.ok(['New name', 'Cancel'].includes(await name()), await name());
    await press(opener === 'box-rename' ? 'Escape' : 'Enter');
    assert.equal(await name(), opener);
  }

  await go(page, 'models');
  await page.locator(id('model-delete')).first().focus();
  await press('Enter');
  assert.equal(await name(), 'Cancel');
  await press('Enter');
  assert.equal(await name(), 'model-delete');
});

test('branches turn and answers begin by key', { timeout: 60_000 }, async () => {
  const page = await rig.open({ prepare: withChat });
  const answers = page.locator(id('message-assistant'));
  await page.locator(id('stats')).first().waitFor();
  assert.equal(await answers.count(), 3);
  await page.locator(id('branch-previous')).focus();
  await page.keyboard.press('Enter');
  await page.getByText('Guessing ahead.').waitFor();
  assert.equal(await answers.count(), 1, 'what follows is on the other branch');
  await page.locator(id('again')).focus();
  await page.keyboard.press('Enter');
  await page.getByText('Rain falls. It is wet, and it is fine.', { exact: true }).waitFor();
  await page.getByText('3/3').waitFor();
  await page.waitForFunction(() =>
    document.querySelector('[data-testid="announcement"]').textContent.includes('complete'),
  );
});

const answering = () => {
  localStorage.setItem('tandem.open', '1');
  window.fake.answer = 'word '.repeat(200);
};
test('where Send and Stop were, the field goes on', { timeout: 60_000 }, async () => {
  const page = await rig.open({ prepare: answering });
  const stop = page.locator(id('stop'));
  const send = async (text) => {
    await page.locator(id('composer')).fill(text);
    await page.locator(id('send')).focus();
    await page.keyboard.press('Enter');
    await stop.waitFor();
    assert.equal(await nameOf(page), 'composer', 'after Send');
  };
  await page.evaluate(() => {
    // Between the key and the end of the answer there is time for a frame.
    const { stop_generation: end } = window.fake.commands;
    window.fake.commands.stop_generation = async (args) => {
      await window.fake.sleep(200);
      end(args);
    };
  });
  for (const key of ['Enter', 'Escape']) {
    await send(`Until ${key}`);
    await stop.focus();
    await page.keyboard.press(key);
    await page.waitForTimeout(100);
    assert.equal(await nameOf(page), 'stop', 'until the answer has ended');
    await page.locator(id('send')).waitFor();
    assert.equal(await nameOf(page), 'composer', key);
  }

  await page.evaluate(() => (window.fake.answer = 'word '.repeat(10)));
  await send('To its end');
  await stop.focus();
  await page.locator(id('send')).waitFor();
  assert.equal(await nameOf(page), 'composer', 'ended by itself');

  await send('Elsewhere');
  await page.locator(id('search')).focus();
  await page.locator(id('send')).waitFor();
  assert.equal(await nameOf(page), 'search', 'only what Stop had');
});

test('an edited question leaves the focus in the field', { timeout: 60_000 }, async () => {
  const page = await rig.open({ prepare: withChat });
  for (const last of ['edit-text', 'edit-send']) {
    await page.locator(id('edit')).last().focus();
    await page.keyboard.press('Enter');
    await page.keyboard.type(' Please.');
    await page.locator(id(last)).focus();
    await page.keyboard.press('Enter');
    await page.locator(id('edit-text')).waitFor({ state: 'detached' });
    await page.locator(id('stop')).waitFor();
    assert.equal(await nameOf(page), 'composer', last);
    await page.locator(id('send')).waitFor();
  }
});

test('without a keyboard none comes up by itself', { timeout: 60_000 }, async () => {
  const page = await rig.open({ size: 'phone', prepare: answering });
  await page.locator(id('edit')).last().tap();
  await page.locator(id('edit-send')).tap();
  await page.locator(id('stop')).waitFor();
  assert.notEqual(await nameOf(page), 'composer', 'after an edited question');
  await page.locator(id('stop')).tap();
  await page.locator(id('send')).waitFor();
  assert.notEqual(await nameOf(page), 'composer', 'after Stop');
});

test('a deleted conversation leaves the focus to its neighbour', { timeout: 60_000 }, async () => {
  const page = await rig.open({ prepare: withChat });
  const rows = page.locator(id('conversation'));
  const remove = async (row) => {
    const gone = await row.getAttribute('data-id');
    await row.locator('.more').focus();
    await page.keyboard.press('Enter');
    await row.locator(id('delete')).focus();
    await page.keyboard.press('Enter');
    await page.locator(`${id('conversation')}[data-id="${gone}"]`).waitFor({ state: 'detached' });
    // The field of a new conversation, where the open one was deleted, must not take it after all.
    await page.waitForTimeout(100);
  };
  const neighbour = (row) => row.locator('.more').getAttribute('aria-label');

  assert.equal(await rows.count(), 4);
  const third = await neighbour(rows.nth(2));
  assert.equal(await rows.nth(1).getAttribute('data-id'), '1', 'the open one');
  await remove(rows.nth(1));
  assert.equal(await nameOf(page), third);
  const second = await neighbour(rows.nth(1));
  await remove(rows.last());
  assert.equal(await nameOf(page), second, 'behind the last there is none');
  await remove(rows.last());
  await remove(rows.last());
  assert.equal(await nameOf(page), 'new-conversation');
});
