//! How freely a conversation's answers are drawn.

use serde::{Deserialize, Serialize};
use tandem_speculation::Sampling;

/// Named sampling parameters, or own ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "preset", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum Preset {
    /// Always the likeliest token.
    Precise,
    /// What the default models' makers recommend.
    Balanced,
    /// The model's own distribution.
    Creative,
    /// Own numbers.
    Custom {
        /// Divides the logits.
        temperature: f32,
        /// The k likeliest tokens; 0 for all.
        top_k: u32,
        /// The likeliest tokens that reach this sum.
        top_p: f32,
    },
}

impl Preset {
    /// The parameters that it stands for.
    #[must_use]
    pub fn sampling(self) -> Sampling {
        match self {
            Self::Precise => Sampling::GREEDY,
            Self::Balanced => Sampling::default(),
            Self::Creative => {
                Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, ..Sampling::GREEDY }
            }
            Self::Custom { temperature, top_k, top_p } => {
                Sampling { temperature, top_k, top_p, ..Sampling::GREEDY }
            }
        }
    }
}
