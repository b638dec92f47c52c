//! The second backend, run on the CPU: against our kernels, and against itself.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use common::made::Made;
use common::{all_logits, argmax, distance, load_on, model_path};
use std::path::Path;
use tandem_inference::{DeviceChoice, KvCache, LoadOptions, Model, Segment, Wanted};
use tandem_speculation::TokenId;

const PROMPT: &str = "The three laws of thermodynamics say, in plain words, that";

/// Other block sizes of the 8-bit activations and other sums: a few per cent of the spread of the
/// logits. A wrong rotation, mask or norm gives more than 0.3.
const BETWEEN: f64 = 0.06;
/// For one row candle takes another product than for several, with other blocks of 8-bit
/// activations: as far apart as two implementations, and a little more after several such steps.
const WITHIN: f64 = 0.08;
/// The same products in the same order.
const SAME: f64 = 1e-6;

fn compare(path: &Path) {
    let kernels = load_on(path, DeviceChoice::Cpu);
    let tensors = load_on(path, DeviceChoice::Reference);
    assert_eq!(tensors.info().device, "CPU (reference)");
    // What is said of each is so: `incremental_batched_and_rolled_back_forwards_agree` shows the tensors'
    // rows move, `families.rs` and `reference.rs` that the kernels' do not.
    assert!(kernels.info().batch_invariant && !tensors.info().batch_invariant);
    let ids = kernels.tokenizer().encode(PROMPT, false).unwrap();
    let (a, b) = (all_logits(&kernels, &ids), all_logits(&tensors, &ids));
    assert_eq!((a.rows(), b.rows()), (ids.len(), ids.len()));
    for row in 0..ids.len() {
        let d = distance(b.row(row), a.row(row));
        println!("{} row {row}: {d:.4}", kernels.info().name);
        assert!(d < BETWEEN, "row {row}: distance {d}");
    }
    // Random weights have no clear favourite.
    if !kernels.info().name.starts_with("backends-") {
        assert_eq!(argmax(a.row(ids.len() - 1)), argmax(b.row(ids.len() - 1)));
    }
}

#[test]
fn llama_agrees_with_the_kernels() {
    compare(&model_path("SmolLM2-135M-Instruct.Q4_1"));
}

#[test]
fn qwen2_agrees_with_the_kernels() {
    compare(&model_path("qwen2.5-coder-0.5b-instruct-q4_k_m"));
}

#[test]
fn qwen3_and_scaled_llama_agree_with_the_kernels() {
    compare(&Made::new("qwen3").write("backends-qwen3"));
    compare(&Made { factors: true, ..Made::new("llama") }.write("backends-llama"));
}

