/** All conversations and which one is open. */
import { chat as t } from '../i18n/chat';
import * as api from '../lib/api';
import * as more from '../lib/api/conversations';
import { titleFrom } from '../lib/format';
import { Thread } from './thread.svelte';
import { toast } from './toast.svelte';

const OPEN_SLOT = 'tandem.open';

class Chats {
  conversations = $state<api.Conversation[]>([]);
  loaded = $state(false);
  /** Why there is no list. */
  problem = $state.raw<api.ApiError | null>(null);
  open = $state.raw(new Thread(null));
  /** Threads stay when another is opened, so their answers go on coming in. */
  #threads = new Map<number, Thread>();

  sorted = $derived(
    [...this.conversations].sort(
      (a, b) => Number(b.pinned) - Number(a.pinned) || b.updatedAt - a.updatedAt,
    ),
  );
  current = $derived(this.conversations.find((c) => c.id === this.open.id) ?? null);
  title = $derived(this.current?.title ?? null);

  async init() {
    this.problem = null;
    try {
      this.conversations = await api.conversationsList();
    } catch (error) {
      this.problem = api.toApiError(error);
      return;
    }
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
    let made: api.Conversation | null = null;
    const list = () => {
      if (!made) return;
      this.conversations.push(made);
      this.#threads.set(made.id, thread);
      if (this.open === thread) localStorage.setItem(OPEN_SLOT, String(made.id));
      made = null;
    };
    await thread.send({
      create: async (text) => {
        made = await api.conversationCreate(titleFrom(text));
        return made.id;
      },
      discard: async (id) => {
        try {
          await more.conversationDelete(id);
          made = null;
          return true;
        } catch {
          // What stays because it cannot be removed is at least to be seen.
          list();
          return false;
        }
      },
      taken: (id) => {
        list();
        const conversation = this.conversations.find((c) => c.id === id);
        if (conversation) conversation.updatedAt = Date.now();
      },
    });
  }

  async rename(id: number, title: string) {
    const before = this.conversations.find((c) => c.id === id)?.title;
    if (title.trim() && title.trim() !== before) await this.change(id, { title: title.trim() });
  }

  /** Says whether it worked. */
  async change(id: number, change: more.Change): Promise<boolean> {
    return this.#try(async () => {
      const changed = await more.conversationChange(id, change);
      this.conversations = this.conversations.map((c) => (c.id === id ? changed : c));
      if (this.open.id === id) void this.open.count();
    });
  }

  /** Removes it; the message that says so can bring it back. */
  async remove(id: number) {
    await this.#try(async () => {
      await more.conversationDelete(id);
      const gone = this.conversations.find((c) => c.id === id);
      this.conversations = this.conversations.filter((c) => c.id !== id);
      this.#threads.delete(id);
      const wasOpen = this.open.id === id;
      if (wasOpen) this.startNew();
      const undo = () => void this.#restore(id, wasOpen);
      toast.show(t.deleted(gone?.title ?? ''), { label: t.undo, do: undo });
    });
  }

  async #restore(id: number, open: boolean) {
    await this.#try(async () => {
      this.conversations.push(await more.conversationRestore(id));
      if (open) this.select(id);
    });
  }

  async export(id: number | null, markdown: boolean) {
    await this.#try(async () => {
      const path = await more.conversationsExport(id, markdown);
      if (path !== null) toast.show(t.exported(path));
    });
  }

  async import() {
    await this.#try(async () => {
      const found = await more.conversationsImport();
      if (!found) return;
      const { added, known } = found;
      this.conversations = await api.conversationsList();
      toast.show(t.imported(added.length, known));
      if (added[0] !== undefined) this.select(added[0]);
    });
  }

  /** Opens a found message, on whatever branch it is. */
  async show(hit: more.Hit) {
    this.select(hit.conversationId);
    if (hit.messageId !== null) await this.open.reveal(hit.messageId);
  }

  /** A new conversation with the same choices and the text that found no room. */
  async goOnElsewhere() {
    const { draft } = this.open;
    const { systemPrompt, sampling, title } = this.current ?? {};
    await this.#try(async () => {
      const made = await api.conversationCreate(title ?? '');
      const change = { systemPrompt: systemPrompt ?? null, sampling: sampling ?? null };
      this.conversations.push(await more.conversationChange(made.id, change));
      this.open.draft = '';
      this.select(made.id);
      this.open.draft = draft;
    });
  }

  async #try(work: () => Promise<void>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      toast.fail(error);
      return false;
    }
  }
}

export const chats = new Chats();
