//! One task of [attention](crate::attention) with NEON.
//!
//! **Why `unsafe` is here and sound.** (1) NEON is part of every aarch64 target; its functions are unsafe
//! to call from those that do not say so, as `attention.rs`. (2) Loads through pointers: every pointer
//! stays inside a slice whose length is checked on the spot.
//!
//! Up to six heads share each load of keys or values: 24 accumulators, four registers of the cache and
//! one of the head fit into the 32 that there are. How heads are put together depends on the model alone,
//! and no head's sum on the others.
#![allow(unsafe_code)]

use crate::attention::{BLOCK, Task, softmax_of};
use crate::history::{Number, TOGETHER};
use crate::neon::floats;
use std::arch::aarch64::*;

/// A number of the cache that can be loaded eight at a time.
pub(crate) trait OnNeon: Number {
    /// SAFETY: needs NEON, and eight numbers from `from` on.
    unsafe fn load(from: *const Self) -> [float32x4_t; 2];
}

impl OnNeon for f32 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const Self) -> [float32x4_t; 2] {
        // SAFETY: the caller's promise.
        unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] }
    }
}

impl OnNeon for u16 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const Self) -> [float32x4_t; 2] {
        // SAFETY: the caller's promise.
        let eight = unsafe { vld1q_u16(from) };
        [floats(vget_low_u16(eight)), floats(vget_high_u16(eight))]
    }
}

impl OnNeon for i8 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const Self) -> [float32x4_t; 2] {
        // SAFETY: the caller's promise.
        let eight = vmovl_s8(unsafe { vld1_s8(from) });
        let [low, high] = [vmovl_s16(vget_low_s16(eight)), vmovl_high_s16(eight)];
        [vcvtq_f32_s32(low), vcvtq_f32_s32(high)]
    }
}

/// Heads that share the loads of keys and values.
const HEADS: usize = 6;

/// As `one_block` in plain Rust.
#[target_feature(enable = "neon")]
pub(crate) fn block_neon<N: OnNeon>(task: &Task<'_, N>, part: &mut [f32]) {
    let (sums, softmax) = part.split_at_mut(task.group * task.width);
    let (maxima, totals) = softmax.split_at_mut(task.group);
    // Even shares: seven heads as four and three.
    let share = task.group.div_ceil(task.group.div_ceil(HEADS));
    let mut head = 0;
    while head < task.group {
        let heads = share.min(task.group - head);
        let q = &task.q[head * task.width..][..heads * task.width];
        let sums = &mut sums[head * task.width..][..heads * task.width];
        let (maxima, totals) = (&mut maxima[head..][..heads], &mut totals[head..][..heads]);
        match heads {
            1 => some_heads::<N, 1>(task, q, sums, maxima, totals),
            2 => some_heads::<N, 2>(task, q, sums, maxima, totals),
            3 => some_heads::<N, 3>(task, q, sums, maxima, totals),
            4 => some_heads::<N, 4>(task, q, sums, maxima, totals),
            5 => some_heads::<N, 5>(task, q, sums, maxima, totals),
            _ => some_heads::<N, HEADS>(task, q, sums, maxima, totals),
        }
        head += heads;
    }
}

