//! The kernels with AVX2, FMA and F16C, for [packed](crate::packed) weights.
//!
//! **Why `unsafe` is here and sound.** (1) Functions with `#[target_feature]` may only run on a
//! machine that has the features: the only way in is [`tile`], which is called for `Level::Avx2`, which
//! exists only after detection. (2) Loads through pointers: every pointer comes from a fixed-size
//! array, made from a slice whose length is checked on the spot.
//!
//! A register holds four neighbouring weights of each of eight rows. It is unpacked once and costs,
//! for each row of activations, one `maddubs` (u8 × i8 → i16 pairs) with four activations in all
//! lanes and one 16-bit add; after [`run256`] of them one `madd` applies the scales and
//! moves the sums to 32 bits. No sum saturates: activations are at most 127, so a pair of weights up
//! to 15 gives at most 3,810 (a run of 8: 30,480), up to 31 7,874 (4: 31,496), up to 63 16,002 (2:
//! 32,004), and 8-bit weights, which use |w| ≤ 128, 32,512.
//!
//! A lane's sum over a block is a whole number, the same in any order; only the blocks are added as
//! floats, one after the other for each row of activations alone. That makes the kernels
//! batch-invariant.
#![allow(unsafe_code)]

use crate::formats::{
    Format32, Format256, Minimum, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Values32, Values256,
    at, eighths, of_rows,
};
use crate::packed::{SCALES, fifth, high, low, nibbles};
use crate::product::{PREFETCH, prefetch};
use crate::quantise::{By32, By256};
use crate::{Activations, Kind};
use std::arch::x86_64::*;

/// Rows of weights in a group.
pub(crate) const ROWS: usize = 8;

