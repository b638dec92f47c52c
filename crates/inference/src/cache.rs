//! The state of one sequence.

/// Keys and values of the tokens of one sequence, for one model.
#[derive(Debug)]
pub struct KvCache {
    len: usize,
    capacity: usize,
}

impl KvCache {
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

    /// Bytes of memory that this cache has really taken so far (it grows as tokens come).
    #[must_use]
    pub fn bytes(&self) -> usize {
        0
    }
}
