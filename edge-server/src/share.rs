//! What clients share: the rows of a step, and what was computed of texts that begin alike. Pure.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use tandem_protocol::SessionId;
use tandem_speculation::{TokenId, common_beginning};

/// Whose a session is: a paired device; `None` is whoever holds the edge's own token, or anyone on an
/// edge without one.
pub(crate) type Owner = Option<Arc<str>>;

/// Who gets one share, however many conversations it has: a paired device, or else a connection.
pub(crate) fn party(owner: &Owner, connection: u64) -> u64 {
    match owner {
        Some(device) => {
            let mut hasher = DefaultHasher::new();
            device.hash(&mut hasher);
            hasher.finish() | 1 << 63
        }
        None => connection,
    }
}

/// Tokens that are worth a copy.
pub(crate) const WORTH: usize = 16;

/// Rows of one step at most, prompts and alternatives included. Their logits bound its memory: with a
/// vocabulary of 150,000 they are 150 MB.
pub(crate) const STEP_ROWS: usize = 256;

/// Sequences in one step at most; the others wait for the next.
const MAX_BATCH: usize = 64;

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

/// Which of the rounds `(whose, rows)`, the oldest first, are in a step of `budget` rows.
///
/// The oldest always is. Then those go first whose party has the fewest rows in the step, so that wide
/// rounds take their time from their own party and not from others; one that does not fit waits, and is the
/// oldest in the end.
pub(crate) fn choose_rounds<P: Hash + Eq + Copy>(
    rounds: &[(P, usize)],
    mut budget: usize,
) -> Vec<usize> {
    let mut taken: HashMap<P, usize> = HashMap::new();
    let mut left: Vec<usize> = (0..rounds.len()).collect();
    let mut chosen = Vec::new();
    while chosen.len() < MAX_BATCH {
        let first = chosen.is_empty();
        let fits = |&&i: &&usize| first || rounds[i].1 <= budget;
        let share = |i: usize| taken.get(&rounds[i].0).copied().unwrap_or(0);
        // The first of equal ones is the oldest.
        let Some(&next) = left.iter().filter(fits).min_by_key(|&&i| share(i)) else { break };
        left.retain(|&i| i != next);
        let (party, rows) = rounds[next];
        *taken.entry(party).or_default() += rows;
        budget = budget.saturating_sub(rows);
        chosen.push(next);
    }
    chosen
}

/// A prompt that is being computed, for [`behind`].
pub(crate) struct Reading<'a> {
    pub owner: &'a Owner,
    pub tokens: &'a [TokenId],
    /// How many of them are computed.
    pub known: usize,
}

/// Which of these prompts, in the order of their admission, wait for one before them: it computes a
/// beginning that they share. Nobody waits for one that waits, so whoever leaves, somebody goes on.
pub(crate) fn behind(prompts: &[Reading<'_>]) -> Vec<bool> {
    let mut wait = vec![false; prompts.len()];
    for (i, own) in prompts.iter().enumerate() {
        wait[i] = prompts[..i].iter().zip(&wait).any(|(other, waits)| {
            if *waits || other.owner != own.owner {
                return false;
            }
            // The last token of a prompt is left to its first round.
            let given = &other.tokens[..other.tokens.len().saturating_sub(1)];
            let shared = common_beginning(given, own.tokens);
            // Otherwise there is no more to wait for.
            shared >= own.known + WORTH && other.known < shared
        });
    }
    wait
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
    fn rounds_take_turns_by_rows() {
        let rounds = [(1, 1), (1, 1), (1, 1), (2, 1), (3, 1), (2, 1)];
        assert_eq!(choose_rounds(&rounds, 9), [0, 3, 4, 1, 5, 2]);
        // One with wide rounds has no more than others with narrow ones, once the oldest is in.
        let wide = [(1, 65), (1, 65), (2, 5), (2, 5), (2, 5), (3, 1)];
        assert_eq!(choose_rounds(&wide, 80), [0, 2, 5, 3]);
        assert_eq!(
            choose_rounds(&wide[2..], 10),
            [0, 3],
            "what is left is too little for the rest"
        );
        // The oldest is never left out, and no step has more rows than it may.
        assert_eq!(choose_rounds(&[(1, 65), (2, 1)], 64), [0]);
        let many: Vec<(usize, usize)> = (0..64).map(|party| (party, 65)).collect();
        assert_eq!(choose_rounds(&many, STEP_ROWS).len(), STEP_ROWS / 65);
        assert_eq!(choose_rounds(&[(1, 1); 99], STEP_ROWS).len(), MAX_BATCH);
        assert!(choose_rounds::<u8>(&[], 9).is_empty());
    }

    #[test]
    fn a_device_is_one_party_and_so_is_a_connection_without_one() {
        let (a, b): (Owner, Owner) = (Some("a".into()), Some("b".into()));
        assert_eq!(party(&a, 1), party(&a, 2));
        assert_ne!(party(&a, 1), party(&b, 1));
        assert_ne!(party(&None, 1), party(&None, 2));
    }

    #[test]
    fn equal_beginnings_wait_for_the_first() {
        let (a, b): (Owner, Owner) = (Some("a".into()), Some("b".into()));
        let long = ids(0..200);
        let mut other = ids(0..100);
        other.extend(ids(500..600));
        let reading = |owner, tokens, known| Reading { owner, tokens, known };
        let waits = |prompts: &[Reading<'_>]| behind(prompts);
        let four = [0; 4].map(|known| reading(&a, &long, known));
        assert_eq!(waits(&four), [false, true, true, true]);
        // Another owner's is not waited for, nor one that begins otherwise, nor a few tokens.
        assert_eq!(waits(&[reading(&a, &long, 0), reading(&b, &long, 0)]), [false, false]);
        let apart = ids(300..400);
        assert_eq!(waits(&[reading(&a, &long, 0), reading(&a, &apart, 0)]), [false, false]);
        assert_eq!(waits(&[reading(&a, &long, 0), reading(&a, &long, 190)]), [false, false]);
        // What is shared is there: it is taken over now.
        assert_eq!(waits(&[reading(&a, &long, 100), reading(&a, &other, 0)]), [false, false]);
        assert_eq!(waits(&[reading(&a, &long, 99), reading(&a, &other, 0)]), [false, true]);
        // When the first leaves the second is the first.
        assert_eq!(waits(&four[1..]), [false, true, true]);
        // One that waits for the second alone goes on, and waits no more once that goes on itself.
        let chain = [reading(&a, &long, 0), reading(&a, &other, 0), reading(&a, &other, 0)];
        assert_eq!(waits(&chain), [false, true, true]);
    }
}
