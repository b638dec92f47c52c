//! Fixed prompts through every way of answering, one after the other, at temperature 0.

use crate::drafter::Drafter;
use crate::generate::{Event, GenerateError, Request, generate};
use crate::link::{Link, LinkState};
use crate::record::{Ahead, Finish, Gamma, Mode, Pair, RoundRecord, WhenEdgeLost};
use crate::{new_session, now_ms};
use serde::Serialize;
use std::time::{Duration, Instant};
use tandem_inference::{ChatMessage, Role};
use tandem_speculation::{Sampling, TokenId};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// What is asked, and what it stands for. Fixed, so that results stay comparable over time.
pub const PROMPTS: [(&str, &str); 4] = [
    ("code", "Write a Python function that reverses a linked list."),
    ("chat", "Explain in three sentences why the sky is blue."),
    ("arithmetic", "What is 17 * 23? Show the steps."),
    ("translation", "Translate to French: The train leaves at noon and I am late."),
];

/// Draft lengths that are tried; the last chooses by itself.
const LENGTHS: [Gamma; 4] = [Gamma::Fixed(2), Gamma::Fixed(4), Gamma::Fixed(8), Gamma::Auto];
/// How long a lost edge is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tokens of the answer before the first that counts: it loads what is not in memory yet.
const WARM_UP: usize = 8;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many of [`PROMPTS`], from 1.
    pub prompts: usize,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
}

impl Plan {
    /// All prompts.
    pub const FULL: Self = Self { prompts: PROMPTS.len(), max_tokens: 64 };
    /// One prompt, in about a quarter of a minute.
    pub const QUICK: Self = Self { prompts: 1, max_tokens: 32 };
}

/// Why a benchmark has no result.
#[derive(Debug, Error)]
pub enum BenchmarkError {
    /// An answer failed.
    #[error(transparent)]
    Answer(#[from] GenerateError),
    /// A prompt cannot be encoded.
    #[error(transparent)]
    Model(#[from] tandem_inference::Error),
    /// The box is out of reach.
    #[error("the benchmark needs the box: {0}")]
    Edge(String),
    /// The device did not draft as it was asked to.
    #[error(
        "this device is hot, or low on battery or memory, and drafts less now; its figures would say \
         little, so try again later"
    )]
    Unwell,
    /// Somebody stopped it.
    #[error("the benchmark was cancelled; nothing was kept")]
    Cancelled,
}

/// What is being measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Answers that are done.
    pub done: usize,
    /// Answers in all.
    pub total: usize,
    /// `dssd`, `edge` or `device`.
    pub mode: &'static str,
    /// The draft length; `None` when it is chosen each round, or nothing is drafted.
    pub gamma: Option<u32>,
    /// Which of [`PROMPTS`].
    pub prompt: &'static str,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BenchmarkRun {
    /// `dssd`, `edge` or `device`.
    pub mode: String,
    /// As in [`Progress`].
    pub gamma: Option<u32>,
    /// Which of [`PROMPTS`].
    pub prompt: String,
    /// Its tokens.
    pub tokens: u64,
    /// Tokens after the first round.
    pub later_tokens: u64,
    /// The time that they took.
    pub later_ms: f64,
    /// Time to the first token.
    pub ttft_ms: Option<f64>,
    /// Rounds.
    pub rounds: u64,
    /// Drafted tokens that were tested.
    pub tested: u64,
    /// Accepted ones.
    pub accepted: u64,
    /// Payload, both ways.
    pub bytes: u64,
    /// Whether the text is the edge's own; `None` where that is not to be expected.
    pub same: Option<bool>,
}

/// One way over all prompts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// `dssd`, `edge` or `device`.
    pub mode: String,
    /// As in [`Progress`].
    pub gamma: Option<u32>,
    /// All later tokens by all the time that they took.
    pub tokens_per_s: Option<f64>,
    /// Mean time to the first token.
    pub ttft_ms: Option<f64>,
    /// Accepted among the tested.
    pub acceptance: Option<f64>,
    /// Tokens a round.
    pub tokens_per_round: f64,
    /// Payload by tokens.
    pub bytes_per_token: f64,
    /// Whether all texts are the edge's own; `None` where that is not to be expected.
    pub same: Option<bool>,
}

/// A benchmark with all its answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Benchmark {
    /// Its row; 0 before it is kept.
    pub id: i64,
    /// Milliseconds since the epoch.
    pub started_at: i64,
    /// Who took part.
    pub pair: Pair,
    /// Version of the program.
    pub version: String,
    /// Tokens of an answer at most.
    pub max_tokens: u64,
    /// The answers.
    pub runs: Vec<BenchmarkRun>,
}

/// A way that is slower than the fastest by less than this is as good: noise is larger.
const AS_GOOD: f64 = 0.97;

