import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  plugins: [svelte()],
  clearScreen: false,
  // Tauri's devUrl names this port, so a busy port is an error and not a reason to pick another.
  server: { port: 1420, strictPort: true },
  build: {
    target: ['es2022', 'safari16'],
    // The polyfill is of no use to the webviews above.
    modulePreload: { polyfill: false },
    // Everything inlined would have to be allowed as data: in the content security policy.
    assetsInlineLimit: 0,
  },
  // A machine that compiles something meanwhile takes long for the longest of them.
  test: { environment: 'jsdom', include: ['src/**/*.test.ts'], testTimeout: 30_000 },
});
