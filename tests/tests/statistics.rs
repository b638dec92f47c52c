//! Temperature 1 through the real parts: are tokens distributed as the verifier alone would have
//! them? The expected probabilities come from the verifier's logits, computed beside the edge.
//! Each test ends with wrong devices, which must be noticed.

// Each of these has helpers for other tests too.
#[allow(dead_code)]
#[path = "../../crates/speculation/tests/rounds/statistics.rs"]
mod by;
#[allow(dead_code)]
mod raw;

use by::chi_square;
use raw::{Raw, greeting, prompt};
use std::sync::Arc;
use tandem_device::Mode;
use tandem_edge::Edge;
use tandem_inference::{Model, Segment, Wanted};
use tandem_protocol::{ClientMessage, Draft, More, Open, SessionId};
use tandem_speculation::{
    Alternative, Distribution, Purpose, Randomness, Resolution, Resolver, Sampling, TokenId,
    process,
};
use tandem_tests::{DRAFTER, OTHER, VERIFIER, answer, config, drafter, edge, link, model, request};

const PLAIN: Sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };

/// What the model would draw next.
fn next(model: &Model, tokens: &[TokenId], sampling: &Sampling) -> Distribution {
    let mut cache = model.new_cache(tokens.len()).expect("room");
    let mut logits = model
        .forward(&mut [Segment { cache: &mut cache, tokens, logits: Wanted::Last }])
        .expect("logits");
    process(logits.row_mut(0), sampling, tokens).expect("a distribution")
}

/// The most probable tokens, and the mass of the others as the last number.
fn top(p: &Distribution, most: usize) -> (Vec<TokenId>, Vec<f64>) {
    let mut entries: Vec<_> = p.support().collect();
    entries.sort_by(|a, b| b.1.total_cmp(&a.1));
    entries.truncate(most);
    let mut masses: Vec<f64> = entries.iter().map(|e| f64::from(e.1)).collect();
    masses.push((1.0 - masses.iter().sum::<f64>()).max(0.0));
    (entries.into_iter().map(|e| e.0).collect(), masses)
}

/// How far these tokens are from `p`, in standard deviations.
fn distance(tokens: &[TokenId], p: &Distribution) -> f64 {
    let (ids, masses) = top(p, 24);
    let mut counts = vec![0; ids.len() + 1];
    for token in tokens {
        counts[ids.iter().position(|id| id == token).unwrap_or(ids.len())] += 1;
    }
    chi_square(&counts, &masses)
}

