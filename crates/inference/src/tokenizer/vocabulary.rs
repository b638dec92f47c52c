//! What a file says of its vocabulary, checked.

use super::rules::{self, Rule};
use crate::Error;
use crate::gguf::Gguf;
use candle_core::quantized::gguf_file::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use tandem_speculation::TokenId;

/// Tokens at most, padding included.
const MAX_VOCABULARY: usize = 1 << 19;
/// Bytes of a token at most, and of all special ones together: what finds them takes many times that.
const MAX_TOKEN: usize = 4096;
const MAX_SPECIALS: usize = 1 << 20;

const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Normal,
    /// Stands for what has no token; no text.
    Unknown,
    /// Steers the model; no text.
    Control,
    /// Text that is recognised whole, before words are cut and joined.
    Defined,
    /// No text.
    Unused,
    /// One byte of text.
    Byte,
}

impl Kind {
    fn of(number: i64) -> Option<Self> {
        Some(match number {
            // A kind that converters leave undefined is text.
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::Defined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Whether a person may see it.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Normal | Self::Defined | Self::Byte)
    }

    /// Whether it is recognised whole in a text.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::Defined)
    }

    /// Whether only a template may write it.
    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Unknown | Self::Control)
    }
}

/// Tokens that end an answer, by their text: checkpoints name only one or two of them in their metadata,
/// and instruct models end with any. They steer the model, whatever kind a file gives them.
const END_TEXTS: &[&str] = &[
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "</s>",
    "<|end|>",
    "<end_of_turn>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    // Where a file or a repository ends, code models go on with another.
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// Pairs of ids, with their rank and what they become.
pub(super) type Merges = HashMap<(u32, u32), (u32, u32)>;

/// How pieces are joined.
pub(super) enum Joining {
    /// Byte-pair encoding: pairs of tokens, the best first, with what they become.
    Ranks { rule: Rule, merges: Merges },
    /// SentencePiece: the score of each token.
    Scores { scores: Vec<f32>, space_first: bool },
}

/// The vocabulary of a file, without padding.
pub(super) struct Vocabulary {
    pub tokens: Vec<String>,
    pub kinds: Vec<Kind>,
    pub joining: Joining,
    pub bos: Option<TokenId>,
    pub eos: Option<TokenId>,
    pub unknown: Option<TokenId>,
    /// Tokens that end an answer.
    pub ends: Vec<TokenId>,
    /// Texts begin with `bos`.
    pub add_bos: bool,
}

impl Vocabulary {
    /// # Errors
    /// If a key is missing or makes no sense, or the vocabulary is of a kind that is not supported; the
    /// text names the key.
    pub(super) fn read(file: &Gguf) -> Result<Self, Error> {
        let failed = |reason: String| file.bad(format!("its tokenizer cannot be read: {reason}"));
        let tokens = texts(file, TOKENS)?.ok_or_else(|| failed(format!("{TOKENS} is missing")))?;
        if unpadded(&tokens) == 0 || tokens.len() > MAX_VOCABULARY {
            return Err(failed(format!("a vocabulary of {} tokens", tokens.len())));
        }
        let kinds = kinds(file, tokens.len())?;
        let mut tokens: Vec<String> = tokens.into_iter().map(str::to_owned).collect();
        let mut kinds = kinds;
        tokens.truncate(unpadded(&tokens));
        kinds.truncate(tokens.len());
        let mut ids = HashMap::with_capacity(tokens.len());
        let mut bytes = 0;
        for (i, (text, kind)) in tokens.iter().zip(&mut kinds).enumerate() {
            if END_TEXTS.contains(&text.as_str()) {
                *kind = Kind::Control;
            }
            if !matches!(kind, Kind::Normal | Kind::Byte) {
                bytes += text.len();
            }
            if text.len() > MAX_TOKEN || bytes > MAX_SPECIALS {
                return Err(failed("its tokens are far too long".into()));
            }
            // A token without a text is never written; some vocabularies have several.
            if !text.is_empty()
                && let Some(other) = ids.insert(text.clone(), i as u32)
            {
                let text: String = text.chars().take(40).collect();
                return Err(failed(format!("the token {text:?} is there twice: {other} and {i}")));
            }
        }
        let (joining, spm) = joining(file, &tokens, &kinds, &ids)?;
        let id = |key: &str, default: Option<u32>| id(file, key, default, tokens.len());
        let default = |id: u32| spm.then_some(id);
        let (bos, eos) = (id("bos", default(1))?, id("eos", default(2))?);
        let unknown = id("unknown", default(0))?;
        let mut ends: Vec<TokenId> =
            END_TEXTS.iter().filter_map(|t| ids.get(*t)).map(|id| TokenId(*id)).collect();
        for end in [eos, id("eot", None)?, id("eom", None)?].into_iter().flatten() {
            if !ends.contains(&end) {
                ends.push(end);
            }
        }
        let begins = match &joining {
            Joining::Ranks { rule, .. } => rule.begins,
            Joining::Scores { .. } => true,
        };
        let add_bos = file.flag("tokenizer.ggml.add_bos_token")?;
        if add_bos == Some(true) && bos.is_none() {
            return Err(failed(
                "tokenizer.ggml.add_bos_token is set and tokenizer.ggml.bos_token_id is missing"
                    .into(),
            ));
        }
        let add_bos = add_bos.unwrap_or(begins && bos.is_some());
        Ok(Self { tokens, kinds, joining, bos, eos, unknown, ends, add_bos })
    }

    /// Text of a token; empty without one.
    pub(super) fn text(&self, id: Option<TokenId>) -> String {
        id.and_then(|id| self.tokens.get(id.index())).cloned().unwrap_or_default()
    }
}

/// Reads how pieces are joined, and whether the vocabulary is SentencePiece's.
fn joining(
    file: &Gguf,
    tokens: &[String],
    kinds: &[Kind],
    ids: &HashMap<String, u32>,
) -> Result<(Joining, bool), Error> {
    let failed = |reason: String| file.bad(format!("its tokenizer cannot be read: {reason}"));
    match file.text(MODEL)? {
        Some("gpt2") => {
            let rule = rule(file, tokens)?;
            let merges = texts(file, MERGES)?
                .ok_or_else(|| failed(format!("{MERGES} is missing")))?;
            let merges = merges_of(&merges, kinds, ids).map_err(failed)?;
            Ok((Joining::Ranks { rule, merges }, false))
        }
        Some("llama") => {
            let scores = reals(file, SCORES, tokens.len())?;
            let space_first = file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
            Ok((Joining::Scores { scores, space_first }, true))
        }
        Some(other) => Err(file.bad(format!(
            "its vocabulary is of the kind `{other}` ({MODEL}), which is not supported; supported are \
             `gpt2` (byte-pair encoding) and `llama` (SentencePiece). Choose another model"
        ))),
        None => Err(failed(format!("{MODEL} is missing"))),
    }
}

/// The rule that a file's words are cut by.
fn rule(file: &Gguf, tokens: &[String]) -> Result<Rule, Error> {
    let is = |id: usize, text: &str| tokens.get(id).is_some_and(|t| t == text);
    let pre = match file.text(PRE)? {
        Some(pre) => pre,
        // Files of the first weeks of Llama 3 do not say it; their vocabulary is like no other.
        None if is(128_000, "<|begin_of_text|>") && is(128_009, "<|eot_id|>") => "llama-bpe",
        None => {
            return Err(file.bad(format!(
                "it does not say how its text is cut into words ({PRE} is missing): it was \
                 converted by a program of before May 2024. Choose a newer conversion of this model"
            )));
        }
    };
    rules::named(pre).ok_or_else(|| {
        file.bad(format!(
            "its text is cut into words by the rule `{pre}` ({PRE}), which is not known here, and \
             by another rule the model would read something else. Choose a model of another \
             family, or a newer version of this program"
        ))
    })
}

/// The merges of a file. One that would write a control token is left out: what a person typed never
/// becomes one.
fn merges_of(
    merges: &[&str],
    kinds: &[Kind],
    ids: &HashMap<String, u32>,
) -> Result<Merges, String> {
    let mut ranks = HashMap::with_capacity(merges.len());
    let mut joined = String::new();
    for (rank, merge) in merges.iter().enumerate() {
        let shown = || merge.chars().take(40).collect::<String>();
        // The first half may begin with a space of its own.
        let split = merge.char_indices().skip(1).find(|(_, c)| *c == ' ');
        let (a, b) = split
            .map(|(at, _)| (&merge[..at], &merge[at + 1..]))
            .ok_or_else(|| format!("the merge {:?} is none of two tokens", shown()))?;
        joined.clear();
        joined.push_str(a);
        joined.push_str(b);
        let id = |text: &str| {
            let id = ids.get(text).copied();
            id.ok_or_else(|| format!("the merge {:?} is of tokens that are not there", shown()))
        };
        let (pair, becomes) = ((id(a)?, id(b)?), id(&joined)?);
        if kinds[becomes as usize].is_text() {
            ranks.entry(pair).or_insert((rank as u32, becomes));
        }
    }
    Ok(ranks)
}

/// A special token's id.
fn id(
    file: &Gguf,
    key: &str,
    default: Option<u32>,
    vocab: usize,
) -> Result<Option<TokenId>, Error> {
    let key = format!("tokenizer.ggml.{key}_token_id");
    let default = default.filter(|id| (*id as usize) < vocab).map(TokenId);
    match file.integer(&key)? {
        None => Ok(default),
        // How some converters say that there is none.
        Some(-1 | 0xffff_ffff) => Ok(None),
        Some(id) if (0..vocab as i128).contains(&id) => Ok(Some(TokenId(id as u32))),
        Some(id) => Err(file.bad(format!("{key} is {id}, and the vocabulary has {vocab} tokens"))),
    }
}

/// A list of texts; `None` without one.
fn texts<'a>(file: &'a Gguf, key: &str) -> Result<Option<Vec<&'a str>>, Error> {
    let Some(value) = file.value(key) else { return Ok(None) };
    let Value::Array(values) = value else {
        return Err(file.bad(format!("{key} is no list")));
    };
    let text = |value: &'a Value| match value {
        Value::String(text) => Ok(text.as_str()),
        _ => Err(file.bad(format!("{key} holds what is not a text"))),
    };
    values.iter().map(text).collect::<Result<_, _>>().map(Some)
}

