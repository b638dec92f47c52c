/** One conversation's messages, its running answer and its unsent text. */
import { applyEvent, overlay, startAnswer, type Answer } from '../lib/answer';
import * as api from '../lib/api';
import * as drafts from '../lib/drafts';

export class Thread {
  /** null until the first message is sent: the conversation does not exist before. */
  id = $state<number | null>(null);
  /** Text on its way to the backend. */
  sending = $state<string | null>(null);
  stopping = $state(false);
  loading = $state(false);
  error = $state<string | null>(null);
  #draft = $state('');
  #rows = $state.raw<api.Message[]>([]);
  #answer = $state.raw<Answer | null>(null);

  messages = $derived(overlay(this.#rows, this.#answer?.message ?? null));
  notice = $derived(this.#answer?.notice ?? null);
  generating = $derived(this.#answer !== null);

  constructor(id: number | null) {
    this.id = id;
    this.#draft = drafts.loadDraft(this.key);
  }

  get key(): drafts.DraftKey {
    return this.id ?? 'new';
  }

  get draft(): string {
    return this.#draft;
  }

  set draft(text: string) {
    this.#draft = text;
    drafts.saveDraft(this.key, text);
  }

  async load() {
    if (this.id === null) return;
    this.loading = true;
    this.error = null;
    try {
      // Attach first: an answer that ends between the two calls is then complete in the list.
      const feed = this.#feed();
      const running = await api.generationAttach(this.id, feed.onEvent);
      if (running) feed.begin(running.answerMessage, running.seq);
      const rows = await api.messagesList(this.id);
      // An answer that ended meanwhile has put its final row here, newer than the list's.
      const ended = this.#rows.find((row) => row.id === running?.answerMessage.id);
      this.#rows = overlay(rows, ended ?? null);
    } catch (error) {
      this.error = api.toApiError(error).message;
    } finally {
      this.loading = false;
    }
  }

  /** Sends the draft; on failure it is back in the composer. */
  async send(createConversation: (text: string) => Promise<number>) {
    const text = this.draft.trim();
    if (!text || this.generating || this.sending !== null) return;
    this.error = null;
    this.sending = text;
    drafts.beginSend(this.key, text);
    this.#draft = '';
    try {
      if (this.id === null) {
        const id = await createConversation(text);
        drafts.moveDraft('new', id);
        this.id = id;
      }
      const feed = this.#feed();
      const { userMessage, answerMessage } = await api.sendMessage(this.id, text, feed.onEvent);
      drafts.sendSucceeded(this.key);
      this.#rows = [...this.#rows, userMessage, answerMessage];
      feed.begin(answerMessage, 0);
    } catch (error) {
      this.error = api.toApiError(error).message;
      this.#draft = drafts.loadDraft(this.key);
    } finally {
      this.sending = null;
    }
  }

  async stop() {
    if (this.id === null || !this.generating || this.stopping) return;
    this.stopping = true;
    try {
      await api.stopGeneration(this.id);
    } catch (error) {
      this.stopping = false;
      this.error = api.toApiError(error).message;
    }
  }

  /** Takes the events of one channel; those before `begin` wait, as the row is not known yet. */
  #feed() {
    const early: api.ChatEvent[] = [];
    let messageId: number | null = null;
    const onEvent = (event: api.ChatEvent) => {
      if (messageId === null) early.push(event);
      else if (this.#answer?.message.id === messageId) this.#apply(this.#answer, event);
    };
    const begin = (message: api.Message, seq: number) => {
      messageId = message.id;
      this.stopping = false;
      this.#answer = startAnswer(message, seq);
      early.forEach(onEvent);
    };
    return { onEvent, begin };
  }

  #apply(answer: Answer, event: api.ChatEvent) {
    const next = applyEvent(answer, event);
    if (next.finished) {
      this.#rows = overlay(this.#rows, next.message);
      this.#answer = null;
      this.stopping = false;
    } else {
      this.#answer = next;
    }
  }
}
