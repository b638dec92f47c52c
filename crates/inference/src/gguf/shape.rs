//! The hyperparameters of a file: each read and checked, and every other setting of its architecture
//! refused unless it changes nothing.

use super::{Gguf, ROPE_FACTORS, real, whole};
use crate::Error;
use candle_core::quantized::gguf_file::Value;
use tandem_kernels::KvFormat;

/// Model families that are built in.
const SUPPORTED: &str = "qwen2, qwen3, llama";

/// What a family's forward pass needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub architecture: String,
    pub layers: usize,
    pub width: usize,
    pub feed_forward: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_width: usize,
    pub max_context: usize,
    pub rope_base: f32,
    /// Rotated pairs are neighbours (`llama`) or half a head apart (`qwen2`, `qwen3`).
    pub rope_neighbours: bool,
    /// Queries and keys are normed head by head before they are rotated (`qwen3`).
    pub head_norms: bool,
    pub epsilon: f32,
}

impl Shape {
    /// Values of one token's keys in one layer.
    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// Bytes of KV cache that one token takes.
    pub(crate) fn cache_bytes_per_token(&self, format: KvFormat) -> usize {
        self.layers * self.kv_heads * 2 * format.bytes(self.head_width)
    }
}

/// Settings that [`Gguf::shape`] reads, without the architecture before them.
const READ: &[&str] = &[
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
];

/// Settings that say something and change nothing that is computed: how a checkpoint came about, and what
/// a use other than writing would need.
const TOLD: &[&str] = &[
    "attention.layer_norm_epsilon",
    "pooling_type",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "tensor_data_layout",
    "vocab_size",
];

/// Settings that change nothing where they are 1.
const FACTORS: &[&str] = &[
    "embedding_scale",
    "logit_scale",
    "residual_scale",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.yarn_attn_factor",
];

/// A setting of one architecture.
struct Settings<'a> {
    file: &'a Gguf,
    architecture: &'a str,
}

impl Settings<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A whole number, for all layers alike where it has one for each.
    fn number(&self, key: &str, low: usize, high: usize) -> Result<Option<usize>, Error> {
        let key = self.key(key);
        let Some(value) = self.file.value(&key) else { return Ok(None) };
        let first = match value {
            Value::Array(values) => match values.split_first() {
                Some((first, rest)) if rest.iter().all(|v| whole(v) == whole(first)) => first,
                _ => {
                    return Err(self.file.bad(format!(
                        "{key} differs from layer to layer, which is not supported; choose \
                         another model"
                    )));
                }
            },
            value => value,
        };
        let number = whole(first).ok_or_else(|| {
            self.file.bad(format!("{key} is no whole number, but {}", show(first)))
        })?;
        match usize::try_from(number) {
            Ok(v) if (low..=high).contains(&v) => Ok(Some(v)),
            _ => Err(self.file.bad(format!("{key} is {number}; expected {low} to {high}"))),
        }
    }

    fn needed(&self, key: &str, low: usize, high: usize) -> Result<usize, Error> {
        let missing = || self.file.bad(format!("{} is missing", self.key(key)));
        self.number(key, low, high)?.ok_or_else(missing)
    }

    fn real(&self, key: &str, low: f32, high: f32) -> Result<Option<f32>, Error> {
        let key = self.key(key);
        let Some(value) = self.file.value(&key) else { return Ok(None) };
        let number = real(value)
            .ok_or_else(|| self.file.bad(format!("{key} is no number, but {}", show(value))))?;
        if (low..=high).contains(&number) {
            Ok(Some(number))
        } else {
            Err(self.file.bad(format!("{key} is {number}; expected {low} to {high}")))
        }
    }

    /// Refuses each setting that is not computed with, unless it changes nothing.
    fn refuse_others(&self, head_width: usize, context: usize) -> Result<(), Error> {
        let prefix = self.key("");
        let scaled_by_tensor = self.file.has(ROPE_FACTORS);
        let mut keys: Vec<&String> = self.file.values.keys().collect();
        keys.sort();
        for key in keys {
            let Some(name) = key.strip_prefix(&prefix) else { continue };
            if READ.contains(&name) || TOLD.contains(&name) {
                continue;
            }
            let value = &self.file.values[key];
            let number = real(value);
            let neutral = match name {
                "attention.causal" => matches!(value, Value::Bool(true)) || whole(value) == Some(1),
                "attention.scale" => number.is_some_and(|n| {
                    n == 0.0 || (n * (head_width as f32).sqrt() - 1.0).abs() < 1e-5
                }),
                "attention.sliding_window" => {
                    whole(value).is_some_and(|n| n == 0 || n >= context as i128)
                }
                // Llama 3.1 says by how much, and carries what comes of it as a tensor.
                "rope.scaling.factor"
                | "rope.scaling.low_freq_factor"
                | "rope.scaling.high_freq_factor"
                    if scaled_by_tensor =>
                {
                    true
                }
                _ if FACTORS.contains(&name) => number.is_some_and(|n| n == 0.0 || n == 1.0),
                _ => is_nothing(value),
            };
            if !neutral {
                return Err(self.file.bad(format!(
                    "it asks for {key} = {}, which is not supported and would change what the model \
                     writes. Choose another model or conversion; llama.cpp may know this one",
                    show(value)
                )));
            }
        }
        Ok(())
    }
}

