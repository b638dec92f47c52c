//! The edge's half of a round: accept a prefix, and choose the smallest exact answer.

use crate::{Distribution, ProcessError, Purpose, Randomness, TokenId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A processed distribution with at most this support is sent whole.
pub const MAX_SPARSE: usize = 32;
/// Samples of `p` in a first answer. A round needs more with probability below 1/(e·K).
pub const FIRST_SAMPLES: usize = 32;
/// Samples in a second answer, after which the whole vector is sent: 8 kB, so that the 600 kB of a
/// vector are needed by less than one round in 2,800 (1/(e·1056)), and in fact much more rarely.
pub const MORE_SAMPLES: usize = 1024;

/// What the device needs, beside the accepted prefix, to know the next token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Correction {
    /// All drafts were accepted; this token follows them.
    Bonus(TokenId),
    /// The first rejected draft is replaced by this token.
    Token(TokenId),
    /// `p` at the rejected position: its whole support.
    Sparse(Vec<(TokenId, f32)>),
    /// Independent samples of `p` at the rejected position, each with its probability.
    Sampled(Vec<(TokenId, f32)>),
    /// `p` at the rejected position: one probability for each id.
    Full(Vec<f32>),
    /// All tokens of an open draft were accepted; the next draft goes on where it ended.
    Continue,
}

impl Correction {
    /// Its form, as it is recorded.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Bonus(_) => Outcome::Bonus,
            Self::Token(_) => Outcome::Token,
            Self::Sparse(_) => Outcome::Sparse,
            Self::Sampled(_) => Outcome::Sampled,
            Self::Full(_) => Outcome::Full,
            Self::Continue => Outcome::Continue,
        }
    }
}

/// The form of a [`Correction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A token after a fully accepted draft.
    Bonus,
    /// The edge drew the correction.
    Token,
    /// A small support.
    Sparse,
    /// Samples of `p`.
    Sampled,
    /// The whole vector.
    Full,
    /// No token: an open draft was accepted.
    Continue,
}

impl Outcome {
    /// The name that is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bonus => "bonus",
            Self::Token => "token",
            Self::Sparse => "sparse",
            Self::Sampled => "sampled",
            Self::Full => "full",
            Self::Continue => "continue",
        }
    }
}

/// The answer to one draft.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// How many drafted tokens were accepted, from the first.
    pub accepted: usize,
    /// What follows them.
    pub correction: Correction,
}

