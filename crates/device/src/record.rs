//! What is asked of an answer and what is recorded about it.

use crate::EdgeAddress;
use crate::store::Stats;
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::sync::Arc;
use tandem_protocol::{MAX_DRAFT, Welcome};
use tandem_speculation::TokenId;

/// Who writes an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What is fastest with this edge, by what was measured: its plain steps, or drafts, in turns
    /// or ahead; the drafter alone while the edge cannot be reached.
    Auto,
    /// Distributed split speculative decoding.
    Dssd,
    /// The edge alone, token by token.
    Edge,
    /// The drafter alone.
    Device,
}

impl Mode {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Dssd => "dssd",
            Self::Edge => "edge",
            Self::Device => "device",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Auto, Self::Dssd, Self::Edge, Self::Device]
            .into_iter()
            .find(|m| m.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not one of auto, dssd, edge, device"))
    }
}

/// Draft length γ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gamma {
    /// From measured times and acceptance.
    Auto,
    /// Always this many, from 1 to [`MAX_DRAFT`].
    Fixed(usize),
}

impl FromStr for Gamma {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(n) if (1..=MAX_DRAFT).contains(&n) => Ok(Self::Fixed(n)),
            _ => Err(format!("`{text}` is neither auto nor a number from 1 to {MAX_DRAFT}")),
        }
    }
}

/// Whether drafting goes on while verdicts are on their way, on the guess that all is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ahead {
    /// One draft at a time.
    #[default]
    No,
    /// Up to [`tandem_protocol::MAX_IN_FLIGHT`] drafts on their way.
    Yes,
}

impl FromStr for Ahead {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "no" => Ok(Self::No),
            "yes" => Ok(Self::Yes),
            _ => Err(format!("`{text}` is neither yes nor no")),
        }
    }
}

/// What to do when the edge stays away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenEdgeLost {
    /// Go on with the drafter alone, marked as such, until the edge is back.
    Continue,
    /// Stop the answer with an error.
    Stop,
}

impl FromStr for WhenEdgeLost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "continue" => Ok(Self::Continue),
            "stop" => Ok(Self::Stop),
            _ => Err(format!("`{text}` is neither continue nor stop")),
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model said that it is done.
    Stop,
    /// The wanted number of tokens is reached, or the context is full.
    Length,
    /// Somebody stopped it.
    Cancelled,
}

impl Finish {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Who takes part in a round: figures of different boxes and models are told apart by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pair {
    /// The box; empty for the drafter alone, `local` for an edge on this machine, whose port
    /// changes with each start.
    pub edge: String,
    /// The verifier; empty for the drafter alone.
    pub verifier: String,
    /// The drafter; empty where nobody wrote it down.
    pub drafter: String,
    /// Tokens in the vocabulary, 0 where nobody wrote it down: what a whole distribution would
    /// have cost on the wire.
    pub vocab: u32,
}

impl Pair {
    /// The drafter alone.
    #[must_use]
    pub fn alone(drafter: &str, vocab: usize) -> Self {
        let vocab = u32::try_from(vocab).unwrap_or(u32::MAX);
        Self { drafter: drafter.to_owned(), vocab, ..Self::default() }
    }

