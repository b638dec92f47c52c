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
    let draw = |i: usize| p[i].sample(randomness.uniform(Purpose::Correct, position + i as u32, 0));
    compare(ids, p, draw)
}

/// Draws from `p` with the noise of a place of the text: the token of the least `E(x)/p(x)`, where
/// the `E` are exponential (the Gumbel-max trick, in another form of the same race). Two
/// distributions that are near to each other mostly give the same token at the same place.
#[must_use]
pub fn gumbel_draw(p: &Distribution, randomness: &Randomness, at: u32) -> TokenId {
    let time = |(id, probability): (TokenId, f32)| {
        let u = randomness.uniform(Purpose::Gumbel, at, id.0);
        (-(1.0 - u).ln() / f64::from(probability), id)
    };
    p.support()
        .map(time)
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(|| p.sample(0.0), |first| first.1)
}

/// Gumbel coupling with a shared seed (Daliri et al., arXiv 2408.07978): the device drafts by
/// [`gumbel_draw`] from its `q`, the edge draws in the same way from `p` and accepts drafts while
/// they agree. No probability crosses the wire, and the text for a seed is the same whatever was
/// drafted, so it is exact for the reason of [`greedy_verify`].
///
/// # Panics
/// If `p` has not one row more than `ids`.
#[must_use]
pub fn gumbel_verify(
    ids: &[TokenId],
    p: &[Distribution],
    randomness: &Randomness,
    position: u32,
) -> Verdict {
    compare(ids, p, |i| gumbel_draw(&p[i], randomness, position + i as u32))
}

/// Accepts drafts while they are what the edge draws.
fn compare(ids: &[TokenId], p: &[Distribution], draw: impl Fn(usize) -> TokenId) -> Verdict {
    assert_eq!(p.len(), ids.len() + 1);
    for (i, &x) in ids.iter().enumerate() {
        let token = draw(i);
        if token != x {
            return Verdict { accepted: i, correction: Correction::Token(token) };
        }
    }
    Verdict { accepted: ids.len(), correction: Correction::Bonus(draw(ids.len())) }
}
