//! The device's state acts while an answer is written: less drafts, none, no drafter at all; another
//! network. The text stays the verifier's own.

use crate::{ALONE, PROMPTS, linked};
use std::time::{Duration, Instant};
use tandem_device::policy::{Advice, Reason, SHORT};
use tandem_device::{Ahead, Drafter, Gamma, Link, LinkState, Mode, RoundRecord, new_session};
use tandem_edge::Edge;
use tandem_inference::LoadOptions;
use tandem_protocol::MAX_IN_FLIGHT;
use tandem_tests::{OTHER, VERIFIER, answer, drafter, edge, file, link, model, request};
use tokio::net::TcpListener;
use tokio::sync::MutexGuard;

const SHORTER: Advice = Advice::Short(Reason::Heat);
const STREAM: Advice = Advice::Stream(Reason::Battery);
const FEW_MEMORY: Advice = Advice::Stream(Reason::Memory);

/// A small model on both sides: where acceptance does not matter it is fast.
async fn small() -> (Drafter, Edge, Link, MutexGuard<'static, ()>) {
    let alone = ALONE.lock().await;
    let drafter = drafter(OTHER).await;
    let edge = edge(&model(OTHER), 0).await;
    let link = link(&drafter, edge.address());
    (drafter, edge, link, alone)
}

