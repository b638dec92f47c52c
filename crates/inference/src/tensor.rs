//! The forward pass on candle's tensors: for GPUs, and on the CPU as a reference for the kernels.
//!
//! Weights stay in the file's quantisation, the token embeddings too: rows are dequantised where
//! they lie. Keys and values are written in place into memory that was reserved before.
//!
//! Unlike the CPU kernels, candle picks its products by the number of rows, and they round activations
//! differently: a row's logits move by a few per cent of their spread with what is computed beside
//! it. Greedy text is the same except where two tokens are about equally likely; and as the number of rows
//! follows from the draft, sampled text has the verifier's distribution only approximately
//! ([`crate::ModelInfo::batch_invariant`], which an edge tells its devices).

use crate::cache::{DeviceLayers, KvCache, Layers};
use crate::gguf::{Gguf, Shape};
use crate::model::{Part, passes};
use crate::{Error, Logits, Segment};
use candle_core::quantized::QMatMul;
use candle_core::{Device, Module, Result, Tensor};
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};
use candle_nn::rotary_emb::{rope, rope_i};
use std::sync::Arc;
use tandem_kernels::KvFormat;

/// Weights of a model on a device.
pub(crate) struct TensorModel {
    device: Device,
    shape: Shape,
    vocab: usize,
    embedding: QMatMul,
    layers: Vec<Layer>,
    output_norm: Tensor,
    output: QMatMul,
    /// One frequency for each rotated pair of a head.
    frequencies: Vec<f32>,
}

struct Layer {
    attention_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    /// Norms of each head of queries and keys, where the family has them.
    head_norms: Option<[Tensor; 2]>,
    attention_output: Linear,
    feed_forward_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

struct Linear {
    weights: QMatMul,
    bias: Option<Tensor>,
}

/// Reads tensors onto a device.
struct Source<'a> {
    file: &'a Gguf,
    device: &'a Device,
}

impl Source<'_> {
    fn vector(&self, name: &str, len: usize) -> std::result::Result<Tensor, Error> {
        Ok(Tensor::from_vec(self.file.vector(name, len)?, len, self.device)?)
    }

    fn matrix(&self, name: &str, [rows, cols]: [usize; 2]) -> std::result::Result<QMatMul, Error> {
        Ok(QMatMul::from_qtensor(self.file.device_matrix(name, rows, cols, false, self.device)?)?)
    }

    fn linear(&self, name: &str, rows: usize, cols: usize) -> std::result::Result<Linear, Error> {
        let weights = self.matrix(&format!("{name}.weight"), [rows, cols])?;
        let bias = format!("{name}.bias");
        let bias = if self.file.has(&bias) { Some(self.vector(&bias, rows)?) } else { None };
        Ok(Linear { weights, bias })
    }
}

impl Linear {
    /// `rows × outputs`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weights.forward(x)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

impl TensorModel {
    pub(crate) fn load(
        file: &Gguf,
        shape: Shape,
        vocab: usize,
        device: Device,
    ) -> std::result::Result<Self, Error> {
        let source = Source { file, device: &device };
        let (width, q_width) = (shape.width, shape.heads * shape.head_width);
        let kv_width = shape.kv_width();
        let layer = |i: usize| -> std::result::Result<Layer, Error> {
            let name = |part: &str| format!("blk.{i}.{part}");
            let vector = |part: &str, len| source.vector(&name(part), len);
            let linear = |part: &str, rows, cols| source.linear(&name(part), rows, cols);
            Ok(Layer {
                attention_norm: vector("attn_norm.weight", width)?,
                q: linear("attn_q", q_width, width)?,
                k: linear("attn_k", kv_width, width)?,
                v: linear("attn_v", kv_width, width)?,
                head_norms: if shape.head_norms {
                    let norm = |part| vector(part, shape.head_width);
                    Some([norm("attn_q_norm.weight")?, norm("attn_k_norm.weight")?])
                } else {
                    None
                },
                attention_output: linear("attn_output", width, q_width)?,
                feed_forward_norm: vector("ffn_norm.weight", width)?,
                gate: linear("ffn_gate", shape.feed_forward, width)?,
                up: linear("ffn_up", shape.feed_forward, width)?,
                down: linear("ffn_down", width, shape.feed_forward)?,
            })
        };
        let padded = |name| file.device_matrix(name, vocab, width, true, &device).map(Arc::new);
        let embedding = QMatMul::from_arc(padded("token_embd.weight")?)?;
        // Without an output of its own the model uses the embedding, which is shared, not copied.
        let output = if file.has("output.weight") {
            QMatMul::from_arc(padded("output.weight")?)?
        } else {
            embedding.clone()
        };
        Ok(Self {
            vocab,
            embedding,
            layers: (0..shape.layers).map(layer).collect::<std::result::Result<_, _>>()?,
            output_norm: source.vector("output_norm.weight", width)?,
            output,
            frequencies: file.frequencies(&shape)?,
            shape,
            device,
        })
    }

