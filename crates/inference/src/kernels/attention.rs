//! Attention of new rows over a KV cache.
//!
//! A task is one row, one KV head with all query heads that share it, and one block of keys: so keys
//! and values are read once for all of those heads, a long context keeps many cores busy even for a
//! single row, and neighbouring tasks find the same block in the cache. Each task leaves a running
//! softmax (Milakov and Gimelshein, 2018: its maximum, its sum, its weighted values), and these are
//! put together in the order of the blocks. Blocks are cut at fixed places of the text, so what a row
//! gives does not depend on the rows beside it.
//!
//! Written once in plain Rust with eight explicit lanes and compiled twice: with AVX2 and FMA
//! enabled, and without. The loops stand in the function itself: a closure that is handed to an
//! iterator's method is compiled without those instructions.
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

/// Keys of a task: keys and values of one head then fit into a small second-level cache.
const BLOCK: usize = 256;
/// Keys that are worked on together.
const KEYS: usize = 4;

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
    let Attention { heads, kv_heads, width } = shape;
    let rows = q.len() / (heads * width);
    let group = heads / kv_heads;
    let blocks = (past + rows).div_ceil(BLOCK);
    // Of each task: the heads' weighted values, then their maxima, then their sums.
    let size = group * (width + 2);
    let mut parts = vec![0.0; kv_heads * blocks * rows * size];
    // Rows are next to each other, so that a thread stays at its block.
    let work = |(at, part): (usize, &mut [f32])| {
        let (kv, block, row) = (at / (blocks * rows), at / rows % blocks, at % rows);
        let (from, to) = (block * BLOCK, (past + row + 1).min((block + 1) * BLOCK));
        if from >= to {
            return;
        }
        let task = Task {
            group,
            width,
            stride: kv_heads * width,
            q: &q[(row * heads + kv * group) * width..][..group * width],
            keys: &keys[(from * kv_heads + kv) * width..],
            values: &values[(from * kv_heads + kv) * width..],
            keys_here: to - from,
        };
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::Avx2` exists only on a machine with AVX2 and FMA.
            Isa::Avx2 => unsafe { block_avx2(&task, part) },
            Isa::Portable => one_block(&task, part),
        }
    };
    let parts_of =
        |kv: usize, block: usize, row: usize| ((kv * blocks + block) * rows + row) * size;
    // For little work the hand-over to other threads costs more than it saves.
    if rows * heads * (past + rows) * width < 200_000 {
        parts.chunks_exact_mut(size).enumerate().for_each(work);
    } else {
        parts.par_chunks_exact_mut(size).enumerate().for_each(work);
    }
    for (at, out) in out.chunks_exact_mut(width).enumerate() {
        let (row, head) = (at / heads, at % heads);
        let (kv, head) = (head / group, head % group);
        let seen = (past + row + 1).div_ceil(BLOCK);
        let part = |block| &parts[parts_of(kv, block, row)..][..size];
        let maximum = |block| part(block)[group * width + head];
        let max = (0..seen).map(maximum).fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        out.fill(0.0);
        for block in 0..seen {
            let weight = (maximum(block) - max).exp();
            total += weight * part(block)[group * (width + 1) + head];
            for (out, v) in out.iter_mut().zip(&part(block)[head * width..][..width]) {
                *out += weight * v;
            }
        }
        let inverse = 1.0 / total;
        for out in out {
            *out *= inverse;
        }
    }
}

/// One row, one KV head, one block of keys.
struct Task<'a> {
    group: usize,
    width: usize,
    /// From a key to the next.
    stride: usize,
    /// Of all heads of the group.
    q: &'a [f32],
    /// From the block's first key on.
    keys: &'a [f32],
    values: &'a [f32],
    keys_here: usize,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn block_avx2(task: &Task<'_>, part: &mut [f32]) {
    one_block(task, part);
}

#[inline(always)]
fn one_block(task: &Task<'_>, part: &mut [f32]) {
    let &Task { group, width, stride, q, keys, values, keys_here } = task;
    let scale = 1.0 / (width as f32).sqrt();
    let (sums, softmax) = part.split_at_mut(group * width);
    let (maxima, totals) = softmax.split_at_mut(group);
    let mut scores = [0.0f32; BLOCK];
    for head in 0..group {
        let q = &q[head * width..][..width];
        let mut t = 0;
        while t + KEYS <= keys_here {
            let of = |i: usize| &keys[(t + i) * stride..][..width];
            let four = dots(q, [of(0), of(1), of(2), of(3)]);
            for i in 0..KEYS {
                scores[t + i] = four[i] * scale;
            }
            t += KEYS;
        }
        while t < keys_here {
            let key = &keys[t * stride..][..width];
            scores[t] = dots(q, [key; KEYS])[0] * scale;
            t += 1;
        }
        // A multiple of the lanes; what is beyond the keys weighs nothing.
        let padded = keys_here.next_multiple_of(8);
        scores[keys_here..padded].fill(f32::NEG_INFINITY);
        let mut max = [f32::NEG_INFINITY; 8];
        for s in scores[..padded].chunks_exact(8) {
            for i in 0..8 {
                max[i] = if s[i] > max[i] { s[i] } else { max[i] };
            }
        }
        let mut highest = max[0];
        for m in max {
            highest = if m > highest { m } else { highest };
        }
        let mut total = [0.0f32; 8];
        for s in scores[..padded].chunks_exact_mut(8) {
            for i in 0..8 {
                s[i] = exp(s[i] - highest);
                total[i] += s[i];
            }
        }
        maxima[head] = highest;
        totals[head] = sum(total);
        let sums = &mut sums[head * width..][..width];
        let mut t = 0;
        while t < keys_here {
            // Beyond the last key: the last one again, with weight 0.
            let of = |i: usize| &values[(t + i).min(keys_here - 1) * stride..][..width];
            let (v, w) = ([of(0), of(1), of(2), of(3)], &scores[t..t + KEYS]);
            for i in 0..width {
                sums[i] += (w[0] * v[0][i] + w[1] * v[1][i]) + (w[2] * v[2][i] + w[3] * v[3][i]);
            }
            t += KEYS;
        }
    }
}

/// Dot products of `q` with four keys.
#[inline(always)]
fn dots(q: &[f32], keys: [&[f32]; KEYS]) -> [f32; KEYS] {
    let mut lanes = [[0.0f32; 8]; KEYS];
    let mut at = 0;
    while at + 8 <= q.len() {
        let q = &q[at..at + 8];
        for k in 0..KEYS {
            let key = &keys[k][at..at + 8];
            for i in 0..8 {
                lanes[k][i] += q[i] * key[i];
            }
        }
        at += 8;
    }
    let mut dots = [0.0; KEYS];
    for k in 0..KEYS {
        dots[k] = sum(lanes[k]);
    }
    dots
}

#[inline(always)]
fn sum([a, b, c, d, e, f, g, h]: [f32; 8]) -> f32 {
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// `e^x` for x ≤ 0, within 2 units of the last place; 0 below −87. Straight arithmetic, so that eight
/// of them are one sequence of vector instructions (after Cephes' `expf`).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding this moves the whole number into the low bits of the significand.
    const SHIFT: f32 = 12_582_912.0;
    let small = x < -87.0;
    let x = if small { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    // ln 2 in two parts, the first exact in few bits.
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let p = p * r * r + r + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if small { 0.0 } else { p * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Attention = Attention { heads: 6, kv_heads: 2, width: 16 };

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 3.0
            })
            .collect()
    }

    fn run(isa: Isa, q: &[f32], kv: [&[f32]; 2], past: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; q.len()];
        attend(isa, SHAPE, q, kv[0], kv[1], past, &mut out);
        out
    }

    /// In double precision, in the order of the formula.
    fn naive(q: &[f32], keys: &[f32], values: &[f32], past: usize) -> Vec<f64> {
        let Attention { heads, kv_heads, width } = SHAPE;
        let mut all = Vec::new();
        for (at, q) in q.chunks_exact(width).enumerate() {
            let (row, kv) = (at / heads, at % heads / (heads / kv_heads));
            let of =
                |all: &[f32], t: usize, i: usize| f64::from(all[(t * kv_heads + kv) * width + i]);
            let seen = past + row + 1;
            let weight = |t| {
                let dot: f64 = (0..width).map(|i| f64::from(q[i]) * of(keys, t, i)).sum();
                (dot / (width as f64).sqrt()).exp()
            };
            let total: f64 = (0..seen).map(weight).sum();
            let value = |i| (0..seen).map(|t| weight(t) * of(values, t, i)).sum::<f64>() / total;
            all.extend((0..width).map(value));
        }
        all
    }

    #[test]
    fn is_the_formula_over_any_number_of_blocks() {
        for (past, rows) in [(0, 1), (0, 5), (3, 2), (254, 3), (255, 1), (600, 4)] {
            let n = (past + rows) * SHAPE.kv_heads * SHAPE.width;
            let (keys, values) = (numbers(n, 1), numbers(n, 2));
            let q = numbers(rows * SHAPE.heads * SHAPE.width, 3);
            let right = naive(&q, &keys, &values, past);
            let portable = run(Isa::Portable, &q, [&keys, &values], past);
            for (a, b) in portable.iter().zip(&right) {
                assert!((f64::from(*a) - b).abs() < 2e-5, "{past} and {rows}: {a} for {b}");
            }
            assert_eq!(run(Isa::detect(), &q, [&keys, &values], past), portable);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        let (past, rows) = (250, 9);
        let n = (past + rows) * SHAPE.kv_heads * SHAPE.width;
        let (keys, values) = (numbers(n, 4), numbers(n, 5));
        let width = SHAPE.heads * SHAPE.width;
        let q = numbers(rows * width, 6);
        let all = run(Isa::detect(), &q, [&keys, &values], past);
        for row in 0..rows {
            let alone =
                run(Isa::detect(), &q[row * width..][..width], [&keys, &values], past + row);
            assert_eq!(alone, all[row * width..][..width], "row {row}");
        }
    }

    #[test]
    fn exp_is_exp() {
        for i in 0..90_000 {
            let x = -(i as f32) / 1000.0;
            let right = f64::from(x).exp();
            let error = (f64::from(exp(x)) - right).abs();
            assert!(error <= right * 2.5e-7 || x < -86.9, "e^{x}: {} for {right}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }
}
