//! From tokens to the text that a client may see: whole characters, and never a part of a stop string.

use super::error::ApiError;
use std::sync::Arc;
use tandem_inference::{Detokenizer, Tokenizer};
use tandem_speculation::TokenId;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// The model ended it, or a stop string came.
    Stop,
    /// As many tokens as were wanted, or as fit.
    Length,
}

impl Finish {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// An answer's text as it grows.
pub(super) struct Text {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: Stops,
    most: u32,
    /// Tokens so far, an end token included; those behind a stop string do not count.
    pub tokens: u32,
}

impl Text {
    pub(super) fn new(tokenizer: &Arc<Tokenizer>, stops: Vec<String>, most: u32) -> Self {
        let detokenizer = tokenizer.detokenizer();
        let stops = Stops { stops, held: String::new() };
        Self { tokenizer: Arc::clone(tokenizer), detokenizer, stops, most, tokens: 0 }
    }

    /// The text that may be shown now, often empty, and whether it was the last.
    ///
    /// # Errors
    /// If the ids are no text.
    pub(super) fn push(&mut self, ids: &[TokenId]) -> Result<(String, Option<Finish>), ApiError> {
        let mut text = String::new();
        for &id in ids {
            self.tokens += 1;
            let end = self.tokenizer.is_end(id);
            let last = end || self.tokens >= self.most;
            let piece = if end { Ok(String::new()) } else { self.detokenizer.push(id) };
            let piece = piece.map_err(|e| ApiError::internal(e.to_string()))?;
            let (shown, stopped) = self.stops.push(&piece);
            text.push_str(&shown);
            if stopped {
                return Ok((text, Some(Finish::Stop)));
            }
            if last {
                text.push_str(&std::mem::take(&mut self.stops.held));
                return Ok((text, Some(if end { Finish::Stop } else { Finish::Length })));
            }
        }
        Ok((text, None))
    }
}

/// Looks for stop strings; holds back what may be the beginning of one.
struct Stops {
    stops: Vec<String>,
    held: String,
}

impl Stops {
    /// The text that may be shown, and whether a stop string follows it. The one that is complete first
    /// counts, of two the longer, so that it does not matter in which pieces the text comes.
    fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let found = |stop: &String| self.held.find(stop).map(|at| (at + stop.len(), at));
        if let Some((_, at)) = self.stops.iter().filter_map(found).min() {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(at);
            return (text, true);
        }
        let from = self.stops.iter().map(|stop| beginning(&self.held, stop)).min();
        let held = self.held.split_off(from.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, held), false)
    }
}

/// Where the longest end of `text` begins that `stop` begins with.
fn beginning(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len().saturating_sub(1));
    let mut starts = (text.len() - longest..text.len()).filter(|&i| text.is_char_boundary(i));
    starts.find(|&i| stop.starts_with(&text[i..])).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut stops = Stops { stops, held: String::new() };
        let mut all = Vec::new();
        for piece in pieces {
            let (text, stopped) = stops.push(piece);
            all.push(text);
            if stopped {
                return (all, true);
            }
        }
        all.push(stops.held);
        (all, false)
    }

    #[test]
    fn a_stop_string_is_never_shown_in_part() {
        /// Stop strings, pieces, what is shown after each, and whether it ended.
        type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], bool);
        let cases: &[Case<'_>] = &[
            // Over three pieces.
            (&["END"], &["one E", "N", "D two"], &["one ", "", ""], true),
            // It only looked like one: everything comes, in order.
            (&["END"], &["one E", "N", "ough"], &["one ", "", "ENough", ""], false),
            // At the very end it is text.
            (&["END"], &["one EN"], &["one ", "EN"], false),
            // A beginning inside a beginning.
            (&["aab"], &["aa", "ab"], &["", "a"], true),
            (&["aab"], &["aaa", "c"], &["a", "aac", ""], false),
            // The one that is complete first counts, whatever the order of the list; of two the longer.
            (&["world", "lo wor"], &["hello world"], &["hel"], true),
            (&["b", "aabc"], &["xaabc"], &["xaa"], true),
            (&["b", "aab"], &["xaab"], &["x"], true),
            // While the longer may still come the shorter is held too.
            (&["xyz", "\n\n"], &["a\n", "b", "x\n", "\nc"], &["a", "\nb", "x", ""], true),
            // Characters of several bytes.
            (&["é!"], &["caf", "é", "?"], &["caf", "", "é?", ""], false),
            (&["é!"], &["caf", "é", "!?"], &["caf", "", ""], true),
            (&[], &["all", " of it"], &["all", " of it", ""], false),
        ];
        for (stops, pieces, wanted, stopped) in cases {
            let (all, ended) = shown(stops, pieces);
            assert_eq!((all.as_slice(), ended), (wanted.map_strings().as_slice(), *stopped));
        }
    }

    trait Strings {
        fn map_strings(&self) -> Vec<String>;
    }

    impl Strings for &[&str] {
        fn map_strings(&self) -> Vec<String> {
            self.iter().map(|s| (*s).to_owned()).collect()
        }
    }

    /// Every way to cut a text gives the same text up to the same place.
    #[test]
    fn how_the_text_is_cut_changes_nothing() {
        let text = "aaéabaabéaab";
        let places: Vec<usize> = text.char_indices().map(|(i, _)| i).skip(1).collect();
        for stops in [&["aab"][..], &["abé", "aa"], &["éaabx", "b"], &["x"]] {
            let (whole, ended) = shown(stops, &[text]);
            let whole = whole.concat();
            for cuts in 0..1u32 << places.len() {
                let mut from = 0;
                let mut pieces = Vec::new();
                for (i, &at) in places.iter().enumerate() {
                    if cuts >> i & 1 == 1 {
                        pieces.push(&text[from..at]);
                        from = at;
                    }
                }
                pieces.push(&text[from..]);
                let (all, stopped) = shown(stops, &pieces);
                assert_eq!((&all.concat(), stopped), (&whole, ended), "{stops:?} {pieces:?}");
            }
        }
    }
}
