//! Bytes to checked messages and back.

use crate::{
    ClientMessage, MAX_BRANCH, MAX_CLIENT_FRAME, MAX_COMMITTED, MAX_CONTEXT, MAX_DRAFT, MAX_ROUND,
    MAX_SERVER_FRAME, MAX_TEXT, MAX_VOCAB, MAX_WAITING, ServerMessage,
};
use serde::{Serialize, de::DeserializeOwned};
use tandem_speculation::{Correction, MAX_SPARSE, MORE_SAMPLES, SamplingError, TokenId};
use thiserror::Error;

/// Why bytes are no message.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Longer than any message may be.
    #[error("the message has {0} bytes; the limit is {1}")]
    TooLarge(usize, usize),
    /// Not the encoding of a message.
    #[error("the bytes are no message of this protocol ({0})")]
    Garbage(postcard::Error),
    /// A message, and then something else.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// A list or text that is too long or too short.
    #[error("{what} has {len} entries; it must have {least} to {most}")]
    Length {
        /// Which field.
        what: &'static str,
        /// Its length.
        len: usize,
        /// Least allowed.
        least: usize,
        /// Most allowed.
        most: usize,
    },
    /// A number that is too large or too small.
    #[error("{what} is {value}; it must be {least} to {most}")]
    Number {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u32,
        /// Least allowed.
        least: u32,
        /// Most allowed.
        most: u32,
    },
    /// A drafted token's probability is not in (0, 1].
    #[error("drafted token {position} has q = {q}; it must be above 0 and at most 1")]
    Scalar {
        /// Position in the draft.
        position: usize,
        /// The number.
        q: f32,
    },
    /// Alternatives that are not each for another place of the draft, in order.
    #[error("alternatives are for places of the draft, one each, in order")]
    Alternatives,
    /// A probability that is not in [0, 1].
    #[error("a probability is {0}; it must be between 0 and 1")]
    Probability(f32),
    /// A sampling parameter out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A token id outside the vocabulary.
    #[error("token {id} is outside the vocabulary of {vocab}")]
    OutsideVocabulary {
        /// The id.
        id: u32,
        /// The vocabulary.
        vocab: usize,
    },
}

/// The bytes of a message to the edge.
#[must_use]
pub fn encode_client(message: &ClientMessage) -> Vec<u8> {
    encode(message)
}

/// The bytes of a message to the device.
#[must_use]
pub fn encode_server(message: &ServerMessage) -> Vec<u8> {
    encode(message)
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // Our messages have only types that postcard can encode, into memory that grows.
    postcard::to_stdvec(message).expect("a message can be encoded")
}

/// A checked message from a device.
///
/// # Errors
/// If the bytes are no message, or one that breaks a limit. Memory used stays within a small
/// multiple of the frame, whatever lengths the bytes claim.
pub fn decode_client(bytes: &[u8]) -> Result<ClientMessage, DecodeError> {
    let message: ClientMessage = decode(bytes, MAX_CLIENT_FRAME)?;
    match &message {
        ClientMessage::Hello(m) => {
            length("the app version", m.app_version.len(), 0, MAX_TEXT)?;
            length("the drafter's name", m.drafter.len(), 0, MAX_TEXT)?;
            length("the model's name", m.model.as_ref().map_or(0, String::len), 0, MAX_TEXT)?;
        }
        ClientMessage::Open(m) => {
            length("the prompt", m.tokens.len(), 1, MAX_CONTEXT)?;
            m.sampling.validate()?;
            number("branch", m.branch, 0, MAX_BRANCH)?;
        }
        ClientMessage::Draft(m) => {
            place(m.round, m.prefix_len)?;
            number("branch", m.branch, 0, MAX_BRANCH)?;
            length("committed", m.committed.len(), 0, MAX_COMMITTED)?;
            length("the draft", m.ids.len(), 0, MAX_DRAFT)?;
            length("the list of q", m.q.len(), m.ids.len(), m.ids.len())?;
            length("an open draft", m.ids.len(), usize::from(m.open), MAX_DRAFT)?;
            if let Some(position) = m.q.iter().position(|q| !(*q > 0.0 && *q <= 1.0)) {
                return Err(DecodeError::Scalar { position, q: m.q[position] });
            }
            let places: Vec<usize> = m.alternatives.iter().map(|a| usize::from(a.at)).collect();
            if !places.is_sorted_by(|a, b| a < b)
                || places.last().is_some_and(|at| *at >= m.ids.len())
            {
                return Err(DecodeError::Alternatives);
            }
        }
        ClientMessage::Stream(m) => {
            place(m.round, m.prefix_len)?;
            length("committed", m.committed.len(), 0, MAX_COMMITTED)?;
            number("max_tokens", m.max_tokens, 1, MAX_CONTEXT as u32)?;
        }
        ClientMessage::More(m) => {
            number("round", m.round, 0, LAST_ROUND)?;
            number("asked", m.asked.into(), 1, 2)?;
        }
        ClientMessage::Cancel { .. } | ClientMessage::Close { .. } => {}
    }
    Ok(message)
}

