import { describe, expect, it } from 'vitest';
import { loaded } from './extras';
import { renderMarkdown } from './markdown';

async function dom(markdown: string): Promise<HTMLElement> {
  renderMarkdown(markdown);
  await loaded();
  const element = document.createElement('div');
  element.innerHTML = renderMarkdown(markdown).join('');
  return element;
}
const formulas = (element: HTMLElement) =>
  [...element.querySelectorAll('math annotation')].map((a) => a.textContent);

describe('mathematics', () => {
  it('becomes MathML, inline and as blocks, in both notations', async () => {
    const element = await dom(
      'Area $\\pi r^2$ and \\(a_1 + b\\).\n\n$$\\frac{1}{2}$$\n\n\\[\nx = 1\n\\]\n',
    );
    expect(formulas(element)).toEqual(['\\pi r^2', 'a_1 + b', '\\frac{1}{2}', 'x = 1']);
    expect(element.querySelectorAll('.math math[display="block"]')).toHaveLength(2);
    expect(element.querySelector('mfrac')).not.toBeNull();
  });

  it('leaves prices and code alone', async () => {
    const element = await dom('It costs $5 and then $6.\n\n`$a$`\n\n```\n$$b$$\n```');
    expect(formulas(element)).toEqual([]);
    expect(element.textContent).toContain('costs $5 and then $6.');
  });

  it('cannot bring in styles, addresses, attributes or endless work', async () => {
    const element = await dom(
      [
        '$\\href{javascript:alert(1)}{x}$',
        '$\\url{https://example.org}$',
        '$\\includegraphics{https://example.org/a.png}$',
        '$\\htmlStyle{position:fixed}{x}$',
        '$\\color{red}x$',
        '$\\def\\a{\\a\\a}\\a$',
        '$<img src=x onerror=alert(1)>$',
        '$\\unknown{$',
      ].join('\n\n'),
    );
    expect(element.querySelector('[href], [src], [style], img, a, script')).toBeNull();
  });
});

describe('code', () => {
  it('is coloured by classes alone, and its text stays the same', async () => {
    const code = 'fn main() { println!("<b>&amp;</b>"); } // 1';
    const element = await dom('```rust\n' + code + '\n```');
    expect(element.querySelector('code')?.textContent).toBe(code);
    expect(element.querySelector('.hljs-keyword')?.textContent).toBe('fn');
    expect(element.querySelector('code [style]')).toBeNull();
  });

  it('in an unknown or hostile language stays plain', async () => {
    for (const language of ['brainfuck', 'constructor', '__proto__', 'toString']) {
      const element = await dom('```' + language + '\na < b\n```');
      expect(element.querySelector('code')?.innerHTML).toBe('a &lt; b');
    }
  });
});
