//! One task of [attention](crate::attention) with AVX2, FMA and F16C.
//!
//! **Why `unsafe` is here and sound.** (1) Functions with `#[target_feature]` may only run on a machine
//! that has the features: the only way in is [`block_avx2`], which is called for `Level::Avx2`, which
//! exists only after detection. (2) Loads through pointers: every pointer stays inside a slice whose
//! length is checked on the spot.
//!
//! Up to six heads share each load of keys or values: twelve accumulators, two registers of the cache
//! and one of the head fill the sixteen that there are. How heads are put together depends on the
//! model alone, and no head's sum on the others.
#![allow(unsafe_code)]

use crate::attention::{BLOCK, Task, softmax_of};
use crate::history::{Number, TOGETHER};
use std::arch::x86_64::*;

/// A number of the cache that can be loaded eight at a time.
pub(crate) trait OnAvx2: Number {
    /// SAFETY: needs AVX2 and F16C, and eight numbers from `from` on.
    unsafe fn load(from: *const Self) -> __m256;
}

impl OnAvx2 for f32 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }
}

impl OnAvx2 for i8 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller's promise.
        let eight = unsafe { _mm_loadl_epi64(from.cast()) };
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight))
    }
}

impl OnAvx2 for u16 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
}

/// Heads that share the loads of keys and values.
const HEADS: usize = 6;

/// As `one_block` in plain Rust.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn block_avx2<N: OnAvx2>(task: &Task<'_, N>, part: &mut [f32]) {
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

#[target_feature(enable = "avx2,fma,f16c")]
fn some_heads<N: OnAvx2, const H: usize>(
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
            let mut sum = [[_mm256_setzero_ps(); 2]; H];
            for i in from..width.min(from + share) {
                // SAFETY: (2) sixteen numbers for each of `width` places.
                let (a, b) = unsafe {
                    let at = keys.as_ptr().add(i * TOGETHER);
                    (N::load(at), N::load(at.add(8)))
                };
                for h in 0..H {
                    let q = _mm256_set1_ps(q[h][i]);
                    sum[h][0] = _mm256_fmadd_ps(q, a, sum[h][0]);
                    sum[h][1] = _mm256_fmadd_ps(q, b, sum[h][1]);
                }
            }
            for h in 0..H {
                let to = &mut scores[h][block * TOGETHER..][..TOGETHER];
                for (half, mut sum) in sum[h].into_iter().enumerate() {
                    let to: &mut [f32; 8] = (&mut to[half * 8..][..8]).try_into().expect("eight");
                    // SAFETY: (2) fixed arrays of eight.
                    unsafe {
                        if N::SCALED {
                            let scales =
                                &history.scales(first + block).0[from / share * TOGETHER..];
                            let scales: &[f32; 8] =
                                scales[half * 8..][..8].try_into().expect("eight");
                            let scales = _mm256_loadu_ps(scales.as_ptr());
                            sum = _mm256_fmadd_ps(sum, scales, _mm256_loadu_ps(to.as_ptr()));
                        }
                        _mm256_storeu_ps(to.as_mut_ptr(), sum);
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
        let mut sum = [[_mm256_setzero_ps(); 2]; H];
        for block in 0..keys.div_ceil(TOGETHER) {
            let values = history.block(first + block).1;
            assert_eq!(values.len(), width * TOGETHER);
            for t in 0..TOGETHER.min(keys - block * TOGETHER) {
                // SAFETY: (2) eight numbers for each of sixteen tokens in each of `width / 8` pieces.
                let (a, b) = unsafe {
                    let from = values.as_ptr();
                    let at = |piece: usize| from.add((piece * TOGETHER + t) * 8);
                    (N::load(at(piece)), N::load(at(next)))
                };
                for h in 0..H {
                    let weight = _mm256_set1_ps(weights[h][block * TOGETHER + t]);
                    sum[h][0] = _mm256_fmadd_ps(weight, a, sum[h][0]);
                    sum[h][1] = _mm256_fmadd_ps(weight, b, sum[h][1]);
                }
            }
        }
        for h in 0..H {
            for (piece, sum) in [piece, next].into_iter().zip(sum[h]) {
                let to = &mut sums[h * width + piece * 8..][..8];
                // SAFETY: (2) eight numbers.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), sum) };
            }
        }
        piece += 2;
    }
}
