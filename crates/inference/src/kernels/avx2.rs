//! The kernels with AVX2, FMA and F16C.
//!
//! **Why `unsafe` is here and sound.** (1) Functions with `#[target_feature]` may only run on a
//! machine that has the features: the only way in is [`row_tile`], which is called for `Isa::Avx2`,
//! which exists only after detection. (2) Loads through pointers: every pointer comes from a slice
//! whose length is checked on the spot, by `chunks_exact`, by a slicing `[..n]`, or by the type of a
//! fixed-size array.
//!
//! A block of weights is unpacked into registers once, then each row of activations costs, for 32
//! weights, one `maddubs` (u8 × i8 → i16 pairs), one `madd` (scales, → i32) and one add. No sum
//! saturates: |u8| ≤ 63 and |i8| ≤ 127 give pairs of at most 16,002; 8-bit weights use |w| ≤ 128,
//! at most 32,512.
#![allow(unsafe_code)]

use super::portable::scales_and_mins;
use super::quantise::{By32, By256};
use super::{Activations, Kind};
use std::arch::x86_64::*;

pub(super) fn row_tile(kind: Kind, weights: &[u8], x: &Activations, first: usize, out: &mut [f32]) {
    // The number of rows must be known to the compiler, so that accumulators stay in registers.
    macro_rules! tile {
        ($($m:literal),*) => {
            match out.len() {
                $($m => {
                    let out: &mut [f32; $m] = out.try_into().expect("the length was matched");
                    // SAFETY: `Isa::Avx2` was detected (1).
                    unsafe { row::<$m>(kind, weights, x, first, out) }
                })*
                n => unreachable!("a tile of {n} rows"),
            }
        };
    }
    tile!(1, 2, 3, 4, 5, 6, 7, 8);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn row<const M: usize>(
    kind: Kind,
    weights: &[u8],
    x: &Activations,
    first: usize,
    out: &mut [f32; M],
) {
    let cols = x.cols();
    match kind {
        Kind::Q4_0 => row32::<Q4_0, M>(weights, x.by32(), cols, first, out),
        Kind::Q4_1 => row32::<Q4_1, M>(weights, x.by32(), cols, first, out),
        Kind::Q5_0 => row32::<Q5_0, M>(weights, x.by32(), cols, first, out),
        Kind::Q5_1 => row32::<Q5_1, M>(weights, x.by32(), cols, first, out),
        Kind::Q8_0 => row32::<Q8_0, M>(weights, x.by32(), cols, first, out),
        Kind::Q4K => row256::<Q4K, M>(weights, x.by256(), cols, first, out),
        Kind::Q5K => row256::<Q5K, M>(weights, x.by256(), cols, first, out),
        Kind::Q6K => row256::<Q6K, M>(weights, x.by256(), cols, first, out),
    }
}

// ---- blocks of 256 ----

/// weight_i = d · scale · u_i + c · offset, with a scale and an offset for each sixteen.
struct Header256 {
    /// 16-bit scales: those of the even sixteens in the low half, of the odd ones in the high half.
    scales: __m256i,
    /// The same for offsets.
    offsets: __m256i,
    /// d in all lanes.
    d: __m256,
    /// c in all lanes.
    c: __m256,
}

trait Format256 {
    const BYTES: usize;
    /// SAFETY: needs AVX2 and F16C.
    unsafe fn header(b: &[u8]) -> Header256;
    /// The 64 values u of quarter `g`. SAFETY: needs AVX2.
    unsafe fn quarter(b: &[u8], g: usize) -> (__m256i, __m256i);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn row256<F: Format256, const M: usize>(
    weights: &[u8],
    x: &By256,
    cols: usize,
    first: usize,
    out: &mut [f32; M],
) {
    let blocks = cols / 256;
    // Whole blocks as arrays: one bounds check for each, and constant offsets inside.
    let q: [&[[i8; 256]]; M] = rows(x.q.as_chunks().0, first, blocks);
    let sums: [&[[i16; 16]]; M] = rows(x.sums.as_chunks().0, first, blocks);
    let scale: [&[f32]; M] = rows(&x.scale, first, blocks);
    let mut sum = [_mm256_setzero_ps(); M];
    for (b, bytes) in weights.chunks_exact(F::BYTES).enumerate() {
        prefetch(bytes);
        // SAFETY: the features are enabled here.
        let h = unsafe { F::header(bytes) };
        let mut dot = [_mm256_setzero_si256(); M];
        // Unpacked weights live for one quarter only: they and the accumulators fit the registers.
        for g in 0..4 {
            // SAFETY: the features are enabled here.
            let (low, high) = unsafe { F::quarter(bytes, g) };
            let (scale_low, scale_high) = (spread(h.scales, 2 * g), spread(h.scales, 2 * g + 1));
            for m in 0..M {
                let q = &q[m][b];
                let pairs = _mm256_maddubs_epi16(low, load_i8(&q[g * 64..][..32]));
                dot[m] = _mm256_add_epi32(dot[m], _mm256_madd_epi16(pairs, scale_low));
                let pairs = _mm256_maddubs_epi16(high, load_i8(&q[g * 64 + 32..][..32]));
                dot[m] = _mm256_add_epi32(dot[m], _mm256_madd_epi16(pairs, scale_high));
            }
        }
        for m in 0..M {
            let offset = _mm256_madd_epi16(load_i16(&sums[m][b]), h.offsets);
            let product = _mm256_mul_ps(h.c, _mm256_cvtepi32_ps(offset));
            let product = _mm256_fmadd_ps(h.d, _mm256_cvtepi32_ps(dot[m]), product);
            sum[m] = _mm256_fmadd_ps(_mm256_set1_ps(scale[m][b]), product, sum[m]);
        }
    }
    for m in 0..M {
        out[m] = horizontal(sum[m]);
    }
}

/// `M` rows of `blocks` values from row `first` on. A plain function: a closure compiled for AVX2
/// would not be inlined into `from_fn`.
#[inline]
fn rows<T, const M: usize>(all: &[T], first: usize, blocks: usize) -> [&[T]; M] {
    std::array::from_fn(|m| &all[(first + m) * blocks..][..blocks])
}

/// Asks for the weights that come a kilobyte after `block`: the hardware's own prefetch stops at the
/// end of a page, and a step with one row of activations waits for memory only.
#[target_feature(enable = "avx2")]
#[inline]
fn prefetch(block: &[u8]) {
    for line in 0..block.len().div_ceil(64) {
        _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(1024 + 64 * line).cast());
    }
}

/// The `j`-th 16-bit value of each half, in all lanes of that half.
#[target_feature(enable = "avx2")]
#[inline]
fn spread(v: __m256i, j: usize) -> __m256i {
    let pair = ((2 * j) | ((2 * j + 1) << 8)) as i16;
    _mm256_shuffle_epi8(v, _mm256_set1_epi16(pair))
}

/// Scales and offsets of the twelve bytes `b`.
#[target_feature(enable = "avx2")]
#[inline]
fn scales_of(b: &[u8]) -> (__m256i, __m256i) {
    // Through registers: a load that spans several fresh stores would stall.
    let [a, b, c, d] = scales_and_mins(b).map(|word| word as i32);
    let words = _mm256_cvtepu8_epi16(_mm_set_epi32(d, c, b, a));
    // One scale for 32 weights: the same in both halves.
    (
        _mm256_permute2x128_si256::<0x00>(words, words),
        _mm256_permute2x128_si256::<0x11>(words, words),
    )
}

struct Q4K;
impl Format256 for Q4K {
    const BYTES: usize = 144;

    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn header(b: &[u8]) -> Header256 {
        let (scales, offsets) = scales_of(&b[4..16]);
        let (d, c) = (_mm256_set1_ps(half(&b[..2])), _mm256_set1_ps(-half(&b[2..4])));
        Header256 { scales, offsets, d, c }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn quarter(b: &[u8], g: usize) -> (__m256i, __m256i) {
        nibbles32(&b[16 + 32 * g..][..32])
    }
}

struct Q5K;
impl Format256 for Q5K {
    const BYTES: usize = 176;

    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn header(b: &[u8]) -> Header256 {
        // The same places as in Q4_K.
        // SAFETY: the features are enabled here.
        unsafe { Q4K::header(b) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn quarter(b: &[u8], g: usize) -> (__m256i, __m256i) {
        let (low, high) = nibbles32(&b[48 + 32 * g..][..32]);
        let fifth = _mm256_srl_epi16(load_u8(&b[16..48]), _mm_cvtsi32_si128(2 * g as i32));
        let one = _mm256_set1_epi8(1);
        let even = _mm256_and_si256(fifth, one);
        let odd = _mm256_and_si256(_mm256_srli_epi16::<1>(fifth), one);
        (
            _mm256_or_si256(low, _mm256_slli_epi16::<4>(even)),
            _mm256_or_si256(high, _mm256_slli_epi16::<4>(odd)),
        )
    }
}

struct Q6K;
impl Format256 for Q6K {
    const BYTES: usize = 210;

    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn header(b: &[u8]) -> Header256 {
        let scales: &[u8; 16] = b[192..208].try_into().expect("sixteen bytes");
        // SAFETY: a fixed array of 16 bytes.
        let scales = unsafe { _mm_loadu_si128(scales.as_ptr().cast()) };
        let even_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        let scales = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, even_odd));
        let d = half(&b[208..210]);
        Header256 { scales, offsets: scales, d: _mm256_set1_ps(d), c: _mm256_set1_ps(-32.0 * d) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn quarter(b: &[u8], g: usize) -> (__m256i, __m256i) {
        // Two quarters share the bytes of a half: the first their low nibbles, the second the high.
        let low = &b[g / 2 * 64..][..64];
        let shift = _mm_cvtsi32_si128(g as i32 % 2 * 4);
        let nibbles =
            |b: &[u8]| _mm256_and_si256(_mm256_srl_epi16(load_u8(b), shift), _mm256_set1_epi8(15));
        let high = _mm256_srl_epi16(load_u8(&b[128 + g / 2 * 32..][..32]), shift);
        let two = _mm256_set1_epi8(0x30);
        let first = _mm256_and_si256(_mm256_slli_epi16::<4>(high), two);
        let second = _mm256_and_si256(_mm256_slli_epi16::<2>(high), two);
        (_mm256_or_si256(nibbles(&low[..32]), first), _mm256_or_si256(nibbles(&low[32..]), second))
    }
}

/// The low nibbles of 32 bytes, and the high ones.
#[target_feature(enable = "avx2")]
#[inline]
fn nibbles32(b: &[u8]) -> (__m256i, __m256i) {
    let (bytes, mask) = (load_u8(b), _mm256_set1_epi8(15));
    (_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask))
}

// ---- blocks of 32 ----

/// weight = scale · u + min; `u` is signed when `Format32::SIGNED`.
struct Unpacked32 {
    u: __m256i,
    scale: f32,
    min: f32,
}

trait Format32 {
    const BYTES: usize;
    const SIGNED: bool = false;
    /// SAFETY: needs AVX2 and F16C, and `b` of length `BYTES`.
    unsafe fn unpack(b: &[u8]) -> Unpacked32;
}

#[target_feature(enable = "avx2,fma,f16c")]
fn row32<F: Format32, const M: usize>(
    weights: &[u8],
    x: &By32,
    cols: usize,
    first: usize,
    out: &mut [f32; M],
) {
    let blocks = cols / 32;
    let q: [&[[i8; 32]]; M] = rows(x.q.as_chunks().0, first, blocks);
    let scale: [&[f32]; M] = rows(&x.scale, first, blocks);
    let sums: [&[f32]; M] = rows(&x.sum, first, blocks);
    let ones = _mm256_set1_epi16(1);
    let mut sum = [_mm256_setzero_ps(); M];
    let mut offset = [0.0f32; M];
    for (b, bytes) in weights.chunks_exact(F::BYTES).enumerate() {
        prefetch(bytes);
        // SAFETY: the features are enabled here; `bytes` has the length of a block.
        let w = unsafe { F::unpack(bytes) };
        let magnitude = if F::SIGNED { _mm256_abs_epi8(w.u) } else { w.u };
        for m in 0..M {
            let mut q = load_i8(&q[m][b]);
            if F::SIGNED {
                q = _mm256_sign_epi8(q, w.u);
            }
            let dot = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, q), ones);
            let d = _mm256_set1_ps(w.scale * scale[m][b]);
            sum[m] = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(dot), sum[m]);
            if !F::SIGNED {
                offset[m] = w.min.mul_add(sums[m][b], offset[m]);
            }
        }
    }
    for m in 0..M {
        out[m] = horizontal(sum[m]) + offset[m];
    }
}

