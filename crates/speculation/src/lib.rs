//! The mathematics of distributed split speculative decoding (DSSD, arXiv 2507.12000).
//!
//! A *drafter* proposes tokens `x_i ~ q_i`; a *verifier* knows `p_i`, accepts a prefix, and at the
//! first rejection the drafter's side finishes by sampling the residual `norm(max(0, p - q))`. What
//! comes out is distributed as the verifier alone would have it.
//!
//! **Invariant: no I/O, no clock, no model.** Everything here is a function of its arguments; all
//! randomness comes from a seed and the place of the decision ([`Randomness`]), so that a repeated
//! message repeats its outcome.
//!
//! The parts, in the order in which a round uses them: [`process`] turns logits into a
//! [`Distribution`]; [`verify`] accepts drafts and chooses the smallest exact [`Correction`];
//! [`follow`] adds a token where an [`Alternative`] is right; [`Resolver`] finishes on the device;
//! [`DraftLength`] picks the next γ, [`DraftStop`] may end a draft
//! before, and [`Planner`] says whether to draft at all.

mod alternative;
mod distribution;
mod draft_length;
mod lookup;
mod planner;
mod random;
mod reference;
mod replay;
mod resolve;
mod sampling;
mod stop;
mod verify;

pub use alternative::{Alternative, alternative_at, follow, two_best};
pub use distribution::{Distribution, DistributionError};
pub use draft_length::{DraftLength, RoundTimes};
pub use lookup::{Lookup, lookup};
pub use planner::{Change, MAX_CHOSEN, Modelled, Planner, Source, Way};
pub use random::{Purpose, Randomness};
pub use reference::{dsd_verify, greedy_verify, gumbel_draw, gumbel_verify};
pub use replay::MAX_IN_FLIGHT;
pub use resolve::{Resolution, ResolveError, Resolver};
pub use sampling::{ProcessError, Sampling, SamplingError, confidence, process};
pub use stop::{Calibration, DraftStop};
pub use verify::{
    Correction, FIRST_SAMPLES, MAX_SPARSE, MORE_SAMPLES, Outcome, Verdict, VerifyError, accepts,
    more, verify,
};

use serde::{Deserialize, Serialize};

/// The id of a token in a vocabulary.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TokenId(pub u32);

impl TokenId {
    /// The id as an index.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How many tokens two texts begin with together.
#[must_use]
pub fn common_beginning(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl std::fmt::Display for TokenId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
