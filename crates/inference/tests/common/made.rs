//! GGUF files made by the tests: small models with random weights and a byte-level vocabulary.

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How large a model is.
#[derive(Clone, Copy)]
pub struct Size {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_width: usize,
    pub feed_forward: usize,
}

impl Size {
    /// Six heads of 64 are wider than the model: queries have a width of their own.
    pub const USUAL: Self =
        Self { width: 256, layers: 3, heads: 6, kv_heads: 2, head_width: 64, feed_forward: 512 };
}

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
    pub size: Size,
}

impl Made {
    pub fn new(architecture: &'static str) -> Self {
        let pre_tokenizer = if architecture == "llama" { "llama-bpe" } else { "qwen2" };
        let (factors, extra) = (false, Vec::new());
        Self { architecture, padding: 7, pre_tokenizer, factors, extra, size: Size::USUAL }
    }

    /// Writes the file; it lies in a folder of this test process.
    pub fn write(&self, name: &str) -> PathBuf {
        self.write_with(name, |tokens| self.tensors(tokens.len()))
    }

    /// The same with other weights: `tensors` gets the vocabulary.
    pub fn write_with(
        &self,
        name: &str,
        tensors: impl FnOnce(&[String]) -> Vec<(String, QTensor)>,
    ) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("tandem-made-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{name}.gguf"));
        let (metadata, tokens) = self.metadata();
        let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors = tensors(&tokens);
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        // Renamed when it is whole: another test of this process may write the same one.
        static PARTS: AtomicUsize = AtomicUsize::new(0);
        let part = path.with_extension(format!("{}.part", PARTS.fetch_add(1, Ordering::Relaxed)));
        let mut file = std::fs::File::create(&part).unwrap();
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
        std::fs::rename(part, &path).unwrap();
        path
    }

    fn metadata(&self) -> (Vec<(String, Value)>, Vec<String>) {
        let (tokens, kinds, merges) = vocabulary(self.padding);
        let size = self.size;
        let number = |n: usize| Value::U32(n as u32);
        let list = |all: Vec<String>| Value::Array(all.into_iter().map(Value::String).collect());
        let end = tokens.iter().position(|t| t == "<|im_end|>").unwrap();
        let own = [
            ("block_count", number(size.layers)),
            ("context_length", number(1024)),
            ("embedding_length", number(size.width)),
            ("feed_forward_length", number(size.feed_forward)),
            ("attention.head_count", number(size.heads)),
            ("attention.head_count_kv", number(size.kv_heads)),
            ("attention.key_length", number(size.head_width)),
            ("attention.value_length", number(size.head_width)),
            ("attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
            ("rope.freq_base", Value::F32(10_000.0)),
            ("rope.dimension_count", number(size.head_width)),
        ];
        let own = own.map(|(key, value)| (format!("{}.{key}", self.architecture), value));
        let common = [
            ("general.architecture", Value::String(self.architecture.into())),
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            ("tokenizer.ggml.pre", Value::String(self.pre_tokenizer.into())),
            ("tokenizer.ggml.tokens", list(tokens.clone())),
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
        (own.into_iter().chain(common).chain(self.extra.clone()).collect(), tokens)
    }

    fn tensors(&self, vocab: usize) -> Vec<(String, QTensor)> {
        let mut noise = Noise(7);
        let mut tensors = Vec::new();
        let Size { width, layers, heads, kv_heads, head_width, feed_forward } = self.size;
        let (q, kv) = (heads * head_width, kv_heads * head_width);
        let mut matrix = |name: String, rows: usize, cols: usize, dtype| {
            let scale = 1.7 / (cols as f32).sqrt();
            let values: Vec<f32> = (0..rows * cols).map(|_| noise.next() * scale).collect();
            let tensor = Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap();
            tensors.push((name, QTensor::quantize(&tensor, dtype).unwrap()));
        };
        matrix("token_embd.weight".into(), vocab, width, GgmlDType::Q6K);
        for i in 0..layers {
            let name = |part: &str| format!("blk.{i}.{part}.weight");
            matrix(name("attn_q"), q, width, GgmlDType::Q4K);
            matrix(name("attn_k"), kv, width, GgmlDType::Q4K);
            matrix(name("attn_v"), kv, width, GgmlDType::Q6K);
            matrix(name("attn_output"), width, q, GgmlDType::Q8_0);
            matrix(name("ffn_gate"), feed_forward, width, GgmlDType::Q4K);
            matrix(name("ffn_up"), feed_forward, width, GgmlDType::Q5_0);
            matrix(name("ffn_down"), width, feed_forward, GgmlDType::Q6K);
        }
        let mut vector = |name: String, len: usize, low: f32, high: f32| {
            let at = |_| low + (high - low) * (noise.next() * 0.5 + 0.5);
            let tensor = Tensor::from_vec((0..len).map(at).collect(), len, &Device::Cpu).unwrap();
            tensors.push((name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
        };
        for i in 0..layers {
            let name = |part: &str| format!("blk.{i}.{part}.weight");
            vector(name("attn_norm"), width, 0.5, 1.5);
            vector(name("ffn_norm"), width, 0.5, 1.5);
            if self.architecture == "qwen3" {
                // Large enough that attention is sharp: a wrong norm then shows.
                vector(name("attn_q_norm"), head_width, 0.5, 3.0);
                vector(name("attn_k_norm"), head_width, 0.5, 3.0);
            }
        }
        vector("output_norm.weight".into(), width, 0.5, 1.5);
        if self.factors {
            vector("rope_freqs.weight".into(), head_width / 2, 1.0, 8.0);
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
