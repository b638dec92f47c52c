//! Finding tokens that are recognised whole in a text: control tokens, and those that a vocabulary
//! defines beside what its merges make.

use aho_corasick::{AhoCorasick, BuildError, Input, MatchKind};
use std::ops::Range;

/// A token that is recognised whole.
pub(super) struct Special {
    pub id: u32,
    pub text: String,
    /// It steers the model and is no text: recognised only where that is allowed.
    pub control: bool,
}

/// Of several that begin in one place the longest is found.
struct Finder {
    automaton: AhoCorasick,
    tokens: Vec<(u32, bool)>,
}

impl Finder {
    /// `None` if there is nothing to find.
    fn new<'a>(specials: impl Iterator<Item = &'a Special>) -> Result<Option<Self>, BuildError> {
        let (texts, tokens): (Vec<&str>, Vec<_>) =
            specials.map(|s| (s.text.as_str(), (s.id, s.control))).unzip();
        if texts.is_empty() {
            return Ok(None);
        }
        let automaton =
            AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts)?;
        Ok(Some(Self { automaton, tokens }))
    }

    fn find(&self, text: &str, from: usize) -> Option<Found> {
        let found = self.automaton.find(Input::new(text).range(from..))?;
        let (id, control) = self.tokens[found.pattern().as_usize()];
        Some(Found { id, control, at: found.range() })
    }
}

/// A token in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub id: u32,
    pub control: bool,
    /// Its bytes in the text.
    pub at: Range<usize>,
}

/// What finds the tokens of a vocabulary.
pub(super) struct Specials {
    all: Option<Finder>,
    /// Those that are text wherever they stand.
    plain: Option<Finder>,
}

impl Specials {
    /// # Errors
    /// If they are too many to be found.
    pub(super) fn new(specials: &[Special]) -> Result<Self, BuildError> {
        let plain = Finder::new(specials.iter().filter(|s| !s.control))?;
        Ok(Self { all: Finder::new(specials.iter())?, plain })
    }

    /// All tokens in `text`, in order; control tokens only where `allowed` says so.
    pub(super) fn find(&self, text: &str, allowed: &dyn Fn(&Range<usize>) -> bool) -> Vec<Found> {
        let plain = |from| self.plain.as_ref().and_then(|f| f.find(text, from));
        // A control token that is not allowed may hide one behind its first byte, and a shorter
        // plain one: that is what the second search is for.
        let any = |mut from| {
            let all = self.all.as_ref()?;
            loop {
                let found = all.find(text, from)?;
                if !found.control || allowed(&found.at) {
                    return Some(found);
                }
                from = found.at.start + 1;
            }
        };
        let (mut found, mut next_plain, mut next_any) = (Vec::new(), plain(0), any(0));
        loop {
            let first = match (&next_any, &next_plain) {
                (None, None) => return found,
                (Some(one), None) | (None, Some(one)) => one,
                (Some(a), Some(b)) => {
                    let key = |f: &Found| (f.at.start, usize::MAX - f.at.end);
                    if key(a) <= key(b) { a } else { b }
                }
            };
            let (first, end) = (first.clone(), first.at.end);
            found.push(first);
            let behind = |f: &Option<Found>| f.as_ref().is_none_or(|f| f.at.start >= end);
            if !behind(&next_plain) {
                next_plain = plain(end);
            }
            if !behind(&next_any) {
                next_any = any(end);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    fn specials(all: &[(&str, bool)]) -> Specials {
        let special = |(i, (text, control)): (usize, &(&str, bool))| Special {
            id: i as u32,
            text: (*text).to_owned(),
            control: *control,
        };
        Specials::new(&all.iter().enumerate().map(special).collect::<Vec<_>>()).unwrap()
    }

    fn found(specials: &Specials, text: &str, control: bool) -> Vec<(u32, usize)> {
        specials.find(text, &|_| control).into_iter().map(|f| (f.id, f.at.start)).collect()
    }

    #[test]
    fn control_tokens_are_found_where_they_are_allowed_and_others_everywhere() {
        let s = specials(&[("<|end|>", true), ("<tool>", false), ("end", false), ("\n\n", false)]);
        let text = "a<|end|>b<tool>\n\n\n";
        assert_eq!(found(&s, text, true), [(0, 1), (1, 9), (3, 15)]);
        assert_eq!(found(&s, text, false), [(2, 3), (1, 9), (3, 15)]);
        let second = specials(&[("<|end|>", true)]);
        let at = second.find("<|end|><|end|>", &|at| at.start > 0);
        assert_eq!(at.iter().map(|f| f.at.start).collect::<Vec<_>>(), [7]);
        assert!(found(&specials(&[]), text, true).is_empty());
    }

    #[test]
    fn of_those_in_one_place_the_longest_is_found() {
        let s = specials(&[("\n", false), ("\n\n", false), ("\n\n\n", true)]);
        assert_eq!(found(&s, "\n\n\n\n", true), [(2, 0), (0, 3)]);
        assert_eq!(found(&s, "\n\n\n\n", false), [(1, 0), (1, 2)]);
    }
}
