//! `tandem`: the device without a window. Chats in the terminal and manages model files.
//!
//! **Invariant: knows no more than the app does.** All work is in `tandem-device` and
//! `tandem-inference`; here are only arguments and printing. Answers and lists go to standard
//! output, everything else to standard error.

mod bench;
mod boxes;
mod chat;
mod input;
mod models;
mod numbers;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tandem_protocol::without_words;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Use a big language model from a small device.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Chat: one answer with --prompt, a conversation without.
    Chat(Box<chat::Args>),
    /// Pair with an edge by the link or the code that `tandem-edge pair` shows.
    Pair(boxes::Pair),
    /// List, rename, test and remove paired edges.
    #[command(subcommand)]
    Boxes(boxes::Command),
    /// Measure all ways of answering with fixed prompts, and say which to use.
    Bench(Box<bench::Args>),
    /// List, download and delete model files.
    #[command(subcommand)]
    Models(models::Command),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = log.with_filter(filter.and(filter_fn(without_words)));
    tracing_subscriber::registry().with(log).init();
    let result = match Args::parse().command {
        Command::Chat(args) => chat::run(*args),
        Command::Pair(args) => boxes::pair(args),
        Command::Boxes(command) => boxes::run(command),
        Command::Bench(args) => bench::run(*args),
        Command::Models(command) => models::run(command),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
