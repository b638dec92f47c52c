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
use tandem_speculation::Sampling;
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
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? >> 10)
}
