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
  const conversations = [
    ['What is speculative decoding?', 0],
    ['A title that is much longer than the column is wide, so it must be cut', 3],
    ['Haiku', 26],
    ['مرحبا بالعالم', 24 * 9],
  ].map(([title, hoursAgo], index) => ({
    id: index + 1,
    title,
    createdAt: now - hoursAgo * 3_600_000,
    updatedAt: now - hoursAgo * 3_600_000,
  }));
  const message = (conversationId, change) => ({
    id: nextId++,
    conversationId,
    role: 'assistant',
    content: '',
    status: 'done',
    createdAt: now,
    error: null,
    stats: null,
    ...change,
  });
  const question = (id, content) => message(id, { role: 'user', content });
  const messages = new Map([
    [
      1,
      [
        question(1, 'What is speculative decoding?'),
        message(1, { content: markdown, stats }),
        question(1, 'And if I stop it?'),
        message(1, { content: 'It keeps', status: 'stopped', stats: { ...stats, mode: 'mixed' } }),
        question(1, 'And if it fails?'),
        message(1, { status: 'failed', error: 'The edge was lost; send the message again.' }),
      ],
    ],
  ]);
  const of = (id) => messages.get(id) ?? messages.set(id, []).get(id);

  Object.assign(window.fake, { conversations, messages, stats, answer: null, running: new Map() });

  Object.assign(commands, {
    conversations_list: () => conversations,
    conversation_create: ({ title }) => {
      const made = { id: nextId++, title, createdAt: Date.now(), updatedAt: Date.now() };
      conversations.push(made);
      return made;
    },
    conversation_rename: ({ id, title }) => {
      conversations.find((one) => one.id === id).title = title;
    },
    conversation_delete: ({ id }) => {
      conversations.splice(
        conversations.findIndex((one) => one.id === id),
        1,
      );
    },
    messages_list: ({ conversationId }) => of(conversationId),
    generation_attach: () => null,
    send_message: ({ conversationId, text, onEvent }) => {
      const userMessage = question(conversationId, text);
      const answerMessage = message(conversationId, { status: 'streaming' });
      of(conversationId).push(userMessage, answerMessage);
      void stream(conversationId, answerMessage, onEvent);
      return { userMessage, answerMessage };
    },
    stop_generation: ({ conversationId }) => window.fake.running.set(conversationId, false),
  });

  /** Sends `fake.answer` word by word, every `fake.pause` milliseconds. */
  async function stream(conversationId, row, onEvent) {
    window.fake.running.set(conversationId, true);
    const words = (window.fake.answer ?? 'Rain falls. It is wet, and it is fine.').split(/(?<= )/);
    let seq = 0;
    const send = (event) => onEvent.onmessage({ seq: ++seq, ...event });
    for (const text of words) {
      await sleep(window.fake.pause ?? 40);
      if (!window.fake.running.get(conversationId)) break;
      row.content += text;
      send({ kind: 'text', text });
      send({ kind: 'stats', stats: { ...stats, tokens: seq } });
    }
    const stopped = !window.fake.running.get(conversationId);
    Object.assign(row, { status: stopped ? 'stopped' : 'done', stats });
    send({ kind: 'done', message: { ...row } });
    window.fake.running.delete(conversationId);
  }
})();
