import { language } from '../i18n/core.svelte';
import * as api from '../lib/api';

type Theme = api.Settings['theme'];

const systemDark = window.matchMedia('(prefers-color-scheme: dark)');
let shown: Theme = 'system';

export function showTheme(theme: Theme) {
  shown = theme;
  const dark = theme === 'dark' || (theme === 'system' && systemDark.matches);
  document.documentElement.dataset.theme = dark ? 'dark' : 'light';
}

// The app has set the kept theme before the page was laid out; a plain browser has none.
if (!document.documentElement.dataset.theme) showTheme(shown);
systemDark.addEventListener('change', () => showTheme(shown));

class SettingsState {
  current = $state.raw<api.Settings | null>(null);
  /** What is being edited; it outlives the view, and counts only when it is saved. */
  form = $state<api.Settings | null>(null);
  changed = $derived(JSON.stringify(this.form) !== JSON.stringify(this.current));

  /** Why there are none to show. */
  problem = $state.raw<api.ApiError | null>(null);

  async init() {
    this.problem = null;
    try {
      this.#take(await api.settingsGet());
    } catch (error) {
      this.problem = api.toApiError(error);
    }
  }

  async save(settings: api.Settings) {
    this.#take(await api.settingsSet(settings));
  }

  /** Theme and language are seen at once, so they are kept at once; the rest of the form waits. */
  async keepLooks() {
    if (!this.form || !this.current) return;
    const { theme, language: tongue } = this.form;
    showTheme(theme);
    language.show(tongue);
    const kept = await api.settingsSet({ ...this.current, theme, language: tongue });
    const form = { ...this.form };
    this.#take(kept);
    this.form = form;
  }

  discard() {
    if (this.current) this.#take(this.current);
  }

  #take(settings: api.Settings) {
    this.current = settings;
    this.form = { ...settings };
    showTheme(settings.theme);
    language.keep(settings.language);
  }
}

export const settings = new SettingsState();
