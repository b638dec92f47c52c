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

  async init() {
    this.#take(await api.settingsGet());
  }

  async save(settings: api.Settings) {
    this.#take(await api.settingsSet(settings));
  }

  #take(settings: api.Settings) {
    this.current = settings;
    localStorage.setItem(THEME_SLOT, settings.theme);
    showTheme(settings.theme);
  }
}

export const settings = new SettingsState();