fn variation(p: &Distribution, q: &Distribution) -> f64 {
    p.support().map(|(id, p)| f64::from(p - q.probability(id)).max(0.0)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pair_writes_what_the_verifier_alone_would() {
    const ANSWERS: u64 = 300;
    let verifier = model(VERIFIER);
    let drafter = drafter(DRAFTER).await;
    let edge = edge(&verifier, 0).await;
    let link = link(&drafter, edge.address());
    let text = "Think of an animal. Say only its name.";
    let mut wanted = request(&drafter, text, Mode::Dssd, 2);
    wanted.sampling = PLAIN;
    wanted.max_tokens = 3;
    let p = next(&verifier, &wanted.prompt, &PLAIN);
    let q = next(&model(DRAFTER), &wanted.prompt, &PLAIN);
    let apart = variation(&p, &q);
    assert!(apart > 0.15, "p and q are too near to show anything: {apart}");

    let mut answers = Vec::new();
    for seed in 0..ANSWERS {
        wanted.seed = seed;
        let (written, ..) = answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("tokens");
        answers.push(written.tokens);
    }
    let first: Vec<_> = answers.iter().map(|a| a[0]).collect();
    // The token after the most frequent first one: a second drafted position.
    let usual = top(&p, 1).0[0];
    let second: Vec<_> =
        answers.iter().filter(|a| a[0] == usual).filter_map(|a| a.get(1).copied()).collect();
    let after: Vec<_> = wanted.prompt.iter().copied().chain([usual]).collect();
    let p_after = next(&verifier, &after, &PLAIN);
    let far = distance(&first, &p);
    let far_after = distance(&second, &p_after);

    // The negative control: every draft accepted, which is the drafter alone.
    wanted.mode = Mode::Device;
    wanted.max_tokens = 1;
    let mut alone = Vec::new();
    for seed in 0..ANSWERS {
        wanted.seed = seed;
        let (written, ..) = answer(&drafter, None, &wanted, |_| {}).await.expect("tokens");
        alone.push(written.tokens[0]);
    }
    let control = distance(&alone, &p);
    eprintln!(
        "TV(p, q) {apart:.2}; first token {far:.1} σ, second {far_after:.1} σ of {}; drafts alone \
         {control:.1} σ",
        second.len()
    );
    assert!(far < 4.0, "first token: {far} standard deviations");
    assert!(far_after < 4.0, "second token: {far_after} standard deviations");
    assert!(control > 6.0, "drafts alone pass: {control} standard deviations");
    edge.stop().await;
}

/// What a device does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    /// Says half of the q that the draft was drawn with.
    SmallerQ,
    /// Keeps every draft, whatever the edge says.
    KeepsDrafts,
    /// Takes what follows an alternative behind another token.
    FollowsAnyway,
    /// Draws the correction from p (or takes the first sample), not from the residual.
    NoResidual,
}

/// The token of one round with one draft from `q`, by the edge's verdict, and the token after it if
/// the round gives one.
async fn token(
    raw: &mut Raw,
    tokens: &[TokenId],
    q: &Distribution,
    sampling: Sampling,
    seed: u32,
    wrong: Wrong,
    beside: Option<TokenId>,
) -> (TokenId, Option<TokenId>) {
    let random = Randomness::new(u64::from(seed));
    let x = q.sample(random.uniform(Purpose::Draft, 0, 0));
    let said = q.probability(x) * if wrong == Wrong::SmallerQ { 0.5 } else { 1.0 };
    let open = Open {
        session: SessionId([1; 16]),
        generation: seed,
        tokens: tokens.to_vec(),
        sampling,
        seed: u64::from(seed),
        branch: 0,
    };
    raw.send(&ClientMessage::Open(open)).await;
    let draft = Draft {
        generation: seed,
        round: 0,
        prefix_len: tokens.len() as u32,
        committed: vec![],
        ids: vec![x],
        q: vec![said],
        alternatives: beside
            .filter(|id| *id != x)
            .map(|id| Alternative { at: 0, id })
            .into_iter()
            .collect(),
        branch: 0,
        open: false,
    };
    raw.send(&ClientMessage::Draft(draft)).await;
    let verdict = raw.verdict().await;
    if verdict.accepted == 1 || wrong == Wrong::KeepsDrafts {
        return (x, None);
    }
    // As if nothing had been drafted there that the residual must leave out.
    let nothing = Distribution::Sparse(vec![]);
    let rejected = if wrong == Wrong::NoResidual { &nothing } else { q };
    let mut resolver = Resolver::new(Some(rejected), &random, tokens.len() as u32, 49_152);
    let mut correction = verdict.correction;
    let mut asked = 0;
    loop {
        match resolver.resolve(correction).expect("an answer that fits") {
            Resolution::Token(token) => {
                let right = beside == Some(token) || wrong == Wrong::FollowsAnyway;
                return (token, verdict.next.filter(|_| right));
            }
            Resolution::NeedMore => {
                asked += 1;
                raw.send(&ClientMessage::More(More { generation: seed, round: 0, asked })).await;
                correction = raw.verdict().await.correction;
            }
        }
    }
}

/// A support that is sent whole, and one of which samples are sent.
const FORMS: [Sampling; 2] = [Sampling { top_k: 8, ..PLAIN }, PLAIN];

/// A question to an edge with a small model, by a device of the test's own.
struct Asked {
    verifier: Arc<Model>,
    edge: Edge,
    raw: Raw,
    tokens: Vec<TokenId>,
}

impl Asked {
    async fn new() -> Self {
        let verifier = model(OTHER);
        let edge = raw::serve(&verifier, config(([127, 0, 0, 1], 0).into())).await;
        let raw = Raw::connect(edge.address(), None, greeting(&verifier)).await;
        let tokens = prompt(&verifier, "Name a city.");
        Self { verifier, edge, raw, tokens }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_drafter_gives_the_verifiers_tokens_and_dishonest_ones_do_not() {
    const ROUNDS: u32 = 600;
    let Asked { verifier, edge, mut raw, tokens } = Asked::new().await;
    let mut seed = 0;
    for sampling in FORMS {
        let p = next(&verifier, &tokens, &sampling);
        // Likes what p likes least among its best tokens, and one that p nearly never gives.
        let (mut ids, masses) = top(&p, 8);
        let mut weights: Vec<f64> = masses[..ids.len()].iter().map(|m| m.powf(-0.2)).collect();
        ids.push(TokenId(40_000));
        weights.push(weights.iter().sum::<f64>() / 8.0);
        let sum: f64 = weights.iter().sum();
        let mut entries: Vec<_> =
            ids.into_iter().zip(weights.iter().map(|w| (w / sum) as f32)).collect();
        entries.sort_by_key(|e| e.0);
        let q = Distribution::sparse(entries).expect("a distribution");
        for wrong in [Wrong::Nothing, Wrong::SmallerQ, Wrong::KeepsDrafts, Wrong::NoResidual] {
            let mut written = Vec::new();
            for _ in 0..ROUNDS {
                seed += 1;
                written.push(token(&mut raw, &tokens, &q, sampling, seed, wrong, None).await.0);
            }
            let far = distance(&written, &p);
            eprintln!("top-k {}, {wrong:?}: {far:.1} σ", sampling.top_k);
            if wrong == Wrong::Nothing {
                assert!(far < 4.0, "{far} standard deviations");
            } else {
                assert!(far > 5.0, "{wrong:?} passes: {far} standard deviations");
            }
        }
    }
    edge.stop().await;
}

/// The token after an alternative is one of the verifier's, and one after another token is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_an_alternative_is_the_verifiers() {
    const ROUNDS: u32 = 900;
    let Asked { verifier, edge, mut raw, tokens } = Asked::new().await;
    let mut seed = 0;
    for sampling in FORMS {
        let p = next(&verifier, &tokens, &sampling);
        let (ids, _) = top(&p, 2);
        // The drafter likes the second token, its alternative is the first.
        let mut entries = vec![(ids[1], 0.95), (ids[0], 0.05)];
        entries.sort_by_key(|e| e.0);
        let q = Distribution::sparse(entries).expect("a distribution");
        let after: Vec<_> = tokens.iter().copied().chain([ids[0]]).collect();
        let wanted = next(&verifier, &after, &sampling);
        // Behind the third token, say, another distribution is right.
        let (others, _) = top(&p, 4);
        for wrong in [Wrong::Nothing, Wrong::FollowsAnyway] {
            let mut first = Vec::new();
            let mut behind = Vec::new();
            for _ in 0..ROUNDS {
                seed += 1;
                let (token, next) =
                    token(&mut raw, &tokens, &q, sampling, seed, wrong, Some(ids[0])).await;
                first.push(token);
                behind.extend(next.map(|next| (token, next)));
            }
            let far = distance(&first, &p);
            assert!(far < 4.0, "first token: {far} standard deviations");
            let right: Vec<_> =
                behind.iter().filter(|(t, _)| *t == ids[0]).map(|(_, z)| *z).collect();
            let far = distance(&right, &wanted);
            eprintln!("top-k {}: {} tokens, {far:.1} σ", sampling.top_k, right.len());
            assert!(right.len() > 60, "{}", right.len());
            assert!(far < 4.0, "{far} standard deviations");
            if wrong == Wrong::Nothing {
                assert_eq!(behind.len(), right.len());
                continue;
            }
            // The control: behind other tokens it is drawn from the wrong distribution.
            let mut most = 0.0f64;
            for other in &others[1..] {
                let text: Vec<_> = tokens.iter().copied().chain([*other]).collect();
                let drawn: Vec<_> =
                    behind.iter().filter(|(t, _)| t == other).map(|(_, z)| *z).collect();
                if drawn.len() >= 40 {
                    most = most.max(distance(&drawn, &next(&verifier, &text, &sampling)));
                }
            }
            eprintln!("behind others: {most:.1} σ");
            assert!(most > 6.0, "{most} standard deviations");
        }
    }
    edge.stop().await;
}
