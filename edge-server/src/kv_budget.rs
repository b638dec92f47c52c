//! Memory for keys and values, reserved block by block before it is written. Pure.
//!
//! A cache holds what it ever wrote until it is dropped, so a reservation only grows, and ends with its
//! cache: what is reserved is never less than what is there.

use std::collections::HashMap;
use tandem_protocol::SessionId;

/// Tokens of a block.
const BLOCK: usize = 64;

/// Whose cache it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// What the verifier computed of a conversation.
    Verifier(SessionId),
    /// What the edge's own drafter has read of it.
    Drafter(SessionId),
}

/// Tokens of whole blocks that hold `tokens`, of a context of `context`.
pub(crate) fn in_blocks(tokens: usize, context: usize) -> usize {
    tokens.div_ceil(BLOCK).saturating_mul(BLOCK).min(context)
}

/// What is reserved of a limit, in bytes.
pub(crate) struct KvBudget {
    limit: usize,
    reserved: HashMap<Holder, usize>,
    total: usize,
}

impl KvBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, reserved: HashMap::new(), total: 0 }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are reserved, at most the limit.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Raises a reservation to `bytes`; false, and nothing changes, if that is more than there is.
    pub(crate) fn reserve(&mut self, holder: Holder, bytes: usize) -> bool {
        let before = self.reserved.get(&holder).copied().unwrap_or(0);
        if bytes <= before {
            return true;
        }
        let more = bytes - before;
        if more > self.limit - self.total {
            return false;
        }
        self.total += more;
        self.reserved.insert(holder, bytes);
        true
    }

    /// Gives a dropped cache's memory back; true if it had any.
    pub(crate) fn release(&mut self, holder: Holder) -> bool {
        let bytes = self.reserved.remove(&holder).unwrap_or(0);
        self.total -= bytes;
        bytes > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifier(n: u8) -> Holder {
        Holder::Verifier(SessionId([n; 16]))
    }

    #[test]
    fn blocks_are_whole_and_within_the_context() {
        let blocks = [0, 1, 64, 65, 999, usize::MAX].map(|tokens| in_blocks(tokens, 1000));
        assert_eq!(blocks, [0, 64, 64, 128, 1000, 1000]);
    }

    #[test]
    fn the_sum_never_exceeds_the_limit() {
        let mut budget = KvBudget::new(100);
        let drafter = Holder::Drafter(SessionId([1; 16]));
        assert!(budget.reserve(verifier(1), 60) && budget.reserve(drafter, 30));
        assert!(!budget.reserve(verifier(2), 11), "101 of 100");
        assert_eq!(budget.total(), 90);
        assert!(budget.reserve(verifier(2), 10));
        // It only grows, by what it has not.
        assert!(budget.reserve(verifier(1), 20) && budget.total() == 100);
        assert!(!budget.reserve(verifier(1), 61));
        assert!(!budget.reserve(verifier(1), usize::MAX), "nothing overflows");
        assert!(budget.release(drafter) && !budget.release(drafter));
        assert!(budget.reserve(verifier(1), 90) && budget.total() == 100);
        assert!(budget.release(verifier(1)) && budget.release(verifier(2)));
        assert_eq!(budget.total(), 0);
    }
}
