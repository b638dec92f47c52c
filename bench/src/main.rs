//! Measurements of Tandem beside its peers, each in one run so that the ratios hold on a noisy
//! machine. Each subcommand prints a table and writes JSON where asked to.
#![allow(clippy::print_stdout, reason = "a program for a terminal")]

mod decode;
mod engine;
mod facts;
mod load;
mod page;
mod soak;

use anyhow::Result;
use clap::Parser;

/// Measures Tandem beside its peers.
#[derive(Parser)]
enum Command {
    Engine(engine::Args),
    Decode(decode::Args),
    Load(load::Args),
    Page(page::Args),
    Soak(soak::Args),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Engine(args) => engine::run(&args),
        Command::Decode(args) => decode::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Page(args) => page::run(&args),
        Command::Soak(args) => soak::run(&args),
    }
}
