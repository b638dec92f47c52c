//! Auto mode: which way of answering is fastest now, by what was measured on this link with these
//! machines and this text.
//!
//! Each way of drafting has its own estimates of what drafting and verifying take, because a device
//! and an edge that share a machine slow each other down while both compute. What is known of the
//! text and of the network is common to all: ways are compared by what the same tokens, those of late,
//! would have taken in each ([`Past`]), and at first by the closed forms of [`DraftLength`]; of a way
//! that was used, also by how far reality was from that. So a way that was tried in a hard passage does
//! not look slow. A change must promise a notable gain and then gets time to show it, so that noise
//! does not make it swing.
//!
//! **Exactness.** The choice looks at finished rounds alone. Every way draws the next token from the
//! verifier's distribution given the text so far, whatever the past, so a choice by the past changes
//! nothing. Drafting is left only when no draft is on its way, and a stream's tokens that were still
//! on theirs are dropped unseen, so nothing is thrown away because of what it says.

use crate::replay::{Branch, Past, Rules};
use crate::{
    Alternative, Calibration, DraftLength, DraftStop, Lookup, RoundTimes, TokenId, alternative_at,
    lookup,
};

/// A way of answering with an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The edge writes token by token.
    Stream,
    /// Draft, wait for the verdict, draft.
    Turns,
    /// Drafting goes on while verdicts are on their way.
    Ahead,
    /// The edge drafts for itself, where it has a drafter.
    Colocated,
}

const WAYS: [Way; 4] = [Way::Stream, Way::Turns, Way::Ahead, Way::Colocated];

/// Where a draft came from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// The drafter's model.
    Model(Modelled<'a>),
    /// Prompt look-up.
    Lookup {
        /// See [`Lookup::matched`].
        matched: usize,
        /// Tokens of the draft.
        drafted: usize,
    },
}

impl<'a> Source<'a> {
    /// A draft of the drafter's model without alternatives.
    #[must_use]
    pub fn model(confidences: &'a [f32]) -> Self {
        Self::Model(Modelled { confidences, ..Modelled::default() })
    }
}

/// A draft of the drafter's model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Modelled<'a> {
    /// How sure the drafter was at each token.
    pub confidences: &'a [f32],
    /// Alternatives that came with it.
    pub alternatives: usize,
    /// Whether the alternative at the rejected place was right, if there was one.
    pub followed: Option<bool>,
}

impl<'a> Modelled<'a> {
    /// A draft of which `tokens` tokens came, `accepted` of them drafted: one more than the correction
    /// only behind an alternative.
    #[must_use]
    pub fn of(
        confidences: &'a [f32],
        alternatives: &[Alternative],
        accepted: usize,
        tokens: usize,
    ) -> Self {
        let beside = alternative_at(alternatives, accepted);
        let followed = beside.map(|_| tokens > accepted + 1);
        Self { confidences, alternatives: alternatives.len(), followed }
    }
}

/// A change of the way, with the expected milliseconds a token that led to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// The new way.
    pub to: Way,
    /// What a token takes in the way that is left.
    pub was_ms: f64,
    /// What it should take in the new one.
    pub expected_ms: f64,
    /// Whether that was measured, or follows from the other figures.
    pub measured: bool,
}

/// What is known of one way.
#[derive(Clone, Debug)]
struct Seen {
    length: DraftLength,
    /// What rounds took, and what they should have taken by the closed form for their γ. Sums that
    /// forget: rounds ahead differ much in length, so the mean of their ratios would be another.
    took: (f64, f64),
    rounds: u32,
    /// The planner's count of tokens when it was last used.
    at: u64,
}

impl Seen {
    fn record(&mut self, expected_ms: f64, wall_ms: f64) {
        if !(wall_ms.is_finite() && expected_ms > 0.0) {
            return;
        }
        // One round that the system interrupted must not decide.
        self.took.0 = self.took.0 * TOOK_MEMORY + wall_ms.clamp(0.0, 5.0 * expected_ms);
        self.took.1 = self.took.1 * TOOK_MEMORY + expected_ms;
        self.rounds += 1;
    }

    fn known(&self) -> bool {
        self.rounds >= ENOUGH
    }

    /// What rounds take beyond what they should, as a factor.
    fn factor(&self) -> f64 {
        let took = if self.rounds == 0 { 1.0 } else { self.took.0 / self.took.1.max(1e-9) };
        took.clamp(0.2, 5.0)
    }
}

