//! Drafts without a model: what followed the last time when the text ended as it does now.

use crate::TokenId;

/// The longest end of the text that is looked for, in tokens, and the shortest that counts.
const LONGEST: usize = 8;
/// Two tokens occur again by chance too often.
const SHORTEST: usize = 3;

/// A draft by prompt look-up (n-grams; Saxena, "Prompt Lookup Decoding", 2023).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The drafted tokens, at least one.
    pub ids: Vec<TokenId>,
    /// How many tokens before them are the same in both places, at most 8: the more, the likelier the
    /// draft is right.
    pub matched: usize,
}

/// Looks for an earlier place where the last tokens of `text` stand, and drafts up to `max` of the
/// tokens that followed there; of several places the one with the longest match, then the latest.
///
/// The draft is a function of the text alone, so its `q` is a point mass: the edge accepts `x` with
/// probability `p(x)` and answers a rejection with a token of `p` without `x` ([`crate::verify`]).
/// Whether to draft this way may depend on the text and on the past, so mixing it with a drafter's
/// model, round by round, changes nothing of what is written.
#[must_use]
pub fn lookup(text: &[TokenId], max: usize) -> Option<Lookup> {
    let end = text.len();
    let (mut best, mut at) = (SHORTEST - 1, 0);
    // The last place whose continuation is in the text.
    for place in (1..end).rev() {
        let longest = LONGEST.min(place);
        let same = (1..=longest).take_while(|&i| text[place - i] == text[end - i]).count();
        if same > best {
            (best, at) = (same, place);
            if best == LONGEST {
                break;
            }
        }
    }
    if at == 0 || max == 0 {
        return None;
    }
    // What follows may run into the end of the text: then the text repeats itself.
    let period = end - at;
    let ids = (0..max).map(|i| text[at + i % period]).collect();
    Some(Lookup { ids, matched: best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u32]) -> Vec<TokenId> {
        ids.iter().map(|&i| TokenId(i)).collect()
    }

    #[test]
    fn finds_the_longest_match_and_then_the_latest() {
        let text = ids(&[9, 1, 2, 3, 7, 8, 1, 2, 3, 5, 6, 4, 1, 2, 3]);
        let found = lookup(&text, 2).unwrap();
        assert_eq!((found.ids, found.matched), (ids(&[5, 6]), 3));
        let text = ids(&[9, 1, 2, 3, 7, 8, 1, 2, 3, 5, 6, 9, 1, 2, 3]);
        let found = lookup(&text, 3).unwrap();
        assert_eq!((found.ids, found.matched), (ids(&[7, 8, 1]), 4));
    }

    #[test]
    fn a_repetition_goes_on() {
        let text = ids(&[5, 1, 2, 3, 1, 2, 3]);
        assert_eq!(lookup(&text, 7).unwrap().ids, ids(&[1, 2, 3, 1, 2, 3, 1]));
    }

    #[test]
    fn chance_is_no_draft() {
        assert_eq!(lookup(&ids(&[1, 2, 5, 1, 2]), 4), None);
        assert_eq!(lookup(&[], 4), None);
        assert_eq!(lookup(&ids(&[1, 2, 3, 1, 2, 3]), 0), None);
    }
}
