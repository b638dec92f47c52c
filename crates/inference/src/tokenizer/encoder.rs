//! Plain text to ids, and the text of each id: byte-pair encoding and SentencePiece, as llama.cpp
//! computes them.

use super::merge::merge;
use super::rules::Cutter;
use super::vocabulary::{Joining, Kind, Merges, Vocabulary};
use std::cmp::Reverse;
use std::collections::HashMap;

/// What SentencePiece writes for a space.
const SPACE: char = '\u{2581}';

/// Turns text without special tokens into ids.
pub(super) enum Encoder {
    Ranks {
        cutter: Cutter,
        /// The token of each byte.
        bytes: Box<[Option<u32>; 256]>,
        merges: Merges,
        /// Words that are one token, whatever the merges say.
        words: HashMap<Vec<u8>, u32>,
    },
    Scores {
        /// Tokens by their text, with a number that orders their scores.
        pieces: HashMap<String, (i32, u32)>,
        bytes: Box<[Option<u32>; 256]>,
        /// The token for what has none.
        unknown: Option<u32>,
        /// A text begins with a space, and so does one behind a special token.
        space_first: bool,
    },
}

impl Encoder {
    /// # Errors
    /// Says what is missing.
    pub(super) fn new(vocabulary: Vocabulary) -> Result<Self, String> {
        let Vocabulary { tokens, kinds, joining, unknown, .. } = vocabulary;
        let texts = || {
            let all = tokens.iter().zip(&kinds).enumerate();
            all.map(|(id, (text, kind))| (id as u32, text.as_str(), *kind))
        };
        let mut bytes = Box::new([None; 256]);
        match joining {
            Joining::Ranks { rule, merges } => {
                let cutter = Cutter::new(&rule).map_err(|e| e.to_string())?;
                let mut words = HashMap::new();
                for (id, text, kind) in texts().filter(|(.., kind)| kind.is_text()) {
                    let piece = bytes_of_pair_encoding(text, kind);
                    match piece[..] {
                        [byte] if kind == Kind::Normal => bytes[usize::from(byte)] = Some(id),
                        _ => {}
                    }
                    if rule.whole_words && kind == Kind::Normal {
                        words.entry(piece).or_insert(id);
                    }
                }
                Ok(Self::Ranks { cutter, bytes, merges, words })
            }
            Joining::Scores { scores, space_first } => {
                let mut pieces = HashMap::with_capacity(tokens.len());
                for (id, text, kind) in texts() {
                    match kind {
                        Kind::Byte => {
                            let byte = byte_token(text);
                            let byte = byte.ok_or_else(|| format!("{text:?} is no byte"))?;
                            bytes[usize::from(byte)] = Some(id);
                        }
                        Kind::Normal | Kind::Defined => {
                            let score = order(scores[id as usize]);
                            pieces.insert(text.to_owned(), (score, id));
                        }
                        // What a person typed never becomes one of these.
                        Kind::Control | Kind::Unknown | Kind::Unused => {}
                    }
                }
                let unknown = unknown.map(|id| id.0);
                if unknown.is_none() && bytes.iter().any(Option::is_none) {
                    return Err("it has neither a token for each byte nor an unknown one".into());
                }
                Ok(Self::Scores { pieces, bytes, unknown, space_first })
            }
        }
    }

