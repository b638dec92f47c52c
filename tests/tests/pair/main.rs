//! The default pair: exact at temperature 0 for every draft length, also when the edge is lost.

mod advice;

use std::time::Duration;
use tandem_device::{Ahead, DraftRequest, Drafter, Gamma, Link, Mode, Request, new_session};
use tandem_edge::Edge;
use tandem_speculation::{DraftStop, Randomness, RoundTimes, Sampling, Source, Way};
use tandem_tests::{DRAFTER, OTHER, VERIFIER, answer, config, drafter, edge, link, model, request};
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// One test at a time: times are measured here, and each computes on all cores.
static ALONE: Mutex<()> = Mutex::const_new(());

/// The drafter, an edge with this verifier, and the link between them, as long as no other test runs.
async fn linked(verifier: &str) -> (Drafter, Edge, Link, MutexGuard<'static, ()>) {
    let alone = ALONE.lock().await;
    let drafter = drafter(DRAFTER).await;
    let edge = edge(&model(verifier), 0).await;
    let link = link(&drafter, edge.address());
    (drafter, edge, link, alone)
}

const PROMPTS: [&str; 8] = [
    "Write a haiku about rain.",
    "Explain in three sentences why the sky is blue.",
    "Write a Python function that reverses a linked list.",
    "What is 17 * 23? Show the steps.",
    "Translate to French: The train leaves at noon and I am late.",
    "List five things to take on a mountain hike.",
    "Who was Ada Lovelace, and what is she known for?",
    "Give me a short recipe for tomato soup.",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greedy_answers_are_the_verifiers_own() {
    let (drafter, edge, link, _alone) = linked(VERIFIER).await;
    let (mut tested, mut accepted, mut beyond) = (0, 0, Vec::new());
    for prompt in PROMPTS {
        let alone = request(&drafter, prompt, Mode::Edge, 1);
        let (alone, ..) = answer(&drafter, Some(&link), &alone, |_| {}).await.expect("an answer");
        for gamma in [1, 4, 8] {
            let split = request(&drafter, prompt, Mode::Dssd, gamma);
            let (split, rounds, _) =
                answer(&drafter, Some(&link), &split, |_| {}).await.expect("an answer");
            assert_eq!(split.tokens, alone.tokens, "γ {gamma}: {prompt}");
            for r in &rounds {
                tested += r.drafted - r.ignored;
                accepted += r.accepted;
                let (up, down) = (r.uplink_bytes, r.downlink_bytes);
                assert!(up <= u64::from(8 * r.drafted + 32), "{up} bytes up");
                assert!(down <= 64 || r.round == 0, "{down} bytes down");
                if r.round > 0 {
                    beyond.push(r.rtt_ms - r.queue_ms - r.verify_ms);
                }
            }
        }
    }
    beyond.sort_by(f64::total_cmp);
    let median = beyond[beyond.len() / 2];
    let rate = f64::from(accepted) / f64::from(tested);
    eprintln!("acceptance {rate:.3}; round beyond the edge's own time: median {median:.2} ms");
    assert!((0.68..0.90).contains(&rate), "acceptance {rate}");
    assert!(median < 2.0, "{median} ms");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_conversation_is_answered_as_a_new_one_would_be() {
    let (drafter, edge, link, _alone) = linked(VERIFIER).await;
    let mut session = new_session();
    let mut answers = Vec::new();
    // The second question differs in one token of its middle from what both sides have in memory.
    for (country, new) in [("France", true), ("Italy", false), ("Italy", true)] {
        if new {
            session = new_session();
        }
        let question = format!("Which city is the capital of {country}? Answer in one sentence.");
        let asked = request(&drafter, &question, Mode::Edge, 1);
        let asked = Request { session, max_tokens: 12, ..asked };
        let (answer, _, text) = answer(&drafter, Some(&link), &asked, |_| {}).await.unwrap();
        let draft = DraftRequest {
            session,
            tokens: asked.prompt,
            stop: DraftStop::fixed(12),
            until: None,
            sampling: asked.sampling,
            randomness: Randomness::new(1),
            branch: 0,
        };
        let drafted = drafter.draft(draft, &CancellationToken::new()).await.unwrap();
        answers.push((answer.tokens, drafted.ids, text));
    }
    assert!(answers[0].2.contains("Paris") && answers[2].2.contains("Rome"), "{answers:?}");
    assert_eq!(answers[1], answers[2]);
    edge.stop().await;
}

/// Random numbers belong to places of the text, so drafting ahead gives the same text for a seed
/// however it was cut, at every temperature; and at temperature 0 it is the verifier's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drafting_ahead_gives_one_text_for_a_seed_and_the_verifiers_own_at_zero() {
    let (drafter, edge, link, _alone) = linked(VERIFIER).await;
    let plain = Sampling { temperature: 1.0, ..Sampling::GREEDY };
    let (mut void, mut went_on) = (0, 0);
    for (sampling, prompts) in [
        (Sampling::GREEDY, &PROMPTS[..4]),
        (Sampling::default(), &PROMPTS[4..6]),
        (plain, &PROMPTS[6..]),
    ] {
        for prompt in prompts {
            let mut wanted = request(&drafter, prompt, Mode::Edge, 1);
            wanted.sampling = sampling;
            wanted.max_tokens = 48;
            let (alone, ..) =
                answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
            (wanted.mode, wanted.ahead) = (Mode::Dssd, Ahead::Yes);
            let mut texts = Vec::new();
            for gamma in [1, 3, 7] {
                wanted.gamma = Gamma::Fixed(gamma);
                let (text, rounds, _) =
                    answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
                void += rounds.iter().map(|r| r.drafted.saturating_sub(gamma as u32)).sum::<u32>();
                went_on += rounds.iter().filter(|r| r.outcome == "continue").count();
                let known: usize = rounds.iter().map(|r| r.tokens.len()).sum();
                assert_eq!(known, text.tokens.len());
                texts.push(text.tokens);
            }
            assert!(texts.iter().all(|t| *t == texts[0]), "{sampling:?}: {prompt}");
            if sampling == Sampling::GREEDY {
                assert_eq!(texts[0], alone.tokens, "{prompt}");
            }
        }
    }
    assert!(void > 20 && went_on > 20, "{void} void drafts, {went_on} that went on");
    edge.stop().await;
}

/// Auto mode is made to change its way again and again, by figures that make the present one look
/// bad: from each way to each other one, in the middle of streams and after corrections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_mode_changes_its_way_in_the_middle_and_the_text_stays_the_verifiers() {
    let (drafter, edge, link, _alone) = linked(VERIFIER).await;
    let mut changes = std::collections::BTreeSet::new();
    for prompt in &PROMPTS[..4] {
        let mut wanted = request(&drafter, prompt, Mode::Edge, 3);
        let (alone, ..) = answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
        wanted.mode = Mode::Auto;
        wanted.session = new_session();
        let mut turn = changes.len();
        let (text, rounds, _) = answer(&drafter, Some(&link), &wanted, |round| {
            turn += 1;
            if turn.is_multiple_of(3) {
                lie(&link, turn, round.scheme);
            }
        })
        .await
        .expect("an answer");
        assert_eq!(text.tokens, alone.tokens, "{prompt}");
        assert_eq!(rounds.iter().map(|r| r.tokens.len()).sum::<usize>(), text.tokens.len());
        for pair in rounds.windows(2).filter(|pair| pair[0].scheme != pair[1].scheme) {
            let why = pair[1].decision.as_deref().expect("a change says why");
            let to = ["stream", "turns", "ahead"].into_iter().find(|way| why.starts_with(way));
            let scheme = to.map(|way| if way == "turns" { "dssd" } else { way });
            assert_eq!(scheme, Some(pair[1].scheme), "{why}");
            changes.insert((pair[0].scheme, pair[1].scheme));
        }
    }
    eprintln!("changes: {changes:?}");
    assert!(changes.len() >= 4, "too few kinds of change: {changes:?}");
    edge.stop().await;
}

