import { describe, expect, it } from 'vitest';
import { renderMarkdown, sanitise, StreamingMarkdown } from './markdown';

function dom(markdown: string): HTMLElement {
  const element = document.createElement('div');
  element.innerHTML = renderMarkdown(markdown).join('');
  return element;
}

const attributes = (element: HTMLElement) =>
  [...element.querySelectorAll('*')].flatMap((child) => child.getAttributeNames());

describe('renderMarkdown', () => {
  it('shows HTML of the model as text', () => {
    const element = dom('a <script>alert(1)</script> b\n\n<img src=x onerror=alert(1)>');
    expect(element.querySelector('script, img')).toBeNull();
    expect(attributes(element)).toEqual(['dir']);
    expect(element.textContent).toContain('<img src=x onerror=alert(1)>');
  });

  it.each([
    '[x](javascript:alert(1))',
    '[x](JaVaScRiPt:alert(1))',
    '[x](data:text/html,<script>alert(1)</script>)',
    '![x](javascript:alert(1))',
    '[x][y]\n\n[y]: javascript:alert(1)',
    '<a href="javascript:alert(1)">x</a>',
  ])('leaves no address to run in %s', (markdown) => {
    expect(dom(markdown).querySelector('[href]')).toBeNull();
  });

  it('keeps web links and makes images links, so nothing loads by itself', () => {
    const links = dom('[a](https://example.org/a) ![b](https://example.org/b.png)');
    expect([...links.querySelectorAll('a')].map((a) => a.getAttribute('href'))).toEqual([
      'https://example.org/a',
      'https://example.org/b.png',
    ]);
    expect(links.querySelector('img')).toBeNull();
  });

  it('keeps code as it is, names its language and gives it a copy button', () => {
    const element = dom('```html\n<b onclick="x()">&amp;</b>\n```');
    expect(element.querySelector('pre code')?.textContent).toBe('<b onclick="x()">&amp;</b>');
    expect(element.querySelector('.code-head span')?.textContent).toBe('html');
    expect(element.querySelector('button.copy-code')?.getAttribute('type')).toBe('button');
  });

  it('cannot be left through the language of a code block', () => {
    const element = dom('```"><img/src=x/onerror=alert(1)>\nx\n```');
    expect(element.querySelector('img')).toBeNull();
  });

  it('renders tables, task lists and line breaks', () => {
    const element = dom('| a | b |\n|---|---|\n| 1<br>2 | 3 |\n\n- [x] done\n- [ ] open');
    expect(element.querySelectorAll('td')).toHaveLength(2);
    expect(element.querySelector('td br')).not.toBeNull();
    expect(element.querySelector('ul')?.textContent).toMatch(/☑ done\s+☐ open/);
    expect(element.querySelector('input')).toBeNull();
  });
});

describe('sanitise', () => {
  it.each([
    '<script>alert(1)</script>',
    '<img src=x onerror=alert(1)>',
    '<p onclick="alert(1)" style="position:fixed">x</p>',
    '<a href="javascript:alert(1)">x</a>',
    '<svg><a xlink:href="javascript:alert(1)">x</a></svg>',
    '<iframe srcdoc="<script>alert(1)</script>"></iframe>',
    '<form action="https://example.org"><input></form>',
  ])('takes the sting out of %s', (html) => {
    expect(sanitise(html)).not.toMatch(/script|onerror|onclick|style|srcdoc|href|<img|<form|<svg/i);
  });
});

describe('StreamingMarkdown', () => {
  const text = [
    '# Title',
    'A paragraph with **bold** text.\nSecond line.',
    '1. one\n\n   more of one\n\n2. two\n\n3. three',
    '- a\n- b\n  - c\n\n- d',
    '```python\nprint("1")\n\n\nprint("2")\n```',
    '| a | b |\n|---|---|\n| 1 | 2 |',
    '> quote\n> goes on',
    'Setext\n------',
    'The end.',
  ].join('\n\n');

  it('ends where rendering the whole text ends, however it was cut', () => {
    for (const step of [1, 2, 3, 7, 40]) {
      const streaming = new StreamingMarkdown();
      let blocks: string[] = [];
      for (let end = step; end < text.length + step; end += step)
        blocks = streaming.update(text.slice(0, end));
      expect(blocks).toEqual(renderMarkdown(text));
    }
  });

  it('begins anew when the text is another one', () => {
    const streaming = new StreamingMarkdown();
    streaming.update(text);
    expect(streaming.update('Only this')).toEqual(['<p dir="auto">Only this</p>\n']);
  });
});
