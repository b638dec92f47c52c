//! The kernels with NEON, with 8-bit dot products or without, for [packed](crate::packed) weights.
//!
//! **Why `unsafe` is here and sound.** (1) `sdot` may only run on a machine that has it: the only way in
//! is [`tile`], which is told so for `Level::NeonDot`, which exists only after detection. NEON itself is
//! part of every aarch64 target. (2) Loads through pointers: every pointer comes from a fixed-size array,
//! made from a slice whose length is checked on the spot. (3) Two instructions are in assembly, as
//! not every supported compiler has their intrinsics: they work on registers alone.
//!
//! A register holds four neighbouring weights of each of four rows, unpacked once. Each row of
//! activations then costs one `sdot`: four products (i8 × i8) are added to a 32-bit sum, which cannot
//! overflow (128 · 127 · 32 is 19 bits). Sixteen activations are one load: `sdot` takes any four of them.
//! Without it, products are 16 bits: a pair of them is at most 2 · 128 · 127, which fits.
//!
//! All sums of a block are whole numbers, the same in any order; what is then done with floats is what
//! the plain code does, step by step. So these kernels give its bits, which no row beside them changes.
#![allow(unsafe_code)]

use crate::formats::{
    Format32, Format256, Minimum, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Values32, Values256,
    at, eighths, of_rows,
};
use crate::packed::{SCALES, fifth, high, low, nibbles};
use crate::quantise::{By32, By256};
use crate::{Activations, Kind};
use std::arch::aarch64::*;
use std::arch::asm;

/// Rows of weights in a group.
pub(crate) const ROWS: usize = 4;

/// A group of four rows of weights times `out.len() / 4` rows of activations from `first` on (at most
/// 8); `out` is `activations × 4`. `dot`: the machine has `sdot`.
pub(crate) fn tile(
    (dot, kind): (bool, Kind),
    weights: &[u8],
    x: &Activations,
    first: usize,
    out: &mut [f32],
) {
    // The number of rows must be known to the compiler, so that accumulators stay in registers.
    macro_rules! tile {
        ($($m:literal),*) => {
            match out.as_chunks_mut().0 {
                $(out if out.len() == $m => {
                    let out: &mut [[f32; ROWS]; $m] = out.try_into().expect("its length");
                    // SAFETY: `Level::NeonDot` was detected when `dot` (1).
                    unsafe {
                        if dot {
                            rows::<true, $m>(kind, weights, x, first, out);
                        } else {
                            rows::<false, $m>(kind, weights, x, first, out);
                        }
                    }
                })*
                out => unreachable!("a tile of {} rows", out.len()),
            }
        };
    }
    tile!(1, 2, 3, 4, 5, 6, 7, 8);
}

#[target_feature(enable = "neon")]
fn rows<const DOT: bool, const M: usize>(
    kind: Kind,
    weights: &[u8],
    x: &Activations,
    first: usize,
    out: &mut [[f32; ROWS]; M],
) {
    let cols = x.cols();
    match kind {
        Kind::Q4_0 => rows32::<Q4_0, DOT, M>(weights, x.by32(), cols, first, out),
        Kind::Q4_1 => rows32::<Q4_1, DOT, M>(weights, x.by32(), cols, first, out),
        Kind::Q5_0 => rows32::<Q5_0, DOT, M>(weights, x.by32(), cols, first, out),
        Kind::Q5_1 => rows32::<Q5_1, DOT, M>(weights, x.by32(), cols, first, out),
        Kind::Q8_0 => rows32::<Q8_0, DOT, M>(weights, x.by32(), cols, first, out),
        Kind::Q4K => rows256::<Q4K, DOT, M>(weights, x.by256(), cols, first, out),
        Kind::Q5K => rows256::<Q5K, DOT, M>(weights, x.by256(), cols, first, out),
        Kind::Q6K => rows256::<Q6K, DOT, M>(weights, x.by256(), cols, first, out),
    }
}

// ---- blocks of 256 ----

/// weight = d · scale · u + c · offset, with a scale and an offset for each sixteen or 32.
struct Header256 {
    d: float32x4_t,
    c: float32x4_t,
    /// Scales of four sixteens (or 32s) of a row in the bytes of a lane.
    scales: [uint8x16_t; 4],
    offsets: [uint8x16_t; 4],
}

