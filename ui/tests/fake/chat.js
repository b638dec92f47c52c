// Conversations with something of everything, and answers that stream.
(() => {
  const { commands, sleep } = window.fake;
  const now = new Date(2026, 4, 20, 12, 0).getTime();
  const stats = {
    mode: 'dssd',
    tokens: 142,
    rounds: 41,
    drafted: 120,
    accepted: 94,
    ttftMs: 412,
    tokensPerS: 18.24,
    uplinkBytes: 1204,
    downlinkBytes: 870,
    finish: 'stop',
  };
  const markdown = [
    '## Rain on the window',
    'A **small** model writes ahead, a *large* one checks; see `verify` and [the paper](https://arxiv.org/abs/2507.12000).',
    '| Mode | tok/s | TTFT | Acceptance | Uplink | Downlink |\n|---|---|---|---|---|---|\n| together | 18.2 | 0.4 s | 78 % | 1.2 kB | 870 B |\n| edge | 11.0 | 0.3 s | – | 96 B | 2.1 kB |',
    '```rust\nfn main() {\n    println!("a line that is long enough to need scrolling on a phone, surely it is, is it not?");\n}\n```',
    '1. first\n2. second\n   - with a point\n\n> A quotation that says little.',
    'Supercalifragilisticexpialidociousandmuchlongerthananyphoneiswidesoitmustbreaksomewhere.',
  ].join('\n\n');
  let nextId = 100;
  const conversation = (title, hoursAgo) => ({
    id: nextId++,
    title,
    autoTitle: true,
    pinned: false,
    systemPrompt: null,
    sampling: null,
    createdAt: now - hoursAgo * 3_600_000,
    updatedAt: now - hoursAgo * 3_600_000,
  });
  const conversations = [
    ['What is speculative decoding?', 0],
    ['A title that is much longer than the column is wide, so it must be cut', 3],
    ['Haiku', 26],
    ['مرحبا بالعالم', 24 * 9],
  ].map(([title, hoursAgo], index) => ({ ...conversation(title, hoursAgo), id: index + 1 }));
  conversations[2].pinned = true;

  /** Every row, of every branch, and those of each parent. */
  const rows = [];
  const behind = new Map();
  /** The row that is shown behind a parent, where it is not the newest. */
  const chosen = new Map();
  const add = (conversationId, parent, change) => {
    const row = {
      id: nextId++,
      conversationId,
      parent,
      siblings: [],
      role: 'assistant',
      content: '',
      status: 'done',
      createdAt: now,
      error: null,
      stats: null,
      ...change,
    };
    rows.push(row);
    behind.set(keyOf(row), [...beside(row), row]);
    for (const one of beside(row)) one.siblings = beside(row).map(({ id }) => id);
    return row;
  };
  const keyOf = ({ conversationId, parent }) => `${conversationId} ${parent}`;
  const beside = (row) => behind.get(keyOf(row)) ?? [];
  const branch = (conversationId) => {
    const shown = [];
    for (let parent = null; ; parent = shown.at(-1).id) {
      const all = beside({ conversationId, parent });
      const next = all.find(({ id }) => id === chosen.get(parent)) ?? all.at(-1);
      if (!next) return shown;
      shown.push(next);
    }
  };
  const rowOf = (id) => rows.find((row) => row.id === id);

  for (const [content, answers] of [
    [
      'What is speculative decoding?',
      [
        { content: 'Guessing ahead.', stats },
        { content: markdown, stats },
      ],
    ],
    [
      'And if I stop it?',
      [{ content: 'It keeps', status: 'stopped', stats: { ...stats, mode: 'mixed' } }],
    ],
    [
      'And if it fails?',
      [{ status: 'failed', error: 'The edge was lost; send the message again.' }],
    ],
  ]) {
    const question = add(1, branch(1).at(-1)?.id ?? null, { role: 'user', content });
    for (const answer of answers) add(1, question.id, answer);
  }

  const running = new Map();
  const usage = { used: 1800, context: 4096 };
  Object.assign(window.fake, { conversations, add, stats, usage });

  /** A new row that is answered: behind a question, or in the place of an answer. */
  function answer(question, onEvent, userMessage = null) {
    const row = add(question.conversationId, question.id, { status: 'streaming' });
    chosen.delete(question.id);
    void stream(row, onEvent);
    return { userMessage, answerMessage: row };
  }
  function ask(conversationId, parent, content, onEvent) {
    const row = add(conversationId, parent, { role: 'user', content });
    chosen.delete(parent);
    return answer(row, onEvent, row);
  }

  const at = (id) => conversations.findIndex((one) => one.id === id);
  const deleted = new Map();
  Object.assign(commands, {
    startup: () => null,
    conversations_list: () => conversations,
    conversation_create: ({ title }) => {
      const made = { ...conversation(title, 0), createdAt: Date.now(), updatedAt: Date.now() };
      conversations.push(made);
      return made;
    },
    conversation_change: ({ id, change }) => Object.assign(conversations[at(id)], change),
    conversation_delete: ({ id }) => void deleted.set(id, conversations.splice(at(id), 1)[0]),
    conversation_restore: ({ id }) => {
      conversations.push(deleted.get(id));
      return deleted.get(id);
    },
    conversation_search: ({ query }) =>
      rows
        .map((row) => [row, row.content.toLowerCase().indexOf(query.toLowerCase())])
        .filter(([, found]) => found >= 0)
        .map(([row, found]) => ({
          conversationId: row.conversationId,
          title: conversations[at(row.conversationId)].title,
          messageId: row.id,
          role: row.role,
          at: row.createdAt,
          snippet: [
            { text: row.content.slice(0, found), hit: false },
            { text: row.content.slice(found, found + query.length), hit: true },
            { text: row.content.slice(found + query.length), hit: false },
          ],
        })),
    conversations_export: () => '/home/me/tandem.json',
    conversations_import: () => null,
    messages_list: ({ conversationId }) => branch(conversationId),
    generation_attach: () => null,
    context_usage: () => window.fake.usage,
    send_message: ({ conversationId, text, onEvent }) =>
      ask(conversationId, branch(conversationId).at(-1)?.id ?? null, text, onEvent),
    message_edit: ({ conversationId, messageId, text, onEvent }) =>
      ask(conversationId, rowOf(messageId).parent, text, onEvent),
    answer_again: ({ messageId, onEvent }) => answer(rowOf(rowOf(messageId).parent), onEvent),
    answer_continue: ({ messageId, onEvent }) => {
      const row = Object.assign(rowOf(messageId), { status: 'streaming' });
      void stream(row, onEvent);
      return { userMessage: null, answerMessage: row };
    },
    branch_choose: ({ messageId }) => {
      for (let row = rowOf(messageId); row; row = rowOf(row.parent)) chosen.set(row.parent, row.id);
    },
    stop_generation: ({ conversationId }) => void running.set(conversationId, false),
  });

  /** Sends `fake.answer` word by word, every `fake.pause` milliseconds. */
  async function stream(row, onEvent) {
    const of = row.conversationId;
    running.set(of, true);
    const words = (window.fake.answer ?? 'Rain falls. It is wet, and it is fine.').split(/(?<= )/);
    let seq = 0;
    const send = (event) => onEvent.onmessage({ seq: ++seq, ...event });
    const round = { mode: 'dssd', gamma: 4, rttMs: 31.5, decision: null };
    for (const text of words) {
      await sleep(window.fake.pause ?? 40);
      if (!running.get(of)) break;
      row.content += text;
      send({ kind: 'text', text });
      send({ kind: 'stats', stats: { ...stats, tokens: seq }, round });
    }
    Object.assign(row, { status: running.get(of) ? 'done' : 'stopped', stats });
    send({ kind: 'done', message: { ...row } });
    running.delete(of);
  }
})();