/// The rounds with this advice that began when those before it were not on their way any more.
fn settled(rounds: &[(Advice, RoundRecord)], advice: Advice) -> Vec<&RoundRecord> {
    let with = rounds.iter().filter(|(followed, _)| *followed == advice);
    with.skip(MAX_IN_FLIGHT + 1).map(|(_, round)| round).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn advice_acts_in_the_middle_and_the_text_stays_the_verifiers() {
    let (drafter, edge, link, _alone) = linked(VERIFIER).await;
    let prompt = PROMPTS[7];
    let mut wanted = request(&drafter, prompt, Mode::Edge, 1);
    wanted.max_tokens = 72;
    let (alone, ..) = answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
    wanted.gamma = Gamma::Fixed(6);
    for (mode, ahead) in [(Mode::Auto, Ahead::No), (Mode::Dssd, Ahead::Yes)] {
        (wanted.mode, wanted.ahead, wanted.session) = (mode, ahead, new_session());
        let mut rounds: Vec<(Advice, RoundRecord)> = Vec::new();
        let mut now = Advice::Draft;
        let (text, ..) = answer(&drafter, Some(&link), &wanted, |round| {
            rounds.push((now, round.clone()));
            now = match rounds.len() {
                n if n < 4 => Advice::Draft,
                n if n < 12 => SHORTER,
                n if n < 20 => STREAM,
                _ => Advice::Draft,
            };
            drafter.advise(now);
        })
        .await
        .expect("an answer");
        assert_eq!(text.tokens, alone.tokens, "{mode:?} {ahead:?}");
        let short = settled(&rounds, SHORTER);
        assert!(
            !short.is_empty() && short.iter().all(|r| r.drafted as usize <= SHORT),
            "{short:?}"
        );
        assert!(short.iter().all(|r| r.scheme != "ahead"), "{short:?}");
        let stream = settled(&rounds, STREAM);
        assert!(!stream.is_empty() && stream.iter().all(|r| r.mode == "edge"), "{stream:?}");
        let why: Vec<&str> = rounds.iter().filter_map(|(_, r)| r.decision.as_deref()).collect();
        let says = |end: &str| why.iter().any(|decision| decision.ends_with(end));
        assert!(says(" heat") && says("stream battery") && says(" recovered"), "{why:?}");
        if mode == Mode::Dssd {
            let after = rounds.rsplit(|(followed, _)| *followed == STREAM).next();
            let again = after.is_some_and(|r| r.iter().any(|(_, r)| r.drafted as usize > SHORT));
            assert!(again, "it drafts again: {after:?}");
        }
    }
    edge.stop().await;
}

/// The drafter is the verifier, so nothing is ever rejected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drafting_ahead_ends_without_a_rejection() {
    let (drafter, edge, link, _alone) = small().await;
    let mut wanted = request(&drafter, PROMPTS[1], Mode::Edge, 1);
    let (alone, ..) = answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
    (wanted.mode, wanted.ahead, wanted.gamma) = (Mode::Dssd, Ahead::Yes, Gamma::Fixed(2));
    for advice in [SHORTER, STREAM] {
        wanted.session = new_session();
        let (text, rounds, _) = answer(&drafter, Some(&link), &wanted, |round| {
            if round.round == 3 {
                drafter.advise(advice);
            }
        })
        .await
        .expect("an answer");
        drafter.advise(Advice::Draft);
        assert_eq!(text.tokens, alone.tokens);
        let (before, after) = rounds.split_at(4);
        assert!(before.iter().all(|r| r.outcome == "continue"), "{before:?}");
        let after: Vec<_> = after.iter().skip(MAX_IN_FLIGHT + 1).map(|r| r.scheme).collect();
        let scheme = if advice == STREAM { "stream" } else { "dssd" };
        assert!(!after.is_empty() && after.iter().all(|s| *s == scheme), "{advice:?}: {after:?}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drafter_is_given_back_in_the_middle_and_comes_again() {
    let (drafter, edge, link, _alone) = small().await;
    let mut wanted = request(&drafter, PROMPTS[1], Mode::Edge, 1);
    let (alone, ..) = answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
    (wanted.mode, wanted.gamma, wanted.session) = (Mode::Dssd, Gamma::Fixed(4), new_session());
    let (text, rounds, _) = answer(&drafter, Some(&link), &wanted, |round| {
        if round.round == 3 {
            drafter.advise(FEW_MEMORY);
        }
    })
    .await
    .expect("an answer");
    assert_eq!(text.tokens, alone.tokens);
    assert!(!drafter.is_loaded(), "its memory is given back");
    assert!(rounds[..4].iter().all(|r| r.mode == "dssd"));
    assert!(rounds.len() > 8 && rounds[4..].iter().all(|r| r.mode == "edge"));
    assert_eq!(rounds[4].decision.as_deref(), Some("stream memory"));
    // The same conversation again, whose cache went with the weights.
    drafter.advise(Advice::Draft);
    drafter.loaded().await.expect("weights");
    let (text, rounds, _) =
        answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
    assert_eq!(text.tokens, alone.tokens);
    assert!(rounds.iter().all(|r| r.mode == "dssd"), "it drafts again");
    // Without an edge there is nobody else to write, so it is loaded again for that.
    let mut own = request(&drafter, PROMPTS[1], Mode::Device, 1);
    own.max_tokens = 12;
    let (first, ..) = answer(&drafter, None, &own, |_| {}).await.expect("an answer");
    drafter.advise(FEW_MEMORY);
    let (second, ..) = answer(&drafter, None, &own, |_| {}).await.expect("an answer");
    assert_eq!(first.tokens, second.tokens);
    assert!(drafter.is_loaded() && drafter.is_given_back());

    // One that never fitted: the edge writes, and the weights stay where they are.
    let outline = Drafter::open(file(OTHER), LoadOptions::default(), 4096).await.expect("a file");
    assert_eq!(outline.tokenizer().fingerprint(), drafter.tokenizer().fingerprint());
    let other = Link::start(edge.address().to_string().parse().expect("one"), outline.hello());
    wanted.session = new_session();
    let (text, rounds, _) =
        answer(&outline, Some(&other), &wanted, |_| {}).await.expect("an answer");
    assert_eq!(text.tokens, alone.tokens);
    assert!(rounds.iter().all(|r| r.mode == "edge") && !outline.is_loaded());
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_network_is_a_new_connection_at_once_and_the_same_text() {
    let (drafter, edge, link, _alone) = small().await;
    let epoch = |link: &Link| match &*link.state().borrow() {
        LinkState::Connected { epoch, .. } => *epoch,
        state => panic!("{state:?}"),
    };
    for mode in [Mode::Edge, Mode::Dssd] {
        let mut wanted = request(&drafter, PROMPTS[0], mode, 3);
        let (alone, ..) = answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
        let before = epoch(&link);
        wanted.session = new_session();
        let (text, ..) = answer(&drafter, Some(&link), &wanted, |round| {
            if round.round % 4 == 2 {
                link.reconnect();
            }
        })
        .await
        .expect("an answer");
        assert_eq!(text.tokens, alone.tokens, "{mode:?}");
        link.connected(Duration::from_secs(10)).await.expect("a connection");
        assert!(epoch(&link) > before + 1, "{mode:?}: {} and {before}", epoch(&link));
    }
    // At once: not after the pause that follows a loss, of 80 ms at least.
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let (before, start) = (epoch(&link), Instant::now());
        link.reconnect();
        let anew =
            |s: &LinkState| matches!(s, LinkState::Connected { epoch, .. } if *epoch > before);
        link.state().wait_for(anew).await.expect("a connection");
        fastest = fastest.min(start.elapsed());
    }
    assert!(fastest < Duration::from_millis(70), "{fastest:?}");
    edge.stop().await;

    // Nobody answers there: waits grow, and a sign of a new network ends them.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("its address").to_string();
    let link = Link::start(address.parse().expect("an address"), drafter.hello());
    for _ in 0..5 {
        drop(silent.accept().await.expect("an attempt"));
    }
    let start = Instant::now();
    for _ in 0..4 {
        link.reconnect();
        drop(silent.accept().await.expect("an attempt"));
        // The attempt ends, and the wait after it begins.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // By the waits alone it would be 1.3, 2.5, 4 and 4 seconds at least.
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}
