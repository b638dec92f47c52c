//! Attention of new rows over a KV cache.
//!
//! A task is one row, one KV head with all query heads that share it, and one block of keys: so keys
//! and values are read once for all of those heads, a long context keeps many cores busy even for a
//! single row, and neighbouring tasks find the same block in the cache. Each task leaves a running
//! softmax (Milakov and Gimelshein, 2018: its maximum, its sum, its weighted values), and these are
//! put together in the order of the blocks. Blocks are cut at fixed places of the text, so what a row
//! gives does not depend on the rows beside it.
//!
//! Sixteen keys are scored side by side, a lane each: no sum ever crosses lanes.
#![allow(unsafe_code)] // Only to call a function compiled for instructions that the machine was found to have.

use crate::TASK_VALUES;
#[cfg(target_arch = "x86_64")]
use crate::attention_avx2::block_avx2;
#[cfg(target_arch = "aarch64")]
use crate::attention_neon::block_neon;
use crate::history::{Head, History, KvFormat, Number, SHARE, TOGETHER};
use crate::isa::{Isa, Level};
use rayon::prelude::*;

/// Keys of a task: keys and values of one head then fit into a small second-level cache.
pub(crate) const BLOCK: usize = 256;

/// `out[row][head]` for the rows of one sequence in one layer: row `i` sees the first `past + i + 1`
/// tokens of `history`. `q` and `out` are `rows × heads × width`.
///
/// # Panics
/// If the sizes do not fit together, or the history has no memory for so many tokens.
pub fn attend(
    isa: Isa,
    q: &[f32],
    heads: usize,
    (history, layer): (&History, usize),
    past: usize,
    out: &mut [f32],
) {
    assert!(heads > 0 && heads.is_multiple_of(history.kv_heads()), "heads share keys and values");
    let row = heads.checked_mul(history.width()).expect("a countable width");
    assert!(q.len().is_multiple_of(row) && q.len() == out.len(), "rows of queries");
    let seen = past.checked_add(q.len() / row).expect("a countable text");
    assert!(layer < history.layers() && seen <= history.room(), "tokens of the history");
    if q.is_empty() {
        return;
    }
    match history.format() {
        KvFormat::F16 => attend_as::<u16>(isa, q, heads, (history, layer), past, out),
        KvFormat::F32 => attend_as::<f32>(isa, q, heads, (history, layer), past, out),
        KvFormat::Q8 => attend_as::<i8>(isa, q, heads, (history, layer), past, out),
    }
}

