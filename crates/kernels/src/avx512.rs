//! The kernels with AVX-512 and its 8-bit dot products (VNNI), for [packed](crate::packed) weights.
//!
//! **Why `unsafe` is here and sound.** (1) Functions with `#[target_feature]` may only run on a
//! machine that has the features: the only way in is [`tile`], which is called for `Level::Avx512`,
//! which exists only after detection. (2) Loads through pointers: every pointer comes from a
//! fixed-size array, made from a slice whose length is checked on the spot.
//!
//! A register holds four neighbouring weights of each of sixteen rows, unpacked once. Each row of
//! activations then costs one `vpdpbusd`: four products (u8 × i8) are added to a 32-bit sum, which
//! cannot overflow (255 · 127 · 32 is 20 bits). A share's whole-number sum is the same in any order;
//! shares and blocks are added as floats, one after the other for each row of activations alone. That
//! makes the kernels batch-invariant.
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
pub(crate) const ROWS: usize = 16;

/// A group of sixteen rows of weights times `out.len() / 16` rows of activations from `first` on (at
/// most 8); `out` is `activations × 16`.
pub(crate) fn tile(kind: Kind, weights: &[u8], x: &Activations, first: usize, out: &mut [f32]) {
    // The number of rows must be known to the compiler, so that accumulators stay in registers.
    macro_rules! tile {
        ($($m:literal),*) => {
            match out.as_chunks_mut().0 {
                $(out if out.len() == $m => {
                    let out: &mut [[f32; ROWS]; $m] = out.try_into().expect("its length");
                    // SAFETY: `Level::Avx512` was detected (1).
                    unsafe { rows::<$m>(kind, weights, x, first, out) }
                })*
                out => unreachable!("a tile of {} rows", out.len()),
            }
        };
    }
    tile!(1, 2, 3, 4, 5, 6, 7, 8);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
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

/// weight = d · scale · u + c · offset, with a scale and an offset for each sixteen or 32.
struct Header256 {
    d: __m512,
    c: __m512,
    /// Scales of four sixteens (or 32s) of a row in the bytes of a lane.
    scales: [__m512i; 4],
    offsets: [__m512i; 4],
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
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
    let mut sum = [_mm512_setzero_ps(); M];
    for (b, bytes) in weights.chunks_exact(ROWS * F::BYTES).enumerate() {
        // Its length is known to the compiler: loads at fixed places need no checks.
        let bytes = &bytes[..ROWS * F::BYTES];
        if ahead {
            prefetch::<4096>(bytes);
        }
        let h = header::<F>(bytes);
        let q: [&[[i8; 4]; 64]; M] = at(q, b);
        let mut block = [_mm512_setzero_ps(); M];
        eighths!(E => {
            share256::<F, M, E, 0>(bytes, &h, q, &mut block);
            if F::SHARE == 16 {
                share256::<F, M, E, 1>(bytes, &h, q, &mut block);
            }
        });
        let mut offset = [_mm512_setzero_si512(); M];
        for pair in 0..pairs {
            let offsets = byte_pair(h.offsets[pair / 2], 2 * pair % 4, F::SIGNED);
            for m in 0..M {
                let both = pair_everywhere(sums[m][b * pairs + pair]);
                offset[m] = _mm512_dpwssd_epi32(offset[m], both, offsets);
            }
        }
        for m in 0..M {
            let block = _mm512_fmadd_ps(h.c, _mm512_cvtepi32_ps(offset[m]), block[m]);
            sum[m] = _mm512_fmadd_ps(_mm512_set1_ps(scale[m][b]), block, sum[m]);
        }
    }
    for m in 0..M {
        store(&mut out[m], sum[m]);
    }
}

/// Adds the products of share `S` of eighth `E` of a block.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn share256<F: Format256, const M: usize, const E: usize, const S: usize>(
    bytes: &[u8],
    h: &Header256,
    q: [&[[i8; 4]; 64]; M],
    block: &mut [__m512; M],
) {
    let mut dot = [_mm512_setzero_si512(); M];
    for i in 0..F::SHARE / 4 {
        let i = S * F::SHARE / 4 + i;
        let w = vector256::<F, E>(bytes, i);
        for m in 0..M {
            dot[m] = _mm512_dpbusd_epi32(dot[m], w, everywhere(q[m][8 * E + i]));
        }
    }
    let share = const { E * 32 / F::SHARE + S };
    let scale = byte(h.scales[share / 4], share % 4, F::SIGNED);
    let scale = _mm512_mul_ps(h.d, _mm512_cvtepi32_ps(scale));
    for m in 0..M {
        block[m] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot[m]), block[m]);
    }
}

