/**
 * Where a text has mathematics, and where its dollars are dollars: prices, shell variables, regular
 * expressions. The rules are Pandoc's and GitHub's, and where both are fooled the content decides.
 *
 * Formulas are `$a$` and `\(a\)` in a line, `$$a$$` and `\[a\]` in a line or as a block of their own.
 */

export interface Formula {
  raw: string;
  text: string;
}

/** A character of a word, in scripts that write spaces between words. */
const WORD =
  /(?![\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Hangul}\p{scx=Thai}])[\p{L}\p{N}_]/u;
/** Before an opening dollar: the end of a word, of a price, of a regular expression. */
const NOT_BEFORE = new RegExp(`(?:${WORD.source}|[$\\\\)\\]}+*?%^#@.&])$`, 'u');
/** Behind a closing dollar: the name of a variable, `$(…)`, `\${…}`. The "th" of "$n$th" is none. */
const NOT_BEHIND = new RegExp(`^(?!(?:th|st|nd|rd)\\b)(?:${WORD.source}|[$({^@#])`, 'u');
/** No formula begins or ends like this, but `$.get`, `$'…'`, `$?`, `FOO=$` do. */
const NOT_FIRST = /^(?:[,;:.!?'"`)}@#&%~/]|\*.)/;
const NOT_LAST = /.[/:;=(&<>@#"~]$/s;
/** Two words in a row, which mathematics would have in `\text{}`; or a price and a word. */
const PROSE =
  /(?<![\p{L}\p{N}])\p{L}{2,}[,;:]?\s+\p{L}{2,}|^\s*\d[\d.,]*\p{L}?\b[^]*[\s(]\p{L}{2,}/u;
/** `$x =~ /a$/`, `$i++`, `$a::b`; and `\${name}`, which is a template's. */
const PROGRAM = /=~|!~|==|::|&&|\+\+|\+=|-=|->\w+\(|^\{+[^\\^_{}]*\}+$/;
const COMMAND = /\\[a-z]/i;
/** Of the longest formula, in characters. */
const LONGEST = 5000;

const TEXT_GROUP = /\\(?:text[a-z]*|[mh]box|tag)\*?\s*$/;

/**
 * Where the dollars of a formula that begins `from` close it: -1 if they did not come yet, null if what
 * comes is no formula.
 */
function closing(src: string, from: number): number | null {
  /** Open braces; true is a group of plain text, which may have formulas of its own. */
  const groups: boolean[] = [];
  const end = Math.min(src.length, from + LONGEST);
  for (let i = from; i < end; i += 1) {
    const char = src[i];
    if (char === '\\') i += 1;
    else if (char === '`') return null;
    else if (char === '{') groups.push(TEXT_GROUP.test(src.slice(Math.max(0, i - 16), i)));
    else if (char === '}' && groups.pop() === undefined) return null;
    else if (char === '\n' && /^[ \t]*(?:\n|$)/.test(src.slice(i + 1, i + 40)))
      return i + 1 < src.length ? null : -1;
    else if (char === '\n' && FENCE.test(src.slice(i + 1, i + 40))) return null;
    else if (char === '$' && groups.length === 0) return i;
    else if (char === '$' && !groups.includes(true)) return null;
  }
  return end < src.length ? null : -1;
}

const FENCE = /^ {0,3}(?:```|~~~)/;

const isBalanced = (text: string) =>
  /\\(?:left|right|[bB]igg?[lr]?)\b/.test(text) || text.replace(/[^()[\]]/g, '').length % 2 === 0;

/** Whether what is between dollars can be meant as mathematics. */
function isMeant(text: string): boolean {
  if (!text || NOT_FIRST.test(text) || NOT_LAST.test(text) || !isBalanced(text)) return false;
  if (PROGRAM.test(text)) return false;
  return COMMAND.test(text) || !PROSE.test(text);
}

/** `$a$` and `$$a$$`; the one without spaces at its ends, the other with them on both sides or none. */
function dollars(src: string): Formula | null {
  const marks = src.startsWith('$$') ? 2 : 1;
  const at = closing(src, marks);
  if (at === null || at < 0 || (marks === 2 && src[at + 1] !== '$')) return null;
  const content = src.slice(marks, at);
  const text = content.trim();
  const [before, behind] = [/^\s/.test(content), /\s$/.test(content)];
  if (marks === 1) {
    if (before || behind) return null;
    // A line's end in it is rare, and two dollars in two lines are not.
    if (content.includes('\n') && !/[\\^]/.test(content)) return null;
  } else if (before || behind) {
    if (before !== behind && !/[\\^_=]/.test(text)) return null;
    if (/^\p{L}{2,}$/u.test(text)) return null;
  }
  const next = src.slice(at + marks);
  // A dollar in quotation marks.
  if (/["']$/.test(text) && next.startsWith(text.at(-1)!)) return null;
  if (!isMeant(text) || NOT_BEHIND.test(next)) return null;
  return { raw: src.slice(0, at + marks), text };
}

/** `\(a\)` and `\[a\]`. In Markdown these are brackets too: `\[1\]`, `\[a\](b)`, `\(see below\)`. */
function brackets(src: string, before: string): Formula | null {
  const square = src[1] === '[';
  const at = src.indexOf(square ? '\\]' : '\\)', 2);
  if (at < 0 || at > LONGEST) return null;
  const content = src.slice(2, at);
  const text = content.trim();
  if (!text || content.includes('`') || /\n[ \t]*\n/.test(content)) return null;
  if (before.endsWith(']') || /^[([:]/.test(src.slice(at + 2))) return null;
  // The groups of a regular expression.
  if (/[*+?]$|\\[|)(]/.test(text) || /^\p{Ll}{3,}$/u.test(text)) return null;
  if (!COMMAND.test(text) && PROSE.test(text)) return null;
  if (square && content === text && /^[\p{L}\p{N}\s.,;:–-]*$/u.test(text)) return null;
  return { raw: src.slice(0, at + 2), text };
}

/** A formula at the start of `src`, behind `before` in the same line. */
export function inlineFormula(src: string, before: string): Formula | null {
  if (/^\\[([]/.test(src)) return brackets(src, before);
  return src.startsWith('$') && !NOT_BEFORE.test(before) ? dollars(src) : null;
}

/** Where the next one may begin; -1 if nowhere. */
export const nextFormula = (src: string) => src.search(/\$|\\[([]/);

const OPENING = /^ {0,3}(?:\$\$|\\\[)/;
export const nextBlock = (src: string) => src.search(/^ {0,3}(?:\$\$|\\\[)/m);

/** A formula with lines of its own at the start of `src`. It crosses no empty line and no fence. */
export function blockFormula(src: string): Formula | null {
  if (!OPENING.test(src)) return null;
  const indent = src.search(/\S/);
  const body = src.slice(indent);
  const found = body.startsWith('$$') ? dollars(body) : brackets(body, '');
  if (!found || found.raw.split('\n').some((line, i) => i > 0 && FENCE.test(line))) return null;
  const rest = /^([.,;]?)[ \t]*(?:\n|$)/.exec(body.slice(found.raw.length));
  if (!rest) return null;
  const raw = src.slice(0, indent + found.raw.length + rest[0].length);
  return { raw, text: found.text + rest[1]! };
}

/**
 * Where a block of mathematics begins that a growing text has not closed yet; -1 if there is none. Until
 * then its lines are no Markdown: a "- b" in it is no list.
 */
export function pendingFormula(src: string): number {
  let fence = '';
  let open = -1;
  for (let at = 0; at < src.length;) {
    const next = src.indexOf('\n', at);
    const end = next < 0 ? src.length : next + 1;
    const line = src.slice(at, end);
    const mark = /^\s*(?:[-*+]|\d+[.)])?\s*(```|~~~)/.exec(line)?.[1];
    if (fence) fence = mark === fence ? '' : fence;
    else if (mark) [fence, open] = [mark, -1];
    else if (!line.trim()) open = -1;
    else if (open < 0 && OPENING.test(line)) {
      const formula = blockFormula(src.slice(at));
      if (formula) {
        at += formula.raw.length;
        continue;
      }
      if (isUnclosed(src.slice(at).trimStart())) open = at;
    }
    at = end;
  }
  return open;
}

function isUnclosed(src: string): boolean {
  if (src.startsWith('\\[')) return !src.includes('\\]');
  const at = closing(src, 2);
  // Of the two dollars that close it one may have come.
  return at === -1 || at === src.length - 1;
}

/** The same text with letters in the place of formulas: their stars and lines are no emphasis. */
export function maskFormulas(src: string): string {
  let masked = '';
  for (let at = nextFormula(src); at >= 0; at = nextFormula(src)) {
    masked += src.slice(0, at);
    const raw = inlineFormula(src.slice(at), masked)?.raw;
    masked += raw ? 'a'.repeat(raw.length) : src[at]!;
    src = src.slice(at + (raw?.length ?? 1));
  }
  return masked + src;
}
