/** One conversation's messages, its running answer and its unsent text. */
import { applyEvent, overlay, startAnswer, type Answer } from '../lib/answer';
import * as api from '../lib/api';
import * as more from '../lib/api/conversations';
import * as drafts from '../lib/drafts';

/** An event that waits for an earlier one this long is told that the earlier one was lost. */
const GAP_MS = 500;
/** So long without an event, the core is asked whether there was one. */
const SILENCE_MS = 2000;

/** What is refused for its own sake: trying again changes nothing. */
const FINAL = new Set(['context', 'context_message', 'long', 'empty', 'missing']);

/** How a conversation comes to be with its first message, and goes when that is refused. */
export interface Sending {
  create: (text: string) => Promise<number>;
  /** Says whether it is gone. */
  discard: (id: number) => Promise<boolean>;
  /** The message is in this conversation. */
  taken: (id: number) => void;
}

export class Thread {
  /** null until the first message is sent: the conversation does not exist before. */
  id = $state<number | null>(null);
  /** Text on its way to the backend. */
  sending = $state<string | null>(null);
  stopping = $state(false);
  loading = $state(false);
  error = $state.raw<api.ApiError | null>(null);
  /** Does once more what failed; null where that would fail again. */
  retry = $state.raw<(() => unknown) | null>(null);
  /** Whether its messages could not be read. */
  unread = $state(false);
  usage = $state.raw<more.Usage | null>(null);
  /** A message to bring into view, once. */
  wanted = $state<number | null>(null);
  #timer = 0;
  #draft = $state('');
  #rows = $state.raw<api.Message[]>([]);
  #answer = $state.raw<Answer | null>(null);

  messages = $derived(overlay(this.#rows, this.#answer?.message ?? null));
  notice = $derived(this.#answer?.notice ?? null);
  live = $derived(this.#answer?.live ?? []);
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
    this.dismiss();
    try {
      await this.#sync(this.id);
      this.unread = false;
    } catch (error) {
      this.unread = true;
      this.#failed(error, () => this.load());
    } finally {
      this.loading = false;
    }
  }

  /** Takes the rows and the running answer from the core, with a channel of its own. */
  async #sync(id: number) {
    // Attach first: an answer that ends between the two calls is then complete in the list.
    const feed = this.#feed();
    const running = await api.generationAttach(id, feed.onEvent);
    if (running) feed.begin(running.answerMessage, running.seq);
    const rows = await api.messagesList(id);
    // An answer that ended meanwhile has put its final row here, newer than the list's.
    const ended = this.#rows.find((row) => row.id === running?.answerMessage.id);
    this.#rows = overlay(rows, ended ?? null);
    if (!running) this.#end();
    void this.count();
  }

  /** How full the context is; nothing depends on it, so a failure says nothing. */
  async count() {
    if (this.id === null) return;
    this.usage = await more.contextUsage(this.id).catch(() => null);
  }

  #failed(error: unknown, retry: () => unknown) {
    this.error = api.toApiError(error);
    this.retry = FINAL.has(this.error.code) ? null : retry;
  }

  /** Forgets what went wrong. */
  dismiss() {
    this.error = this.retry = null;
  }

  /** Says no to something before it is tried. */
  refuse(code: string, message: string) {
    this.error = { code, message, detail: null };
    this.retry = null;
  }

  /** Sends the draft; on failure it is back in the composer, and nothing else is left of it. */
  async send(first: Sending) {
    const text = this.draft.trim();
    if (!text || this.generating || this.sending !== null) return;
    let made: number | null = null;
    this.dismiss();
    this.sending = text;
    drafts.beginSend(this.key, text);
    this.#draft = '';
    try {
      if (this.id === null) {
        made = await first.create(text);
        drafts.moveDraft('new', made);
        this.id = made;
      }
      const feed = this.#feed();
      const { userMessage, answerMessage } = await api.sendMessage(this.id, text, feed.onEvent);
      drafts.sendSucceeded(this.key);
      first.taken(this.id);
      this.#rows = [...this.#rows, ...(userMessage ? [userMessage] : []), answerMessage];
      feed.begin(answerMessage, 0);
    } catch (error) {
      if (made !== null && (await first.discard(made))) {
        drafts.moveDraft(made, 'new');
        this.id = null;
      }
      this.#failed(error, () => this.send(first));
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
      this.#failed(error, () => this.stop());
    }
  }

  /** Another question in the place of one; says whether it is under way. */
  edit(message: api.Message, text: string) {
    return this.#branch(message, (id, on) => more.messageEdit(id, message.id, text, on));
  }

  /** One more answer beside this one, in its place if it failed without a word. */
  again(message: api.Message) {
    return this.#branch(message, (id, on) => more.answerAgain(id, message.id, on));
  }

  /** The rest of an answer that ended early. */
  goOn(message: api.Message) {
    return this.#branch(message, (id, on) => more.answerContinue(id, message.id, on));
  }

  async #branch(from: api.Message, start: (id: number, on: OnEvent) => Promise<api.Sent>) {
    if (this.id === null || this.generating || this.sending !== null || this.#branching)
      return false;
    // A second press, before the answer to the first one is there, is the first one's.
    this.#branching = true;
    this.dismiss();
    try {
      const feed = this.#feed();
      const { userMessage, answerMessage } = await start(this.id, feed.onEvent);
      const kept = this.#rows.slice(
        0,
        this.#rows.findIndex((row) => row.id === from.id),
      );
      this.#rows = [...kept, ...(userMessage ? [userMessage] : []), answerMessage];
      feed.begin(answerMessage, 0);
      return true;
    } catch (error) {
      this.#failed(error, () => this.#branch(from, start));
      return false;
    } finally {
      this.#branching = false;
    }
  }

  /** Shows the branch with a message. */
  async choose(messageId: number) {
    if (this.id === null || this.generating) return;
    try {
      await more.branchChoose(messageId);
      this.#rows = await api.messagesList(this.id);
      void this.count();
    } catch (error) {
      this.#failed(error, () => this.choose(messageId));
    }
  }

  /** Shows a message that may be on another branch. */
  async reveal(messageId: number) {
    if (!this.messages.some((message) => message.id === messageId)) await this.choose(messageId);
    this.wanted = messageId;
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
      this.#waiting = false;
      this.#watch();
      early.forEach(onEvent);
    };
    return { onEvent, begin };
  }

  #apply(answer: Answer, event: api.ChatEvent) {
    const next = applyEvent(answer, event);
    if (next.finished) {
      this.#rows = overlay(this.#rows, next.message);
      this.#end();
      void this.count();
    } else {
      this.#answer = next;
      this.#watch();
    }
  }

  #end() {
    clearTimeout(this.#timer);
    this.#answer = null;
    this.stopping = false;
  }

  /**
   * The window can lose a channel's message, and then gets none of those behind it. So a gap, or
   * silence, is a reason to ask for the whole state and a new channel.
   */
  #watch() {
    const answer = this.#answer;
    const gap = answer !== null && answer.ahead.length > 0;
    // A gap's clock is not set back by what comes behind it.
    if (gap && this.#waiting) return;
    this.#waiting = gap;
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => void this.#resync(), gap ? GAP_MS : SILENCE_MS);
  }

  #waiting = false;
  #branching = false;

  async #resync() {
    this.#waiting = false;
    const id = this.id;
    if (id === null || !this.#answer) return;
    try {
      await this.#sync(id);
    } catch {
      // The core will be asked again.
    }
    if (this.#answer) this.#watch();
  }
}

type OnEvent = (event: api.ChatEvent) => void;
