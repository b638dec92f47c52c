/**
 * Every shortcut of the app in one list. It decides which key does what, and the help sheet and the
 * tooltips read it, so that none of them can be wrong. A shortcut does something while a component
 * has bound an action to it, `$effect(() => bind('stop', stop))`.
 */
import { chat } from '../i18n/chat';
import { common } from '../i18n/common';
import { metrics } from '../i18n/metrics';

export type Scope = 'app' | 'chat' | 'composer';

export interface Shortcut {
  id: string;
  /** `Mod` is Command on Apple's systems and Control elsewhere; the last part is a `key` value. */
  keys: string[];
  label: () => string;
  scope: Scope;
}

const t = common;
const view = (id: keyof typeof common.views) => () => t.shortcuts.view(t.views[id]);

const list = [
  { id: 'help', keys: ['Mod+/', '?'], label: () => t.shortcuts.help, scope: 'app' },
  { id: 'new', keys: ['Mod+n'], label: () => t.shortcuts.newConversation, scope: 'app' },
  { id: 'chat', keys: ['Mod+1'], label: view('chat'), scope: 'app' },
  { id: 'metrics', keys: ['Mod+2'], label: view('metrics'), scope: 'app' },
  { id: 'boxes', keys: ['Mod+3'], label: view('boxes'), scope: 'app' },
  { id: 'models', keys: ['Mod+4'], label: view('models'), scope: 'app' },
  { id: 'settings', keys: ['Mod+,'], label: view('settings'), scope: 'app' },
  { id: 'stop', keys: ['Escape'], label: () => t.shortcuts.stop, scope: 'chat' },
  { id: 'search', keys: ['Mod+k'], label: () => chat.search, scope: 'app' },
  { id: 'editLast', keys: ['Mod+e'], label: () => chat.editLast, scope: 'chat' },
  { id: 'again', keys: ['Mod+Shift+r'], label: () => chat.again, scope: 'chat' },
  { id: 'copyLast', keys: ['Mod+Shift+c'], label: () => chat.copyLast, scope: 'chat' },
  { id: 'previous', keys: ['Alt+ArrowLeft'], label: () => chat.previous, scope: 'chat' },
  { id: 'next', keys: ['Alt+ArrowRight'], label: () => chat.next, scope: 'chat' },
  { id: 'split', keys: ['Mod+i'], label: () => metrics.split, scope: 'chat' },
  { id: 'send', keys: ['Enter'], label: () => t.shortcuts.send, scope: 'composer' },
  { id: 'newline', keys: ['Shift+Enter'], label: () => t.shortcuts.newline, scope: 'composer' },
] as const satisfies readonly Shortcut[];

export type ShortcutId = (typeof list)[number]['id'];
export const shortcuts: readonly (Shortcut & { id: ShortcutId })[] = list.map((shortcut) => ({
  ...shortcut,
  keys: [...shortcut.keys],
}));

const isApple = /Mac|iPhone|iPad/.test(navigator.platform);

type Key = Pick<KeyboardEvent, 'key' | 'ctrlKey' | 'metaKey' | 'shiftKey' | 'altKey'>;

function isPressed(keys: string, event: Key, apple = isApple): boolean {
  const parts = keys.split('+');
  const key = parts.pop()!;
  const wants = (name: string) => parts.includes(name);
  // A sign such as ? or / already says whether Shift was down, and that differs by keyboard.
  const sign = key.length === 1 && key.toLowerCase() === key.toUpperCase() && !/\d/.test(key);
  const [mod, other] = apple ? [event.metaKey, event.ctrlKey] : [event.ctrlKey, event.metaKey];
  return (
    event.key.toLowerCase() === key.toLowerCase() &&
    mod === wants('Mod') &&
    !other &&
    event.altKey === wants('Alt') &&
    (sign || event.shiftKey === wants('Shift'))
  );
}

const byId = (id: ShortcutId) => shortcuts.find((shortcut) => shortcut.id === id)!;

/** Whether the event is this shortcut; for keys that an element handles itself. */
export function matches(id: ShortcutId, event: Key, apple = isApple): boolean {
  return byId(id).keys.some((keys) => isPressed(keys, event, apple));
}

/** An action says false when the key is not its own after all. */
type Action = () => boolean | void;
const bound = new Map<ShortcutId, Action[]>();

/** The newest action of a shortcut is the one that is done. Returns how to take it back. */
export function bind(id: ShortcutId, action: Action): () => void {
  bound.set(id, [...(bound.get(id) ?? []), action]);
  return () => {
    bound.set(
      id,
      bound.get(id)!.filter((other) => other !== action),
    );
  };
}

/** Whether something would happen. */
export function isBound(id: ShortcutId): boolean {
  return (bound.get(id)?.length ?? 0) > 0;
}

const isField = (target: EventTarget | null) =>
  target instanceof HTMLElement &&
  (target.isContentEditable || /^(input|textarea|select)$/i.test(target.tagName));

/** The window's key handler. */
export function handleKey(event: KeyboardEvent) {
  if (event.defaultPrevented) return;
  for (const { id, keys } of shortcuts) {
    const pressed = keys.filter((one) => isPressed(one, event));
    // A plain character in a text field is text.
    if (isField(event.target)) pressed.splice(0, Infinity, ...pressed.filter((k) => k.length > 1));
    const action = bound.get(id)?.at(-1);
    if (pressed.length === 0 || !action) continue;
    if (action() !== false) event.preventDefault();
    return;
  }
}

/** Keys as they are printed on this system's keyboard: "Ctrl+N", "⌘N". */
export function keyNames(keys: string, apple = isApple): string[] {
  const names: Record<string, string> = {
    Mod: apple ? '⌘' : t.keys.ctrl,
    Shift: apple ? '⇧' : t.keys.shift,
    Alt: apple ? '⌥' : t.keys.alt,
    Enter: t.keys.enter,
    Escape: t.keys.escape,
    ArrowLeft: '←',
    ArrowRight: '→',
  };
  return keys.split('+').map((part) => names[part] ?? part.toUpperCase());
}

/** A tooltip: the label and, on a device that has a keyboard, the keys. */
export function withKeys(label: string, id: ShortcutId): string {
  return `${label} (${keyNames(byId(id).keys[0]!).join(isApple ? '' : '+')})`;
}