    /// The same drafter with an edge.
    #[must_use]
    pub fn with(&self, edge: &EdgeAddress, welcome: &Welcome) -> Self {
        let edge = if edge.is_loopback() { "local".into() } else { edge.to_string() };
        Self { edge, verifier: welcome.model.clone(), ..self.clone() }
    }
}

/// One round, as it is stored and printed. A round gives `accepted` tokens and one more, or only
/// those when its outcome is `continue`: then the next draft went on where this one ended. One that
/// `followed` an alternative gives a further one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoundRecord {
    /// Row of the message; 0 where nothing is stored.
    pub message: i64,
    /// Number within the answer, from 0.
    pub round: u32,
    /// `dssd`, `edge` or `device`.
    pub mode: &'static str,
    /// How tokens were chosen: `dssd`, `ahead` (DSSD, drafting on while verdicts are on their way),
    /// `lookup` (DSSD with a draft from the text itself), `stream` (plain steps of the edge),
    /// `colocated` (the edge with a drafter of its own), `drafter`.
    pub scheme: &'static str,
    /// Draft length that was asked for or, where it is free, of this draft; 0 without drafting.
    pub gamma: u32,
    /// Tokens that were drafted and sent.
    pub drafted: u32,
    /// Drafted tokens that were accepted.
    pub accepted: u32,
    /// Drafted tokens behind the first rejection: their acceptance was never tested.
    pub ignored: u32,
    /// Second tokens that went with the draft.
    pub alternatives: u32,
    /// 1 if one of them was the correction, so that the edge's token after it counted; else 0.
    pub followed: u32,
    /// Form of the correction: `bonus`, `token`, `sparse`, `sampled`, `full`; or `continue`.
    pub outcome: &'static str,
    /// Drafting, in milliseconds.
    pub draft_ms: f64,
    /// From sending to receiving; within a stream, from the token before.
    pub rtt_ms: f64,
    /// Waiting on the edge, by its own clock.
    pub queue_ms: f64,
    /// Verifying on the edge, by its own clock.
    pub verify_ms: f64,
    /// From the verdict to the token that follows the accepted ones, further samples included.
    pub residual_ms: f64,
    /// Payload of the frames sent in this round.
    pub uplink_bytes: u64,
    /// Payload of the frames received in this round.
    pub downlink_bytes: u64,
    /// Milliseconds since the epoch.
    pub started_at: i64,
    /// In the first round after auto mode chose another way, which and why: `stream`, `turns` or
    /// `ahead`, what a token should take there and what it took before, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Who took part.
    #[serde(skip)]
    pub pair: Arc<Pair>,
    /// Its tokens as they became part of the text.
    #[serde(skip)]
    pub tokens: Vec<TokenId>,
    /// The text that each of them completed; empty for a part of a character.
    #[serde(skip)]
    pub pieces: Vec<String>,
}

/// Sums over an answer's rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Tokens of the answer.
    pub tokens: u64,
    /// Drafted tokens.
    pub drafted: u64,
    /// Accepted ones.
    pub accepted: u64,
    /// Time to the first token, in milliseconds.
    pub ttft_ms: Option<f64>,
    /// Tokens per second after the first round.
    pub tokens_per_s: Option<f64>,
    /// Payload of all frames sent for rounds.
    pub uplink_bytes: u64,
    /// Payload of all frames received for rounds.
    pub downlink_bytes: u64,
    /// Drafted tokens that were never tested.
    #[serde(skip)]
    pub ignored: u64,
    /// How many rounds there were.
    #[serde(skip)]
    pub rounds: u64,
    /// Who wrote it.
    #[serde(skip)]
    writer: Option<Writer>,
    /// Tokens of the first round, and seconds since it.
    #[serde(skip)]
    first: Option<(u64, std::time::Instant)>,
}

impl Totals {
    /// Adds a round that gave `tokens` tokens; `started` is when the answer was asked for.
    pub fn add(&mut self, record: &RoundRecord, tokens: usize, started: std::time::Instant) {
        self.rounds += 1;
        self.tokens += tokens as u64;
        self.drafted += u64::from(record.drafted);
        self.accepted += u64::from(record.accepted);
        self.ignored += u64::from(record.ignored);
        self.uplink_bytes += record.uplink_bytes;
        self.downlink_bytes += record.downlink_bytes;
        let writer = Writer::parse(record.mode);
        self.writer = Some(self.writer.map_or(writer, |before| before.with(writer)));
        match self.first {
            None => {
                self.first = Some((self.tokens, std::time::Instant::now()));
                self.ttft_ms = Some(started.elapsed().as_secs_f64() * 1e3);
            }
            Some((first, since)) => {
                let seconds = since.elapsed().as_secs_f64();
                let more = (self.tokens - first) as f64;
                self.tokens_per_s = (seconds > 0.0).then(|| more / seconds);
            }
        }
    }

    /// Accepted among the drafted tokens that were tested.
    #[must_use]
    pub fn acceptance(&self) -> Option<f64> {
        let tested = self.drafted - self.ignored;
        (tested > 0).then(|| self.accepted as f64 / tested as f64)
    }

