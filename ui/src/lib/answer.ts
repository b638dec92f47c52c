/**
 * The state of one running answer, and how events change it.
 *
 * Events can reach us twice or early: after a re-attach the old and the new channel may both still
 * deliver. `seq` decides: what was seen is dropped, what is ahead waits until the gap has filled.
 */
import type { ChatEvent, LiveRound, Message } from './api';

export interface Notice {
  level: 'info' | 'warning';
  text: string;
}

/** Rounds that the live line of the link shows. */
const LIVE = 40;

export interface Answer {
  message: Message;
  /** The last event that is part of `message`. */
  seq: number;
  notice: Notice | null;
  /** The last rounds, the newest at the end. */
  live: LiveRound[];
  /** Events that came early. */
  ahead: ChatEvent[];
  finished: boolean;
}

export function startAnswer(message: Message, seq = 0): Answer {
  return { message, seq, notice: null, live: [], ahead: [], finished: false };
}

export function applyEvent(answer: Answer, event: ChatEvent): Answer {
  if (answer.finished || event.seq <= answer.seq) return answer;
  // The last event carries the whole row, so nothing before it is needed any more.
  if (event.kind === 'done') {
    const { message, seq } = event;
    return { message, seq, notice: null, live: [], ahead: [], finished: true };
  }
  if (event.seq > answer.seq + 1) {
    const known = answer.ahead.some((other) => other.seq === event.seq);
    return known ? answer : { ...answer, ahead: [...answer.ahead, event] };
  }
  const next = { ...withContent(answer, event), seq: event.seq };
  const following = next.ahead.find((other) => other.seq === next.seq + 1);
  if (!following) return next;
  return applyEvent({ ...next, ahead: next.ahead.filter((e) => e !== following) }, following);
}

function withContent(answer: Answer, event: Exclude<ChatEvent, { kind: 'done' }>): Answer {
  const { message } = answer;
  switch (event.kind) {
    case 'text':
      return { ...answer, message: { ...message, content: message.content + event.text } };
    case 'stats': {
      const live = [...answer.live, event.round].slice(-LIVE);
      return { ...answer, live, message: { ...message, stats: event.stats } };
    }
    case 'notice':
      return { ...answer, notice: { level: event.level, text: event.text } };
  }
}

/** The stored rows with a newer version of one of them in its place, or at the end. */
export function overlay(rows: Message[], newer: Message | null): Message[] {
  if (!newer) return rows;
  if (!rows.some((row) => row.id === newer.id)) return [...rows, newer];
  return rows.map((row) => (row.id === newer.id ? newer : row));
}