#[target_feature(enable = "neon")]
fn rows256<F: Format256, const DOT: bool, const M: usize>(
    weights: &[u8],
    x: &By256,
    cols: usize,
    first: usize,
    out: &mut [[f32; ROWS]; M],
) {
    let blocks = cols / 256;
    // Whole blocks as arrays: one bounds check for each, and constant offsets inside.
    let q: [&[[[i8; 16]; 16]]; M] = of_rows(x.q.as_chunks().0.as_chunks().0, first, blocks);
    let scale: [&[f32]; M] = of_rows(&x.scale, first, blocks);
    // Eight neighbouring sums: of sixteens, or of 32s.
    let sums = if F::SHARE == 16 { &x.sums16 } else { &x.sums32 };
    let eights = 32 / F::SHARE;
    let sums: [&[[i16; 8]]; M] = of_rows(sums.as_chunks().0, first, blocks * eights);
    let mut sum = [vdupq_n_f32(0.0); M];
    for (b, bytes) in weights.chunks_exact(ROWS * F::BYTES).enumerate() {
        // Its length is known to the compiler: loads at fixed places need no checks.
        let bytes = &bytes[..ROWS * F::BYTES];
        let h = header::<F>(bytes);
        let q: [&[[i8; 16]; 16]; M] = at(q, b);
        let mut dot = [vdupq_n_s32(0); M];
        eighths!(E => {
            share256::<F, DOT, M, E, 0>(bytes, &h, q, &mut dot);
            if F::SHARE == 16 {
                share256::<F, DOT, M, E, 1>(bytes, &h, q, &mut dot);
            }
        });
        let mut offset = [vdupq_n_s32(0); M];
        for eight in 0..eights {
            let mut offsets = [vdup_n_s16(0); 8];
            for i in 0..8 {
                let four = h.offsets[2 * eight + i / 4];
                offsets[i] = vmovn_s32(byte(four, i % 4, F::SIGNED));
            }
            for m in 0..M {
                let sums = &sums[m][b * eights + eight];
                offset[m] = add_offsets(offset[m], &offsets, sums);
            }
        }
        for m in 0..M {
            let dot = vmulq_f32(h.d, vcvtq_f32_s32(dot[m]));
            let block = vaddq_f32(dot, vmulq_f32(h.c, vcvtq_f32_s32(offset[m])));
            sum[m] = vaddq_f32(sum[m], vmulq_n_f32(block, scale[m][b]));
        }
    }
    for m in 0..M {
        // SAFETY: a fixed array of four (2).
        unsafe { vst1q_f32(out[m].as_mut_ptr(), sum[m]) };
    }
}

/// Adds the products of share `S` of eighth `E` of a block, times its scale.
#[target_feature(enable = "neon")]
#[inline]
fn share256<F: Format256, const DOT: bool, const M: usize, const E: usize, const S: usize>(
    bytes: &[u8],
    h: &Header256,
    q: [&[[i8; 16]; 16]; M],
    dot: &mut [int32x4_t; M],
) {
    let share = const { E * 32 / F::SHARE + S };
    let mut part = [vdupq_n_s32(0); M];
    for sixteen in 0..F::SHARE / 16 {
        let mut w = [vdupq_n_s8(0); 4];
        for i in 0..4 {
            w[i] = vector256::<F, E>(bytes, S * 4 + 4 * sixteen + i);
        }
        for m in 0..M {
            part[m] = dot_sixteen::<DOT>(part[m], w, &q[m][2 * E + S + sixteen]);
        }
    }
    let scale = byte(h.scales[share / 4], share % 4, F::SIGNED);
    for m in 0..M {
        dot[m] = vmlaq_s32(dot[m], part[m], scale);
    }
}

/// Scales and offsets of a group.
#[target_feature(enable = "neon")]
#[inline]
fn header<F: Format256>(b: &[u8]) -> Header256 {
    match F::VALUES {
        Values256::Nibbles { .. } => {
            // Six bits each, the last ones of the second four of them elsewhere.
            let (a, m, h) = (load(b, ROWS * 4), load(b, ROWS * 8), load(b, ROWS * 12));
            let six = vdupq_n_u8(0x3f);
            let upper = |v| vshlq_n_u8::<4>(vshrq_n_u8::<6>(v));
            let none = vdupq_n_u8(0);
            let scale = vorrq_u8(vandq_u8(h, vdupq_n_u8(0x0f)), upper(a));
            let offset = vorrq_u8(vshrq_n_u8::<4>(h), upper(m));
            Header256 {
                d: halves(b, 0),
                c: vnegq_f32(halves(b, ROWS * 2)),
                scales: [vandq_u8(a, six), scale, none, none],
                offsets: [vandq_u8(m, six), offset, none, none],
            }
        }
        Values256::SixBits => {
            let four = |i: usize| load(b, ROWS * (SCALES + 4 * i));
            let (scales, d) = ([four(0), four(1), four(2), four(3)], halves(b, 0));
            Header256 { d, c: vmulq_n_f32(d, -32.0), scales, offsets: scales }
        }
    }
}