    /// Makes them the sums of an answer that was `before` when it was taken up again. Its speed is that
    /// of both parts, each by the time that it took.
    pub fn go_on_from(&mut self, before: &Stats) {
        let time = |tokens: u64, speed: Option<f64>| {
            speed.filter(|speed| *speed > 0.0).map(|speed| tokens as f64 / speed)
        };
        let parts = [(before.tokens, before.tokens_per_s), (self.tokens, self.tokens_per_s)];
        // A part of one round has no speed of its own.
        let timed =
            parts.iter().filter_map(|(tokens, speed)| Some((*tokens, time(*tokens, *speed)?)));
        let (tokens, seconds) =
            timed.fold((0, 0.0), |(n, s), (tokens, time)| (n + tokens, s + time));
        self.tokens_per_s = (seconds > 0.0).then(|| tokens as f64 / seconds);
        self.rounds += before.rounds;
        self.tokens += before.tokens;
        self.drafted += before.drafted;
        self.accepted += before.accepted;
        self.uplink_bytes += before.uplink_bytes;
        self.downlink_bytes += before.downlink_bytes;
        self.ttft_ms = before.ttft_ms;
        self.writer = Some(self.writer.map_or(before.mode, |writer| before.mode.with(writer)));
    }

    /// Who wrote it; nothing before the first round.
    #[must_use]
    pub fn writer(&self) -> Option<Writer> {
        self.writer
    }
}

/// Who wrote an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writer {
    /// Drafted on the device, verified by the edge.
    Dssd,
    /// The edge alone.
    Edge,
    /// The drafter alone.
    Device,
    /// The edge throughout, with drafts of the device in a part of it: all of it is the verifier's.
    Both,
    /// The drafter alone in a part of it.
    Mixed,
}

impl Writer {
    const ALL: [Self; 5] = [Self::Dssd, Self::Edge, Self::Device, Self::Both, Self::Mixed];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dssd => "dssd",
            Self::Edge => "edge",
            Self::Device => "device",
            Self::Both => "both",
            Self::Mixed => "mixed",
        }
    }

    /// By its name or that of a round's mode. Nobody vouches for what has another one.
    pub(crate) fn parse(text: &str) -> Self {
        Self::ALL.into_iter().find(|w| w.as_str() == text).unwrap_or(Self::Mixed)
    }

    /// Of a text that both wrote parts of.
    pub(crate) fn with(self, other: Self) -> Self {
        let verified = |w| matches!(w, Self::Dssd | Self::Edge | Self::Both);
        if self == other {
            self
        } else if verified(self) && verified(other) {
            Self::Both
        } else {
            Self::Mixed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_device_wrote_alone_is_called_so() {
        use Writer::{Both, Device, Dssd, Edge, Mixed};
        for (rounds, said) in [
            (&["dssd", "edge", "dssd"][..], Both),
            (&["edge", "dssd", "edge"], Both),
            (&["edge", "edge"], Edge),
            (&["dssd"], Dssd),
            (&["device", "device"], Device),
            (&["edge", "device"], Mixed),
            (&["device", "dssd", "edge"], Mixed),
            (&["dssd", "edge", "device", "edge"], Mixed),
            (&["edge", "who knows"], Mixed),
        ] {
            let all = rounds.iter().map(|mode| Writer::parse(mode));
            assert_eq!(all.reduce(Writer::with), Some(said), "{rounds:?}");
        }
    }

    fn part(tokens: u64, tokens_per_s: Option<f64>) -> Totals {
        Totals { tokens, tokens_per_s, rounds: 1, writer: Some(Writer::Edge), ..Totals::default() }
    }

    #[test]
    fn an_answer_of_two_parts_has_the_speed_of_both() {
        let speed = |before: Option<f64>, now: Option<f64>| {
            let mut totals = part(30, now);
            let before = Stats::of(&part(60, before), None).unwrap();
            totals.go_on_from(&Stats { mode: Writer::Dssd, ..before });
            assert_eq!((totals.tokens, totals.writer()), (90, Some(Writer::Both)));
            totals.tokens_per_s
        };
        // 60 tokens in 6 s, then 30 in 2.
        assert_eq!(speed(Some(10.0), Some(15.0)), Some(90.0 / 8.0));
        assert_eq!(speed(Some(10.0), None), Some(10.0));
        assert_eq!(speed(None, Some(15.0)), Some(15.0));
        assert_eq!(speed(None, None), None);
    }
}