/// An answer that repeats most of the question.
const EDIT: &str = "Rename the variable `total` to `sum_of_squares` in this function and give the \
    whole function again, twice:\n\ndef squares(values):\n    total = 0\n    for value in values:\n        \
    if value > 0:\n            total += value * value\n    return total";

/// Drafts that end where the drafter is unsure, that leave at the edge's pace, and that are looked up
/// in the text: the text stays the verifier's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn free_draft_lengths_and_looked_up_drafts_give_the_verifiers_own_text() {
    let (drafter, edge, link, _alone) = linked(VERIFIER).await;
    let mut looked_up = 0;
    for ahead in [Ahead::No, Ahead::Yes] {
        let mut lengths = std::collections::BTreeSet::new();
        for prompt in [PROMPTS[0], PROMPTS[2], EDIT] {
            let mut wanted = request(&drafter, prompt, Mode::Edge, 1);
            // An edit says everything twice.
            wanted.max_tokens = if prompt == EDIT { 160 } else { 100 };
            let (alone, ..) =
                answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
            (wanted.mode, wanted.gamma, wanted.ahead) = (Mode::Dssd, Gamma::Auto, ahead);
            let (split, rounds, _) =
                answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
            assert_eq!(split.tokens, alone.tokens, "{prompt}");
            for r in rounds {
                lengths.insert(r.gamma);
                if r.scheme == "lookup" {
                    looked_up += r.accepted;
                }
            }
        }
        eprintln!("{ahead:?}: draft lengths {lengths:?}, {looked_up} looked-up tokens accepted");
        assert!(lengths.len() > 2, "{lengths:?}");
    }
    // Where a look-up is better depends on the machine, but in an edit it sometimes is.
    assert!(looked_up > 0, "none was accepted");
    edge.stop().await;
}

