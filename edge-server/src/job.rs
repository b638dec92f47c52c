//! What a session waits for: its rounds before, in and after a forward pass.

use crate::colocated::Drafting;
use std::time::Instant;
use tandem_speculation::{Alternative, Randomness, Sampling, TokenId};

/// What a session waits to have computed.
pub(crate) enum Job {
    /// Verify a draft. `requested` is its `prefix_len`.
    Draft {
        round: u32,
        requested: u32,
        ids: Vec<TokenId>,
        q: Vec<f32>,
        alternatives: Vec<Alternative>,
        open: bool,
        arrived: Instant,
    },
    /// Draw plain tokens, with a draft of the edge's own or without.
    Stream { round: u32, requested: u32, left: u32, arrived: Instant, draft: Option<Box<Drafting>> },
}

impl Job {
    /// Tokens that the text grows by if all is accepted and nothing follows.
    pub(crate) fn drafted(&self) -> usize {
        match self {
            Self::Draft { ids, .. } => ids.len(),
            Self::Stream { .. } => 0,
        }
    }

    pub(crate) fn alternatives(&self) -> &[Alternative] {
        match self {
            Self::Draft { alternatives, .. } => alternatives,
            Self::Stream { draft: Some(draft), .. } => &draft.alternatives,
            Self::Stream { draft: None, .. } => &[],
        }
    }
}

/// Tokens that a round computes before its draft, at most: the last known one and, where the one
/// before it was an alternative, that one. What is more is computed like a prompt.
pub(crate) const LEAD: usize = 2;

/// The tokens of a round's forward pass.
pub(crate) struct Rows {
    pub tokens: Vec<TokenId>,
    /// The first token whose logits are wanted.
    pub from: usize,
    /// As [`tandem_inference::Wanted::From`] takes them.
    pub alternatives: Vec<(usize, TokenId)>,
}

impl Rows {
    /// Rows of the forward pass.
    pub(crate) fn rows(&self) -> usize {
        self.tokens.len() + self.alternatives.len()
    }
}

/// Where the logits at the `i`-th place of a draft are among the wanted ones, and those after its
/// `n`-th alternative: each stands before the token whose place it takes.
pub(crate) fn row_at(alternatives: &[Alternative], i: usize) -> usize {
    i + alternatives.iter().filter(|a| usize::from(a.at) < i).count()
}

pub(crate) fn row_after(alternatives: &[Alternative], n: usize) -> usize {
    usize::from(alternatives[n].at) + 1 + n
}

/// A stream that the edge drafts for.
pub(crate) struct Writing<'a> {
    pub text: &'a [TokenId],
    /// What follows it.
    pub draft: &'a mut Drafting,
    /// Tokens of the draft at most.
    pub most: usize,
    /// Of the context.
    pub capacity: usize,
    pub sampling: &'a Sampling,
    pub randomness: &'a Randomness,
    pub branch: u32,
}

impl Writing<'_> {
    /// The text and the draft so far.
    pub(crate) fn whole(&self) -> Vec<TokenId> {
        self.text.iter().chain(&self.draft.ids).copied().collect()
    }
}

/// A finished round.
pub(crate) struct Finished {
    /// The answer as it is sent.
    pub bytes: Vec<u8>,
    pub drafted: usize,
    pub accepted: usize,
    /// Tokens that it gave, as far as the edge knows.
    pub tokens: usize,
    /// The draft, if the edge made it.
    pub own: Option<Box<Drafting>>,
}
