import { language } from '../i18n/core.svelte';
import * as api from '../lib/api';

type Theme = api.Settings['theme'];

// Kept here as well so that the first paint has the right colours, before the backend answers.
const THEME_SLOT = 'tandem.theme';
const systemDark = window.matchMedia('(prefers-color-scheme: dark)');
let shown: Theme = (localStorage.getItem(THEME_SLOT) as Theme | null) ?? 'system';

export function showTheme(theme: Theme) {
  shown = theme;
  const dark = theme === 'dark' || (theme === 'system' && systemDark.matches);
  document.documentElement.dataset.theme = dark ? 'dark' : 'light';
}

showTheme(shown);
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
    localStorage.setItem(THEME_SLOT, settings.theme);
    showTheme(settings.theme);
    language.keep(settings.language);
  }
}

export const settings = new SettingsState();