#[target_feature(enable = "neon")]
fn some_heads<N: OnNeon, const H: usize>(
    task: &Task<'_, N>,
    q: &[f32],
    sums: &mut [f32],
    maxima: &mut [f32],
    totals: &mut [f32],
) {
    let &Task { width, history, first, keys, .. } = task;
    let q: [&[f32]; H] = std::array::from_fn(|h| &q[h * width..][..width]);
    let (mut scores, mut scaled) = ([[0.0f32; BLOCK]; H], [[0.0f32; BLOCK]; H]);
    let share = task.share();
    for block in 0..keys.div_ceil(TOGETHER) {
        let keys = history.block(first + block).0;
        assert_eq!(keys.len(), width * TOGETHER);
        for from in (0..width).step_by(share) {
            let mut sum = [[vdupq_n_f32(0.0); 4]; H];
            for i in from..width.min(from + share) {
                // SAFETY: (2) sixteen numbers for each of `width` places.
                let [[a, b], [c, d]] = unsafe {
                    let at = keys.as_ptr().add(i * TOGETHER);
                    [N::load(at), N::load(at.add(8))]
                };
                for h in 0..H {
                    sum[h][0] = vfmaq_n_f32(sum[h][0], a, q[h][i]);
                    sum[h][1] = vfmaq_n_f32(sum[h][1], b, q[h][i]);
                    sum[h][2] = vfmaq_n_f32(sum[h][2], c, q[h][i]);
                    sum[h][3] = vfmaq_n_f32(sum[h][3], d, q[h][i]);
                }
            }
            for h in 0..H {
                let to = &mut scores[h][block * TOGETHER..][..TOGETHER];
                for (quarter, mut sum) in sum[h].into_iter().enumerate() {
                    let to: &mut [f32; 4] = (&mut to[quarter * 4..][..4]).try_into().expect("four");
                    // SAFETY: (2) fixed arrays of four.
                    unsafe {
                        if N::SCALED {
                            let scales =
                                &history.scales(first + block).0[from / share * TOGETHER..];
                            let scales: &[f32; 4] =
                                scales[quarter * 4..][..4].try_into().expect("four");
                            let scales = vld1q_f32(scales.as_ptr());
                            sum = vfmaq_f32(vld1q_f32(to.as_ptr()), sum, scales);
                        }
                        vst1q_f32(to.as_mut_ptr(), sum);
                    }
                }
            }
        }
    }
    for h in 0..H {
        (maxima[h], totals[h]) = softmax_of(&mut scores[h], keys, task.scale());
    }
    let pieces = width / 8;
    let mut piece = 0;
    while piece < pieces {
        // Two pieces of eight; the last one of an odd number is computed twice.
        let next = (piece + 1).min(pieces - 1);
        // Both are in one share.
        if N::SCALED && (piece * 8).is_multiple_of(share) {
            for h in 0..H {
                task.scale_weights(piece * 8 / share, &scores[h], &mut scaled[h]);
            }
        }
        let weights = if N::SCALED { &scaled } else { &scores };
        let mut sum = [[vdupq_n_f32(0.0); 4]; H];
        for block in 0..keys.div_ceil(TOGETHER) {
            let values = history.block(first + block).1;
            assert_eq!(values.len(), width * TOGETHER);
            for t in 0..TOGETHER.min(keys - block * TOGETHER) {
                // SAFETY: (2) eight numbers for each of sixteen tokens in each of `width / 8` pieces.
                let [[a, b], [c, d]] = unsafe {
                    let from = values.as_ptr();
                    let at = |piece: usize| from.add((piece * TOGETHER + t) * 8);
                    [N::load(at(piece)), N::load(at(next))]
                };
                for h in 0..H {
                    let weight = weights[h][block * TOGETHER + t];
                    sum[h][0] = vfmaq_n_f32(sum[h][0], a, weight);
                    sum[h][1] = vfmaq_n_f32(sum[h][1], b, weight);
                    sum[h][2] = vfmaq_n_f32(sum[h][2], c, weight);
                    sum[h][3] = vfmaq_n_f32(sum[h][3], d, weight);
                }
            }
        }
        for h in 0..H {
            for (piece, sum) in [piece, next].into_iter().zip(sum[h].as_chunks::<2>().0) {
                let to = &mut sums[h * width + piece * 8..][..8];
                // SAFETY: (2) eight numbers.
                unsafe {
                    vst1q_f32(to.as_mut_ptr(), sum[0]);
                    vst1q_f32(to.as_mut_ptr().add(4), sum[1]);
                }
            }
        }
        piece += 2;
    }
}
