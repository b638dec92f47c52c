//! Helpers of the end-to-end tests: a real edge, a real drafter, one call for an answer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tandem_device::{
    Ahead, Answer, Drafter, Event, Gamma, GenerateError, Link, Mode, Request, RoundRecord,
    WhenEdgeLost, generate, new_session,
};
use tandem_edge::{Config, Edge, Limits};
use tandem_inference::{ChatMessage, LoadOptions, Model, Role, store::Store};
use tandem_speculation::{Planner, RoundTimes, Sampling, Source, Way};
use tokio_util::sync::CancellationToken;

/// The default pair, and a model of another family.
pub const DRAFTER: &str = "qwen2.5-coder-0.5b-instruct-q4_k_m";
/// See [`DRAFTER`].
pub const VERIFIER: &str = "qwen2.5-coder-1.5b-instruct-q4_k_m";
/// See [`DRAFTER`].
pub const OTHER: &str = "smollm2-135m-instruct-q4_1";

/// A model's file.
///
/// # Panics
/// If it is not here.
#[must_use]
pub fn file(name: &str) -> PathBuf {
    let store = Store::open_default().expect("a folder for models");
    store.resolve(name).expect("the model; `npm test` downloads it")
}

/// Loads a model.
///
/// # Panics
/// If it cannot be loaded.
#[must_use]
pub fn model(name: &str) -> Arc<Model> {
    Arc::new(Model::load(&file(name), &LoadOptions::default()).expect("a good model"))
}

/// Loads a drafter.
///
/// # Panics
/// If it cannot be loaded.
pub async fn drafter(name: &str) -> Drafter {
    Drafter::load(file(name), LoadOptions::default(), 4096).await.expect("a good model")
}

/// Usual limits on loopback.
#[must_use]
pub fn config(listen: SocketAddr) -> Config {
    let (idle, wait) = (Duration::from_secs(60), Duration::from_secs(10));
    let limits = Limits { context: 4096, sessions: 8, kv_bytes: 1 << 30, idle, wait };
    Config { listen, ..Config::local("test", limits) }
}

/// Starts an edge; port 0 picks a free one.
///
/// # Panics
/// If it cannot listen.
pub async fn edge(model: &Arc<Model>, port: u16) -> Edge {
    let config = config(([127, 0, 0, 1], port).into());
    Edge::start(Arc::clone(model), config).await.expect("an edge")
}

/// A link to an edge.
///
/// # Panics
/// Never: a socket address is an edge's address.
#[must_use]
pub fn link(drafter: &Drafter, address: SocketAddr) -> Link {
    let address = address.to_string().parse().expect("an address");
    Link::start(address, drafter.hello())
}

/// A request for one question.
///
/// # Panics
/// If it cannot be encoded.
#[must_use]
pub fn request(drafter: &Drafter, prompt: &str, mode: Mode, gamma: usize) -> Request {
    let message = ChatMessage { role: Role::User, content: prompt.into() };
    Request {
        session: new_session(),
        prompt: drafter.tokenizer().encode_chat(&[message]).expect("ids"),
        begun: 0,
        sampling: Sampling::GREEDY,
        seed: 1,
        mode,
        gamma: Gamma::Fixed(gamma),
        ahead: Ahead::No,
        max_tokens: 64,
        when_edge_lost: WhenEdgeLost::Stop,
        patience: Duration::from_secs(20),
    }
}

/// An answer with its rounds and text; `each` sees every round as it comes.
///
/// # Errors
/// As [`generate`].
pub async fn answer(
    drafter: &Drafter,
    link: Option<&Link>,
    request: &Request,
    mut each: impl FnMut(&RoundRecord),
) -> Result<(Answer, Vec<RoundRecord>, String), GenerateError> {
    let (mut rounds, mut text) = (Vec::new(), String::new());
    let cancel = CancellationToken::new();
    let answer = generate(drafter, link, request, &cancel, |event| {
        if let Event::Round { record, text: piece, .. } = event {
            each(&record);
            rounds.push(record);
            text.push_str(&piece);
        }
    })
    .await?;
    Ok((answer, rounds, text))
}

