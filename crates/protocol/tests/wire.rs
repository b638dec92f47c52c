//! The encoding under honest and hostile bytes: messages come back as they were, sizes keep the
//! promise, and no bytes whatever can panic a receiver or pass a limit.

#![allow(clippy::unwrap_used, reason = "a test")]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tandem_protocol::{
    ClientMessage, DecodeError, Draft, ErrorCode, Failure, Hello, MAX_BRANCH, MAX_CLIENT_FRAME,
    MAX_COMMITTED, MAX_CONTEXT, MAX_DRAFT, MAX_ROUND, MAX_SERVER_FRAME, MAX_TEXT, MAX_VOCAB,
    MAX_WAITING, More, Open, PROTOCOL_VERSION, Prefill, Refused, ServerMessage, SessionId, Stream,
    Verdict, Waiting, Welcome, Written, check_ids, decode_client, decode_server, encode_client,
    encode_server,
};
use tandem_speculation::{Alternative, Correction, Sampling, TokenId};

fn ids(range: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<TokenId>> {
    vec(any::<u32>().prop_map(TokenId), range)
}

fn probability() -> impl Strategy<Value = f32> {
    prop_oneof![
        Just(1.0),
        Just(f32::MIN_POSITIVE),
        (1u32..=1 << 24).prop_map(|n| n as f32 / 16_777_216.0)
    ]
}

fn sampling() -> impl Strategy<Value = Sampling> {
    (0.0f32..2.0, any::<u32>(), 0.01f32..=1.0, 0.0f32..1.0, 0.5f32..2.0, any::<u32>())
        .prop_map(|(temperature, top_k, top_p, min_p, repetition_penalty, penalty_window)| {
            Sampling { temperature, top_k, top_p, min_p, repetition_penalty, penalty_window }
        })
        .prop_filter("the sampling must be valid", |s| s.validate().is_ok())
}

/// Alternatives for some places of a draft.
fn beside(drafted: &[(u32, f32)]) -> Vec<Alternative> {
    let places = drafted.iter().enumerate().filter(|(_, d)| d.1 < 0.5);
    places.map(|(at, d)| Alternative { at: at as u8, id: TokenId(d.0 ^ 1) }).collect()
}

/// The number of a round, and tokens before it.
fn place() -> impl Strategy<Value = [u32; 2]> {
    (0..=MAX_ROUND, 0..=MAX_CONTEXT as u32).prop_map(|(round, prefix)| [round, prefix])
}

fn draft() -> impl Strategy<Value = Draft> {
    let drafted = vec((any::<u32>(), probability()), 0..=MAX_DRAFT);
    (any::<u32>(), place(), 0..=MAX_BRANCH, ids(0..=1), drafted).prop_map(
        |(generation, [round, prefix_len], branch, committed, drafted)| Draft {
            generation,
            round,
            prefix_len,
            committed,
            open: branch % 2 == 0 && !drafted.is_empty(),
            ids: drafted.iter().map(|d| TokenId(d.0)).collect(),
            q: drafted.iter().map(|d| d.1).collect(),
            alternatives: beside(&drafted),
            branch,
        },
    )
}

fn client() -> impl Strategy<Value = ClientMessage> {
    let name = "[a-zä€😀 ]{0,20}";
    prop_oneof![
        (any::<u16>(), name, name, any::<[u8; 32]>(), option::of(name)).prop_map(
            |(protocol, app_version, drafter, tokenizer, model)| ClientMessage::Hello(Hello {
                protocol,
                app_version,
                drafter,
                tokenizer,
                model
            })
        ),
        (any::<[u8; 16]>(), any::<u32>(), ids(1..60), sampling(), any::<u64>()).prop_map(
            |(session, generation, tokens, sampling, seed)| ClientMessage::Open(Open {
                session: SessionId(session),
                generation,
                tokens,
                sampling,
                seed,
                branch: generation % (MAX_BRANCH + 1),
            })
        ),
        draft().prop_map(ClientMessage::Draft),
        (any::<u32>(), place(), ids(0..=1), 1..=MAX_CONTEXT as u32, any::<bool>()).prop_map(
            |(generation, [round, prefix_len], committed, max_tokens, drafts)| {
                ClientMessage::Stream(Stream {
                    generation,
                    round,
                    prefix_len,
                    committed,
                    max_tokens,
                    drafts,
                })
            }
        ),
        (any::<u32>(), 0..=MAX_ROUND, 1..=2u8).prop_map(|(generation, round, asked)| {
            ClientMessage::More(More { generation, round, asked })
        }),
        any::<u32>().prop_map(|generation| ClientMessage::Cancel { generation }),
        any::<[u8; 16]>().prop_map(|session| ClientMessage::Close { session: SessionId(session) }),
    ]
}

fn correction() -> impl Strategy<Value = Correction> {
    let entries = || vec((any::<u32>().prop_map(TokenId), probability()), 1..=32);
    prop_oneof![
        any::<u32>().prop_map(|id| Correction::Bonus(TokenId(id))),
        any::<u32>().prop_map(|id| Correction::Token(TokenId(id))),
        entries().prop_map(Correction::Sparse),
        entries().prop_map(Correction::Sampled),
        vec(probability(), 1..200).prop_map(Correction::Full),
        Just(Correction::Continue),
    ]
}

fn server() -> impl Strategy<Value = ServerMessage> {
    let code =
        prop_oneof![Just(ErrorCode::Protocol), Just(ErrorCode::State), Just(ErrorCode::Busy)];
    prop_oneof![
        ("[a-z]{0,9}", "[a-z]{0,9}", any::<[u8; 32]>(), 1..=MAX_CONTEXT as u32).prop_map(
            |(edge_version, model, tokenizer, max_context)| ServerMessage::Welcome(Welcome {
                edge_version,
                model,
                vocab: 151_936,
                max_context,
                max_draft: MAX_DRAFT as u32,
                drafts: max_context % 2 == 0,
                batch_invariant: max_context % 3 == 0,
                tokenizer
            })
        ),
        (code.clone(), "[a-zü]{0,90}")
            .prop_map(|(code, message)| ServerMessage::Refused(Refused { code, message })),
        (any::<[u32; 3]>(), 1..=MAX_CONTEXT as u32).prop_map(
            |([generation, done, cached], total)| ServerMessage::Prefill(Prefill {
                generation,
                done: done % (total + 1),
                total,
                cached: cached % (total + 1)
            })
        ),
        (any::<u32>(), 1..=MAX_WAITING as u32)
            .prop_map(|(generation, place)| ServerMessage::Waiting(Waiting { generation, place })),
        (any::<[u32; 3]>(), place(), 0..=MAX_DRAFT as u8, correction()).prop_map(
            |(numbers, [round, prefix_len], accepted, correction)| {
                let [generation, queued_us, verify_us] = numbers;
                ServerMessage::Verdict(Verdict {
                    generation,
                    round,
                    prefix_len,
                    accepted,
                    correction,
                    next: None,
                    queued_us,
                    verify_us,
                })
            }
        ),
        (any::<[u32; 4]>(), place(), ids(1..=MAX_DRAFT + 1), 0..=MAX_DRAFT as u8).prop_map(
            |(numbers, [round, prefix_len], tokens, drafted)| {
                let [generation, draft_us, queued_us, verify_us] = numbers;
                ServerMessage::Written(Written {
                    generation,
                    round,
                    prefix_len,
                    accepted: drafted.min(tokens.len() as u8),
                    tokens,
                    drafted,
                    alternatives: drafted,
                    draft_us,
                    queued_us,
                    verify_us,
                })
            }
        ),
        (option::of(any::<u32>()), code, "[a-zü]{0,90}").prop_map(|(generation, code, message)| {
            ServerMessage::Error(Failure { generation, code, message })
        }),
    ]
}

proptest! {
    #[test]
    fn messages_come_back_as_they_were(to_edge in client(), to_device in server()) {
        prop_assert_eq!(decode_client(&encode_client(&to_edge)).unwrap(), to_edge);
        prop_assert_eq!(decode_server(&encode_server(&to_device)).unwrap(), to_device);
    }

    /// Ids of any vocabulary up to 2^21, counters up to 2^28: 8 bytes a drafted token, 4 an
    /// alternative, and 32 more.
    #[test]
    fn a_draft_is_as_small_as_promised(
        generation in 0u32..1 << 28,
        place in place(),
        branch in 0..=MAX_BRANCH,
        committed in ids(0..=1),
        drafted in vec((0u32..1 << 21, probability()), 0..=MAX_DRAFT),
    ) {
        let [round, prefix_len] = place;
        let message = ClientMessage::Draft(Draft {
            generation,
            round,
            prefix_len,
            committed,
            ids: drafted.iter().map(|d| TokenId(d.0)).collect(),
            q: drafted.iter().map(|d| d.1).collect(),
            alternatives: beside(&drafted),
            branch,
            open: !drafted.is_empty(),
        });
        let more = 4 * beside(&drafted).len();
        prop_assert!(encode_client(&message).len() <= 8 * drafted.len() + more + 32);
    }

    #[test]
    fn a_cut_message_is_refused(message in client(), answer in server(), at: prop::sample::Index) {
        let bytes = encode_client(&message);
        prop_assert!(decode_client(&bytes[..at.index(bytes.len())]).is_err());
        let bytes = encode_server(&answer);
        prop_assert!(decode_server(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn nothing_may_follow_a_message(message in client(), answer in server(), more in vec(any::<u8>(), 1..9)) {
        let mut bytes = encode_client(&message);
        bytes.extend(&more);
        prop_assert!(matches!(decode_client(&bytes), Err(DecodeError::Trailing(n)) if n == more.len()));
        let mut bytes = encode_server(&answer);
        bytes.extend(&more);
        prop_assert!(matches!(decode_server(&bytes), Err(DecodeError::Trailing(n)) if n == more.len()));
    }

    /// What passes after bits have turned is still within every limit.
    #[test]
    fn altered_messages_pass_only_within_the_limits(
        message in client(), answer in server(), flips in vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let turn = |mut bytes: Vec<u8>| {
            for flip in &flips {
                let bit = flip.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            bytes
        };
        if let Ok(message) = decode_client(&turn(encode_client(&message))) {
            within_limits(&message)?;
        }
        if let Ok(ServerMessage::Verdict(v)) = decode_server(&turn(encode_server(&answer))) {
            prop_assert!(usize::from(v.accepted) <= MAX_DRAFT);
            probabilities_are_probabilities(&v.correction)?;
        }
    }

    #[test]
    fn garbage_is_refused_or_within_the_limits(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = decode_client(&bytes) {
            within_limits(&message)?;
        }
        if let Ok(ServerMessage::Verdict(v)) = decode_server(&bytes) {
            probabilities_are_probabilities(&v.correction)?;
        }
    }
}

fn within_limits(message: &ClientMessage) -> Result<(), TestCaseError> {
    match message {
        ClientMessage::Draft(m) => {
            prop_assert!(m.ids.len() <= MAX_DRAFT && m.q.len() == m.ids.len());
            prop_assert!(m.committed.len() <= MAX_COMMITTED);
            prop_assert!(m.alternatives.is_sorted_by(|a, b| a.at < b.at));
            prop_assert!(m.alternatives.iter().all(|a| usize::from(a.at) < m.ids.len()));
            prop_assert!(m.q.iter().all(|q| q.is_finite() && *q > 0.0 && *q <= 1.0));
            prop_assert!(m.round <= MAX_ROUND && m.branch <= MAX_BRANCH);
            prop_assert!(m.prefix_len as usize <= MAX_CONTEXT);
        }
        ClientMessage::Open(m) => {
            prop_assert!(!m.tokens.is_empty() && m.sampling.validate().is_ok());
            prop_assert!(m.branch <= MAX_BRANCH);
        }
        ClientMessage::Stream(m) => {
            prop_assert!((1..=MAX_CONTEXT as u32).contains(&m.max_tokens));
            prop_assert!(m.round <= MAX_ROUND && m.prefix_len as usize <= MAX_CONTEXT);
        }
        ClientMessage::More(m) => prop_assert!((1..=2).contains(&m.asked)),
        ClientMessage::Hello(m) => {
            prop_assert!(m.app_version.len() <= MAX_TEXT && m.drafter.len() <= MAX_TEXT);
        }
        ClientMessage::Cancel { .. } | ClientMessage::Close { .. } => {}
    }
    Ok(())
}

fn probabilities_are_probabilities(correction: &Correction) -> Result<(), TestCaseError> {
    let good = |p: f32| (0.0..=1.0).contains(&p);
    match correction {
        Correction::Sparse(e) | Correction::Sampled(e) => {
            prop_assert!(e.iter().all(|e| good(e.1)));
        }
        Correction::Full(v) => prop_assert!(v.iter().all(|p| good(*p))),
        Correction::Bonus(_) | Correction::Token(_) | Correction::Continue => {}
    }
    Ok(())
}

fn one_draft(q: Vec<f32>) -> ClientMessage {
    let ids = vec![TokenId(7); q.len()];
    ClientMessage::Draft(Draft {
        generation: 1,
        round: 1,
        prefix_len: 1,
        committed: vec![],
        ids,
        q,
        alternatives: Vec::new(),
        branch: 0,
        open: false,
    })
}

#[test]
fn an_alternative_needs_a_place_of_its_own() {
    for places in [&[2][..], &[1, 0], &[1, 1], &[255]] {
        let mut message = one_draft(vec![0.5, 0.5]);
        let ClientMessage::Draft(draft) = &mut message else { unreachable!() };
        draft.alternatives = places.iter().map(|&at| Alternative { at, id: TokenId(1) }).collect();
        let error = decode_client(&encode_client(&message)).unwrap_err();
        assert!(matches!(error, DecodeError::Alternatives), "{places:?}: {error}");
    }
}

#[test]
fn impossible_probabilities_are_named() {
    for q in [0.0, -0.0, -0.5, f32::NAN, f32::INFINITY, 1.000_001] {
        let error = decode_client(&encode_client(&one_draft(vec![0.5, q]))).unwrap_err();
        assert!(matches!(error, DecodeError::Scalar { position: 1, .. }), "{q}: {error}");
    }
    for p in [-0.1, f32::NAN, f32::INFINITY, 1.1] {
        let forms = [
            Correction::Sparse(vec![(TokenId(1), 0.2), (TokenId(2), p)]),
            Correction::Sampled(vec![(TokenId(1), p)]),
            Correction::Full(vec![0.1, p]),
        ];
        for correction in forms {
            let verdict = Verdict {
                generation: 1,
                round: 1,
                prefix_len: 1,
                accepted: 0,
                correction,
                next: None,
                queued_us: 0,
                verify_us: 0,
            };
            let error =
                decode_server(&encode_server(&ServerMessage::Verdict(verdict))).unwrap_err();
            assert!(matches!(error, DecodeError::Probability(_)), "{p}: {error}");
        }
    }
}

#[test]
fn lengths_beyond_the_limits_are_named() {
    let refused = |message: &ClientMessage, name: &str| match decode_client(&encode_client(message))
    {
        Err(DecodeError::Length { what, .. } | DecodeError::Number { what, .. }) => {
            assert_eq!(what, name);
        }
        other => panic!("{name}: {other:?}"),
    };
    refused(&one_draft(vec![0.5; MAX_DRAFT + 1]), "the draft");
    let mut uneven = one_draft(vec![0.5; 3]);
    if let ClientMessage::Draft(m) = &mut uneven {
        m.q.pop();
    }
    refused(&uneven, "the list of q");
    let stream = |committed, max_tokens| {
        ClientMessage::Stream(Stream {
            generation: 1,
            round: 1,
            prefix_len: 1,
            committed,
            max_tokens,
            drafts: false,
        })
    };
    refused(&stream(vec![TokenId(1); MAX_COMMITTED + 1], 1), "committed");
    refused(&stream(vec![], 0), "max_tokens");
    let open = |tokens| {
        let session = SessionId([0; 16]);
        let sampling = Sampling::GREEDY;
        ClientMessage::Open(Open { session, generation: 1, tokens, sampling, seed: 0, branch: 0 })
    };
    refused(&open(vec![]), "the prompt");
    refused(&open(vec![TokenId(1); MAX_CONTEXT + 1]), "the prompt");
    let hello = ClientMessage::Hello(Hello {
        protocol: PROTOCOL_VERSION,
        app_version: String::new(),
        drafter: "x".repeat(MAX_TEXT + 1),
        tokenizer: [0; 32],
        model: None,
    });
    refused(&hello, "the drafter's name");
    refused(&ClientMessage::More(More { generation: 1, round: 1, asked: 3 }), "asked");
}

/// Every number that is counted on from has a bound, so that counting cannot overflow; the bound itself is
/// allowed.
#[test]
fn numbers_beyond_the_limits_are_named() {
    let round_trip = |message: &ClientMessage| decode_client(&encode_client(message));
    let draft = |change: &dyn Fn(&mut Draft, u32), value| {
        let mut message = one_draft(vec![0.5]);
        if let ClientMessage::Draft(m) = &mut message {
            change(m, value);
        }
        message
    };
    let stream = |change: &dyn Fn(&mut Stream, u32), value| {
        let (generation, round, prefix_len, committed) = (1, 1, 1, Vec::new());
        let (max_tokens, drafts) = (1, false);
        let mut m = Stream { generation, round, prefix_len, committed, max_tokens, drafts };
        change(&mut m, value);
        ClientMessage::Stream(m)
    };
    let open = |branch| {
        let (session, tokens, sampling) = (SessionId([0; 16]), vec![TokenId(1)], Sampling::GREEDY);
        ClientMessage::Open(Open { session, generation: 1, tokens, sampling, seed: 0, branch })
    };
    let context = MAX_CONTEXT as u32;
    type Case<'a> = (&'a str, &'a dyn Fn(u32) -> ClientMessage, u32);
    let cases: [Case<'_>; 8] = [
        ("round", &|v| draft(&|m, v| m.round = v, v), MAX_ROUND),
        ("prefix_len", &|v| draft(&|m, v| m.prefix_len = v, v), context),
        ("branch", &|v| draft(&|m, v| m.branch = v, v), MAX_BRANCH),
        ("round", &|v| stream(&|m, v| m.round = v, v), MAX_ROUND),
        ("prefix_len", &|v| stream(&|m, v| m.prefix_len = v, v), context),
        ("max_tokens", &|v| stream(&|m, v| m.max_tokens = v, v), context),
        ("branch", &open, MAX_BRANCH),
        (
            "round",
            &|round| ClientMessage::More(More { generation: 1, round, asked: 1 }),
            MAX_ROUND + context,
        ),
    ];
    for (name, message, most) in cases {
        round_trip(&message(most)).unwrap();
        for beyond in [most + 1, u32::MAX - 1, u32::MAX] {
            match round_trip(&message(beyond)) {
                Err(DecodeError::Number { what, value, .. }) => {
                    assert_eq!((what, value), (name, beyond));
                }
                other => panic!("{name} = {beyond}: {other:?}"),
            }
        }
    }
}

/// What an edge says is bounded too: a device shows it, and counts on from it.
#[test]
fn an_edge_that_says_the_impossible_is_refused() {
    let context = MAX_CONTEXT as u32;
    let prefill = |done, total, cached| {
        ServerMessage::Prefill(Prefill { generation: 1, done, total, cached })
    };
    let verdict = |round, prefix_len, correction| {
        let (generation, accepted, next, queued_us, verify_us) = (1, 0, None, 0, 0);
        ServerMessage::Verdict(Verdict {
            generation,
            round,
            prefix_len,
            accepted,
            correction,
            next,
            queued_us,
            verify_us,
        })
    };
    let many = vec![(TokenId(1), 0.01); 1025];
    for message in [
        prefill(3, 2, 0),
        prefill(1, 2, 3),
        prefill(0, 0, 0),
        prefill(1, context + 1, 0),
        verdict(u32::MAX, 1, Correction::Continue),
        verdict(1, context + 1, Correction::Continue),
        verdict(1, 1, Correction::Sparse(many[..33].to_vec())),
        verdict(1, 1, Correction::Sparse(Vec::new())),
        verdict(1, 1, Correction::Sampled(many)),
        verdict(1, 1, Correction::Full(Vec::new())),
        ServerMessage::Waiting(Waiting { generation: 1, place: 0 }),
        ServerMessage::Waiting(Waiting { generation: 1, place: u32::MAX }),
    ] {
        assert!(decode_server(&encode_server(&message)).is_err(), "{message:?}");
    }
}

#[test]
fn a_full_context_and_a_full_vector_fit_into_a_frame() {
    let tokens = vec![TokenId(u32::MAX); MAX_CONTEXT];
    let (session, sampling) = (SessionId([255; 16]), Sampling::GREEDY);
    let (generation, seed, branch) = (u32::MAX, u64::MAX, MAX_BRANCH);
    let open = Open { session, generation, tokens, sampling, seed, branch };
    decode_client(&encode_client(&ClientMessage::Open(open))).unwrap();
    let verdict = Verdict {
        generation: u32::MAX,
        round: MAX_ROUND,
        prefix_len: MAX_CONTEXT as u32,
        accepted: MAX_DRAFT as u8,
        correction: Correction::Full(vec![1e-6; MAX_VOCAB]),
        next: None,
        queued_us: u32::MAX,
        verify_us: u32::MAX,
    };
    decode_server(&encode_server(&ServerMessage::Verdict(verdict))).unwrap();
}

#[test]
fn a_frame_above_the_limit_is_not_read() {
    let error = decode_client(&vec![0; MAX_CLIENT_FRAME + 1]).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge(..)), "{error}");
    let error = decode_server(&vec![0; MAX_SERVER_FRAME + 1]).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge(..)), "{error}");
}

/// A list that claims 2^32 entries in a few bytes must not reserve room for them.
#[test]
fn a_claimed_length_reserves_no_memory() {
    let mut bytes = encode_client(&ClientMessage::Cancel { generation: 0 });
    bytes[0] = 2; // Draft
    bytes.extend([0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(matches!(decode_client(&bytes), Err(DecodeError::Garbage(_))));
}

#[test]
fn ids_outside_the_vocabulary_are_named() {
    check_ids(&[TokenId(0), TokenId(9)], 10).unwrap();
    let error = check_ids(&[TokenId(0), TokenId(10)], 10).unwrap_err();
    assert!(matches!(error, DecodeError::OutsideVocabulary { id: 10, vocab: 10 }), "{error}");
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let reason = tandem_protocol::short_text("é".repeat(MAX_TEXT));
    assert_eq!((reason.len(), reason.chars().count()), (MAX_TEXT, MAX_TEXT / 2));
    let odd = tandem_protocol::short_text(format!("a{}", "é".repeat(MAX_TEXT)));
    assert_eq!(odd.len(), MAX_TEXT - 1);
    for message in [reason, odd] {
        let refused = ServerMessage::Refused(Refused { code: ErrorCode::Model, message });
        decode_server(&encode_server(&refused)).unwrap();
    }
}

#[test]
fn a_session_is_never_shown() {
    assert_eq!(format!("{:?}", SessionId([7; 16])), "SessionId(…)");
}
