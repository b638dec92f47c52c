//! What the text of late would have taken in each way of drafting.
//!
//! Which tokens were hard is luck, and a way that is tried in a hard passage looks slow. So ways are
//! compared on the same tokens: those that were tested last, with how sure the drafter was of each and
//! whether it was accepted, are drafted again by the rules of each way, in thought. Nothing of it
//! touches what is drafted or accepted; it says only what a token should take.

use crate::{DraftLength, DraftStop};
use std::collections::VecDeque;

/// Tested tokens that are kept.
const KEPT: usize = 1024;
/// Fewer say too little.
const ENOUGH: usize = 64;
/// Drafts on their way at most: what the edge keeps for each.
pub const MAX_IN_FLIGHT: usize = 4;

/// The tokens that were tested last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past {
    /// How sure the drafter was, and whether it was accepted.
    tested: VecDeque<(f32, bool)>,
}

/// How a way of drafting would go on.
pub(crate) struct Rules<'a> {
    pub costs: &'a DraftLength,
    /// For a draft in turns, or the first one after a correction.
    pub stop: DraftStop,
    /// For a draft behind one that is on its way.
    pub behind: DraftStop,
    /// How often an alternative at a rejected place is right.
    pub right: f64,
    /// Both sides compute on one machine.
    pub shared: bool,
}

impl Past {
    pub(crate) fn record(&mut self, confidence: f32, accepted: bool) {
        if self.tested.len() == KEPT {
            self.tested.pop_front();
        }
        self.tested.push_back((confidence, accepted));
    }

    /// Milliseconds a token, each draft waiting for its verdict; `None` while too little is known.
    pub(crate) fn in_turns(&self, rules: &Rules<'_>) -> Option<f64> {
        if self.tested.len() < ENOUGH {
            return None;
        }
        let (mut at, mut ms, mut tokens) = (0, 0.0, 0.0);
        while let Some(draft) = self.draft(at, rules.stop.clone(), rules.right) {
            let beside = rules.costs.row() * draft.beside as f64;
            ms += rules.costs.round(draft.gamma) + beside;
            // The correction is the rejected token's place; behind a whole draft comes a bonus token.
            tokens += draft.tokens + f64::from(u8::from(draft.whole));
            at += draft.tested;
        }
        (tokens > 0.0).then(|| ms / tokens)
    }

    /// The same with drafts behind one another.
    pub(crate) fn ahead(&self, rules: &Rules<'_>) -> Option<f64> {
        if self.tested.len() < ENOUGH {
            return None;
        }
        let (costs, pace) = (rules.costs, rules.costs.pass());
        let (mut at, mut ms, mut tokens) = (0, 0.0, 0.0);
        let mut branch = Branch::default();
        loop {
            let stop = match branch.wait(pace, costs.draft()) {
                None => rules.stop.clone(),
                Some(most) => rules.behind.clone().at_most(most),
            };
            let Some(draft) = self.draft(at, stop, rules.right) else { break };
            ms += branch.round(costs, draft.gamma, draft.beside, rules.shared);
            tokens += draft.tokens;
            at += draft.tested;
            if !draft.whole {
                branch = Branch::default();
            }
        }
        (tokens > 0.0).then(|| ms / tokens)
    }

    /// The draft from place `at` on; `None` where the past ends before it does.
    fn draft(&self, at: usize, mut stop: DraftStop, right: f64) -> Option<Draft> {
        let (mut gamma, mut beside, mut rejected) = (0, 0, None);
        while gamma < stop.most() {
            // What would have been drafted behind a rejected token is not known: as if it had been
            // accepted.
            let place = at + gamma;
            let (confidence, accepted) = *self.tested.get(place)?;
            let alternative = stop.wants_alternative(confidence);
            beside += usize::from(alternative);
            if !accepted && rejected.is_none() {
                rejected = Some((place, alternative));
            }
            gamma += 1;
            if !stop.goes_on(confidence) {
                break;
            }
        }
        Some(match rejected {
            None => Draft { gamma, beside, tested: gamma, tokens: gamma as f64, whole: true },
            Some((place, alternative)) => {
                let tested = place + 1 - at;
                let further = if alternative { right } else { 0.0 };
                Draft { gamma, beside, tested, tokens: tested as f64 + further, whole: false }
            }
        })
    }
}

/// A draft in thought.
struct Draft {
    gamma: usize,
    /// Its alternatives.
    beside: usize,
    /// Tokens of the past that it used up.
    tested: usize,
    /// Tokens of the text, without a bonus token.
    tokens: f64,
    whole: bool,
}

/// The drafts from one correction to the next, in milliseconds since the first one was begun.
#[derive(Clone, Debug, Default)]
pub(crate) struct Branch {
    /// The last draft left, and with it the device is free for the next one.
    departed: f64,
    /// The edge is free.
    free: f64,
    /// The last verdicts came.
    back: VecDeque<f64>,
}

impl Branch {
    /// Tokens of the next draft at most, so that it leaves at the edge's pace; `None` for the first.
    fn wait(&self, pace: f64, draft_ms: f64) -> Option<usize> {
        (!self.back.is_empty()).then(|| (pace / draft_ms.max(1e-6)).ceil().clamp(1.0, 1e3) as usize)
    }