/// Whether a setting is off.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Bool(on) => !on,
        Value::String(text) => text.is_empty() || text == "none",
        Value::Array(values) => values.iter().all(is_nothing),
        number => real(number) == Some(0.0),
    }
}

/// A value for people, cut where it is long.
fn show(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("a list of {}", values.len()),
        Value::String(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        Value::Bool(on) => on.to_string(),
        Value::F32(n) => n.to_string(),
        Value::F64(n) => n.to_string(),
        number => whole(number).map_or_else(String::new, |n| n.to_string()),
    }
}

impl Gguf {
    /// The hyperparameters, each within sane bounds.
    ///
    /// # Errors
    /// If one is missing, makes no sense, or is not supported; the text names its key.
    pub(crate) fn shape(&self) -> Result<Shape, Error> {
        let architecture = self.architecture()?;
        let (rope_neighbours, head_norms) = match architecture {
            "qwen2" => (false, false),
            "qwen3" => (false, true),
            "llama" => (true, false),
            _ => {
                return Err(Error::Architecture {
                    path: self.path().to_owned(),
                    architecture: architecture.to_owned(),
                    supported: SUPPORTED,
                });
            }
        };
        let settings = Settings { file: self, architecture };
        let scaling_key = settings.key("rope.scaling.type");
        let scaling = self.text(&scaling_key)?.unwrap_or("none");
        // Llama 3.1 and later carry their scaling as a tensor of factors, whatever they call it. With
        // a factor of 1, which is checked below, `linear` changes nothing.
        let known = matches!(scaling, "none" | "linear" | "")
            || (scaling == "llama3" && self.has(ROPE_FACTORS));
        if !known {
            return Err(self.bad(format!(
                "its RoPE scaling {scaling_key} = `{scaling}` is not supported; choose a file of \
                 this model without it"
            )));
        }
        let width = settings.needed("embedding_length", 32, 1 << 15)?;
        let heads = settings.needed("attention.head_count", 1, 1024)?;
        let kv_heads = settings.number("attention.head_count_kv", 1, heads)?.unwrap_or(heads);
        let head_width = settings.number("attention.key_length", 8, 1024)?.unwrap_or(width / heads);
        let context = settings.needed("context_length", 1, 1 << 24)?;
        let shape = Shape {
            layers: settings.needed("block_count", 1, 512)?,
            feed_forward: settings.needed("feed_forward_length", 32, 1 << 18)?,
            max_context: context.min(1 << 17),
            rope_base: settings.real("rope.freq_base", 1.0, 1e12)?.unwrap_or(10_000.0),
            epsilon: settings.real("attention.layer_norm_rms_epsilon", 0.0, 1.0)?.ok_or_else(
                || {
                    let key = settings.key("attention.layer_norm_rms_epsilon");
                    self.bad(format!("{key} is missing"))
                },
            )?,
            architecture: architecture.to_owned(),
            width,
            heads,
            kv_heads,
            head_width,
            rope_neighbours,
            head_norms,
        };
        for (key, what) in [
            ("rope.dimension_count", "it rotates only a part of each head"),
            ("attention.value_length", "its keys and values differ in width"),
        ] {
            let number = settings.number(key, 0, 1 << 16)?;
            if let Some(n) = number.filter(|n| *n != 0 && *n != head_width) {
                let key = settings.key(key);
                return Err(self.bad(format!(
                    "{what} ({key} is {n}, a head has {head_width}), which is not supported; choose \
                     another model"
                )));
            }
        }
        let fits = |n: usize| n.is_multiple_of(32);
        if !heads.is_multiple_of(kv_heads)
            || !head_width.is_multiple_of(8)
            || head_width == 0
            || !fits(width)
            || !fits(shape.feed_forward)
            || !fits(heads * head_width)
        {
            return Err(self.bad(format!("its sizes do not fit together: {shape:?}")));
        }
        settings.refuse_others(head_width, context)?;
        Ok(shape)
    }

    fn architecture(&self) -> Result<&str, Error> {
        if let Some(kind @ ("adapter" | "projector" | "mmproj" | "imatrix" | "vocab")) =
            self.text("general.type")?
        {
            return Err(self.bad(format!(
                "it holds a part of a model (general.type is `{kind}`) and not a whole one; choose \
                 the model's own file"
            )));
        }
        self.text("general.architecture")?
            .ok_or_else(|| self.bad("general.architecture is missing; choose another file"))
    }

    /// The angle by which each pair of a head turns from one position to the next.
    pub(crate) fn frequencies(&self, shape: &Shape) -> Result<Vec<f32>, Error> {
        let half = shape.head_width / 2;
        let base = |i| 1.0 / shape.rope_base.powf(i as f32 / half as f32);
        let mut frequencies: Vec<f32> = (0..half).map(base).collect();
        if self.has(ROPE_FACTORS) {
            for (frequency, factor) in frequencies.iter_mut().zip(self.vector(ROPE_FACTORS, half)?)
            {
                *frequency /= factor;
            }
        }
        if frequencies.iter().any(|f| !f.is_finite()) {
            return Err(self.bad(format!("{ROPE_FACTORS} holds values that make no sense")));
        }
        Ok(frequencies)
    }
}