/// Resident memory of a process in MiB; `None` where the system does not say.
#[must_use]
pub fn memory(process: u32) -> Option<u64> {
    let kib = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
    if let Ok(status) = std::fs::read_to_string(format!("/proc/{process}/status")) {
        return Some(kib(status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?)? >> 10);
    }
    // Other systems of the Unix kind.
    let process = process.to_string();
    let ps = std::process::Command::new("ps").args(["-o", "rss=", "-p", &process]).output().ok()?;
    Some(kib(&String::from_utf8_lossy(&ps.stdout))? >> 10)
}

/// What a link's planner is made to believe, so that it answers in this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// Plain tokens are quick.
    Stream,
    /// Drafts in turns, by the drafter's model.
    Turns,
    /// Drafts in turns, looked up wherever the text repeats itself.
    Lookup,
    /// Drafts ahead: the link is slow.
    Ahead,
    /// The edge's own drafts, if it has a drafter.
    Colocated,
}

impl Belief {
    /// All.
    pub const ALL: [Self; 5] =
        [Self::Stream, Self::Turns, Self::Lookup, Self::Ahead, Self::Colocated];

    /// The way that follows from it.
    #[must_use]
    pub fn way(self) -> Way {
        match self {
            Self::Stream => Way::Stream,
            Self::Turns | Self::Lookup => Way::Turns,
            Self::Ahead => Way::Ahead,
            Self::Colocated => Way::Colocated,
        }
    }

    /// A planner that believes it. Its figures are no times of this machine.
    #[must_use]
    pub fn planner(self) -> Planner {
        let mut planner = Planner::default();
        planner.offer_colocated(true);
        // Milliseconds of a draft, a round trip and a verification; tokens accepted; plain tokens.
        let (draft, link, verify, accepted, plain) = match self {
            Self::Stream => (400.0, 400.0, 200.0, 1, 1.0),
            Self::Turns => (1.0, 12.0, 10.0, 3, 100.0),
            Self::Lookup => (400.0, 120.0, 100.0, 3, 900.0),
            Self::Ahead => (4.0, 200.0, 10.0, 4, 500.0),
            Self::Colocated => (400.0, 400.0, 200.0, 1, 900.0),
        };
        let slow = RoundTimes { draft_ms: 400.0, round_trip_ms: 400.0, verify_ms: 200.0 };
        let times = RoundTimes { draft_ms: draft, round_trip_ms: link, verify_ms: verify };
        for i in 0..16 {
            // Drafts of different lengths take the same time: a further row costs nothing, so that
            // alternatives are worth theirs.
            let sure = Source::model(&[0.9; 6][..4 + i % 3]);
            if self == Self::Ahead {
                planner.drafted(
                    Way::Turns,
                    sure,
                    accepted,
                    times,
                    accepted + 1,
                    Some(draft + link),
                );
                continue;
            }
            planner.drafted(Way::Ahead, sure, 1, slow, 2, Some(4000.0));
            planner.drafted(Way::Turns, sure, accepted, times, accepted + 1, Some(draft + link));
            if self == Self::Lookup {
                for matched in 3..=8 {
                    let found = Source::Lookup { matched, drafted: 4 };
                    let times = RoundTimes { draft_ms: 0.0, ..times };
                    planner.drafted(Way::Turns, found, 4, times, 5, Some(link));
                }
            }
        }
        for _ in 0..64 {
            planner.streamed(Some(plain));
        }
        let colocated = if self == Self::Colocated { 1.0 } else { 4000.0 };
        for _ in 0..8 {
            planner.written(4, 4, 5, Some(colocated));
        }
        for _ in 0..4 {
            planner.choose();
        }
        planner
    }
}

/// Replaces what a link's planner knows.
pub fn believe(link: &Link, belief: Belief) {
    let mut planner = link.planner().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    *planner = belief.planner();
}
