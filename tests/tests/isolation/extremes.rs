//! Each field of each message at its extremes, while another device streams.

use crate::raw::{Raw, greeting, stream};
use crate::{BROKEN, Program, files, ids, told, verifier, written};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tandem_protocol::{
    ClientMessage, Draft, Hello, MAX_BRANCH, MAX_CONTEXT, MAX_ROUND, More, Open, SessionId, Stream,
};
use tandem_speculation::{Alternative, Sampling, TokenId};

const MANY: usize = 1_000_000;
const CONTEXT: u32 = MAX_CONTEXT as u32;
const PROMPT: u32 = 20;

/// 0, 1, and what is around each limit.
const NUMBERS: [u32; 16] = [
    0,
    1,
    2,
    PROMPT,
    PROMPT + 1,
    MAX_ROUND - 1,
    MAX_ROUND,
    MAX_ROUND + 1,
    MAX_BRANCH - 1,
    CONTEXT,
    CONTEXT + 1,
    i32::MAX as u32,
    1 << 31,
    u32::MAX - 2,
    u32::MAX - 1,
    u32::MAX,
];

const FLOATS: [f32; 14] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.1,
    10.0,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MIN_POSITIVE,
    1e-45,
    f32::EPSILON,
    f32::MAX,
    f32::MIN,
];

/// A change of one field.
type Change<M> = Box<dyn Fn(&mut M)>;

fn lists() -> Vec<Vec<TokenId>> {
    let few = [0, 1, BROKEN, 273, 274, 1 << 20, u32::MAX].map(|id| vec![TokenId(id); 3]);
    let many = [0, 1, 2, 31, 32, 33, 64, 65, 1023, 1024, 1025, MAX_CONTEXT + 1, MANY];
    many.iter().map(|n| vec![TokenId(70); *n]).chain(few).collect()
}

/// Changes of a field that is a number, a float or a list.
fn each<M: 'static, T: Clone + 'static>(
    values: impl IntoIterator<Item = T>,
    set: fn(&mut M, T),
) -> Vec<Change<M>> {
    let change = |value: T| -> Change<M> { Box::new(move |m| set(m, value.clone())) };
    values.into_iter().map(change).collect()
}

