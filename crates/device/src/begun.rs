//! An answer that ended early, as what it goes on from.

use std::sync::Arc;
use tandem_inference::{Error, Tokenizer};
use tandem_speculation::TokenId;

/// The beginning of an answer: the ids that were drawn, not those that its text would be encoded as. Cut
/// in the middle of a word or a character, these are others, and the rest would be of another
/// distribution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// Its tokens.
    pub ids: Vec<TokenId>,
    /// Their whole characters.
    pub text: String,
}

impl Begun {
    /// From the ids that were kept with an answer and its text. Where none were kept, or they are of
    /// another model's vocabulary, the text is encoded, which is the best that is left.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn of(
        tokenizer: &Arc<Tokenizer>,
        kept: Option<Vec<TokenId>>,
        text: &str,
    ) -> Result<Self, Error> {
        if let Some(mut ids) = kept {
            while ids.last().is_some_and(|id| tokenizer.is_end(*id)) {
                ids.pop();
            }
            // Earlier versions kept a sign for a character that was cut.
            let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
            if let Some(said) = decoded(tokenizer, &ids)
                && (said == text || said == whole)
            {
                return Ok(Self { ids, text: said });
            }
        }
        Ok(Self { ids: tokenizer.encode(text, false)?, text: text.to_owned() })
    }
}

/// The whole characters of `ids`, if these are of this vocabulary.
fn decoded(tokenizer: &Arc<Tokenizer>, ids: &[TokenId]) -> Option<String> {
    let mut detokenizer = tokenizer.detokenizer();
    let known = ids.iter().all(|id| id.index() < tokenizer.vocab());
    if !known {
        return None;
    }
    ids.iter().map(|id| detokenizer.push(*id).ok()).collect()
}
