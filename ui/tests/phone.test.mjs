// What only a phone has: the camera that reads a box's code.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { go, id, launch } from './rig.mjs';

let rig;
before(async () => (rig = await launch()));
after(() => rig?.close());

const calls = (page, name) =>
  page.evaluate((name) => window.fake.calls.filter((call) => call[0].endsWith(name)), name);

test('a scanned code is the link, and no other code is needed', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    size: 'phone',
    prepare: () => (window.fake.status.scanner = true),
  });
  await go(page, 'boxes');
  await page.locator(id('box-scan')).tap();
  await page.locator(`${id('box-code')}[disabled]`).waitFor();
  const link = await page.evaluate(() => window.fake.camera.sees);
  assert.equal(await page.locator(id('box-place')).inputValue(), link);
  const [[, options]] = await calls(page, '|scan');
  assert.deepEqual(options.formats, ['QR_CODE']);
  await page.locator(id('box-pair')).tap();
  await page.locator(`${id('box-code')}:not([disabled])`).waitFor();
  assert.deepEqual(await calls(page, 'box_pair'), [['box_pair', { place: link, code: null }]]);
  assert.deepEqual(page.problems, []);
});

test('a camera that may not be used is said', { timeout: 60_000 }, async () => {
  const page = await rig.open({
    size: 'phone',
    prepare: () => {
      window.fake.status.scanner = true;
      window.fake.camera.allowed = 'denied';
    },
  });
  await go(page, 'boxes');
  await page.locator(id('box-scan')).tap();
  await page.locator(id('box-add-problem')).waitFor();
  assert.deepEqual(await calls(page, '|scan'), []);
  assert.equal(await page.locator(id('box-place')).inputValue(), '');
});

test('a desktop has no camera for it', { timeout: 60_000 }, async () => {
  const page = await rig.open({});
  await go(page, 'boxes');
  await page.locator(id('box-search')).waitFor();
  assert.equal(await page.locator(id('box-scan')).count(), 0);
});
