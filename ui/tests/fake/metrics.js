// Figures for every chart, an answer's rounds of every origin, and two benchmarks.
(() => {
  const { commands, sleep } = window.fake;
  const modes = ['dssd', 'edge', 'device'];
  const day = 86_400_000;
  const first = new Date(2026, 4, 6, 12, 0).getTime();
  const days = Array.from({ length: 14 }, (_, i) => first + i * day);
  const count = (length, of) => Array.from({ length }, (_, i) => of(i));

  const metrics = {
    answers: 48,
    rounds: 1312,
    widthMs: day,
    speed: days.map((at, i) => ({
      at,
      answers: 3,
      tokensPerS: i === 5 ? null : 14 + (i % 5),
      ttftMs: 320 + 40 * (i % 4),
    })),
    acceptance: days.map((at, i) => ({ at, tested: 100, accepted: 70 + ((i * 7) % 20) })),
    positions: count(8, (i) => ({
      position: i + 1,
      tested: 900 - i * 90,
      accepted: 780 - i * 100,
    })),
    tokens: count(9, (i) => ({ tokens: i + 1, rounds: 260 - i * 25 })),
    time: modes.map((mode, i) => ({
      mode,
      rounds: 400,
      draftMs: mode === 'edge' ? 0 : 48,
      linkMs: mode === 'device' ? 0 : 12,
      queueMs: i,
      promptMs: 9,
      verifyMs: mode === 'device' ? 0 : 61,
      residualMs: mode === 'dssd' ? 1.5 : 0,
    })),
    trips: ['dssd', 'edge'].map((mode) => ({
      mode,
      rounds: 400,
      p50: 71,
      p90: 96,
      p95: 118,
      p99: 204,
    })),
    bytes: {
      rounds: 900,
      uplink: 41_000,
      downlink: 32_000,
      dsdUplink: 210_000_000,
      dsdDownlink: 32_000,
      dssdUplink: 44_000,
      dssdDownlink: 61_000_000,
    },
    compared: [
      ['dssd', 4, 18.2],
      ['dssd', null, 17.4],
      ['edge', null, 11],
      ['device', null, 24.5],
    ].map(([mode, gamma, tokensPerS]) => ({
      mode,
      gamma,
      answers: 12,
      tokensPerS,
      ttftMs: 410,
      rounds: 328,
      tokens: 1200,
      tested: mode === 'dssd' ? 1300 : 0,
      accepted: mode === 'dssd' ? 1010 : 0,
      bytes: mode === 'device' ? 0 : 9000,
    })),
  };
  const none = Object.fromEntries(
    Object.entries(metrics).map(([key, value]) => [key, Array.isArray(value) ? [] : value]),
  );
  Object.assign(none, { answers: 0, rounds: 0, bytes: { ...metrics.bytes, rounds: 0 } });

  const rounds = [
    [
      'dssd',
      [
        ['accepted', 'A'],
        ['accepted', ' small'],
        ['bonus', ' model'],
      ],
    ],
    [
      'dssd',
      [
        ['accepted', ' writes'],
        ['residual', ' ahead'],
      ],
    ],
    ['dssd', [['token', ',\n']]],
    ['edge', [['edge', 'a large one']]],
    ['device', [['device', ' checks.']]],
  ].map(([mode, tokens], round) => {
    const accepted = tokens.filter(([origin]) => origin === 'accepted').length;
    return {
      round,
      mode,
      gamma: mode === 'dssd' ? 4 : 0,
      drafted: mode === 'dssd' ? 4 : 0,
      accepted,
      ignored: 0,
      alternatives: 1,
      followed: 0,
      outcome: 'token',
      draftMs: mode === 'edge' ? 0 : 48.2,
      rttMs: mode === 'device' ? 0 : 74,
      queueMs: 0.4,
      verifyMs: 61,
      residualMs: 1.5,
      uplinkBytes: 42,
      downlinkBytes: 31,
      decision: round === 3 ? 'the edge alone is faster here' : null,
      tokens: tokens.map(([origin, text], id) => ({ id, text, origin })),
    };
  });

  const pair = { edge: 'local', verifier: 'Verifier 1.5B', drafter: 'Drafter 0.5B', vocab: 151936 };
  const benchmark = (id, faster) => ({
    id,
    startedAt: first + id * day,
    pair,
    version: '0.1.0',
    maxTokens: 96,
    runs: [{ prompt: 'code' }, { prompt: 'chat' }],
    ways: [
      ['edge', null, 11, null],
      ['dssd', 2, 15, true],
      ['dssd', 4, 18.2 + faster, true],
      ['device', null, 24, null],
    ].map(([mode, gamma, tokensPerS, same]) => ({
      mode,
      gamma,
      tokensPerS,
      ttftMs: 420,
      acceptance: mode === 'dssd' ? 0.78 : null,
      tokensPerRound: gamma ?? 1,
      bytesPerToken: 8.3,
      same,
    })),
    recommended: 2,
  });
  const benchmarks = [benchmark(2, 1), benchmark(1, 0)];
  let running = false;
  let progress = null;
  let cancel = null;

  Object.assign(window.fake, { metrics, benchmarks });
  Object.assign(commands, {
    answer_split: () => ({
      rounds,
      edge: 'local',
      verifier: pair.verifier,
      drafter: pair.drafter,
      splitMs: 55,
      streamMs: 91,
      streamRounds: 60,
    }),
    metrics_choices: () => ({ edges: ['local', 'Workshop'], first, last: days.at(-1) }),
    // Of one box nothing is known.
    metrics_read: ({ filter }) =>
      filter.edge === 'Workshop' ? none : (window.fake.metrics ?? none),
    metrics_export: () => '/home/me/tandem.csv',
    metrics_export_image: () => '/home/me/tandem.png',
    benchmarks_list: () => benchmarks,
    benchmark_delete: ({ id }) => {
      benchmarks.splice(
        benchmarks.findIndex((one) => one.id === id),
        1,
      );
    },
    benchmark_start: async () => {
      running = true;
      for (let done = 0; done < 8; done += 1) {
        progress = { done, total: 8, mode: 'dssd', gamma: 4, prompt: 'code' };
        await Promise.race([sleep(window.fake.pause ?? 40), new Promise((end) => (cancel = end))]);
        if (running) continue;
        throw { code: 'cancelled', message: 'the benchmark was cancelled' };
      }
      running = false;
      benchmarks.unshift(benchmark(3, 2));
      return benchmarks[0];
    },
    benchmark_state: () => ({ running, progress: running ? progress : null, problem: null }),
    benchmark_cancel: () => {
      running = false;
      cancel?.();
    },
  });
})();
