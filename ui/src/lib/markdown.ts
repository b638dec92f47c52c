/**
 * Markdown of an answer as safe HTML, block by block.
 *
 * A model's text is not to be trusted: raw HTML is shown as the text it is, apart from a few tags
 * without attributes; images would load from the network, so they become links; and what is left
 * goes through DOMPurify with a short list of what may pass.
 */
import DOMPurify from 'dompurify';
import { Marked, type Token } from 'marked';
import { chat } from '../i18n/chat';

const PLAIN_TAG = /^<\/?(br|sub|sup|kbd|mark)\s*\/?>$/i;
const ALLOWED_TAGS = (
  'p br hr h1 h2 h3 h4 h5 h6 strong em del a code pre blockquote ul ol li ' +
  'table thead tbody tr th td sub sup kbd mark div span button'
).split(' ');
const ALLOWED_ATTR = ['href', 'title', 'class', 'type', 'start', 'align'];

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}

const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text }) => (PLAIN_TAG.test(text.trim()) ? text : escape(text)),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    checkbox: ({ checked }) => `${checked ? '☑' : '☐'} `,
    code: ({ text, lang }) =>
      '<div class="code"><div class="code-head">' +
      `<span>${escape(lang?.split(/\s/)[0] || 'text')}</span>` +
      `<button type="button" class="copy-code">${chat.copyCode}</button></div>` +
      `<pre><code>${escape(text)}</code></pre></div>`,
  },
});

export function sanitise(html: string): string {
  return DOMPurify.sanitize(html, {
    ALLOWED_TAGS,
    ALLOWED_ATTR,
    ALLOW_DATA_ATTR: false,
    // Their values are no addresses, so the rule below is not for them.
    ADD_URI_SAFE_ATTR: ['type', 'start', 'align'],
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

  update(text: string): string[] {
    if (!text.startsWith(this.#settledText)) {
      this.#settled = [];
      this.#settledText = '';
    }
    const tokens = marked.lexer(text.slice(this.#settledText.length));
    // The last block is growing, and the one before may still join it: after "1. one", a "2" is a
    // paragraph until its dot arrives.
    const blocks = tokens.flatMap((token, index) => (token.type === 'space' ? [] : [index]));
    const open = blocks.at(-2) ?? 0;
    const done = tokens.slice(0, open);
    this.#settled.push(...render(done));
    this.#settledText += done.map((token) => token.raw).join('');
    return [...this.#settled, ...render(tokens.slice(open))];
  }
}
