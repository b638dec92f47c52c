//! Alternatives: a second token for a place of a draft, verified beside it.
//!
//! Where the drafter is not sure, its second choice often is what the verifier wants. The draft names
//! it, the edge computes one more row, the text before the place and then the alternative, and its
//! verdict of a rejection there brings one more token: what follows if the correction is the
//! alternative. It is a tree of drafts whose side branches have one token each; longer ones need rows
//! that are seldom asked for.
//!
//! **Exactness.** The correction `y` is drawn as without alternatives. The token that follows is drawn
//! by the edge from `p` given the text that ends with the alternative, with a random number of its own
//! ([`Purpose::Follow`]), and counts only if `y` is that alternative: then it is a draw from `p` given
//! the text, like a bonus token. Otherwise it is dropped, and nothing else ever depends on it. Which
//! alternative is sent, if any, may depend on the past and on the drafted tokens, all of which are
//! sent; it is a function of the drafter's logits and of no draw.

use crate::{Correction, Distribution, ProcessError, Purpose, Randomness, TokenId};
use serde::{Deserialize, Serialize};

/// A second token for a place of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alternative {
    /// The place in the draft, from 0.
    pub at: u8,
    /// Not the drafted token.
    pub id: TokenId,
}

/// The alternative for a place of a draft, if there is one.
#[must_use]
pub fn alternative_at(alternatives: &[Alternative], at: usize) -> Option<TokenId> {
    alternatives.iter().find(|a| usize::from(a.at) == at).map(|a| a.id)
}

/// The edge's token after the alternative `id` at the rejected place `at` of the text, where
/// `correction` is what the device gets for that place: `None` if the edge knows that the correction
/// is another token. `row` gives the processed distribution after the alternative.
///
/// # Errors
/// If `row` fails.
pub fn follow(
    correction: &Correction,
    id: TokenId,
    row: impl FnOnce() -> Result<Distribution, ProcessError>,
    randomness: &Randomness,
    at: u32,
) -> Result<Option<TokenId>, ProcessError> {
    match correction {
        Correction::Bonus(_) | Correction::Continue => return Ok(None),
        Correction::Token(token) if *token != id => return Ok(None),
        _ => {}
    }
    let u = randomness.uniform(Purpose::Follow, at + 1, 0);
    row().map(|p| Some(p.sample(u)))
}

/// The two most probable tokens by these logits, the lower id first among equals.
#[must_use]
pub fn two_best(logits: &[f32]) -> [TokenId; 2] {
    let mut best = [(0, f32::NEG_INFINITY); 2];
    for (id, &logit) in (0..).zip(logits) {
        if logit > best[0].1 {
            best = [(id, logit), best[0]];
        } else if logit > best[1].1 {
            best[1] = (id, logit);
        }
    }
    best.map(|b| TokenId(b.0))
}

impl Alternative {
    /// What stands beside the drafted token at a place: the best other token.
    #[must_use]
    pub fn beside(drafted: TokenId, at: usize, best: [TokenId; 2]) -> Self {
        Self { at: at as u8, id: if best[0] == drafted { best[1] } else { best[0] } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_other_token_stands_beside() {
        let best = two_best(&[1.0, 3.0, f32::NAN, 2.0, 3.0]);
        assert_eq!(best, [TokenId(1), TokenId(4)]);
        let beside = |drafted| Alternative::beside(TokenId(drafted), 2, best);
        assert_eq!(beside(1), Alternative { at: 2, id: TokenId(4) });
        assert_eq!(beside(4), Alternative { at: 2, id: TokenId(1) });
        assert_eq!(beside(3), Alternative { at: 2, id: TokenId(1) });
    }

    #[test]
    fn nothing_follows_what_is_known_to_be_another_token() {
        let follows = |correction: Correction| {
            let row = || Ok(Distribution::Point(TokenId(9)));
            follow(&correction, TokenId(4), row, &Randomness::new(1), 3).unwrap()
        };
        assert_eq!(follows(Correction::Token(TokenId(5))), None);
        assert_eq!(follows(Correction::Bonus(TokenId(4))), None);
        assert_eq!(follows(Correction::Continue), None);
        assert_eq!(follows(Correction::Token(TokenId(4))), Some(TokenId(9)));
        assert_eq!(follows(Correction::Sparse(Vec::new())), Some(TokenId(9)));
    }
}