/// An edge with a drafter of its own: with drafts made there, and with changes between them and the
/// device's in the middle of the answer, the text is the verifier's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_drafts_for_itself_writes_the_verifiers_own_text() {
    let _alone = ALONE.lock().await;
    let drafter = drafter(DRAFTER).await;
    let mut config = config(([127, 0, 0, 1], 0).into());
    config.drafter = Some(model(DRAFTER));
    let edge = Edge::start(model(VERIFIER), config).await.expect("an edge");
    let link = link(&drafter, edge.address());
    let (mut rounds_there, mut tokens_there, mut changes) = (0, 0, 0);
    for (n, prompt) in PROMPTS[..4].iter().enumerate() {
        let mut wanted = request(&drafter, prompt, Mode::Edge, 3);
        let (alone, ..) = answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
        (wanted.mode, wanted.session) = (Mode::Auto, new_session());
        prefer(&link, Way::Colocated);
        let mut turn = 0;
        let (text, rounds, _) = answer(&drafter, Some(&link), &wanted, |round| {
            turn += 1;
            // The first two answers stay there.
            if n >= 2 && turn % 3 == 0 {
                let there = round.scheme == "colocated";
                prefer(&link, if there { Way::Turns } else { Way::Colocated });
            }
        })
        .await
        .expect("an answer");
        assert_eq!(text.tokens, alone.tokens, "{prompt}");
        assert_eq!(rounds.iter().map(|r| r.tokens.len()).sum::<usize>(), text.tokens.len());
        changes += rounds.windows(2).filter(|p| p[0].scheme != p[1].scheme).count();
        let there = rounds.iter().filter(|r| r.scheme == "colocated");
        for round in there.filter(|_| n < 2) {
            rounds_there += 1;
            tokens_there += round.tokens.len();
            assert!(round.accepted <= round.drafted && round.mode == "edge", "{round:?}");
        }
    }
    let each = tokens_there as f64 / f64::from(rounds_there);
    eprintln!("{each:.2} tokens a round of the edge alone, {changes} changes");
    // Drafting is not cheap on the machine that verifies, so drafts are short here.
    assert!(each > 1.3, "{tokens_there} tokens in {rounds_there} rounds");
    assert!(changes > 4, "{changes}");
    edge.stop().await;
}