/// Byte `i` of each lane as a number.
#[target_feature(enable = "avx512f")]
#[inline]
fn byte(bytes: __m512i, i: usize, signed: bool) -> __m512i {
    let top = match i {
        0 => _mm512_slli_epi32::<24>(bytes),
        1 => _mm512_slli_epi32::<16>(bytes),
        2 => _mm512_slli_epi32::<8>(bytes),
        _ => bytes,
    };
    if signed { _mm512_srai_epi32::<24>(top) } else { _mm512_srli_epi32::<24>(top) }
}

/// Bytes `i` and `i + 1` of each lane as 16-bit numbers; `i` is 0 or 2.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn byte_pair(bytes: __m512i, i: usize, signed: bool) -> __m512i {
    // Each byte in the upper half of its 16 bits, and down again with its sign or without.
    let first = 0x0180_0080_u32 as i32 + i as i32 * 0x0100_0100;
    let lanes = _mm_setr_epi32(0, 0x0400_0400, 0x0800_0800, 0x0c00_0c00);
    let places = _mm_add_epi32(_mm_set1_epi32(first), lanes);
    let up = _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(places));
    if signed { _mm512_srai_epi16::<8>(up) } else { _mm512_srli_epi16::<8>(up) }
}

/// Scales and offsets of a group.
#[target_feature(enable = "avx512f")]
#[inline]
fn header<F: Format256>(b: &[u8]) -> Header256 {
    match F::VALUES {
        Values256::Nibbles { .. } => {
            // Six bits each, the last ones of the second four of them elsewhere.
            let (a, m, h) = (load(b, ROWS * 4), load(b, ROWS * 8), load(b, ROWS * 12));
            let six = _mm512_set1_epi32(0x3f3f_3f3f);
            let four = _mm512_set1_epi32(0x0f0f_0f0f);
            let two = _mm512_set1_epi32(0x0303_0303);
            let upper =
                |v| _mm512_slli_epi32::<4>(_mm512_and_si512(_mm512_srli_epi32::<6>(v), two));
            let rest = _mm512_and_si512(_mm512_srli_epi32::<4>(h), four);
            let none = _mm512_setzero_si512();
            let scale = _mm512_or_si512(_mm512_and_si512(h, four), upper(a));
            let offset = _mm512_or_si512(rest, upper(m));
            Header256 {
                d: halves(b, 0),
                c: _mm512_sub_ps(_mm512_setzero_ps(), halves(b, ROWS * 2)),
                scales: [_mm512_and_si512(a, six), scale, none, none],
                offsets: [_mm512_and_si512(m, six), offset, none, none],
            }
        }
        Values256::SixBits => {
            let four = |i: usize| load(b, ROWS * (SCALES + 4 * i));
            let (scales, d) = ([four(0), four(1), four(2), four(3)], halves(b, 0));
            Header256 { d, c: _mm512_mul_ps(_mm512_set1_ps(-32.0), d), scales, offsets: scales }
        }
    }
}

/// The values u of weights `32E + 4i … 32E + 4i + 3`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn vector256<F: Format256, const E: usize>(b: &[u8], i: usize) -> __m512i {
    match F::VALUES {
        Values256::Nibbles { fifth: more } => {
            let low = nibble(load(b, ROWS * nibbles(more, E / 2, i)), E % 2);
            if !more {
                return low;
            }
            _mm512_or_si512(low, bit_as_sixteen(load(b, ROWS * fifth(i)), E))
        }
        Values256::SixBits => {
            // Of each 128 weights, the first 64 have the low nibbles, the last 64 the high ones.
            let (half, quarter) = (E / 4, E % 4);
            let low = nibble(load(b, ROWS * low(half, quarter % 2, i)), quarter / 2);
            let high = load(b, ROWS * high(half, i));
            let high = match quarter {
                0 => _mm512_slli_epi16::<4>(high),
                1 => _mm512_slli_epi16::<2>(high),
                2 => high,
                _ => _mm512_srli_epi16::<2>(high),
            };
            _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(0x30)))
        }
    }
}

/// The low (0) or the high (1) nibble of each byte.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn nibble(v: __m512i, high: usize) -> __m512i {
    let v = if high == 0 { v } else { _mm512_srli_epi16::<4>(v) };
    _mm512_and_si512(v, _mm512_set1_epi8(15))
}

