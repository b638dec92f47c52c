//! Memory is reserved before it is used: the gauge never passes the limit, and a step has a budget of rows.

use crate::raw::{Raw, draft, greeting, open, stream};
use crate::{Program, files, ids, told, verifier};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tandem_inference::Model;
use tandem_protocol::{ClientMessage, ErrorCode, MAX_DRAFT, ServerMessage};
use tandem_speculation::{Alternative, Sampling, TokenId};
use tandem_tests::{OTHER, file, model};

/// The highest of a figure, looked at again and again.
fn watch(program: &Arc<Program>, name: &'static str) -> (Arc<AtomicU64>, Arc<AtomicBool>) {
    let (highest, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (program, seen, ended) = (Arc::clone(program), Arc::clone(&highest), Arc::clone(&over));
    tokio::spawn(async move {
        while !ended.load(Ordering::Relaxed) {
            seen.fetch_max(program.figure(name).await, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    (highest, over)
}

/// Many long texts at once, for a quarter of which there is memory: the limit holds, and each is served
/// when it is its turn, and hears of it, with the tokens that it gets alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_texts_than_memory_wait_their_turn() {
    let verifier = verifier();
    let each = 1024 * verifier.cache_bytes_per_token();
    let limit = (8 * each).div_ceil(1 << 20).max(1);
    let context = verifier.info().max_context;
    let more = ["--kv-memory", &limit.to_string(), "--max-sessions", "64"];
    let drafter = files()[1].to_str().expect("a path").to_owned();
    let more = [&more[..], &["--drafter", &drafter]].concat();
    let program = Arc::new(Program::start(&files()[0], "turns", &more));
    let at = program.address;
    let text = |i: u32| (0..900).map(|k| TokenId(60 + (k * k + k * i) % 60)).collect::<Vec<_>>();
    let fits = (limit << 20) / (1024 * verifier.cache_bytes_per_token());
    let count = 4 * fits as u32;
    assert!((16..400).contains(&count) && context >= 1024, "{count} conversations");
    let alone = told(at, greeting(&verifier), 255, &text(1), 60).await;
    let (highest, over) = watch(&program, "kv_cache_bytes");
    let mut all = Vec::new();
    for i in 0..count {
        let (hello, text) = (greeting(&verifier), text(1 + i % 3));
        all.push(tokio::spawn(async move {
            let mut raw = Raw::connect(at, None, hello).await;
            let drafts = i % 2 == 0;
            raw.send(&open(i as u8, 1, text.clone(), Sampling::GREEDY)).await;
            let mut ask = stream(1, 0, text.len(), 60);
            let ClientMessage::Stream(stream) = &mut ask else { unreachable!() };
            stream.drafts = drafts;
            raw.send(&ask).await;
            let (mut tokens, mut places) = (Vec::new(), Vec::new());
            while tokens.len() < 60 {
                match raw.within(Duration::from_secs(60)).await.expect("an answer") {
                    ServerMessage::Waiting(waiting) => places.push(waiting.place),
                    ServerMessage::Verdict(v) => match v.correction {
                        tandem_speculation::Correction::Bonus(token) => tokens.push(token),
                        other => panic!("{other:?}"),
                    },
                    ServerMessage::Written(written) => tokens.extend(written.tokens),
                    ServerMessage::Prefill(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            (i % 3 == 0, tokens, places)
        }));
    }
    let mut waited = 0;
    for one in all {
        let (same, tokens, places) = one.await.expect("an answer");
        if same {
            assert_eq!(tokens, alone);
        }
        waited += usize::from(!places.is_empty());
    }
    over.store(true, Ordering::Relaxed);
    let highest = highest.load(Ordering::Relaxed);
    assert!(highest <= (limit << 20) as u64, "{highest} bytes of {limit} MiB");
    assert!(highest > (limit << 20) as u64 / 2, "{highest}: nothing was full");
    assert!(waited > 0, "nobody waited");
    assert!(!program.said().contains("panicked"), "{}", program.said());
}

/// One that finds no room in time is told so, and the connection stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_too_long_is_told() {
    let verifier = verifier();
    let mut wanted = tandem_tests::config(([127, 0, 0, 1], 0).into());
    (wanted.limits.sessions, wanted.limits.wait) = (1, Duration::from_secs(1));
    let edge = crate::raw::serve(&verifier, wanted).await;
    // Its device is about to send a draft, and has some seconds for it.
    let mut busy = Raw::connect(edge.address(), None, greeting(&verifier)).await;
    busy.send(&open(1, 1, ids(60..80), Sampling::GREEDY)).await;
    busy.prefill().await;
    let mut other = Raw::connect(edge.address(), None, greeting(&verifier)).await;
    other.send(&open(2, 1, ids(60..80), Sampling::GREEDY)).await;
    let first = other.within(Duration::from_secs(10)).await.expect("a word");
    assert!(matches!(first, ServerMessage::Waiting(w) if w.place == 1), "{first:?}");
    let last = other.failure().await;
    assert_eq!(last.code, ErrorCode::Busy, "{}", last.message);
    assert!(last.message.contains("try again later"), "{}", last.message);
    busy.send(&stream(1, 0, 20, 1)).await;
    busy.tokens(1).await;
    edge.stop().await;
}

/// A text that could never fit is refused at once, with what would help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_beyond_all_memory_is_refused() {
    let verifier = verifier();
    let mut wanted = tandem_tests::config(([127, 0, 0, 1], 0).into());
    wanted.limits.kv_bytes = 200 * verifier.cache_bytes_per_token();
    let edge = crate::raw::serve(&verifier, wanted).await;
    let mut raw = Raw::connect(edge.address(), None, greeting(&verifier)).await;
    raw.send(&open(1, 1, vec![TokenId(70); 300], Sampling::GREEDY)).await;
    let failure = raw.failure().await;
    assert_eq!(failure.code, ErrorCode::ContextFull);
    assert!(failure.message.contains("--kv-memory"), "{}", failure.message);
    // One that outgrows it gets what fits, and then hears the same.
    raw.send(&open(2, 2, vec![TokenId(70); 100], Sampling::GREEDY)).await;
    raw.send(&stream(2, 0, 100, 500)).await;
    assert!(raw.tokens(80).await.len() == 80);
    let failure = raw.failure().await;
    assert_eq!(failure.code, ErrorCode::ContextFull, "{}", failure.message);
    edge.stop().await;
}

/// The widest drafts that there are, of as many conversations as fit one step: their logits would take
/// 800 MB at once, and take a budget's share.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wide_rounds_take_a_bounded_step() {
    let verifier: Arc<Model> = model(OTHER);
    let program = Program::start(&file(OTHER), "rows", &["--max-sessions", "64"]);
    let at = program.address;
    let mut all = Vec::new();
    for i in 0..64 {
        let mut raw = Raw::connect(at, None, greeting(&verifier)).await;
        raw.send(&open(i, 1, ids(500..503), Sampling::GREEDY)).await;
        raw.prefill().await;
        all.push(raw);
    }
    let before = program.peak().expect("Linux says it");
    let wide: Vec<u32> = (1000..1000 + MAX_DRAFT as u32).collect();
    let mut message = draft(1, 0, 3, &[], &wide, &[1.0; MAX_DRAFT]);
    let ClientMessage::Draft(wide) = &mut message else { unreachable!() };
    let beside = |at: usize| Alternative { at: at as u8, id: TokenId(2000 + at as u32) };
    wide.alternatives = (0..MAX_DRAFT).map(beside).collect();
    for raw in &mut all {
        raw.send(&message).await;
    }
    for raw in &mut all {
        raw.verdict().await;
    }
    let after = program.peak().expect("Linux says it");
    // 256 rows of 49,152 numbers are 48 MiB, and the passes' activations come to them.
    assert!(after < before + 200, "{before} MiB, then {after}");
    let rows = 64 * (1 + 2 * MAX_DRAFT) * verifier.info().vocab * 4;
    assert!(rows >> 20 > 600, "the test is too small to see anything");
}