impl Benchmark {
    /// Each way over all prompts, in the order of measuring.
    #[must_use]
    pub fn ways(&self) -> Vec<Way> {
        let mut ways: Vec<Way> = Vec::new();
        for first in &self.runs {
            if ways.iter().any(|w| w.mode == first.mode && w.gamma == first.gamma) {
                continue;
            }
            let runs: Vec<&BenchmarkRun> = self
                .runs
                .iter()
                .filter(|r| r.mode == first.mode && r.gamma == first.gamma)
                .collect();
            let sum = |f: fn(&BenchmarkRun) -> u64| runs.iter().map(|r| f(r)).sum::<u64>() as f64;
            let ms: f64 = runs.iter().map(|r| r.later_ms).sum();
            let ttft: Vec<f64> = runs.iter().filter_map(|r| r.ttft_ms).collect();
            let by = |a: f64, b: f64| (b > 0.0).then_some(a / b);
            let same: Vec<bool> = runs.iter().filter_map(|r| r.same).collect();
            ways.push(Way {
                mode: first.mode.clone(),
                gamma: first.gamma,
                tokens_per_s: by(sum(|r| r.later_tokens) * 1e3, ms),
                ttft_ms: by(ttft.iter().sum(), ttft.len() as f64),
                acceptance: by(sum(|r| r.accepted), sum(|r| r.tested)),
                tokens_per_round: by(sum(|r| r.tokens), sum(|r| r.rounds)).unwrap_or(0.0),
                bytes_per_token: by(sum(|r| r.bytes), sum(|r| r.tokens)).unwrap_or(0.0),
                same: (!same.is_empty()).then(|| same.iter().all(|s| *s)),
            });
        }
        ways
    }

    /// The way to use, by its place in [`Benchmark::ways`]: the fastest that gives the large
    /// model's text, or the automatic draft length when it is as good, since it follows changes.
    #[must_use]
    pub fn recommended(&self) -> Option<usize> {
        let ways = self.ways();
        let speed = |i: &usize| ways[*i].tokens_per_s.unwrap_or(0.0);
        let fits = |i: &usize| ways[*i].mode != "device" && speed(i) > 0.0;
        let best = (0..ways.len()).filter(fits).max_by(|a, b| speed(a).total_cmp(&speed(b)))?;
        let auto = (0..ways.len()).find(|&i| ways[i].mode == "dssd" && ways[i].gamma.is_none());
        let auto = auto.filter(|i| ways[best].mode == "dssd" && speed(i) >= AS_GOOD * speed(&best));
        Some(auto.unwrap_or(best))
    }
}

/// Measures. Without a link only the drafter alone is.
///
/// # Errors
/// If the box is away, an answer fails, or it was cancelled.
pub async fn benchmark(
    drafter: &Drafter,
    link: Option<&Link>,
    plan: Plan,
    cancel: &CancellationToken,
    mut on: impl FnMut(Progress),
) -> Result<Benchmark, BenchmarkError> {
    let info = drafter.info();
    let mut pair = Pair::alone(&info.name, info.vocab);
    let mut ways = vec![(Mode::Device, Gamma::Auto)];
    if let Some(link) = link {
        let found = tokio::select! {
            () = cancel.cancelled() => return Err(BenchmarkError::Cancelled),
            found = link.connected(PATIENCE) => found,
        };
        found.map_err(BenchmarkError::Edge)?;
        if let LinkState::Connected { welcome, .. } = &*link.state().borrow() {
            pair = pair.with(link.address(), welcome);
        }
        ways.insert(0, (Mode::Edge, Gamma::Auto));
        ways.splice(1..1, LENGTHS.map(|gamma| (Mode::Dssd, gamma)));
    }
    let prompts = &PROMPTS[..plan.prompts.clamp(1, PROMPTS.len())];
    let started_at = now_ms();
    let warm_up = Plan { max_tokens: WARM_UP, ..plan };
    let first = if link.is_some() { Mode::Dssd } else { Mode::Device };
    answer(drafter, link, prompts[0], (first, Gamma::Fixed(2)), warm_up, cancel).await?;
    let (mut runs, total) = (Vec::new(), ways.len() * prompts.len());
    for prompt in prompts {
        let mut edge: Option<Vec<TokenId>> = None;
        for &(mode, gamma) in &ways {
            let length = match gamma {
                Gamma::Fixed(n) => u32::try_from(n).ok(),
                Gamma::Auto => None,
            };
            let (mode_name, done) = (mode.as_str(), runs.len());
            on(Progress { done, total, mode: mode_name, gamma: length, prompt: prompt.0 });
            let (mut run, tokens) =
                answer(drafter, link, *prompt, (mode, gamma), plan, cancel).await?;
            run.gamma = length;
            match mode {
                Mode::Edge => edge = Some(tokens),
                Mode::Dssd => run.same = edge.as_ref().map(|own| *own == tokens),
                _ => {}
            }
            runs.push(run);
        }
    }
    Ok(Benchmark {
        id: 0,
        started_at,
        pair,
        version: env!("CARGO_PKG_VERSION").into(),
        max_tokens: plan.max_tokens as u64,
        runs,
    })
}

