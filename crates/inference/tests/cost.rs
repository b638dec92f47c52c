//! Cost of loading and of a single-token step, the latter beside stock candle in alternation, so
//! that the ratio means something on a noisy machine.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_qwen2::ModelWeights;
use common::{load, model_path};
use std::time::Instant;
use tandem_inference::{Segment, Wanted};
use tandem_speculation::TokenId;

fn ms(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e3
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Our median over stock candle's, of steps with one token after 64.
fn step_ratio(name: &str) -> f64 {
    let model = load(name);
    let mut file = std::fs::File::open(model_path(name)).unwrap();
    let content = Content::read(&mut file).unwrap();
    let mut stock = ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap();
    let ids: Vec<u32> = (0..96).map(|i| i * 31 % 20_000 + 100).collect();
    let tokens: Vec<TokenId> = ids.iter().copied().map(TokenId).collect();
    let input = |ids: &[u32]| Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let mut cache = model.new_cache(128).unwrap();
    let mut ours = |tokens: &[TokenId]| {
        let logits = Wanted::Last;
        model.forward(&mut [Segment { cache: &mut cache, tokens, logits }]).unwrap();
    };
    ours(&tokens[..64]);
    stock.forward(&input(&ids[..64]), 0).unwrap();
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for i in 64..ids.len() {
        mine.push(ms(|| ours(&tokens[i..=i])));
        theirs.push(ms(|| drop(stock.forward(&input(&ids[i..=i]), i).unwrap())));
    }
    let (mine, theirs) = (median(&mut mine), median(&mut theirs));
    println!("{name}: {mine:.1} ms a step, stock candle {theirs:.1} ms");
    mine / theirs
}

// One test, so that nothing else computes while it measures.
#[test]
fn loading_is_quick_and_a_step_is_no_dearer_than_stock_candles() {
    const LARGE: &str = "qwen2.5-coder-1.5b-instruct-q4_k_m";
    // Once for the page cache.
    std::fs::read(model_path(LARGE)).unwrap();
    // The quickest of three: other programs of the machine only ever make it slower.
    let loading = (0..3).map(|_| ms(|| drop(load(LARGE)))).fold(f64::INFINITY, f64::min);
    println!("{LARGE}: loaded in {loading:.0} ms");
    assert!(loading < 3000.0, "{loading} ms");
    let large = step_ratio(LARGE);
    assert!(large < 1.0, "{large} of stock candle's step");
    let small = step_ratio("qwen2.5-coder-0.5b-instruct-q4_k_m");
    assert!(small < 0.7, "{small} of stock candle's step");
}
