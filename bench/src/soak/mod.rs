//! The edge as a program of its own under the load of a day in short: many clients with mixed prompts
//! that stop answers and come back on other connections, many that are idle, and less memory for KV
//! caches than all of them need. What the edge writes is compared with what it wrote alone.

mod client;
mod line;
mod report;

use crate::facts;
use anyhow::{Context, Result, bail, ensure};
use client::{Clients, Tally};
use report::{Memory, Report};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tandem_inference::{LoadOptions, Model};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A long run of the edge with many clients, and its memory.
#[derive(clap::Args)]
pub struct Args {
    /// A small model, a GGUF file or the name of a downloaded one.
    #[arg(long, value_name = "FILE", value_parser = facts::model_file, default_value = "smollm2-135m-instruct-q4_1")]
    model: PathBuf,
    /// Clients that are always at work.
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Clients that ask for a token now and then.
    #[arg(long, default_value_t = 200)]
    idle: usize,
    /// Seconds, from when all have begun.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// MiB for the KV caches of all.
    #[arg(long, default_value_t = 512)]
    kv: usize,
    /// Tokens of an answer, at most.
    #[arg(long, default_value_t = 48)]
    tokens: usize,
    /// Of the clients' choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    ensure!(args.clients > 0 && args.seconds >= 10, "one client and ten seconds are the least");
    let model = Arc::new(Model::load(&args.model, &LoadOptions::default())?);
    let edge = Edge::start(args)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(soak(args, &model, &edge))?;
    print!("{report}");
    if let Some(file) = &args.out {
        facts::write_json(file, &report)?;
    }
    match report.problem() {
        Some(problem) => bail!(problem),
        None => Ok(()),
    }
}

async fn soak(args: &Args, model: &Model, edge: &Edge) -> Result<Report> {
    let clients =
        Clients::prepare(model, edge.address, (args.idle, args.clients), args.tokens).await?;
    println!("{} answers are known; {} clients begin", clients.known(), args.clients + args.idle);
    let (tally, over) = (Arc::new(Tally::default()), CancellationToken::new());
    let mut all = JoinSet::new();
    // Those that are idle first: beside others that work their prompts would take minutes.
    for i in 0..args.idle + args.clients {
        if i == args.idle {
            begun(&mut all, &tally, args.idle).await?;
        }
        let (clients, tally, over) = (clients.clone(), Arc::clone(&tally), over.clone());
        let (idle, seed) = (i < args.idle, args.seed.wrapping_mul(1_000_003) + i as u64);
        all.spawn(async move {
            if idle {
                clients.idle((i, seed), &tally, &over).await
            } else {
                clients.work((i, seed), &tally, &over).await
            }
        });
    }
    begun(&mut all, &tally, args.idle + args.clients).await?;
    tally.start();
    let (start, mut memory) = (Instant::now(), Memory::default());
    while start.elapsed() < Duration::from_secs(args.seconds) {
        tokio::time::sleep(LOOK).await;
        let bytes = edge.memory().context("the edge has ended")?;
        memory.push(start.elapsed(), bytes);
        // An error of one ends all.
        if let Some(done) = all.try_join_next() {
            done??;
            bail!("a client ended too soon");
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    tally.stop();
    over.cancel();
    while let Some(done) = all.join_next().await {
        done??;
    }
    Report::new(args, &model.info().name, seconds, &tally, memory)
}

/// Waits until so many have their first token or answer.
async fn begun(all: &mut JoinSet<Result<()>>, tally: &Tally, many: usize) -> Result<()> {
    while tally.begun() < many {
        if let Some(done) = all.try_join_next() {
            done??;
        }
        tokio::time::sleep(LOOK).await;
    }
    println!("{many} have begun");
    Ok(())
}

/// The edge's process; ends with this one.
struct Edge {
    process: Child,
    address: SocketAddr,
}

impl Edge {
    fn start(args: &Args) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("tandem-edge");
        let number = |n: usize| n.to_string();
        let all = args.clients + args.idle;
        let mut process = Command::new(&program)
            .args(["serve", "--listen", "127.0.0.1:0", "--context", "1024", "--model"])
            .arg(&args.model)
            .args(["--kv-memory", &number(args.kv), "--max-sessions", &number(2 * all)])
            .args(["--max-connections", &number(2 * all)])
            .env_remove("TANDEM_EDGE_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{} cannot be started; build it", program.display()))?;
        let mut line = String::new();
        let output = process.stdout.take().context("its output")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.split("ws://").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.and_then(|a| a.parse().ok());
        let mut edge = Self { process, address: ([127, 0, 0, 1], 0).into() };
        edge.address = address.with_context(|| format!("the edge said: {line}"))?;
        Ok(edge)
    }

    /// Resident bytes; 0 where the system does not say; `None` if it has ended.
    fn memory(&self) -> Option<u64> {
        if !cfg!(target_os = "linux") {
            return Some(0);
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
