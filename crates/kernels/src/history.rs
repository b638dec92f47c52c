//! Keys and values of one sequence in main memory, in the order in which attention reads them.
//!
//! Sixteen tokens lie together: for each layer and each KV head first their keys, with the tokens
//! beside each other (`width × 16`), so that sixteen scores are computed side by side; then their
//! values, in pieces of eight beside each other (`width/8 × 16 × 8`), so that a weighted sum runs
//! through memory in order.
//!
//! Memory is taken in parts of whole such blocks as the text grows, so a cache costs what it holds and not
//! what it may come to hold, on systems too that promise no more memory than they have. A text that begins
//! as another does takes its blocks over as they are.
//!
//! In 8 bits, scales follow: for each 32 numbers of a head (its last share may be shorter) one of each
//! token's key, then of its value (`shares × 16` each). A token has scales of its own, so it is kept as
//! the same bits whatever is beside it, and may be written again.

use crate::memory::Bytes;
use crate::quantise::quantise;
use bytemuck::Pod;
use std::io;
use std::marker::PhantomData;
use std::str::FromStr;

/// Tokens that lie together.
pub(crate) const TOGETHER: usize = 16;
/// Numbers of a head that share a scale, in formats with scales.
pub(crate) const SHARE: usize = 32;

/// In which format keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// 16-bit floats: half of the memory, and of what a long context's step reads.
    #[default]
    F16,
    /// 32-bit floats, as they are computed.
    F32,
    /// 8-bit whole numbers with a scale for each 32 of them: 56 % of the memory of `F16`. Approximate:
    /// the model answers as one with rounded keys and values, and no longer as with `F16`.
    Q8,
}

impl FromStr for KvFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f16" => Ok(Self::F16),
            "f32" => Ok(Self::F32),
            "q8" => Ok(Self::Q8),
            _ => Err(format!("`{text}` is no format of keys and values; choose f16, f32 or q8")),
        }
    }
}

impl KvFormat {
    /// Bytes of the key, or the value, of one token in one head of such a width.
    #[must_use]
    pub fn bytes(self, width: usize) -> usize {
        match self {
            Self::F16 => width * size_of::<u16>(),
            Self::F32 => width * size_of::<f32>(),
            Self::Q8 => width + width.div_ceil(SHARE) * size_of::<f32>(),
        }
    }
}

/// What a key or value is kept as: `f32`, the bits of a 16-bit float, or an `i8` with a scale.
pub(crate) trait Number: Pod + Send + Sync {
    /// Whether numbers have a scale that up to [`SHARE`] of them share.
    const SCALED: bool = false;
    /// Keeps as many values as there is room for; gives their scale.
    fn keep(values: &[f32], kept: &mut [Self]) -> f32;
    /// In units of the scale.
    fn to_f32(self) -> f32;
}

