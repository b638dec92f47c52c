//! Tokenizer and chat template, both out of the GGUF file.

use crate::Error;
use crate::gguf::Gguf;
use crate::template::Template;
use aho_corasick::{AhoCorasick, MatchKind};
use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use minijinja::context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tandem_speculation::TokenId;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

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
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocab: usize,
    ends: Vec<TokenId>,
    bos: Option<TokenId>,
    add_bos: bool,
    fingerprint: [u8; 32],
    /// Finds special tokens in text, those of more than one character; `None` if there are none.
    specials: Option<AhoCorasick>,
    template: Option<Template>,
    bos_text: String,
    eos_text: String,
}

/// Tokens that end an answer in the families that are built in, by their text: checkpoints name
/// only one of them in their metadata, and instruct models end with either.
const END_TEXTS: &[&str] =
    &["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<|end|>"];

/// Tokens at most, padding included.
const MAX_VOCABULARY: usize = 1 << 19;
/// Bytes of a token at most, and of all special ones together: what finds them takes many times that.
const MAX_TOKEN: usize = 4096;
const MAX_SPECIALS: usize = 1 << 20;

/// Text that stands for what a person typed while a template is rendered. Private-use characters
/// that no template has; if a person typed them they are only text.
const MARK: char = '\u{F5A1E}';