/// The kind of each token; text where the file does not say.
fn kinds(file: &Gguf, count: usize) -> Result<Vec<Kind>, Error> {
    let values = match file.value(KINDS) {
        None => return Ok(vec![Kind::Normal; count]),
        Some(Value::Array(values)) if values.len() >= count => values,
        Some(Value::Array(values)) => {
            let few = values.len();
            return Err(file.bad(format!("{KINDS} has {few} values for {count} tokens")));
        }
        Some(_) => return Err(file.bad(format!("{KINDS} is no list"))),
    };
    let kind = |value: &Value| {
        let number = crate::gguf::whole(value).and_then(|n| i64::try_from(n).ok());
        let unknown = || file.bad(format!("{KINDS} holds {value:?}, which is no kind of token"));
        number.and_then(Kind::of).ok_or_else(unknown)
    };
    values[..count].iter().map(kind).collect()
}

/// A list of finite numbers for `count` tokens or more.
fn reals(file: &Gguf, key: &str, count: usize) -> Result<Vec<f32>, Error> {
    let values = match file.value(key) {
        Some(Value::Array(values)) if values.len() >= count => &values[..count],
        Some(_) => return Err(file.bad(format!("{key} is no list of {count} numbers"))),
        None => return Err(file.bad(format!("{key} is missing"))),
    };
    let real = |value: &Value| {
        let real = crate::gguf::real(value).filter(|r| r.is_finite());
        real.ok_or_else(|| file.bad(format!("{key} holds {value:?}, which is no number")))
    };
    values.iter().map(real).collect()
}