impl Number for f32 {
    fn keep(values: &[f32], kept: &mut [Self]) -> f32 {
        kept.copy_from_slice(values);
        1.0
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl Number for u16 {
    /// Too large a value becomes the largest: an infinite one would make sums undefined.
    fn keep(values: &[f32], kept: &mut [Self]) -> f32 {
        let most = half::f16::MAX.to_f32();
        for (value, kept) in values.iter().zip(kept) {
            *kept = half::f16::from_f32(value.clamp(-most, most)).to_bits();
        }
        1.0
    }

    fn to_f32(self) -> f32 {
        half::f16::from_bits(self).to_f32()
    }
}

impl Number for i8 {
    const SCALED: bool = true;

    fn keep(values: &[f32], kept: &mut [Self]) -> f32 {
        quantise(values, kept)
    }

    fn to_f32(self) -> f32 {
        f32::from(self)
    }
}

/// Bytes of a part of the memory at least: a large page of most systems.
const PART: usize = 2 << 20;

/// Keys and values of all layers. Memory is taken as tokens come.
pub struct History {
    /// One after the other, each of `1 << blocks` blocks of sixteen tokens; the last one of a history that
    /// has all its memory may have fewer.
    parts: Vec<Bytes>,
    blocks: u32,
    /// In tokens.
    capacity: usize,
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
    parts: &'a [Bytes],
    blocks: u32,
    /// In bytes of a block, as `stride` is its length.
    first: usize,
    stride: usize,
    width: usize,
    numbers: PhantomData<N>,
}

impl<'a, N: Number> Head<'a, N> {
    /// The bytes of a block from this head on.
    #[inline(always)]
    fn at(&self, block: usize) -> &'a [u8] {
        let part = &self.parts[block >> self.blocks];
        &part[(block & ((1 << self.blocks) - 1)) * self.stride + self.first..]
    }

    /// Sixteen tokens' keys, `width × 16`, and values, `width/8 × 16 × 8`.
    #[inline(always)]
    pub(crate) fn block(&self, block: usize) -> (&'a [N], &'a [N]) {
        let half = self.width * TOGETHER;
        let bytes = &self.at(block)[..2 * half * size_of::<N>()];
        bytemuck::cast_slice(bytes).split_at(half)
    }

    /// The scales of their keys, and of their values, `shares × 16` each, in a format that has scales.
    #[inline(always)]
    pub(crate) fn scales(&self, block: usize) -> (&'a [f32], &'a [f32]) {
        let half = self.width.div_ceil(SHARE) * TOGETHER;
        let numbers = 2 * self.width * TOGETHER * size_of::<N>();
        let bytes = &self.at(block)[numbers..][..2 * half * size_of::<f32>()];
        bytemuck::cast_slice(bytes).split_at(half)
    }
}

impl History {
    /// An empty history for at most `capacity` tokens; it takes no memory yet.
    ///
    /// # Panics
    /// If a size is 0, `width` no multiple of 8, or the bytes cannot be counted.
    #[must_use]
    pub fn new(format: KvFormat, [layers, kv_heads, width]: [usize; 3], capacity: usize) -> Self {
        assert!(layers > 0 && kv_heads > 0 && width > 0 && width.is_multiple_of(8), "no heads");
        // 8 bytes for a number at most.
        let bytes = [16, layers, kv_heads, width, capacity];
        let all = bytes.into_iter().try_fold(1usize, usize::checked_mul);
        assert!(all.is_some_and(|n| n <= isize::MAX as usize - PART), "a countable size");
        let block = 2 * TOGETHER * layers * kv_heads * format.bytes(width);
        let blocks = PART.div_ceil(block).next_power_of_two().ilog2();
        Self { parts: Vec::new(), blocks, capacity, format, layers, kv_heads, width }
    }