fn opens() -> Vec<Change<Open>> {
    [
        each(NUMBERS, |m: &mut Open, v| m.generation = v),
        each(NUMBERS, |m, v| m.branch = v),
        each([0, 1, u64::MAX - 1, u64::MAX], |m, v| m.seed = v),
        each(lists(), |m, v| m.tokens = v),
        each([[0; 16], [255; 16]], |m, v| m.session = SessionId(v)),
        each(FLOATS, |m, v| m.sampling.temperature = v),
        each(FLOATS, |m, v| (m.sampling.temperature, m.sampling.top_p) = (1.0, v)),
        each(FLOATS, |m, v| (m.sampling.temperature, m.sampling.min_p) = (1.0, v)),
        each(FLOATS, |m, v| (m.sampling.temperature, m.sampling.repetition_penalty) = (1.0, v)),
        each(NUMBERS, |m, v| (m.sampling.temperature, m.sampling.top_k) = (1.0, v)),
        each(NUMBERS, |m, v| {
            (m.sampling.repetition_penalty, m.sampling.penalty_window) = (1.5, v);
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn drafts() -> Vec<Change<Draft>> {
    let beside = [(0, 70), (2, 70), (3, 70), (255, 70), (0, u32::MAX), (0, BROKEN)];
    let beside = beside.map(|(at, id)| vec![Alternative { at, id: TokenId(id) }; 1]);
    let twice = vec![Alternative { at: 0, id: TokenId(70) }; 2];
    let many = vec![Alternative { at: 0, id: TokenId(70) }; MANY];
    [
        each(NUMBERS, |m: &mut Draft, v| m.generation = v),
        each(NUMBERS, |m, v| m.round = v),
        each(NUMBERS, |m, v| m.prefix_len = v),
        each(NUMBERS, |m, v| m.branch = v),
        each(lists(), |m, v| m.committed = v),
        each(lists(), |m, v| (m.q, m.ids) = (vec![0.5; v.len()], v)),
        each([0, 1, 2, 4, 33, MANY], |m, n| m.q = vec![0.5; n]),
        each(FLOATS, |m, v| m.q = vec![v; 3]),
        each(beside.into_iter().chain([twice, many]), |m, v| m.alternatives = v),
        each([true, false], |m, v| m.open = v),
        each([0, 1], |m, n| {
            m.ids.truncate(n);
            m.q.truncate(n);
            m.open = true;
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn streams() -> Vec<Change<Stream>> {
    [
        each(NUMBERS, |m: &mut Stream, v| m.generation = v),
        each(NUMBERS, |m, v| m.round = v),
        each(NUMBERS, |m, v| m.prefix_len = v),
        each(NUMBERS, |m, v| m.max_tokens = v),
        each(lists(), |m, v| m.committed = v),
        each([true, false], |m, v| m.drafts = v),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn hellos() -> Vec<Change<Hello>> {
    let names = || [0, 1, 1024, 1025, MANY].map(|n| "\u{7f}".repeat(n));
    [
        each([0, 1, u16::MAX - 1, u16::MAX], |m: &mut Hello, v| m.protocol = v),
        each(names(), |m, v| m.app_version = v),
        each(names(), |m, v| m.drafter = v),
        each(names(), |m, v| m.model = Some(v)),
        each([[0; 32], [255; 32]], |m, v| m.tokenizer = v),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn an_open(number: u32) -> Open {
    let mut session = [7; 16];
    session[..4].copy_from_slice(&number.to_le_bytes());
    let (session, tokens) = (SessionId(session), ids(60..60 + PROMPT));
    Open { session, generation: 1, tokens, sampling: Sampling::GREEDY, seed: 3, branch: 0 }
}

fn a_draft() -> Draft {
    let ids = vec![TokenId(65), TokenId(66), TokenId(67)];
    Draft {
        generation: 1,
        round: 0,
        prefix_len: PROMPT,
        committed: Vec::new(),
        q: vec![0.5; ids.len()],
        ids,
        alternatives: Vec::new(),
        branch: 0,
        open: false,
    }
}

fn a_stream() -> Stream {
    let (committed, max_tokens, drafts) = (Vec::new(), 3, true);
    Stream { generation: 1, round: 0, prefix_len: PROMPT, committed, max_tokens, drafts }
}

fn changed<M>(mut message: M, change: &Change<M>) -> M {
    change(&mut message);
    message
}

/// What is sent on each connection: a change, and what an honest device would send around it.
fn conversations() -> Vec<Vec<ClientMessage>> {
    let mut number = 0;
    let mut begun = || {
        number += 1;
        an_open(number)
    };
    let mut all = Vec::new();
    for change in opens() {
        let open = changed(begun(), &change);
        let prefix_len = open.tokens.len() as u32;
        let (generation, branch) = (open.generation, open.branch);
        let draft = Draft { generation, branch, prefix_len, ..a_draft() };
        let stream = Stream { generation, prefix_len, ..a_stream() };
        // A round that brings a token counts the branch on.
        all.push(vec![ClientMessage::Open(open.clone()), ClientMessage::Draft(draft)]);
        all.push(vec![ClientMessage::Open(open), ClientMessage::Stream(stream)]);
    }
    for change in drafts() {
        let (open, first) = (begun(), changed(a_draft(), &change));
        let next = Draft { round: first.round.saturating_add(1), ..first.clone() };
        let more = More { generation: 1, round: first.round, asked: 1 };
        all.push(vec![
            ClientMessage::Open(open),
            ClientMessage::Draft(first),
            ClientMessage::More(more),
            ClientMessage::Draft(next),
        ]);
    }
    for change in streams() {
        let stream = changed(a_stream(), &change);
        all.push(vec![ClientMessage::Open(begun()), ClientMessage::Stream(stream)]);
    }
    for round in NUMBERS {
        for asked in [0, 1, 2, 3, u8::MAX] {
            let more = More { generation: 1, round, asked };
            let first = ClientMessage::Draft(a_draft());
            all.push(vec![ClientMessage::Open(begun()), first, ClientMessage::More(more)]);
        }
    }
    for generation in NUMBERS {
        let cancel = ClientMessage::Cancel { generation };
        all.push(vec![ClientMessage::Open(begun()), cancel, ClientMessage::Stream(a_stream())]);
    }
    for session in [[0; 16], [255; 16], begun().session.0] {
        let close = ClientMessage::Close { session: SessionId(session) };
        all.push(vec![ClientMessage::Open(begun()), close, ClientMessage::Stream(a_stream())]);
    }
    all
}

/// The other device's tokens are undisturbed, memory stays within its limit, and nothing panics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_extreme_of_every_field_harms_only_its_sender() {
    let verifier = verifier();
    let drafter = files()[1].to_str().expect("a path");
    let more = ["--kv-memory", "4", "--max-sessions", "16", "--drafter", drafter];
    let program = Arc::new(Program::start(&files()[0], "extremes", &more));
    let at = program.address;
    let text = ids(80..110);
    let alone = told(at, greeting(&verifier), 1, &text, 500).await;
    let before = program.peak();
    let over = Arc::new(AtomicBool::new(false));
    let honest = tokio::spawn({
        let (hello, text, over) = (greeting(&verifier), text.clone(), Arc::clone(&over));
        let alone = alone.clone();
        async move {
            let (mut raw, mut tokens) = (Raw::connect(at, None, hello).await, 0);
            for generation in 1.. {
                let open = Open { generation, tokens: text.clone(), ..an_open(u32::MAX) };
                raw.send(&ClientMessage::Open(open)).await;
                raw.send(&stream(generation, 0, text.len(), 500)).await;
                assert_eq!(written(&mut raw, 500).await, alone, "disturbed");
                tokens += alone.len();
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
            tokens
        }
    });
    let conversations = conversations();
    let count = conversations.len();
    for messages in conversations {
        let mut raw = Raw::connect(at, None, greeting(&verifier)).await;
        for message in &messages {
            raw.send(message).await;
        }
        while raw.within(Duration::from_millis(10)).await.is_some() {}
        let held = program.figure("kv_cache_bytes").await;
        assert!(held <= 4 << 20, "{held} bytes");
    }
    for change in hellos() {
        let mut raw = Raw::open(at, None).await;
        raw.send(&ClientMessage::Hello(changed(greeting(&verifier), &change))).await;
        raw.within(Duration::from_millis(50)).await;
        raw.send(&ClientMessage::Open(an_open(0))).await;
        raw.within(Duration::from_millis(10)).await;
    }
    over.store(true, Ordering::Relaxed);
    let tokens = honest.await.expect("the honest device");
    assert!(count > 400 && tokens > 0, "{count} conversations beside {tokens} tokens");
    let said = program.said();
    assert!(!said.contains("panicked"), "{said}");
    if let (Some(before), Some(after)) = (before, program.peak()) {
        assert!(after < before + 100, "{before} MiB, then {after}");
    }
    assert_eq!(told(at, greeting(&verifier), 2, &text, 500).await, alone);
}
