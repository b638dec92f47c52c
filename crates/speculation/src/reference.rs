//! Other schemes, small and pure: baselines that the default is compared with and tested against.

use crate::{Correction, Distribution, Purpose, Randomness, TokenId, Verdict, accepts};

/// DSD, the distributed baseline: the device sends each whole `q_i` up, and the edge does all of
/// speculative sampling (Leviathan et al., arXiv 2211.17192), residual included.
///
/// `p` has one row more than `ids` and `q`; `position` is the first drafted token's place in the text.
///
/// # Panics
/// If the lengths do not fit.
#[must_use]
pub fn dsd_verify(
    ids: &[TokenId],
    q: &[Distribution],
    p: &[Distribution],
    randomness: &Randomness,
    position: u32,
) -> Verdict {
    assert!(ids.len() == q.len() && p.len() == ids.len() + 1);
    for (i, &x) in ids.iter().enumerate() {
        let at = position + i as u32;
        let u = randomness.uniform(Purpose::Accept, at, 0);
        if !accepts(u, p[i].probability(x), q[i].probability(x)) {
            let u = randomness.uniform(Purpose::Correct, at, 0);
            let token = p[i].sample_residual(&q[i], u);
            return Verdict { accepted: i, correction: Correction::Token(token) };
        }
    }
    let end = position + ids.len() as u32;
    let token = p[ids.len()].sample(randomness.uniform(Purpose::Bonus, end, 0));
    Verdict { accepted: ids.len(), correction: Correction::Bonus(token) }
}

/// Greedy drafting, verified without any `q`: the edge draws its own token at every position and
/// accepts drafts while they agree. Exact for every drafter, because the output *is* the edge's
/// draws, the same whatever was drafted; accepts with probability `p(x)`, less than the maximal
/// coupling's `min(1, p/q)`.
///
/// # Panics
/// If `p` has not one row more than `ids`.
#[must_use]
pub fn greedy_verify(
    ids: &[TokenId],
    p: &[Distribution],
    randomness: &Randomness,
    position: u32,
) -> Verdict {
    assert_eq!(p.len(), ids.len() + 1);
    let draw = |i: usize| p[i].sample(randomness.uniform(Purpose::Correct, position + i as u32, 0));
    for (i, &x) in ids.iter().enumerate() {
        let token = draw(i);
        if token != x {
            return Verdict { accepted: i, correction: Correction::Token(token) };
        }
    }
    Verdict { accepted: ids.len(), correction: Correction::Bonus(draw(ids.len())) }
}
