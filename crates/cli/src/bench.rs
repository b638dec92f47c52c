//! `tandem bench`: the app's benchmark in the terminal.

use crate::numbers;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;
use tandem_device::store::{Store, default_path};
use tandem_device::{
    Benchmark, BenchmarkError, Drafter, EdgeAddress, Link, PROMPTS, Plan, Progress, benchmark,
};
use tandem_inference::{DeviceChoice, LoadOptions, store::Store as ModelStore};
use tokio_util::sync::CancellationToken;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The edge, such as ws://192.168.1.20:7470; without it only the drafter alone is measured.
    #[arg(long, value_name = "URL", env = "TANDEM_EDGE")]
    edge: Option<EdgeAddress>,
    /// The edge's token.
    #[arg(long, value_name = "T", env = "TANDEM_EDGE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The small model: a GGUF file, or the name of a downloaded model.
    #[arg(long, value_name = "FILE", default_value = "qwen2.5-coder-0.5b-instruct-q4_k_m")]
    drafter: String,
    /// How many of the fixed prompts.
    #[arg(long, value_name = "N", default_value_t = PROMPTS.len(), value_parser = numbers::count)]
    prompts: usize,
    /// Tokens of an answer at most.
    #[arg(long, value_name = "N", default_value_t = Plan::FULL.max_tokens, value_parser = numbers::count)]
    max_tokens: usize,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// The database that keeps the result; the usual one when absent.
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// Compute threads of the drafter; as many as the machine has when absent.
    #[arg(long, value_name = "N", value_parser = numbers::threads)]
    threads: Option<usize>,
    /// What computes the drafter: auto (a GPU if this build supports one and it is there), cpu or gpu.
    #[arg(long, value_name = "WHAT", default_value = "auto")]
    device: DeviceChoice,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(bench(args))
}

#[allow(clippy::print_stdout)]
async fn bench(args: Args) -> Result<ExitCode> {
    if !(1..=PROMPTS.len()).contains(&args.prompts) {
        bail!("--prompts must be from 1 to {}", PROMPTS.len());
    }
    if !(2..=1024).contains(&args.max_tokens) {
        bail!("--max-tokens must be from 2 to 1024");
    }
    let path = ModelStore::open_default()?.resolve(&args.drafter).map_err(anyhow::Error::msg)?;
    let store = Store::open(&args.db.clone().unwrap_or_else(default_path)).await?;
    let options =
        LoadOptions { threads: args.threads, device: args.device, ..LoadOptions::default() };
    let drafter = Drafter::load(path, options, 4096)
        .await
        .with_context(|| format!("cannot use the drafter {}", args.drafter))?;
    let link = args.edge.map(|edge| Link::start(edge.with_token(args.token), drafter.hello()));
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    let plan = Plan { prompts: args.prompts, max_tokens: args.max_tokens };
    let mut result = match benchmark(&drafter, link.as_ref(), plan, &cancel, tell).await {
        Err(BenchmarkError::Cancelled) => {
            eprintln!("{}", BenchmarkError::Cancelled);
            return Ok(ExitCode::from(130));
        }
        other => other?,
    };
    result.id = store.add_benchmark(&result).await?;
    store.close().await;
    if args.json {
        let (ways, recommended) = (result.ways(), result.recommended());
        let output = serde_json::json!({
            "benchmark": result, "ways": ways, "recommended": recommended,
        });
        println!("{output}");
    } else {
        print(&result);
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(p: Progress) {
    eprintln!("{}/{} {} {}", p.done + 1, p.total, name(p.mode, p.gamma), p.prompt);
}

fn name(mode: &str, gamma: Option<u32>) -> String {
    match (mode, gamma) {
        ("dssd", None) => "dssd γ auto".into(),
        (_, None) => mode.into(),
        (_, Some(gamma)) => format!("{mode} γ {gamma}"),
    }
}

#[allow(clippy::print_stdout)]
fn print(result: &Benchmark) {
    let best = result.recommended();
    println!("way          tokens/s  first token  accepted  tokens/round  bytes/token  text");
    for (i, way) in result.ways().iter().enumerate() {
        let number = |v: Option<f64>, unit: &str| v.map_or("-".into(), |v| format!("{v:.1}{unit}"));
        println!(
            "{:<12} {:>8} {:>12} {:>9} {:>13.2} {:>12.1}  {}{}",
            name(&way.mode, way.gamma),
            number(way.tokens_per_s, ""),
            number(way.ttft_ms, " ms"),
            number(way.acceptance.map(|a| 100.0 * a), " %"),
            way.tokens_per_round,
            way.bytes_per_token,
            way.same.map_or("", |same| if same { "the edge's own" } else { "DIFFERS" }),
            if best == Some(i) { "  <- recommended" } else { "" },
        );
    }
}
