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

/// The most probable token by these logits beside `drafted`: the lowest id among equals. `None` if
/// there is no other token with a finite logit.
#[must_use]
pub fn second_choice(logits: &[f32], drafted: TokenId) -> Option<TokenId> {
    let mut best = None;
    let mut most = f32::NEG_INFINITY;
    for (id, &logit) in (0..).zip(logits) {
        if logit > most && id != drafted.0 {
            (best, most) = (Some(TokenId(id)), logit);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_choice_is_the_best_other_token() {
        let logits = [1.0, 3.0, 2.0, 3.0];
        let second = |drafted| second_choice(&logits, TokenId(drafted));
        assert_eq!(second(1), Some(TokenId(3)));
        assert_eq!(second(2), Some(TokenId(1)));
        assert_eq!(second_choice(&[f32::NAN, 1.0], TokenId(1)), None);
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
