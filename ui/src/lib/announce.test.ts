import { expect, it } from 'vitest';
import { Announcer } from './announce';

/** What is said while the text grows character by character, and at its end. */
function said(text: string): string[] {
  const announcer = new Announcer();
  const all = [...text].map((_, i) => announcer.next(text.slice(0, i + 1), false, 'Code'));
  return [...all, announcer.next(text, true, 'Code')].filter(Boolean);
}

it('says whole sentences, once each', () => {
  expect(said('It rains. Version 2. 5 is wet! And now')).toEqual([
    'It rains.',
    'Version 2. 5 is wet!',
    'And now',
  ]);
});

it('says text without its marks', () => {
  expect(said('## **Rain**\n\n- a [link](https://a.b/c.d) here. \n')).toEqual([
    'Rain',
    'a link here.',
  ]);
});

it('says that there is code, when it is complete', () => {
  expect(said('Look: \n```rust\nlet a = 1;\nlet b;\n```\nDone. ')).toEqual([
    'Look:',
    'Code.',
    'Done.',
  ]);
  expect(said('```\nlet a')).toEqual(['Code.']);
});

it('loses nothing of a plain text, however it is cut', () => {
  const text = 'One. Two! Three? Four: five; six 7.8 nine.\nTen… eleven';
  expect(said(text).join(' ')).toBe(text.replace('\n', ' '));
});