impl Tokenizer {
    pub(crate) fn from_gguf(file: &Gguf) -> Result<Self, Error> {
        let failed = |reason: String| file.bad(format!("its tokenizer cannot be read: {reason}"));
        let list = |key: &str| match file.content.metadata.get(key) {
            Some(Value::Array(values)) => Ok(values),
            _ => Err(failed(format!("{key} is missing"))),
        };
        let tokens = list("tokenizer.ggml.tokens")?;
        let vocab = unpadded(tokens);
        if vocab == 0 || tokens.len() > MAX_VOCABULARY {
            return Err(failed(format!("a vocabulary of {} tokens", tokens.len())));
        }
        let special = |i: usize| match file.content.metadata.get("tokenizer.ggml.token_type") {
            Some(Value::Array(kinds)) => kinds.get(i).is_some_and(is_special),
            _ => false,
        };
        let mut bytes = 0;
        for (i, token) in tokens.iter().enumerate() {
            let Value::String(text) = token else {
                return Err(failed("a token is not a text".into()));
            };
            if special(i) {
                bytes += text.len();
            }
            if text.len() > MAX_TOKEN || bytes > MAX_SPECIALS {
                return Err(failed("its tokens are far too long".into()));
            }
        }
        let inner =
            catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_gguf(&file.content)));
        let mut inner = match inner {
            Ok(inner) => inner.map_err(|e| failed(e.to_string()))?,
            Err(_) => return Err(failed("it makes no sense".into())),
        };
        match file.text("tokenizer.ggml.pre") {
            Some("qwen2" | "llama3" | "smaug-bpe" | "lfm2") => {}
            Some("smollm") => {
                // candle's fallback would put a space before every text and join digits.
                let parts =
                    vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()];
                inner.with_pre_tokenizer(Some(Sequence::new(parts)));
            }
            _ => {
                inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
            }
        }
        let id = |key: &str| {
            let id = file.number(&format!("tokenizer.ggml.{key}_token_id"))?;
            (id < vocab as u64).then_some(TokenId(id as u32))
        };
        let text =
            |id: Option<TokenId>| id.and_then(|id| inner.id_to_token(id.0)).unwrap_or_default();
        let mut ends: Vec<TokenId> =
            END_TEXTS.iter().filter_map(|t| inner.token_to_id(t)).map(TokenId).collect();
        ends.extend(id("eos"));
        ends.extend(id("eot"));
        let add_bos = matches!(
            file.content.metadata.get("tokenizer.ggml.add_bos_token"),
            Some(Value::Bool(true))
        );
        let template = file.text("tokenizer.chat_template").map(Template::new).transpose();
        let template = template.map_err(|e| failed(format!("its chat template: {e}")))?;
        let specials = inner.get_added_tokens_decoder().into_values();
        let specials = specials.filter(|t| t.special && t.content.chars().count() > 1);
        let specials: Vec<String> = specials.map(|t| t.content).collect();
        let finder =
            || AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(&specials);
        let specials = (!specials.is_empty()).then(finder).transpose();
        Ok(Self {
            specials: specials.map_err(|e| failed(e.to_string()))?,
            fingerprint: fingerprint(file)?,
            vocab,
            bos_text: text(id("bos")),
            eos_text: text(id("eos")),
            bos: id("bos"),
            add_bos,
            ends,
            template,
            inner,
        })
    }

    /// SHA-256 over the whole vocabulary, merges and special tokens.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Whether the model says how a conversation is written.
    pub(crate) fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// Tokens in the vocabulary.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Whether `id` ends an answer.
    #[must_use]
    pub fn is_end(&self, id: TokenId) -> bool {
        self.ends.contains(&id)
    }

    /// The ids of `text`. Special tokens in the text are recognised when `special` is set: set it
    /// for a rendered template, never for what a person typed.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<TokenId>, Error> {
        let mut ids = Vec::new();
        let mut rest = text;
        if !special {
            // A special token is recognised only when it is whole: cut after its first character.
            while let Some(at) = self.first_special(rest) {
                let cut = at + rest[at..].chars().next().map_or(0, char::len_utf8);
                self.append(&rest[..cut], &mut ids)?;
                rest = &rest[cut..];
            }
        }
        self.append(rest, &mut ids)?;
        Ok(ids)
    }

    /// Where the first special token in `text` begins.
    fn first_special(&self, text: &str) -> Option<usize> {
        self.specials.as_ref()?.find(text).map(|found| found.start())
    }

    fn append(&self, text: &str, ids: &mut Vec<TokenId>) -> Result<(), Error> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|e| Error::Tokenizer(format!("this text cannot be encoded: {e}")))?;
        ids.extend(encoding.get_ids().iter().map(|&id| TokenId(id)));
        Ok(())
    }

    /// The ids of a conversation, rendered by the model's own template and ready for the answer.
    /// Special tokens that a person typed are text, not control.
    ///
    /// # Errors
    /// If the template fails or the text cannot be encoded.
    pub fn encode_chat(&self, messages: &[ChatMessage]) -> Result<Vec<TokenId>, Error> {
        let Some(template) = &self.template else {
            return Err(Error::Tokenizer(
                "this model has no chat template; use an instruct model".into(),
            ));
        };
        // Each message is rendered as a mark and put in afterwards, so that what a person typed
        // passes neither the template's syntax nor the recognition of special tokens.
        let marked: Vec<ChatMessage> = messages
            .iter()
            .enumerate()
            .map(|(i, m)| ChatMessage { role: m.role, content: format!("{MARK}{i}{MARK}") })
            .collect();
        let told = context! {
            messages => marked,
            add_generation_prompt => true,
            // Qwen3 would think aloud, in the answer.
            enable_thinking => false,
            bos_token => self.bos_text,
            eos_token => self.eos_text,
        };
        let rendered = template
            .render(messages.len(), told)
            .map_err(|e| Error::Tokenizer(format!("the model's chat template failed: {e}")))?;
        let mut ids: Vec<TokenId> = Vec::new();
        let mut between = String::new();
        for (i, piece) in rendered.split(MARK).enumerate() {
            if i % 2 == 0 {
                between.push_str(piece);
                continue;
            }
            let message = piece.parse().ok().and_then(|i: usize| messages.get(i));
            let message = message
                .ok_or_else(|| Error::Tokenizer("the chat template garbled a message".into()))?;
            // Text joins its surroundings up to the next special token, as if rendered in place.
            if self.first_special(&message.content).is_some() {
                self.append(&between, &mut ids)?;
                between.clear();
                ids.extend(self.encode(&message.content, false)?);
            } else {
                between.push_str(&message.content);
            }
        }
        self.append(&between, &mut ids)?;
        if self.add_bos && ids.first() != self.bos.as_ref() {
            ids.splice(0..0, self.bos);
        }
        Ok(ids)
    }

    /// The bytes that a token stands for; none of a special one, which is no text.
    fn bytes(&self, id: TokenId) -> Vec<u8> {
        let Some(token) = self.inner.id_to_token(id.0) else { return Vec::new() };
        if self.inner.get_added_vocabulary().is_special_token(&token) {
            return Vec::new();
        }
        let bytes = token.chars().map(byte_of).collect::<Option<Vec<u8>>>();
        bytes.unwrap_or_else(|| token.into_bytes())
    }

    /// A streaming decoder.
    #[must_use]
    pub fn detokenizer(self: &Arc<Self>) -> Detokenizer {
        Detokenizer { tokenizer: Arc::clone(self), pending: Vec::new(), given: 0 }
    }

    /// The text of `ids`, special tokens left out.
    ///
    /// # Errors
    /// If the ids cannot be decoded.
    pub fn decode(&self, ids: &[TokenId]) -> Result<String, Error> {
        let ids: Vec<u32> = ids.iter().map(|id| id.0).collect();
        self.inner.decode(&ids, true).map_err(|e| Error::Tokenizer(e.to_string()))
    }
}