/// A group of eight rows of weights times `out.len() / 8` rows of activations from `first` on (at
/// most 8); `out` is `activations × 8`.
pub(crate) fn tile(kind: Kind, weights: &[u8], x: &Activations, first: usize, out: &mut [f32]) {
    // The number of rows must be known to the compiler, so that accumulators stay in registers.
    macro_rules! tile {
        ($($m:literal),*) => {
            match out.as_chunks_mut().0 {
                $(out if out.len() == $m => {
                    let out: &mut [[f32; ROWS]; $m] = out.try_into().expect("its length");
                    // SAFETY: `Level::Avx2` was detected (1).
                    unsafe { rows::<$m>(kind, weights, x, first, out) }
                })*
                out => unreachable!("a tile of {} rows", out.len()),
            }
        };
    }
    tile!(1, 2, 3, 4, 5, 6, 7, 8);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows<const M: usize>(
    kind: Kind,
    weights: &[u8],
    x: &Activations,
    first: usize,
    out: &mut [[f32; ROWS]; M],
) {
    let cols = x.cols();
    match kind {
        Kind::Q4_0 => rows32::<Q4_0, M>(weights, x.by32(), cols, first, out),
        Kind::Q4_1 => rows32::<Q4_1, M>(weights, x.by32(), cols, first, out),
        Kind::Q5_0 => rows32::<Q5_0, M>(weights, x.by32(), cols, first, out),
        Kind::Q5_1 => rows32::<Q5_1, M>(weights, x.by32(), cols, first, out),
        Kind::Q8_0 => rows32::<Q8_0, M>(weights, x.by32(), cols, first, out),
        Kind::Q4K => rows256::<Q4K, M>(weights, x.by256(), cols, first, out),
        Kind::Q5K => rows256::<Q5K, M>(weights, x.by256(), cols, first, out),
        Kind::Q6K => rows256::<Q6K, M>(weights, x.by256(), cols, first, out),
    }
}

// ---- blocks of 256 ----

/// weight_i = d · scale · u_i + c · offset, with a scale and an offset for each sixteen or 32.
struct Header256 {
    d: __m256,
    c: __m256,
    /// Scales of four sixteens (or 32s) of a row in the bytes of a lane.
    scales: [__m256i; 4],
    offsets: [__m256i; 4],
}

/// Registers of a format whose products can be added in 16 bits.
const fn run256<F: Format256>() -> usize {
    match F::VALUES {
        Values256::Nibbles { fifth: false } => 8,
        Values256::Nibbles { fifth: true } => 4,
        Values256::SixBits => 2,
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows256<F: Format256, const M: usize>(
    weights: &[u8],
    x: &By256,
    cols: usize,
    first: usize,
    out: &mut [[f32; ROWS]; M],
) {
    let blocks = cols / 256;
    // Whole blocks as arrays: one bounds check for each, and constant offsets inside.
    let q: [&[[[i8; 4]; 64]]; M] = of_rows(x.q.as_chunks().0.as_chunks().0, first, blocks);
    let scale: [&[f32]; M] = of_rows(&x.scale, first, blocks);
    // Neighbouring sums: of two sixteens, or of two 32s.
    let sums = if F::SHARE == 16 { &x.sums16 } else { &x.sums32 };
    let pairs = 128 / F::SHARE;
    let sums: [&[[i16; 2]]; M] = of_rows(sums.as_chunks().0, first, blocks * pairs);
    let ahead = *PREFETCH;
    let mut sum = [_mm256_setzero_ps(); M];
    for (b, bytes) in weights.chunks_exact(ROWS * F::BYTES).enumerate() {
        // Its length is known to the compiler: loads at fixed places need no checks.
        let bytes = &bytes[..ROWS * F::BYTES];
        if ahead {
            prefetch::<2048>(bytes);
        }
        let h = header::<F>(bytes);
        let mut dot = [_mm256_setzero_si256(); M];
        let q: [&[[i8; 4]; 64]; M] = at(q, b);
        eighths!(E => {
            share256::<F, M, E, 0>(bytes, &h, q, &mut dot);
            if F::SHARE == 16 {
                share256::<F, M, E, 1>(bytes, &h, q, &mut dot);
            }
        });
        let mut offset = [_mm256_setzero_si256(); M];
        for pair in 0..pairs {
            let offsets = self::pair::<F>(h.offsets[pair / 2], 2 * pair, 2 * pair + 1);
            for m in 0..M {
                let both = pair_everywhere(sums[m][b * pairs + pair]);
                offset[m] = _mm256_add_epi32(offset[m], _mm256_madd_epi16(both, offsets));
            }
        }
        for m in 0..M {
            let product = _mm256_mul_ps(h.c, _mm256_cvtepi32_ps(offset[m]));
            let product = _mm256_fmadd_ps(h.d, _mm256_cvtepi32_ps(dot[m]), product);
            sum[m] = _mm256_fmadd_ps(_mm256_set1_ps(scale[m][b]), product, sum[m]);
        }
    }
    for m in 0..M {
        store(&mut out[m], sum[m]);
    }
}

/// Adds the products of share `S` of eighth `E` of a block, times its scale.
#[target_feature(enable = "avx2")]
#[inline]
fn share256<F: Format256, const M: usize, const E: usize, const S: usize>(
    bytes: &[u8],
    h: &Header256,
    q: [&[[i8; 4]; 64]; M],
    dot: &mut [__m256i; M],
) {
    let share = const { E * 32 / F::SHARE + S };
    let scales = pair::<F>(h.scales[share / 4], share, share);
    for run in 0..F::SHARE / (4 * run256::<F>()) {
        let mut products = [_mm256_setzero_si256(); M];
        for i in 0..run256::<F>() {
            let i = S * F::SHARE / 4 + run * run256::<F>() + i;
            let w = vector256::<F, E>(bytes, i);
            for m in 0..M {
                let product = _mm256_maddubs_epi16(w, everywhere(q[m][8 * E + i]));
                products[m] = _mm256_add_epi16(products[m], product);
            }
        }
        for m in 0..M {
            dot[m] = _mm256_add_epi32(dot[m], _mm256_madd_epi16(products[m], scales));
        }
    }
}

/// Scales and offsets of a group.
#[target_feature(enable = "avx2,f16c")]
#[inline]
fn header<F: Format256>(b: &[u8]) -> Header256 {
    match F::VALUES {
        Values256::Nibbles { .. } => {
            // Six bits each, the last ones of the second four of them elsewhere.
            let (a, m, h) = (load(b, ROWS * 4), load(b, ROWS * 8), load(b, ROWS * 12));
            let six = _mm256_set1_epi32(0x3f3f_3f3f);
            let four = _mm256_set1_epi32(0x0f0f_0f0f);
            let two = _mm256_set1_epi32(0x0303_0303);
            let upper =
                |v| _mm256_slli_epi32::<4>(_mm256_and_si256(_mm256_srli_epi32::<6>(v), two));
            let rest = _mm256_and_si256(_mm256_srli_epi32::<4>(h), four);
            let none = _mm256_setzero_si256();
            let scale = _mm256_or_si256(_mm256_and_si256(h, four), upper(a));
            let offset = _mm256_or_si256(rest, upper(m));
            Header256 {
                d: halves(b, 0),
                c: _mm256_sub_ps(_mm256_setzero_ps(), halves(b, ROWS * 2)),
                scales: [_mm256_and_si256(a, six), scale, none, none],
                offsets: [_mm256_and_si256(m, six), offset, none, none],
            }
        }
        Values256::SixBits => {
            let four = |i: usize| load(b, ROWS * (SCALES + 4 * i));
            let (scales, d) = ([four(0), four(1), four(2), four(3)], halves(b, 0));
            Header256 { d, c: _mm256_mul_ps(_mm256_set1_ps(-32.0), d), scales, offsets: scales }
        }
    }
}

/// The values u of weights `32E + 4i … 32E + 4i + 3`.
#[target_feature(enable = "avx2")]
#[inline]
fn vector256<F: Format256, const E: usize>(b: &[u8], i: usize) -> __m256i {
    match F::VALUES {
        Values256::Nibbles { fifth: more } => {
            let low = nibble(load(b, ROWS * nibbles(more, E / 2, i)), E % 2);
            if !more {
                return low;
            }
            _mm256_or_si256(low, bit_as_sixteen(load(b, ROWS * fifth(i)), E))
        }
        Values256::SixBits => {
            // Of each 128 weights, the first 64 have the low nibbles, the last 64 the high ones.
            let (half, quarter) = (E / 4, E % 4);
            let low = nibble(load(b, ROWS * low(half, quarter % 2, i)), quarter / 2);
            let high = load(b, ROWS * high(half, i));
            let high = match quarter {
                0 => _mm256_slli_epi16::<4>(high),
                1 => _mm256_slli_epi16::<2>(high),
                2 => high,
                _ => _mm256_srli_epi16::<2>(high),
            };
            _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(0x30)))
        }
    }
}

/// Byte `i % 4` and byte `j % 4` of each lane, as a pair of 16-bit numbers.
#[target_feature(enable = "avx2")]
#[inline]
fn pair<F: Format256>(bytes: __m256i, i: usize, j: usize) -> __m256i {
    let pair = unsigned_pair(bytes, i, j);
    // A sign is moved into the upper byte, and down again with the number.
    if F::SIGNED { _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(pair)) } else { pair }
}