/// A drafter of another family is refused before it can do harm.
#[tokio::test]
async fn an_edge_refuses_a_drafter_that_does_not_fit() {
    let mut config = config(([127, 0, 0, 1], 0).into());
    config.drafter = Some(model(OTHER));
    let error = Edge::start(model(DRAFTER), config).await.err().expect("an error").to_string();
    assert!(["smollm2", "qwen2.5"].iter().all(|m| error.to_lowercase().contains(m)), "{error}");
}

/// Tells the link's planner that one way is fast and all others are slow.
fn prefer(link: &Link, fast: Way) {
    let mut planner = link.planner().lock().expect("a planner");
    for way in [Way::Stream, Way::Turns, Way::Ahead, Way::Colocated] {
        let ms = if way == fast { 0.01 } else { 1e4 };
        for _ in 0..300 {
            // The edge is quick, and what takes long is elsewhere.
            let times = RoundTimes { draft_ms: ms, round_trip_ms: ms + 0.01, verify_ms: 0.01 };
            match way {
                Way::Stream => planner.streamed(Some(ms)),
                Way::Colocated => planner.written(3, 3, 4, Some(ms)),
                way => planner.drafted(way, Source::model(&[0.9; 3]), 3, times, 4, Some(ms)),
            }
        }
    }
}

/// Tells the link's planner that the present way is slow and one of the others is fast.
fn lie(link: &Link, turn: usize, now: &str) {
    let mut planner = link.planner().lock().expect("a planner");
    let ways = [("stream", Way::Stream), ("dssd", Way::Turns), ("ahead", Way::Ahead)];
    let others: Vec<Way> = ways.into_iter().filter(|w| w.0 != now).map(|w| w.1).collect();
    let fast = others[turn / 3 % 2];
    for (_, way) in ways {
        let ms = if way == fast { 0.01 } else { 1e4 };
        for _ in 0..400 {
            let times = RoundTimes { draft_ms: ms, round_trip_ms: 2.0 * ms, verify_ms: ms };
            match way {
                Way::Stream => planner.streamed(Some(ms)),
                way => planner.drafted(way, Source::model(&[0.9; 3]), 3, times, 4, Some(ms)),
            }
        }
    }
}