/// The byte that a character stands for in a byte-level vocabulary: printable ones for themselves, the
/// others for characters from U+0100 on, in their order.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        code @ 0..=0xff => Some(code as u8).filter(|b| printable(*b)),
        code => (0..=u8::MAX).filter(|b| !printable(*b)).nth((code - 0x100) as usize),
    }
}

/// Whether this kind of token is no plain text. Converters name the kinds of special tokens
/// differently; all are treated alike.
fn is_special(kind: &Value) -> bool {
    match kind {
        Value::I32(kind) => (2..=5).contains(kind),
        Value::U32(kind) => (2..=5).contains(kind),
        // No converter writes such a kind.
        _ => true,
    }
}

/// Tokens without the padding at the end. Converters fill the vocabulary up to the width of the
/// checkpoint's tensors, which differs within a family: Qwen2.5 has 151,936 up to 3B and 152,064
/// above, and the same 151,665 tokens.
fn unpadded(tokens: &[Value]) -> usize {
    let padding = |(i, token): &(usize, &Value)| matches!(token, Value::String(t) if *t == format!("[PAD{i}]"));
    tokens.len() - tokens.iter().enumerate().rev().take_while(padding).count()
}

/// Tokens in a file's vocabulary; 0 without one.
pub(crate) fn vocabulary(file: &Gguf) -> usize {
    match file.content.metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(tokens)) => unpadded(tokens),
        _ => 0,
    }
}

/// SHA-256 over what turns text into ids and back, without padding.
pub(crate) fn fingerprint(file: &Gguf) -> Result<[u8; 32], Error> {
    let mut hash = Sha256::new();
    let keys = ["tokenizer.ggml.model", "tokenizer.ggml.pre"];
    for key in keys {
        hash.update(key);
        hash.update([0]);
        hash.update(file.text(key).unwrap_or_default());
        hash.update([0]);
    }
    let vocab = vocabulary(file);
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type"] {
        let values = match file.content.metadata.get(key) {
            Some(Value::Array(values)) if key.ends_with("merges") => values.as_slice(),
            Some(Value::Array(values)) => &values[..values.len().min(vocab)],
            _ => &[],
        };
        hash.update(key);
        hash.update((values.len() as u64).to_le_bytes());
        for value in values {
            match value {
                Value::String(text) => {
                    hash.update((text.len() as u64).to_le_bytes());
                    hash.update(text);
                }
                Value::I32(_) | Value::U32(_) => hash.update([u8::from(is_special(value))]),
                _ => return Err(file.bad(format!("{key} holds values of an unexpected type"))),
            }
        }
    }
    // The end token is left out: two checkpoints of one family may stop at different ones and
    // still encode and decode alike.
    Ok(hash.finalize().into())
}

/// Turns tokens into text as they come, and never gives half a character: bytes of an unfinished
/// one are held back, and only these. At the end of an answer they are none; a replacement character
/// that the model wrote stays. The one place where an answer's ids become text.
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// The last tokens: those before `given` bytes of text were emitted, and those held back.
    pending: Vec<TokenId>,
    /// Bytes of the decoded `pending` that were emitted already.
    given: usize,
}

/// More tokens than any character's bytes take: then what is held back is not a character.
const LONGEST_CHARACTER: usize = 8;

impl Detokenizer {
    /// The text that `id` completes; often empty.
    ///
    /// # Errors
    /// If the id cannot be decoded.
    pub fn push(&mut self, id: TokenId) -> Result<String, Error> {
        self.pending.push(id);
        let text = self.tokenizer.decode(&self.pending)?;
        if self.pending.len() < LONGEST_CHARACTER && self.is_unfinished() {
            // The decoder puts one sign in the place of the bytes that are there.
            let whole = text.strip_suffix(char::REPLACEMENT_CHARACTER).unwrap_or(&text);
            let new = whole.get(self.given..).unwrap_or_default().to_owned();
            self.given = self.given.max(whole.len());
            return Ok(new);
        }
        let new = text.get(self.given..).unwrap_or_default().to_owned();
        // The last token stays as context: some decoders treat the start of a text specially.
        self.pending.drain(..self.pending.len() - 1);
        self.given = self.tokenizer.decode(&self.pending)?.len();
        Ok(new)
    }

    /// Whether the text ends in some of a character's bytes and not all of them.
    fn is_unfinished(&self) -> bool {
        let bytes: Vec<u8> = self.pending.iter().flat_map(|id| self.tokenizer.bytes(*id)).collect();
        let mut rest = bytes.as_slice();
        while let Err(e) = str::from_utf8(rest) {
            match e.error_len() {
                None => return true,
                Some(bad) => rest = &rest[e.valid_up_to() + bad..],
            }
        }
        false
    }
}
