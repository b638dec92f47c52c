//! `tandem-edge`: serves a large model to devices in the network.

mod cli;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tandem_edge::{Bound, Config, Limits};
use tandem_inference::{DeviceChoice, KvFormat, LoadOptions, Model};
use tandem_protocol::without_words;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The edge of Tandem: a large model for the devices in your network.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a model until Ctrl-C or SIGTERM.
    Serve(Serve),
    /// Show a QR code and a one-time code with which a device may pair.
    Pair(cli::pair::Args),
    /// List, rename and revoke paired devices.
    #[command(subcommand)]
    Devices(cli::devices::Command),
}

#[derive(clap::Args)]
struct Serve {
    /// A GGUF file, or the name of a downloaded model.
    #[arg(long, value_name = "FILE")]
    model: String,
    /// A small model of the same family, a file or a name: then the edge can also draft by itself, for
    /// devices that are slow or far away.
    #[arg(long, value_name = "FILE")]
    drafter: Option<String>,
    /// Where to listen; port 0 picks a free one. Beyond loopback the edge speaks TLS only.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7470")]
    listen: SocketAddr,
    /// Speak TLS, and pair with devices, on loopback too.
    #[arg(long)]
    tls: bool,
    #[command(flatten)]
    state: cli::State,
    /// Another name by which programs may ask for the model (`gpt-4o`, say); may be given several times.
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// The edge's name for people; the machine's name when absent.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Announce the edge by mDNS even if it is for this machine only.
    #[arg(long)]
    mdns: bool,
    /// Do not announce the edge by mDNS.
    #[arg(long, conflicts_with = "mdns")]
    no_mdns: bool,
    /// A token that devices may show without being paired.
    #[arg(long, value_name = "T", env = "TANDEM_EDGE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Tokens of a conversation at most.
    #[arg(long, value_name = "N", default_value_t = 8192)]
    context: usize,
    /// Conversations whose state is kept at most.
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_sessions: usize,
    /// Memory for the KV caches of all conversations at most, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    kv_memory: usize,
    /// Forget a conversation's state after so many idle minutes.
    #[arg(long, value_name = "N", default_value_t = 30)]
    idle_minutes: u64,
    /// Connections at most.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_connections: usize,
    /// Addresses of balancers before this edge. They must say with the PROXY protocol, version 2, whose a
    /// connection is, so that limits by address are those of devices and not the balancer's.
    #[arg(long, value_name = "IP,…", value_delimiter = ',')]
    balancer: Vec<IpAddr>,
    /// What computes: auto (a GPU if this build supports one and it is there), cpu or gpu.
    #[arg(long, value_name = "WHAT", default_value = "auto")]
    device: DeviceChoice,
    /// How keys and values are kept on the CPU: f16; f32 for twice the memory; or q8 for 56 % of it, which
    /// is approximate: answers are then those of the model with keys and values rounded to 8 bits.
    #[arg(long, value_name = "FORMAT", default_value = "f16")]
    kv_format: KvFormat,
    /// Compute threads; as many as the machine has when absent.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// After Ctrl-C or SIGTERM, begin nothing new but let running answers go on, for so many seconds at
    /// most. With 0 they end after their running rounds; devices go on where they were, at another edge
    /// or when this one is back. A second signal ends the wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    drain: u64,
    /// End when standard input ends: for a program that starts the edge as its helper.
    #[arg(long)]
    exit_with_parent: bool,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = log.with_filter(filter.and(filter_fn(without_words)));
    tracing_subscriber::registry().with(log).init();
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // What happened and what to do, and no places in the code.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match command {
        Command::Serve(args) => runtime.block_on(serve(args)),
        Command::Pair(args) => runtime.block_on(cli::pair::run(args)),
        Command::Devices(command) => cli::devices::run(command),
    }
}

async fn serve(args: Serve) -> Result<()> {
    let local = args.listen.ip().is_loopback();
    let name = args.name.clone().unwrap_or_else(machine);
    let config = Config {
        listen: args.listen,
        state: if args.tls || !local { Some(args.state.open()?) } else { None },
        token: args.token,
        name,
        announce: args.mdns || !(local || args.no_mdns),
        limits: Limits {
            context: args.context,
            sessions: args.max_sessions.max(1),
            kv_bytes: args.kv_memory.saturating_mul(1 << 20),
            idle: Duration::from_secs(args.idle_minutes.saturating_mul(60)),
            wait: Duration::from_secs(60),
        },
        connections: args.max_connections,
        balancers: args.balancer,
        aliases: args.alias,
        drafter: None,
    };
    // Before the model is loaded, so that a wrong address is known at once.
    let bound = Bound::new(config).await?;
    let (model, drafter) = (args.model, args.drafter);
    let options = LoadOptions { threads: args.threads, device: args.device, kv: args.kv_format };
    let stop = stop_signal(args.exit_with_parent)?;
    let loading = tokio::task::spawn_blocking(move || {
        let drafter = drafter.map(|drafter| load(&drafter, &options)).transpose()?;
        Ok::<_, anyhow::Error>((load(&model, &options)?, drafter))
    });
    tokio::pin!(stop);
    let (model, drafter) = tokio::select! {
        model = loading => model??,
        () = &mut stop => std::process::exit(0),
    };
    let name = model.info().name.clone();
    tracing::info!("{name} on {}", model.info().device);
    if !model.info().batch_invariant {
        tracing::warn!(
            "what this device computes for a token depends a little on what is computed beside it, so \
             texts with drafts are the model's only approximately; devices are told"
        );
    }
    let edge = bound.with_drafter(drafter.map(Arc::new)).serve(Arc::new(model))?;
    announce(&format!("tandem-edge ready at {} (model {name})", edge.url()));
    stop.await;
    if args.drain > 0 {
        tracing::info!("draining for up to {} s", args.drain);
        tokio::select! {
            () = edge.drain(Duration::from_secs(args.drain)) => {}
            () = stop_signal(false)? => {}
        }
    }
    tracing::info!("stopping");
    edge.stop().await;
    // A blocked read of standard input must not keep the process.
    std::process::exit(0);
}

/// The one line on standard output that says where the edge is.
#[allow(clippy::print_stdout)]
fn announce(line: &str) {
    println!("{line}");
}

fn machine() -> String {
    let name = gethostname::gethostname().to_string_lossy().into_owned();
    if name.is_empty() { "box".into() } else { name }
}

fn load(model: &str, options: &LoadOptions) -> Result<Model> {
    let path = tandem_inference::store::Store::open_default()?.resolve(model)?;
    Model::load(&path, options).with_context(|| format!("cannot serve {model}"))
}

/// Ends on Ctrl-C, SIGTERM, or (when asked for) the end of standard input.
fn stop_signal(with_parent: bool) -> Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    Ok(async move {
        let parent = async {
            if !with_parent {
                return std::future::pending().await;
            }
            let (gone, wait) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                let _ = gone.send(());
            });
            let _ = wait.await;
        };
        #[cfg(unix)]
        let terminated = terminate.recv();
        #[cfg(not(unix))]
        let terminated = std::future::pending::<()>();
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated => {}
            () = parent => {}
        }
    })
}
