import { afterEach, expect, it } from 'vitest';
import { toApiError } from '../lib/api';
import { language } from './core.svelte';
import { said } from './errors';

afterEach(() => language.show('en'));

it('says an error of the core in the language of the window', () => {
  const full = { code: 'disk_full', message: 'the disk is full; 3 bytes are free' };
  const own = 'The disk is full; 3 bytes are free.';
  expect(toApiError(full)).toEqual({ code: 'disk_full', message: own, detail: null });
  language.show('de');
  expect(toApiError(full)).toEqual({
    code: 'disk_full',
    message: expect.stringMatching(/^Der Datenträger ist voll/) as string,
    detail: own,
  });
  language.show('fr');
  expect(toApiError(full).message).toMatch(/^Le disque est plein/);
});

it('makes sentences of what it has no words for, and folds in what is for experts', () => {
  language.show('de');
  const rare = {
    code: 'rare',
    message: 'the flux capacitor is cold\n   0: flux::heat\n   1: main',
  };
  expect(toApiError(rare)).toEqual({
    code: 'rare',
    message: 'The flux capacitor is cold.',
    detail: '0: flux::heat\n   1: main',
  });
  const parsed = { code: 'x', message: 'this is no file of ours', detail: 'at line 1 column 2' };
  expect(toApiError(parsed)).toMatchObject({ detail: 'at line 1 column 2' });
  expect(toApiError('broken')).toEqual({ code: 'unknown', message: 'broken.', detail: null });
  // A name is not changed.
  expect(said('qwen2.5-0.5b is in use').message).toBe('qwen2.5-0.5b is in use.');
  expect(said('What now?').message).toBe('What now?');
});
