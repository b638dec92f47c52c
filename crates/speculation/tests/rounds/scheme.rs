//! Two small models, and whole rounds of each scheme between them: right, and wrong in ways that a
//! statistical test must notice.

use tandem_speculation::{
    Alternative, Correction, Distribution, Outcome, Purpose, Randomness, Resolution, Resolver,
    Sampling, TokenId, Verdict, accepts, alternative_at, dsd_verify, follow, greedy_verify,
    gumbel_draw, gumbel_verify, more, process, two_best, verify,
};

/// Two first-order Markov models over one vocabulary: row `t` is what follows token `t`.
pub struct Pair {
    pub p: Vec<Distribution>,
    pub q: Vec<Distribution>,
    /// q as it would be without the drafter's own sampling parameters: what a careless device
    /// sends.
    pub unprocessed: Vec<Distribution>,
}

impl Pair {
    /// Models whose logits differ by `apart` times a random number.
    pub fn new(vocab: usize, apart: f32, verifier: Sampling, drafter: Sampling) -> Self {
        let random = Randomness::new(2024);
        let number = |model: u32, row: usize, id: usize| {
            random.uniform(Purpose::Draft, model, (row * vocab + id) as u32) as f32 * 2.0 - 1.0
        };
        let row = |apart: f32, row: usize, sampling: &Sampling| {
            let mut logits: Vec<f32> = (0..vocab)
                .map(|id| 2.0 * number(0, row, id) + apart * number(1, row, id))
                .collect();
            process(&mut logits, sampling, &[]).expect("finite logits")
        };
        let all = |apart: f32, sampling: Sampling| {
            (0..vocab).map(|i| row(apart, i, &sampling)).collect::<Vec<_>>()
        };
        let plain = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        Self { p: all(0.0, verifier), q: all(apart, drafter), unprocessed: all(apart, plain) }
    }

    pub fn vocab(&self) -> usize {
        self.p.len()
    }

    /// The probability that the verifier alone gives to each text of `length` tokens after token
    /// 0, texts counted like numbers in base `vocab`.
    pub fn texts(&self, length: usize) -> Vec<f64> {
        let mut texts = vec![(0, 1.0)];
        for _ in 0..length {
            texts = texts
                .iter()
                .flat_map(|&(last, mass): &(usize, f64)| {
                    let row = &self.p[last];
                    let total: f64 = row.support().map(|e| f64::from(e.1)).sum();
                    (0..self.vocab()).map(move |id| {
                        (id, mass * f64::from(row.probability(TokenId(id as u32))) / total)
                    })
                })
                .collect();
        }
        texts.into_iter().map(|t| t.1).collect()
    }
}

/// Who sends what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scheme {
    /// DSSD with the smallest exact answer.
    Split,
    /// DSSD where each rejection is answered with the whole vector, as the paper does.
    SplitFull,
    /// Full q uplink.
    Dsd,
    /// The edge draws its own tokens and compares.
    Greedy,
    /// Drafts and draws with the same noise, compared by the edge.
    Gumbel,
    /// DSSD with open drafts: no bonus token, the next draft goes on.
    Open,
    /// What the device really does: plain steps, drafts in turns and open ones, by the drafter and
    /// by look-up, as the past suggests.
    Mixed,
    /// DSSD, open and not, with alternatives beside unsure tokens.
    Beside,
}

/// What is wrong with a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// Nothing wrong: verdicts are lost and drafts sent again, which must change nothing.
    Resent,
    /// Every draft is accepted.
    AlwaysAccept,
    /// Accepted with `min(1, q/p)`.
    SwappedRatio,
    /// The q that is sent is not the one that was sampled from.
    WrongQ,
    /// The residual is `norm(max(0, q - p))`.
    ResidualSign,
    /// A rejected draft is replaced by a token of p.
    NoResidual,
    /// A rejected draft is sent again and verified with fresh random numbers, three times at most.
    Redrawn,
    /// The first of the samples is taken without a test.
    FirstSample,
    /// A drafted token that its own model finds unlikely is thrown away and drawn again later.
    PicksDrafts,
    /// What follows an alternative is taken whatever the correction is.
    FollowsAnyway,
    /// It is drawn as if the drafted token were in its place.
    FollowsDraft,
    /// It is taken only where it is likely.
    PicksWhatFollows,
    /// A looked-up draft is sent with the drafter's probability instead of 1.
    LookupWithQ,
}

