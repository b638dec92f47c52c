//! What one device does harms none but itself: one sends whatever it likes to a real edge, and another's
//! text stays what it is alone, to the token.

mod extremes;
mod memory;
#[allow(dead_code)]
#[path = "../faults/model.rs"]
mod model;
#[allow(dead_code)]
#[path = "../process/mod.rs"]
mod process;
#[allow(dead_code)]
#[path = "../raw/mod.rs"]
mod raw;

use candle_core::quantized::gguf_file::Content;
use process::{Killed, started_logged};
use raw::{Raw, draft, greeting, open, stream};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use tandem_inference::{LoadOptions, Model};
use tandem_protocol::{ClientMessage, ErrorCode, Hello, ServerMessage};
use tandem_speculation::{Sampling, TokenId};
use tandem_tests::config;

/// A token that the model never says, and after which none of its numbers is one.
const BROKEN: u32 = 264;
/// What ends a text.
const END: u32 = 263;
/// Bytes of a row of the embedding: two blocks of 32 numbers.
const ROW: u64 = 2 * 34;

/// A tiny verifier, one row of whose embedding is not a number; and a drafter for it.
fn files() -> &'static [PathBuf; 2] {
    static FILES: OnceLock<[PathBuf; 2]> = OnceLock::new();
    FILES.get_or_init(|| {
        let [verifier, _, drafter] = model::write();
        let content = Content::read(&mut File::open(&verifier).expect("a file")).expect("GGUF");
        let row = content.tensor_data_offset
            + content.tensor_infos["token_embd.weight"].offset
            + u64::from(BROKEN) * ROW;
        let mut file = File::options().write(true).open(&verifier).expect("a file");
        for block in [row, row + ROW / 2] {
            file.seek(SeekFrom::Start(block)).expect("a place");
            // The block's scale, in 16 bits.
            file.write_all(&[0x00, 0x7e]).expect("written");
        }
        [verifier, drafter]
    })
}

fn verifier() -> Arc<Model> {
    Arc::new(Model::load(&files()[0], &LoadOptions::default()).expect("a good model"))
}

/// An edge as a program of its own, with its log.
struct Program {
    process: Killed,
    address: SocketAddr,
    log: PathBuf,
}

impl Program {
    fn start(model: &Path, name: &str, more: &[&str]) -> Self {
        let log = std::env::temp_dir().join(format!("tandem-{name}-{}.log", std::process::id()));
        let file = Stdio::from(File::create(&log).expect("a log"));
        let model = model.to_str().expect("a path");
        let (process, address) = started_logged(model, "127.0.0.1:0", more, file);
        Self { process, address, log }
    }

    /// The most memory that it ever had, in MiB.
    fn peak(&self) -> Option<u64> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? >> 10)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).expect("its log")
    }

    async fn figure(&self, name: &str) -> u64 {
        figure(self.address, name).await
    }
}

/// A figure of an edge.
async fn figure(at: SocketAddr, name: &str) -> u64 {
    let metrics = raw::get(at, "/metrics").await;
    let line = metrics.lines().find_map(|l| l.strip_prefix(&format!("tandem_edge_{name} ")));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{name}: {metrics}"))
}

fn ids(range: std::ops::Range<u32>) -> Vec<TokenId> {
    range.map(TokenId).collect()
}

/// An answer of so many tokens to a text, on a connection of its own.
async fn told(
    at: SocketAddr,
    hello: Hello,
    session: u8,
    text: &[TokenId],
    most: u32,
) -> Vec<TokenId> {
    let mut raw = Raw::connect(at, None, hello).await;
    raw.send(&open(session, 1, text.to_vec(), Sampling::GREEDY)).await;
    raw.send(&stream(1, 0, text.len(), most)).await;
    written(&mut raw, most).await
}

/// What comes of a stream: so many tokens, or less if the text ends.
async fn written(raw: &mut Raw, most: u32) -> Vec<TokenId> {
    let mut tokens = Vec::new();
    while tokens.len() < most as usize && tokens.last() != Some(&TokenId(END)) {
        tokens.extend(raw.tokens(1).await);
    }
    tokens
}

