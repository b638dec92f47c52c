//! Tokenizer and chat template, both out of the GGUF file.

mod chat;
mod encoder;
mod merge;
mod rules;
mod specials;
mod vocabulary;

use crate::Error;
use crate::gguf::Gguf;
use chat::Chat;
use encoder::{Encoder, Pieces};
use specials::{Special, Specials};
use std::ops::Range;
use std::sync::Arc;
use tandem_speculation::TokenId;
use vocabulary::Vocabulary;

pub use chat::{ChatMessage, Conversation, Role};
pub(crate) use vocabulary::{fingerprint, size};

/// Text to ids and back.
pub struct Tokenizer {
    encoder: Encoder,
    /// What each token adds to a text.
    pieces: Pieces,
    /// Finds the tokens that are recognised whole.
    specials: Specials,
    ends: Vec<TokenId>,
    bos: Option<TokenId>,
    add_bos: bool,
    fingerprint: [u8; 32],
    /// How a conversation is written; `None` if the model does not say.
    chat: Option<Chat>,
}

impl Tokenizer {
    pub(crate) fn from_gguf(file: &Gguf) -> Result<Self, Error> {
        let failed = |reason: String| file.bad(format!("its tokenizer cannot be read: {reason}"));
        let vocabulary = Vocabulary::read(file)?;
        let chat = file.text("tokenizer.chat_template")?;
        let chat = chat.map(|source| Chat::new(source, &vocabulary)).transpose();
        let whole = vocabulary.tokens.iter().zip(&vocabulary.kinds).enumerate();
        let whole = whole.filter(|(_, (text, kind))| kind.is_whole() && !text.is_empty());
        let whole: Vec<Special> = whole
            .map(|(id, (text, kind))| Special {
                id: id as u32,
                text: text.clone(),
                control: kind.is_control(),
            })
            .collect();
        let mut made = Self {
            specials: Specials::new(&whole).map_err(|e| failed(e.to_string()))?,
            pieces: Pieces::new(&vocabulary),
            fingerprint: fingerprint(file)?,
            bos: vocabulary.bos,
            add_bos: vocabulary.add_bos,
            ends: vocabulary.ends.clone(),
            chat: chat.map_err(|reason| file.bad(reason))?,
            encoder: Encoder::new(vocabulary).map_err(failed)?,
        };
        made.try_chat().map_err(|reason| file.bad(reason))?;
        Ok(made)
    }

    /// SHA-256 over the whole vocabulary, merges and special tokens.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Whether the model says how a conversation is written.
    pub(crate) fn has_template(&self) -> bool {
        self.chat.is_some()
    }

    /// Tokens in the vocabulary.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.pieces.count()
    }

    /// Whether `id` ends an answer.
    #[must_use]
    pub fn is_end(&self, id: TokenId) -> bool {
        self.ends.contains(&id)
    }

    /// The ids of `text`. Control tokens that it spells are recognised when `special` is set: set it
    /// for a rendered template, never for what a person typed. Tokens that are text and that the
    /// vocabulary defines as a whole are recognised in either.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<TokenId>, Error> {
        self.encode_where(text, &|_| special)
    }

    /// The same, with control tokens recognised where `allowed` says so of their bytes in the text.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub(crate) fn encode_where(
        &self,
        text: &str,
        allowed: &dyn Fn(&Range<usize>) -> bool,
    ) -> Result<Vec<TokenId>, Error> {
        let failed = |e| Error::Tokenizer(format!("this text cannot be encoded: {e}"));
        let (mut ids, mut from) = (Vec::new(), 0);
        for found in self.specials.find(text, allowed) {
            if found.at.start > from {
                self.encoder.encode(&text[from..found.at.start], true, &mut ids).map_err(failed)?;
            }
            ids.push(found.id);
            from = found.at.end;
        }
        if from < text.len() {
            self.encoder.encode(&text[from..], true, &mut ids).map_err(failed)?;
        }
        Ok(ids.into_iter().map(TokenId).collect())
    }

    /// A streaming decoder.
    #[must_use]
    pub fn detokenizer(self: &Arc<Self>) -> Detokenizer {
        Detokenizer { tokenizer: Arc::clone(self), pending: Vec::new() }
    }

    /// The text of `ids`. Tokens that are no text are left out, those that steer the model among them;
    /// bytes that are no character are replaced.
    ///
    /// # Errors
    /// If an id is outside the vocabulary.
    pub fn decode(&self, ids: &[TokenId]) -> Result<String, Error> {
        let mut bytes = Vec::new();
        for id in ids {
            bytes.extend_from_slice(self.piece(*id)?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn piece(&self, id: TokenId) -> Result<&[u8], Error> {
        let vocab = self.vocab();
        self.pieces.get(id.index()).ok_or(Error::OutsideVocabulary { id: id.0, vocab })
    }
}

/// Turns tokens into text as they come, and never gives half a character: bytes of an unfinished
/// one are held back, and only these. At the end of an answer they are none; a replacement character
/// that the model wrote stays. The one place where an answer's ids become text.
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// The beginning of a character.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// The text that `id` completes; often empty.
    ///
    /// # Errors
    /// If the id is outside the vocabulary.
    pub fn push(&mut self, id: TokenId) -> Result<String, Error> {
        self.pending.extend_from_slice(self.tokenizer.piece(id)?);
        let mut text = String::new();
        let mut whole = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            whole += chunk.valid().len();
            let rest = chunk.invalid();
            let ends = whole + rest.len() == self.pending.len();
            // Bytes at the end that may become a character are not wrong yet.
            if ends && std::str::from_utf8(rest).is_err_and(|e| e.error_len().is_none()) {
                break;
            }
            if !rest.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                whole += rest.len();
            }
        }
        self.pending.drain(..whole);
        Ok(text)
    }
}
