//! The kernels with AVX-512 and its 8-bit dot products (VNNI), for [packed](super::packed) weights.
//!
//! **Why `unsafe` is here and sound.** (1) Functions with `#[target_feature]` may only run on a
//! machine that has the features: the only way in is [`tile`], which is called for `Isa::Avx512`,
//! which exists only after detection. (2) Loads through pointers: every pointer comes from a
//! fixed-size array, made from a slice whose length is checked on the spot.
//!
//! A register holds four neighbouring weights of each of sixteen rows, unpacked once. Each row of
//! activations then costs one `vpdpbusd`: four products (u8 × i8) are added to a 32-bit sum, which
//! cannot overflow (255 · 127 · 32 is 20 bits). A share's whole-number sum is the same in any order;
//! shares and blocks are added as floats, one after the other for each row of activations alone. That
//! makes the kernels batch-invariant.
#![allow(unsafe_code)]

use super::quantise::{By32, By256};
use super::{Activations, Kind};
use std::arch::x86_64::*;

/// Rows of weights in a group.
pub(super) const ROWS: usize = 16;

/// A group of sixteen rows of weights times `out.len() / 16` rows of activations from `first` on (at
/// most 8); `out` is `activations × 16`.
pub(super) fn tile(kind: Kind, weights: &[u8], x: &Activations, first: usize, out: &mut [f32]) {
    // The number of rows must be known to the compiler, so that accumulators stay in registers.
    macro_rules! tile {
        ($($m:literal),*) => {
            match out.as_chunks_mut().0 {
                $(out if out.len() == $m => {
                    let out: &mut [[f32; ROWS]; $m] = out.try_into().expect("its length");
                    // SAFETY: `Isa::Avx512` was detected (1).
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

trait Format256 {
    const BYTES: usize;
    /// Weights that share a scale: 16 or 32.
    const SHARE: usize;
    /// Whether scales have a sign.
    const SIGNED: bool;
    /// SAFETY: needs AVX-512, and `b` of sixteen blocks.
    unsafe fn header(b: &[u8]) -> Header256;
    /// The values u of weights `4i … 4i + 3`. SAFETY: needs AVX-512.
    unsafe fn vector(b: &[u8], i: usize) -> __m512i;
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
    let mut sum = [_mm512_setzero_ps(); M];
    for (b, bytes) in weights.chunks_exact(ROWS * F::BYTES).enumerate() {
        // Its length is known to the compiler: loads at fixed places need no checks.
        let bytes = &bytes[..ROWS * F::BYTES];
        prefetch(bytes);
        // SAFETY: the features are enabled here; `bytes` has the length of a group.
        let h = unsafe { F::header(bytes) };
        let q: [&[[i8; 4]; 64]; M] = at(q, b);
        let mut block = [_mm512_setzero_ps(); M];
        for share in 0..256 / F::SHARE {
            let mut dot = [_mm512_setzero_si512(); M];
            for i in 0..F::SHARE / 4 {
                let i = share * F::SHARE / 4 + i;
                // SAFETY: the features are enabled here.
                let w = unsafe { F::vector(bytes, i) };
                for m in 0..M {
                    dot[m] = _mm512_dpbusd_epi32(dot[m], w, everywhere(q[m][i]));
                }
            }
            let scale = byte(h.scales[share / 4], share % 4, F::SIGNED);
            let scale = _mm512_mul_ps(h.d, _mm512_cvtepi32_ps(scale));
            for m in 0..M {
                block[m] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot[m]), block[m]);
            }
        }
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

/// `M` rows of `blocks` values from row `first` on. A plain function: a closure compiled for AVX-512
/// would not be inlined into `from_fn`.
#[inline]
fn of_rows<T, const M: usize>(all: &[T], first: usize, blocks: usize) -> [&[T]; M] {
    std::array::from_fn(|m| &all[(first + m) * blocks..][..blocks])
}

/// Value `b` of each row.
#[inline]
fn at<T, const M: usize>(rows: [&[T]; M], b: usize) -> [&T; M] {
    std::array::from_fn(|m| &rows[m][b])
}

/// Asks for the weights that come after `group`: the hardware's own prefetch stops at the end of a
/// page, and a step with one row of activations waits for memory only.
#[target_feature(enable = "avx512f")]
#[inline]
fn prefetch(group: &[u8]) {
    for line in 0..group.len().div_ceil(64) {
        _mm_prefetch::<_MM_HINT_T0>(group.as_ptr().wrapping_add(4096 + 64 * line).cast());
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

/// Scales and offsets of Q4_K and Q5_K: six bits each, the last ones of the second four of them
/// elsewhere.
#[target_feature(enable = "avx512f")]
#[inline]
fn header_of(b: &[u8]) -> Header256 {
    let (a, m, h) = (load(b, 64), load(b, 128), load(b, 192));
    let six = _mm512_set1_epi32(0x3f3f_3f3f);
    let four = _mm512_set1_epi32(0x0f0f_0f0f);
    let two = _mm512_set1_epi32(0x0303_0303);
    let upper = |v| _mm512_slli_epi32::<4>(_mm512_and_si512(_mm512_srli_epi32::<6>(v), two));
    let scales = [_mm512_and_si512(a, six), _mm512_or_si512(_mm512_and_si512(h, four), upper(a))];
    let rest = _mm512_and_si512(_mm512_srli_epi32::<4>(h), four);
    let offsets = [_mm512_and_si512(m, six), _mm512_or_si512(rest, upper(m))];
    let none = _mm512_setzero_si512();
    Header256 {
        d: halves(b, 0),
        c: _mm512_sub_ps(_mm512_setzero_ps(), halves(b, 32)),
        scales: [scales[0], scales[1], none, none],
        offsets: [offsets[0], offsets[1], none, none],
    }
}

struct Q4K;
impl Format256 for Q4K {
    const BYTES: usize = 144;
    const SHARE: usize = 32;
    const SIGNED: bool = false;

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn header(b: &[u8]) -> Header256 {
        header_of(b)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn vector(b: &[u8], i: usize) -> __m512i {
        nibble(load(b, 256 + 64 * (i / 16 * 8 + i % 8)), i / 8 % 2)
    }
}

struct Q5K;
impl Format256 for Q5K {
    const BYTES: usize = 176;
    const SHARE: usize = 32;
    const SIGNED: bool = false;

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn header(b: &[u8]) -> Header256 {
        // The same places as in Q4_K.
        header_of(b)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn vector(b: &[u8], i: usize) -> __m512i {
        let low = nibble(load(b, 768 + 64 * (i / 16 * 8 + i % 8)), i / 8 % 2);
        _mm512_or_si512(low, bit_as_sixteen(load(b, 256 + 64 * (i % 8)), i / 8))
    }
}

struct Q6K;
impl Format256 for Q6K {
    const BYTES: usize = 210;
    const SHARE: usize = 16;
    const SIGNED: bool = true;

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn header(b: &[u8]) -> Header256 {
        let scales = [load(b, 3072), load(b, 3136), load(b, 3200), load(b, 3264)];
        let d = halves(b, 3328);
        Header256 { d, c: _mm512_mul_ps(_mm512_set1_ps(-32.0), d), scales, offsets: scales }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn vector(b: &[u8], i: usize) -> __m512i {
        // Of each 128 weights, the first 64 have the low nibbles, the last 64 the high ones.
        let (half, quarter) = (i / 32, i / 8 % 4);
        let low = nibble(load(b, 64 * (half * 16 + quarter % 2 * 8 + i % 8)), quarter / 2);
        let high = load(b, 2048 + 64 * (half * 8 + i % 8));
        let high = match quarter {
            0 => _mm512_slli_epi16::<4>(high),
            1 => _mm512_slli_epi16::<2>(high),
            2 => high,
            _ => _mm512_srli_epi16::<2>(high),
        };
        _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(0x30)))
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

/// Where the values u of a group's blocks are.
enum Values {
    /// Nibbles from a place on, the first 16 weights low and the others high, and the fifth bits.
    Nibbles(usize, Option<usize>),
    /// Signed bytes from a place on, taken as u = w + 128.
    Bytes(usize),
}

/// weight = scale · u + minimum.
enum Minimum {
    /// So many scales.
    Scales(f32),
    /// Sixteen 16-bit floats at this place.
    At(usize),
    /// None but the −128 scales of signed bytes, which are whole numbers and added to the products.
    Bytes,
}

/// Scales are sixteen 16-bit floats at the beginning of a group.
trait Format32 {
    const BYTES: usize;
    const VALUES: Values;
    const MINIMUM: Minimum;
}

/// The values u of weights `4i … 4i + 3`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn vector32<F: Format32>(b: &[u8], i: usize) -> __m512i {
    match F::VALUES {
        Values::Bytes(at) => _mm512_xor_si512(load(b, at + 64 * i), _mm512_set1_epi8(-128)),
        Values::Nibbles(at, None) => nibble(load(b, at + i % 4 * 64), i / 4),
        Values::Nibbles(at, Some(fifth)) => {
            let low = nibble(load(b, at + i % 4 * 64), i / 4);
            _mm512_or_si512(low, bit_as_sixteen(load(b, fifth), i))
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
    let mut sum = [_mm512_setzero_ps(); M];
    for (b, bytes) in weights.chunks_exact(ROWS * F::BYTES).enumerate() {
        // Its length is known to the compiler: loads at fixed places need no checks.
        let bytes = &bytes[..ROWS * F::BYTES];
        prefetch(bytes);
        let mut dot = [_mm512_setzero_si512(); M];
        if matches!(F::MINIMUM, Minimum::Bytes) {
            for m in 0..M {
                dot[m] = _mm512_set1_epi32(-128 * sums[m][b]);
            }
        }
        let q: [&[[i8; 4]; 8]; M] = at(q, b);
        let mut i = 0;
        while i < 8 {
            let w = vector32::<F>(bytes, i);
            for m in 0..M {
                dot[m] = _mm512_dpbusd_epi32(dot[m], w, everywhere(q[m][i]));
            }
            i += 1;
        }
        let d = halves(bytes, 0);
        let minimum = match F::MINIMUM {
            Minimum::Scales(n) => _mm512_mul_ps(_mm512_set1_ps(n), d),
            Minimum::At(at) => halves(bytes, at),
            Minimum::Bytes => _mm512_setzero_ps(),
        };
        for m in 0..M {
            let mut product = _mm512_mul_ps(d, _mm512_cvtepi32_ps(dot[m]));
            if !matches!(F::MINIMUM, Minimum::Bytes) {
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

struct Q4_0;
impl Format32 for Q4_0 {
    const BYTES: usize = 18;
    const VALUES: Values = Values::Nibbles(32, None);
    const MINIMUM: Minimum = Minimum::Scales(-8.0);
}

struct Q4_1;
impl Format32 for Q4_1 {
    const BYTES: usize = 20;
    const VALUES: Values = Values::Nibbles(64, None);
    const MINIMUM: Minimum = Minimum::At(32);
}

struct Q5_0;
impl Format32 for Q5_0 {
    const BYTES: usize = 22;
    const VALUES: Values = Values::Nibbles(96, Some(32));
    const MINIMUM: Minimum = Minimum::Scales(-16.0);
}

struct Q5_1;
impl Format32 for Q5_1 {
    const BYTES: usize = 24;
    const VALUES: Values = Values::Nibbles(128, Some(64));
    const MINIMUM: Minimum = Minimum::At(32);
}

struct Q8_0;
impl Format32 for Q8_0 {
    const BYTES: usize = 34;
    const VALUES: Values = Values::Bytes(32);
    const MINIMUM: Minimum = Minimum::Bytes;
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
