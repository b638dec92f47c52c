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

async function assertGood(page, size, where) {
  await assertAccessible(page, where);
  await assertNoOverflow(page, where);
  if (size === 'phone') await assertTouchable(page, where);
  assert.deepEqual(page.problems, [], where);
}

for (const size of Object.keys(sizes)) {
  for (const theme of ['light', 'dark']) {
    test(`views, ${size}, ${theme}`, { timeout: 240_000 }, async () => {
      const page = await rig.open({ size, theme, prepare: withChat });
      await page.locator(id('stats')).first().waitFor();
      for (const view of await viewIds(page)) {
        await go(page, view);
        await shoot(page, `${view}-${size}-${theme}`);
        await assertGood(page, size, `${view}, ${size}, ${theme}`);
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
  test(`in ${language}`, { timeout: 240_000 }, async () => {
    for (const size of Object.keys(sizes)) {
      const page = await rig.open({ size, locale: language, prepare: withChat });
      await page.locator(id('stats')).first().waitFor();
      assert.equal(await page.locator('html').getAttribute('lang'), language);
      for (const view of await viewIds(page)) {
        await go(page, view);
        await shoot(page, `${view}-${size}-${language}`);
        await assertGood(page, size, `${view}, ${size}, ${language}`);
      }
      await page.context().close();
    }
  });
}
