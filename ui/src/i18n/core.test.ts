import { afterEach, describe, expect, it } from 'vitest';
import { bestLanguage, date, language, number, percent, plural, texts } from './core.svelte';

const tree = texts({
  en: { hello: 'Hello', deep: { count: (n: number) => plural(n, '# token', '# tokens') } },
  de: { hello: 'Hallo', deep: { count: (n) => plural(n, '# Token', '# Token') } },
  fr: { hello: 'Bonjour', deep: { count: (n) => plural(n, '# jeton', '# jetons') } },
});

afterEach(() => language.show('en'));

describe('texts', () => {
  it('follow the language', () => {
    expect(tree.hello).toBe('Hello');
    language.show('de');
    expect([tree.hello, document.documentElement.lang]).toEqual(['Hallo', 'de']);
    language.show('fr');
    expect(tree.deep.count(0)).toBe('0 jeton');
    expect(tree.deep.count(2)).toBe('2 jetons');
  });

  it('take the system’s first language that there is', () => {
    expect(bestLanguage(['nl-BE', 'fr-BE', 'en'])).toBe('fr');
    expect(bestLanguage(['nl'])).toBe('en');
    language.show('auto');
    expect(language.current).toBe('en');
  });

  it('have their chosen language at the next start', () => {
    language.keep('de');
    expect(localStorage.getItem('tandem.language')).toBe('de');
  });
});

it('writes numbers and dates as the language does', () => {
  const day = new Date(2026, 4, 20).getTime();
  expect([number(1234.5), percent(0.785), date(day, { month: 'long' })]).toEqual([
    '1,234.5',
    '79 %',
    'May',
  ]);
  language.show('de');
  expect([number(1234.5), percent(0.785, 1), date(day, { month: 'long' })]).toEqual([
    '1.234,5',
    '78,5 %',
    'Mai',
  ]);
  expect(plural(1234, '# Token', '# Token')).toBe('1.234 Token');
});
