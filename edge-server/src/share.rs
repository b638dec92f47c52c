//! What clients share: the rows of a step, and what was computed of texts that begin alike. Pure.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use tandem_protocol::SessionId;
use tandem_speculation::{TokenId, common_beginning};

/// Whose a session is: a paired device; `None` is whoever holds the edge's own token, or anyone on an
/// edge without one.
pub(crate) type Owner = Option<Arc<str>>;

/// Tokens that are worth a copy.
const WORTH: usize = 16;

/// Prompt tokens of a step without rounds; and beside rounds those of each party.
const PREFILL_ALONE: usize = 128;
const PREFILL_BESIDE: usize = 16;

/// The session that has computed most of the beginning of `tokens`, if that is more than the first
/// `known`; with how many tokens that is.
///
/// Only the owner's own sessions count: how fast a prompt is computed would tell a device whether
/// another one has written the same.
pub(crate) fn donor<'a>(
    sessions: impl Iterator<Item = (SessionId, &'a Owner, &'a [TokenId])>,
    owner: &Owner,
    tokens: &[TokenId],
    known: usize,
) -> Option<(SessionId, usize)> {
    sessions
        .filter(|(_, of, _)| *of == owner)
        .map(|(id, _, computed)| (id, common_beginning(computed, tokens)))
        .filter(|(_, shared)| *shared >= known + WORTH)
        .max_by_key(|(_, shared)| *shared)
}

/// Divides `budget` so that nobody can get more without somebody getting less who has no more
/// (max-min fairness): small wants are met whole, the large ones get equal parts of the rest.
fn divide(wants: &[usize], mut budget: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_by_key(|&i| wants[i]);
    let mut parts = vec![0; wants.len()];
    for (done, i) in order.into_iter().enumerate() {
        // Rounded up, so that the smallest is served even where the budget is less than one each.
        parts[i] = wants[i].min(budget.div_ceil(wants.len() - done));
        budget -= parts[i];
    }
    parts
}

/// Tokens of the prompts `(whose, tokens left)` in one step, beside rounds or without.
///
/// Beside rounds it grows with the number of parties that wait for a prompt. A fixed budget would be
/// the less for each the more wait, while those that have their prompt keep the edge busy with rounds:
/// with 32 clients a prompt of 600 tokens took minutes.
pub(crate) fn prompt_budget<P: Hash + Eq + Copy>(
    prompts: &[(P, usize)],
    beside_rounds: bool,
) -> usize {
    if !beside_rounds {
        return PREFILL_ALONE;
    }
    let parties: HashSet<P> = prompts.iter().map(|(party, _)| *party).collect();
    (PREFILL_BESIDE * parties.len()).min(PREFILL_ALONE)
}

/// Divides rows among prompts `(whose, tokens left)`: first among parties, then among each one's own,
/// so that many conversations of one do not slow another's only one.
pub(crate) fn prompt_rows<P: Hash + Eq + Copy>(
    prompts: &[(P, usize)],
    budget: usize,
) -> Vec<usize> {
    let mut parties: Vec<(P, Vec<usize>)> = Vec::new();
    let mut place: HashMap<P, usize> = HashMap::new();
    for (i, (party, _)) in prompts.iter().enumerate() {
        let at = *place.entry(*party).or_insert_with(|| {
            parties.push((*party, Vec::new()));
            parties.len() - 1
        });
        parties[at].1.push(i);
    }
    let left = |own: &[usize]| own.iter().map(|&i| prompts[i].1).collect::<Vec<_>>();
    let totals: Vec<usize> = parties.iter().map(|(_, own)| left(own).iter().sum()).collect();
    let mut rows = vec![0; prompts.len()];
    for ((_, own), budget) in parties.iter().zip(divide(&totals, budget)) {
        for (&i, part) in own.iter().zip(divide(&left(own), budget)) {
            rows[i] = part;
        }
    }
    rows
}

