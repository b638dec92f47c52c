// Figures of a week, the split of an answer, and a benchmark that takes a moment.
(() => {
  const { commands, sleep } = window.fake;
  const start = new Date(2026, 4, 14, 9, 0).getTime();
  const hour = 3_600_000;
  const points = Array.from({ length: 40 }, (_, i) => start + i * 3 * hour);
  const wave = (i, low, high) => low + ((high - low) * (1 + Math.sin(i * 1.7))) / 2;
  const kinds = [
    ['dssd', 2, 14.2],
    ['dssd', 4, 18.4],
    ['dssd', 8, 16.1],
    ['dssd', null, 18.2],
    ['edge', 0, 11.3],
    ['device', 0, 27.5],
    ['mixed', null, 12.8],
  ];
  const full = {
    answers: 412,
    rounds: 16_480,
    widthMs: 3 * hour,
    speed: points.map((at, i) => ({
      at,
      answers: 10,
      tokensPerS: wave(i, 12, 19),
      ttftMs: wave(i + 2, 240, 900),
    })),
    acceptance: points.map((at, i) => ({
      at,
      tested: 400,
      accepted: Math.round(wave(i, 260, 340)),
    })),
    positions: Array.from({ length: 8 }, (_, i) => ({
      position: i + 1,
      tested: Math.round(9000 * 0.78 ** i),
      accepted: Math.round(9000 * 0.78 ** (i + 1) * (1 - i / 60)),
    })),
    tokens: Array.from({ length: 9 }, (_, i) => ({
      tokens: i + 1,
      rounds: Math.round(2000 * 0.8 ** i) + (i === 4 ? 900 : 0),
    })),
    time: ['dssd', 'edge', 'device'].map((mode) => ({
      mode,
      rounds: 5000,
      draftMs: mode === 'edge' ? 0 : mode === 'device' ? 36 : 92,
      linkMs: mode === 'device' ? 0 : 4.2,
      queueMs: mode === 'device' ? 0 : 1.1,
      promptMs: mode === 'device' ? 0 : 12.4,
      verifyMs: mode === 'device' ? 0 : mode === 'edge' ? 71 : 128,
      residualMs: mode === 'dssd' ? 0.1 : 0,
    })),
    trips: [
      { mode: 'dssd', rounds: 9000, p50: 128.4, p90: 171.2, p95: 198.8, p99: 344.1 },
      { mode: 'edge', rounds: 3000, p50: 74.1, p90: 88.3, p95: 95.2, p99: 130.7 },
    ],
    bytes: {
      rounds: 9000,
      uplink: 436_000,
      downlink: 210_000,
      dsdUplink: 21_879_000_000,
      dsdDownlink: 72_000,
      dssdUplink: 288_000,
      dssdDownlink: 3_100_000_000,
    },
    compared: kinds.map(([mode, gamma, tokensPerS]) => ({
      mode,
      gamma,
      answers: 50,
      tokensPerS,
      ttftMs: 400,
      rounds: gamma === null ? 0 : 2000,
      tokens: gamma === null ? 0 : mode === 'dssd' ? 6400 : 2000,
      tested: mode === 'dssd' && gamma ? 7000 : 0,
      accepted: mode === 'dssd' && gamma ? 4400 : 0,
      bytes: mode === 'device' ? 0 : 90_000,
    })),
  };
  const none = {
    answers: 0,
    rounds: 0,
    widthMs: 0,
    speed: [],
    acceptance: [],
    positions: [],
    tokens: [],
    time: [],
    trips: [],
    bytes: Object.fromEntries(Object.keys(full.bytes).map((key) => [key, 0])),
    compared: [],
  };

  const words = 'A small model writes ahead , and a large one checks every token of it in one step .';
  const forms = [
    ['dssd', 'bonus', 'bonus'],
    ['dssd', 'sampled', 'residual'],
    ['dssd', 'token', 'token'],
    ['edge', 'bonus', 'edge'],
    ['device', 'token', 'device'],
  ];
  const split = {
    edge: 'local',
    verifier: 'qwen2.5-coder-1.5b-instruct-q4_k_m',
    drafter: 'qwen2.5-coder-0.5b-instruct-q4_k_m',
    splitMs: 54.2,
    streamMs: 88.5,
    streamRounds: 240,
    rounds: Array.from({ length: 20 }, (_, i) => {
      const [mode, outcome, last] = forms[i % 9 < 7 ? i % 3 : (i % 9) - 4];
      const accepted = mode === 'dssd' ? 1 + (i % 4) : 0;
      const text = words.split(' ');
      return {
        round: i,
        mode,
        gamma: mode === 'dssd' ? 4 : 0,
        drafted: mode === 'dssd' ? 4 : 0,
        accepted,
        ignored: mode === 'dssd' ? Math.max(0, 3 - accepted) : 0,
        outcome,
        draftMs: mode === 'edge' ? 0 : 61.2,
        rttMs: mode === 'device' ? 0 : 132.8,
        queueMs: 0.3,
        verifyMs: 129.1,
        residualMs: 0.1,
        uplinkBytes: 47,
        downlinkBytes: 21,
        decision: null,
        tokens: Array.from({ length: accepted + 1 }, (_, j) => ({
          id: j,
          text: ` ${text[(i * 3 + j) % text.length]}`,
          origin: j < accepted ? 'accepted' : last,
        })),
      };
    }),
  };

  const ways = kinds.slice(0, 6).map(([mode, gamma, tokensPerS]) => ({
    mode,
    gamma: gamma || null,
    tokensPerS,
    ttftMs: 380,
    acceptance: mode === 'dssd' ? 0.78 : null,
    tokensPerRound: mode === 'dssd' ? 3.1 : 1,
    bytesPerToken: mode === 'device' ? 0 : 19.4,
    same: mode === 'dssd' ? true : null,
  }));
  const result = (id, startedAt) => ({
    id,
    startedAt,
    pair: { edge: 'local', verifier: split.verifier, drafter: split.drafter, vocab: 151_936 },
    version: '0.1.0',
    maxTokens: 64,
    runs: ways.map(() => ({ prompt: 'code' })),
    ways,
    recommended: 3,
  });
  let results = [result(1, start + 20 * hour)];
  let cancelled = false;

  Object.assign(window.fake, { metrics: full, noMetrics: none });
  Object.assign(commands, {
    metrics_choices: () => ({ edges: ['local', 'ws://192.168.1.20:7470'], first: start, last: start }),
    metrics_read: ({ filter }) => (filter.gamma === 8 ? none : window.fake.metrics),
    metrics_export: ({ format }) => `/home/me/tandem-rounds.${format}`,
    metrics_export_image: () => '/home/me/tandem-metrics.png',
    answer_split: () => split,
    benchmarks_list: () => results,
    benchmark_delete: ({ id }) => void (results = results.filter((one) => one.id !== id)),
    benchmark_cancel: () => void (cancelled = true),
    benchmark_start: async ({ onEvent }) => {
      cancelled = false;
      const channel = Number(onEvent.id ?? String(onEvent).split(':').pop());
      for (let done = 0; done < 6; done += 1) {
        const { mode, gamma } = ways[done];
        const message = { done, total: 6, mode, gamma, prompt: 'code' };
        window.fake.channel?.(channel, done, message);
        await sleep(250);
        if (cancelled) throw { code: 'benchmark', message: 'the benchmark was cancelled; nothing was kept' };
      }
      const one = result(results.length + 1, start + 160 * hour);
      results = [one, ...results];
      return one;
    },
  });
})();
