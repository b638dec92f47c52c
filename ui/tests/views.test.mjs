// Every view at both sizes and in both themes: no error, nothing that axe calls serious, nothing
// wider than the window, nothing too small to be touched.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  assertAccessible,
  assertNoOverflow,
  assertTouchable,
  go,
  id,
  launch,
  shoot,
  sizes,
  viewIds,
} from './rig.mjs';

let rig;
before(async () => (rig = await launch()));
after(() => rig?.close());

/** The first conversation is open. */
const withChat = () => localStorage.setItem('tandem.open', '1');

/** What a view looks like besides its usual state: empty, failed, opened, asking. */
const states = {
  'metrics-empty': {
    view: 'metrics',
    prepare: () => {
      window.fake.metrics = null;
      window.fake.benchmarks.length = 0;
    },
    act: (page) => page.locator(id('metrics-empty')).waitFor(),
  },
  'metrics-filtered': {
    view: 'metrics',
    act: async (page) => {
      await page.locator(id('filter-box')).selectOption('Workshop');
      await page.locator(id('filter-period')).selectOption('day');
      await page.locator(`${id('metrics-empty')} button`).waitFor();
    },
  },
  'metrics-tables': {
    view: 'metrics',
    act: async (page) => {
      const buttons = page.locator('figure button');
      await buttons.first().waitFor();
      for (const button of await buttons.all()) await button.click();
      assert.equal(await page.locator('canvas').count(), 0);
    },
  },
  'metrics-benchmark': {
    view: 'metrics',
    prepare: () => (window.fake.pause = 60_000),
    act: async (page) => {
      await page.locator(id('bench-start')).click();
      await page.locator(id('bench-cancel')).scrollIntoViewIfNeeded();
      await page.locator(`${id('bench-progress')} span`).waitFor();
    },
  },
  'metrics-failed': {
    view: 'metrics',
    prepare: () => {
      window.fake.commands.metrics_read = () => {
        throw { code: 'store', message: 'The figures cannot be read.' };
      };
    },
    act: (page) => page.locator('[role="alert"]').waitFor(),
  },
  'boxes-found': {
    view: 'boxes',
    act: async (page) => {
      await page.locator(id('box-search')).click();
      await page.locator(id('box-found')).click();
      await page.locator(id('box-code')).fill('AAAA-AAAA');
      await page.locator(id('box-pair')).click();
      await page.locator(id('box-add-problem')).scrollIntoViewIfNeeded();
    },
  },
  'boxes-none': {
    view: 'boxes',
    prepare: () => {
      window.fake.boxes.length = 1;
      window.fake.found.length = 0;
    },
    act: async (page) => {
      await page.locator(id('box-search')).click();
      await page.getByText('No box was found').waitFor();
    },
  },
  'boxes-asking': {
    view: 'boxes',
    act: async (page) => {
      const box = (n) => page.locator(`${id('box')}[data-id="${n}"]`);
      await box(1).locator(id('box-rename')).click();
      await box(2).locator(id('box-test')).click();
      await box(2).locator(id('box-problem')).waitFor();
      await box(3).locator(id('box-revoke')).click();
      await page.locator(id('box-confirm')).waitFor();
    },
  },
  'models-empty': {
    view: 'models',
    prepare: () => {
      for (const model of window.fake.models)
        Object.assign(model, { state: 'missing', haveBytes: 0 });
      window.fake.files.length = 0;
    },
    act: (page) => page.locator(`${id('models-view')} .empty`).scrollIntoViewIfNeeded(),
  },
  'models-asking': {
    view: 'models',
    act: async (page) => {
      await page.locator(id('own-drafter')).selectOption({ index: 1 });
      await page.locator(id('own-verifier')).selectOption({ index: 1 });
      await page.locator(id('own-problem')).waitFor();
      for (const n of [0, 0]) await page.locator(id('model-delete')).nth(n).click();
      await page.locator(id('model-delete-sure')).first().click();
      await page
        .locator(`${id('model')} [role="alert"]`)
        .first()
        .scrollIntoViewIfNeeded();
    },
  },
  'models-loading': {
    view: 'models',
    prepare: () => (window.fake.pause = 60_000),
    act: async (page) => {
      await page.locator(id('model-resume')).click();
      await page.locator(id('model-pause')).scrollIntoViewIfNeeded();
    },
  },
  'chat-split': {
    act: async (page) => {
      await page.locator(id('split-open')).first().click();
      await page.locator(id('round')).first().click();
      await page.locator(id('round-figures')).scrollIntoViewIfNeeded();
    },
  },
  'chat-edit': {
    act: async (page) => {
      await page.locator(id('edit')).last().click();
      await page.locator(id('edit-text')).waitFor();
    },
  },
  'chat-full': {
    prepare: () => {
      localStorage.setItem('tandem.open', '1');
      window.fake.usage.used = 4090;
    },
    act: (page) => page.locator(id('context-full')).waitFor(),
  },
  'chat-options': {
    act: async (page) => {
      await page.locator(id('options')).click();
      await page.locator(id('own-prompt')).selectOption({ index: 1 });
      await page.locator(id('preset')).selectOption('custom');
    },
  },
  'chat-found': {
    act: async (page, size) => {
      if (size === 'phone') await page.locator(id('drawer-open')).click();
      await page.locator(id('search')).fill('stop');
      await page.locator(id('hit')).waitFor();
    },
  },
  'chat-deleted': {
    act: async (page, size) => {
      if (size === 'phone') await page.locator(id('drawer-open')).click();
      await page.locator(`${id('conversation')}[data-id="3"]`).hover();
      await page.locator(`${id('conversation')}[data-id="3"] .more`).click();
      await page.locator(id('delete')).click();
      await page.locator(id('undo')).waitFor();
    },
  },
  'settings-changed': {
    view: 'settings',
    act: async (page) => {
      await page.locator('textarea').fill('Answer in verse.');
      await page.locator(`${id('settings-save')}:enabled`).waitFor();
    },
  },
  startup: {
    prepare: () => {
      window.fake.commands.startup = () => 'The conversations cannot be read: the disk is full.';
    },
    act: (page) => page.locator(id('startup-again')).waitFor(),
  },
};

