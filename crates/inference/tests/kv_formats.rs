//! Keys and values in 8 bits: near to those in 16, exact in themselves, and what they cost.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use common::made::Made;
use common::{all_logits, argmax, distance, model_path};
use std::time::Instant;
use tandem_inference::{DeviceChoice, Error, KvCache, KvFormat, LoadOptions, Model};
use tandem_inference::{Segment, Wanted};
use tandem_speculation::TokenId;

const PROMPT: &str = "The three laws of thermodynamics say, in plain words, that";
const SMALL: &str = "SmolLM2-135M-Instruct.Q4_1";

fn load(name: &str, kv: KvFormat) -> Model {
    let options = LoadOptions { kv, device: DeviceChoice::Cpu, ..LoadOptions::default() };
    Model::load(&model_path(name), &options).unwrap()
}

fn last(model: &Model, cache: &mut KvCache, tokens: &[TokenId]) -> Vec<f32> {
    let segment = Segment { cache, tokens, logits: Wanted::Last };
    model.forward(&mut [segment]).unwrap().row(0).to_vec()
}

#[test]
fn eight_bits_are_near_to_sixteen_in_little_more_than_half_of_the_memory() {
    let [exact, rounded, full] =
        [KvFormat::F16, KvFormat::Q8, KvFormat::F32].map(|kv| load(SMALL, kv));
    let ids = exact.tokenizer().encode(PROMPT, false).unwrap();
    let [b, a, full] = [&exact, &rounded, &full].map(|model| all_logits(model, &ids));
    for row in 0..ids.len() {
        let d = distance(a.row(row), b.row(row));
        let less = distance(b.row(row), full.row(row));
        println!("row {row}: {d:.4}, and 16 bits from 32 {less:.4}");
        // Not the same, but about as near as 16 bits are to 32: whatever moves a last bit moves what
        // activations are rounded to.
        assert!(d > 0.0 && d < 0.06, "row {row}: {d}");
    }
    assert_eq!(argmax(a.row(ids.len() - 1)), argmax(b.row(ids.len() - 1)));
    let share = rounded.cache_bytes_per_token() as f64 / exact.cache_bytes_per_token() as f64;
    assert!((share - 0.5625).abs() < 1e-9, "{share}");
}

#[test]
fn eight_bits_do_not_depend_on_what_is_computed_beside_them() {
    let model = load(SMALL, KvFormat::Q8);
    let ids: Vec<TokenId> = (0..300u32).map(|i| TokenId(i * 7 % 5000 + 20)).collect();
    let whole = all_logits(&model, &ids);
    let other: Vec<TokenId> = ids.iter().rev().copied().collect();
    let mut cache = model.new_cache(320).unwrap();
    // In pieces, each after a wrong draft that is rolled back, beside another text, and with another
    // token for the place of its second one.
    let alternative = [(1, other[7])];
    let mut beside = model.new_cache(320).unwrap();
    for piece in ids.chunks(37) {
        let len = cache.len();
        last(&model, &mut cache, &other[..5]);
        cache.truncate(len);
        let both = model
            .forward(&mut [
                Segment { cache: &mut beside, tokens: &other[..3], logits: Wanted::Last },
                Segment { cache: &mut cache, tokens: piece, logits: Wanted::From(0, &alternative) },
            ])
            .unwrap();
        for i in 0..piece.len() {
            assert_eq!(both.row(1 + i + usize::from(i > 0)), whole.row(len + i), "row {}", len + i);
        }
    }
    // Taken over by another cache, in the middle of sixteen tokens, and on from there one by one.
    let mut taken = model.new_cache(320).unwrap();
    taken.copy_from(&cache, 279).unwrap();
    for i in 279..300 {
        assert_eq!(last(&model, &mut taken, &ids[i..=i]), whole.row(i), "row {i}");
    }
    assert_eq!(taken.bytes(), 300 * model.cache_bytes_per_token());
}

#[test]
fn a_gpus_code_refuses_eight_bits() {
    let path = Made::new("qwen3").write("kv-formats");
    let device = DeviceChoice::Reference;
    let options = LoadOptions { kv: KvFormat::Q8, device, ..LoadOptions::default() };
    match Model::load(&path, &options) {
        Err(Error::Usage(text)) => assert!(text.contains("q8") && text.contains("CPU"), "{text}"),
        other => panic!("{:?}", other.map(|model| model.info().clone())),
    }
    assert_eq!("q8".parse(), Ok(KvFormat::Q8));
    assert!("q4".parse::<KvFormat>().unwrap_err().contains("f16, f32 or q8"));
}

/// `cargo test --release -p tandem-inference --test kv_formats -- --ignored --nocapture`, on a quiet
/// machine: what attention over 4,096 tokens costs a step, in turns.
#[test]
#[ignore = "measures; run it alone"]
fn what_a_long_context_costs() {
    const NAME: &str = "qwen2.5-coder-0.5b-instruct-q4_k_m";
    const CONTEXT: usize = 4096;
    let ids: Vec<TokenId> = (0..CONTEXT as u32).map(|i| TokenId(i * 31 % 20_000 + 100)).collect();
    let mut all = [KvFormat::F16, KvFormat::Q8].map(|kv| {
        let model = load(NAME, kv);
        let [mut long, mut short] = [CONTEXT, 64].map(|n| (n, model.new_cache(n + 16).unwrap()));
        for (n, cache) in [&mut long, &mut short] {
            last(&model, cache, &ids[..*n]);
        }
        println!("{kv:?}: {:.1} MB", long.1.bytes() as f64 / 1e6);
        (kv, model, long, short)
    });
    for rows in [1, 5] {
        let mut attention = [Vec::new(), Vec::new()];
        for _ in 0..25 {
            for ((_, model, long, short), times) in all.iter_mut().zip(&mut attention) {
                let [long, short] = [long, short].map(|(n, cache)| {
                    let start = Instant::now();
                    last(model, cache, &ids[..rows]);
                    cache.truncate(*n);
                    start.elapsed().as_secs_f64() * 1e3
                });
                times.push([long - short, long]);
            }
        }
        let median = |times: &[[f64; 2]], i: usize| {
            let mut times: Vec<f64> = times.iter().map(|t| t[i]).collect();
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let [sixteen, eight] = attention.map(|times| [median(&times, 0), median(&times, 1)]);
        println!(
            "{rows} rows after {CONTEXT} tokens: attention {:.2} ms in 16 bits, {:.2} ms in 8, ratio \
             {:.2}; the pass {:.1} and {:.1} ms",
            sixteen[0],
            eight[0],
            eight[0] / sixteen[0],
            sixteen[1],
            eight[1]
        );
        assert!(eight[0] < 1.5 * sixteen[0]);
    }
}