/// Two bytes of each lane, 0 to 127, as 16-bit numbers.
#[target_feature(enable = "avx2")]
#[inline]
fn unsigned_pair(bytes: __m256i, i: usize, j: usize) -> __m256i {
    let first = 0x8000_8000_u32 as i32 | (i % 4) as i32 | ((j % 4) as i32) << 16;
    let lanes = _mm256_setr_epi32(
        0,
        0x0004_0004,
        0x0008_0008,
        0x000c_000c,
        0,
        0x0004_0004,
        0x0008_0008,
        0x000c_000c,
    );
    _mm256_shuffle_epi8(bytes, _mm256_add_epi32(_mm256_set1_epi32(first), lanes))
}

/// The low (0) or the high (1) nibble of each byte.
#[target_feature(enable = "avx2")]
#[inline]
fn nibble(v: __m256i, high: usize) -> __m256i {
    let v = if high == 0 { v } else { _mm256_srli_epi16::<4>(v) };
    _mm256_and_si256(v, _mm256_set1_epi8(15))
}

/// Bit `i` of each byte, moved to bit 4.
#[target_feature(enable = "avx2")]
#[inline]
fn bit_as_sixteen(v: __m256i, i: usize) -> __m256i {
    let v = match i {
        0 => _mm256_slli_epi16::<4>(v),
        1 => _mm256_slli_epi16::<3>(v),
        2 => _mm256_slli_epi16::<2>(v),
        3 => _mm256_slli_epi16::<1>(v),
        4 => v,
        5 => _mm256_srli_epi16::<1>(v),
        6 => _mm256_srli_epi16::<2>(v),
        _ => _mm256_srli_epi16::<3>(v),
    };
    _mm256_and_si256(v, _mm256_set1_epi8(16))
}

// ---- blocks of 32 ----

/// As [`run256`].
const fn run32<F: Format32>() -> usize {
    match F::VALUES {
        Values32::Nibbles(_, None) => 8,
        Values32::Nibbles(_, Some(_)) => 4,
        Values32::Bytes(_) => 1,
    }
}