/// Low nibbles are weights 0..16, high nibbles 16..32.
#[target_feature(enable = "avx2")]
#[inline]
fn nibbles(b: &[u8]) -> __m256i {
    let b: &[u8; 16] = b.try_into().expect("sixteen bytes");
    // SAFETY: a fixed array of 16 bytes.
    let low = unsafe { _mm_loadu_si128(b.as_ptr().cast()) };
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(low), low);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// Sixteen in each byte whose bit of the four bytes `b` is set.
#[target_feature(enable = "avx2")]
#[inline]
fn fifth_bits(b: &[u8]) -> __m256i {
    let bits = i32::from_le_bytes(b.try_into().expect("four bytes"));
    let spread =
        _mm256_set_epi64x(0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0);
    let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
    _mm256_and_si256(set, _mm256_set1_epi8(16))
}

struct Q4_0;
impl Format32 for Q4_0 {
    const BYTES: usize = 18;
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn unpack(b: &[u8]) -> Unpacked32 {
        let scale = half(&b[..2]);
        Unpacked32 { u: nibbles(&b[2..18]), scale, min: -8.0 * scale }
    }
}

struct Q4_1;
impl Format32 for Q4_1 {
    const BYTES: usize = 20;
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn unpack(b: &[u8]) -> Unpacked32 {
        Unpacked32 { u: nibbles(&b[4..20]), scale: half(&b[..2]), min: half(&b[2..4]) }
    }
}

