// A window of the real app, driven through WebKitWebDriver under its own Xvfb.
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const ELEMENT = 'element-6066-11e4-a52e-4f735466cecf';

/** A port that nothing else listens on. */
const freePort = () =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

/**
 * Starts Xvfb, the driver and the app. `env` goes to the app; `managed` adds a window manager; the screen is
 * also a file in the folder `frames`.
 */
export async function open(binary, env, options = {}) {
  const { width = 1100, height = 800, managed = false, frames } = options;
  const display = `:${90 + Math.floor(Math.random() * 400)}`;
  const port = await freePort();
  const file = frames ? ['-fbdir', frames] : [];
  const xvfb = spawn('Xvfb', [display, '-screen', '0', `${width}x${height}x24`, ...file], {
    stdio: 'ignore',
  });
  await sleep(700);
  // Without one no window has the focus, is hidden or closed by a person.
  const manager =
    managed && spawn('openbox', [], { stdio: 'ignore', env: { ...process.env, DISPLAY: display } });
  const driver = spawn('WebKitWebDriver', [`--port=${port}`], {
    stdio: ['ignore', 2, 2],
    env: {
      ...process.env,
      // Where the window was is not remembered from one test to the next.
      XDG_CONFIG_HOME: env.TANDEM_DATA_DIR,
      ...env,
      DISPLAY: display,
      TAURI_WEBVIEW_AUTOMATION: 'true',
      WEBKIT_DISABLE_DMABUF_RENDERER: '1',
    },
  });
  await sleep(700);
  const call = async (method, path, body) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, {
      method,
      body: body && JSON.stringify(body),
    });
    const { value } = await response.json();
    if (process.env.TRACE) console.error(new Date().toISOString(), method, path.slice(-40));
    if (!response.ok) throw new Error(`${method} ${path}: ${value?.error}: ${value?.message}`);
    return value;
  };
  const { sessionId } = await call('POST', '/session', {
    capabilities: { alwaysMatch: { 'webkitgtk:browserOptions': { binary, args: [] } } },
  });
  const at = `/session/${sessionId}`;
  const page = {
    display,
    /** The app's process: this driver's, and no other one's on this machine. */
    pid: () =>
      Number(execFileSync('pgrep', ['-P', driver.pid, 'tandem-app'], { encoding: 'utf8' })),
    find: async (css) => {
      const found = await call('POST', `${at}/elements`, { using: 'css selector', value: css });
      return found.map((element) => element[ELEMENT]);
    },
    one: async (css) => (await page.find(css))[0],
    /** Waits until `check` gives something truthy. */
    until: async (what, check, seconds = 60) => {
      const end = Date.now() + seconds * 1000;
      while (Date.now() < end) {
        const value = await check().catch(() => undefined);
        if (value) return value;
        await sleep(150);
      }
      throw new Error(`waited ${seconds} s for: ${what}`);
    },
    run: (script, ...args) => call('POST', `${at}/execute/sync`, { script, args }),
    type: (id, text) => call('POST', `${at}/element/${id}/value`, { text }),
    click: (id) => call('POST', `${at}/element/${id}/click`, {}),
    text: (id) => call('GET', `${at}/element/${id}/text`),
    /** Presses a key together with Ctrl. */
    shortcut: (key) =>
      page.run(
        "window.dispatchEvent(new KeyboardEvent('keydown', { key: arguments[0], ctrlKey: true, bubbles: true }))",
        key,
      ),
    enabled: (css) => page.run('return !document.querySelector(arguments[0]).disabled', css),
    /** Types a question and sends it. */
    ask: async (text) => {
      await page.type(await page.one(id('composer')), text);
      await page.until('send to be enabled', () => page.enabled(id('send')));
      await page.click(await page.one(id('send')));
    },
    connected: (seconds = 90) =>
      page.until(
        'a connected edge',
        () =>
          page.run(
            'return document.querySelector(arguments[0])?.dataset.edge === "connected"',
            id('status-badge'),
          ),
        seconds,
      ),
    /** Waits for a link to a box or a model of this name. The badge may still speak of the last one. */
    linked: (to, seconds = 90) =>
      page.until(
        `a link to ${to}`,
        () =>
          page.run(
            `return window.__TAURI_INTERNALS__.invoke('app_status').then(({ edge }) =>
              edge.state === 'connected' && [edge.box.name, edge.model].includes(arguments[0]))`,
            to,
          ),
        seconds,
      ),
    attribute: (id, name) => call('GET', `${at}/element/${id}/attribute/${name}`),
    size: (w, h) => call('POST', `${at}/window/rect`, { x: 0, y: 0, width: w, height: h }),
    screenshot: async (path) => {
      writeFileSync(path, Buffer.from(await call('GET', `${at}/screenshot`), 'base64'));
    },
    close: async () => {
      await call('DELETE', at).catch(() => {});
      driver.kill();
      if (manager) manager.kill();
      xvfb.kill();
      await sleep(500);
    },
  };
  return page;
}

/** The colour of a place on the screen that is a file; nothing before there is one. */
export function pixel(frames, [x, y]) {
  let file;
  try {
    file = openSync(path.join(frames, 'Xvfb_screen0'));
    const at = (place, length) => {
      const bytes = Buffer.alloc(length);
      return readSync(file, bytes, 0, length, place) === length ? bytes : undefined;
    };
    // The head of an X window dump: its size, and of the lines and the table of colours.
    const head = at(0, 100);
    if (!head || head.readUInt32BE(0) < 100) return undefined;
    const [size, bits, line, colours] = [0, 11, 12, 19].map((i) => head.readUInt32BE(4 * i));
    const [blue, green, red] = at(size + 12 * colours + y * line + (x * bits) / 8, 3) ?? [];
    return red === undefined ? undefined : `#${Buffer.from([red, green, blue]).toString('hex')}`;
  } catch {
    return undefined;
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

/** A selector for a test id. */
export const id = (name) => `[data-testid="${name}"]`;

const SQL = `
import json, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
rows = database.execute(sys.argv[2]).fetchall()
database.commit()
print(json.dumps(rows))`;

/** Asks the app's database, and gives rows. */
export const database = (folder) => (query) =>
  JSON.parse(
    execFileSync('python3', ['-c', SQL, path.join(folder, 'tandem.db'), query], {
      encoding: 'utf8',
    }),
  );

/** The first line of a process's output that matches. */
export const line = (child, pattern) =>
  new Promise((resolve, reject) => {
    const lines = createInterface({ input: child.stdout });
    lines.on('line', (text) => pattern.test(text) && resolve(pattern.exec(text)[1]));
    child.on('exit', (code) => reject(new Error(`ended with ${code}`)));
  });
