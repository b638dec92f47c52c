// Status, settings, the installation and the two models in use.
(() => {
  const { commands } = window.fake;
  const status = {
    edge: {
      box: { id: 1, name: 'This device' },
      state: 'connected',
      url: 'ws://127.0.0.1:7470',
      bundled: true,
      model: 'Qwen2.5 Coder 1.5B Instruct',
      approximate: false,
      detail: null,
      problem: null,
    },
    drafter: { state: 'ready', model: 'Qwen2.5 Coder 0.5B Instruct', detail: null },
    mode: 'auto',
    version: '0.1.0',
    scanner: false,
  };
  const model = (name, role, bytes) => ({
    name,
    role,
    file: `${name}.gguf`,
    bytes,
    licence: 'Apache-2.0',
    state: 'ready',
    haveBytes: bytes,
    detail: null,
  });
  const models = [
    model('qwen2.5-coder-0.5b-instruct-q4_k_m', 'drafter', 491_400_032),
    model('qwen2.5-coder-1.5b-instruct-q4_k_m', 'verifier', 1_117_320_736),
  ];
  let settings = {
    mode: 'auto',
    gamma: null,
    temperature: 0.7,
    topK: 20,
    topP: 0.8,
    maxTokens: 1024,
    systemPrompt: '',
    theme: 'system',
    language: 'auto',
    whenEdgeLost: 'continue',
  };
  Object.assign(window.fake, { status, models });
  Object.assign(commands, {
    app_status: () => status,
    models_list: () => models,
    model_cancel: () => {},
    edge_restart: () => {},
    diagnostics: () => 'Tandem 0.1.0\nlinux x86_64',
    notify: () => true,
    notice_words: () => {},
    settings_get: () => settings,
    settings_set: (args) => (settings = args.settings),
  });
})();
