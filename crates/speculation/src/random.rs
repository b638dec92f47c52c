//! Seeded randomness addressed by place, not by order.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a random number decides. Different purposes draw from different streams, so that, for
/// example, the acceptance test is independent of the draft that it tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// The device draws a drafted token; the index is the branch.
    Draft = 1,
    /// The edge accepts or rejects a drafted token.
    Accept = 2,
    /// The edge draws the token after a fully accepted draft, or a plain token.
    Bonus = 3,
    /// The edge draws the correction itself, or samples of `p` for the device.
    Correct = 4,
    /// The device draws from the residual, or accepts one of the edge's samples.
    Residual = 5,
    /// Device and edge draw the same noise for a token of the vocabulary, its index.
    Gumbel = 6,
    /// The edge draws the token after an alternative.
    Follow = 7,
}

/// A source of uniform numbers where each belongs to (seed, purpose, position in the text, index).
///
/// Asking twice gives the same number: a resent draft meets the same verdict, and a lost verdict
/// does not let a device redraw until it likes the answer. And because numbers belong to places of
/// the text, not to rounds, it does not matter for what is written how an open draft was cut into
/// rounds. The generator is `ChaCha8`; its 64-bit stream number holds the position and the purpose,
/// its word position the index.
///
/// **Each place decides once.** A position's drafted token is tested at most once, because what
/// follows a rejection is never tested; so its `Accept` number is fresh when it is used, whatever
/// was decided before. Its `Draft` number could be asked for again after a rejection earlier in the
/// text, when an abandoned draft has already been drawn with it (and may have steered how much was
/// drafted): therefore the index of a draft is its *branch*, which counts the tokens so far that
/// were not drafted.
#[derive(Clone, Debug)]
pub struct Randomness {
    base: ChaCha8Rng,
}

impl Randomness {
    /// The randomness of one generation.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { base: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// A number in `[0, 1)` with 53 random bits.
    #[must_use]
    pub fn uniform(&self, purpose: Purpose, position: u32, index: u32) -> f64 {
        let mut rng = self.base.clone();
        rng.set_stream((u64::from(position) << 8) | u64::from(purpose as u8));
        rng.set_word_pos(u128::from(index) * 2);
        (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_always_gives_the_same_number() {
        let (a, b) = (Randomness::new(7), Randomness::new(7));
        let late = a.uniform(Purpose::Accept, 9, 3);
        let _ = b.uniform(Purpose::Draft, 1, 0);
        assert_eq!(late, b.uniform(Purpose::Accept, 9, 3));
    }

    #[test]
    fn places_seeds_and_purposes_differ_and_are_uniform() {
        let mut all = Vec::new();
        for seed in 0..4 {
            let r = Randomness::new(seed);
            for purpose in [Purpose::Draft, Purpose::Accept, Purpose::Bonus, Purpose::Residual] {
                for position in 0..20 {
                    all.extend((0..20).map(|i| r.uniform(purpose, position, i)));
                }
            }
        }
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        assert!((mean - 0.5).abs() < 0.02, "mean {mean}");
        let mut bits: Vec<u64> = all.iter().map(|u| u.to_bits()).collect();
        bits.sort_unstable();
        bits.dedup();
        assert_eq!(bits.len(), all.len(), "two places share a number");
    }
}
