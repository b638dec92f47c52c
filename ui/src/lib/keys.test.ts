import { afterEach, beforeEach, expect, it } from 'vitest';
import { isComposing, leaveKeysToInputMethods } from './keys';

let heard: string[];
let stop: () => void;
const field = document.body.appendChild(document.createElement('input'));
const listen = ({ key }: KeyboardEvent) => void heard.push(key);
const press = (init: KeyboardEventInit) =>
  field.dispatchEvent(new KeyboardEvent('keydown', { bubbles: true, cancelable: true, ...init }));

beforeEach(() => {
  heard = [];
  stop = leaveKeysToInputMethods();
  field.addEventListener('keydown', listen);
  window.addEventListener('keydown', listen);
});
afterEach(() => {
  stop();
  field.removeEventListener('keydown', listen);
  window.removeEventListener('keydown', listen);
});

it('leaves the keys of a composition to the input method, as each engine reports them', () => {
  // Chromium, Firefox
  press({ key: 'Enter', keyCode: 229, isComposing: true });
  press({ key: 'Enter', keyCode: 13, isComposing: true });
  press({ key: 'Process', keyCode: 229, isComposing: true });
  // WebKit: the composition has ended, and the key that ended it comes after that.
  press({ key: 'Enter', keyCode: 229, isComposing: false });
  press({ key: 'Escape', keyCode: 229, isComposing: false });
  expect(heard).toEqual([]);
});

it('does not take what the input method wants to do with the key', () => {
  expect(press({ key: 'Enter', keyCode: 229 })).toBe(true);
});

it('lets all other keys through', () => {
  press({ key: 'Enter', keyCode: 13 });
  press({ key: 'a', keyCode: 65 });
  expect(heard).toEqual(['Enter', 'Enter', 'a', 'a']);
  expect(isComposing({ isComposing: false, keyCode: 13 })).toBe(false);
});