/// Chooses the way, and γ with it. Lives as long as the link: what one answer measured helps the next.
#[derive(Clone, Debug)]
pub struct Planner {
    turns: Seen,
    ahead: Seen,
    calibration: Calibration,
    past: Past,
    /// Milliseconds a token in turns, ahead and on the edge alone by the past, without what reality takes beside; and the
    /// count of tokens at which that was found.
    replayed: Option<([f64; 3], u64)>,
    /// Weighted trials and acceptances of looked-up tokens, by how many tokens before them matched.
    lookups: [(f64, f64); LOOKUP_PRIOR.len()],
    /// The same of alternatives at rejected places, and how many were right.
    alternatives: (f64, f64),
    max: usize,
    /// Milliseconds of a plain token, of how many, and when that was measured.
    plain: Option<(f64, u32, u64)>,
    /// The edge has a drafter of its own.
    offers_colocated: bool,
    /// The edge is on this machine.
    shares_machine: bool,
    /// Milliseconds that the edge's own rounds took beside verifying, the tokens that it drafted in
    /// them, and when that was measured.
    colocated: Option<(f64, f64, u64)>,
    way: Way,
    /// Why it is this way, if it was chosen.
    reason: Option<Change>,
    /// Tokens in all, and when the present way began.
    tokens: u64,
    since: u64,
    /// The drafts since the last correction.
    branch: Branch,
}

/// Tokens that a way gets before it is judged. A stream's take all the same, so a few say it.
const TRIAL: f64 = 64.0;
const STREAM_TRIAL: f64 = 32.0;
/// Rounds that say what a way takes.
const ENOUGH: u32 = 6;
/// Less of a gain is noise.
const NOTABLE: f64 = 0.01;
/// A way that was found to be slower is given another chance after this many tokens.
const STALE: u64 = 5000;
/// A stream says nothing about acceptance, so with every so many tokens of it the drafts get more of
/// the benefit of the doubt: the text may have become easier. The worse they looked, the later they
/// are tried again, and a trial costs little of what was written since.
const DOUBT: u64 = 128;
const BENEFIT: f64 = 0.96;
/// While drafting, what is known of the other ways also grows old, though less. Near ties are so tried
/// in turns, which costs little.
const SMALL_BENEFIT: f64 = 0.94;
/// What looked more than twice as slow as the stream is not tried again in it.
const MOST_BENEFIT: f64 = 0.5;
/// Tokens of a draft at most where the length is chosen: longer ones never paid in a measurement.
pub const MAX_CHOSEN: usize = 16;
/// How much of a round's weight the next one leaves, for what rounds took.
const TOOK_MEMORY: f64 = 0.99;
/// Tokens after which the past is looked at again.
const REPLAY_EVERY: u64 = 16;
/// How long an edge's own drafter takes by the device's while it was not tried: little, for a trial
/// costs little and says what it is.
const COLOCATED: f64 = 0.3;
/// What drafting ahead promises while it was not tried on this link: its closed form knows nothing
/// of drafts that leave at the edge's pace, and a short trial costs little.
const UNTRIED: f64 = 0.9;
/// What is accepted of looked-up tokens at first, by the length of the match.
const LOOKUP_PRIOR: [f64; 9] = [0.1, 0.1, 0.1, 0.45, 0.55, 0.65, 0.7, 0.75, 0.85];
/// How many trials that is worth, and how much of their weight the next one leaves.
const LOOKUP_TRIALS: f64 = 4.0;
const LOOKUP_MEMORY: f64 = 0.98;
/// How many alternatives are right at first, how many trials that is worth, and their memory.
const ALTERNATIVE_PRIOR: f64 = 0.45;
const ALTERNATIVE_TRIALS: f64 = 8.0;
const ALTERNATIVE_MEMORY: f64 = 0.99;
/// Rounds of a fixed length, from which costs are learnt, before drafts follow confidence.
const FIRST_ROUNDS: u32 = 4;

impl Default for Planner {
    fn default() -> Self {
        Self::new(MAX_CHOSEN)
    }
}