/// How often each form of answer finished a round.
#[derive(Default, Debug)]
pub struct Tally {
    pub rounds: u64,
    pub bonus: u64,
    pub token: u64,
    pub sparse: u64,
    pub sampled: u64,
    pub full: u64,
    pub open: u64,
    pub followed: u64,
}

impl Tally {
    fn count(&mut self, outcome: Outcome) {
        self.rounds += 1;
        *match outcome {
            Outcome::Bonus => &mut self.bonus,
            Outcome::Token => &mut self.token,
            Outcome::Sparse => &mut self.sparse,
            Outcome::Sampled => &mut self.sampled,
            Outcome::Full => &mut self.full,
            Outcome::Continue => &mut self.open,
        } += 1;
    }
}

/// One generation of at least `length` tokens after token 0, drafted `gamma` at a time. Device and
/// edge share a seed here, the worst case for the independence of their decisions.
pub fn generate(
    pair: &Pair,
    (scheme, fault): (Scheme, Fault),
    gamma: usize,
    length: usize,
    seed: u64,
    tally: &mut Tally,
) -> Vec<TokenId> {
    let random = Randomness::new(seed);
    let mut text = vec![TokenId(0)];
    let (mut branch, mut before) = (0, 0);
    while text.len() <= length {
        let position = text.len() as u32;
        let mut rows = vec![text[text.len() - 1].index()];
        // The past decides: the text and how many drafts were accepted.
        let beside = scheme == Scheme::Beside;
        let step = if scheme == Scheme::Mixed { (rows[0] + before) % 4 } else { 4 };
        let scheme = match step {
            0 | 1 | 3 => Scheme::Split,
            2 => Scheme::Open,
            _ if beside && (rows[0] + before) % 2 == 0 => Scheme::Open,
            _ => scheme,
        };
        let gamma = if step == 0 { 0 } else { gamma };
        let looked_up = step == 3;
        let mut alternatives = Vec::new();
        for i in 0..gamma {
            if looked_up {
                rows.push((rows[i] + 2) % pair.vocab());
                continue;
            }
            let at = position + i as u32;
            let q = &pair.q[rows[i]];
            let x = match scheme {
                Scheme::Gumbel => gumbel_draw(q, &random, at),
                _ => q.sample(random.uniform(Purpose::Draft, at, branch)),
            };
            if fault == Fault::PicksDrafts && i > 0 && q.probability(x) < 0.4 {
                // Drawn with other numbers next time, which is the mistake.
                branch += 1000;
                break;
            }
            rows.push(x.index());
            let sure = &pair.unprocessed[rows[i]];
            if beside && sure.probability(x) < 0.6 {
                let logits: Vec<f32> =
                    (0..pair.vocab() as u32).map(|id| sure.probability(TokenId(id))).collect();
                alternatives.push(Alternative::beside(x, i, two_best(&logits)));
            }
            // A draft may end after a token that is unlikely, as long as the token is sent.
            if scheme == Scheme::Open && q.probability(x) < 0.4 {
                break;
            }
        }
        let gamma = rows.len() - 1;
        let ids: Vec<TokenId> = rows[1..].iter().map(|&t| TokenId(t as u32)).collect();
        let points: Vec<Distribution>;
        let drawn_from = if looked_up {
            points = ids.iter().map(|&x| Distribution::Point(x)).collect();
            points.iter().collect()
        } else {
            let sent = if fault == Fault::WrongQ { &pair.unprocessed } else { &pair.q };
            rows[..gamma].iter().map(|&r| &sent[r]).collect::<Vec<_>>()
        };
        let verdict = answer(pair, (scheme, fault), &rows, &ids, &drawn_from, &random, position);
        let accepted = verdict.accepted;
        before = accepted;
        let (p, rejected) = (&pair.p[rows[accepted]], accepted < gamma);
        let q = match drawn_from.get(accepted) {
            Some(q) if fault != Fault::WrongQ => *q,
            _ => &pair.q[rows[accepted]],
        };
        if verdict.correction == Correction::Continue {
            assert!(scheme == Scheme::Open && accepted == gamma);
            tally.count(Outcome::Continue);
            text.extend(&ids);
            continue;
        }
        branch += 1;
        let at = position + accepted as u32;
        let u = random.uniform(Purpose::Residual, at, 999);
        let correction = verdict.correction.clone();
        let (next, outcome) = match (fault, verdict.correction) {
            (Fault::ResidualSign, c) if rejected => (q.sample_residual(p, u), c.outcome()),
            (Fault::NoResidual, c) if rejected => (p.sample(u), c.outcome()),
            (Fault::FirstSample, Correction::Sampled(s)) => (s[0].0, Outcome::Sampled),
            (_, c) => resolve(p, rejected.then_some(q), c, &random, at, pair.vocab()),
        };
        tally.count(outcome);
        text.extend(&ids[..accepted]);
        text.push(next);
        let Some(other) = alternative_at(&alternatives, accepted).filter(|_| rejected) else {
            continue;
        };
        let behind = match fault {
            Fault::FollowsDraft => &pair.p[ids[accepted].index()],
            _ => &pair.p[other.index()],
        };
        let following =
            follow(&correction, other, || Ok(behind.clone()), &random, at).expect("a row");
        let right = next == other;
        let left_out = right && following.is_none();
        assert!(!left_out || fault != Fault::None, "the edge leaves nothing out");
        let taken = match fault {
            Fault::FollowsAnyway => true,
            Fault::PicksWhatFollows => {
                right && following.is_some_and(|z| behind.probability(z) > 0.3)
            }
            _ => right,
        };
        if let Some(z) = following.filter(|_| taken) {
            tally.followed += 1;
            text.push(z);
        }
    }
    text.remove(0);
    text
}

