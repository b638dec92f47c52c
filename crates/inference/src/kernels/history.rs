//! Keys and values of one sequence in main memory, in the order in which attention reads them.
//!
//! Sixteen tokens lie together: for each layer and each KV head first their keys, with the tokens
//! beside each other (`width × 16`), so that sixteen scores are computed side by side; then their
//! values, in pieces of eight beside each other (`width/8 × 16 × 8`), so that a weighted sum runs
//! through memory in order. All of it grows at its end: a text that begins as another does takes its
//! part over in one copy.

use super::memory::Bytes;
use bytemuck::Pod;
use std::io;
use std::str::FromStr;

/// Tokens that lie together.
pub(crate) const TOGETHER: usize = 16;

/// In which format keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// 16-bit floats: half of the memory, and of what a long context's step reads.
    #[default]
    F16,
    /// 32-bit floats, as they are computed.
    F32,
}

impl FromStr for KvFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f16" => Ok(Self::F16),
            "f32" => Ok(Self::F32),
            _ => Err(format!("`{text}` is no format of keys and values; choose f16 or f32")),
        }
    }
}

impl KvFormat {
    /// Bytes of a number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F16 => size_of::<u16>(),
            Self::F32 => size_of::<f32>(),
        }
    }
}

/// What a key or value is kept as: `f32`, or the bits of a 16-bit float.
pub(crate) trait Number: Pod + Send + Sync {
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
}

impl Number for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl Number for u16 {
    /// Too large a value becomes the largest: an infinite one would make sums undefined.
    fn from_f32(value: f32) -> Self {
        let most = half::f16::MAX.to_f32();
        half::f16::from_f32(value.clamp(-most, most)).to_bits()
    }

    fn to_f32(self) -> f32 {
        half::f16::from_bits(self).to_f32()
    }
}

/// Keys and values of all layers. Memory is taken as tokens come.
pub(crate) struct History {
    memory: Bytes,
    format: KvFormat,
    layers: usize,
    kv_heads: usize,
    /// Width of a head, a multiple of 8.
    width: usize,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").field("format", &self.format).finish_non_exhaustive()
    }
}

/// Where one head of one layer lies in all blocks.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a, N> {
    numbers: &'a [N],
    first: usize,
    stride: usize,
    /// Numbers of sixteen tokens' keys, and of their values.
    half: usize,
}

impl<'a, N> Head<'a, N> {
    /// Sixteen tokens' keys, `width × 16`, and values, `width/8 × 16 × 8`.
    #[inline(always)]
    pub(crate) fn block(&self, block: usize) -> (&'a [N], &'a [N]) {
        self.numbers[block * self.stride + self.first..][..2 * self.half].split_at(self.half)
    }
}

impl History {
    /// Room for `capacity` tokens.
    pub(crate) fn new(
        format: KvFormat,
        [layers, kv_heads, width]: [usize; 3],
        capacity: usize,
    ) -> io::Result<Self> {
        let token = 2 * layers * kv_heads * width * format.bytes();
        let memory = Bytes::zeroed(capacity.next_multiple_of(TOGETHER) * token)?;
        Ok(Self { memory, format, layers, kv_heads, width })
    }

    pub(crate) fn format(&self) -> KvFormat {
        self.format
    }

    pub(crate) fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Of a head.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// One head of one layer; `N` is the format's.
    pub(crate) fn head<N: Number>(&self, layer: usize, head: usize) -> Head<'_, N> {
        let half = self.width * TOGETHER;
        Head {
            numbers: bytemuck::cast_slice(&self.memory),
            first: (layer * self.kv_heads + head) * 2 * half,
            stride: self.layers * self.kv_heads * 2 * half,
            half,
        }
    }

    /// Writes keys and values (`n × kv_heads × width` each) of one layer's tokens from `at` on.
    pub(crate) fn write(&mut self, layer: usize, at: usize, keys: &[f32], values: &[f32]) {
        match self.format {
            KvFormat::F16 => self.write_as::<u16>(layer, at, keys, values),
            KvFormat::F32 => self.write_as::<f32>(layer, at, keys, values),
        }
    }

    fn write_as<N: Number>(&mut self, layer: usize, at: usize, keys: &[f32], values: &[f32]) {
        let (layers, kv_heads, width) = (self.layers, self.kv_heads, self.width);
        let half = width * TOGETHER;
        let numbers: &mut [N] = bytemuck::cast_slice_mut(&mut self.memory);
        let heads = keys.chunks_exact(width).zip(values.chunks_exact(width));
        for (i, (key, value)) in heads.enumerate() {
            let (token, head) = (at + i / kv_heads, i % kv_heads);
            let (block, t) = (token / TOGETHER, token % TOGETHER);
            let first = ((block * layers + layer) * kv_heads + head) * 2 * half;
            let (to_keys, to_values) = numbers[first..][..2 * half].split_at_mut(half);
            for (to, key) in to_keys[t..].iter_mut().step_by(TOGETHER).zip(key) {
                *to = N::from_f32(*key);
            }
            let pieces = to_values.chunks_exact_mut(8 * TOGETHER);
            for (to, value) in pieces.zip(value.as_chunks::<8>().0) {
                for (to, value) in to[t * 8..].iter_mut().zip(value) {
                    *to = N::from_f32(*value);
                }
            }
        }
    }

    /// Takes over the first `tokens` tokens of another history of the same model.
    pub(crate) fn copy_from(&mut self, other: &Self, tokens: usize) {
        let block = 2 * TOGETHER * self.layers * self.kv_heads * self.width * self.format.bytes();
        let bytes = tokens.div_ceil(TOGETHER) * block;
        self.memory[..bytes].copy_from_slice(&other.memory[..bytes]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_is_the_nearest_and_never_infinite() {
        for (value, kept) in [(1.0, 1.0), (0.1, 0.099_975_586), (1e9, 65_504.0), (-1e9, -65_504.0)]
        {
            assert_eq!(<u16 as Number>::from_f32(value).to_f32(), kept);
        }
    }

    #[test]
    fn a_copy_has_the_tokens_and_nothing_else() {
        let shape = [2, 3, 8];
        let mut from = History::new(KvFormat::F32, shape, 40).unwrap();
        for layer in 0..2 {
            let keys: Vec<f32> = (0..40 * 24).map(|i| (i + layer) as f32 + 1.0).collect();
            from.write(layer, 0, &keys, &keys);
        }
        let mut to = History::new(KvFormat::F32, shape, 64).unwrap();
        to.copy_from(&from, 17);
        for (layer, head, block) in [(0, 0, 0), (1, 2, 1)] {
            let one = |h: &History| h.head::<f32>(layer, head).block(block).0.to_vec();
            assert_eq!(one(&to), one(&from));
        }
        assert!(to.head::<f32>(0, 0).block(2).0.iter().all(|x| *x == 0.0));
    }
}
