// The built window in Chromium, with a fake backend: pages of any size and theme, and what is
// measured on each of them.
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const here = path.dirname(fileURLToPath(import.meta.url));
const dist = path.join(here, '../dist');
const config = path.join(here, '../../src-tauri/tauri.conf.json');
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const fakes = readdirSync(path.join(here, 'fake')).sort();
const shots = process.env.TANDEM_SCREENSHOTS;

export const sizes = {
  desktop: { viewport: { width: 1100, height: 800 } },
  phone: {
    viewport: { width: 390, height: 844 },
    hasTouch: true,
    isMobile: true,
    deviceScaleFactor: 2,
  },
};
export const id = (name) => `[data-testid="${name}"]`;

/** Serves the built UI under the app's own content security policy. */
async function serve() {
  const csp = JSON.parse(readFileSync(config, 'utf8')).app.security.csp;
  const types = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css' };
  const server = createServer(async (request, response) => {
    const name = request.url === '/' ? '/index.html' : request.url.split('?')[0];
    const body = await readFile(path.join(dist, path.normalize(name))).catch(() => null);
    const type = types[path.extname(name)] ?? 'application/octet-stream';
    // The one file that a browser asks for and the app does not have.
    const missing = name === '/favicon.ico' ? 204 : 404;
    response.writeHead(body ? 200 : missing, {
      'content-type': type,
      'content-security-policy': csp,
    });
    response.end(body);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, stop: () => server.close() };
}

/** A browser and the server; `close` ends both. */
export async function launch() {
  const site = await serve();
  const browser = await chromium.launch({
    executablePath: process.env.TANDEM_CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--no-first-run',
      '--no-default-browser-check',
    ],
  });
  return {
    /**
     * Opens the window. `prepare` is a function that runs in the page before the app and may change
     * `window.fake`. What the page reports as an error is in `page.problems`.
     */
    async open({
      size = 'desktop',
      theme = 'light',
      motion = 'no-preference',
      prepare,
      ...rest
    } = {}) {
      const context = await browser.newContext({
        ...sizes[size],
        colorScheme: theme,
        reducedMotion: motion,
        locale: 'en-GB',
        ...rest,
      });
      const page = await context.newPage();
      page.setDefaultTimeout(20_000);
      page.problems = [];
      page.on('pageerror', (error) => page.problems.push(String(error)));
      page.on('console', (line) => {
        if (['error', 'warning'].includes(line.type())) page.problems.push(line.text());
      });
      for (const file of fakes) await page.addInitScript({ path: path.join(here, 'fake', file) });
      if (prepare) await page.addInitScript(prepare);
      await page.goto(site.url);
      await page.locator('h1').waitFor();
      return page;
    },
    async close() {
      await browser.close();
      site.stop();
    },
  };
}

/** Saves a picture, if TANDEM_SCREENSHOTS names a folder. */
export async function shoot(page, name) {
  if (!shots) return;
  mkdirSync(shots, { recursive: true });
  await page.screenshot({ path: path.join(shots, `${name}.png`) });
}

/** Fails on what axe calls serious or critical. */
export async function assertAccessible(page, where) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() =>
    window.axe.run(document, { resultTypes: ['violations'] }),
  );
  const bad = violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(
      ({ id, nodes }) =>
        `${id}: ${nodes.map((n) => `${n.target} (${n.failureSummary})`).join('; ')}`,
    );
  assert.deepEqual(bad, [], where);
}

/** Fails when the page, or a part that is not made to scroll sideways, is wider than the window. */
export async function assertNoOverflow(page, where) {
  const wide = await page.evaluate(() => {
    const limit = document.documentElement.clientWidth;
    const scrolls = (element) =>
      element &&
      (/auto|scroll|hidden/.test(getComputedStyle(element).overflowX) ||
        scrolls(element.parentElement));
    const found = [];
    if (document.documentElement.scrollWidth > limit) found.push('the page');
    for (const element of document.querySelectorAll('main *, nav *, dialog, dialog *')) {
      const box = element.getBoundingClientRect();
      const hidden = box.width <= 1 || getComputedStyle(element).visibility === 'hidden';
      if (!hidden && (box.right > limit + 1 || box.left < -1) && !scrolls(element.parentElement))
        found.push(
          `${element.tagName}.${element.className} ${Math.round(box.left)}–${Math.round(box.right)}`,
        );
    }
    // A part that scrolls up and down must not also scroll sideways by accident.
    for (const element of document.querySelectorAll('main *, nav *, dialog, dialog *')) {
      if (
        /auto|scroll/.test(getComputedStyle(element).overflowX) &&
        element.scrollWidth > element.clientWidth + 1 &&
        !element.matches('pre, table, textarea, [role="region"][tabindex="0"]')
      )
        found.push(`${element.tagName}.${element.className} scrolls sideways`);
    }
    return found;
  });
  assert.deepEqual(wide, [], where);
}

/** Fails when something to be touched is smaller than 44 × 44. What is a piece of a text is excepted. */
export async function assertTouchable(page, where) {
  const small = await page.evaluate(() => {
    const controls =
      'button, a[href], input, select, textarea, summary, [role="button"], [role="tab"], [role="switch"], [role="option"]';
    const found = [];
    for (const element of document.querySelectorAll(controls)) {
      const style = getComputedStyle(element);
      if (element.closest('[inert]') || style.visibility === 'hidden') continue;
      const within = element.closest(element.matches('a') ? 'p, li, td' : '[role="group"]');
      if (within && style.display === 'inline') continue;
      // A label around a control is touched in its place.
      const target = element.matches('input') ? (element.closest('label') ?? element) : element;
      const { width, height } = target.getBoundingClientRect();
      if (width <= 1 || height <= 1) continue;
      if (width < 43.5 || height < 43.5)
        found.push(
          `${element.tagName} "${element.getAttribute('aria-label') ?? element.textContent.trim()}" ${width.toFixed(0)}×${height.toFixed(0)}`,
        );
    }
    return found;
  });
  assert.deepEqual(small, [], where);
}

/** The views that there are, by their id. */
export async function viewIds(page) {
  return page.evaluate(() =>
    [...document.querySelectorAll('[data-testid^="view-"], [data-testid="settings-open"]')].map(
      (button) => button.dataset.testid.replace('view-', '').replace('settings-open', 'settings'),
    ),
  );
}

/** Opens a view by what is there for it at this size. */
export async function go(page, view) {
  const tab = page.locator(id(`tab-${view}`));
  const entry = page.locator(view === 'settings' ? id('settings-open') : id(`view-${view}`));
  if (await tab.count()) await tab.click();
  else await entry.click();
  await page.waitForFunction(() => !document.querySelector('main .loading'));
  // What is folded away counts as well.
  await page.evaluate(() => {
    for (const details of document.querySelectorAll('details')) details.open = true;
  });
}
