//! What crosses the border to the window; `ui/src/lib/api.ts` is its mirror.

use serde::{Deserialize, Serialize};
use tandem_device::store::{Message, Stats};
use tandem_device::{Mode, WhenEdgeLost};
use tandem_protocol::MAX_DRAFT;
use tandem_speculation::Sampling;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    pub edge: EdgeStatus,
    pub drafter: DrafterStatus,
    pub mode: Mode,
    pub version: &'static str,
    /// Whether a camera can read a box's code.
    pub scanner: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct EdgeStatus {
    #[serde(rename = "box")]
    pub of: crate::boxes::Active,
    pub state: &'static str,
    pub url: Option<String>,
    pub bundled: bool,
    pub model: Option<String>,
    /// Drafts change the text's distribution a little: its verifier is not batch-invariant.
    pub approximate: bool,
    pub detail: Option<String>,
    /// `certificate` or `access`, where pairing again is the remedy.
    pub problem: Option<&'static str>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct DrafterStatus {
    pub state: &'static str,
    pub model: Option<String>,
    pub detail: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChatEvent {
    pub seq: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum What {
    Text { text: String },
    Stats { stats: Stats, round: crate::metrics::LiveRound },
    Notice { level: &'static str, text: String },
    Done { message: Message },
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sent {
    /// Where a question was asked, too.
    pub user_message: Option<Message>,
    pub answer_message: Message,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attached {
    pub answer_message: Message,
    pub seq: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
// A setting that an older version did not know has its default, and the others stay.
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Settings {
    pub mode: Mode,
    pub gamma: Option<usize>,
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub max_tokens: usize,
    pub system_prompt: String,
    pub theme: String,
    pub language: String,
    pub when_edge_lost: WhenEdgeLost,
}

impl Default for Settings {
    fn default() -> Self {
        let sampling = Sampling::default();
        Self {
            mode: Mode::Auto,
            gamma: None,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            max_tokens: 1024,
            system_prompt: String::new(),
            theme: "system".into(),
            language: "auto".into(),
            when_edge_lost: WhenEdgeLost::Continue,
        }
    }
}

impl Settings {
    pub(crate) fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            ..Sampling::default()
        }
    }

    /// What is wrong with them, for people.
    pub(crate) fn problem(&self) -> Option<String> {
        if let Err(e) = self.sampling().validate() {
            return Some(e.to_string());
        }
        if self.gamma.is_some_and(|g| !(1..=MAX_DRAFT).contains(&g)) {
            return Some(format!("the draft length must be from 1 to {MAX_DRAFT}"));
        }
        if !(1..=32_768).contains(&self.max_tokens) {
            return Some("the length of an answer must be from 1 to 32768 tokens".into());
        }
        if self.system_prompt.len() > 64 << 10 {
            return Some("the system prompt is too long".into());
        }
        if !["system", "light", "dark"].contains(&self.theme.as_str()) {
            return Some("the theme must be system, light or dark".into());
        }
        if !["auto", "en", "de", "fr"].contains(&self.language.as_str()) {
            return Some("the language must be auto, en, de or fr".into());
        }
        None
    }
}
