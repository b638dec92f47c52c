//! GGUF files made by the tests: small models with random weights and a byte-level vocabulary.

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::path::PathBuf;

const WIDTH: usize = 256;
const LAYERS: usize = 3;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
/// Six heads of 64 are wider than the model: queries have a width of their own.
const HEAD_WIDTH: usize = 64;
const FEED_FORWARD: usize = 512;

/// What to make.
pub struct Made {
    pub architecture: &'static str,
    /// Rows of padding behind the vocabulary.
    pub padding: usize,
    pub pre_tokenizer: &'static str,
    /// Factors of the rotation's frequencies, as Llama 3.1 has them.
    pub factors: bool,
    /// More metadata.
    pub extra: Vec<(String, Value)>,
}

impl Made {
    pub fn new(architecture: &'static str) -> Self {
        let pre_tokenizer = if architecture == "llama" { "llama-bpe" } else { "qwen2" };
        Self { architecture, padding: 7, pre_tokenizer, factors: false, extra: Vec::new() }
    }

    /// Writes the file; it lies in a folder of this test process.
    pub fn write(&self, name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("tandem-made-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{name}.gguf"));
        let (metadata, vocab) = self.metadata();
        let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors = self.tensors(vocab);
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let mut file = std::fs::File::create(&path).unwrap();
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
        path
    }

    fn metadata(&self) -> (Vec<(String, Value)>, usize) {
        let (tokens, kinds, merges) = vocabulary(self.padding);
        let vocab = tokens.len();
        let number = |n: usize| Value::U32(n as u32);
        let list = |all: Vec<String>| Value::Array(all.into_iter().map(Value::String).collect());
        let end = tokens.iter().position(|t| t == "<|im_end|>").unwrap();
        let own = [
            ("block_count", number(LAYERS)),
            ("context_length", number(1024)),
            ("embedding_length", number(WIDTH)),
            ("feed_forward_length", number(FEED_FORWARD)),
            ("attention.head_count", number(HEADS)),
            ("attention.head_count_kv", number(KV_HEADS)),
            ("attention.key_length", number(HEAD_WIDTH)),
            ("attention.value_length", number(HEAD_WIDTH)),
            ("attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
            ("rope.freq_base", Value::F32(10_000.0)),
            ("rope.dimension_count", number(HEAD_WIDTH)),
        ];
        let own = own.map(|(key, value)| (format!("{}.{key}", self.architecture), value));
        let common = [
            ("general.architecture", Value::String(self.architecture.into())),
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            ("tokenizer.ggml.pre", Value::String(self.pre_tokenizer.into())),
            ("tokenizer.ggml.tokens", list(tokens)),
            (
                "tokenizer.ggml.token_type",
                Value::Array(kinds.into_iter().map(Value::I32).collect()),
            ),
            ("tokenizer.ggml.merges", list(merges)),
            ("tokenizer.ggml.eos_token_id", number(end)),
            (
                "tokenizer.chat_template",
                Value::String(include_str!("../templates/qwen3.jinja").into()),
            ),
        ];
        let common = common.map(|(key, value)| (key.to_owned(), value));
        (own.into_iter().chain(common).chain(self.extra.clone()).collect(), vocab)
    }

    fn tensors(&self, vocab: usize) -> Vec<(String, QTensor)> {
        let mut noise = Noise(7);
        let mut tensors = Vec::new();
        let (q, kv) = (HEADS * HEAD_WIDTH, KV_HEADS * HEAD_WIDTH);
        let mut matrix = |name: String, rows: usize, cols: usize, dtype| {
            let scale = 1.7 / (cols as f32).sqrt();
            let values: Vec<f32> = (0..rows * cols).map(|_| noise.next() * scale).collect();
            let tensor = Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap();
            tensors.push((name, QTensor::quantize(&tensor, dtype).unwrap()));
        };
        matrix("token_embd.weight".into(), vocab, WIDTH, GgmlDType::Q6K);
        for i in 0..LAYERS {
            let name = |part: &str| format!("blk.{i}.{part}.weight");
            matrix(name("attn_q"), q, WIDTH, GgmlDType::Q4K);
            matrix(name("attn_k"), kv, WIDTH, GgmlDType::Q4K);
            matrix(name("attn_v"), kv, WIDTH, GgmlDType::Q6K);
            matrix(name("attn_output"), WIDTH, q, GgmlDType::Q8_0);
            matrix(name("ffn_gate"), FEED_FORWARD, WIDTH, GgmlDType::Q4K);
            matrix(name("ffn_up"), FEED_FORWARD, WIDTH, GgmlDType::Q5_0);
            matrix(name("ffn_down"), WIDTH, FEED_FORWARD, GgmlDType::Q6K);
        }
        let mut vector = |name: String, len: usize, low: f32, high: f32| {
            let at = |_| low + (high - low) * (noise.next() * 0.5 + 0.5);
            let tensor = Tensor::from_vec((0..len).map(at).collect(), len, &Device::Cpu).unwrap();
            tensors.push((name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
        };
        for i in 0..LAYERS {
            let name = |part: &str| format!("blk.{i}.{part}.weight");
            vector(name("attn_norm"), WIDTH, 0.5, 1.5);
            vector(name("ffn_norm"), WIDTH, 0.5, 1.5);
            if self.architecture == "qwen3" {
                // Large enough that attention is sharp: a wrong norm then shows.
                vector(name("attn_q_norm"), HEAD_WIDTH, 0.5, 3.0);
                vector(name("attn_k_norm"), HEAD_WIDTH, 0.5, 3.0);
            }
        }
        vector("output_norm.weight".into(), WIDTH, 0.5, 1.5);
        if self.factors {
            vector("rope_freqs.weight".into(), HEAD_WIDTH / 2, 1.0, 8.0);
        }
        tensors
    }
}

/// Bytes as BPE writes them, a few merges, control tokens, padding.
fn vocabulary(padding: usize) -> (Vec<String>, Vec<i32>, Vec<String>) {
    let plain = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 255;
    let mut tokens: Vec<String> = (0..=255u8)
        .map(|b| {
            let code = if plain(&b) {
                u32::from(b)
            } else {
                next += 1;
                next
            };
            char::from_u32(code).unwrap().to_string()
        })
        .collect();
    let merges = ["t h", "th e", "Ġ the", "i n", "e r", "l o"].map(str::to_owned).to_vec();
    tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
    let mut kinds = vec![1; tokens.len()];
    for control in ["<|im_start|>", "<|im_end|>", "<think>", "</think>"] {
        tokens.push(control.into());
        kinds.push(3);
    }
    for _ in 0..padding {
        tokens.push(format!("[PAD{}]", tokens.len()));
        kinds.push(5);
    }
    (tokens, kinds, merges)
}

/// Numbers from -1 to 1, the same each time.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}