/// Second choices beside unsure tokens: the text stays the verifier's own, and some bring a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alternatives_bring_tokens_and_change_no_text() {
    let (drafter, edge, link, _alone) = linked(VERIFIER).await;
    for ahead in [Ahead::No, Ahead::Yes] {
        let (mut sent, mut right) = (0, 0);
        for prompt in &PROMPTS[..4] {
            let alone = request(&drafter, prompt, Mode::Edge, 1);
            let (alone, ..) = answer(&drafter, Some(&link), &alone, |_| {}).await.expect("tokens");
            // As if further rows cost nothing, until these rounds have told otherwise.
            for (i, n) in [3, 5].into_iter().cycle().take(200).enumerate() {
                let times = RoundTimes { draft_ms: 200.0, round_trip_ms: 900.0, verify_ms: 900.0 };
                let way = if i < 100 { Way::Turns } else { Way::Ahead };
                let mut planner = link.planner().lock().expect("a planner");
                planner.drafted(way, Source::model(&[0.7; 5][..n]), 2, times, 3, Some(1100.0));
            }
            let mut wanted = request(&drafter, prompt, Mode::Dssd, 1);
            (wanted.gamma, wanted.ahead) = (Gamma::Auto, ahead);
            let (split, rounds, _) =
                answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
            assert_eq!(split.tokens, alone.tokens, "{ahead:?}: {prompt}");
            for r in &rounds {
                let own = u32::from(r.outcome != "continue");
                let given = r.tokens.len() as u32;
                assert!(given <= r.accepted + own + r.followed, "{r:?}");
                assert!(r.followed <= r.alternatives.min(1), "{r:?}");
                sent += r.alternatives;
                right += r.followed;
            }
        }
        eprintln!("{ahead:?}: {sent} alternatives, {right} right");
        assert!(right > 5 && right < sent, "{right} of {sent}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampled_answers_cost_few_bytes() {
    let (drafter, edge, link, _alone) = linked(VERIFIER).await;
    let plain = Sampling { temperature: 1.0, ..Sampling::GREEDY };
    for (sampling, most, form) in [(Sampling::default(), 64.0, "sparse"), (plain, 400.0, "sampled")]
    {
        let (mut rounds, mut down, mut forms) = (0.0, 0.0, Vec::new());
        for prompt in &PROMPTS[..6] {
            let mut wanted = request(&drafter, prompt, Mode::Dssd, 4);
            wanted.sampling = sampling;
            let (_, records, _) =
                answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");
            for r in &records {
                // A request for more samples has its own frame.
                let more = if r.outcome == "full" { 16 } else { 8 };
                let up = u64::from(8 * r.drafted + 32) + more;
                assert!(r.uplink_bytes <= up, "{r:?}");
                rounds += 1.0;
                down += r.downlink_bytes as f64;
                forms.push(r.outcome);
            }
        }
        let mean = down / rounds;
        eprintln!("temperature {}: {mean:.0} bytes down a round", sampling.temperature);
        assert!(mean < most, "{mean} bytes down a round");
        assert!(forms.contains(&form), "no {form} answer was seen");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_is_stopped_and_started_again_goes_on_with_the_same_text() {
    let _alone = ALONE.lock().await;
    let verifier = model(VERIFIER);
    let drafter = drafter(DRAFTER).await;
    for (mode, sampling, ahead) in [
        (Mode::Dssd, Sampling::GREEDY, Ahead::No),
        (Mode::Dssd, Sampling::default(), Ahead::No),
        (Mode::Dssd, Sampling::default(), Ahead::Yes),
        (Mode::Edge, Sampling::GREEDY, Ahead::No),
    ] {
        let mut wanted = request(&drafter, PROMPTS[1], mode, 4);
        (wanted.sampling, wanted.ahead) = (sampling, ahead);
        wanted.max_tokens = 40;
        let reference = edge(&verifier, 0).await;
        let other = link(&drafter, reference.address());
        let (whole, ..) = answer(&drafter, Some(&other), &wanted, |_| {}).await.expect("an answer");
        reference.stop().await;
        let (sender, mut third) = tokio::sync::mpsc::unbounded_channel();
        let broken = edge(&verifier, 0).await;
        let port = broken.address().port();
        let mine = link(&drafter, broken.address());
        let again = std::sync::Arc::clone(&verifier);
        let restart = tokio::spawn(async move {
            third.recv().await;
            broken.stop().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            edge(&again, port).await
        });
        wanted.session = new_session();
        let (resumed, ..) = answer(&drafter, Some(&mine), &wanted, |r| {
            if r.round == 3 {
                let _ = sender.send(());
            }
        })
        .await
        .expect("an answer that goes on");
        assert_eq!(resumed.tokens, whole.tokens, "{mode:?}");
        restart.await.expect("the second edge").stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_of_two_families_are_refused_by_name() {
    let (_drafter, edge, link, _alone) = linked(OTHER).await;
    let refusal = link.connected(Duration::from_secs(5)).await.expect_err("a refusal");
    assert!(refusal.contains("SmolLM2") && refusal.contains("qwen2.5-coder-0.5b"), "{refusal}");
    assert!(refusal.contains("choose a drafter"), "{refusal}");
    edge.stop().await;
}