/// A checked message from an edge.
///
/// # Errors
/// As [`decode_client`].
pub fn decode_server(bytes: &[u8]) -> Result<ServerMessage, DecodeError> {
    let message: ServerMessage = decode(bytes, MAX_SERVER_FRAME)?;
    match &message {
        ServerMessage::Welcome(m) => {
            length("the edge's version", m.edge_version.len(), 0, MAX_TEXT)?;
            length("the model's name", m.model.len(), 0, MAX_TEXT)?;
            number("max_draft", m.max_draft, 1, MAX_DRAFT as u32)?;
            number("max_context", m.max_context, 1, MAX_CONTEXT as u32)?;
            number("the vocabulary", m.vocab, 1, MAX_VOCAB as u32)?;
        }
        ServerMessage::Refused(m) => length("the message", m.message.len(), 0, MAX_TEXT)?,
        ServerMessage::Error(m) => length("the message", m.message.len(), 0, MAX_TEXT)?,
        ServerMessage::Verdict(m) => {
            told(m.round, m.prefix_len)?;
            number("accepted", m.accepted.into(), 0, MAX_DRAFT as u32)?;
            match &m.correction {
                Correction::Sparse(e) => length("the support", e.len(), 1, MAX_SPARSE)?,
                Correction::Sampled(e) => length("the samples", e.len(), 1, MORE_SAMPLES)?,
                Correction::Full(v) => length("the vector", v.len(), 1, MAX_VOCAB)?,
                Correction::Bonus(_) | Correction::Token(_) | Correction::Continue => {}
            }
            let bad = |p: &f32| !(0.0..=1.0).contains(p);
            let found = match &m.correction {
                Correction::Sparse(e) | Correction::Sampled(e) => {
                    e.iter().map(|e| e.1).find(|p| bad(p))
                }
                Correction::Full(v) => v.iter().copied().find(|p| bad(p)),
                Correction::Bonus(_) | Correction::Token(_) | Correction::Continue => None,
            };
            if let Some(p) = found {
                return Err(DecodeError::Probability(p));
            }
        }
        ServerMessage::Written(m) => {
            told(m.round, m.prefix_len)?;
            length("the tokens", m.tokens.len(), 1, MAX_DRAFT + 1)?;
            number("drafted", m.drafted.into(), 0, MAX_DRAFT as u32)?;
            let most = usize::from(m.drafted).min(m.tokens.len()) as u32;
            number("accepted", m.accepted.into(), 0, most)?;
            number("alternatives", m.alternatives.into(), 0, m.drafted.into())?;
        }
        ServerMessage::Waiting(m) => number("the place", m.place, 1, MAX_WAITING as u32)?,
        ServerMessage::Prefill(m) => {
            number("the prompt", m.total, 1, MAX_CONTEXT as u32)?;
            number("what is read of the prompt", m.done, 0, m.total)?;
            number("what is known of the prompt", m.cached, 0, m.total)?;
        }
    }
    Ok(message)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge(bytes.len(), limit));
    }
    // serde grows lists as elements arrive, so a claimed length reserves no memory.
    let (message, rest) = postcard::take_from_bytes(bytes).map_err(DecodeError::Garbage)?;
    if rest.is_empty() { Ok(message) } else { Err(DecodeError::Trailing(rest.len())) }
}

pub(crate) fn length(
    what: &'static str,
    len: usize,
    least: usize,
    most: usize,
) -> Result<(), DecodeError> {
    if (least..=most).contains(&len) {
        Ok(())
    } else {
        Err(DecodeError::Length { what, len, least, most })
    }
}

/// The last round of a stream that begins at the last number allowed.
const LAST_ROUND: u32 = MAX_ROUND + MAX_CONTEXT as u32;

/// A device's round and the text before it.
fn place(round: u32, prefix_len: u32) -> Result<(), DecodeError> {
    number("round", round, 0, MAX_ROUND)?;
    number("prefix_len", prefix_len, 0, MAX_CONTEXT as u32)
}

/// The same, as an edge says it.
fn told(round: u32, prefix_len: u32) -> Result<(), DecodeError> {
    number("round", round, 0, LAST_ROUND)?;
    number("prefix_len", prefix_len, 0, MAX_CONTEXT as u32)
}

fn number(what: &'static str, value: u32, least: u32, most: u32) -> Result<(), DecodeError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(DecodeError::Number { what, value, least, most })
    }
}

/// Checks that every id is in a vocabulary of `vocab` tokens.
///
/// # Errors
/// Names the first that is not.
pub fn check_ids<'a>(
    ids: impl IntoIterator<Item = &'a TokenId>,
    vocab: usize,
) -> Result<(), DecodeError> {
    match ids.into_iter().find(|id| id.index() >= vocab) {
        Some(id) => Err(DecodeError::OutsideVocabulary { id: id.0, vocab }),
        None => Ok(()),
    }
}
