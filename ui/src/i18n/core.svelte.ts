/**
 * The language of the window, and its texts. Own code, as a library would bring a message format
 * and a parser for what a TypeScript function does, with its arguments checked.
 *
 * A slice of the app has one file here: `export const boxes = texts({ en, de, fr })`. A text is a
 * string, or a function when it has something to fill in; English decides which keys there are.
 * Reading a text in a template follows the language.
 */
export type Language = 'en' | 'de' | 'fr';
export type LanguageSetting = 'auto' | Language;

export const languages: Record<Language, string> = {
  en: 'English',
  de: 'Deutsch',
  fr: 'Français',
};

// Kept here as well so that the first paint has the right words, before the backend answers.
const SLOT = 'tandem.language';
const locales: Record<Language, string> = { en: 'en-GB', de: 'de-DE', fr: 'fr-FR' };
const isLanguage = (name: string | null): name is Language => name !== null && name in languages;

/** The first of the system's languages that there are texts for. */
export function bestLanguage(preferred: readonly string[]): Language {
  const names = preferred.map((tag) => tag.toLowerCase().split('-', 1)[0]!);
  return names.find(isLanguage) ?? 'en';
}

class LanguageState {
  setting = $state<LanguageSetting>('auto');
  current = $derived<Language>(
    this.setting === 'auto' ? bestLanguage(navigator.languages) : this.setting,
  );

  constructor() {
    const kept = localStorage.getItem(SLOT);
    this.show(isLanguage(kept) ? kept : 'auto');
  }

  show(setting: LanguageSetting) {
    this.setting = setting;
    document.documentElement.lang = this.current;
  }

  /** Shows it, now and at the next start. */
  keep(setting: LanguageSetting) {
    localStorage.setItem(SLOT, setting);
    this.show(setting);
  }

  get locale(): string {
    return locales[this.current];
  }
}

export const language = new LanguageState();

type Text = string | ((...args: never[]) => string);
interface Tree {
  [key: string]: Text | Tree;
}
/** The same keys, and functions of the same arguments. */
type Like<T> = {
  [K in keyof T]: T[K] extends string
    ? string
    : T[K] extends (...args: infer A) => string
      ? (...args: A) => string
      : Like<T[K]>;
};

/** The texts of a slice in the language of the moment. */
export function texts<T extends Tree>(all: {
  en: T;
  de: Like<NoInfer<T>>;
  fr: Like<NoInfer<T>>;
}): Like<T> {
  const by = all as unknown as Record<Language, Like<T>>;
  return new Proxy(by.en, { get: (_, key) => by[language.current][key as keyof T] });
}

// Making a formatter is slow, and there are few of them.
const made: Record<string, unknown> = {};
function cached<T>(kind: string, options: object, make: (locale: string) => T): T {
  const key = `${language.locale} ${kind} ${JSON.stringify(options)}`;
  return (made[key] ??= make(language.locale)) as T;
}

export function number(value: number, options: Intl.NumberFormatOptions = {}): string {
  return cached('number', options, (l) => new Intl.NumberFormat(l, options)).format(value);
}

/** A number with so many digits after the point. */
export function fixed(value: number, digits: number): string {
  return number(value, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A share from 0 to 1 in per cent. */
export function percent(share: number, digits = 0): string {
  return `${fixed(100 * share, digits)} %`;
}

/** Whether a time, in milliseconds since the epoch, is one that a calendar has. */
export const isTime = (time: number) => Math.abs(time) <= 8.64e15;

/** `time` is in milliseconds since the epoch; what no calendar has is a dash. */
export function date(
  time: number,
  options: Intl.DateTimeFormatOptions = { dateStyle: 'medium', timeStyle: 'short' },
): string {
  if (!isTime(time)) return '–';
  return cached('date', options, (l) => new Intl.DateTimeFormat(l, options)).format(time);
}

/** `plural(3, '# token', '# tokens')`; French counts 0 as one, which is why this asks Intl. */
export function plural(count: number, one: string, other: string): string {
  const rule = cached('plural', {}, (l) => new Intl.PluralRules(l)).select(count);
  return (rule === 'one' ? one : other).replace('#', number(count));
}
