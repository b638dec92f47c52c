//! The edge against devices that it cannot trust: raw sockets, a real model, every kind of bad input.
//! What must hold each time: a clear error, no panic, and other sessions undisturbed.

mod raw;

use raw::{Raw, draft, greeting, open, refusal, serve, stream};
use std::time::Duration;
use tandem_protocol::{ClientMessage, ErrorCode, MAX_DRAFT, More, ServerMessage, encode_client};
use tandem_speculation::{Alternative, Correction, Sampling, TokenId};
use tandem_tests::{OTHER, config, model};

const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_do_not_fit_are_told_why() {
    let verifier = model(OTHER);
    let mut wanted = config(LOOPBACK.into());
    wanted.token = Some("right".into());
    let edge = serve(&verifier, wanted).await;
    let at = edge.address();

    let (status, text) = refusal(at, Some("wrong"), Some("tandem.v1"), None).await;
    assert_eq!(status, 401);
    assert!(text.contains("wants a token"), "{text}");
    let (status, _) = refusal(at, None, Some("tandem.v1"), None).await;
    assert_eq!(status, 401);
    let (status, text) = refusal(at, Some("right"), Some("tandem.v0"), None).await;
    assert_eq!(status, 400);
    assert!(text.contains("tandem.v1") && text.contains("update"), "{text}");
    let (status, text) =
        refusal(at, Some("right"), Some("tandem.v1"), Some("https://example.com")).await;
    assert_eq!(status, 403);
    assert!(text.contains("web pages"), "{text}");

    let mut old = greeting(&verifier);
    old.protocol = 0;
    let mut wrong = greeting(&verifier);
    wrong.model = Some("another".into());
    let mut foreign = greeting(&verifier);
    foreign.tokenizer = [7; 32];
    foreign.drafter = "a stranger".into();
    for (hello, code, word) in [
        (old, ErrorCode::Protocol, "update the older"),
        (wrong, ErrorCode::Model, "another"),
        (foreign, ErrorCode::Tokenizer, "a stranger"),
    ] {
        let mut raw = Raw::open(at, Some("right")).await;
        raw.send(&ClientMessage::Hello(hello)).await;
        let ServerMessage::Refused(refused) = raw.next().await else { panic!("no refusal") };
        assert_eq!(refused.code, code);
        assert!(refused.message.contains(word), "{}", refused.message);
        raw.ends().await;
    }
    let mut raw = Raw::open(at, Some("right")).await;
    raw.send(&ClientMessage::Cancel { generation: 1 }).await;
    assert!(matches!(raw.next().await, ServerMessage::Refused(r) if r.code == ErrorCode::State));

    Raw::connect(at, Some("right"), greeting(&verifier)).await;
    edge.stop().await;
}

