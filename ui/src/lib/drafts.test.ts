import { beforeEach, describe, expect, it } from 'vitest';
import { beginSend, forgetDraft, loadDraft, moveDraft, saveDraft, sendSucceeded } from './drafts';

beforeEach(() => localStorage.clear());

describe('drafts', () => {
  it('are kept apart per conversation', () => {
    saveDraft(1, 'one');
    saveDraft('new', 'fresh');
    expect([loadDraft(1), loadDraft(2), loadDraft('new')]).toEqual(['one', '', 'fresh']);
  });

  it('are gone once the message is stored', () => {
    saveDraft(1, 'hello');
    beginSend(1, 'hello');
    sendSucceeded(1);
    expect(loadDraft(1)).toBe('');
    expect(localStorage).toHaveLength(0);
  });

  it('come back when sending failed or never ended, before what was typed since', () => {
    beginSend(1, 'first');
    saveDraft(1, 'second');
    expect(loadDraft(1)).toBe('first\n\nsecond');
    expect(loadDraft(1)).toBe('first\n\nsecond');
  });

  it('move with the conversation that gets its id', () => {
    beginSend('new', 'hello');
    saveDraft('new', 'more');
    moveDraft('new', 5);
    expect(loadDraft('new')).toBe('');
    expect(loadDraft(5)).toBe('hello\n\nmore');
  });

  it('go with a deleted conversation', () => {
    beginSend(1, 'a');
    saveDraft(1, 'b');
    forgetDraft(1);
    expect(localStorage).toHaveLength(0);
  });
});
