//! The forward pass on the CPU kernels.

use crate::cache::{KvCache, Layers};
use crate::gguf::{Gguf, Shape};
use crate::model::{Part, passes};
use crate::{Error, Logits, Segment};
use tandem_kernels::{
    Activations, History, Isa, KvFormat, Matrix, add, add_to_each, attend, matmul, norm, rotate,
    silu_times,
};

/// Weights of a model, in the file's own quantisation.
pub(crate) struct CpuModel {
    isa: Isa,
    kv: KvFormat,
    shape: Shape,
    vocab: usize,
    embedding: Matrix,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    /// `None`: the embedding is also the output.
    output: Option<Matrix>,
    /// One frequency for each rotated pair of a head.
    frequencies: Vec<f32>,
    threads: rayon::ThreadPool,
}

struct Layer {
    attention_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    /// Norms of each head of queries and keys, where the family has them.
    head_norms: Option<[Vec<f32>; 2]>,
    attention_output: Linear,
    feed_forward_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

struct Linear {
    weights: Matrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    fn load(file: &Gguf, isa: Isa, name: &str, rows: usize, cols: usize) -> Result<Self, Error> {
        let weights = file.matrix(&format!("{name}.weight"), rows, cols, false)?;
        let weights = weights.ordered_for(isa);
        let bias = format!("{name}.bias");
        let bias = if file.has(&bias) { Some(file.vector(&bias, rows)?) } else { None };
        Ok(Self { weights, bias })
    }

    /// `rows × weights.rows()`.
    fn forward(&self, x: &Activations) -> Vec<f32> {
        let n = self.weights.rows();
        let mut out = vec![0.0; x.rows() * n];
        matmul(&self.weights, n, x, &mut out);
        if let Some(bias) = &self.bias {
            add_to_each(&mut out, bias);
        }
        out
    }
}

impl CpuModel {
    pub(crate) fn load(
        file: &Gguf,
        shape: Shape,
        vocab: usize,
        threads: Option<usize>,
        kv: KvFormat,
    ) -> Result<Self, Error> {
        let (width, q_width) = (shape.width, shape.heads * shape.head_width);
        let kv_width = shape.kv_width();
        let isa = Isa::detect();
        let layer = |i: usize| -> Result<Layer, Error> {
            let name = |part: &str| format!("blk.{i}.{part}");
            let linear = |part: &str, rows, cols| Linear::load(file, isa, &name(part), rows, cols);
            Ok(Layer {
                attention_norm: file.vector(&name("attn_norm.weight"), width)?,
                q: linear("attn_q", q_width, width)?,
                k: linear("attn_k", kv_width, width)?,
                v: linear("attn_v", kv_width, width)?,
                head_norms: if shape.head_norms {
                    let norm = |part| file.vector(&name(part), shape.head_width);
                    Some([norm("attn_q_norm.weight")?, norm("attn_k_norm.weight")?])
                } else {
                    None
                },
                attention_output: linear("attn_output", width, q_width)?,
                feed_forward_norm: file.vector(&name("ffn_norm.weight"), width)?,
                gate: linear("ffn_gate", shape.feed_forward, width)?,
                up: linear("ffn_up", shape.feed_forward, width)?,
                down: linear("ffn_down", width, shape.feed_forward)?,
            })
        };
        let vocabulary = |name| file.matrix(name, vocab, width, true);
        let mut embedding = vocabulary("token_embd.weight")?;
        let output = if file.has("output.weight") {
            Some(vocabulary("output.weight")?.ordered_for(isa))
        } else {
            // Only what is multiplied needs another order.
            embedding = embedding.ordered_for(isa);
            None
        };
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(|i| format!("model-{i}"))
            .build()
            .map_err(|e| file.bad(format!("no threads to compute with: {e}")))?;
        Ok(Self {
            isa,
            kv,
            vocab,
            embedding,
            layers: (0..shape.layers).map(layer).collect::<Result<_, _>>()?,
            output_norm: file.vector("output_norm.weight", width)?,
            output,
            frequencies: file.frequencies(&shape)?,
            threads,
            shape,
        })
    }

    /// Each row is computed by the same sums in the same order, whatever is beside it.
    pub(crate) const BATCH_INVARIANT: bool = true;

    pub(crate) fn device(&self) -> &'static str {
        self.isa.name()
    }

    pub(crate) fn new_cache(&self, model: usize, capacity: usize) -> KvCache {
        let Shape { layers, kv_heads, head_width, .. } = self.shape;
        let history = History::new(self.kv, [layers, kv_heads, head_width], capacity);
        KvCache::host(model, history, self.shape.cache_bytes_per_token(self.kv), capacity)
    }

