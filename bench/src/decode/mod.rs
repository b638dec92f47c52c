//! Decoding over a link: every scheme on the same answers.
//!
//! Two ways of keeping time. *Simulated*: the loop of the device with tokens and acceptance of the
//! real models, and times of a declared profile, so that machines and links that nobody has here can
//! be compared. *Wall clock*: the product's own loop and edge, and the peers' (`peers`), over sockets
//! with an emulated link. The same answers are then simulated with the times that were measured,
//! which says how far the simulation can be trusted.

mod emulator;
mod peers;
mod report;
pub mod schemes;
mod simulate;
pub mod trace;
mod wall;
mod ways;
pub mod world;

use crate::facts;
use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
#[cfg(test)]
pub use report::COLUMNS;
use report::{Cell, Report};
use schemes::Scheme;
use simulate::Simulation;
use std::path::{Path, PathBuf};
use tandem_inference::{DeviceChoice, LoadOptions, Model};
use trace::Trace;
use world::{Machines, Net};

/// Speed and traffic of every scheme over links of all kinds, simulated and by the clock.
#[derive(clap::Args)]
pub struct Args {
    /// The small model, a GGUF file or the name of a downloaded one.
    #[arg(long, value_name = "FILE", value_parser = facts::model_file)]
    drafter: PathBuf,
    /// The large model, a GGUF file or the name of a downloaded one.
    #[arg(long, value_name = "FILE", value_parser = facts::model_file)]
    verifier: PathBuf,
    /// Tokens of an answer, at most.
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Round trips of the simulated links, in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "0,5,20,50,100")]
    rtt: Vec<f64>,
    /// Rates of the simulated links, in Mbit/s.
    #[arg(long, value_delimiter = ',', default_value = "10,50,100")]
    mbit: Vec<f64>,
    /// Draft lengths, beside the one that is chosen.
    #[arg(long, value_delimiter = ',', default_value = "2,4,6,8")]
    gamma: Vec<usize>,
    /// How often each answer is simulated, with other random numbers.
    #[arg(long, default_value_t = 12)]
    repeat: u32,
    /// Round trips of the emulated links by the clock, in milliseconds; none skips that part.
    #[arg(long, value_delimiter = ',', default_value = "0,50", num_args = 0..)]
    wall: Vec<f64>,
    /// Prompts by the clock.
    #[arg(long, default_value_t = 1)]
    wall_prompts: usize,
    /// Tokens of an answer by the clock, at most; no more than `--tokens`.
    #[arg(long, default_value_t = 32)]
    wall_tokens: usize,
    /// Keep the traces of the models in this file, or take them from it if it is there.
    #[arg(long, value_name = "FILE.json")]
    traces: Option<PathBuf>,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    ensure!(args.tokens >= 2, "--tokens takes at least 2");
    // Fewer are written in one round, which does not count.
    let enough = (8..=args.tokens).contains(&args.wall_tokens) && args.wall_prompts > 0;
    ensure!(
        args.wall.is_empty() || enough,
        "--wall-tokens takes 8 to --tokens, --wall-prompts at least 1"
    );
    ensure!(args.repeat > 0, "--repeat takes at least 1");
    ensure!(args.mbit.iter().all(|m| *m > 0.0), "--mbit takes numbers above 0");
    ensure!(!args.gamma.contains(&0), "--gamma takes numbers from 1 on");
    let models = (args.drafter.as_path(), args.verifier.as_path());
    let traces = trace::all(models, &trace::SAMPLINGS, args.tokens, args.traces.as_deref())?;
    eprintln!("simulating");
    let machines = world::declared();
    let mut cells = grid(args, &machines, &traces);
    Cell::compare(&mut cells);
    let wall = if args.wall.is_empty() { None } else { Some(wall::measure(args, &traces)?) };
    let report = Report::new(&traces, machines, cells, wall)?;
    print!("{report}");
    args.out.as_deref().map_or(Ok(()), |file| facts::write_json_lines(file, &report))
}

/// Loads a model on the CPU.
pub fn load(file: &Path) -> Result<Model> {
    let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    Model::load(file, &options).with_context(|| format!("cannot load {}", file.display()))
}

/// Every scheme and draft length in every world.
fn grid(args: &Args, machines: &[Machines], traces: &[Trace]) -> Vec<Cell> {
    let vocab = trace::VOCAB;
    let mut kinds = Vec::new();
    for machines in machines {
        for (sampling, _) in trace::SAMPLINGS {
            for &mbit in &args.mbit {
                for &rtt_ms in &args.rtt {
                    for scheme in Scheme::ALL {
                        let fixed = args.gamma.iter().copied().map(Some);
                        let fixed = fixed.filter(|_| scheme.drafts() && !scheme.chooses());
                        let net = Net { rtt_ms, mbit, ..Net::default() };
                        kinds.extend(
                            fixed.chain([None]).map(|g| (machines, sampling, net, scheme, g)),
                        );
                    }
                }
            }
        }
    }
    let cell = |(machines, sampling, net, scheme, gamma): (&Machines, &'static str, Net, _, _)| {
        let mut simulation = Simulation::new(machines, net, vocab, scheme, gamma);
        for repeat in 0..args.repeat {
            for trace in traces.iter().filter(|t| t.sampling == sampling) {
                simulation.answer(trace, repeat);
            }
        }
        Cell::new(machines, sampling, net, scheme, gamma, simulation.sum())
    };
    kinds.into_par_iter().map(cell).collect()
}