impl Planner {
    /// Drafts have at most `max` tokens.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let length = DraftLength::new(max);
        let seen = Seen { length, took: (0.0, 0.0), rounds: 0, at: 0 };
        Self {
            turns: seen.clone(),
            ahead: seen,
            calibration: Calibration::default(),
            past: Past::default(),
            replayed: None,
            lookups: LOOKUP_PRIOR.map(|p| (LOOKUP_TRIALS, LOOKUP_TRIALS * p)),
            alternatives: (ALTERNATIVE_TRIALS, ALTERNATIVE_TRIALS * ALTERNATIVE_PRIOR),
            max,
            plain: None,
            offers_colocated: false,
            shares_machine: false,
            colocated: None,
            way: Way::Turns,
            reason: None,
            tokens: 0,
            since: 0,
            branch: Branch::default(),
        }
    }

    /// The way to go on with.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// The faster way in which the device drafts nothing, whatever the present one is.
    #[must_use]
    pub fn without_drafter(&self) -> Way {
        let faster = self.expected(Way::Colocated) < self.expected(Way::Stream);
        if self.offers_colocated && faster { Way::Colocated } else { Way::Stream }
    }

    /// The change that led to the present way; `None` while it is the first.
    #[must_use]
    pub fn reason(&self) -> Option<Change> {
        self.reason
    }

    /// The rule for the next draft that waits for its verdict or, drafting ahead, for the first one
    /// after a correction.
    ///
    /// In turns, a further token costs its drafting and its row, and gives a token with the chance
    /// that it and all before it are accepted; it pays while that is worth more than the time that a
    /// token takes.
    ///
    /// Ahead, a further token in the first draft keeps the edge waiting for `t_d`. Without it the
    /// edge ends this pass that much sooner and may need another one for it, at the end of a branch
    /// that goes on for `n = t_v/t_d` tokens a pass. So it pays while
    /// `t_d·(1 − α^n) < t_v·reach·(1 − α)`.
    #[must_use]
    pub fn draft_stop(&self, way: Way) -> DraftStop {
        let length = self.costs(way);
        if length.rounds() < FIRST_ROUNDS {
            let gamma = if way == Way::Ahead { length.next_ahead() } else { length.next() };
            return DraftStop::fixed(gamma);
        }
        self.stop_by(length, way).with_alternatives(self.needed(way))
    }

    fn stop_by(&self, length: &DraftLength, way: Way) -> DraftStop {
        let (draft, acceptance) = (length.draft(), length.acceptance());
        let least = if way == Way::Ahead {
            let pace = length.pass();
            let per = (pace / draft.max(1e-6)).max(1.0);
            draft * (1.0 - acceptance.powf(per)) / (pace * (1.0 - acceptance)).max(1e-9)
        } else {
            (draft + length.row()) / (acceptance * length.best_in_turns().1).max(1e-9)
        };
        DraftStop::unlikely(least, self.max, self.calibration.clone())
    }

    /// What drafting and verifying take in a way of drafting.
    fn costs(&self, way: Way) -> &DraftLength {
        if way == Way::Ahead { &self.ahead.length } else { &self.turns.length }
    }

    /// The chance with which an alternative must be needed: it costs a row, and where it is needed it
    /// brings a token as often as alternatives are right.
    #[must_use]
    pub fn needed(&self, way: Way) -> f64 {
        let length = self.costs(way);
        if length.rounds() < FIRST_ROUNDS {
            return 1.0;
        }
        self.needed_by(length, self.expected(way))
    }

    fn needed_by(&self, length: &DraftLength, ms: f64) -> f64 {
        let (trials, right) = self.alternatives;
        length.row() * trials / (right * ms).max(1e-9)
    }

    /// A draft by look-up of at most `most` tokens, where a token by it should cost less than by the
    /// drafter's model: it needs no time, but is right less often unless the text repeats itself.
    #[must_use]
    pub fn lookup(&self, way: Way, text: &[TokenId], most: usize) -> Option<Lookup> {
        let length = self.costs(way);
        if length.rounds() < FIRST_ROUNDS {
            return None;
        }
        let mut found = lookup(text, most.min(self.max))?;
        let (trials, accepted) = self.lookups[found.matched];
        let a = (accepted / trials).clamp(0.01, 0.99);
        let cost = |g: usize| {
            let tokens = (1.0 - a.powi(g as i32 + 1)) / (1.0 - a);
            (length.round(g) - length.draft() * g as f64) / tokens
        };
        let (gamma, ms) =
            (1..=found.ids.len()).map(|g| (g, cost(g))).min_by(|a, b| a.1.total_cmp(&b.1))?;
        found.ids.truncate(gamma);
        (ms < self.expected(way)).then_some(found)
    }

    /// The rule, beside the time, for a draft behind one that is on its way.
    #[must_use]
    pub fn stop_behind(&self) -> DraftStop {
        self.any_length().with_alternatives(self.needed(Way::Ahead))
    }

    fn any_length(&self) -> DraftStop {
        DraftStop::unlikely(0.0, self.max, self.calibration.clone())
    }

    /// How long after one draft the next one behind it should leave, in milliseconds: when the edge
    /// has verified that one. `None` while the costs are unknown.
    #[must_use]
    pub fn pace(&self) -> Option<f64> {
        let length = &self.ahead.length;
        (length.rounds() >= FIRST_ROUNDS).then(|| length.pass())
    }

    /// The estimates of the way of drafting that was used last.
    #[must_use]
    pub fn length(&self) -> &DraftLength {
        let newer = self.ahead.at > self.turns.at;
        if newer { &self.ahead.length } else { &self.turns.length }
    }

    /// Records a finished speculative round of which `accepted` drafted tokens were accepted and that
    /// gave `tokens` tokens. `wall_ms` is the time since the round before ended, `None` where that
    /// holds something else, as the prompt.
    pub fn drafted(
        &mut self,
        way: Way,
        source: Source<'_>,
        accepted: usize,
        times: RoundTimes,
        tokens: usize,
        wall_ms: Option<f64>,
    ) {
        self.tokens += tokens as u64;
        let seen = if way == Way::Ahead { &mut self.ahead } else { &mut self.turns };
        seen.at = self.tokens;
        let drafted = match source {
            Source::Model(Modelled { confidences, alternatives, followed }) => {
                if let Some(right) = followed {
                    let (trials, sum) = &mut self.alternatives;
                    *trials = *trials * ALTERNATIVE_MEMORY + 1.0;
                    *sum = *sum * ALTERNATIVE_MEMORY + f64::from(u8::from(right));
                }
                for (i, confidence) in confidences.iter().enumerate().take(accepted + 1) {
                    self.calibration.record(*confidence, i < accepted);
                    self.past.record(*confidence, i < accepted);
                }
                seen.length.record(confidences.len(), accepted, alternatives, times);
                confidences.len()
            }
            Source::Lookup { matched, drafted } => {
                let (trials, sum) = &mut self.lookups[matched.min(LOOKUP_PRIOR.len() - 1)];
                for i in 0..drafted.min(accepted + 1) {
                    *trials = *trials * LOOKUP_MEMORY + 1.0;
                    *sum = *sum * LOOKUP_MEMORY + f64::from(u8::from(i < accepted));
                }
                seen.length.record_edge(drafted, times);
                drafted
            }
        };
        let length = &seen.length;
        let beside = match source {
            Source::Model(m) => m.alternatives,
            Source::Lookup { .. } => 0,
        };
        let mut expected = if way == Way::Ahead {
            self.branch.round(length, drafted, beside, false)
        } else {
            length.round(drafted) + length.row() * beside as f64
        };
        if matches!(source, Source::Lookup { .. }) {
            expected = (expected - length.draft() * drafted as f64).max(0.0);
        }
        if way != Way::Ahead || accepted < drafted {
            self.branch = Branch::default();
        }
        if let Some(ms) = wall_ms.filter(|_| drafted > 0) {
            seen.record(expected, ms);
        }
        self.replay_at_times();
    }

    fn replay_at_times(&mut self) {
        if self.replayed.is_none_or(|(_, at)| self.tokens - at >= REPLAY_EVERY) {
            self.replay();
        }
    }

    /// Looks again what the past would have taken.
    fn replay(&mut self) {
        let now = self.length();
        let by = |way: Way| {
            let costs = self.present_costs(way, now);
            let (trials, right) = self.alternatives;
            let ms = if way == Way::Ahead { costs.best_ahead().1 } else { costs.best_in_turns().1 };
            let needed = self.needed_by(&costs, ms);
            let rules = Rules {
                stop: self.stop_by(&costs, way).with_alternatives(needed),
                behind: self.any_length().with_alternatives(needed),
                costs: &costs,
                right: right / trials,
                shared: self.thought_shared(),
            };
            if way == Way::Ahead { self.past.ahead(&rules) } else { self.past.in_turns(&rules) }
        };
        let all = by(Way::Turns).zip(by(Way::Ahead)).zip(by(Way::Colocated));
        self.replayed = all.map(|((turns, ahead), edge)| ([turns, ahead, edge], self.tokens));
    }

    /// Records a plain token of the edge; `wall_ms` as in [`Self::drafted`].
    pub fn streamed(&mut self, wall_ms: Option<f64>) {
        // The first of a stream was also on its way.
        let asked = self.way == Way::Stream && self.tokens == self.since;
        self.tokens += 1;
        self.branch = Branch::default();
        if let Some(ms) = wall_ms.filter(|ms| ms.is_finite() && !asked) {
            let (before, n, _) = self.plain.unwrap_or((ms, 0, 0));
            // One that the system interrupted must not decide.
            let ms = ms.min(4.0 * before);
            let weight = (1.0 / f64::from(n + 1)).max(0.05);
            self.plain = Some((before + weight * (ms - before), n.saturating_add(1), self.tokens));
        }
    }

    /// Says whether the edge is on this machine, so that drafting ahead would slow it down.
    pub fn share_machine(&mut self, shares: bool) {
        self.shares_machine = shares;
    }

    /// Says whether the edge has a drafter of its own.
    pub fn offer_colocated(&mut self, offered: bool) {
        self.offers_colocated = offered;
        if !offered {
            self.colocated = None;
            if self.way == Way::Colocated {
                (self.way, self.reason, self.since) = (Way::Turns, None, self.tokens);
            }
        }
    }

    /// Records a round of the edge alone that drafted `drafted` tokens itself, of which `accepted` were
    /// accepted, and gave `tokens`.
    pub fn written(
        &mut self,
        drafted: usize,
        accepted: usize,
        tokens: usize,
        wall_ms: Option<f64>,
    ) {
        self.tokens += tokens as u64;
        // Its drafter may be another one than the device's, but the text is as easy or as hard.
        for seen in [&mut self.turns, &mut self.ahead] {
            seen.length.record_acceptance(drafted, accepted);
        }
        self.branch = Branch::default();
        let verify = self.turns.length.round_verify(drafted);
        if let Some(ms) = wall_ms.filter(|ms| ms.is_finite() && drafted > 0) {
            let (sum, weight, _) = self.colocated.unwrap_or_default();
            // One that the system interrupted must not decide.
            let known = if weight > 0.0 { sum / weight * drafted as f64 } else { 0.0 };
            let draft = (ms - verify).clamp(0.0, 8.0 * (verify + known));
            let sum = sum * TOOK_MEMORY + draft;
            self.colocated = Some((sum, weight * TOOK_MEMORY + drafted as f64, self.tokens));
        }
        self.replay_at_times();
    }

    /// Milliseconds a token in a way, as far as is known.
    fn expected(&self, way: Way) -> f64 {
        let now = self.length();
        let other = |seen: &Seen| if seen.known() { seen.factor().clamp(0.6, 1.5) } else { 1.0 };
        match way {
            Way::Stream => match self.plain {
                Some((ms, _, at)) if self.tokens - at < STALE => ms,
                _ => self.turns.length.plain(),
            },
            Way::Colocated => {
                let by_past = self.replayed.map(|([.., edge], _)| edge);
                by_past.unwrap_or_else(|| self.present_costs(way, now).best_in_turns().1)
            }
            Way::Turns => {
                let fresh = self.fresh(&self.turns);
                let factor = if fresh { self.turns.factor() } else { other(&self.ahead) };
                let by_past = self.replayed.map(|([turns, ..], _)| turns);
                by_past.unwrap_or_else(|| self.present_costs(way, now).best_in_turns().1) * factor
            }
            Way::Ahead => {
                let factor = if self.fresh(&self.ahead) {
                    self.ahead.factor()
                } else {
                    let untried = if self.shares_machine { 1.0 } else { UNTRIED };
                    other(&self.turns) * untried
                };
                let closed = || {
                    let costs = self.present_costs(way, now);
                    let shared = self.thought_shared();
                    if shared { costs.best_ahead_shared().1 } else { costs.best_ahead().1 }
                };
                let by_past = self.replayed.map(|([_, ahead, _], _)| ahead);
                by_past.unwrap_or_else(closed) * factor
            }
        }
    }

    /// What drafting and verifying take in a way of drafting, with what is known of the text and the
    /// network now.
    fn present_costs(&self, way: Way, now: &DraftLength) -> DraftLength {
        match way {
            Way::Colocated => self.edge_alone(now),
            Way::Ahead if self.fresh(&self.ahead) => self.ahead.length.with_present(now),
            Way::Turns if !self.fresh(&self.turns) => now.clone(),
            _ => self.turns.length.with_present(now),
        }
    }

    /// Whether drafting ahead is expected to slow the edge down, because that was not measured yet.
    fn thought_shared(&self) -> bool {
        self.shares_machine && !self.fresh(&self.ahead)
    }

    /// What drafting and verifying take on the edge alone.
    fn edge_alone(&self, now: &DraftLength) -> DraftLength {
        let costs = self.turns.length.with_present(now);
        let draft_ms = match self.colocated {
            Some((ms, drafted, at)) if self.tokens - at < STALE => ms / drafted,
            _ => costs.draft() * COLOCATED,
        };
        costs.with_drafter_beside(draft_ms)
    }

    fn fresh(&self, seen: &Seen) -> bool {
        seen.known() && self.tokens - seen.at < STALE
    }

    fn measured(&self, way: Way) -> bool {
        match way {
            Way::Stream => self.plain.is_some_and(|(.., at)| self.tokens - at < STALE),
            Way::Colocated => self.colocated.is_some_and(|(.., at)| self.tokens - at < STALE),
            Way::Turns => self.fresh(&self.turns),
            Way::Ahead => self.fresh(&self.ahead),
        }
    }

    /// Looks whether another way is better now. To be asked when no draft is on its way.
    pub fn choose(&mut self) -> Option<Change> {
        // Unless the first way is known well, the way back to it cannot be judged.
        let drafts = matches!(self.way, Way::Turns | Way::Ahead);
        if (drafts && !self.measured(self.way)) || self.length().rounds() < ENOUGH {
            return None;
        }
        let was_ms = self.expected(self.way);
        let doubt = (self.tokens - self.since) / DOUBT;
        let benefit = if self.way == Way::Stream {
            BENEFIT.powi(doubt as i32).max(MOST_BENEFIT)
        } else if doubt > 0 {
            SMALL_BENEFIT
        } else {
            1.0
        };
        let (to, expected_ms) = WAYS
            .into_iter()
            .filter(|way| *way != self.way)
            .filter(|way| *way != Way::Colocated || self.offers_colocated)
            .map(|way| (way, self.expected(way) * benefit))
            .min_by(|a, b| a.1.total_cmp(&b.1))?;
        let measured = self.measured(to);
        // The greater the gain, the less time the present way gets to show that it is better.
        let gain = (expected_ms / was_ms).powi(2);
        let needed = gain * if self.way == Way::Stream { STREAM_TRIAL } else { TRIAL };
        let had = (self.tokens - self.since) as f64;
        if expected_ms >= was_ms * (1.0 - NOTABLE) || had < needed {
            return None;
        }
        let now = self.length().clone();
        match to {
            Way::Stream | Way::Colocated => {}
            Way::Turns if measured => self.turns.length = self.turns.length.with_present(&now),
            Way::Ahead if measured => self.ahead.length = self.ahead.length.with_present(&now),
            Way::Turns => self.turns.begin(now),
            Way::Ahead => self.ahead.begin(self.turns.length.with_present(&now)),
        }
        (self.way, self.since, self.branch) = (to, self.tokens, Branch::default());
        self.replay();
        self.reason = Some(Change { to, was_ms, expected_ms, measured });
        self.reason
    }
}