    /// Appends the ids of a text to `ids`. `first`: nothing, or a special token, stands before it.
    ///
    /// # Errors
    /// Says what cannot be encoded.
    pub(super) fn encode(&self, text: &str, first: bool, ids: &mut Vec<u32>) -> Result<(), String> {
        match self {
            Self::Ranks { cutter, bytes, merges, words } => {
                let cut = cutter.words(text).map_err(|e| format!("it takes too long ({e})"))?;
                for word in cut {
                    let word = &text.as_bytes()[word];
                    if let Some(&id) = words.get(word) {
                        ids.push(id);
                        continue;
                    }
                    let missing = |b: u8| format!("the vocabulary has no token for byte {b:#04x}");
                    let pieces =
                        word.iter().map(|&b| bytes[usize::from(b)].ok_or_else(|| missing(b)));
                    let pieces = pieces.collect::<Result<Vec<u32>, String>>()?;
                    ids.extend(merge(pieces, |a, b| {
                        merges.get(&(a, b)).map(|&(rank, joined)| (Reverse(rank), joined))
                    }));
                }
            }
            Self::Scores { pieces, bytes, unknown, space_first } => {
                let spaced: String = (first && *space_first)
                    .then_some(SPACE)
                    .into_iter()
                    .chain(text.chars().map(|c| if c == ' ' { SPACE } else { c }))
                    .collect();
                let characters = spaced.char_indices().map(|(i, c)| (i, i + c.len_utf8()));
                let joined = merge(characters.collect(), |a: (usize, usize), b| {
                    let (score, _) = pieces.get(&spaced[a.0..b.1])?;
                    Some((*score, (a.0, b.1)))
                });
                for (from, to) in joined {
                    let piece = &spaced[from..to];
                    if let Some((_, id)) = pieces.get(piece) {
                        ids.push(*id);
                        continue;
                    }
                    for byte in piece.bytes() {
                        let id = bytes[usize::from(byte)].or(*unknown);
                        ids.extend(id);
                    }
                }
            }
        }
        Ok(())
    }
}

/// A number that orders finite scores; 0 and -0 are one.
fn order(score: f32) -> i32 {
    let bits = (score + 0.0).to_bits().cast_signed();
    if bits < 0 { i32::MIN.wrapping_sub(bits) } else { bits }
}

/// The byte that a token such as `<0x0A>` stands for.
fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The byte that a letter stands for in a byte-level vocabulary: printable ones stand for themselves, the
/// others are counted from U+0100.
fn byte_of(letter: char) -> Option<u8> {
    match u32::from(letter) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

fn bytes_of_pair_encoding(text: &str, kind: Kind) -> Vec<u8> {
    let plain = || text.as_bytes().to_vec();
    match kind {
        Kind::Normal => text.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(plain),
        Kind::Byte => byte_token(text).map_or_else(plain, |b| vec![b]),
        Kind::Defined => plain(),
        Kind::Control | Kind::Unknown | Kind::Unused => Vec::new(),
    }
}

fn bytes_of_sentence_piece(text: &str, kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Normal => text.replace(SPACE, " ").into_bytes(),
        _ => bytes_of_pair_encoding(text, kind),
    }
}

/// What each token adds to a text, as bytes; nothing for those that are no text.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Pieces {
    pub(super) fn new(vocabulary: &Vocabulary) -> Self {
        let piece = match vocabulary.joining {
            Joining::Ranks { .. } => bytes_of_pair_encoding,
            Joining::Scores { .. } => bytes_of_sentence_piece,
        };
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(vocabulary.tokens.len()));
        for (text, kind) in vocabulary.tokens.iter().zip(&vocabulary.kinds) {
            bytes.extend(piece(text, *kind));
            ends.push(bytes.len());
        }
        Self { bytes, ends }
    }

    /// How many tokens there are.
    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of the longest token.
    pub(super) fn longest(&self) -> usize {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| end - start).max().unwrap_or(0)
    }

    /// The bytes of a token; `None` outside the vocabulary.
    pub(super) fn get(&self, id: usize) -> Option<&[u8]> {
        let end = *self.ends.get(id)?;
        let start = id.checked_sub(1).map_or(0, |i| self.ends[i]);
        Some(&self.bytes[start..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_letter_of_its_own() {
        let mut seen = [false; 256];
        for code in 0..0x200 {
            if let Some(byte) = char::from_u32(code).and_then(byte_of) {
                assert!(!seen[usize::from(byte)], "{byte} twice");
                seen[usize::from(byte)] = true;
            }
        }
        assert!(seen.iter().all(|s| *s));
        assert_eq!(
            [' ', 'Ġ', 'Ċ', 'ł', 'Ń'].map(byte_of),
            [None, Some(32), Some(10), Some(0xa0), Some(0xad)]
        );
    }

    #[test]
    fn scores_keep_their_order() {
        let scores = [f32::MIN, -3.5, -1e-30, 0.0, 1e-30, 2.0, f32::MAX];
        assert!(scores.map(order).is_sorted());
        assert_eq!(order(-0.0), order(0.0));
    }
}
