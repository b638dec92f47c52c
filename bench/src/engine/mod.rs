//! Cost of one forward pass of M new rows after a context: ours, stock candle's and llama.cpp's.
//!
//! M = 1 is a plain decoding step, small M the verification of a draft, large M a part of a prompt.
//! The engines take turns pass by pass, so that noise of the machine hits all alike, and every pass
//! is checked to have computed what ours did.
//!
//! llama.cpp as fast as it gets on the machine that builds it:
//!
//! ```sh
//! F="-march=native -mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
//! CMAKE_C_FLAGS=$F CMAKE_CXX_FLAGS=$F \
//!     cargo run --release -p tandem-bench --features llama -- engine --model FILE.gguf
//! ```

#[cfg(feature = "llama")]
mod llama;
#[cfg(not(feature = "llama"))]
#[path = "llama_absent.rs"]
mod llama;
mod ours;
mod report;
mod stock;

use crate::facts::{self, Bystanders};
use anyhow::{Result, ensure};
use llama::Llama;
use ours::Ours;
use report::{Cell, Report};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use stock::Stock;
use tandem_inference::{DeviceChoice, LoadOptions, Model, Wanted};
use tandem_speculation::TokenId;

/// Milliseconds of one forward pass with M rows after a context: ours, stock candle's, llama.cpp's.
#[derive(clap::Args)]
pub struct Args {
    /// A GGUF file or the name of a downloaded one; may be given several times.
    #[arg(long = "model", value_name = "FILE", required = true, value_parser = facts::model_file)]
    models: Vec<PathBuf>,
    /// Tokens before the pass.
    #[arg(long, value_delimiter = ',', default_value = "64,1024,4096")]
    contexts: Vec<usize>,
    /// Rows of a pass. From 128 on a pass is also measured with logits of its last row only, which
    /// is what a prompt needs.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,5,9,17,33,128")]
    rows: Vec<usize>,
    /// Passes of each kind.
    #[arg(long, default_value_t = 7)]
    repeat: usize,
    /// Passes of each kind of stock candle, at most: it cannot roll back and computes the context
    /// again for each.
    #[arg(long, default_value_t = 2)]
    stock_repeat: usize,
    /// Measure stock candle after every context, not only after 64 tokens.
    #[arg(long)]
    stock_everywhere: bool,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
}

/// Rows from which a pass stands for a part of a prompt.
const PROMPT_ROWS: usize = 128;

/// The longest context at which stock candle is measured unless asked for more.
const STOCK_CONTEXT: usize = 64;

/// Before each pass, so that threads of the engine before, which spin for a while in wait of more
/// work, have gone to sleep.
const SETTLE: Duration = Duration::from_millis(20);

/// Cosine of the angle between two engines' logits of one row, at least. Engines round differently;
/// one that lost its context, or took other tokens, is far below.
const AGREEMENT: f64 = 0.97;

/// An engine that holds a context.
trait Engine {
    /// Times one pass of `tokens` after the context, and forgets them again.
    fn pass(&mut self, tokens: &[TokenId], logits: Wanted) -> Result<Pass>;
}

/// What a pass cost and gave.
struct Pass {
    ms: f64,
    /// Logits of the last row.
    last: Vec<f32>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    ensure!(args.repeat > 0, "--repeat takes at least 1");
    ensure!(!args.rows.contains(&0), "--rows takes numbers from 1 on");
    ensure!(!args.contexts.contains(&0), "--contexts takes numbers from 1 on");
    let mut cells = Vec::new();
    for file in &args.models {
        measure(file, args, &mut cells)?;
    }
    let report = Report::new(cells, args.repeat, args.stock_repeat)?;
    print!("{report}");
    args.out.as_deref().map_or(Ok(()), |file| facts::write_json(file, &report))
}

/// Measures all cells of one model.
fn measure(file: &Path, args: &Args, cells: &mut Vec<Cell>) -> Result<()> {
    let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    let model = Model::load(file, &options)?;
    let name = &model.info().name;
    let llama = Llama::load(file)?;
    let mut stock = Stock::load(file, model.info())?;
    let most = args.rows.iter().copied().max().unwrap_or(0);
    for &context in &args.contexts {
        eprintln!("{name}: context of {context} tokens");
        // Spread over the vocabulary: what the tokens say does not matter to the cost.
        let id = |i: usize| TokenId((i * 31 % 20_000 + 100) as u32);
        let ids: Vec<TokenId> = (0..context + most).map(id).collect();
        let (past, new) = ids.split_at(context);
        let stock = stock.as_mut().filter(|_| args.stock_everywhere || context <= STOCK_CONTEXT);
        let mut engines: [Option<Box<dyn Engine + '_>>; 3] = [
            Some(Box::new(Ours::after(&model, past, most)?)),
            stock.map(|s| Box::new(s.after(past)) as _),
            llama.as_ref().map(|l| l.after(past, most)).transpose()?,
        ];
        let first = cells.len();
        for (rows, logits) in kinds(&args.rows) {
            let repeat = [args.repeat, args.stock_repeat, args.repeat];
            let others = Bystanders::watch();
            let times = alternate(&mut engines, &new[..rows], logits, repeat)?;
            let mut cell = Cell::new(name, context, rows, logits, &times, &cells[first..])?;
            cell.others_percent = others.percent();
            eprintln!("  {cell}");
            cells.push(cell);
        }
    }
    Ok(())
}

/// The passes to measure: rows, and which of them give logits.
fn kinds(rows: &[usize]) -> impl Iterator<Item = (usize, Wanted<'_>)> {
    let prompts = rows.iter().filter(|&&m| m >= PROMPT_ROWS).map(|&m| (m, Wanted::Last));
    rows.iter().map(|&m| (m, Wanted::All)).chain(prompts)
}

/// Milliseconds of each engine's passes, taken in turns; ours is the first and has most passes.
fn alternate(
    engines: &mut [Option<Box<dyn Engine + '_>>; 3],
    tokens: &[TokenId],
    logits: Wanted,
    repeat: [usize; 3],
) -> Result<[Vec<f64>; 3]> {
    let mut times = [const { Vec::new() }; 3];
    for turn in 0..repeat[0] {
        let mut reference: Option<Vec<f32>> = None;
        for ((engine, times), repeat) in engines.iter_mut().zip(&mut times).zip(repeat) {
            let Some(engine) = engine.as_mut().filter(|_| turn < repeat) else { continue };
            thread::sleep(SETTLE);
            let pass = engine.pass(tokens, logits)?;
            times.push(pass.ms);
            let cosine = cosine(reference.get_or_insert_with(|| pass.last.clone()), &pass.last);
            ensure!(cosine > AGREEMENT, "the engines compute different logits (cosine {cosine})");
        }
    }
    Ok(times)
}

/// Of the angle between two rows of logits; padding of a vocabulary, which not every engine cuts
/// off, is left out.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
