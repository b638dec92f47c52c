import { clearMocks, mockIPC } from '@tauri-apps/api/mocks';
import type { Channel } from '@tauri-apps/api/core';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { ChatEvent, Message } from '../lib/api';
import { loadDraft } from '../lib/drafts';
import { Thread, type Sending } from './thread.svelte';

type Args = { text: string; onEvent: Channel<ChatEvent> };
/** The backend of a test: what each command does. */
let backend: Record<string, (args: Args) => unknown>;

const message = (id: number, change: Partial<Message>): Message => ({
  id,
  conversationId: 1,
  parent: null,
  siblings: [],
  role: 'assistant',
  content: '',
  status: 'streaming',
  createdAt: 0,
  error: null,
  stats: null,
  ...change,
});
const question = message(1, { role: 'user', content: 'hi', status: 'done' });
const answer = message(2, {});
const texts = (thread: Thread) => thread.messages.map((m) => m.content);
const noConversation: Sending = {
  create: () => Promise.reject(new Error('not expected')),
  discard: () => Promise.reject(new Error('not expected')),
  taken: () => {},
};

beforeEach(() => {
  localStorage.clear();
  backend = {};
  mockIPC((command, args) => backend[command]!(args as unknown as Args));
});
afterEach(clearMocks);

interface Internals {
  __TAURI_INTERNALS__: { runCallback: (id: number, message: unknown) => void };
}

