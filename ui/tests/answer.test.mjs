// An answer as it streams: what is read out, what moves, and the composer on a phone.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { id, launch } from './rig.mjs';

let rig;
before(async () => (rig = await launch()));
after(() => rig?.close());

test('a screen reader hears sentences, each once, and the end', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    prepare: () => {
      window.fake.answer =
        'Rain **falls**. It is wet, and it is fine. \n\n```\nlet x;\n```\n\nGood bye';
      window.heard = [];
      addEventListener('DOMContentLoaded', () => {
        new MutationObserver(() => {
          const text = document.querySelector('[data-testid="announcement"]')?.textContent;
          if (text && text !== window.heard.at(-1)) window.heard.push(text);
        }).observe(document.body, { subtree: true, childList: true, characterData: true });
      });
    },
  });
  await page.locator(id('composer')).fill('Weather?');
  await page.keyboard.press('Enter');
  await page.locator(`${id('message-assistant')}[data-status="done"]`).waitFor();
  assert.deepEqual(await page.evaluate(() => window.heard), [
    'Answering',
    'Rain falls.',
    'It is wet, and it is fine.',
    'Code.',
    'Good bye The answer is complete.',
  ]);
  assert.deepEqual(page.problems, []);
});

test('with reduced motion nothing moves by itself', { timeout: 60_000 }, async () => {
  const moving = async (motion) => {
    const page = await rig.open({
      motion,
      prepare: () => {
        window.fake.status.edge.state = 'connecting';
        window.fake.pause = 3000;
      },
    });
    await page.locator(id('composer')).fill('Weather?');
    await page.keyboard.press('Enter');
    await page.locator(id('stop')).waitFor();
    const count = await page.evaluate(() => document.getAnimations().length);
    await page.context().close();
    return count;
  };
  assert.equal(await moving('reduce'), 0);
  assert.ok((await moving('no-preference')) > 0, 'the dots of an answer that has not begun move');
});

test('on a phone the send button is where the finger is', { timeout: 60_000 }, async () => {
  const page = await rig.open({ size: 'phone' });
  await page.locator(id('composer')).tap();
  await page.keyboard.type('Weather?');
  await page.locator(id('tabs')).waitFor({ state: 'detached' });
  await page.locator(id('send')).tap();
  await page.locator(`${id('message-assistant')}[data-status="done"]`).waitFor();
  await page.locator(id('tabs')).waitFor();
});

test(
  'a keyboard that lies over the page does not cover the composer',
  { timeout: 60_000 },
  async () => {
    const page = await rig.open({
      size: 'phone',
      prepare: () => {
        const fake = Object.assign(new EventTarget(), { height: 844, width: 390, scale: 1 });
        Object.defineProperty(window, 'visualViewport', { value: fake });
      },
    });
    const bottom = async () => {
      const { y, height } = await page.locator(id('composer')).boundingBox();
      return y + height;
    };
    await page.locator(id('composer')).tap();
    assert.ok((await bottom()) > 700);
    const resize = (height) =>
      page.evaluate((h) => {
        window.visualViewport.height = h;
        window.visualViewport.dispatchEvent(new Event('resize'));
      }, height);
    await resize(480);
    assert.ok((await bottom()) <= 480, `${await bottom()}`);
    await resize(844);
    assert.ok((await bottom()) > 700);
  },
);