/// The values u of weights `32E + 4i … 32E + 4i + 3`.
#[target_feature(enable = "neon")]
#[inline]
fn vector256<F: Format256, const E: usize>(b: &[u8], i: usize) -> int8x16_t {
    let v = match F::VALUES {
        Values256::Nibbles { fifth: more } => {
            let low = nibble(load(b, ROWS * nibbles(more, E / 2, i)), E % 2);
            if !more {
                return vreinterpretq_s8_u8(low);
            }
            vorrq_u8(low, bit_as_sixteen(load(b, ROWS * fifth(i)), E))
        }
        Values256::SixBits => {
            // Of each 128 weights, the first 64 have the low nibbles, the last 64 the high ones.
            let (half, quarter) = (E / 4, E % 4);
            let low = nibble(load(b, ROWS * low(half, quarter % 2, i)), quarter / 2);
            let high = load(b, ROWS * high(half, i));
            let high = shifted(high, 4 - 2 * quarter as isize);
            vorrq_u8(low, vandq_u8(high, vdupq_n_u8(0x30)))
        }
    };
    vreinterpretq_s8_u8(v)
}

/// Byte `i` of each lane as a number.
#[target_feature(enable = "neon")]
#[inline]
fn byte(bytes: uint8x16_t, i: usize, signed: bool) -> int32x4_t {
    // To the top, and down again with its sign or without.
    let v = vreinterpretq_s32_u8(bytes);
    let top = vshlq_s32(v, vdupq_n_s32(24 - 8 * i as i32));
    if signed {
        vshrq_n_s32::<24>(top)
    } else {
        vreinterpretq_s32_u32(vshrq_n_u32::<24>(vreinterpretq_u32_s32(top)))
    }
}

/// Adds the products of eight offsets of each row and the sums of their activations.
#[target_feature(enable = "neon")]
#[inline]
fn add_offsets(mut sum: int32x4_t, offsets: &[int16x4_t; 8], sums: &[i16; 8]) -> int32x4_t {
    // SAFETY: a fixed array of eight (2).
    let sums = unsafe { vld1q_s16(sums.as_ptr()) };
    macro_rules! add {
        ($($i:literal),*) => { $(sum = vmlal_laneq_s16::<$i>(sum, offsets[$i], sums);)* };
    }
    add!(0, 1, 2, 3, 4, 5, 6, 7);
    sum
}

/// The low (0) or the high (1) nibble of each byte.
#[target_feature(enable = "neon")]
#[inline]
fn nibble(v: uint8x16_t, high: usize) -> uint8x16_t {
    vandq_u8(shifted(v, -4 * high as isize), vdupq_n_u8(15))
}

/// Bit `i` of each byte, moved to bit 4.
#[target_feature(enable = "neon")]
#[inline]
fn bit_as_sixteen(v: uint8x16_t, i: usize) -> uint8x16_t {
    vandq_u8(shifted(v, 4 - i as isize), vdupq_n_u8(16))
}

/// Each byte shifted, to the left when positive; by a register, so that loops need no branches.
#[target_feature(enable = "neon")]
#[inline]
fn shifted(v: uint8x16_t, by: isize) -> uint8x16_t {
    vshlq_u8(v, vdupq_n_s8(by as i8))
}

// ---- blocks of 32 ----

/// The values u (signed when `SIGNED`) of weights `4i … 4i + 3`.
#[target_feature(enable = "neon")]
#[inline]
fn vector32<F: Format32>(b: &[u8], i: usize) -> int8x16_t {
    vreinterpretq_s8_u8(match F::VALUES {
        Values32::Bytes(at) => load(b, ROWS * at + 16 * i),
        Values32::Nibbles(at, None) => nibble(load(b, ROWS * at + i % 4 * 16), i / 4),
        Values32::Nibbles(at, Some(fifth)) => {
            let low = nibble(load(b, ROWS * at + i % 4 * 16), i / 4);
            vorrq_u8(low, bit_as_sixteen(load(b, ROWS * fifth), i))
        }
    })
}

