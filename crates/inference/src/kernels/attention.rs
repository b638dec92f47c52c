//! Attention of new rows over a KV cache, and other row-wise pieces that profit from wide vectors.
//!
//! Written once in plain Rust with eight explicit lanes and compiled twice: with AVX2 and FMA
//! enabled, and without. Each (row, head) is one fixed sequence of operations.
#![allow(unsafe_code)] // Only to call a function compiled for AVX2 after the machine was found to have it.

use super::Isa;
use rayon::prelude::*;

/// Shapes of one layer's attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, a multiple of 8.
    pub width: usize,
}

/// `out[row][head]` for the rows of one sequence: row `i` sees the first `past + i + 1` tokens of
/// `keys` and `values` (`tokens × kv_heads × width`). `q` and `out` are `rows × heads × width`.
pub(crate) fn attend(
    isa: Isa,
    shape: Attention,
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    past: usize,
    out: &mut [f32],
) {
    let rows = q.len() / (shape.heads * shape.width);
    let work = |(at, out): (usize, &mut [f32])| {
        let (row, head) = (at / shape.heads, at % shape.heads);
        let q = &q[at * shape.width..][..shape.width];
        let seen = past + row + 1;
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::Avx2` exists only on a machine with AVX2 and FMA.
            Isa::Avx2 => unsafe { one_avx2(shape, head, q, keys, values, seen, out) },
            Isa::Portable => one(shape, head, q, keys, values, seen, out),
        }
    };
    // For little work the hand-over to other threads costs more than it saves.
    if rows * shape.heads * (past + rows) * shape.width < 200_000 {
        out.chunks_exact_mut(shape.width).enumerate().for_each(work);
    } else {
        out.par_chunks_exact_mut(shape.width).enumerate().for_each(work);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn one_avx2(
    shape: Attention,
    head: usize,
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    seen: usize,
    out: &mut [f32],
) {
    one(shape, head, q, keys, values, seen, out);
}

#[inline(always)]
fn one(
    shape: Attention,
    head: usize,
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    seen: usize,
    out: &mut [f32],
) {
    let stride = shape.kv_heads * shape.width;
    let kv = head / (shape.heads / shape.kv_heads) * shape.width;
    let scale = 1.0 / (shape.width as f32).sqrt();
    let mut scores: Vec<f32> = keys[..seen * stride]
        .chunks_exact(stride)
        .map(|k| dot(q, &k[kv..kv + shape.width]) * scale)
        .collect();
    let max = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let mut total = 0.0;
    for s in &mut scores {
        *s = (*s - max).exp();
        total += *s;
    }
    out.fill(0.0);
    for (v, s) in values[..seen * stride].chunks_exact(stride).zip(&scores) {
        for (out, v) in out.iter_mut().zip(&v[kv..kv + shape.width]) {
            *out += s * v;
        }
    }
    let inverse = 1.0 / total;
    for out in out {
        *out *= inverse;
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}
