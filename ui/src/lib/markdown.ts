/**
 * Markdown of an answer as safe HTML, block by block.
 *
 * A model's text is not to be trusted: raw HTML is shown as the text it is, apart from a few tags
 * without attributes; images would load from the network, so they become links; and what is left
 * goes through DOMPurify with a short list of what may pass.
 */
import DOMPurify from 'dompurify';
import { Marked, type Token, type TokenizerAndRendererExtension } from 'marked';
import { chat } from '../i18n/chat';
import { formula, highlight } from './extras';
import {
  blockFormula,
  inlineFormula,
  maskFormulas,
  nextBlock,
  nextFormula,
  pendingFormula,
} from './math';

const PLAIN_TAG = /^<\/?(br|sub|sup|kbd|mark)\s*\/?>$/i;
const ALLOWED_TAGS = (
  'p br hr h1 h2 h3 h4 h5 h6 strong em del a code pre blockquote ul ol li ' +
  'table thead tbody tr th td sub sup kbd mark div span button ' +
  'math semantics annotation mrow mi mn mo ms mspace mtext mfrac msqrt mroot mstyle merror ' +
  'mpadded mphantom msub msup msubsup munder mover munderover mmultiscripts mtable mtr mtd menclose'
).split(' ');
const MATH_ATTR = (
  'display mathvariant stretchy fence separator lspace rspace width height depth voffset accent ' +
  'accentunder displaystyle scriptlevel linethickness minsize maxsize columnalign columnspacing ' +
  'rowspacing encoding'
).split(' ');
const ALLOWED_ATTR = ['href', 'title', 'class', 'type', 'start', 'align', 'dir', ...MATH_ATTR];

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}

const shown = (text: string, raw: string, display: boolean) =>
  formula(text, display) ?? escape(raw.trim());

const inlineMath: TokenizerAndRendererExtension = {
  name: 'inlineMath',
  level: 'inline',
  start: (src) => {
    const at = nextFormula(src);
    return at < 0 ? undefined : at;
  },
  tokenizer(src, tokens) {
    const found = inlineFormula(src, tokens.at(-1)?.raw ?? '');
    return found ? { type: 'inlineMath', ...found } : undefined;
  },
  renderer: ({ raw, text }) => shown(text, raw, false),
};

const blockMath: TokenizerAndRendererExtension = {
  name: 'blockMath',
  level: 'block',
  start: (src) => {
    const at = nextBlock(src);
    return at < 0 ? undefined : at;
  },
  tokenizer(src) {
    const found = blockFormula(src);
    return found ? { type: 'blockMath', ...found } : undefined;
  },
  renderer: ({ raw, text }) => `<div class="math">${shown(text, raw, true)}</div>\n`,
};

const marked = new Marked({
  extensions: [inlineMath, blockMath],
  hooks: { emStrongMask: maskFormulas },
  gfm: true,
  renderer: {
    html: ({ text }) => (PLAIN_TAG.test(text.trim()) ? text : escape(text)),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    checkbox: ({ checked }) => `${checked ? '☑' : '☐'} `,
    code: ({ text, lang }) =>
      '<div class="code"><div class="code-head">' +
      `<span>${escape(lang?.split(/\s/)[0] || 'text')}</span>` +
      `<button type="button" class="copy-code">${chat.copyCode}</button></div>` +
      `<pre><code>${highlight(text, lang?.split(/\s/)[0] ?? '') ?? escape(text)}</code></pre></div>`,
  },
});

// Each block takes its direction from its own first letter; code is always from the left.
const DIRECTED = /^(P|LI|H[1-6]|TD|TH|BLOCKQUOTE|UL|OL)$/;
DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (DIRECTED.test(node.nodeName)) node.setAttribute('dir', 'auto');
  // What may be wider than the window scrolls, and the keyboard must be able to do that.
  if (node.nodeName === 'PRE' || node.nodeName === 'TABLE') node.setAttribute('tabindex', '0');
});

export function sanitise(html: string): string {
  return DOMPurify.sanitize(html, {
    ALLOWED_TAGS,
    ALLOWED_ATTR,
    ALLOW_DATA_ATTR: false,
    // Their values are no addresses, so the rule below is not for them.
    ADD_URI_SAFE_ATTR: ['type', 'start', 'align', 'dir', ...MATH_ATTR],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  });
}

function render(tokens: Token[]): string[] {
  return tokens
    .filter((token) => token.type !== 'space' && token.type !== 'def')
    .map((token) => sanitise(marked.parser([token])));
}

export function renderMarkdown(text: string): string[] {
  return render(marked.lexer(text));
}

/**
 * Renders a growing text without parsing it from the start each time: blocks that can no longer
 * change are kept, and only the end is parsed again.
 */
export class StreamingMarkdown {
  #settled: string[] = [];
  #settledText = '';

  /** Renders all of it again next time: something that it waited for is there. */
  reset() {
    this.#settled = [];
    this.#settledText = '';
  }

  /** `ended`: nothing more comes. */
  update(text: string, ended = false): string[] {
    if (!text.startsWith(this.#settledText)) this.reset();
    const rest = text.slice(this.#settledText.length);
    const pending = ended ? -1 : pendingFormula(rest);
    const tokens = marked.lexer(pending < 0 ? rest : rest.slice(0, pending));
    // The last block is growing, and the one before may still join it: after "1. one", a "2" is a
    // paragraph until its dot arrives.
    const blocks = tokens.flatMap((token, index) => (token.type === 'space' ? [] : [index]));
    const open = blocks.at(-2) ?? 0;
    const done = tokens.slice(0, open);
    this.#settled.push(...render(done));
    this.#settledText += done.map((token) => token.raw).join('');
    const html = [...this.#settled, ...render(tokens.slice(open))];
    // As it was written, until the formula is whole.
    if (pending >= 0) html.push(`<p dir="auto">${escape(rest.slice(pending))}</p>`);
    return html;
  }
}