/// Bit `i` of each byte, moved to bit 4.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn bit_as_sixteen(v: __m512i, i: usize) -> __m512i {
    let v = match i {
        0 => _mm512_slli_epi16::<4>(v),
        1 => _mm512_slli_epi16::<3>(v),
        2 => _mm512_slli_epi16::<2>(v),
        3 => _mm512_slli_epi16::<1>(v),
        4 => v,
        5 => _mm512_srli_epi16::<1>(v),
        6 => _mm512_srli_epi16::<2>(v),
        _ => _mm512_srli_epi16::<3>(v),
    };
    _mm512_and_si512(v, _mm512_set1_epi8(16))
}

// ---- blocks of 32 ----

/// The values u of weights `4i … 4i + 3`; signed bytes as u = w + 128.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn vector32<F: Format32>(b: &[u8], i: usize) -> __m512i {
    match F::VALUES {
        Values32::Bytes(at) => {
            _mm512_xor_si512(load(b, ROWS * at + 64 * i), _mm512_set1_epi8(-128))
        }
        Values32::Nibbles(at, None) => nibble(load(b, ROWS * at + i % 4 * 64), i / 4),
        Values32::Nibbles(at, Some(fifth)) => {
            let low = nibble(load(b, ROWS * at + i % 4 * 64), i / 4);
            _mm512_or_si512(low, bit_as_sixteen(load(b, ROWS * fifth), i))
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
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
    let ahead = *PREFETCH;
    let mut sum = [_mm512_setzero_ps(); M];
    for (b, bytes) in weights.chunks_exact(ROWS * F::BYTES).enumerate() {
        // Its length is known to the compiler: loads at fixed places need no checks.
        let bytes = &bytes[..ROWS * F::BYTES];
        if ahead {
            prefetch::<4096>(bytes);
        }
        let mut dot = [_mm512_setzero_si512(); M];
        if F::SIGNED {
            // The −128 scales are whole numbers, and taken from the products.
            for m in 0..M {
                dot[m] = _mm512_set1_epi32(-128 * sums[m][b]);
            }
        }
        let q: [&[[i8; 4]; 8]; M] = at(q, b);
        eighths!(E => {
            let w = vector32::<F>(bytes, E);
            for m in 0..M {
                dot[m] = _mm512_dpbusd_epi32(dot[m], w, everywhere(q[m][E]));
            }
        });
        let d = halves(bytes, 0);
        let minimum = match F::MINIMUM {
            Minimum::Scales(n) => _mm512_mul_ps(_mm512_set1_ps(n), d),
            Minimum::At(at) => halves(bytes, ROWS * at),
            Minimum::Zero => _mm512_setzero_ps(),
        };
        for m in 0..M {
            let mut product = _mm512_mul_ps(d, _mm512_cvtepi32_ps(dot[m]));
            if !F::SIGNED {
                let all = _mm512_set1_ps(sums[m][b] as f32);
                product = _mm512_fmadd_ps(minimum, all, product);
            }
            sum[m] = _mm512_fmadd_ps(_mm512_set1_ps(scale[m][b]), product, sum[m]);
        }
    }
    for m in 0..M {
        store(&mut out[m], sum[m]);
    }
}

// ---- loads and stores ----

#[target_feature(enable = "avx512f")]
#[inline]
fn load(b: &[u8], at: usize) -> __m512i {
    let b: &[u8; 64] = b[at..at + 64].try_into().expect("64 bytes");
    // SAFETY: a fixed array of 64 bytes.
    unsafe { _mm512_loadu_si512(b.as_ptr().cast()) }
}

/// Sixteen 16-bit floats.
#[target_feature(enable = "avx512f")]
#[inline]
fn halves(b: &[u8], at: usize) -> __m512 {
    let b: &[u8; 32] = b[at..at + 32].try_into().expect("32 bytes");
    // SAFETY: a fixed array of 32 bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(b.as_ptr().cast()) })
}

/// Four activations in every lane.
#[target_feature(enable = "avx512f")]
#[inline]
fn everywhere(q: [i8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(q.map(|q| q as u8)))
}

/// Two 16-bit numbers in every lane.
#[target_feature(enable = "avx512f")]
#[inline]
fn pair_everywhere([a, b]: [i16; 2]) -> __m512i {
    _mm512_set1_epi32(i32::from(a) & 0xffff | i32::from(b) << 16)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(out: &mut [f32; ROWS], v: __m512) {
    // SAFETY: a fixed array of sixteen.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
}
