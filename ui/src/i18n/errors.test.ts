import { afterEach, expect, it } from 'vitest';
import { toApiError } from '../lib/api';
import { language } from './core.svelte';

afterEach(() => language.show('en'));

it('says an error of the core in the language of the window', () => {
  const full = { code: 'disk_full', message: 'the disk is full; 3 bytes are free' };
  expect(toApiError(full).message).toBe(full.message);
  language.show('de');
  expect(toApiError(full)).toEqual({
    code: 'disk_full',
    message: expect.stringMatching(/^Der Datenträger ist voll/) as string,
  });
  language.show('fr');
  expect(toApiError(full).message).toMatch(/^Le disque est plein/);
});

it('leaves an error that it has no words for as it is', () => {
  language.show('de');
  const rare = { code: 'rare', message: 'the flux capacitor is cold' };
  expect(toApiError(rare)).toEqual(rare);
  expect(toApiError('broken')).toEqual({ code: 'unknown', message: 'broken' });
});
