/** All conversations and which one is open. */
import * as api from '../lib/api';
import { forgetDraft } from '../lib/drafts';
import { titleFrom } from '../lib/format';
import { Thread } from './thread.svelte';
import { toast } from './toast.svelte';

const OPEN_SLOT = 'tandem.open';

class Chats {
  conversations = $state<api.Conversation[]>([]);
  loaded = $state(false);
  open = $state.raw(new Thread(null));
  /** Threads stay when another is opened, so their answers go on coming in. */
  #threads = new Map<number, Thread>();

  sorted = $derived([...this.conversations].sort((a, b) => b.updatedAt - a.updatedAt));
  title = $derived(this.conversations.find((c) => c.id === this.open.id)?.title ?? null);

  async init() {
    this.conversations = await api.conversationsList();
    this.loaded = true;
    const last = Number(localStorage.getItem(OPEN_SLOT));
    if (this.conversations.some((c) => c.id === last)) this.select(last);
  }

  select(id: number) {
    let thread = this.#threads.get(id);
    if (!thread) {
      thread = new Thread(id);
      this.#threads.set(id, thread);
      void thread.load();
    }
    this.open = thread;
    localStorage.setItem(OPEN_SLOT, String(id));
  }

  /** Opens an empty thread; its conversation comes to be with the first message. */
  startNew() {
    if (this.open.id !== null) this.open = new Thread(null);
    localStorage.removeItem(OPEN_SLOT);
  }

  async send() {
    const thread = this.open;
    await thread.send(async (text) => {
      const conversation = await api.conversationCreate(titleFrom(text));
      this.conversations.push(conversation);
      this.#threads.set(conversation.id, thread);
      if (this.open === thread) localStorage.setItem(OPEN_SLOT, String(conversation.id));
      return conversation.id;
    });
    const conversation = this.conversations.find((c) => c.id === thread.id);
    if (conversation && thread.error === null) conversation.updatedAt = Date.now();
  }

  async rename(id: number, title: string) {
    const conversation = this.conversations.find((c) => c.id === id);
    const before = conversation?.title;
    if (!conversation || !title.trim() || title.trim() === before) return;
    conversation.title = title.trim();
    try {
      await api.conversationRename(id, conversation.title);
    } catch (error) {
      conversation.title = before!;
      toast.show(api.toApiError(error).message);
    }
  }

  async remove(id: number) {
    try {
      await api.conversationDelete(id);
    } catch (error) {
      toast.show(api.toApiError(error).message);
      return;
    }
    this.conversations = this.conversations.filter((c) => c.id !== id);
    this.#threads.delete(id);
    forgetDraft(id);
    if (this.open.id === id) this.startNew();
  }
}

export const chats = new Chats();