#[target_feature(enable = "neon")]
fn rows32<F: Format32, const DOT: bool, const M: usize>(
    weights: &[u8],
    x: &By32,
    cols: usize,
    first: usize,
    out: &mut [[f32; ROWS]; M],
) {
    let blocks = cols / 32;
    let q: [&[[[i8; 16]; 2]]; M] = of_rows(x.q.as_chunks().0.as_chunks().0, first, blocks);
    let scale: [&[f32]; M] = of_rows(&x.scale, first, blocks);
    let sums: [&[i32]; M] = of_rows(&x.sums, first, blocks);
    let mut sum = [vdupq_n_f32(0.0); M];
    for (b, bytes) in weights.chunks_exact(ROWS * F::BYTES).enumerate() {
        // Its length is known to the compiler: loads at fixed places need no checks.
        let bytes = &bytes[..ROWS * F::BYTES];
        let q: [&[[i8; 16]; 2]; M] = at(q, b);
        let mut dot = [vdupq_n_s32(0); M];
        for sixteen in 0..2 {
            let mut w = [vdupq_n_s8(0); 4];
            for i in 0..4 {
                w[i] = vector32::<F>(bytes, 4 * sixteen + i);
            }
            for m in 0..M {
                dot[m] = dot_sixteen::<DOT>(dot[m], w, &q[m][sixteen]);
            }
        }
        let d = halves(bytes, 0);
        let minimum = match F::MINIMUM {
            Minimum::Scales(n) => vmulq_n_f32(d, n),
            Minimum::At(at) => halves(bytes, ROWS * at),
            Minimum::Zero => vdupq_n_f32(0.0),
        };
        for m in 0..M {
            let mut block = vmulq_f32(d, vcvtq_f32_s32(dot[m]));
            if !F::SIGNED {
                block = vaddq_f32(block, vmulq_n_f32(minimum, sums[m][b] as f32));
            }
            sum[m] = vaddq_f32(sum[m], vmulq_n_f32(block, scale[m][b]));
        }
    }
    for m in 0..M {
        // SAFETY: a fixed array of four (2).
        unsafe { vst1q_f32(out[m].as_mut_ptr(), sum[m]) };
    }
}

// ---- products ----

/// Adds the products of sixteen weights of each row and sixteen activations.
#[target_feature(enable = "neon")]
#[inline]
fn dot_sixteen<const DOT: bool>(sum: int32x4_t, w: [int8x16_t; 4], q: &[i8; 16]) -> int32x4_t {
    // SAFETY: a fixed array of sixteen (2).
    let q = unsafe { vld1q_s8(q.as_ptr()) };
    let sum = dot_four::<DOT, 1>(dot_four::<DOT, 0>(sum, w[0], q), w[1], q);
    dot_four::<DOT, 3>(dot_four::<DOT, 2>(sum, w[2], q), w[3], q)
}

/// Adds the products of four weights of each row and activations `4 · FOUR … 4 · FOUR + 3` of `q`.
#[target_feature(enable = "neon")]
#[inline]
fn dot_four<const DOT: bool, const FOUR: i32>(
    mut sum: int32x4_t,
    w: int8x16_t,
    q: int8x16_t,
) -> int32x4_t {
    if DOT {
        // SAFETY: the machine has it (1); it works on registers alone (3).
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sum:v}.4s, {w:v}.16b, {q:v}.4b[{four}]",
                sum = inout(vreg) sum,
                w = in(vreg) w,
                q = in(vreg) q,
                four = const FOUR,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    } else {
        let q = vreinterpretq_s8_s32(vdupq_laneq_s32::<FOUR>(vreinterpretq_s32_s8(q)));
        let low = vmull_s8(vget_low_s8(w), vget_low_s8(q));
        let high = vmull_high_s8(w, q);
        vpadalq_s16(sum, vpaddq_s16(low, high))
    }
}

// ---- loads ----

#[target_feature(enable = "neon")]
#[inline]
fn load(b: &[u8], at: usize) -> uint8x16_t {
    let b: &[u8; 16] = b[at..at + 16].try_into().expect("16 bytes");
    // SAFETY: a fixed array of 16 bytes (2).
    unsafe { vld1q_u8(b.as_ptr()) }
}

/// Four 16-bit floats.
#[target_feature(enable = "neon")]
#[inline]
fn halves(b: &[u8], at: usize) -> float32x4_t {
    let b: &[u8; 8] = b[at..at + 8].try_into().expect("8 bytes");
    // SAFETY: a fixed array of 8 bytes (2).
    floats(vreinterpret_u16_u8(unsafe { vld1_u8(b.as_ptr()) }))
}

/// Four 16-bit floats as 32-bit ones.
#[target_feature(enable = "neon")]
#[inline]
pub(crate) fn floats(halves: uint16x4_t) -> float32x4_t {
    let floats;
    // SAFETY: part of NEON; it works on registers alone (3).
    unsafe {
        asm!(
            "fcvtl {floats:v}.4s, {halves:v}.4h",
            floats = lateout(vreg) floats,
            halves = in(vreg) halves,
            options(pure, nomem, nostack),
        );
    }
    floats
}
