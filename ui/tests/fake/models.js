// The model manager: files in every state, and pairs that can and cannot be used.
(() => {
  const { commands, models, sleep } = window.fake;
  const rest = { parameters: '0.5B', quantisation: 'Q4_K_M', context: 32768, exact: true };
  const model = (name, change) => ({
    ...rest,
    name,
    file: `${name}.gguf`,
    role: null,
    bytes: 1_800_000_000,
    licence: 'Apache-2.0',
    state: 'missing',
    haveBytes: 0,
    detail: null,
    family: 'Qwen3',
    memory: 2_400_000_000,
    ...change,
  });
  const [drafter, verifier] = models;
  /** Besides the two in use. */
  const files = [
    model('qwen3-0.6b-q8_0', { state: 'partial', haveBytes: 400_000_000 }),
    model('my-own-model-with-a-name-that-is-long-and-has-no-space', {
      state: 'failed',
      licence: null,
      family: null,
      detail: 'The file is not a GGUF file. Delete it and import it again.',
    }),
    model('qwen3-8b-q4_k_m', { parameters: '8B', bytes: 5_027_000_000, exact: false }),
  ];
  const all = () => [
    model(drafter.name, { ...drafter, family: 'Qwen2.5 Coder' }),
    model(verifier.name, { ...verifier, family: 'Qwen2.5 Coder', parameters: '1.5B' }),
    ...files,
  ];
  const pair = (drafter, verifier, problem) => ({
    drafter,
    verifier,
    memory: 2_100_000_000,
    checked: problem === null,
    problem,
  });
  const choice = { drafter: drafter.name, verifier: verifier.name };

  Object.assign(window.fake, { files });
  Object.assign(commands, {
    models_overview: () => ({
      models: all(),
      pairs: [
        pair(choice.drafter, choice.verifier, null),
        pair('qwen3-0.6b-q8_0', 'qwen3-8b-q4_k_m', {
          code: 'memory',
          text: 'Needs about 7.1 GB of memory; 6 GB are free.',
        }),
        pair(choice.drafter, 'qwen3-8b-q4_k_m', {
          code: 'tokenizer',
          text: 'The two models cut text into different tokens.',
        }),
      ],
      choice,
      folder: '/home/me/.cache/tandem/models',
      usedBytes: 2_008_720_768,
      freeBytes: 81_000_000_000,
      availableMemory: 6_000_000_000,
      importing: false,
    }),
    models_check: ({ choice: { drafter, verifier } }) =>
      pair(
        drafter,
        verifier,
        drafter === verifier ? { code: 'tokenizer', text: 'Choose two models.' } : null,
      ),
    models_choose: () => {},
    model_discard: () => {},
    model_delete: () => {
      throw { code: 'busy', message: 'The model is in use. Choose another pair first.' };
    },
    model_import: () => null,
    model_download: async ({ name, onEvent }) => {
      const entry = models.find((one) => one.name === name) ?? { bytes: 1_800_000_000 };
      const { bytes } = entry;
      for (let part = 1; part <= 4; part += 1) {
        await sleep(window.fake.pause ?? 40);
        const state = part === 4 ? 'verifying' : 'downloading';
        Object.assign(entry, { state, haveBytes: (bytes * part) / 4 });
        onEvent.onmessage({ state, haveBytes: entry.haveBytes, bytes });
      }
      entry.state = 'ready';
    },
  });
})();
