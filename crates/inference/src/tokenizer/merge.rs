//! Joining the pieces of a word, the best neighbours first: byte-pair encoding by the rank of a merge,
//! SentencePiece by the score of what comes out.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Two neighbours that can be joined.
struct Candidate<P, T> {
    priority: P,
    /// Places of the neighbours.
    at: [usize; 2],
    /// What they were when this was found: others by now, and it is void.
    were: [T; 2],
    joined: T,
}

impl<P: Ord, T> Ord for Candidate<P, T> {
    /// The highest priority first, then the leftmost place.
    fn cmp(&self, other: &Self) -> Ordering {
        self.priority.cmp(&other.priority).then_with(|| other.at[0].cmp(&self.at[0]))
    }
}

impl<P: Ord, T> PartialOrd for Candidate<P, T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P: Ord, T> PartialEq for Candidate<P, T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<P: Ord, T> Eq for Candidate<P, T> {}

/// Joins neighbours until none can be joined. `join` says what two become and how soon; a joined piece
/// must differ from both. Time n log n.
pub(super) fn merge<P: Ord, T: Copy + PartialEq>(
    pieces: Vec<T>,
    join: impl Fn(T, T) -> Option<(P, T)>,
) -> Vec<T> {
    const NONE: usize = usize::MAX;
    let mut alive: Vec<Option<T>> = pieces.into_iter().map(Some).collect();
    let count = alive.len();
    // A chain through those that are left.
    let mut before: Vec<usize> = (0..count).map(|i| i.checked_sub(1).unwrap_or(NONE)).collect();
    let mut after: Vec<usize> = (1..=count).map(|i| if i < count { i } else { NONE }).collect();
    let mut heap = BinaryHeap::new();
    let candidate = |alive: &[Option<T>], a: usize, b: usize| {
        let were = [*alive.get(a)?, *alive.get(b)?];
        let were = [were[0]?, were[1]?];
        let (priority, joined) = join(were[0], were[1])?;
        Some(Candidate { priority, at: [a, b], were, joined })
    };
    heap.extend((1..count).filter_map(|i| candidate(&alive, i - 1, i)));
    while let Some(Candidate { at: [a, b], were, joined, .. }) = heap.pop() {
        if after[a] != b || [alive[a], alive[b]] != were.map(Some) {
            continue;
        }
        (alive[a], alive[b]) = (Some(joined), None);
        after[a] = after[b];
        if after[b] != NONE {
            before[after[b]] = a;
        }
        heap.extend(candidate(&alive, before[a], a));
        heap.extend(candidate(&alive, a, after[a]));
    }
    alive.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces are numbers; two equal ones become their sum, the smaller the sooner.
    fn sums(pieces: &[u32]) -> Vec<u32> {
        merge(pieces.to_vec(), |a, b| (a == b).then(|| (std::cmp::Reverse(a), a + b)))
    }

    #[test]
    fn the_best_neighbours_are_joined_first_and_of_equals_the_leftmost() {
        assert!(sums(&[]).is_empty());
        assert_eq!(sums(&[1]), [1]);
        assert_eq!(sums(&[1, 1, 1]), [2, 1]);
        assert_eq!(sums(&[2, 2, 1, 1]), [4, 2]);
        assert_eq!(sums(&[4, 2, 1, 1]), [8]);
        assert_eq!(sums(&[1; 1 << 12]), [1 << 12]);
    }
}
