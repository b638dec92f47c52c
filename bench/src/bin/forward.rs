//! Cost of one forward pass with M rows after a context, ours and stock candle's, interleaved in
//! one run so that the ratio means something on a noisy machine.
#![allow(clippy::print_stdout)]

use anyhow::Result;
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::{quantized_llama, quantized_qwen2};
use clap::Parser;
use std::path::PathBuf;
use std::time::Instant;
use tandem_inference::{LoadOptions, Model, Segment, Wanted};
use tandem_speculation::TokenId;

/// Median milliseconds of a forward pass with M rows after 64 tokens.
#[derive(Parser)]
struct Args {
    /// A GGUF file.
    model: PathBuf,
    /// Rows of the passes.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,5,9,17,33")]
    rows: Vec<usize>,
    /// Passes of each kind.
    #[arg(long, default_value_t = 7)]
    repeat: usize,
    /// Leave out stock candle.
    #[arg(long)]
    ours_only: bool,
}

enum Stock {
    Qwen2(quantized_qwen2::ModelWeights),
    Llama(quantized_llama::ModelWeights),
}

fn main() -> Result<()> {
    let args = Args::parse();
    let start = Instant::now();
    let model = Model::load(&args.model, &LoadOptions::default())?;
    println!("{}: loaded in {:.2} s", model.info().name, start.elapsed().as_secs_f64());
    println!("resident {} MiB of a file of {} MiB", resident_mib(), model.info().file_bytes >> 20);
    let ids: Vec<TokenId> = (0..128u32).map(|i| TokenId(i * 31 % 20_000 + 100)).collect();
    let mut stock = if args.ours_only {
        None
    } else {
        let mut file = std::fs::File::open(&args.model)?;
        let content = Content::read(&mut file)?;
        Some(match model.info().architecture.as_str() {
            "qwen2" => Stock::Qwen2(quantized_qwen2::ModelWeights::from_gguf(
                content,
                &mut file,
                &Device::Cpu,
            )?),
            _ => Stock::Llama(quantized_llama::ModelWeights::from_gguf(
                content,
                &mut file,
                &Device::Cpu,
            )?),
        })
    };
    let mut cache = model.new_cache(256)?;
    forward(&model, &mut cache, &ids[..64])?;
    println!("{:>5} {:>10} {:>10} {:>7}", "rows", "ours ms", "candle ms", "ratio");
    for &rows in &args.rows {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..args.repeat {
            cache.truncate(64);
            ours.push(forward(&model, &mut cache, &ids[64..64 + rows])?);
            if let Some(stock) = &mut stock {
                // Stock models cannot roll back: start again from the context.
                stock_forward(stock, &ids[..64], 0)?;
                theirs.push(stock_forward(stock, &ids[64..64 + rows], 64)?);
            }
        }
        let ours = median(ours);
        if theirs.is_empty() {
            println!("{rows:>5} {ours:>10.1}");
        } else {
            let theirs = median(theirs);
            println!("{rows:>5} {ours:>10.1} {theirs:>10.1} {:>7.2}", ours / theirs);
        }
    }
    Ok(())
}

fn forward(
    model: &Model,
    cache: &mut tandem_inference::KvCache,
    tokens: &[TokenId],
) -> Result<f64> {
    let start = Instant::now();
    model.forward(&mut [Segment { cache, tokens, logits: Wanted::All }])?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn stock_forward(stock: &mut Stock, tokens: &[TokenId], past: usize) -> Result<f64> {
    let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
    let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
    let start = Instant::now();
    match stock {
        Stock::Qwen2(m) => m.forward(&input, past)?,
        Stock::Llama(m) => m.forward(&input, past)?,
    };
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Resident memory of this process, where the system tells (Linux).
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) >> 10
}
