import { beforeAll, describe, expect, it } from 'vitest';
import { loaded } from './extras';
import { renderMarkdown, StreamingMarkdown } from './markdown';
import { pendingFormula } from './math';

function dom(markdown: string): HTMLElement {
  const element = document.createElement('div');
  element.innerHTML = renderMarkdown(markdown).join('');
  return element;
}
const formulas = (markdown: string) =>
  [...dom(markdown).querySelectorAll('math annotation')].map((a) => a.textContent);

beforeAll(async () => {
  renderMarkdown('$x$');
  await loaded();
});

describe('dollars that are dollars', () => {
  it.each([
    // Shell
    'Set $HOME/bin:$PATH first.',
    'Export PATH=$HOME/bin:$PATH and LD_PATH=$LIB:$LD_PATH.',
    'Use ${HOME}/bin and ${PATH}, or ${a}${b}, or ${x:-$y}.',
    'The result is $(pwd)/$(date), or $(echo $(whoami)).',
    'Compare $? and $!, $?/$!, $#, $@ and $*, $1,$2, $1/$*.',
    'Run `echo $x` and then $y.',
    '$$ is the shell PID; echo $$ prints it.',
    'The PID is $$ and the parent is $$.',
    'kill $$ or $$',
    'Use $$(pidof x) and $$ here.',
    '$ npm install\n$ npm start',
    'Set FOO=$BAR;BAZ=$ and go.',
    // Perl
    'In Perl, $a,$b are special.',
    'In Perl, $_ and $@, $_,$@, $hash{$key}, $list[$i], $$ref and $$other.',
    'Write my $x = $y; $x .= $z;',
    'It has $^W and $^O, $^W/$^O.',
    'In Perl, $x =~ /foo$/ and $y !~ s/a/b$/ are tests.',
    "It prints $1 of awk '{print $1}' and awk '{print $2}'.",
    // PHP
    'As in foreach ($a as $k => $v) or function f($a, &$b) {$c}.',
    'Then fn($x)=>$x*2, $i++ and $j++$.',
    'Call $this->foo($bar) or $a . "$b".',
    'Write $x->y . \'$\' for it, or $x."$".',
    'Both $_GET/$_POST, $$name/$$other.',
    // jQuery and templates
    "jQuery: $('a').on('click', f) and $('b').hide().",
    'As in $(this).find($(x)) or $.get/$.post or $.each.',
    '`${x}` and ${user}: `${y}`',
    'A template ${first} ${last}, or ${a}/${b}.',
    'It says ${price}$, ${{ secrets.KEY }}$ or Total: ${a.b}$.',
    'In R, df$a + df$b; in Angular, $scope.$apply and $http.$get.',
    'In SCSS, $color: red; $size: 2px; in make, $@:$< and $(CC) $(CFLAGS).',
    // Prices
    'US$/CA$',
    'It costs $5 and $6.',
    'From $100k-$200k a year.',
    'Between $5 here but 5$ there.',
    'Price: $5 per kg, in total 30$.',
    'Price: $5 per kg\nin total 30$',
    'US$5, C$7, A$6, NZ$8 or HK$9.',
    'It is 5$ or 6$ or 7$, or 5$/month.',
    '€5/$6/£4 and $7/£5/$8',
    '$5-$10 (or 4-9$)',
    '$1,000.50 versus $2,000.75',
    'Between $5 and $10 (or 10$ at most), $5-ish or 10$-ish, R$5 e R$10.',
    '价格为$5到$10元。',
    '**$5** or **$6**, *$7*–*$8*',
    'Costs \\$5 and \\$6.',
    'The sign $, the sign € and the sign $.',
    "Write '$' or \"$\" for it: '$'.",
    '| Item | Price |\n|---|---|\n| a | $5 |\n| b | $6 |',
    // Regular expressions
    'Use ^\\d+$ or ^[a-z]+$ here.',
    'It matches ^a$|^b$ and ^.$|^..$ and ^(a|b)$|^c$.',
    'As in /^$/ or ^\\s*$ or ^$|^x$.',
    'It is /\\.js$/ or /\\.css$/, [0-9]$ or \\d{3}$, (?=$)|$ and ^(?!\\s*$).+$.',
    "sed 's/foo$/bar$/' and s/$/x$/",
    '`^\\w+$` and `$x$`',
    // Code
    '```\n$a$ and $$b$$\n```',
    '~~~tex\n$$\nx\n$$\n~~~',
    '    $$x$$',
    // Nothing that is mathematics
    '$\\unknown{x}$ and $\\notacommand$',
    'Makefiles have $@, $<, $$HOME and $$(cmd).',
    // Brackets that are brackets
    'As said \\[1\\], \\[2, 3\\] and \\[sic\\].',
    'A link is \\[text\\](address), a note \\(see below\\), an \\(optional\\) one.',
    'sed s/\\(foo\\)\\(bar\\)/\\2\\1/ and \\(.*\\)',
    '- \\[ \\] to do\n- \\[x\\] done',
  ])('%s', (markdown) => {
    expect(formulas(markdown)).toEqual([]);
    const plain = markdown.replace(/[\\`*|~]/g, '');
    const count = (text: string) => (text.match(/\$/g) ?? []).length;
    expect(count(dom(markdown).textContent)).toBe(count(plain));
  });
});

describe('formulas', () => {
  it.each<[string, string[]]>([
    ['The formula $$x^2$$ is inline.', ['x^2']],
    ['So \\[ x = 1 \\] follows.', ['x = 1']],
    ['With \\(a_1 + b\\) and \\(n\\).', ['a_1 + b', 'n']],
    ['So $$ E = mc^2 $$ holds.', ['E = mc^2']],
    ['$x$', ['x']],
    ['Let $n$, $k$ ($k<n$) and "$m$": $n=k+m$.', ['n', 'k', 'k<n', 'm', 'n=k+m']],
    ['The $n$th and the $(n+1)$st, the $x$-axis.', ['n', '(n+1)', 'x']],
    ['**$x$** and *$y$* and [$z$](https://example.org)', ['x', 'y', 'z']],
    ['*so $a*b$ and $c*d$ are*', ['a*b', 'c*d']],
    ['_so $a_1$ and $b_1$_', ['a_1', 'b_1']],
    ['In $[0,1)$, $]0,1[$, $\\left(0,1\\right]$.', ['[0,1)', ']0,1[', '\\left(0,1\\right]']],
    ["$|x| \\le 1$ and $f'(x)$", ['|x| \\le 1', "f'(x)"]],
    ['Then $x = 5 \\text{ if $y$ is}$ so.', ['x = 5 \\text{ if $y$ is}']],
    [
      '$$\nf = \\begin{cases} 1 & \\text{if $x > 0$} \\\\ 0 \\end{cases}\n$$',
      ['f = \\begin{cases} 1 & \\text{if $x > 0$} \\\\ 0 \\end{cases}'],
    ],
    ['设 $x$ 为数，则$y$是，公式$z$。', ['x', 'y', 'z']],
    ['그러면 $x$는', ['x']],
    ['It costs $5 and the area is $\\pi r^2$.', ['\\pi r^2']],
    ['| a | b |\n|---|---|\n| $x$ | $y$ |', ['x', 'y']],
    ['# About $x$\n\n> so $y$\n\n- and $z$', ['x', 'y', 'z']],
    ['- $$x$$\n- \\[y=1\\]', ['x', 'y=1']],
    ['Text\n$$\nx = 1\n$$\nmore', ['x = 1']],
    ['$$x = 1$$.', ['x = 1.']],
    [
      '$$\n\\begin{aligned}\na &= b \\\\\n- c &= d\n\\end{aligned}\n$$',
      ['\\begin{aligned}\na &= b \\\\\n- c &= d\n\\end{aligned}'],
    ],
    ['\\[\n\\int_0^1 x\\,dx\n\\]', ['\\int_0^1 x\\,dx']],
    [
      '\\documentclass{article}\n\\begin{document}\nLet $x$ be so that \\[ x^2 = 1 \\]\n\\end{document}',
      ['x', 'x^2 = 1'],
    ],
    ['In LaTeX, write `$x$` for $x$.', ['x']],
    ['$a=1$ and $HOME/bin:$PATH', ['a=1']],
  ])('%s', (markdown, expected) => {
    expect(formulas(markdown)).toEqual(expected);
  });

  it('are blocks where they have lines of their own', () => {
    const blocks = (text: string) => dom(text).querySelectorAll('.math math[display]').length;
    expect(blocks('$$x$$\n\nand\n\n\\[\ny=1\n\\]\n')).toBe(2);
    expect(blocks('The formula $$x^2$$ is inline.')).toBe(0);
  });

  it('cross no empty line and no fence', () => {
    const text = '$$ is the shell PID\n\nand\n\n```bash\necho $$\n```\n\nas said.';
    expect(formulas(text)).toEqual([]);
    expect(dom(text).querySelector('p')?.textContent).toBe('$$ is the shell PID');
    expect(dom(text).querySelector('pre code')?.textContent).toBe('echo $$');
    expect(dom('$$\nx\n```bash\necho $$\n```').querySelector('pre code')).not.toBeNull();
    expect(formulas('\\[ x = 1\n\nand \\]')).toEqual([]);
  });
});

describe('a formula that is being written', () => {
  const text = [
    'Prices of $5 and $6, and $HOME/bin:$PATH.',
    'An inline $x_1 * y_1$, \\(a * b\\) and $$c^2$$ one.',
    '$$\n\\begin{aligned}\na &= b\n- c\n= d\n\\end{aligned}\n$$',
    'With text before:\n\\[\nx = 1\n+ y\n\\]\nand behind.',
    '```bash\necho $$\n$$\n```',
    '$$ is the shell PID',
    'The end.',
  ].join('\n\n');

  it('ends as the whole text does, however it was cut', () => {
    for (const step of [1, 2, 3, 7, 40]) {
      const streaming = new StreamingMarkdown();
      for (let end = step; end < text.length; end += step) streaming.update(text.slice(0, end));
      expect(streaming.update(text, true)).toEqual(renderMarkdown(text));
    }
  });

  it('takes no text away, and its lines make no lists or headings meanwhile', () => {
    const streaming = new StreamingMarkdown();
    for (let end = 1; end <= text.length; end += 1) {
      const element = document.createElement('div');
      element.innerHTML = streaming.update(text.slice(0, end)).join('');
      expect(element.querySelector('li, h1, h2'), text.slice(0, end)).toBeNull();
      // What came last is there, be it in the formula's source.
      const last = /[a-zA-Z0-9]{1,3}$/.exec(text.slice(0, end))?.[0] ?? '';
      expect(element.textContent).toContain(last);
    }
  });

  it('is known by its beginning, in the text and not in code', () => {
    expect(pendingFormula('a\n$$\nx = ')).toBe(2);
    expect(pendingFormula('a\n$$\nx = $')).toBe(2);
    expect(pendingFormula('$$\nx\n$$\nb\n\\[ y')).toBe(10);
    expect(pendingFormula('$$\nx\n$$\nb')).toBe(-1);
    expect(pendingFormula('$$ is the PID\n\nb')).toBe(-1);
    expect(pendingFormula('```\n$$\nx')).toBe(-1);
    expect(pendingFormula('1. ```\n$$\nx')).toBe(-1);
  });
});