/// Logits that are no numbers end the conversation that has them, whatever it was about to do; its device
/// is told, its connection stays, and what others write is what they write alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_row_ends_one_conversation() {
    let verifier = verifier();
    let edge = raw::serve(&verifier, config(([127, 0, 0, 1], 0).into())).await;
    let (at, hello) = (edge.address(), || greeting(&verifier));
    let text = ids(60..80);
    let alone = told(at, hello(), 1, &text, 400).await;
    let beside = tokio::spawn({
        let (hello, text) = (hello(), text.clone());
        async move { told(at, hello, 2, &text, 400).await }
    });

    let mut raw = Raw::connect(at, None, hello()).await;
    let n = text.len();
    let mut broken = text.clone();
    broken.push(TokenId(BROKEN));
    let draft_of =
        |generation, ids: &[u32]| draft(generation, 0, n, &[], ids, &vec![1.0; ids.len()]);
    let good = alone[0].0;
    for (generation, prompt, then) in [
        (1, broken.clone(), stream(1, 0, n + 1, 5)),
        (3, text.clone(), draft_of(3, &[good, BROKEN, 70])),
        (4, broken.clone(), draft(4, 0, n + 1, &[], &[70], &[1.0])),
    ] {
        // Twice each, so that what is left of the first time is met again.
        for again in [0, 10] {
            let number = |mut message: ClientMessage| {
                match &mut message {
                    ClientMessage::Stream(m) => m.generation += again,
                    ClientMessage::Draft(m) => m.generation += again,
                    _ => unreachable!(),
                }
                message
            };
            raw.send(&open(9, generation + again, prompt.clone(), Sampling::GREEDY)).await;
            raw.send(&number(then.clone())).await;
            if generation == 3 {
                // The row after the broken token is not needed: the token itself is rejected.
                assert_eq!(raw.verdict().await.accepted, 1);
                continue;
            }
            let failure = raw.failure().await;
            assert_eq!(failure.generation, Some(generation + again));
            assert_eq!(failure.code, ErrorCode::Internal, "{}", failure.message);
            assert!(failure.message.contains("not a number"), "{}", failure.message);
        }
    }
    // The same connection and the same conversation go on.
    raw.send(&open(9, 30, text.clone(), Sampling::GREEDY)).await;
    raw.send(&stream(30, 0, n, 20)).await;
    assert_eq!(raw.tokens(20).await, alone[..20]);
    assert_eq!(beside.await.expect("the other"), alone);
    edge.stop().await;
}

/// Many answers on one connection, each drafted ahead as far as is allowed, while the edge is busy: nothing
/// of it is too much.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_may_have_on_its_way_is_answered() {
    let verifier = verifier();
    let edge = raw::serve(&verifier, config(([127, 0, 0, 1], 0).into())).await;
    let (at, hello) = (edge.address(), || greeting(&verifier));
    let text = ids(60..80);
    let alone: Vec<u32> = told(at, hello(), 1, &text, 40).await.into_iter().map(|t| t.0).collect();
    let mut raw = Raw::connect(at, None, hello()).await;
    let answers = 4;
    let mut drafts = 0;
    for generation in 1..=answers {
        raw.send(&open(generation as u8, generation, text.clone(), Sampling::GREEDY)).await;
        for (round, ids) in (0..).zip(alone.chunks(4).take(4)) {
            let prefix = text.len() + 4 * round as usize;
            let mut message = draft(generation, round, prefix, &[], ids, &[1.0; 4]);
            let ClientMessage::Draft(draft) = &mut message else { unreachable!() };
            (draft.open, draft.branch) = (true, 0);
            raw.send(&message).await;
            drafts += 1;
        }
    }
    // And more that costs nothing to answer.
    for round in 0..100 {
        raw.send(&draft(99, round, 1, &[], &[5], &[1.0])).await;
    }
    let (mut verdicts, mut unknown) = (0, 0);
    while verdicts < drafts || unknown < 100 {
        match raw.next().await {
            ServerMessage::Verdict(v) => {
                assert_eq!(v.accepted, 4);
                verdicts += 1;
            }
            ServerMessage::Error(e) => {
                assert_eq!(e.generation, Some(99), "{}", e.message);
                unknown += 1;
            }
            _ => {}
        }
    }
    edge.stop().await;
}

/// Requests with one new beginning at once: it is computed once. Also when whoever computes it leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_beginning_is_computed_once() {
    let verifier = verifier();
    let edge = raw::serve(&verifier, config(([127, 0, 0, 1], 0).into())).await;
    let (at, hello) = (edge.address(), || greeting(&verifier));
    let long = |salt: u32| (0..800).map(|i| TokenId(60 + (i * i + salt) % 60)).collect::<Vec<_>>();
    for (salt, leaves) in [(0, false), (7, true)] {
        let text = long(salt);
        let before =
            (figure(at, "prefilled_tokens_total").await, figure(at, "reused_tokens_total").await);
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(Raw::connect(at, None, hello()).await);
        }
        for (i, raw) in (0..).zip(&mut all) {
            let session = 10 * salt as u8 + i;
            raw.send(&open(session, 1, text.clone(), Sampling::GREEDY)).await;
            raw.send(&stream(1, 0, text.len(), 10)).await;
        }
        if leaves {
            let mut first = all.remove(0);
            first.prefill().await;
            drop(first);
        }
        let mut answers = Vec::new();
        for raw in &mut all {
            answers.push(written(raw, 10).await);
        }
        answers.dedup();
        assert_eq!(answers.len(), 1);
        let computed = figure(at, "prefilled_tokens_total").await - before.0;
        let reused = figure(at, "reused_tokens_total").await - before.1;
        // Pieces of the one that left are computed, and nothing twice.
        assert!((799..=810).contains(&computed), "{computed} of {} were computed", text.len());
        assert!(reused >= 2 * 790, "{reused} were taken over");
    }
    edge.stop().await;
}