/// The values u (signed when `SIGNED`) of weights `4i … 4i + 3`.
#[target_feature(enable = "avx2")]
#[inline]
fn vector32<F: Format32>(b: &[u8], i: usize) -> __m256i {
    match F::VALUES {
        Values32::Bytes(at) => load(b, ROWS * at + 32 * i),
        Values32::Nibbles(at, None) => nibble(load(b, ROWS * at + i % 4 * 32), i / 4),
        Values32::Nibbles(at, Some(fifth)) => {
            let low = nibble(load(b, ROWS * at + i % 4 * 32), i / 4);
            _mm256_or_si256(low, bit_as_sixteen(load(b, ROWS * fifth), i))
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows32<F: Format32, const M: usize>(
    weights: &[u8],
    x: &By32,
    cols: usize,
    first: usize,
    out: &mut [[f32; ROWS]; M],
) {
    let blocks = cols / 32;
    let q: [&[[[i8; 4]; 8]]; M] = of_rows(x.q.as_chunks().0.as_chunks().0, first, blocks);
    let scale: [&[f32]; M] = of_rows(&x.scale, first, blocks);
    let sums: [&[i32]; M] = of_rows(&x.sums, first, blocks);
    let ones = _mm256_set1_epi16(1);
    let ahead = *PREFETCH;
    let mut sum = [_mm256_setzero_ps(); M];
    for (b, bytes) in weights.chunks_exact(ROWS * F::BYTES).enumerate() {
        // Its length is known to the compiler: loads at fixed places need no checks.
        let bytes = &bytes[..ROWS * F::BYTES];
        if ahead {
            prefetch::<2048>(bytes);
        }
        let mut dot = [_mm256_setzero_si256(); M];
        let q: [&[[i8; 4]; 8]; M] = at(q, b);
        let mut products = [_mm256_setzero_si256(); M];
        eighths!(E => {
            let w = vector32::<F>(bytes, E);
            let magnitude = if F::SIGNED { _mm256_abs_epi8(w) } else { w };
            for m in 0..M {
                let mut q = everywhere(q[m][E]);
                if F::SIGNED {
                    q = _mm256_sign_epi8(q, w);
                }
                let product = _mm256_maddubs_epi16(magnitude, q);
                products[m] = _mm256_add_epi16(products[m], product);
            }
            if (E + 1).is_multiple_of(run32::<F>()) {
                for m in 0..M {
                    let product = _mm256_madd_epi16(products[m], ones);
                    dot[m] = _mm256_add_epi32(dot[m], product);
                    products[m] = _mm256_setzero_si256();
                }
            }
        });
        let d = halves(bytes, 0);
        let minimum = match F::MINIMUM {
            Minimum::Scales(n) => _mm256_mul_ps(_mm256_set1_ps(n), d),
            Minimum::At(at) => halves(bytes, ROWS * at),
            Minimum::Zero => _mm256_setzero_ps(),
        };
        for m in 0..M {
            let mut product = _mm256_mul_ps(d, _mm256_cvtepi32_ps(dot[m]));
            if !F::SIGNED {
                let all = _mm256_set1_ps(sums[m][b] as f32);
                product = _mm256_fmadd_ps(minimum, all, product);
            }
            sum[m] = _mm256_fmadd_ps(_mm256_set1_ps(scale[m][b]), product, sum[m]);
        }
    }
    for m in 0..M {
        store(&mut out[m], sum[m]);
    }
}

// ---- loads and stores ----

#[target_feature(enable = "avx2")]
#[inline]
fn load(b: &[u8], at: usize) -> __m256i {
    let b: &[u8; 32] = b[at..at + 32].try_into().expect("32 bytes");
    // SAFETY: a fixed array of 32 bytes.
    unsafe { _mm256_loadu_si256(b.as_ptr().cast()) }
}

/// Eight 16-bit floats.
#[target_feature(enable = "avx2,f16c")]
#[inline]
fn halves(b: &[u8], at: usize) -> __m256 {
    let b: &[u8; 16] = b[at..at + 16].try_into().expect("16 bytes");
    // SAFETY: a fixed array of 16 bytes.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(b.as_ptr().cast()) })
}

/// Four activations in every lane.
#[target_feature(enable = "avx2")]
#[inline]
fn everywhere(q: [i8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(q.map(|q| q as u8)))
}

/// Two 16-bit numbers in every lane.
#[target_feature(enable = "avx2")]
#[inline]
fn pair_everywhere(pair: [i16; 2]) -> __m256i {
    // SAFETY: a fixed array of four bytes.
    let bits = unsafe { pair.as_ptr().cast::<i32>().read_unaligned() };
    _mm256_set1_epi32(bits)
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(out: &mut [f32; ROWS], v: __m256) {
    // SAFETY: a fixed array of eight.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
}