    /// Takes memory for the first `tokens` tokens, where it is not there yet. What was written stays.
    ///
    /// # Errors
    /// If there is none, or they are more than the capacity. Nothing is lost then.
    pub fn reserve(&mut self, tokens: usize) -> io::Result<()> {
        if tokens > self.capacity {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let most = self.capacity.div_ceil(TOGETHER);
        let part = 1 << self.blocks;
        while self.room() < tokens {
            let blocks = part.min(most - self.parts.len() * part);
            self.parts.push(Bytes::zeroed(blocks * self.block_bytes())?);
        }
        Ok(())
    }

    /// Tokens that there is memory for.
    #[must_use]
    pub fn room(&self) -> usize {
        (self.parts.len() * (TOGETHER << self.blocks)).min(self.capacity)
    }

    /// Bytes of memory that are taken.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Bytes of sixteen tokens in all layers.
    fn block_bytes(&self) -> usize {
        self.layers * self.kv_heads * self.head_bytes()
    }

    /// Bytes of sixteen tokens in one head of one layer.
    fn head_bytes(&self) -> usize {
        2 * TOGETHER * self.format.bytes(self.width)
    }

    pub(crate) fn format(&self) -> KvFormat {
        self.format
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers
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
        Head {
            parts: &self.parts,
            blocks: self.blocks,
            first: (layer * self.kv_heads + head) * self.head_bytes(),
            stride: self.block_bytes(),
            width: self.width,
            numbers: PhantomData,
        }
    }

    /// Writes keys and values (`n × kv_heads × width` each) of one layer's tokens from `at` on.
    ///
    /// # Panics
    /// If the sizes do not fit together, or there is no memory for the tokens.
    pub fn write(&mut self, layer: usize, at: usize, keys: &[f32], values: &[f32]) {
        let token = self.kv_heads * self.width;
        assert!(keys.len().is_multiple_of(token) && keys.len() == values.len(), "whole tokens");
        let end = at.checked_add(keys.len() / token);
        assert!(layer < self.layers && end.is_some_and(|end| end <= self.room()), "room for them");
        match self.format {
            KvFormat::F16 => self.write_as::<u16>(layer, at, keys, values),
            KvFormat::F32 => self.write_as::<f32>(layer, at, keys, values),
            KvFormat::Q8 => self.write_as::<i8>(layer, at, keys, values),
        }
    }

    fn write_as<N: Number>(&mut self, layer: usize, at: usize, keys: &[f32], values: &[f32]) {
        let (kv_heads, width, blocks) = (self.kv_heads, self.width, self.blocks);
        let stride = self.block_bytes();
        let (bytes, half, shares) = (self.head_bytes(), width * TOGETHER, width.div_ceil(SHARE));
        let mut kept = [N::zeroed(); SHARE];
        let heads = keys.chunks_exact(width).zip(values.chunks_exact(width));
        for (i, (key, value)) in heads.enumerate() {
            let (token, head) = (at + i / kv_heads, i % kv_heads);
            let (block, t) = (token / TOGETHER, token % TOGETHER);
            let in_part = block & ((1 << blocks) - 1);
            let first = in_part * stride + (layer * kv_heads + head) * bytes;
            let part = &mut self.parts[block >> blocks][first..][..bytes];
            let (numbers, scales) = part.split_at_mut(2 * half * size_of::<N>());
            let scales: &mut [f32] = bytemuck::cast_slice_mut(scales);
            let (to_keys, to_values) = bytemuck::cast_slice_mut(numbers).split_at_mut(half);
            let parts = key.chunks(SHARE).zip(value.chunks(SHARE)).enumerate();
            for (share, (key, value)) in parts {
                let (at, kept) = (share * SHARE * TOGETHER, &mut kept[..key.len()]);
                let scale = N::keep(key, kept);
                if N::SCALED {
                    scales[share * TOGETHER + t] = scale;
                }
                for (to, key) in to_keys[at + t..].iter_mut().step_by(TOGETHER).zip(&*kept) {
                    *to = *key;
                }
                let scale = N::keep(value, kept);
                if N::SCALED {
                    scales[(shares + share) * TOGETHER + t] = scale;
                }
                let pieces = to_values[at..].chunks_exact_mut(8 * TOGETHER);
                for (to, value) in pieces.zip(kept.as_chunks::<8>().0) {
                    to[t * 8..][..8].copy_from_slice(value);
                }
            }
        }
    }

    /// Takes over the first `tokens` tokens of another history of the same model, as they are.
    ///
    /// # Panics
    /// If it is not of the same layers, heads and format, or one of both has no memory for the tokens.
    pub fn copy_from(&mut self, other: &Self, tokens: usize) {
        let shape = |h: &Self| (h.format, h.layers, h.kv_heads, h.width);
        assert_eq!(shape(self), shape(other), "histories of one model");
        assert!(tokens <= self.room() && tokens <= other.room(), "room for them");
        let mut left = tokens.div_ceil(TOGETHER) * self.block_bytes();
        for (to, from) in self.parts.iter_mut().zip(&other.parts) {
            // Of equal length but for a last one, which has all that is left.
            let bytes = left.min(to.len()).min(from.len());
            to[..bytes].copy_from_slice(&from[..bytes]);
            left -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_memory(format: KvFormat, shape: [usize; 3], tokens: usize) -> History {
        let mut history = History::new(format, shape, tokens);
        history.reserve(tokens).unwrap();
        history
    }

    /// Memory is taken for what is held, in parts, and the last one is as long as is needed.
    #[test]
    fn memory_grows_with_the_text() {
        let shape = [28, 2, 128];
        let token = 2 * 28 * 2 * 128 * 2;
        let mut history = History::new(KvFormat::F16, shape, 8190);
        assert_eq!((history.room(), history.bytes()), (0, 0));
        let mut before = 0;
        for tokens in [1, 64, 1000, 1001, 8000, 8190] {
            history.reserve(tokens).unwrap();
            assert!(history.room() >= tokens);
            let most = (tokens * token + 2 * PART).min(8192 * token);
            assert!((tokens * token..=most).contains(&history.bytes()), "{tokens} tokens");
            assert!(history.bytes() >= before);
            before = history.bytes();
        }
        assert_eq!((history.room(), history.bytes()), (8190, 8192 * token));
        assert!(history.reserve(8191).is_err());
        // A small one takes no more than it can hold.
        let mut small = History::new(KvFormat::F32, [1, 1, 8], 20);
        small.reserve(1).unwrap();
        assert_eq!(small.bytes(), 32 * 8 * 8);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        fn refused(work: impl FnOnce()) {
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
        }
        let shape = [2, 3, 8];
        let mut history = with_memory(KvFormat::F16, shape, 32);
        let token = [1.0; 24];
        refused(|| history.write(2, 0, &token, &token));
        refused(|| history.write(0, 32, &token, &token));
        refused(|| history.write(0, usize::MAX, &token, &token));
        refused(|| history.write(0, 0, &token, &token[..23]));
        refused(|| history.write(0, 0, &token[..23], &token[..23]));
        history.write(1, 31, &token, &token);
        refused(|| history.copy_from(&with_memory(KvFormat::F16, shape, 16), 17));
        refused(|| history.copy_from(&with_memory(KvFormat::F32, shape, 16), 1));
        refused(|| history.copy_from(&with_memory(KvFormat::F16, [2, 3, 16], 16), 1));
        refused(|| History::new(KvFormat::F16, [2, 3, 8], 32).write(0, 0, &token, &token));
        for shape in [[0, 1, 8], [1, 0, 8], [1, 1, 12], [1, 1, 0], [usize::MAX, 2, 8]] {
            refused(|| drop(History::new(KvFormat::F16, shape, 32)));
        }
    }

    #[test]
    fn a_half_is_the_nearest_and_never_infinite() {
        for (value, kept) in [(1.0, 1.0), (0.1, 0.099_975_586), (1e9, 65_504.0), (-1e9, -65_504.0)]
        {
            let mut bits = [0u16];
            u16::keep(&[value], &mut bits);
            assert_eq!(bits[0].to_f32(), kept);
        }
    }

    #[test]
    fn in_8_bits_a_token_has_its_own_scales_and_may_be_written_again() {
        // Two shares of a head, the second one shorter.
        let (kv_heads, width, tokens) = (2, 40, 20);
        let n = kv_heads * width;
        let values: Vec<f32> = (0..tokens * n)
            .map(|i| ((i * i) as f32 % 97.0 - 48.0) * 10f32.powi(i as i32 % 7))
            .collect();
        let mut all = with_memory(KvFormat::Q8, [1, kv_heads, width], tokens);
        all.write(0, 0, &values, &values);
        // In another order, and a wrong token first.
        let mut apart = with_memory(KvFormat::Q8, [1, kv_heads, width], tokens);
        apart.write(0, 3, &values[..n], &values[n..2 * n]);
        for t in (0..tokens).rev() {
            apart.write(0, t, &values[t * n..][..n], &values[t * n..][..n]);
        }
        assert_eq!(*all.parts[0], *apart.parts[0]);
        for (i, value) in values.iter().enumerate() {
            let (t, head, at) = (i / n, i / width % kv_heads, i % width);
            let shares = width.div_ceil(SHARE);
            let head = all.head::<i8>(0, head);
            let ((keys, values), (of_keys, of_values)) =
                (head.block(t / TOGETHER), head.scales(t / TOGETHER));
            assert_eq!((of_keys.len(), of_values.len()), (shares * TOGETHER, shares * TOGETHER));
            let scale = at / SHARE * TOGETHER + t % TOGETHER;
            let key = keys[at * TOGETHER + t % TOGETHER].to_f32() * of_keys[scale];
            let found =
                values[(at / 8 * TOGETHER + t % TOGETHER) * 8 + at % 8].to_f32() * of_values[scale];
            assert_eq!(key, found);
            assert!((key - value).abs() <= of_keys[scale] * 0.5001, "{key} for {value}");
        }
    }

    #[test]
    fn a_copy_over_several_parts_has_every_token() {
        // A block is larger than a part.
        let (shape, tokens) = ([512, 1, 128], 70);
        let mut from = with_memory(KvFormat::F32, shape, 100);
        assert!(from.parts.len() > 4);
        let values: Vec<f32> = (0..tokens * 128).map(|i| i as f32).collect();
        from.write(511, 0, &values, &values);
        let mut to = with_memory(KvFormat::F32, shape, tokens);
        to.copy_from(&from, tokens);
        for block in 0..tokens.div_ceil(TOGETHER) {
            let one = |h: &History| h.head::<f32>(511, 0).block(block).1.to_vec();
            assert_eq!(one(&to), one(&from));
            assert!(one(&to).iter().any(|x| *x > 0.0));
        }
    }

    #[test]
    fn a_copy_has_the_tokens_and_nothing_else() {
        let shape = [2, 3, 8];
        let mut from = with_memory(KvFormat::F32, shape, 40);
        for layer in 0..2 {
            let keys: Vec<f32> = (0..40 * 24).map(|i| (i + layer) as f32 + 1.0).collect();
            from.write(layer, 0, &keys, &keys);
        }
        let mut to = with_memory(KvFormat::F32, shape, 64);
        to.copy_from(&from, 17);
        for (layer, head, block) in [(0, 0, 0), (1, 2, 1)] {
            let one = |h: &History| h.head::<f32>(layer, head).block(block).0.to_vec();
            assert_eq!(one(&to), one(&from));
        }
        assert!(to.head::<f32>(0, 0).block(2).0.iter().all(|x| *x == 0.0));
    }
}
