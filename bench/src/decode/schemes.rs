//! The ways of decoding that are compared.

use serde::Serialize;

/// A way of decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// The edge alone, token by token.
    Stream,
    /// The drafter alone: another text, given for its speed.
    Device,
    /// Speculation with both models on the box.
    Colocated,
    /// Distributed speculative decoding: all of each `q` goes up.
    Dsd,
    /// DSSD as published: all of `p` comes down at a rejection.
    Full,
    /// The drafter's best tokens, compared with the edge's draws.
    Greedy,
    /// Drafts and draws with the same noise, compared (Gumbel coupling).
    Gumbel,
    /// Ours, waiting for each verdict.
    Turns,
    /// Ours, drafting on.
    Ahead,
    /// Ours, choosing; the box has no drafter.
    Auto,
    /// Ours, choosing; the box has one.
    #[serde(rename = "autobox")]
    AutoBox,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Stream,
        Self::Device,
        Self::Colocated,
        Self::Dsd,
        Self::Full,
        Self::Greedy,
        Self::Gumbel,
        Self::Turns,
        Self::Ahead,
        Self::Auto,
        Self::AutoBox,
    ];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Stream => "edge alone",
            Self::Device => "device alone",
            Self::Colocated => "both on the box",
            Self::Dsd => "DSD",
            Self::Full => "DSSD as published",
            Self::Greedy => "greedy drafts",
            Self::Gumbel => "Gumbel coupling",
            Self::Turns => "Tandem in turns",
            Self::Ahead => "Tandem ahead",
            Self::Auto => "Tandem auto",
            Self::AutoBox => "Tandem auto, box drafts too",
        }
    }

    /// Whether the product chooses the way.
    pub fn chooses(self) -> bool {
        matches!(self, Self::Auto | Self::AutoBox)
    }

    /// Whether a draft has a length.
    pub fn drafts(self) -> bool {
        !matches!(self, Self::Stream | Self::Device)
    }

    /// Whether the product's device drafts.
    pub fn is_ours(self) -> bool {
        self.chooses() || matches!(self, Self::Turns | Self::Ahead)
    }

    /// Whether the device of the product can go this way.
    pub fn in_product(self) -> bool {
        matches!(self, Self::Stream | Self::Turns | Self::Ahead)
    }
}
