//! The messages. Ids are checked against the vocabulary by the receiver, which knows it.

use serde::{Deserialize, Serialize};
use tandem_speculation::{Alternative, Correction, Sampling, TokenId};

/// Names a conversation's state on the edge (its KV cache) across connections. Chosen at random by
/// the device; whoever knows it may continue the session, so it is never shown or logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionId(…)")
    }
}

/// Covers the whole vocabulary, merges and special tokens: equal fingerprints encode equal text to
/// equal ids.
pub type Fingerprint = [u8; 32];

/// A text for people within the limit of a message: what quotes a peer or a library may be longer.
#[must_use]
pub fn short_text(text: impl Into<String>) -> String {
    let mut text = text.into();
    let mut end = text.len().min(crate::MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// From device to edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClientMessage {
    /// First message of a connection.
    Hello(Hello),
    /// Starts, or resumes, an answer.
    Open(Open),
    /// One round's draft.
    Draft(Draft),
    /// Asks for plain tokens without drafts.
    Stream(Stream),
    /// None of the samples was taken: send more of the same.
    More(More),
    /// Stops the generation; its session stays.
    Cancel {
        /// Which one.
        generation: u32,
    },
    /// Forget the session's state.
    Close {
        /// Which one.
        session: SessionId,
    },
}

/// Who is calling, and what for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`] of the device.
    pub protocol: u16,
    /// For the edge's log.
    pub app_version: String,
    /// Name of the drafter, for an error that says which two models do not fit.
    pub drafter: String,
    /// The tokenizer that the device encodes and drafts with.
    pub tokenizer: Fingerprint,
    /// The wanted verifier by name; `None` takes what the edge has.
    pub model: Option<String>,
}

/// Starts or resumes an answer. Sent again after a reconnect with all tokens so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The conversation, for reuse of its KV cache.
    pub session: SessionId,
    /// Number of the generation, unique within the connection.
    pub generation: u32,
    /// Prompt and answer so far; at least one token.
    pub tokens: Vec<TokenId>,
    /// How the edge processes its logits; the device uses the same.
    pub sampling: Sampling,
    /// Seed of the edge's random decisions in this generation; the same when resuming.
    pub seed: u64,
    /// As in [`Draft`]: 0 for a new answer, when resuming as far as the device has come.
    pub branch: u32,
}

/// One round's draft. `prefix_len + committed.len()` tokens precede the drafted ones.
///
/// After an *open* draft the device may send the next one at once, before the verdict, on the guess
/// that all of it is accepted: its `prefix_len` then counts the tokens of the drafts before it. When
/// the guess was wrong the edge drops it without a word, and the device, which learns the same from
/// the verdict, drafts again. `branch` tells the two apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// Which generation.
    pub generation: u32,
    /// Number of the round; rises by one. The last number again asks for the same verdict again.
    pub round: u32,
    /// Tokens that the edge has confirmed, before `committed`.
    pub prefix_len: u32,
    /// Tokens after the prefix that the edge cannot know: what the device drew from a residual.
    pub committed: Vec<TokenId>,
    /// Drafted tokens, at most [`crate::MAX_DRAFT`].
    pub ids: Vec<TokenId>,
    /// `q_i(x_i)` of each, in (0, 1]; exactly 1 says that `q_i` is a point mass.
    pub q: Vec<f32>,
    /// Second tokens for some places of the draft, in order of the places.
    pub alternatives: Vec<Alternative>,
    /// Verdicts of this generation, so far known to the device, that brought a token: whatever is
    /// not [`Correction::Continue`]. A draft with an older number than the edge's is void.
    pub branch: u32,
    /// Another draft follows where this one ends: no bonus token is wanted.
    pub open: bool,
}

/// Asks for up to `max_tokens` plain tokens: answered by one [`Verdict`] with a bonus token each,
/// numbered from `round` on, ending early after an end-of-sequence token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Which generation.
    pub generation: u32,
    /// Number of the first round.
    pub round: u32,
    /// As in [`Draft`].
    pub prefix_len: u32,
    /// As in [`Draft`].
    pub committed: Vec<TokenId>,
    /// At most this many.
    pub max_tokens: u32,
    /// An edge with a drafter of its own ([`Welcome::drafts`]) may write several at a time, each time
    /// answered by one [`Written`].
    pub drafts: bool,
}