    /// Time from the verdict before to that of a draft of `gamma` tokens and `beside` alternatives.
    pub(crate) fn round(
        &mut self,
        costs: &DraftLength,
        gamma: usize,
        beside: usize,
        shared: bool,
    ) -> f64 {
        let last = self.back.back().copied().unwrap_or(0.0);
        let mut ready = self.departed;
        if self.back.len() == MAX_IN_FLIGHT {
            ready = ready.max(self.back.pop_front().unwrap_or(0.0));
        }
        self.departed = ready + costs.draft() * gamma as f64;
        let verify = costs.round_ahead(gamma) + costs.row() * beside as f64;
        if shared {
            // The edge's computing is time that the device lacks.
            self.departed = self.departed.max(self.free) + verify;
            self.free = self.departed;
        } else {
            self.free = self.free.max(self.departed + costs.link() / 2.0) + verify;
        }
        let half = if shared { costs.link() } else { costs.link() / 2.0 };
        let back = (self.free + half).max(last);
        self.back.push_back(back);
        back - last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Calibration, RoundTimes};

    const DRAFT: f64 = 10.0;
    const LINK: f64 = 30.0;

    fn verify(rows: f64) -> f64 {
        100.0 + 5.0 * rows
    }

    /// What a settled link knows of these machines.
    fn costs() -> DraftLength {
        let mut costs = DraftLength::new(16);
        for gamma in [2, 4, 6, 3].repeat(40) {
            let verify_ms = verify(f64::from(gamma));
            let times = RoundTimes {
                draft_ms: DRAFT * f64::from(gamma),
                round_trip_ms: LINK + verify_ms,
                verify_ms,
            };
            costs.record(gamma as usize, 1, 0, times);
        }
        costs
    }

    fn rules(costs: &DraftLength, gamma: usize) -> Rules<'_> {
        let (stop, behind) = (DraftStop::fixed(gamma), DraftStop::fixed(gamma));
        Rules { costs, stop, behind, right: 0.0, shared: false }
    }

    /// `hits` again and again.
    fn past(hits: &[bool]) -> Past {
        let mut past = Past::default();
        for hit in hits.iter().cycle().take(KEPT + 300) {
            past.record(0.9, *hit);
        }
        past
    }

    fn assert_near(found: Option<f64>, right: f64) {
        let found = found.expect("enough is known");
        assert!((found / right - 1.0).abs() < 0.01, "{found} for {right}");
    }

    #[test]
    fn in_turns_a_round_gives_what_was_accepted_and_one_token() {
        let costs = costs();
        let round = 4.0 * DRAFT + LINK + verify(4.0);
        let by = |hits: &[bool]| past(hits).in_turns(&rules(&costs, 4));
        assert_near(by(&[true]), round / 5.0);
        assert_near(by(&[false]), round);
        // The draft after a rejection begins behind it.
        assert_near(by(&[true, true, false]), round / 3.0);
    }

    #[test]
    fn ahead_the_slower_side_gives_the_pace_and_a_rejection_costs_the_way() {
        let costs = costs();
        let by = |hits: &[bool], gamma| past(hits).ahead(&rules(&costs, gamma));
        // A branch without an end.
        assert_near(by(&[true], 4), verify(3.0) / 4.0);
        // Never a second draft.
        assert_near(by(&[false], 4), 4.0 * DRAFT + LINK + verify(3.0));
        // Two drafts and a correction behind them.
        let branch = 4.0 * DRAFT + LINK + 2.0 * verify(3.0);
        assert_near(by(&[true, true, true, true, true, false], 4), branch / 6.0);
        // Where both compute on one machine they wait for each other.
        let shared = Rules { shared: true, ..rules(&costs, 4) };
        assert_near(past(&[true]).ahead(&shared), (4.0 * DRAFT + verify(3.0)) / 4.0);
    }

    #[test]
    fn an_alternative_costs_its_row_and_gives_what_it_is_worth() {
        let costs = costs();
        let stop = || DraftStop::fixed(1).with_alternatives(0.0);
        let rules = Rules { stop: stop(), behind: stop(), right: 0.5, ..rules(&costs, 1) };
        let round = DRAFT + LINK + verify(1.0) + 5.0;
        assert_near(past(&[false]).in_turns(&rules), round / 1.5);
    }

    #[test]
    fn says_nothing_of_a_few_tokens() {
        let (mut past, costs) = (Past::default(), costs());
        for _ in 1..ENOUGH {
            past.record(0.5, true);
        }
        assert_eq!(past.in_turns(&rules(&costs, 4)), None);
        assert_eq!(past.ahead(&rules(&costs, 4)), None);
        past.record(0.5, true);
        assert!(past.in_turns(&rules(&costs, 4)).is_some());
        let unlikely = DraftStop::unlikely(0.9, 16, Calibration::default());
        assert!(past.ahead(&Rules { stop: unlikely, ..rules(&costs, 4) }).is_some());
    }
}