    /// The segments were checked: ids in the vocabulary, memory in the caches.
    pub(crate) fn forward(&self, segments: &mut [Segment<'_>]) -> Logits {
        self.threads.install(|| {
            let mut values = Vec::new();
            for parts in passes(segments) {
                self.pass(segments, &parts, &mut values);
            }
            Logits::new(values, self.vocab)
        })
    }

    /// One pass over the rows of `parts`; appends the wanted logits to `values`.
    fn pass(&self, segments: &mut [Segment<'_>], parts: &[Part], values: &mut Vec<f32>) {
        let shape = &self.shape;
        let width = shape.width;
        let rows: usize = parts.iter().map(Part::rows).sum();

        let mut x = vec![0.0; rows * width];
        let mut positions = Vec::with_capacity(rows);
        let mut row = 0;
        for part in parts {
            let segment = &segments[part.segment];
            for (i, token) in part.tokens(segment).iter().enumerate() {
                self.embedding.dequantise_row(token.index(), &mut x[row * width..][..width]);
                positions.push(part.past + i);
                row += 1;
            }
        }
        let rotation = self.rotation(&positions);

        for (index, layer) in self.layers.iter().enumerate() {
            let normed = Activations::new(self.norm(&x, &layer.attention_norm), width);
            // Products of the same activations have no barrier between them: threads wake once.
            let product = |linear: &Linear| linear.forward(&normed);
            let (mut q, (mut k, v)) = rayon::join(
                || product(&layer.q),
                || rayon::join(|| product(&layer.k), || product(&layer.v)),
            );
            if let Some([q_norm, k_norm]) = &layer.head_norms {
                q = self.norm(&q, q_norm);
                k = self.norm(&k, k_norm);
            }
            self.rotate(&mut q, shape.heads, &rotation);
            self.rotate(&mut k, shape.kv_heads, &rotation);
            let mut attended = normed.into_values();
            attended.resize(q.len(), 0.0);
            self.attention(segments, parts, index, [&q, &k, &v], &mut attended);
            let attended = Activations::new(attended, shape.heads * shape.head_width);
            add(&mut x, &layer.attention_output.forward(&attended));

            let normed = Activations::new(self.norm(&x, &layer.feed_forward_norm), width);
            let product = |linear: &Linear| linear.forward(&normed);
            let (mut gate, up) = rayon::join(|| product(&layer.gate), || product(&layer.up));
            silu_times(self.isa, &mut gate, &up);
            let hidden = Activations::new(gate, shape.feed_forward);
            add(&mut x, &layer.down.forward(&hidden));
        }

        let mut wanted = Vec::new();
        let mut row = 0;
        for part in parts {
            let segment = &mut segments[part.segment];
            let rows = part.rows();
            if !part.alternative {
                segment.cache.advance(rows);
            }
            let first = part.first_wanted(segment);
            wanted.extend_from_slice(&x[(row + first) * width..(row + rows) * width]);
            row += rows;
        }
        if wanted.is_empty() {
            return;
        }
        let normed = Activations::new(self.norm(&wanted, &self.output_norm), width);
        let start = values.len();
        values.resize(start + normed.rows() * self.vocab, 0.0);
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        matmul(output, self.vocab, &normed, &mut values[start..]);
        // Rounded to 8 bits, what is no number would come out as zeros, and as text that nobody wrote.
        let rows = wanted.chunks_exact(width).zip(values[start..].chunks_exact_mut(self.vocab));
        for (_, logits) in rows.filter(|(row, _)| !row.iter().all(|x| x.is_finite())) {
            logits.fill(f32::NAN);
        }
    }

    /// Appends keys and values to each part's cache and attends over it.
    fn attention(
        &self,
        segments: &mut [Segment<'_>],
        parts: &[Part],
        layer: usize,
        [q, k, v]: [&[f32]; 3],
        out: &mut [f32],
    ) {
        let shape = &self.shape;
        let (q_width, kv_width) = (shape.heads * shape.head_width, shape.kv_width());
        let mut row = 0;
        for part in parts {
            let rows = part.rows();
            let cache = &mut segments[part.segment].cache;
            let past = part.past;
            let Layers::Host(history) = &mut cache.layers else {
                unreachable!("a model takes only caches that it made");
            };
            let new = row * kv_width..(row + rows) * kv_width;
            history.write(layer, past, &k[new.clone()], &v[new]);
            let range = row * q_width..(row + rows) * q_width;
            let (q, out) = (&q[range.clone()], &mut out[range]);
            attend(self.isa, q, shape.heads, (history, layer), past, out);
            row += rows;
        }
    }

    /// RMS norm of each row.
    fn norm(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        norm(x, weight, self.shape.epsilon)
    }

    /// Cosine and sine of each row's angles: `rows × head_width / 2`.
    fn rotation(&self, positions: &[usize]) -> Vec<(f32, f32)> {
        let angle = |&p: &usize| self.frequencies.iter().map(move |f| (p as f32 * f).sin_cos());
        positions.iter().flat_map(angle).map(|(sin, cos)| (cos, sin)).collect()
    }

    /// Rotary position embedding, in place.
    fn rotate(&self, x: &mut [f32], heads: usize, rotation: &[(f32, f32)]) {
        rotate(x, heads, self.shape.head_width, rotation, self.shape.rope_neighbours);
    }
}