impl Seen {
    /// A new trial, from what is known elsewhere.
    fn begin(&mut self, length: DraftLength) {
        (self.length, self.rounds) = (length, 0);
        self.took = (0.0, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::MAX_IN_FLIGHT;
    use crate::{Purpose, Randomness};
    use std::collections::VecDeque;

    /// A link and two machines whose costs are known.
    #[derive(Clone, Copy)]
    struct World {
        alpha: f64,
        draft: f64,
        link: f64,
        verify: fn(f64) -> f64,
        /// How much slower both sides are while they compute at the same time.
        contention: f64,
        /// γ in turns, if it is not the planner's.
        fixed: Option<usize>,
    }

    /// Two machines, of which one is five times as slow a step, a near link between them.
    const APART: World = World {
        alpha: 0.8,
        draft: 20.0,
        link: 20.0,
        verify: |rows| 100.0 + 2.0 * rows,
        contention: 1.0,
        fixed: None,
    };

    /// A draft and what became of it.
    #[derive(Default)]
    struct Drafted {
        confidences: Vec<f32>,
        accepted: usize,
        rejected: bool,
        alternatives: usize,
        followed: Option<bool>,
    }

    impl Drafted {
        fn rows(&self) -> f64 {
            (self.confidences.len() + self.alternatives) as f64
        }

        /// Tokens of the text without a bonus token.
        fn tokens(&self) -> usize {
            let further = usize::from(self.followed == Some(true));
            self.accepted + usize::from(self.rejected) + further
        }

        fn source(&self) -> Source<'_> {
            Source::Model(Modelled {
                confidences: &self.confidences,
                alternatives: self.alternatives,
                followed: self.followed,
            })
        }
    }

    impl World {
        /// A drafted token: how sure the drafter is of it, and whether it is accepted. Most are easy;
        /// the hard ones make the mean what it is.
        fn token(&self, random: &Randomness, at: &mut u32) -> (f32, bool) {
            *at += 1;
            let u = |i| random.uniform(Purpose::Accept, *at, i);
            let easy = (self.alpha - 0.1).max(0.05);
            let hard = ((self.alpha - easy * 0.97) / (1.0 - easy)).clamp(0.0, 1.0);
            let (confidence, chance) = if u(0) < easy { (0.98, 0.97) } else { (0.5, hard) };
            (confidence, u(1) < chance)
        }

        /// Tokens as long as the rule says, with alternatives where it wants them.
        fn draft(&self, mut stop: DraftStop, random: &Randomness, at: &mut u32) -> Drafted {
            let mut draft = Drafted::default();
            loop {
                let (confidence, hit) = self.token(random, at);
                let alternative = stop.wants_alternative(confidence);
                draft.alternatives += usize::from(alternative);
                draft.confidences.push(confidence);
                if hit && !draft.rejected {
                    draft.accepted += 1;
                } else if !draft.rejected {
                    draft.rejected = true;
                    let right = random.uniform(Purpose::Accept, *at, 2) < ALTERNATIVE_PRIOR;
                    draft.followed = alternative.then_some(right);
                }
                if draft.confidences.len() >= stop.most() || !stop.goes_on(confidence) {
                    return draft;
                }
            }
        }

        /// One piece of an answer in the way that the planner wants; its tokens and milliseconds.
        fn go(&self, planner: &mut Planner, random: &Randomness, at: &mut u32) -> (f64, f64) {
            let jitter = 1.0 + 0.1 * (random.uniform(Purpose::Bonus, *at, 1) - 0.5);
            *at += 1;
            match planner.way() {
                Way::Stream => {
                    let ms = (self.verify)(0.0) * jitter;
                    planner.streamed(Some(ms));
                    (1.0, ms)
                }
                Way::Turns => {
                    let stop = match self.fixed {
                        Some(gamma) => DraftStop::fixed(gamma),
                        None => planner.draft_stop(Way::Turns),
                    };
                    let draft = self.draft(stop, random, at);
                    let gamma = draft.confidences.len() as f64;
                    let verify_ms = (self.verify)(draft.rows()) * jitter;
                    let round_trip_ms = self.link + verify_ms;
                    let draft_ms = self.draft * gamma * jitter;
                    let times = RoundTimes { draft_ms, round_trip_ms, verify_ms };
                    let ms = draft_ms + round_trip_ms;
                    let new = draft.tokens() + usize::from(!draft.rejected);
                    let (source, accepted) = (draft.source(), draft.accepted);
                    planner.drafted(Way::Turns, source, accepted, times, new, Some(ms));
                    (new as f64, ms)
                }
                Way::Ahead => self.branch(planner, random, at, jitter * self.contention),
                Way::Colocated => {
                    let draft = self.draft(DraftStop::fixed(4), random, at);
                    let (gamma, accepted) = (draft.confidences.len(), draft.accepted);
                    let ms =
                        (self.draft / 2.0 * gamma as f64 + (self.verify)(gamma as f64)) * jitter;
                    planner.written(gamma, accepted, accepted + 1, Some(ms));
                    (accepted as f64 + 1.0, ms)
                }
            }
        }

        /// From one correction to the next, drafts one behind the other.
        fn branch(
            &self,
            planner: &mut Planner,
            random: &Randomness,
            at: &mut u32,
            slow: f64,
        ) -> (f64, f64) {
            // When the last draft left, the edge is free, and the last verdict came.
            let (mut left, mut free, mut last, mut tokens) = (0.0, 0.0, 0.0, 0.0);
            let mut on_their_way = VecDeque::new();
            for n in 0.. {
                if on_their_way.len() == MAX_IN_FLIGHT {
                    left = f64::max(left, on_their_way.pop_front().unwrap());
                }
                let stop = match planner.pace() {
                    Some(pace) if n > 0 => planner
                        .stop_behind()
                        .at_most((pace / (self.draft * slow)).floor().clamp(1.0, 16.0) as usize),
                    _ => planner.draft_stop(Way::Ahead),
                };
                let draft = self.draft(stop, random, at);
                let (draft_ms, verify_ms) = (
                    self.draft * draft.confidences.len() as f64 * slow,
                    (self.verify)(draft.rows() - 1.0) * slow,
                );
                left += draft_ms;
                let begin = f64::max(left + self.link / 2.0, free);
                free = begin + verify_ms;
                let wall = free + self.link / 2.0 - last;
                last += wall;
                on_their_way.push_back(last);
                let (new, accepted) = (draft.tokens(), draft.accepted);
                let round_trip_ms = self.link + verify_ms;
                let times = RoundTimes { draft_ms, round_trip_ms, verify_ms };
                planner.drafted(Way::Ahead, draft.source(), accepted, times, new, Some(wall));
                tokens += new as f64;
                if draft.rejected {
                    break;
                }
            }
            (tokens, last)
        }

        /// Milliseconds a token over a long text, and how often the way changed.
        fn write(&self, planner: &mut Planner, seed: u64, fixed: Option<Way>) -> (f64, usize) {
            let random = Randomness::new(seed);
            let (mut tokens, mut ms, mut changes, mut at) = (0.0, 0.0, 0, 0);
            if let Some(way) = fixed {
                planner.way = way;
            }
            while tokens < 6000.0 {
                let (t, m) = self.go(planner, &random, &mut at);
                tokens += t;
                ms += m;
                if fixed.is_none() && planner.choose().is_some() {
                    changes += 1;
                }
            }
            (ms / tokens, changes)
        }

        /// The best single way for a whole text, and auto's time by its, over several texts.
        fn compare(&self) -> (Way, f64) {
            let cost = |way: Option<Way>| -> f64 {
                (1..=SEEDS).map(|seed| self.write(&mut Planner::default(), seed, way).0).sum()
            };
            let all = WAYS[..3].iter().map(|way| (*way, cost(Some(*way))));
            let (best, least) = all.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            (best, cost(None) / least)
        }
    }

    const SEEDS: u64 = 4;

    const fn slow(rows: f64) -> f64 {
        200.0 + 15.0 * rows
    }
    const fn fast(rows: f64) -> f64 {
        20.0 + 1.0 * rows
    }

    #[test]
    fn never_much_slower_than_the_best_single_way() {
        let (mut wins, mut wrong) = ([0; 3], Vec::new());
        for alpha in [0.3, 0.6, 0.8, 0.9] {
            for draft in [8.0, 40.0] {
                for link in [0.5, 20.0, 100.0] {
                    for verify in [slow as fn(f64) -> f64, fast] {
                        for contention in [1.0, 1.6] {
                            let world = World { alpha, draft, link, verify, contention, ..APART };
                            let (best, ratio) = world.compare();
                            wins[best as usize] += 1;
                            if ratio >= 1.03 {
                                wrong.push(format!(
                                    "α {alpha}, draft {draft}, link {link}, step {}, contention \
                                     {contention}: {ratio:.3} of {best:?}",
                                    verify(0.0)
                                ));
                            }
                        }
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(wins.iter().all(|n| *n > 3), "each way is best somewhere: {wins:?}");
    }

    #[test]
    fn knows_beforehand_that_one_machine_cannot_compute_for_both_at_once() {
        const fn own(rows: f64) -> f64 {
            33.0 + 3.0 * rows
        }
        let here = World { draft: 12.0, link: 0.5, verify: own, contention: 1.7, ..APART };
        let ways = |world: &World, shares| {
            let mut planner = Planner::default();
            planner.share_machine(shares);
            let (random, mut at) = (Randomness::new(1), 0);
            let mut ways = Vec::new();
            while planner.tokens < 1000 {
                world.go(&mut planner, &random, &mut at);
                ways.extend(planner.choose().map(|change| change.to));
            }
            ways
        };
        assert!(ways(&here, false).contains(&Way::Ahead), "it is worth a trial elsewhere");
        assert_eq!(ways(&here, true), [], "turns are the best, and that is known");
        // Where verdicts are long on their way there is time for both.
        let far = World { link: 300.0, verify: slow, ..here };
        assert!(ways(&far, true).contains(&Way::Ahead));
    }

    #[test]
    fn the_first_token_of_a_stream_says_nothing_of_the_others() {
        let far = World {
            alpha: 0.5,
            draft: 12.0,
            link: 50.0,
            verify: |rows| 33.0 + 4.0 * rows,
            ..APART
        };
        let mut planner = Planner::default();
        let (random, mut at) = (Randomness::new(1), 0);
        while planner.way() != Way::Stream {
            far.go(&mut planner, &random, &mut at);
            planner.choose();
        }
        // It has a round trip in it.
        planner.streamed(Some(83.0));
        for _ in 0..60 {
            planner.streamed(Some(33.0));
            assert!((planner.expected(Way::Stream) - 33.0).abs() < 1.0);
            assert_eq!(planner.choose(), None, "nothing is faster than 33 ms here");
        }
    }

    #[test]
    fn a_hard_passage_is_not_held_against_the_way_that_was_tried_in_it() {
        let (random, mut at, mut planner) = (Randomness::new(3), 0, Planner::default());
        while planner.tokens < 1000 {
            APART.go(&mut planner, &random, &mut at);
        }
        assert!(planner.measured(Way::Turns));
        let ratio = |planner: &Planner| planner.expected(Way::Ahead) / planner.expected(Way::Turns);
        let before = ratio(&planner) / UNTRIED;
        let hard = World { alpha: 0.3, ..APART };
        planner.way = Way::Ahead;
        let until = planner.tokens + 150;
        while planner.tokens < until {
            hard.go(&mut planner, &random, &mut at);
        }
        // Both look slower now, the one as much as the other.
        let after = ratio(&planner);
        assert!((after / before - 1.0).abs() < 0.1, "{before} and {after}");
    }

    #[test]
    fn follows_a_link_that_gets_slow() {
        let near = World { draft: 8.0, link: 1.0, verify: fast, ..APART };
        let far = World { link: 200.0, ..near };
        let mut planner = Planner::default();
        near.write(&mut planner, 1, None);
        assert_ne!(planner.way(), Way::Stream);
        far.write(&mut planner, 2, None);
        assert_eq!(planner.way(), Way::Stream);
    }

    #[test]
    fn drafts_that_end_where_the_next_token_is_unlikely_are_faster_than_any_fixed_length() {
        let cost = |fixed| {
            let world = World { fixed, ..APART };
            let ms = |seed| world.write(&mut Planner::default(), seed, Some(Way::Turns)).0;
            (1..=SEEDS).map(ms).sum::<f64>()
        };
        let best = (1..=12).map(|gamma| cost(Some(gamma))).fold(f64::INFINITY, f64::min);
        let ratio = cost(None) / best;
        println!("{ratio:.3} of the best fixed length");
        assert!(ratio < 0.92, "{ratio}");
    }

    /// Text that repeats itself is looked up, text that only seems to is not for long.
    #[test]
    fn looks_up_where_it_is_right() {
        let times = RoundTimes { draft_ms: 80.0, round_trip_ms: 120.0, verify_ms: 100.0 };
        let settled = || {
            let mut planner = Planner::default();
            for accepted in [4, 2, 3, 0, 4].repeat(20) {
                let ms = Some(200.0);
                planner.drafted(
                    Way::Turns,
                    Source::model(&[0.8; 4]),
                    accepted,
                    times,
                    accepted + 1,
                    ms,
                );
            }
            planner
        };
        let text: Vec<TokenId> =
            [1, 2, 3, 4, 5, 6, 7, 8, 9].repeat(3).into_iter().map(TokenId).collect();
        let (mut right, mut wrong) = (settled(), settled());
        for round in 0..40 {
            for (planner, accepts) in [(&mut right, true), (&mut wrong, false)] {
                let Some(found) = planner.lookup(Way::Turns, &text, 16) else {
                    assert!(!accepts && round > 2, "round {round}");
                    continue;
                };
                let (matched, drafted) = (found.matched, found.ids.len());
                let accepted = if accepts { drafted } else { 0 };
                let source = Source::Lookup { matched, drafted };
                planner.drafted(Way::Turns, source, accepted, times, accepted + 1, Some(120.0));
            }
        }
        assert_eq!(right.lookup(Way::Turns, &text, 16).unwrap().ids.len(), 16);
        assert_eq!(wrong.lookup(Way::Turns, &text, 16), None);
        assert_eq!(Planner::default().lookup(Way::Turns, &text, 16), None);
    }

    /// A slow drafter, a slow link, and an edge that has a drafter of its own.
    #[test]
    fn takes_the_edges_own_drafts_where_they_are_faster() {
        let world = World { draft: 40.0, link: 100.0, ..APART };
        let with = |offered| {
            let mut planner = Planner::default();
            planner.offer_colocated(offered);
            let ms = world.write(&mut planner, 1, None).0;
            (planner, ms)
        };
        let ((with, fast), (without, slow)) = (with(true), with(false));
        assert_eq!(with.way(), Way::Colocated);
        assert_ne!(without.way(), Way::Colocated);
        assert!(fast < 0.8 * slow, "{fast} and {slow}");
        // The edge came back without it.
        let mut planner = with;
        planner.offer_colocated(false);
        assert_eq!(planner.way(), Way::Turns);
    }
}