fn attend_as<N: Loaded>(
    isa: Isa,
    q: &[f32],
    heads: usize,
    (history, layer): (&History, usize),
    past: usize,
    out: &mut [f32],
) {
    let (kv_heads, width) = (history.kv_heads(), history.width());
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
            q: &q[(row * heads + kv * group) * width..][..group * width],
            history: history.head::<N>(layer, kv),
            first: from / TOGETHER,
            keys: to - from,
        };
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Level::Avx2` and `Level::Avx512` exist only on a machine with AVX2, FMA and F16C.
            Level::Avx2 | Level::Avx512 => unsafe { block_avx2(&task, part) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: NEON is part of every aarch64 target.
            Level::NeonDot | Level::Neon => unsafe { block_neon(&task, part) },
            Level::Portable => one_block(&task, part),
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
    let parts = &parts;
    let put_together = |(row, out): (usize, &mut [f32])| {
        let seen = (past + row + 1).div_ceil(BLOCK);
        for (head, out) in out.chunks_exact_mut(width).enumerate() {
            let (kv, head) = (head / group, head % group);
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
    };
    let each = (TASK_VALUES / (heads * width * blocks)).max(1);
    out.par_chunks_exact_mut(heads * width).with_min_len(each).enumerate().for_each(put_together);
}

#[cfg(target_arch = "x86_64")]
use crate::attention_avx2::OnAvx2 as Loaded;
#[cfg(target_arch = "aarch64")]
use crate::attention_neon::OnNeon as Loaded;
/// A number with instructions of its own where the machine has them.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use Number as Loaded;

/// One row, one KV head, one block of keys.
pub(crate) struct Task<'a, N> {
    /// Query heads.
    pub group: usize,
    pub width: usize,
    /// Of all heads of the group.
    pub q: &'a [f32],
    pub history: Head<'a, N>,
    /// The block's first sixteen tokens.
    pub first: usize,
    /// Keys that the row sees of the block.
    pub keys: usize,
}

impl<N> Task<'_, N> {
    pub(crate) fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

impl<N: Number> Task<'_, N> {
    /// Numbers of a head whose products are added before their scale is applied.
    pub(crate) fn share(&self) -> usize {
        if N::SCALED { SHARE } else { self.width }
    }

    /// Makes `scaled` the weights of the tokens, times the scales of a share of their values.
    #[inline(always)]
    pub(crate) fn scale_weights(&self, share: usize, weights: &[f32], scaled: &mut [f32]) {
        for block in 0..self.keys.div_ceil(TOGETHER) {
            let scales = &self.history.scales(self.first + block).1[share * TOGETHER..];
            let at = block * TOGETHER;
            for i in 0..TOGETHER {
                scaled[at + i] = weights[at + i] * scales[i];
            }
        }
    }
}

/// In plain Rust: the reference of the tests.
fn one_block<N: Number>(task: &Task<'_, N>, part: &mut [f32]) {
    let &Task { group, width, q, history, first, keys } = task;
    let share = task.share();
    let (sums, softmax) = part.split_at_mut(group * width);
    let (maxima, totals) = softmax.split_at_mut(group);
    let (mut scores, mut scaled) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
    for head in 0..group {
        let q = &q[head * width..][..width];
        for (block, scores) in
            scores[..keys.next_multiple_of(TOGETHER)].chunks_exact_mut(TOGETHER).enumerate()
        {
            scores.fill(0.0);
            let shares = history.block(first + block).0.chunks(share * TOGETHER);
            for (at, (q, keys)) in q.chunks(share).zip(shares).enumerate() {
                let mut sums = [0.0f32; TOGETHER];
                for (q, keys) in q.iter().zip(keys.chunks_exact(TOGETHER)) {
                    for (sum, key) in sums.iter_mut().zip(keys) {
                        *sum += q * key.to_f32();
                    }
                }
                for (t, (score, sum)) in scores.iter_mut().zip(sums).enumerate() {
                    let scale = if N::SCALED {
                        history.scales(first + block).0[at * TOGETHER + t]
                    } else {
                        1.0
                    };
                    *score += sum * scale;
                }
            }
        }
        (maxima[head], totals[head]) = softmax_of(&mut scores, keys, task.scale());
        let sums = &mut sums[head * width..][..width];
        sums.fill(0.0);
        for (at, sums) in sums.chunks_mut(share).enumerate() {
            if N::SCALED {
                task.scale_weights(at, &scores, &mut scaled);
            }
            let weights = if N::SCALED { &scaled } else { &scores };
            for (block, weights) in weights[..keys].chunks(TOGETHER).enumerate() {
                let values =
                    history.block(first + block).1[at * share * TOGETHER..].as_chunks::<8>().0;
                for (sums, values) in
                    sums.as_chunks_mut::<8>().0.iter_mut().zip(values.chunks(TOGETHER))
                {
                    for (weight, values) in weights.iter().zip(values) {
                        for (sum, value) in sums.iter_mut().zip(values) {
                            *sum += weight * value.to_f32();
                        }
                    }
                }
            }
        }
    }
}

/// Makes `e^(scale · (score − maximum))` of the first `keys` scores; gives the scaled maximum and
/// the sum.
#[inline(always)]
pub(crate) fn softmax_of(scores: &mut [f32; BLOCK], keys: usize, scale: f32) -> (f32, f32) {
    // A multiple of the lanes; what is beyond the keys weighs nothing.
    let padded = keys.next_multiple_of(8);
    scores[keys..padded].fill(f32::NEG_INFINITY);
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
            s[i] = exp((s[i] - highest) * scale);
            total[i] += s[i];
        }
    }
    (highest * scale, sum(total))
}

#[inline(always)]
fn sum([a, b, c, d, e, f, g, h]: [f32; 8]) -> f32 {
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// `e^x` for x ≤ 0, within 2 units of the last place; 0 below −87. Straight arithmetic, so that eight
/// of them are one sequence of vector instructions (after Cephes' `expf`).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
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

    const HEADS: usize = 7;
    /// One share of a scale and a shorter one, and an odd number of pieces.
    const WIDTH: usize = 40;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Exact in 16 bits, so that both formats must give the same.
                ((state >> 55) as f32 / 256.0 - 1.0) * 3.0
            })
            .collect()
    }

    /// In the second of three layers; the others are not looked at.
    fn history(format: KvFormat, kv_heads: usize, [keys, values]: [&[f32]; 2]) -> History {
        let tokens = keys.len() / (kv_heads * WIDTH);
        let mut history = History::new(format, [3, kv_heads, WIDTH], tokens);
        history.reserve(tokens).unwrap();
        for layer in [0, 2] {
            let other = vec![f32::NAN; keys.len()];
            history.write(layer, 0, &other, &other);
        }
        history.write(1, 0, keys, values);
        history
    }

    fn run(isa: Isa, q: &[f32], heads: usize, history: &History, past: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; q.len()];
        attend(isa, q, heads, (history, 1), past, &mut out);
        out
    }

    /// What a format keeps of numbers.
    fn kept(format: KvFormat, numbers: &[f32]) -> Vec<f32> {
        fn of<N: Number>(numbers: &[f32]) -> Vec<f32> {
            let shares = numbers.chunks(WIDTH).flat_map(|head| head.chunks(SHARE));
            let kept = shares.map(|share| {
                let mut kept = vec![N::zeroed(); share.len()];
                let scale = N::keep(share, &mut kept);
                kept.into_iter().map(|n| n.to_f32() * scale).collect::<Vec<f32>>()
            });
            kept.flatten().collect()
        }
        match format {
            KvFormat::F16 => of::<u16>(numbers),
            KvFormat::F32 => of::<f32>(numbers),
            KvFormat::Q8 => of::<i8>(numbers),
        }
    }

    /// In double precision, in the order of the formula.
    fn naive(q: &[f32], heads: usize, kv_heads: usize, kv: [&[f32]; 2], past: usize) -> Vec<f64> {
        let mut all = Vec::new();
        for (at, q) in q.chunks_exact(WIDTH).enumerate() {
            let (row, head) = (at / heads, at % heads / (heads / kv_heads));
            let of =
                |all: &[f32], t: usize, i: usize| f64::from(all[(t * kv_heads + head) * WIDTH + i]);
            let seen = past + row + 1;
            let weight = |t| {
                let dot: f64 = (0..WIDTH).map(|i| f64::from(q[i]) * of(kv[0], t, i)).sum();
                (dot / (WIDTH as f64).sqrt()).exp()
            };
            let total: f64 = (0..seen).map(weight).sum();
            let value = |i| (0..seen).map(|t| weight(t) * of(kv[1], t, i)).sum::<f64>() / total;
            all.extend((0..WIDTH).map(value));
        }
        all
    }

    #[test]
    fn is_the_formula_over_any_number_of_blocks_heads_and_formats() {
        let cases = [(0, 1), (0, 5), (3, 2), (14, 3), (254, 3), (255, 1), (600, 4)];
        let groups = (1..=HEADS).map(|group| (2 * group, 2)).chain([(14, 1)]);
        for ((past, rows), (heads, kv_heads)) in
            groups.flat_map(|group| cases.map(|case| (case, group)))
        {
            let n = (past + rows) * kv_heads * WIDTH;
            let (keys, values) = (numbers(n, 1), numbers(n, 2));
            let q = numbers(rows * heads * WIDTH, 3);
            for format in [KvFormat::F32, KvFormat::F16, KvFormat::Q8] {
                let [k, v] = [&keys, &values].map(|numbers| kept(format, numbers));
                let right = naive(&q, heads, kv_heads, [&k, &v], past);
                let history = history(format, kv_heads, [&keys, &values]);
                for isa in [Isa(Level::Portable), Isa::detect()] {
                    let found = run(isa, &q, heads, &history, past);
                    for (a, b) in found.iter().zip(&right) {
                        let error = (f64::from(*a) - b).abs();
                        let case = format!("{past} and {rows}, {heads}, {isa:?}, {format:?}");
                        assert!(error < 5e-5, "{case}: {a} for {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        let (past, rows, kv_heads) = (250, 9, 1);
        let n = (past + rows) * kv_heads * WIDTH;
        for format in [KvFormat::F16, KvFormat::F32, KvFormat::Q8] {
            let history = history(format, kv_heads, [&numbers(n, 4), &numbers(n, 5)]);
            let width = HEADS * WIDTH;
            let q = numbers(rows * width, 6);
            let all = run(Isa::detect(), &q, HEADS, &history, past);
            for row in 0..rows {
                let q = &q[row * width..][..width];
                let alone = run(Isa::detect(), q, HEADS, &history, past + row);
                assert_eq!(alone, all[row * width..][..width], "{format:?} row {row}");
            }
        }
    }

    /// Whatever is asked, it is refused and nothing outside is read or written.
    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let (keys, q) = (numbers(32 * 2 * WIDTH, 7), numbers(4 * WIDTH, 8));
        let history = history(KvFormat::F16, 2, [&keys, &keys]);
        let refused = |q: &[f32], heads: usize, layer: usize, past: usize, out: usize| {
            let work =
                || attend(Isa::detect(), q, heads, (&history, layer), past, &mut vec![0.0; out]);
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            assert!(caught.is_err(), "{} of {heads}, {layer}, {past}, {out}", q.len());
        };
        let n = q.len();
        refused(&q, 3, 1, 0, n);
        refused(&q, 0, 1, 0, n);
        refused(&q, usize::MAX - 1, 1, 0, n);
        refused(&q[1..], 4, 1, 0, n - 1);
        refused(&q, 4, 1, 0, n - 1);
        refused(&q, 4, 3, 0, n);
        refused(&q, 4, 1, 32, n);
        refused(&q, 4, 1, usize::MAX, n);
        attend(Isa::detect(), &[], 4, (&history, 1), 0, &mut []);
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
