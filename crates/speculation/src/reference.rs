//! Other schemes, small and pure: baselines that the default is compared with and tested against.

use crate::{Correction, Distribution, Purpose, Randomness, TokenId, Verdict, accepts};

/// DSD, the distributed baseline: the device sends each whole `q_i` up, and the edge does all of
/// speculative sampling (Leviathan et al., arXiv 2211.17192), residual included.
///
/// `p` has one row more than `ids` and `q`.
///
/// # Panics
/// If the lengths do not fit.
#[must_use]
pub fn dsd_verify(
    ids: &[TokenId],
    q: &[Distribution],
    p: &[Distribution],
    randomness: &Randomness,
    round: u32,
) -> Verdict {
    assert!(ids.len() == q.len() && p.len() == ids.len() + 1);
    for (i, &x) in ids.iter().enumerate() {
        let u = randomness.uniform(Purpose::Accept, round, i as u32);
        if !accepts(u, p[i].probability(x), q[i].probability(x)) {
            let u = randomness.uniform(Purpose::Correct, round, 0);
            let token = p[i].sample_residual(&q[i], u);
            return Verdict { accepted: i, correction: Correction::Token(token) };
        }
    }
    let token = p[ids.len()].sample(randomness.uniform(Purpose::Bonus, round, 0));
    Verdict { accepted: ids.len(), correction: Correction::Bonus(token) }
}

/// Greedy drafting, verified without any `q`: the edge draws its own token at every position and
/// accepts drafts while they agree. Exact for every drafter, because the output *is* the edge's
/// draws; accepts with probability `p(x)`, less than the maximal coupling's `min(1, p/q)`.
///
/// # Panics
/// If `p` has not one row more than `ids`.
#[must_use]
pub fn greedy_verify(
    ids: &[TokenId],
    p: &[Distribution],
    randomness: &Randomness,
    round: u32,
) -> Verdict {
    assert_eq!(p.len(), ids.len() + 1);
    for (i, &x) in ids.iter().enumerate() {
        let token = p[i].sample(randomness.uniform(Purpose::Correct, round, i as u32));
        if token != x {
            return Verdict { accepted: i, correction: Correction::Token(token) };
        }
    }
    let token = p[ids.len()].sample(randomness.uniform(Purpose::Bonus, round, 0));
    Verdict { accepted: ids.len(), correction: Correction::Bonus(token) }
}