struct Q5_0;
impl Format32 for Q5_0 {
    const BYTES: usize = 22;
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn unpack(b: &[u8]) -> Unpacked32 {
        let scale = half(&b[..2]);
        let u = _mm256_or_si256(nibbles(&b[6..22]), fifth_bits(&b[2..6]));
        Unpacked32 { u, scale, min: -16.0 * scale }
    }
}

struct Q5_1;
impl Format32 for Q5_1 {
    const BYTES: usize = 24;
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn unpack(b: &[u8]) -> Unpacked32 {
        let u = _mm256_or_si256(nibbles(&b[8..24]), fifth_bits(&b[4..8]));
        Unpacked32 { u, scale: half(&b[..2]), min: half(&b[2..4]) }
    }
}

struct Q8_0;
impl Format32 for Q8_0 {
    const BYTES: usize = 34;
    const SIGNED: bool = true;
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn unpack(b: &[u8]) -> Unpacked32 {
        Unpacked32 { u: load_u8(&b[2..34]), scale: half(&b[..2]), min: 0.0 }
    }
}

// ---- loads ----

#[target_feature(enable = "avx2")]
#[inline]
fn load_u8(b: &[u8]) -> __m256i {
    let b: &[u8; 32] = b.try_into().expect("32 bytes");
    // SAFETY: a fixed array of 32 bytes.
    unsafe { _mm256_loadu_si256(b.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_i8(b: &[i8]) -> __m256i {
    let b: &[i8; 32] = b.try_into().expect("32 bytes");
    // SAFETY: a fixed array of 32 bytes.
    unsafe { _mm256_loadu_si256(b.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_i16(b: &[i16]) -> __m256i {
    let b: &[i16; 16] = b.try_into().expect("16 words");
    // SAFETY: a fixed array of 32 bytes.
    unsafe { _mm256_loadu_si256(b.as_ptr().cast()) }
}

#[target_feature(enable = "f16c")]
#[inline]
fn half(b: &[u8]) -> f32 {
    let bits = i32::from(u16::from_le_bytes([b[0], b[1]]));
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))
}

/// The sum of the eight lanes, in a fixed order.
#[target_feature(enable = "avx2")]
#[inline]
fn horizontal(v: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}
