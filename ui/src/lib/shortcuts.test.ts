import { afterEach, describe, expect, it, vi } from 'vitest';
import { bind, handleKey, keyNames, matches, shortcuts, withKeys } from './shortcuts';

const key = (key: string, held: Partial<KeyboardEventInit> = {}) =>
  new KeyboardEvent('keydown', { key, cancelable: true, bubbles: true, ...held });

const unbind: (() => void)[] = [];
afterEach(() => unbind.splice(0).forEach((back) => back()));

function press(event: KeyboardEvent, target: HTMLElement = document.body) {
  document.body.append(...(target === document.body ? [] : [target]));
  target.addEventListener('keydown', handleKey, { once: true });
  target.dispatchEvent(event);
  return event.defaultPrevented;
}

describe('shortcuts', () => {
  it('have no key twice in one scope', () => {
    const all = shortcuts.flatMap(({ keys, scope }) => keys.map((one) => `${scope} ${one}`));
    expect(new Set(all).size).toBe(all.length);
  });

  it('take Control, or Command on Apple’s systems', () => {
    expect(matches('new', key('n', { ctrlKey: true }), false)).toBe(true);
    expect(matches('new', key('n', { metaKey: true }), true)).toBe(true);
    expect(matches('new', key('n', { ctrlKey: true }), true)).toBe(false);
    expect(matches('new', key('N', { ctrlKey: true, shiftKey: true }), false)).toBe(false);
    expect(matches('send', key('Enter', { shiftKey: true }))).toBe(false);
  });

  it('do the newest action, until it is taken back', () => {
    const [old, newer] = [vi.fn(), vi.fn()];
    unbind.push(bind('new', old));
    const back = bind('new', newer);
    expect(press(key('n', { ctrlKey: true }))).toBe(true);
    back();
    press(key('n', { ctrlKey: true }));
    expect([old.mock.calls.length, newer.mock.calls.length]).toEqual([1, 1]);
  });

  it('leave the key alone when the action was not for it, or there is none', () => {
    unbind.push(bind('stop', () => false));
    expect(press(key('Escape'))).toBe(false);
    expect(press(key('1', { ctrlKey: true }))).toBe(false);
  });

  it('do not take characters from a text field', () => {
    const help = vi.fn();
    unbind.push(bind('help', help));
    const field = document.createElement('textarea');
    expect(press(key('?', { shiftKey: true }), field)).toBe(false);
    expect(press(key('/', { ctrlKey: true }), field)).toBe(true);
    expect(press(key('?', { shiftKey: true }))).toBe(true);
    expect(help).toHaveBeenCalledTimes(2);
  });

  it('are named as on the keyboard', () => {
    expect(keyNames('Mod+Shift+n', false)).toEqual(['Ctrl', 'Shift', 'N']);
    expect(keyNames('Mod+n', true)).toEqual(['⌘', 'N']);
    expect(keyNames('Alt+ArrowLeft', false)).toEqual(['Alt', '←']);
    expect(withKeys('Stop', 'stop')).toBe('Stop (Esc)');
  });
});
