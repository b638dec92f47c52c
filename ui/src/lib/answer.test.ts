import { describe, expect, it } from 'vitest';
import { applyEvent, overlay, startAnswer, type Answer } from './answer';
import type { ChatEvent, Message, Stats } from './api';

const row: Message = {
  id: 7,
  conversationId: 1,
  parent: null,
  siblings: [],
  role: 'assistant',
  content: '',
  status: 'streaming',
  createdAt: 0,
  error: null,
  stats: null,
};

const stats: Stats = {
  mode: 'dssd',
  tokens: 4,
  rounds: 1,
  drafted: 4,
  accepted: 3,
  ttftMs: 300,
  tokensPerS: 12,
  uplinkBytes: 100,
  downlinkBytes: 50,
  finish: null,
};

const text = (seq: number, value: string): ChatEvent => ({ seq, kind: 'text', text: value });
const play = (answer: Answer, ...events: ChatEvent[]) => events.reduce(applyEvent, answer);

describe('applyEvent', () => {
  const round = { mode: 'dssd', gamma: 4, rttMs: 40, decision: null } as const;

  it('appends text and takes over the stats of the latest round', () => {
    const answer = play(startAnswer(row), text(1, 'Hel'), {
      seq: 2,
      kind: 'stats',
      stats,
      round,
    });
    expect(play(answer, text(3, 'lo')).message).toMatchObject({ content: 'Hello', stats });
    expect(answer.live).toEqual([round]);
  });

  it('drops what it has seen before', () => {
    expect(play(startAnswer(row), text(1, 'a'), text(1, 'a'), text(2, 'b')).message.content).toBe(
      'ab',
    );
  });

  it('puts events that came out of order back into order', () => {
    const answer = play(
      startAnswer(row),
      text(3, 'c'),
      text(2, 'b'),
      text(3, 'c'),
      text(1, 'a'),
      text(4, 'd'),
    );
    expect(answer.message.content).toBe('abcd');
    expect(answer.ahead).toEqual([]);
  });

  it('goes on after a re-attach from the sequence number of the snapshot', () => {
    const attached = startAnswer({ ...row, content: 'abc' }, 3);
    expect(play(attached, text(2, 'b'), text(3, 'c'), text(4, 'd')).message.content).toBe('abcd');
  });

  it('lets the final row win, even across a gap, and ignores what follows', () => {
    const final: Message = { ...row, content: 'whole', status: 'stopped' };
    const answer = play(
      startAnswer(row),
      text(1, 'w'),
      { seq: 9, kind: 'done', message: final },
      text(10, '!'),
    );
    expect(answer).toMatchObject({ message: final, finished: true, ahead: [] });
  });

  it('shows the latest notice until the answer ends', () => {
    const warned = play(startAnswer(row), {
      seq: 1,
      kind: 'notice',
      level: 'warning',
      text: 'connection lost',
    });
    expect(warned.notice).toEqual({ level: 'warning', text: 'connection lost' });
    expect(play(warned, { seq: 2, kind: 'done', message: row }).notice).toBeNull();
  });
});

describe('overlay', () => {
  const user: Message = { ...row, id: 6, role: 'user', content: 'hi', status: 'done' };

  it('replaces the stored row of the running answer', () => {
    const answer = play(startAnswer(row), text(1, 'live'));
    expect(overlay([user, row], answer.message).map((m) => m.content)).toEqual(['hi', 'live']);
  });

  it('adds the answer when its row is not in the list yet', () => {
    expect(overlay([user], row).map((m) => m.id)).toEqual([6, 7]);
  });
});
