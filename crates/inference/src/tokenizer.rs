//! Tokenizer and chat template, both out of the GGUF file.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tandem_speculation::TokenId;

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who says it.
    pub role: Role,
    /// What they say.
    pub content: String,
}

/// Text to ids and back.
pub struct Tokenizer {}

impl Tokenizer {
    /// SHA-256 over the whole vocabulary, merges and special tokens.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        [0; 32]
    }

    /// Tokens in the vocabulary.
    #[must_use]
    pub fn vocab(&self) -> usize {
        0
    }

    /// Whether `id` ends an answer.
    #[must_use]
    pub fn is_end(&self, _id: TokenId) -> bool {
        false
    }

    /// The ids of `text`. Special tokens in the text are recognised when `special` is set: set it
    /// for a rendered template, never for what a person typed.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn encode(&self, _text: &str, _special: bool) -> Result<Vec<TokenId>, Error> {
        Err(Error::Usage("not yet"))
    }

    /// The ids of a conversation, rendered by the model's own template and ready for the answer.
    /// Special tokens that a person typed are text, not control.
    ///
    /// # Errors
    /// If the template fails or the text cannot be encoded.
    pub fn encode_chat(&self, _messages: &[ChatMessage]) -> Result<Vec<TokenId>, Error> {
        Err(Error::Usage("not yet"))
    }

    /// A streaming decoder.
    #[must_use]
    pub fn detokenizer(self: &Arc<Self>) -> Detokenizer {
        Detokenizer {}
    }

    /// The text of `ids`, special tokens left out.
    ///
    /// # Errors
    /// If the ids cannot be decoded.
    pub fn decode(&self, _ids: &[TokenId]) -> Result<String, Error> {
        Err(Error::Usage("not yet"))
    }
}

/// Turns tokens into text as they come, and never gives half a character: bytes of an unfinished
/// one are held back.
pub struct Detokenizer {}

impl Detokenizer {
    /// The text that `id` completes; often empty.
    ///
    /// # Errors
    /// If the id cannot be decoded.
    pub fn push(&mut self, _id: TokenId) -> Result<String, Error> {
        Ok(String::new())
    }

    /// What was held back, with replacement characters for bytes that never became a character.
    ///
    /// # Errors
    /// If the ids cannot be decoded.
    pub fn finish(&mut self) -> Result<String, Error> {
        Ok(String::new())
    }
}
