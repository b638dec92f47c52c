//! The state of one sequence.

use crate::Error;

/// Keys and values of the tokens of one sequence, for one model.
///
/// Room for the whole capacity is reserved at once, as zero pages that the system provides when
/// they are first written: an unused cache takes no memory.
#[derive(Debug)]
pub struct KvCache {
    len: usize,
    /// Most tokens that were ever in the cache: what the system has provided.
    peak: usize,
    capacity: usize,
    bytes_per_token: usize,
    /// Which model's weights made the content.
    pub(crate) model: usize,
    pub(crate) layers: Vec<LayerCache>,
}

/// One layer's part: `capacity × kv_heads × head_width` each.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

impl KvCache {
    pub(crate) fn new(model: usize, layers: usize, kv_width: usize, capacity: usize) -> Self {
        let layer = || LayerCache {
            keys: vec![0.0; capacity * kv_width],
            values: vec![0.0; capacity * kv_width],
        };
        Self {
            len: 0,
            peak: 0,
            capacity,
            bytes_per_token: layers * kv_width * 2 * size_of::<f32>(),
            model,
            layers: (0..layers).map(|_| layer()).collect(),
        }
    }

    /// Tokens in the cache.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is in the cache.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all tokens from `len` on; O(1). Does nothing when there are fewer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes of memory that this cache has really taken so far (it grows as tokens come, and does
    /// not shrink when they are forgotten).
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.peak * self.bytes_per_token
    }

    /// Checks that `more` tokens have room.
    pub(crate) fn check_room(&self, more: usize) -> Result<(), Error> {
        let wanted = self.len + more;
        if wanted > self.capacity {
            return Err(Error::ContextFull { wanted, capacity: self.capacity });
        }
        Ok(())
    }

    /// Records that `more` tokens were written.
    pub(crate) fn advance(&mut self, more: usize) {
        self.len += more;
        self.peak = self.peak.max(self.len);
    }
}
