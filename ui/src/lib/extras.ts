/**
 * What only some answers need, loaded when the first one does: colours for code, and mathematics.
 * Until it is there, and when it cannot be had, the text is shown as it was written.
 */
import type { HLJSApi, LanguageFn } from 'highlight.js';
import type katex from 'katex';

type Load = () => Promise<{ default: LanguageFn }>;
const grammars: Record<string, Load> = {
  bash: () => import('highlight.js/lib/languages/bash'),
  c: () => import('highlight.js/lib/languages/c'),
  cpp: () => import('highlight.js/lib/languages/cpp'),
  csharp: () => import('highlight.js/lib/languages/csharp'),
  css: () => import('highlight.js/lib/languages/css'),
  diff: () => import('highlight.js/lib/languages/diff'),
  go: () => import('highlight.js/lib/languages/go'),
  java: () => import('highlight.js/lib/languages/java'),
  javascript: () => import('highlight.js/lib/languages/javascript'),
  json: () => import('highlight.js/lib/languages/json'),
  kotlin: () => import('highlight.js/lib/languages/kotlin'),
  php: () => import('highlight.js/lib/languages/php'),
  python: () => import('highlight.js/lib/languages/python'),
  ruby: () => import('highlight.js/lib/languages/ruby'),
  rust: () => import('highlight.js/lib/languages/rust'),
  sql: () => import('highlight.js/lib/languages/sql'),
  swift: () => import('highlight.js/lib/languages/swift'),
  typescript: () => import('highlight.js/lib/languages/typescript'),
  xml: () => import('highlight.js/lib/languages/xml'),
  yaml: () => import('highlight.js/lib/languages/yaml'),
};
const aliases: Record<string, string> = {
  'c++': 'cpp',
  'c#': 'csharp',
  html: 'xml',
  js: 'javascript',
  jsx: 'javascript',
  py: 'python',
  rs: 'rust',
  sh: 'bash',
  shell: 'bash',
  svg: 'xml',
  ts: 'typescript',
  tsx: 'typescript',
  yml: 'yaml',
  zsh: 'bash',
};
/** Longer code stays plain: colouring it would take longer than a frame. */
const LONGEST = 20_000;

const loading = new Map<string, Promise<void>>();
const listeners = new Set<() => void>();
let core: HLJSApi | null = null;
let math: typeof katex | null = null;

/** Hears when something was loaded, so that what waited for it can be rendered again. */
export function onLoaded(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function load(name: string, work: () => Promise<void>) {
  if (loading.has(name)) return;
  const done = work()
    .then(() => listeners.forEach((listener) => listener()))
    // Plain text it is then.
    .catch(() => {});
  loading.set(name, done);
}

/** Whatever is on its way is there. */
export const loaded = () => Promise.all(loading.values());

/** Code as HTML with classes, or null if it stays plain, for now or for good. */
export function highlight(code: string, language: string): string | null {
  const wanted = language.toLowerCase();
  const name = aliases[wanted] ?? wanted;
  if (!Object.hasOwn(grammars, name) || code.length > LONGEST) return null;
  if (core?.getLanguage(name)) return core.highlight(code, { language: name }).value;
  load(name, async () => {
    const [{ default: hljs }, { default: grammar }] = await Promise.all([
      import('highlight.js/lib/core'),
      grammars[name]!(),
    ]);
    core = hljs;
    hljs.registerLanguage(name, grammar);
  });
  return null;
}

/** A formula as MathML, which needs no style of its own; null until it can be had, and if it is none. */
export function formula(source: string, display: boolean): string | null {
  if (math) {
    try {
      return math.renderToString(source, {
        output: 'mathml',
        displayMode: display,
        // No addresses and no attributes of the text's choice; and a bound on what macros may do.
        trust: false,
        maxExpand: 200,
        maxSize: 20,
        strict: false,
      });
    } catch {
      // As it was written says more than a message about it.
      return null;
    }
  }
  load('math', async () => {
    math = (await import('katex')).default;
  });
  return null;
}
