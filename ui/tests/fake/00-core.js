// A backend for a browser: what the app's own IPC gives the page, with commands in `fake.commands`.
// Each slice adds its own in a file beside this one; the real backend is tested in tests/window.
(() => {
  const callbacks = new Map();
  const listeners = new Map();
  let nextId = 1;

  const fake = {
    /** Command name to (args) => result; a thrown value is what the command rejects with. */
    commands: {},
    /** [name, args] of each call, oldest first. */
    calls: [],
    emit(event, payload) {
      for (const handler of listeners.get(event) ?? [])
        callbacks.get(handler)?.({ event, payload });
    },
    sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  };

  const plugin = {
    'plugin:event|listen': ({ event, handler }) => {
      listeners.set(event, [...(listeners.get(event) ?? []), handler]);
      return handler;
    },
    'plugin:event|unlisten': ({ event, eventId }) => {
      listeners.set(
        event,
        (listeners.get(event) ?? []).filter((handler) => handler !== eventId),
      );
    },
  };

  window.fake = fake;
  window.__TAURI_INTERNALS__ = {
    metadata: { currentWindow: { label: 'main' }, currentWebview: { label: 'main' } },
    transformCallback(callback, once) {
      const id = nextId++;
      callbacks.set(id, (message) => {
        if (once) callbacks.delete(id);
        callback?.(message);
      });
      return id;
    },
    unregisterCallback: (id) => callbacks.delete(id),
    async invoke(name, args = {}) {
      const command = plugin[name] ?? fake.commands[name];
      fake.calls.push([name, args]);
      if (!command) throw { code: 'unknown', message: `no command is called ${name}` };
      const result = await command(args);
      // As over the real border: no object is shared.
      return result === undefined ? null : JSON.parse(JSON.stringify(result));
    },
  };
  window.__TAURI_EVENT_PLUGIN_INTERNALS__ = { unregisterListener: () => {} };
})();
