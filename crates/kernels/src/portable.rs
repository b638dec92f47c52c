//! The kernels in plain Rust: the reference for the others, and what runs where they cannot.

use crate::{Activations, Kind};
use half::f16;

/// A block of 32 weights: weight = scale · u + min, or scale · u read as signed.
struct Block32 {
    u: [u8; 32],
    scale: f32,
    min: f32,
}

/// A block of 256 weights: weight_i = d · scales[i/16] · u_i + c · offsets[i/16].
pub(crate) struct Block256 {
    pub u: [u8; 256],
    pub scales: [i16; 16],
    pub offsets: [i16; 16],
    pub d: f32,
    pub c: f32,
}

pub(crate) fn row_tile(kind: Kind, weights: &[u8], x: &Activations, first: usize, out: &mut [f32]) {
    out.fill(0.0);
    if kind.block() == 32 {
        let (x, blocks) = (x.by32(), x.cols() / 32);
        for (b, bytes) in weights.chunks_exact(kind.bytes()).enumerate() {
            let w = unpack32(kind, bytes);
            for (i, out) in out.iter_mut().enumerate() {
                let at = (first + i) * blocks + b;
                let q = &x.q[at * 32..][..32];
                let signed = kind == Kind::Q8_0;
                let dot: i32 = if signed {
                    w.u.iter().zip(q).map(|(w, q)| i32::from(*w as i8) * i32::from(*q)).sum()
                } else {
                    w.u.iter().zip(q).map(|(w, q)| i32::from(*w) * i32::from(*q)).sum()
                };
                *out += x.scale[at] * (w.scale * dot as f32 + w.min * x.sums[at] as f32);
            }
        }
    } else {
        let (x, blocks) = (x.by256(), x.cols() / 256);
        for (b, bytes) in weights.chunks_exact(kind.bytes()).enumerate() {
            let w = unpack256(kind, bytes);
            for (i, out) in out.iter_mut().enumerate() {
                let at = (first + i) * blocks + b;
                let (q, sums) = (&x.q[at * 256..][..256], &x.sums16[at * 16..][..16]);
                let (mut dot, mut offset) = (0i32, 0i32);
                for (j, (w16, q16)) in w.u.chunks_exact(16).zip(q.chunks_exact(16)).enumerate() {
                    let part: i32 =
                        w16.iter().zip(q16).map(|(w, q)| i32::from(*w) * i32::from(*q)).sum();
                    dot += i32::from(w.scales[j]) * part;
                    offset += i32::from(w.offsets[j]) * i32::from(sums[j]);
                }
                *out += x.scale[at] * (w.d * dot as f32 + w.c * offset as f32);
            }
        }
    }
}

/// The weights of a row.
pub(crate) fn dequantise(kind: Kind, weights: &[u8], out: &mut [f32]) {
    let blocks = weights.chunks_exact(kind.bytes()).zip(out.chunks_exact_mut(kind.block()));
    for (bytes, out) in blocks {
        if kind.block() == 32 {
            let w = unpack32(kind, bytes);
            for (out, u) in out.iter_mut().zip(w.u) {
                let u = if kind == Kind::Q8_0 { f32::from(u as i8) } else { f32::from(u) };
                *out = w.scale * u + w.min;
            }
        } else {
            let w = unpack256(kind, bytes);
            for (i, (out, u)) in out.iter_mut().zip(w.u).enumerate() {
                let (scale, offset) = (f32::from(w.scales[i / 16]), f32::from(w.offsets[i / 16]));
                *out = w.d * scale * f32::from(u) + w.c * offset;
            }
        }
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Low nibbles are weights 0..16, high nibbles 16..32.
fn nibbles(bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

fn unpack32(kind: Kind, b: &[u8]) -> Block32 {
    let scale = half(b);
    let fifth = |at: usize, mut u: [u8; 32]| {
        let bits = u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        for (i, u) in u.iter_mut().enumerate() {
            *u |= ((bits >> i & 1) as u8) << 4;
        }
        u
    };
    match kind {
        Kind::Q4_0 => Block32 { u: nibbles(&b[2..]), scale, min: -8.0 * scale },
        Kind::Q4_1 => Block32 { u: nibbles(&b[4..]), scale, min: half(&b[2..]) },
        Kind::Q5_0 => Block32 { u: fifth(2, nibbles(&b[6..])), scale, min: -16.0 * scale },
        Kind::Q5_1 => Block32 { u: fifth(4, nibbles(&b[8..])), scale, min: half(&b[2..]) },
        Kind::Q8_0 => Block32 { u: std::array::from_fn(|i| b[2 + i]), scale, min: 0.0 },
        Kind::Q4K | Kind::Q5K | Kind::Q6K => unreachable!("a format of 256"),
    }
}

/// Eight 6-bit scales, then eight 6-bit minima, of 12 bytes; little-endian words of one byte each.
fn scales_and_mins(b: &[u8]) -> [u32; 4] {
    let word = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
    let (a, m, h) = (word(0), word(4), word(8));
    [
        a & 0x3f3f_3f3f,
        (h & 0x0f0f_0f0f) | (((a >> 6) & 0x0303_0303) << 4),
        m & 0x3f3f_3f3f,
        ((h >> 4) & 0x0f0f_0f0f) | (((m >> 6) & 0x0303_0303) << 4),
    ]
}

fn unpack256(kind: Kind, b: &[u8]) -> Block256 {
    let mut u = [0; 256];
    match kind {
        Kind::Q4K | Kind::Q5K => {
            let words = scales_and_mins(&b[4..16]).map(u32::to_le_bytes);
            let scales = words.as_flattened();
            let low = if kind == Kind::Q4K { &b[16..144] } else { &b[48..176] };
            for (i, u) in u.iter_mut().enumerate() {
                let byte = low[i / 64 * 32 + i % 32];
                *u = if i % 64 < 32 { byte & 15 } else { byte >> 4 };
                if kind == Kind::Q5K {
                    *u |= (b[16 + i % 32] >> (i / 32) & 1) << 4;
                }
            }
            Block256 {
                u,
                scales: std::array::from_fn(|i| i16::from(scales[i / 2])),
                offsets: std::array::from_fn(|i| i16::from(scales[8 + i / 2])),
                d: half(b),
                c: -half(&b[2..]),
            }
        }
        Kind::Q6K => {
            let (low, high) = (&b[..128], &b[128..192]);
            for (i, u) in u.iter_mut().enumerate() {
                let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
                let byte = low[half * 64 + quarter % 2 * 32 + l];
                let nibble = if quarter < 2 { byte & 15 } else { byte >> 4 };
                *u = nibble | (high[half * 32 + l] >> (2 * quarter) & 3) << 4;
            }
            let scales: [i16; 16] = std::array::from_fn(|i| i16::from(b[192 + i] as i8));
            let d = half(&b[208..]);
            Block256 { u, scales, offsets: scales, d, c: -32.0 * d }
        }
        _ => unreachable!("a format of 32"),
    }
}