/// The device's part, asking for more as long as it must.
pub fn resolve(
    p: &Distribution,
    q: Option<&Distribution>,
    mut correction: Correction,
    random: &Randomness,
    at: u32,
    vocab: usize,
) -> (TokenId, Outcome) {
    let mut resolver = Resolver::new(q, random, at, vocab);
    for asked in 1.. {
        let outcome = correction.outcome();
        match resolver.resolve(correction).expect("the answer fits") {
            Resolution::Token(token) => return (token, outcome),
            Resolution::NeedMore => correction = more(p, random, at, asked, vocab),
        }
    }
    unreachable!("the whole vector leaves nothing to ask for")
}

/// The edge's part; `rows[i]` is the context of the i-th draft, the last one that after them.
fn answer(
    pair: &Pair,
    (scheme, fault): (Scheme, Fault),
    rows: &[usize],
    ids: &[TokenId],
    q: &[&Distribution],
    random: &Randomness,
    position: u32,
) -> Verdict {
    let gamma = ids.len();
    let p: Vec<Distribution> = rows.iter().map(|&r| pair.p[r].clone()).collect();
    let scalar = |i: usize| match fault {
        Fault::LookupWithQ => pair.q[rows[i]].probability(ids[i]),
        _ => q[i].probability(ids[i]),
    };
    let scalars: Vec<f32> = (0..gamma).map(scalar).collect();
    let full = |i: usize| more(&p[i], random, position + i as u32, 2, pair.vocab());
    let verify_with = |random: &Randomness, position| match scheme {
        Scheme::Dsd => {
            let q: Vec<Distribution> = q.iter().map(|&q| q.clone()).collect();
            dsd_verify(ids, &q, &p, random, position)
        }
        Scheme::Greedy => greedy_verify(ids, &p, random, position),
        Scheme::Gumbel => gumbel_verify(ids, &p, random, position),
        Scheme::Split | Scheme::SplitFull | Scheme::Open | Scheme::Mixed | Scheme::Beside => {
            let open = scheme == Scheme::Open && gamma > 0;
            let mut v = verify(ids, &scalars, open, |i| Ok(p[i].clone()), random, position)
                .expect("scalars are in range");
            if scheme == Scheme::SplitFull && v.accepted < gamma {
                v.correction = full(v.accepted);
            }
            v
        }
    };
    let end = position + gamma as u32;
    let bonus = || Correction::Bonus(p[gamma].sample(random.uniform(Purpose::Bonus, end, 0)));
    match fault {
        Fault::AlwaysAccept => Verdict { accepted: gamma, correction: bonus() },
        Fault::SwappedRatio => {
            let passes = |&i: &usize| {
                let u = random.uniform(Purpose::Accept, position + i as u32, 0);
                accepts(u, scalars[i], p[i].probability(ids[i]))
            };
            let accepted = (0..gamma).take_while(passes).count();
            let correction = if accepted < gamma { full(accepted) } else { bonus() };
            Verdict { accepted, correction }
        }
        Fault::Resent => {
            let first = verify_with(random, position);
            assert_eq!(first, verify_with(random, position), "a resend changed the verdict");
            first
        }
        Fault::Redrawn => {
            let mut v = verify_with(random, position);
            for again in 1..=3 {
                if v.accepted == gamma {
                    break;
                }
                v = verify_with(random, position + 1000 * again);
            }
            v
        }
        _ => verify_with(random, position),
    }
}