fn step(model: &Model, segments: &mut [Segment<'_>]) -> tandem_inference::Logits {
    model.forward(segments).unwrap()
}

#[test]
fn incremental_batched_and_rolled_back_forwards_agree() {
    let model = load_on(&model_path("SmolLM2-135M-Instruct.Q4_1"), DeviceChoice::Reference);
    let ids = model.tokenizer().encode(PROMPT, false).unwrap();
    let other = model.tokenizer().encode("Once upon a time there was a", false).unwrap();
    let (whole, whole_other) = (all_logits(&model, &ids), all_logits(&model, &other));
    let near = |a: &[f32], b: &[f32], what: &str| {
        let d = distance(a, b);
        println!("{what}: {d:.5}");
        assert!(d < WITHIN, "{what}: distance {d}");
    };

    let mut cache = model.new_cache(64).unwrap();
    for (i, id) in ids.iter().enumerate() {
        let one = step(
            &model,
            &mut [Segment { cache: &mut cache, tokens: &[*id], logits: Wanted::Last }],
        );
        near(one.row(0), whole.row(i), &format!("token {i} alone"));
    }

    // Wrong tokens, rolled back, then the right ones, together with another sequence.
    cache.truncate(3);
    let wrong = [TokenId(11), TokenId(12), TokenId(13)];
    step(&model, &mut [Segment { cache: &mut cache, tokens: &wrong, logits: Wanted::None }]);
    assert_eq!(cache.len(), 6);
    cache.truncate(3);
    let with_other = |cache: &mut KvCache| {
        let mut second = model.new_cache(64).unwrap();
        step(
            &model,
            &mut [
                Segment { cache: &mut second, tokens: &other, logits: Wanted::Last },
                Segment { cache, tokens: &ids[3..], logits: Wanted::All },
            ],
        )
    };
    let both = with_other(&mut cache);
    // One that never saw them.
    let mut clean = model.new_cache(64).unwrap();
    for id in &ids[..3] {
        let tokens = &[*id];
        step(&model, &mut [Segment { cache: &mut clean, tokens, logits: Wanted::None }]);
    }
    let never = with_other(&mut clean);
    assert_eq!(both.rows(), 1 + ids.len() - 3);
    near(both.row(0), whole_other.row(other.len() - 1), "the other sequence");
    for i in 3..ids.len() {
        let row = 1 + i - 3;
        near(both.row(row), whole.row(i), &format!("row {i} after a roll-back"));
        assert!(
            distance(both.row(row), never.row(row)) < SAME,
            "row {i}: the roll-back left a trace"
        );
    }
}

/// Other tokens for places of a draft get the logits of a text that ends with them.
#[test]
fn alternatives_agree_with_texts_of_their_own() {
    let model = load_on(&model_path("SmolLM2-135M-Instruct.Q4_1"), DeviceChoice::Reference);
    let ids = model.tokenizer().encode(PROMPT, false).unwrap();
    let whole = all_logits(&model, &ids);
    let places = [(2, 12), (ids.len(), 14)].map(|(at, id)| (at, TokenId(id)));
    let mut cache = model.new_cache(64).unwrap();
    let logits = Wanted::From(0, &places);
    let both = step(&model, &mut [Segment { cache: &mut cache, tokens: &ids, logits }]);
    assert_eq!((cache.len(), both.rows()), (ids.len(), ids.len() + 2));
    for (row, (at, id)) in [(2, places[0]), (ids.len() + 1, places[1])] {
        let mut text = ids[..at].to_vec();
        text.push(id);
        let d = distance(both.row(row), all_logits(&model, &text).row(at));
        println!("alternative at {at}: {d:.5}");
        assert!(d < WITHIN, "{d}");
    }
    for i in 0..ids.len() {
        let d = distance(both.row(i + usize::from(i >= 2)), whole.row(i));
        assert!(d < WITHIN, "token {i}: {d}");
    }
}

#[test]
fn a_long_prompt_is_the_same_in_pieces_while_its_cache_grows() {
    let model = load_on(&model_path("SmolLM2-135M-Instruct.Q4_1"), DeviceChoice::Reference);
    let ids: Vec<TokenId> = (0..600u32).map(|i| TokenId(i * 7 % 5000 + 20)).collect();
    let mut whole = model.new_cache(700).unwrap();
    assert_eq!(whole.bytes(), 0);
    let a = step(&model, &mut [Segment { cache: &mut whole, tokens: &ids, logits: Wanted::Last }]);
    let mut pieces = model.new_cache(700).unwrap();
    let mut b = None;
    for piece in ids.chunks(150) {
        b = Some(step(
            &model,
            &mut [Segment { cache: &mut pieces, tokens: piece, logits: Wanted::Last }],
        ));
    }
    let d = distance(a.row(0), b.unwrap().row(0));
    println!("in pieces: {d:.5}");
    assert!(d < WITHIN, "{d}");
    // Taken in steps: 512 tokens first, then the whole capacity.
    assert_eq!(pieces.bytes(), 700 * model.cache_bytes_per_token());
}

#[test]
fn a_gpu_that_is_not_there_is_explained() {
    if cfg!(any(feature = "cuda", feature = "metal")) {
        return;
    }
    let path = Made::new("qwen3").write("no-gpu");
    let options = LoadOptions { device: DeviceChoice::Gpu, ..LoadOptions::default() };
    let refused = Model::load(&path, &options).err().unwrap().to_string();
    assert!(refused.contains("--features cuda") && refused.contains("CPU"), "{refused}");
    assert!(load_on(&path, DeviceChoice::Auto).info().device.starts_with("CPU ("));
    assert!("tpu".parse::<DeviceChoice>().unwrap_err().contains("auto, cpu or gpu"));
}
