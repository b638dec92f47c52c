//! `tandem`: the device without a window. Chats in the terminal and manages model files.
//!
//! **Invariant: knows no more than the app does.** All work is in `tandem-device` and
//! `tandem-inference`; here are only arguments and printing. Answers and lists go to standard
//! output, everything else to standard error.

mod bench;
mod boxes;
mod chat;
mod models;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

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
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
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