async fn answer(
    drafter: &Drafter,
    link: Option<&Link>,
    (name, prompt): (&str, &str),
    (mode, gamma): (Mode, Gamma),
    plan: Plan,
    cancel: &CancellationToken,
) -> Result<(BenchmarkRun, Vec<TokenId>), BenchmarkError> {
    let question = ChatMessage { role: Role::User, content: prompt.into() };
    let request = Request {
        // A session of its own: each way reads the prompt anew.
        session: new_session(),
        prompt: drafter.tokenizer().encode_chat(&[question])?,
        begun: 0,
        sampling: Sampling::GREEDY,
        seed: 1,
        mode,
        gamma,
        ahead: Ahead::No,
        max_tokens: plan.max_tokens,
        when_edge_lost: WhenEdgeLost::Stop,
        patience: PATIENCE,
    };
    let mut run = BenchmarkRun {
        mode: mode.as_str().into(),
        gamma: None,
        prompt: name.into(),
        tokens: 0,
        later_tokens: 0,
        later_ms: 0.0,
        ttft_ms: None,
        rounds: 0,
        tested: 0,
        accepted: 0,
        bytes: 0,
        same: None,
    };
    let start = Instant::now();
    let mut first: Option<(Instant, u64)> = None;
    let mut unwell = false;
    let answer = generate(drafter, link, &request, cancel, |event| {
        let Event::Round { record, tokens, .. } = event else { return };
        add(&mut run, &record, tokens.len() as u64);
        // The mode and the length are given, so nothing else decides.
        unwell |= record.decision.is_some();
        let now = Instant::now();
        let (since, before) = *first.get_or_insert((now, run.tokens));
        run.ttft_ms = Some(since.duration_since(start).as_secs_f64() * 1e3);
        run.later_tokens = run.tokens - before;
        run.later_ms = now.duration_since(since).as_secs_f64() * 1e3;
    })
    .await?;
    if answer.finish == Finish::Cancelled || cancel.is_cancelled() {
        return Err(BenchmarkError::Cancelled);
    }
    if unwell {
        return Err(BenchmarkError::Unwell);
    }
    Ok((run, answer.tokens))
}

fn add(run: &mut BenchmarkRun, record: &RoundRecord, tokens: u64) {
    run.tokens += tokens;
    run.rounds += 1;
    run.tested += u64::from(record.drafted - record.ignored);
    run.accepted += u64::from(record.accepted);
    run.bytes += record.uplink_bytes + record.downlink_bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mode: &str, gamma: Option<u32>, tokens: u64, ms: f64) -> BenchmarkRun {
        BenchmarkRun {
            mode: mode.into(),
            gamma,
            prompt: "code".into(),
            tokens: tokens + 1,
            later_tokens: tokens,
            later_ms: ms,
            ttft_ms: Some(100.0),
            rounds: 10,
            tested: 20,
            accepted: 15,
            bytes: 400,
            same: (mode == "dssd").then_some(true),
        }
    }

    fn of(runs: Vec<BenchmarkRun>) -> Benchmark {
        let (pair, version) = (Pair::default(), String::new());
        Benchmark { id: 0, started_at: 0, pair, version, max_tokens: 64, runs }
    }

    #[test]
    fn speed_is_all_tokens_by_all_time() {
        let ways = of(vec![run("edge", None, 10, 1000.0), run("edge", None, 90, 3000.0)]).ways();
        assert_eq!((ways.len(), ways[0].tokens_per_s), (1, Some(25.0)));
        assert_eq!((ways[0].acceptance, ways[0].same), (Some(0.75), None));
    }

    #[test]
    fn the_fastest_is_recommended_unless_the_automatic_length_is_as_good() {
        let with = |edge: u64, four: u64, auto: u64| {
            let runs = vec![
                run("edge", None, edge, 1000.0),
                run("dssd", Some(4), four, 1000.0),
                run("dssd", None, auto, 1000.0),
                // Fast, but another model's text.
                run("device", None, 500, 1000.0),
            ];
            of(runs).recommended()
        };
        assert_eq!(with(100, 120, 110), Some(1));
        assert_eq!(with(100, 120, 118), Some(2));
        assert_eq!(with(130, 120, 129), Some(0));
        assert_eq!(of(vec![run("device", None, 5, 1.0)]).recommended(), None);
    }
}