/// Asks for more samples (first time) or the whole vector (second) for the last verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct More {
    /// Which generation.
    pub generation: u32,
    /// Round of the verdict.
    pub round: u32,
    /// 1 for the first request of the round, then 2. Names the answer, so that it can be repeated.
    pub asked: u8,
}

/// From edge to device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ServerMessage {
    /// Answer to `Hello`.
    Welcome(Welcome),
    /// Answer to `Hello`, after which the connection closes.
    Refused(Refused),
    /// Progress of a prompt; the last one has `done == total`.
    Prefill(Prefill),
    /// Answer to `Draft`, `Stream` (one a token) and `More`.
    Verdict(Verdict),
    /// Answer to a `Stream` that the edge drafts for.
    Written(Written),
    /// Something failed; the connection stays unless it is about the connection itself.
    Error(Failure),
    /// There is no room yet: the answer waits for its turn. Sent again while it waits.
    Waiting(Waiting),
}

/// What the edge offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The edge's version.
    pub edge_version: String,
    /// Name of the verifier.
    pub model: String,
    /// Size of the vocabulary; every id is below it.
    pub vocab: u32,
    /// Tokens of a context at most.
    pub max_context: u32,
    /// Tokens drafted in a round at most.
    pub max_draft: u32,
    /// The verifier's tokenizer.
    pub tokenizer: Fingerprint,
    /// The edge has a drafter of its own.
    pub drafts: bool,
    /// What the verifier computes for a token does not depend on what is computed beside it. Without that
    /// the text's distribution is the verifier's only approximately, because what is computed beside a
    /// token follows from the draft.
    pub batch_invariant: bool,
}

/// Why a connection is refused and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what happened and what to do next.
    pub message: String,
}

/// How far a prompt's forward pass is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefill {
    /// Which generation.
    pub generation: u32,
    /// Tokens in the KV cache.
    pub done: u32,
    /// Tokens of the prompt.
    pub total: u32,
    /// How many of them were reused from an earlier request.
    pub cached: u32,
}

/// An answer that the edge has no room for yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Which generation.
    pub generation: u32,
    /// Its place among those that wait: 1 is the next.
    pub place: u32,
}

/// The answer to one round, bound to it by `generation`, `round` and `prefix_len`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which generation.
    pub generation: u32,
    /// Which round.
    pub round: u32,
    /// Tokens before the drafted ones, as the edge counts them.
    pub prefix_len: u32,
    /// How many drafted tokens were accepted.
    pub accepted: u8,
    /// What follows them.
    pub correction: Correction,
    /// The token behind that, if the rejected place had an alternative and the correction is it. Where
    /// the edge does not know the correction, it is for the device to drop.
    pub next: Option<TokenId>,
    /// Microseconds between the arrival of the draft and the start of its forward pass.
    pub queued_us: u32,
    /// Microseconds of the forward pass, the acceptance test and the choice of the answer.
    pub verify_us: u32,
}

/// A round of which the edge did all: drafting, verifying and correcting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Which generation.
    pub generation: u32,
    /// Which round.
    pub round: u32,
    /// Tokens before these.
    pub prefix_len: u32,
    /// The new tokens, at least one: accepted drafts, the one after them, and one more if that was an
    /// alternative.
    pub tokens: Vec<TokenId>,
    /// How many the edge drafted.
    pub drafted: u8,
    /// How many of those were accepted.
    pub accepted: u8,
    /// Second tokens that the edge looked at beside its draft.
    pub alternatives: u8,
    /// Microseconds of the edge's drafting.
    pub draft_us: u32,
    /// As in [`Verdict`].
    pub queued_us: u32,
    /// As in [`Verdict`].
    pub verify_us: u32,
}

/// Something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The generation that it is about; `None` for the connection.
    pub generation: Option<u32>,
    /// For programs.
    pub code: ErrorCode,
    /// For people: what happened and what to do next.
    pub message: String,
}

/// Kinds of failure that a program may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Versions of the protocol do not fit.
    Protocol,
    /// The two tokenizers differ.
    Tokenizer,
    /// The wanted model is not here.
    Model,
    /// A message that cannot be understood or breaks a limit.
    BadMessage,
    /// A message that does not fit the state (unknown generation, wrong round, wrong prefix).
    State,
    /// The context is full.
    ContextFull,
    /// Too many sessions or too much memory in use; try again later.
    Busy,
    /// The edge is stopping.
    ShuttingDown,
    /// The model failed.
    Internal,
    /// The token is missing, wrong, or was revoked.
    Access,
    /// Pairing did not work.
    Pairing,
}