/// Whether a text is the padding at a place.
fn is_padding(i: usize, text: &str) -> bool {
    text.strip_prefix("[PAD").and_then(|t| t.strip_suffix(']')) == Some(i.to_string().as_str())
}

/// Tokens without the padding at the end. Converters fill the vocabulary up to the width of the
/// checkpoint's tensors, which differs within a family: Qwen2.5 has 151,936 up to 3B and 152,064
/// above, and the same 151,665 tokens.
fn unpadded<T: AsRef<str>>(tokens: &[T]) -> usize {
    let padding = |(i, token): &(usize, &T)| is_padding(*i, token.as_ref());
    tokens.len() - tokens.iter().enumerate().rev().take_while(padding).count()
}

/// Tokens in a file's vocabulary; 0 without one.
pub(crate) fn size(file: &Gguf) -> Result<usize, Error> {
    Ok(texts(file, TOKENS)?.map_or(0, |tokens| unpadded(&tokens)))
}

/// SHA-256 over what turns text into ids and back, without padding.
pub(crate) fn fingerprint(file: &Gguf) -> Result<[u8; 32], Error> {
    let mut hash = Sha256::new();
    let pre = file.text(PRE)?.unwrap_or_default();
    // Files of one rule may use any of its names.
    let pre = rules::named(pre).map_or(pre, |rule| rule.name);
    for (key, text) in [(MODEL, file.text(MODEL)?.unwrap_or_default()), (PRE, pre)] {
        hash.update(key);
        hash.update([0]);
        hash.update(text);
        hash.update([0]);
    }
    let vocab = size(file)?;
    for key in [TOKENS, MERGES] {
        let texts = texts(file, key)?.unwrap_or_default();
        let texts = if key == MERGES { &texts } else { &texts[..vocab] };
        hash.update(key);
        hash.update((texts.len() as u64).to_le_bytes());
        for text in texts {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
    }
    // Converters name the kinds of special tokens differently; all are treated alike, as what they
    // differ in is what a person sees.
    let kinds = match file.value(KINDS) {
        None => Vec::new(),
        Some(_) => kinds(file, vocab)?,
    };
    hash.update(KINDS);
    hash.update((kinds.len() as u64).to_le_bytes());
    for kind in kinds {
        hash.update([u8::from(!matches!(kind, Kind::Normal | Kind::Byte))]);
    }
    // So is the end token: two checkpoints of one family may stop at different ones and still encode
    // and decode alike.
    if file.value(SCORES).is_some() && file.text(MODEL)? == Some("llama") {
        for score in reals(file, SCORES, vocab)? {
            hash.update(score.to_le_bytes());
        }
    }
    Ok(hash.finalize().into())
}
