//! The edge under load: many clients at once, drafts against plain streams.
//!
//! The edge and its sockets are the real ones. The clients are not: a machine that ran 32 drafters
//! beside the edge would measure itself. Each plays an answer that the two models wrote before, drafts
//! in the time that is declared, and lets the edge verify; at temperature 0 the edge accepts what it
//! accepted then. What a box with a GPU would do is simulated with the same answers.

mod client;
mod report;
mod simulate;

use crate::decode::{load, trace, world};
use crate::facts;
use anyhow::{Context, Result, ensure};
use client::Clients;
use report::{Cell, Report};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tandem_edge::{Config, Edge, Limits};
use trace::Trace;

/// Throughput and latency of the edge with many clients.
#[derive(clap::Args)]
pub struct Args {
    /// The small model, a GGUF file or the name of a downloaded one.
    #[arg(long, value_name = "FILE", value_parser = facts::model_file)]
    drafter: PathBuf,
    /// The large model, a GGUF file or the name of a downloaded one.
    #[arg(long, value_name = "FILE", value_parser = facts::model_file)]
    verifier: PathBuf,
    /// How many clients.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32")]
    clients: Vec<usize>,
    /// Tokens of an answer, at most.
    #[arg(long, default_value_t = 48)]
    tokens: usize,
    /// Seconds of each measurement, from when every client has its first token.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Milliseconds that a client takes to draft a token.
    #[arg(long, default_value_t = 20.0)]
    draft_ms: f64,
    /// Draft lengths; the best counts.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,6")]
    gamma: Vec<usize>,
    /// Keep the answers in this file, or take them from it if it is there.
    #[arg(long, value_name = "FILE.json")]
    traces: Option<PathBuf>,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
}

/// What every client does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Takes the edge's tokens one by one.
    Stream,
    /// Drafts so many tokens a round.
    Drafts(usize),
    /// Drafts so many, and goes on while the edge verifies; simulated only.
    Ahead(usize),
}

impl Mode {
    /// Drafted tokens of a round.
    pub fn gamma(self) -> usize {
        match self {
            Self::Stream => 0,
            Self::Drafts(gamma) | Self::Ahead(gamma) => gamma,
        }
    }

    /// As in the results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Drafts(_) => "dssd",
            Self::Ahead(_) => "ahead",
        }
    }
}

/// What clients got in the time that counts.
#[derive(Clone, Debug, Default)]
pub struct Got {
    pub tokens: usize,
    pub seconds: f64,
    /// Milliseconds from a draft to its verdict, or from a token to the next.
    pub rounds_ms: Vec<f64>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    ensure!(args.seconds > 0, "--seconds takes at least 1");
    ensure!(!args.clients.contains(&0), "--clients takes numbers from 1 on");
    ensure!(!args.gamma.contains(&0), "--gamma takes numbers from 1 on");
    let greedy = &trace::SAMPLINGS[..1];
    let traces =
        trace::all((&args.drafter, &args.verifier), greedy, args.tokens, args.traces.as_deref())?;
    let traces: Vec<Trace> = traces.into_iter().filter(|t| t.sampling == greedy[0].0).collect();
    let verifier = Arc::new(load(&args.verifier)?);
    let name = verifier.info().name.clone();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let cells = runtime.worker_threads(2).enable_all().build()?.block_on(async {
        let most = args.clients.iter().copied().max().unwrap_or(1);
        let edge = Edge::start(Arc::clone(&verifier), config(most)).await?;
        let clients = Clients::new(&verifier, edge.address(), args.draft_ms, &traces);
        let mut cells = Vec::new();
        for &n in &args.clients {
            let mut stream = 0.0;
            for mode in modes(&args.gamma) {
                eprint!("\r{n} clients, {mode:?}          ");
                let counted = Duration::from_secs(args.seconds);
                let got = clients.measure(n, mode, counted).await?;
                let cell =
                    Cell::new(None, n, mode, &got, stream).context("nothing was measured")?;
                stream = if mode == Mode::Stream { cell.tokens_per_s() } else { stream };
                cells.push(cell);
            }
        }
        eprintln!();
        edge.stop().await;
        Ok::<_, anyhow::Error>(Report::best(cells))
    })?;
    let mut simulated = Vec::new();
    for machines in world::declared() {
        for &n in &args.clients {
            let mut stream = 0.0;
            for mode in modes(&args.gamma).chain(args.gamma.iter().map(|g| Mode::Ahead(*g))) {
                let got = simulate::run(&machines, n, mode, &traces);
                let cell = Cell::new(Some(&machines.name), n, mode, &got, stream);
                let cell = cell.context("nothing was simulated")?;
                stream = if mode == Mode::Stream { cell.tokens_per_s() } else { stream };
                simulated.push(cell);
            }
        }
    }
    let report = Report::new(name, args.draft_ms, cells, Report::best(simulated))?;
    print!("{report}");
    args.out.as_deref().map_or(Ok(()), |file| facts::write_json(file, &report))
}

fn modes(gamma: &[usize]) -> impl Iterator<Item = Mode> {
    std::iter::once(Mode::Stream).chain(gamma.iter().map(|g| Mode::Drafts(*g)))
}

fn config(clients: usize) -> Config {
    let limits = Limits {
        context: 1024,
        sessions: 2 * clients + 2,
        kv_bytes: 8 << 30,
        idle: Duration::from_secs(600),
        wait: Duration::from_secs(600),
    };
    Config { connections: clients + 2, ..Config::local("bench", limits) }
}
