/**
 * What a screen reader is told of an answer that grows: whole sentences, each of them once. Token by
 * token would be unbearable, and the whole answer at its end is a long wait for nothing.
 */
const BOUNDARY = /(?:[^\d\s][.!?…:;]["'’»)\]*_]*\s|[。！？]|\n)/g;
const FENCE = /^ {0,3}```.*$/gm;

/** Markdown without its marks; code is only said to be there, as nobody listens to brackets. */
function speakable(markdown: string, code: string): string {
  return markdown
    .replace(/^ {0,3}```[\s\S]*?(?:^ {0,3}```\s*$|$(?![\s\S]))/gm, `${code}. `)
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, '$1')
    .replace(/^\s*(?:[-*+]|#{1,6}|>)\s+/gm, '')
    .replace(/^[\s|:-]+$/gm, '')
    .replace(/[*`]+|__/g, '')
    .replace(/\|/g, ' ')
    .replace(/\s+/g, ' ')
    .trim();
}

/** The length of the part that ends with a sentence, and with no code block still open. */
function wholeSentences(text: string): number {
  let end = 0;
  for (const match of text.matchAll(BOUNDARY)) end = match.index + match[0].length;
  const fences = [...text.slice(0, end).matchAll(FENCE)];
  return fences.length % 2 === 1 ? fences.at(-1)!.index : end;
}

export class Announcer {
  #told = 0;

  /** What is new since the last call. `code` is the word for a code block. */
  next(markdown: string, ended: boolean, code: string): string {
    const rest = markdown.slice(this.#told);
    const length = ended ? rest.length : wholeSentences(rest);
    this.#told += length;
    return speakable(rest.slice(0, length), code);
  }
}