/// A second token that is right brings what follows it, and the text stays the model's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alternative_that_is_right_brings_a_token() {
    let verifier = model(OTHER);
    let edge = serve(&verifier, config(LOOPBACK.into())).await;
    let prompt = raw::prompt(&verifier, "Tell me a long story about a lighthouse.");
    let n = prompt.len();
    let mut raw = Raw::connect(edge.address(), None, greeting(&verifier)).await;
    raw.send(&open(1, 1, prompt.clone(), Sampling::GREEDY)).await;
    raw.send(&stream(1, 0, n, 12)).await;
    let own: Vec<u32> = raw.tokens(12).await.into_iter().map(|t| t.0).collect();
    let wrong = own.iter().max().expect("tokens") + 1;
    let beside = |mut message: ClientMessage, alternatives: &[(u8, u32)], goes_on| {
        let ClientMessage::Draft(draft) = &mut message else { unreachable!() };
        draft.alternatives =
            alternatives.iter().map(|&(at, id)| Alternative { at, id: TokenId(id) }).collect();
        draft.open = goes_on;
        message
    };
    raw.send(&open(2, 2, prompt.clone(), Sampling::GREEDY)).await;
    let ones = [1.0; 3];
    // The second of three is wrong and its alternative right; so is the last of an open draft.
    let ids = [own[0], wrong, own[2]];
    raw.send(&beside(draft(2, 0, n, &[], &ids, &ones), &[(0, wrong), (1, own[1])], false)).await;
    let verdict = raw.verdict().await;
    assert_eq!(verdict.accepted, 1);
    assert_eq!(verdict.correction, Correction::Token(TokenId(own[1])));
    assert_eq!(verdict.next, Some(TokenId(own[2])));
    let ids = [own[3], own[4], wrong];
    raw.send(&beside(draft(2, 1, n + 3, &[], &ids, &ones), &[(2, own[5])], true)).await;
    let verdict = raw.verdict().await;
    assert_eq!((verdict.accepted, verdict.prefix_len), (2, n as u32 + 3));
    assert_eq!(verdict.next, Some(TokenId(own[6])));
    // One that is wrong too brings nothing, nor does one of an accepted token.
    let ids = [own[7], wrong];
    raw.send(&beside(draft(2, 2, n + 7, &[], &ids, &ones[1..]), &[(0, 5), (1, wrong + 1)], false))
        .await;
    let verdict = raw.verdict().await;
    assert_eq!(verdict.correction, Correction::Token(TokenId(own[8])));
    assert_eq!((verdict.accepted, verdict.next), (1, None));
    raw.send(&stream(2, 3, n + 9, 3)).await;
    let rest: Vec<u32> = raw.tokens(3).await.into_iter().map(|t| t.0).collect();
    assert_eq!(rest, own[9..]);

    // What a device says of the two tokens must be what the edge offered.
    let warm = Sampling { temperature: 1.0, top_k: 8, ..Sampling::GREEDY };
    for generation in 3..40 {
        raw.send(&open(3, generation, prompt.clone(), warm)).await;
        let first = beside(draft(generation, 0, n, &[], &[wrong], &[0.9]), &[(0, own[0])], false);
        raw.send(&first).await;
        let verdict = raw.verdict().await;
        assert!(matches!(verdict.correction, Correction::Sparse(_)), "{verdict:?}");
        let next = verdict.next.expect("the edge does not know the correction").0;
        let other = wrong + 1;
        for committed in [&[own[0]][..], &[own[0], next + 1], &[other, next], &[own[0], next, 5]] {
            let mut message = draft(generation, 1, n, committed, &[5], &[1.0]);
            let ClientMessage::Draft(draft) = &mut message else { unreachable!() };
            draft.branch = 1;
            raw.send(&message).await;
            let failure = raw.failure().await;
            assert_eq!(failure.code, ErrorCode::State);
            assert!(failure.message.contains("committed"), "{}", failure.message);
        }
        let committed = if generation % 2 == 0 { &[own[0], next][..] } else { &[other] };
        raw.send(&draft(generation, 1, n, committed, &[5], &[1.0])).await;
        assert_eq!(raw.verdict().await.prefix_len as usize, n + committed.len());
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_harms_only_its_sender() {
    let verifier = model(OTHER);
    let edge = serve(&verifier, config(LOOPBACK.into())).await;
    let at = edge.address();
    let hello = || greeting(&verifier);
    let prompt = raw::prompt(&verifier, "Tell me a long story about a lighthouse.");

    let mut alone = Raw::connect(at, None, hello()).await;
    alone.send(&open(1, 1, prompt.clone(), Sampling::GREEDY)).await;
    alone.send(&stream(1, 0, prompt.len(), 200)).await;
    let reference = alone.tokens(200).await;

    // The same again, while others misbehave.
    let mut honest = Raw::connect(at, None, hello()).await;
    honest.send(&open(2, 1, prompt.clone(), Sampling::GREEDY)).await;
    honest.send(&stream(1, 0, prompt.len(), 200)).await;
    let honest = tokio::spawn(async move { honest.tokens(200).await });

    // The connection ends after bytes that no device of ours would send.
    let vocab = verifier.info().vocab as u32;
    let valid = encode_client(&draft(1, 0, 3, &[], &[5], &[0.5]));
    let mut frames = vec![
        (vec![], "no message"),
        (vec![0xff; 50], "no message"),
        (valid[..valid.len() - 1].to_vec(), "no message"),
        ([valid, vec![1]].concat(), "follow the message"),
        (vec![0; tandem_protocol::MAX_CLIENT_FRAME + 1], "the limit is"),
    ];
    for q in [0.0, -1.0, f32::NAN, f32::INFINITY, 1.5] {
        frames.push((encode_client(&draft(1, 0, 3, &[], &[5], &[q])), "above 0 and at most 1"));
    }
    let (many, ones) = (vec![5; MAX_DRAFT + 1], vec![1.0; MAX_DRAFT + 1]);
    frames.push((encode_client(&draft(1, 0, 3, &[], &many, &ones)), "0 to 32"));
    frames.push((encode_client(&draft(1, 0, 3, &[], &[5, 6], &[1.0])), "the list of q"));
    frames.push((encode_client(&open(9, 1, vec![], Sampling::GREEDY)), "the prompt"));
    let hot = Sampling { temperature: f32::NAN, ..Sampling::GREEDY };
    frames.push((encode_client(&open(9, 1, vec![TokenId(1)], hot)), "temperature"));
    for (bytes, word) in frames {
        let mut raw = Raw::connect(at, None, hello()).await;
        raw.send_bytes(bytes).await;
        let failure = raw.failure().await;
        assert_eq!((failure.code, failure.generation), (ErrorCode::BadMessage, None));
        assert!(failure.message.contains(word), "{word}: {}", failure.message);
        raw.ends().await;
    }
    let mut raw = Raw::connect(at, None, hello()).await;
    raw.send_text("hello").await;
    assert_eq!(raw.failure().await.code, ErrorCode::BadMessage);

    // It stays after messages that are well formed and do not fit.
    let mut raw = Raw::connect(at, None, hello()).await;
    let long = vec![TokenId(5); 4096];
    for (message, code, word) in [
        (open(9, 1, vec![TokenId(vocab)], Sampling::GREEDY), ErrorCode::BadMessage, "outside"),
        (open(9, 1, long, Sampling::GREEDY), ErrorCode::ContextFull, "context of 4096"),
        (draft(7, 0, 3, &[], &[5], &[0.5]), ErrorCode::State, "open it again"),
        (ClientMessage::Hello(hello()), ErrorCode::State, "twice"),
    ] {
        raw.send(&message).await;
        let failure = raw.failure().await;
        assert_eq!(failure.code, code);
        assert!(failure.message.contains(word), "{}", failure.message);
    }
    raw.send(&open(9, 1, prompt.clone(), Sampling::GREEDY)).await;
    let n = prompt.len();
    for (message, word) in [
        (draft(1, 0, n, &[], &[vocab], &[0.5]), "outside"),
        (draft(1, 0, n, &[vocab], &[5], &[0.5]), "outside"),
        (draft(1, 0, n + 1, &[], &[5], &[0.5]), "the prefix has"),
        (draft(1, 0, n, &[5], &[5], &[0.5]), "committed tokens came"),
        (ClientMessage::More(More { generation: 1, round: 0, asked: 1 }), "no samples"),
    ] {
        raw.send(&message).await;
        let failure = raw.failure().await;
        assert_eq!(failure.generation, Some(1));
        assert!(failure.message.contains(word), "{}", failure.message);
    }
    raw.send(&stream(1, 0, n, 3)).await;
    assert_eq!(raw.tokens(3).await, reference[..3]);

    assert_eq!(honest.await.expect("the honest session"), reference);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_that_is_sent_again_gets_the_same_verdict() {
    let verifier = model(OTHER);
    let edge = serve(&verifier, config(LOOPBACK.into())).await;
    let hello = || greeting(&verifier);
    let prompt = raw::prompt(&verifier, "Name three rivers.");
    let n = prompt.len();
    let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    let first = draft(1, 0, n, &[], &[30, 31], &[1e-30, 0.9]);

    let mut raw = Raw::connect(edge.address(), None, hello()).await;
    raw.send(&open(1, 1, prompt.clone(), sampling)).await;
    raw.send(&first).await;
    let verdict = raw.verdict().await;
    raw.send(&first).await;
    assert_eq!(raw.verdict().await, verdict, "from the store, times included");

    // A new connection that resumes and repeats the round gets the same decision.
    let mut again = Raw::connect(edge.address(), None, hello()).await;
    again.send(&open(1, 4, prompt, sampling)).await;
    let old = raw.failure().await;
    assert!(old.message.contains("another connection"), "{}", old.message);
    let ClientMessage::Draft(mut same) = first else { unreachable!() };
    same.generation = 4;
    let report = again.prefill().await;
    assert!(report.cached as usize >= n - 1, "{report:?}");
    again.send(&ClientMessage::Draft(same)).await;
    let second = again.verdict().await;
    assert_eq!((second.accepted, second.correction), (verdict.accepted, verdict.correction));

    // The next round's number and prefix must follow.
    let ClientMessage::Draft(mut late) = draft(4, 7, n, &[], &[5], &[0.5]) else { unreachable!() };
    late.branch = 1;
    again.send(&ClientMessage::Draft(late)).await;
    assert!(again.failure().await.message.contains("cannot follow"));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_idle_conversation_makes_room() {
    let verifier = model(OTHER);
    let mut wanted = config(LOOPBACK.into());
    wanted.limits.sessions = 2;
    let edge = serve(&verifier, wanted).await;
    let prompt = raw::prompt(&verifier, "Hi.");
    let n = prompt.len();
    let mut raw = Raw::connect(edge.address(), None, greeting(&verifier)).await;
    for session in 1..=3 {
        raw.send(&open(session, u32::from(session), prompt.clone(), Sampling::GREEDY)).await;
        raw.send(&stream(session.into(), 0, n, 1)).await;
        raw.tokens(1).await;
    }
    raw.send(&stream(1, 1, n + 1, 1)).await;
    assert!(raw.failure().await.message.contains("open it again"));
    raw.send(&stream(3, 1, n + 1, 1)).await;
    raw.tokens(1).await;

    // Nobody busy is thrown out: the next waits until one of them ends.
    raw.send(&stream(2, 1, n + 1, 3000)).await;
    raw.send(&stream(3, 2, n + 2, 3000)).await;
    while raw.verdict().await.generation != 3 {}
    let mut other = Raw::connect(edge.address(), None, greeting(&verifier)).await;
    let mut busy = Raw::connect(edge.address(), None, greeting(&verifier)).await;
    busy.send(&open(4, 4, prompt.clone(), Sampling::GREEDY)).await;
    busy.send(&stream(4, 0, n, 3000)).await;
    // A party with two gives one up for a party with none, and that one goes on when there is room.
    busy.tokens(3).await;
    other.send(&open(5, 5, prompt, Sampling::GREEDY)).await;
    other.send(&stream(5, 0, n, 1)).await;
    let told = other.within(Duration::from_secs(5)).await;
    assert!(matches!(&told, Some(ServerMessage::Waiting(_))), "{told:?}");
    // Who has nothing at work goes before the one that made way.
    drop(busy);
    other.tokens(1).await;
    raw.tokens(10).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_conversations_are_forgotten() {
    let verifier = model(OTHER);
    let mut wanted = config(LOOPBACK.into());
    wanted.limits.idle = Duration::from_millis(400);
    let edge = serve(&verifier, wanted).await;
    let prompt = raw::prompt(&verifier, "Hi.");
    let mut raw = Raw::connect(edge.address(), None, greeting(&verifier)).await;
    raw.send(&open(1, 1, prompt.clone(), Sampling::GREEDY)).await;
    raw.send(&stream(1, 0, prompt.len(), 1)).await;
    raw.tokens(1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let metrics = raw::get(edge.address(), "/metrics").await;
    assert!(metrics.contains("tandem_edge_sessions 0\n"), "{metrics}");
    assert!(metrics.contains("tandem_edge_kv_cache_bytes 0\n"), "{metrics}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_prompt_does_not_stall_others() {
    let verifier = model(OTHER);
    let edge = serve(&verifier, config(LOOPBACK.into())).await;
    let short = raw::prompt(&verifier, "Count to ten.");
    let mut quick = Raw::connect(edge.address(), None, greeting(&verifier)).await;
    quick.send(&open(1, 1, short.clone(), Sampling::GREEDY)).await;
    quick.send(&stream(1, 0, short.len(), 1)).await;
    quick.tokens(1).await;

    let mut slow = Raw::connect(edge.address(), None, greeting(&verifier)).await;
    let long: Vec<TokenId> = (0..3000).map(|i| TokenId(1000 + i)).collect();
    slow.send(&open(2, 1, long.clone(), Sampling::GREEDY)).await;
    let total = slow.prefill().await.total;
    assert_eq!(total as usize, long.len());
    quick.send(&stream(1, 1, short.len() + 1, 20)).await;
    quick.tokens(20).await;
    // All twenty answers came while the prompt was still being computed.
    let mut pieces = 1;
    loop {
        let report = slow.prefill().await;
        pieces += 1;
        if report.done == report.total {
            break;
        }
    }
    let metrics = raw::get(edge.address(), "/metrics").await;
    let both =
        metrics.lines().find(|l| l.starts_with("tandem_edge_batch_sequences_bucket{le=\"1.0\"}"));
    let alone: u32 = both.and_then(|l| l.rsplit(' ').next()?.parse().ok()).expect("a figure");
    let steps = metrics.lines().find(|l| l.starts_with("tandem_edge_batch_sequences_count"));
    let steps: u32 = steps.and_then(|l| l.rsplit(' ').next()?.parse().ok()).expect("a figure");
    assert!(pieces > 20, "{pieces} pieces");
    assert!(steps - alone >= 15, "only {} of {steps} steps were shared", steps - alone);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_side_by_side_give_what_each_gives_alone() {
    let verifier = model(OTHER);
    let edge = serve(&verifier, config(LOOPBACK.into())).await;
    let questions = [
        "Why is the sea salty?",
        "Write a long poem about rain.",
        "List forty animals.",
        "Explain how a bicycle works.",
    ];
    let mut alone = Vec::new();
    let ask = |session: u8, question: &'static str| {
        let (at, hello) = (edge.address(), greeting(&verifier));
        let prompt = raw::prompt(&verifier, question);
        async move {
            let mut raw = Raw::connect(at, None, hello).await;
            raw.send(&open(session, 1, prompt.clone(), Sampling::GREEDY)).await;
            raw.send(&stream(1, 0, prompt.len(), 12)).await;
            raw.tokens(12).await
        }
    };
    for (i, question) in (0..).zip(questions) {
        alone.push(ask(i, question).await);
    }
    let together: Vec<_> =
        (10..).zip(questions).map(|(i, question)| tokio::spawn(ask(i, question))).collect();
    for (i, task) in together.into_iter().enumerate() {
        assert_eq!(task.await.expect("an answer"), alone[i], "{}", questions[i]);
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_begins_as_another_is_not_computed_again() {
    let verifier = model(OTHER);
    let beginning: Vec<TokenId> = (0..300).map(|i| TokenId(1000 + i)).collect();
    let text = |question: &str| {
        let mut text = beginning.clone();
        text.extend(raw::prompt(&verifier, question));
        text
    };
    let (first, second) = (text("Why is the sea salty?"), text("What is a bicycle?"));
    // Alone, on an edge that knows nothing.
    let ask = async |edge: &tandem_edge::Edge, session, text: &[TokenId]| {
        let mut raw = Raw::connect(edge.address(), None, greeting(&verifier)).await;
        raw.send(&open(session, 1, text.to_vec(), Sampling::GREEDY)).await;
        let cached = raw.prefill().await.cached as usize;
        raw.send(&stream(1, 0, text.len(), 12)).await;
        (cached, raw.tokens(12).await)
    };
    let edge = serve(&verifier, config(LOOPBACK.into())).await;
    let (cached, alone) = ask(&edge, 1, &second).await;
    assert_eq!(cached, 0);
    edge.stop().await;

    let edge = serve(&verifier, config(LOOPBACK.into())).await;
    assert_eq!(ask(&edge, 1, &first).await.0, 0);
    let (cached, after) = ask(&edge, 2, &second).await;
    assert!(cached >= beginning.len(), "{cached} of {}", beginning.len());
    assert_eq!(after, alone, "what was taken over is what would have been computed");
    // The other conversation is as it was.
    let (cached, _) = ask(&edge, 1, &first).await;
    assert_eq!(cached, first.len() - 1);
    let metrics = raw::get(edge.address(), "/metrics").await;
    let reused = metrics.lines().find(|l| l.starts_with("tandem_edge_reused_tokens_total"));
    let reused: usize = reused.and_then(|l| l.rsplit(' ').next()?.parse().ok()).expect("a figure");
    assert!(reused >= beginning.len() + first.len() - 1, "{reused}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_work_stops_and_the_conversation_goes_on() {
    let verifier = model(OTHER);
    let edge = serve(&verifier, config(LOOPBACK.into())).await;
    let prompt = raw::prompt(&verifier, "Tell me a very long story.");
    let mut raw = Raw::connect(edge.address(), None, greeting(&verifier)).await;
    raw.send(&open(1, 1, prompt.clone(), Sampling::GREEDY)).await;
    raw.send(&stream(1, 0, prompt.len(), 3000)).await;
    let mut known = prompt;
    known.extend(raw.tokens(3).await);
    raw.send(&ClientMessage::Cancel { generation: 1 }).await;
    // What was on its way still comes; then silence.
    while let Some(message) = raw.within(Duration::from_millis(500)).await {
        let ServerMessage::Verdict(v) = message else { panic!("{message:?}") };
        let Correction::Bonus(token) = v.correction else { panic!("{v:?}") };
        known.push(token);
    }
    assert!(known.len() < 300, "{} tokens", known.len());
    raw.send(&open(1, 2, known.clone(), Sampling::GREEDY)).await;
    let report = raw.prefill().await;
    assert_eq!(report.cached as usize, known.len() - 1);
    raw.send(&stream(2, 0, known.len(), 2)).await;
    raw.tokens(2).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_edge_says_so() {
    let verifier = model(OTHER);
    let edge = serve(&verifier, config(LOOPBACK.into())).await;
    let prompt = raw::prompt(&verifier, "Tell me a very long story.");
    let mut raw = Raw::connect(edge.address(), None, greeting(&verifier)).await;
    raw.send(&open(1, 1, prompt.clone(), Sampling::GREEDY)).await;
    raw.send(&stream(1, 0, prompt.len(), 3000)).await;
    raw.tokens(3).await;
    edge.stop().await;
    // What was asked for is not written to its end: the stream is cut.
    let mut written = 3;
    let failure = loop {
        match raw.next().await {
            ServerMessage::Verdict(_) => written += 1,
            ServerMessage::Error(failure) => break failure,
            other => panic!("{other:?}"),
        }
    };
    assert!(written < 3000, "{written} tokens");
    assert_eq!(failure.code, ErrorCode::ShuttingDown);
    raw.ends().await;
}