/// Puts rounds `(whose, …)` that are in the order of their arrival into the order of service: every
/// party's first, then every party's second, and so on.
pub(crate) fn take_turns<P: Hash + Eq + Copy, T: Copy>(rounds: &mut [(P, T)]) {
    let mut seen: HashMap<P, usize> = HashMap::new();
    let mut turns: Vec<(usize, (P, T))> = rounds
        .iter()
        .map(|round| {
            let turn = seen.entry(round.0).or_default();
            *turn += 1;
            (*turn, *round)
        })
        .collect();
    // Stable: within a turn the oldest goes first.
    turns.sort_by_key(|(turn, _)| *turn);
    for (to, (_, round)) in rounds.iter_mut().zip(turns) {
        *to = round;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: std::ops::Range<u32>) -> Vec<TokenId> {
        n.map(TokenId).collect()
    }

    #[test]
    fn the_longest_beginning_of_the_same_owner_is_taken() {
        let (a, b): (Owner, Owner) = (Some("a".into()), Some("b".into()));
        let (short, long, other) = (ids(0..40), ids(0..60), ids(0..100));
        let sessions = [(1, &a, &short), (2, &a, &long), (3, &b, &other)]
            .map(|(id, owner, tokens)| (SessionId([id; 16]), owner, tokens.as_slice()));
        let tokens = ids(0..200);
        let found = |owner: &Owner, known| {
            donor(sessions.into_iter(), owner, &tokens, known).map(|(id, n)| (id.0[0], n))
        };
        assert_eq!(found(&a, 0), Some((2, 60)));
        assert_eq!(found(&a, 44), Some((2, 60)));
        assert_eq!(found(&a, 45), None, "not worth a copy");
        assert_eq!(found(&b, 0), Some((3, 100)));
        assert_eq!(found(&None, 0), None, "no other owner's");
    }

    #[test]
    fn rows_are_divided_between_parties_first() {
        // A long prompt of one, a short one of another.
        assert_eq!(prompt_rows(&[(1, 4000), (2, 30)], 128), [98, 30]);
        // Three of one, one of another: half for each party.
        let many = [(1, 500), (1, 500), (2, 500), (1, 500)];
        let rows = prompt_rows(&many, 128);
        assert_eq!(rows[2], 64);
        assert_eq!(rows.iter().sum::<usize>(), 128);
        // Less than one row each.
        assert_eq!(prompt_rows(&[(1, 9), (2, 9), (3, 9)], 1).iter().sum::<usize>(), 1);
        assert_eq!(prompt_rows(&[(1, 3)], 16), [3]);
        assert!(prompt_rows::<u8>(&[], 16).is_empty());
    }

    /// Steps until the longest of `parties` prompts of 600 tokens is computed beside rounds.
    fn steps(parties: usize) -> usize {
        let mut left: Vec<(usize, usize)> = (0..parties).map(|party| (party, 600)).collect();
        let mut steps = 0;
        while !left.is_empty() {
            let rows = prompt_rows(&left, prompt_budget(&left, true));
            for ((_, left), rows) in left.iter_mut().zip(rows) {
                *left -= rows;
            }
            left.retain(|(_, left)| *left > 0);
            steps += 1;
        }
        steps
    }

    #[test]
    fn a_prompt_does_not_starve_beside_rounds() {
        assert_eq!(steps(1), 38, "small pieces: a round waits for no more than 16 rows");
        assert_eq!(steps(8), 38, "others that wait do not make it slower");
        assert!(steps(24) <= 24 * 600 / PREFILL_ALONE + 24, "{}", steps(24));
        // Several conversations of one party are one.
        assert_eq!(prompt_budget(&[(1, 9), (1, 9), (2, 9)], true), 2 * PREFILL_BESIDE);
        assert_eq!(prompt_budget(&[(1, 9)], false), PREFILL_ALONE);
    }

    #[test]
    fn rounds_take_turns() {
        let mut rounds = [(1, 'a'), (1, 'b'), (1, 'c'), (2, 'd'), (3, 'e'), (2, 'f')];
        take_turns(&mut rounds);
        assert_eq!(rounds.map(|r| r.1), ['a', 'd', 'e', 'b', 'f', 'c']);
    }
}
