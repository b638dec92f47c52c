//! A pair of tiny models with one tokenizer: a step takes microseconds, the text is mostly letters,
//! what comes next depends on all that was before. One drafter is often wrong, and one so seldom that
//! the edge's first samples of its own distribution are mostly taken by none of what is missing.

#[allow(dead_code, clippy::unwrap_used, reason = "shared with the tests of the engine")]
#[path = "../../../crates/inference/tests/common/made.rs"]
mod made;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use made::{Made, Size};
use std::path::PathBuf;
use tandem_speculation::{Purpose, Randomness};

const SIZE: Size =
    Size { width: 64, layers: 2, heads: 2, kv_heads: 1, head_width: 32, feed_forward: 64 };

/// Writes the files: the verifier and two drafters.
pub fn write() -> [PathBuf; 3] {
    let made = Made { size: SIZE, ..Made::new("llama") };
    let file = |name, noise| made.write_with(name, |tokens| tensors(tokens, noise, speaks));
    [file("faults-verifier", 0.0), file("faults-far", 0.1), file("faults-near", 0.015)]
}

#[allow(dead_code, reason = "for another test")]
/// A verifier and two drafters, one for each side, that say a handful of letters and an end, so that
/// whole texts are frequent enough to be counted.
pub fn write_few() -> [PathBuf; 3] {
    let made = Made { size: SIZE, ..Made::new("llama") };
    let few = |token: &str| matches!(token, "a" | "b" | "c" | "d" | "e" | "<|im_end|>");
    let file = |name, noise| made.write_with(name, |tokens| tensors(tokens, noise, few));
    [file("few-verifier", 0.0), file("few-device", 0.25), file("few-edge", 0.15)]
}

/// Whether a model may say a token: letters, an end now and then, and a letter of two bytes, so that
/// a character can be cut by a round's end.
fn speaks(token: &str) -> bool {
    let mut chars = token.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => c.is_ascii_graphic() || matches!(c, 'Ġ' | 'Ã' | '©'),
        _ => token == "<|im_end|>" || token == "Ġthe",
    }
}

/// `noise` sets the drafter apart from the verifier.
///
/// The first value of a token's embedding is the same for all and is never changed by a layer, so
/// that the first value of an output row says how likely the token is whatever was before.
fn tensors(tokens: &[String], noise: f32, speaks: impl Fn(&str) -> bool) -> Vec<(String, QTensor)> {
    let Size { width, layers, heads, kv_heads, head_width, feed_forward } = SIZE;
    let random = Randomness::new(9);
    let mut place = 0;
    // From -1 to 1, the same each time and for both models.
    let mut number = move || {
        place += 1;
        random.uniform(Purpose::Draft, place, 0) as f32 * 2.0 - 1.0
    };
    let other = Randomness::new(10);
    let mut tensors = Vec::new();
    let mut add = |name: String, values: Vec<f32>, shape: &[usize], kind| {
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor");
        tensors.push((name, QTensor::quantize(&tensor, kind).expect("a quantised tensor")));
    };
    let mut table: Vec<f32> = (0..tokens.len() * width).map(|_| number() * 0.5).collect();
    for row in table.chunks_mut(width) {
        row[0] = 1.0;
    }
    let mut output = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        // Each token is likely after one other.
        let before = (i * 7 + 3) % tokens.len();
        let row = &table[before * width..(before + 1) * width];
        let mut row: Vec<f32> = row.iter().map(|e| e * 0.2 + number() * 0.3).collect();
        for (j, value) in row.iter_mut().enumerate() {
            *value +=
                (other.uniform(Purpose::Bonus, i as u32, j as u32) as f32 * 2.0 - 1.0) * noise;
        }
        row[0] = if speaks(token) { 4.0 } else { -4.0 };
        output.extend(row);
    }
    add("token_embd.weight".into(), table, &[tokens.len(), width], GgmlDType::Q8_0);
    add("output.weight".into(), output, &[tokens.len(), width], GgmlDType::Q8_0);
    let (q, kv) = (heads * head_width, kv_heads * head_width);
    for i in 0..layers {
        for (part, rows, cols) in [
            ("attn_q", q, width),
            ("attn_k", kv, width),
            ("attn_v", kv, width),
            ("attn_output", width, q),
            ("ffn_gate", feed_forward, width),
            ("ffn_up", feed_forward, width),
            ("ffn_down", width, feed_forward),
        ] {
            let scale = 1.5 / (cols as f32).sqrt();
            let mut values: Vec<f32> = (0..rows * cols).map(|_| number() * scale).collect();
            if matches!(part, "attn_output" | "ffn_down") {
                values[..cols].fill(0.0);
            }
            add(format!("blk.{i}.{part}.weight"), values, &[rows, cols], GgmlDType::Q8_0);
        }
        for part in ["attn_norm", "ffn_norm"] {
            add(format!("blk.{i}.{part}.weight"), vec![1.0; width], &[width], GgmlDType::F32);
        }
    }
    add("output_norm.weight".into(), vec![1.0; width], &[width], GgmlDType::F32);
    tensors
}