/// Why a draft cannot be verified.
#[derive(Debug, Error, PartialEq)]
pub enum VerifyError {
    /// As many scalars as ids are needed.
    #[error("{ids} drafted tokens came with {scalars} probabilities")]
    Length {
        /// Drafted tokens.
        ids: usize,
        /// Scalars.
        scalars: usize,
    },
    /// A drafted token has a probability above 0 and at most 1.
    #[error("drafted token {position} has q = {q}; it must be above 0 and at most 1")]
    Scalar {
        /// Position in the draft, from 0.
        position: usize,
        /// The number.
        q: f32,
    },
    /// The model's logits are broken.
    #[error(transparent)]
    Logits(#[from] ProcessError),
}

/// The acceptance test: true with probability `min(1, p/q)` for `u` uniform in `[0, 1)`.
///
/// Written as `u·q < p` so that nothing is divided; in `f64`, where the product of the scalars is
/// exact enough that p ≥ q always accepts.
#[must_use]
pub fn accepts(u: f64, p: f32, q: f32) -> bool {
    u * f64::from(q) < f64::from(p)
}

/// Verifies the draft `ids` with scalars `q[i] = q_i(ids[i])` of one round; `position` is the first
/// drafted token's place in the text.
///
/// `row(i)` gives the processed distribution `p_i` at the i-th drafted position, `row(ids.len())`
/// the one after the draft; rows after a rejection are never asked for. An empty draft gives one
/// token of `p`: plain decoding is a round without drafts.
///
/// An *open* draft is one that the device goes on with while the verdict is on its way: when all of
/// it is accepted no bonus token is drawn, and `row(ids.len())` is not asked for, because the next
/// draft's first token is tested at that position. Nothing is lost: tested, it is accepted with the
/// same probability as every other, and a bonus would have thrown it away unless it was guessed.
///
/// **Exactness.** A draft `x ~ q` survives with probability `min(q(x), p(x))`; a rejection happens
/// with probability `TV(p, q)` and is answered so that the device ends with a token of
/// `norm(max(0, p - q))`, whose mass is `max(0, p(x) - q(x))`: together p(x). Which form of answer
/// is used depends on `p` and on whether q is a point mass, never on a random draw, so the choice
/// conditions nothing. A token that follows an open draft is a drafted one like any other.
///
/// `q[i] = 1` says that `q_i` is a point mass: [`crate::process`] turns every distribution in which
/// a probability rounds to 1 into one. Its residual is `p` without that token, which the edge can
/// draw alone.
///
/// # Errors
/// If scalars are missing or outside (0, 1], or `row` fails.
pub fn verify(
    ids: &[TokenId],
    q: &[f32],
    open: bool,
    mut row: impl FnMut(usize) -> Result<Distribution, ProcessError>,
    randomness: &Randomness,
    position: u32,
) -> Result<Verdict, VerifyError> {
    if ids.len() != q.len() {
        return Err(VerifyError::Length { ids: ids.len(), scalars: q.len() });
    }
    if let Some(position) = q.iter().position(|q| !(*q > 0.0 && *q <= 1.0)) {
        return Err(VerifyError::Scalar { position, q: q[position] });
    }
    for (i, (&x, &q)) in ids.iter().zip(q).enumerate() {
        let (p, at) = (row(i)?, position + i as u32);
        if !accepts(randomness.uniform(Purpose::Accept, at, 0), p.probability(x), q) {
            return Ok(Verdict { accepted: i, correction: correct(p, x, q, randomness, at) });
        }
    }
    if open {
        return Ok(Verdict { accepted: ids.len(), correction: Correction::Continue });
    }
    let u = randomness.uniform(Purpose::Bonus, position + ids.len() as u32, 0);
    let token = row(ids.len())?.sample(u);
    Ok(Verdict { accepted: ids.len(), correction: Correction::Bonus(token) })
}

/// The smallest exact answer to the rejection of `x` with `q(x) = q`.
fn correct(p: Distribution, x: TokenId, q: f32, randomness: &Randomness, at: u32) -> Correction {
    if q == 1.0 {
        let u = randomness.uniform(Purpose::Correct, at, 0);
        return Correction::Token(p.sample_residual(&Distribution::Point(x), u));
    }
    match p {
        // x was rejected, so x is not this token, and the residual is all on it.
        Distribution::Point(token) => Correction::Token(token),
        Distribution::Sparse(entries) if entries.len() <= MAX_SPARSE => Correction::Sparse(entries),
        p => Correction::Sampled(samples(&p, randomness, at, 0, FIRST_SAMPLES)),
    }
}

/// The answer to a device that took none of the samples so far; `asked` counts such requests, from
/// 1. First more samples, independent of the earlier ones, then the whole vector.
///
/// `at` is the rejected token's place in the text, `vocab` the length of the vector.
#[must_use]
pub fn more(
    p: &Distribution,
    randomness: &Randomness,
    at: u32,
    asked: u32,
    vocab: usize,
) -> Correction {
    if asked <= 1 {
        return Correction::Sampled(samples(p, randomness, at, FIRST_SAMPLES, MORE_SAMPLES));
    }
    let mut full = vec![0.0; vocab];
    for (id, probability) in p.support() {
        full[id.index()] = probability;
    }
    Correction::Full(full)
}

fn samples(
    p: &Distribution,
    randomness: &Randomness,
    at: u32,
    first: usize,
    count: usize,
) -> Vec<(TokenId, f32)> {
    let u: Vec<f64> = (first..first + count)
        .map(|i| randomness.uniform(Purpose::Correct, at, i as u32))
        .collect();
    p.sample_many(&u).into_iter().map(|id| (id, p.probability(id))).collect()
}