    /// Candle picks its products by the number of rows.
    pub(crate) const BATCH_INVARIANT: bool = false;

    pub(crate) fn device(&self) -> &'static str {
        match self.device {
            Device::Cpu => "CPU (reference)",
            Device::Cuda(_) => "GPU (CUDA)",
            Device::Metal(_) => "GPU (Metal)",
        }
    }

    pub(crate) fn new_cache(&self, model: usize, capacity: usize) -> KvCache {
        let Shape { layers, kv_heads, head_width, .. } = self.shape;
        let layers = DeviceLayers::new(layers, kv_heads, head_width, &self.device);
        KvCache::device(model, layers, self.shape.cache_bytes_per_token(KvFormat::F32), capacity)
    }

    /// The segments were checked: ids in the vocabulary, memory in the caches.
    pub(crate) fn forward(&self, segments: &mut [Segment<'_>]) -> Result<Logits> {
        let before: Vec<usize> = segments.iter().map(|s| s.cache.len()).collect();
        let mut values = Vec::new();
        for parts in passes(segments) {
            if let Err(e) = self.pass(segments, &parts, &mut values) {
                for (segment, len) in segments.iter_mut().zip(before) {
                    segment.cache.truncate(len);
                }
                return Err(e);
            }
        }
        Ok(Logits::new(values, self.vocab))
    }

    /// One pass over the rows of `parts`; appends the wanted logits to `values`.
    fn pass(
        &self,
        segments: &mut [Segment<'_>],
        parts: &[Part],
        values: &mut Vec<f32>,
    ) -> Result<()> {
        let epsilon = self.shape.epsilon;
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        for part in parts {
            let segment = &segments[part.segment];
            ids.extend(part.tokens(segment).iter().map(|t| t.0));
            positions.extend(part.past..part.past + part.rows());
        }
        let rotation = self.rotation(&positions)?;
        let ids = Tensor::new(ids, &self.device)?;
        let mut x = self.embedding.embedding(&ids)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = rms_norm(&x, &layer.attention_norm, epsilon)?;
            let q = self.heads(layer.q.forward(&normed)?, self.shape.heads)?;
            let k = self.heads(layer.k.forward(&normed)?, self.shape.kv_heads)?;
            let v = self.heads(layer.v.forward(&normed)?, self.shape.kv_heads)?;
            let (q, k) = match &layer.head_norms {
                Some([q_norm, k_norm]) => {
                    (rms_norm(&q, q_norm, epsilon)?, rms_norm(&k, k_norm, epsilon)?)
                }
                None => (q, k),
            };
            let (q, k) = (self.rotate(&q, &rotation)?, self.rotate(&k, &rotation)?);
            let attended = self.attention(segments, parts, index, [&q, &k, &v])?;
            x = (x + layer.attention_output.forward(&attended)?)?;

            let normed = rms_norm(&x, &layer.feed_forward_norm, epsilon)?;
            let hidden = (silu(&layer.gate.forward(&normed)?)? * layer.up.forward(&normed)?)?;
            x = (x + layer.down.forward(&hidden)?)?;
        }

        let mut wanted = Vec::new();
        let mut row = 0;
        for part in parts {
            let segment = &mut segments[part.segment];
            if !part.alternative {
                segment.cache.advance(part.rows());
            }
            let first = part.first_wanted(segment);
            if first < part.rows() {
                wanted.push(x.narrow(0, row + first, part.rows() - first)?);
            }
            row += part.rows();
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let normed = rms_norm(&Tensor::cat(&wanted, 0)?, &self.output_norm, epsilon)?;
        let logits = self.output.forward(&normed)?.narrow(1, 0, self.vocab)?;
        values.extend(logits.contiguous()?.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    /// `rows × (heads · width)` as `heads × rows × width`.
    fn heads(&self, x: Tensor, heads: usize) -> Result<Tensor> {
        let rows = x.dim(0)?;
        x.reshape((rows, heads, self.shape.head_width))?.transpose(0, 1)?.contiguous()
    }

    /// Appends keys and values to each part's cache and attends over it; `rows × (heads · width)`.
    fn attention(
        &self,
        segments: &[Segment<'_>],
        parts: &[Part],
        layer: usize,
        [q, k, v]: [&Tensor; 3],
    ) -> Result<Tensor> {
        let Shape { heads, kv_heads, head_width: width, .. } = self.shape;
        let scale = 1.0 / (width as f64).sqrt();
        let mut attended = Vec::with_capacity(parts.len());
        let mut row = 0;
        for part in parts {
            let cache = &segments[part.segment].cache;
            let Layers::Device(kv) = &cache.layers else {
                candle_core::bail!("a cache of the CPU kernels");
            };
            let (rows, past) = (part.rows(), part.past);
            let (seen, group) = (past + rows, heads / kv_heads);
            let mine = |x: &Tensor| x.narrow(1, row, rows)?.contiguous();
            kv.write(layer, &mine(k)?, &mine(v)?, past)?;
            let keys = kv.keys[layer].narrow(1, 0, seen)?;
            let values = kv.values[layer].narrow(1, 0, seen)?;
            // Heads that share keys and values are rows of one product.
            let q = mine(q)?.reshape((kv_heads, group * rows, width))?;
            let mut scores = (q.matmul(&keys.t()?)? * scale)?;
            if rows > 1 {
                let mask = causal(rows, past, &self.device)?;
                let apart = scores.reshape((heads, rows, seen))?.broadcast_add(&mask)?;
                scores = apart.reshape((kv_heads, group * rows, seen))?;
            }
            let out = softmax_last_dim(&scores)?.matmul(&values)?;
            let out = out.reshape((heads, rows, width))?.transpose(0, 1)?;
            attended.push(out.contiguous()?.reshape((rows, heads * width))?);
            row += rows;
        }
        if attended.len() == 1 { Ok(attended.remove(0)) } else { Tensor::cat(&attended, 0) }
    }

    /// Cosines and sines of each row's angles: `rows × head_width / 2` each.
    fn rotation(&self, positions: &[usize]) -> Result<[Tensor; 2]> {
        let angle = |&p: &usize| self.frequencies.iter().map(move |f| (p as f32 * f).sin_cos());
        let (sin, cos): (Vec<f32>, Vec<f32>) = positions.iter().flat_map(angle).unzip();
        let shape = (positions.len(), self.frequencies.len());
        let tensor = |values| Tensor::from_vec(values, shape, &self.device);
        Ok([tensor(cos)?, tensor(sin)?])
    }

    /// Rotary position embedding of `heads × rows × width`.
    fn rotate(&self, x: &Tensor, [cos, sin]: &[Tensor; 2]) -> Result<Tensor> {
        let x = x.unsqueeze(0)?;
        let rotated =
            if self.shape.rope_neighbours { rope_i(&x, cos, sin) } else { rope(&x, cos, sin) };
        rotated?.squeeze(0)
    }
}

/// Row `i` sees the first `past + i + 1` tokens: 0 there, minus infinity beyond.
fn causal(rows: usize, past: usize, device: &Device) -> Result<Tensor> {
    let seen = past + rows;
    let value = |at: usize| {
        if at % seen <= past + at / seen { 0.0 } else { f32::NEG_INFINITY }
    };
    Tensor::from_vec((0..rows * seen).map(value).collect(), (1, rows, seen), device)
}