async function assertGood(page, size, where) {
  await assertAccessible(page, where);
  await assertNoOverflow(page, where);
  if (size === 'phone') await assertTouchable(page, where);
  assert.deepEqual(page.problems, [], where);
}

for (const size of Object.keys(sizes)) {
  for (const theme of ['light', 'dark']) {
    test(`views, ${size}, ${theme}`, { timeout: 240_000 }, async (t) => {
      const page = await rig.open({ size, theme, prepare: withChat });
      await page.locator(id('stats')).first().waitFor();
      for (const view of await viewIds(page)) {
        await t.test(view, async () => {
          await go(page, view);
          await shoot(page, `${view}-${size}-${theme}`);
          await assertGood(page, size, `${view}, ${size}, ${theme}`);
        });
      }
      await page.context().close();
    });
  }
  for (const [name, { view, prepare = withChat, act }] of Object.entries(states)) {
    test(`${name}, ${size}`, { timeout: 120_000 }, async () => {
      const page = await rig.open({ size, prepare });
      if (view) await go(page, view);
      await act(page, size);
      for (const theme of ['light', 'dark']) {
        await page.emulateMedia({ colorScheme: theme });
        await shoot(page, `${name}-${size}-${theme}`);
        await assertGood(page, size, `${name}, ${size}, ${theme}`);
      }
      await page.context().close();
    });
  }
  test(`what opens over a view, ${size}`, { timeout: 240_000 }, async () => {
    const page = await rig.open({ size, theme: 'dark', prepare: withChat });
    await page.locator(id('status-badge')).click();
    await shoot(page, `status-${size}`);
    await assertGood(page, size, 'status');
    await page.keyboard.press('Escape');
    await page.keyboard.press('Control+/');
    await page.locator(id('help')).waitFor();
    await shoot(page, `help-${size}`);
    await assertGood(page, size, 'help');
    await page.keyboard.press('Escape');
    if (size === 'phone') {
      await page.locator(id('drawer-open')).click();
      await page.waitForTimeout(400);
      await shoot(page, 'drawer-phone');
      await assertGood(page, size, 'drawer');
    }
    await page.context().close();
  });

  test(`the first start, ${size}`, { timeout: 120_000 }, async () => {
    const page = await rig.open({
      size,
      prepare: () => {
        const [drafter, verifier] = window.fake.models;
        Object.assign(drafter, { state: 'partial', haveBytes: 100_000_000 });
        Object.assign(verifier, { state: 'missing', haveBytes: 0 });
        window.fake.conversations.length = 0;
      },
    });
    await page.locator(id('download-models')).waitFor();
    await shoot(page, `first-${size}`);
    await assertGood(page, size, 'models are missing');
    await page.getByRole('button', { name: 'Not now' }).click();
    await page.locator(id('composer')).waitFor();
    await shoot(page, `empty-${size}`);
    await assertGood(page, size, 'nothing there');
    await page.context().close();
  });
}

for (const language of ['de', 'fr']) {
  test(`in ${language}`, { timeout: 240_000 }, async (t) => {
    for (const size of Object.keys(sizes)) {
      const page = await rig.open({ size, locale: language, prepare: withChat });
      await page.locator(id('stats')).first().waitFor();
      assert.equal(await page.locator('html').getAttribute('lang'), language);
      for (const view of await viewIds(page)) {
        await t.test(`${view}, ${size}`, async () => {
          await go(page, view);
          await shoot(page, `${view}-${size}-${language}`);
          await assertGood(page, size, `${view}, ${size}, ${language}`);
        });
      }
      await page.context().close();
    }
  });
}