describe('Thread', () => {
  it('keeps events that arrive before the command has answered', async () => {
    backend.send_message = ({ onEvent }) => {
      onEvent.onmessage({ seq: 1, kind: 'text', text: 'Hel' });
      onEvent.onmessage({ seq: 2, kind: 'text', text: 'lo' });
      return { userMessage: question, answerMessage: answer };
    };
    const thread = new Thread(1);
    thread.draft = 'hi';
    await thread.send(noConversation);
    expect(texts(thread)).toEqual(['hi', 'Hello']);
    expect(thread.generating).toBe(true);
    expect(thread.draft + loadDraft(1)).toBe('');
  });

  it('puts the text back when sending fails, together with what was typed since', async () => {
    const thread = new Thread(1);
    backend.send_message = () => {
      thread.draft = 'typed meanwhile';
      throw { code: 'busy', message: 'Wait and send again.' };
    };
    thread.draft = 'hi';
    await thread.send(noConversation);
    expect(thread.draft).toBe('hi\n\ntyped meanwhile');
    expect(loadDraft(1)).toBe('hi\n\ntyped meanwhile');
    expect(thread.error?.message).toBe('Wait and send again.');
    expect(thread.messages).toEqual([]);
  });

  it('leaves nothing of a first message that is refused, but its text, and sends it again', async () => {
    const thread = new Thread(null);
    const did: string[] = [];
    const sending: Sending = {
      create: () => Promise.resolve(did.push('create') + 8),
      discard: (id) => Promise.resolve(did.push(`discard ${id}`) > 0),
      taken: (id) => did.push(`taken ${id}`),
    };
    backend.send_message = () => {
      thread.draft = 'and more';
      throw { code: 'busy', message: 'No.' };
    };
    thread.draft = 'first';
    await thread.send(sending);
    const text = 'first\n\nand more';
    expect([thread.id, thread.draft]).toEqual([null, text]);
    expect([loadDraft(9), loadDraft('new')]).toEqual(['', text]);
    expect(thread.error?.message).toBe('No.');

    backend.send_message = ({ text }) => ({
      userMessage: { ...question, content: text },
      answerMessage: answer,
    });
    await thread.retry?.();
    expect(texts(thread)).toEqual([text, '']);
    expect([thread.id, thread.draft, thread.error]).toEqual([11, '', null]);
    expect(did).toEqual(['create', 'discard 9', 'create', 'taken 11']);
  });

  it('keeps the conversation of a refused message that cannot be removed', async () => {
    const thread = new Thread(null);
    backend.send_message = () => {
      throw { code: 'disk_full', message: 'No.' };
    };
    thread.draft = 'first';
    await thread.send({
      ...noConversation,
      create: () => Promise.resolve(9),
      discard: () => Promise.resolve(false),
    });
    expect([thread.id, thread.draft, loadDraft(9), loadDraft('new')]).toEqual([
      9,
      'first',
      'first',
      '',
    ]);
  });

  it('goes on with a running answer after a reload, without doubled text', async () => {
    let channel: Channel<ChatEvent>;
    backend.generation_attach = ({ onEvent }) => {
      channel = onEvent;
      return { answerMessage: { ...answer, content: 'Hel' }, seq: 3 };
    };
    backend.messages_list = () => [question, { ...answer, content: 'H' }];
    const thread = new Thread(1);
    await thread.load();
    channel!.onmessage({ seq: 3, kind: 'text', text: 'l' });
    channel!.onmessage({ seq: 4, kind: 'text', text: 'lo' });
    expect(texts(thread)).toEqual(['hi', 'Hello']);
  });

  it('shows the final row of an answer that ends while the list is read', async () => {
    let channel: Channel<ChatEvent>;
    backend.generation_attach = ({ onEvent }) => {
      channel = onEvent;
      return { answerMessage: answer, seq: 0 };
    };
    backend.messages_list = () => {
      const final = { ...answer, content: 'whole', status: 'done' as const };
      channel.onmessage({ seq: 1, kind: 'done', message: final });
      return [question, answer];
    };
    const thread = new Thread(1);
    await thread.load();
    expect(thread.messages.at(-1)).toMatchObject({ content: 'whole', status: 'done' });
    expect(thread.generating).toBe(false);
  });

  it('can be stopped once, and again when stopping failed', async () => {
    let calls = 0;
    backend.send_message = () => ({ userMessage: question, answerMessage: answer });
    backend.stop_generation = () => {
      calls += 1;
      if (calls === 1) throw { code: 'gone', message: 'Try again.' };
    };
    const thread = new Thread(1);
    thread.draft = 'hi';
    await thread.send(noConversation);
    await thread.stop();
    expect(thread.stopping).toBe(false);
    await Promise.all([thread.stop(), thread.stop()]);
    expect([calls, thread.stopping]).toEqual([2, true]);
  });

  it('asks the core again when a channel lost a message, and is right in the end', async () => {
    vi.useFakeTimers();
    // The core: an answer that grows, and the channel that it is sent to.
    const words = Array.from({ length: 60 }, (_, i) => `word${i} `);
    let said = '';
    let seq = 0;
    let over = false;
    let attached = 0;
    let lost = 0;
    let listener: { runs: (message: unknown) => void; index: number };
    const listen = (channel: Channel<ChatEvent>) => {
      const run = (window as unknown as Internals).__TAURI_INTERNALS__;
      listener = { runs: (m) => run.runCallback(channel.id, m), index: 0 };
    };
    const emit = (event: object, drop: boolean) => {
      const message = { message: { seq: ++seq, ...event }, index: listener.index++ };
      // As WebKitGTK does: the number is used up and nobody hears of it.
      if (drop) lost += 1;
      else listener.runs(message);
    };
    backend.send_message = ({ onEvent }) => {
      listen(onEvent);
      return { userMessage: question, answerMessage: answer };
    };
    backend.generation_attach = ({ onEvent }) => {
      if (over) return null;
      attached += 1;
      listen(onEvent);
      return { answerMessage: { ...answer, content: said }, seq };
    };
    const final = () => ({ ...answer, content: said, status: over ? 'done' : 'streaming' });
    backend.messages_list = () => [question, final()];
    backend.context_usage = () => null;

    const thread = new Thread(1);
    thread.draft = 'hi';
    await thread.send(noConversation);
    for (const [i, word] of words.entries()) {
      said += word;
      emit({ kind: 'text', text: word }, i % 7 === 3);
      await vi.advanceTimersByTimeAsync(120);
    }
    over = true;
    emit({ kind: 'done', message: final() }, true);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(lost).toBeGreaterThan(5);
    expect(attached).toBeGreaterThan(1);
    expect(thread.messages.at(-1)).toMatchObject({ content: words.join(''), status: 'done' });
    expect(thread.generating).toBe(false);
    vi.useRealTimers();
  });

  it('shows another branch from its beginning while a new answer is written', async () => {
    const rows = [
      question,
      { ...answer, content: 'first', status: 'done' as const, siblings: [2] },
      message(3, { role: 'user', content: 'more', status: 'done', parent: 2 }),
      message(4, { content: 'rest', status: 'done', parent: 3 }),
    ];
    backend.generation_attach = () => null;
    backend.messages_list = () => rows;
    backend.context_usage = () => ({ used: 10, context: 100 });
    backend.answer_again = () => ({
      userMessage: null,
      answerMessage: message(5, { parent: 1, siblings: [2, 5] }),
    });
    const thread = new Thread(1);
    await thread.load();
    expect(await thread.again(rows[1]!)).toBe(true);
    expect(texts(thread)).toEqual(['hi', '']);
    expect(thread.generating).toBe(true);
  });

  it('begins one answer when it is asked for twice at once', async () => {
    let calls = 0;
    backend.generation_attach = () => null;
    backend.messages_list = () => [question, { ...answer, content: 'a', status: 'done' as const }];
    backend.context_usage = () => null;
    backend.answer_again = () => {
      calls += 1;
      return { userMessage: null, answerMessage: message(5, { parent: 1 }) };
    };
    const thread = new Thread(1);
    await thread.load();
    const asked = await Promise.all([thread.again(answer), thread.again(answer)]);
    expect([asked, calls]).toEqual([[true, false], 1]);
  });

  it('keeps everything as it was when another branch cannot be begun', async () => {
    backend.generation_attach = () => null;
    backend.messages_list = () => [question, { ...answer, content: 'a', status: 'done' as const }];
    backend.context_usage = () => null;
    backend.message_edit = () => {
      throw { code: 'context', message: 'Too long.' };
    };
    const thread = new Thread(1);
    await thread.load();
    expect(await thread.edit(question, 'longer')).toBe(false);
    expect(texts(thread)).toEqual(['hi', 'a']);
    expect(thread.error).toMatchObject({ message: 'Too long.', code: 'context' });
    // As it would be again.
    expect(thread.retry).toBe(null);
  });
});
