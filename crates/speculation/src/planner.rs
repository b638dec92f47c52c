//! Auto mode: which way of answering is fastest now, by what was measured on this link with these
//! machines and this text.
//!
//! Each way of drafting has its own estimates of what drafting and verifying take, because a device
//! and an edge that share a machine slow each other down while both compute. What is known of the
//! text (acceptance) and of the network is common to all. A way that was never used is judged by the
//! closed forms of [`DraftLength`]; of one that was used, also by how far reality was from them. A
//! change must promise a notable gain and then gets time to show it, so that noise does not make it
//! swing.
//!
//! **Exactness.** The choice looks at finished rounds alone. Every way draws the next token from the
//! verifier's distribution given the text so far, whatever the past, so a choice by the past changes
//! nothing. Drafting is left only when no draft is on its way, and a stream's tokens that were still
//! on theirs are dropped unseen, so nothing is thrown away because of what it says.

use crate::{DraftLength, RoundTimes};

/// A way of answering with an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The edge writes token by token.
    Stream,
    /// Draft, wait for the verdict, draft.
    Turns,
    /// Drafting goes on while verdicts are on their way.
    Ahead,
}

const WAYS: [Way; 3] = [Way::Stream, Way::Turns, Way::Ahead];

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
    /// What rounds took, by what they should have taken by the closed form.
    ratio: f64,
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
        let ratio = (wall_ms / expected_ms).clamp(0.2, 5.0);
        let weight = (1.0 / f64::from(self.rounds + 1)).max(0.05);
        self.ratio += weight * (ratio - self.ratio);
        self.rounds += 1;
    }

    fn known(&self) -> bool {
        self.rounds >= ENOUGH
    }
}

/// Chooses the way, and γ with it. Lives as long as the link: what one answer measured helps the next.
#[derive(Clone, Debug)]
pub struct Planner {
    turns: Seen,
    ahead: Seen,
    /// Milliseconds of a plain token, and when that was measured.
    plain: Option<(f64, u64)>,
    way: Way,
    /// Why it is this way, if it was chosen.
    reason: Option<Change>,
    /// Tokens in all, and when the present way began.
    tokens: u64,
    since: u64,
    /// The present branch has a finished round: the next one is behind it.
    behind: bool,
}

/// Tokens that a way gets before it is judged.
const TRIAL: f64 = 64.0;
/// Rounds that say what a way takes.
const ENOUGH: u32 = 6;
/// Less of a gain is noise.
const NOTABLE: f64 = 0.03;
/// A way that was found to be slower is given another chance after this many tokens.
const STALE: u64 = 2500;
/// A stream says nothing about acceptance, so with every so many tokens of it the drafts get more of
/// the benefit of the doubt: the text may have become easier. The worse they looked, the later they
/// are tried again, and a trial costs little of what was written since.
const DOUBT: u64 = 256;
const BENEFIT: f64 = 0.9;
/// What looked more than twice as slow as the stream is not tried again in it.
const MOST_BENEFIT: f64 = 0.5;
/// Tokens of a draft at most where the length is chosen: longer ones never paid in a measurement.
pub const MAX_CHOSEN: usize = 12;

impl Default for Planner {
    fn default() -> Self {
        Self::new(MAX_CHOSEN)
    }
}

impl Planner {
    /// Drafts have at most `max` tokens.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let seen = Seen { length: DraftLength::new(max), ratio: 1.0, rounds: 0, at: 0 };
        Self {
            turns: seen.clone(),
            ahead: seen,
            plain: None,
            way: Way::Turns,
            reason: None,
            tokens: 0,
            since: 0,
            behind: false,
        }
    }

    /// The way to go on with.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// The change that led to the present way; `None` while it is the first.
    #[must_use]
    pub fn reason(&self) -> Option<Change> {
        self.reason
    }

    /// γ for the next draft.
    #[must_use]
    pub fn gamma(&self, way: Way) -> usize {
        match way {
            Way::Ahead => self.ahead.length.next_ahead(),
            _ => self.turns.length.next(),
        }
    }

    /// The estimates of the way of drafting that was used last.
    #[must_use]
    pub fn length(&self) -> &DraftLength {
        let newer = self.ahead.at > self.turns.at;
        if newer { &self.ahead.length } else { &self.turns.length }
    }

    /// Records a finished speculative round that gave `tokens` tokens. `wall_ms` is the time since the
    /// round before ended, `None` where that holds something else, as the prompt.
    pub fn drafted(
        &mut self,
        way: Way,
        drafted: usize,
        accepted: usize,
        times: RoundTimes,
        tokens: usize,
        wall_ms: Option<f64>,
    ) {
        self.tokens += tokens as u64;
        let behind = std::mem::replace(&mut self.behind, way == Way::Ahead && accepted == drafted);
        let seen = if way == Way::Ahead { &mut self.ahead } else { &mut self.turns };
        seen.length.record(drafted, accepted, times);
        seen.at = self.tokens;
        let length = &seen.length;
        let expected = if behind { length.round_behind(drafted) } else { length.round(drafted) };
        if let Some(ms) = wall_ms.filter(|_| drafted > 0) {
            seen.record(expected, ms);
        }
    }

    /// Records a plain token of the edge; `wall_ms` as in [`Self::drafted`].
    pub fn streamed(&mut self, wall_ms: Option<f64>) {
        self.tokens += 1;
        self.behind = false;
        if let Some(ms) = wall_ms.filter(|ms| ms.is_finite()) {
            let before = self.plain.map_or(ms, |(before, _)| before);
            // One that the system interrupted must not decide.
            let ms = ms.min(4.0 * before);
            self.plain = Some((before + 0.05 * (ms - before), self.tokens));
        }
    }

    /// Milliseconds a token in a way, as far as is known.
    fn expected(&self, way: Way) -> f64 {
        let now = self.length();
        let other_ratio = |seen: &Seen| if seen.known() { seen.ratio.clamp(0.7, 1.5) } else { 1.0 };
        match way {
            Way::Stream => match self.plain {
                Some((ms, at)) if self.tokens - at < STALE => ms,
                _ => self.turns.length.plain(),
            },
            Way::Turns if self.turns.known() => {
                self.turns.length.with_present(now).best_in_turns().1 * self.turns.ratio
            }
            Way::Turns => now.best_in_turns().1 * other_ratio(&self.ahead),
            Way::Ahead if self.ahead.known() && self.tokens - self.ahead.at < STALE => {
                self.ahead.length.with_present(now).best_ahead().1 * self.ahead.ratio
            }
            Way::Ahead => {
                self.turns.length.with_present(now).best_ahead().1 * other_ratio(&self.turns)
            }
        }
    }

    fn measured(&self, way: Way) -> bool {
        match way {
            Way::Stream => self.plain.is_some_and(|(_, at)| self.tokens - at < STALE),
            Way::Turns => self.turns.known(),
            Way::Ahead => self.ahead.known() && self.tokens - self.ahead.at < STALE,
        }
    }

    /// Looks whether another way is better now. To be asked when no draft is on its way.
    pub fn choose(&mut self) -> Option<Change> {
        if self.length().rounds() < ENOUGH {
            return None;
        }
        let was_ms = self.expected(self.way);
        let doubt = if self.way == Way::Stream { (self.tokens - self.since) / DOUBT } else { 0 };
        let benefit = BENEFIT.powi(doubt as i32).max(MOST_BENEFIT);
        let (to, expected_ms) = WAYS
            .into_iter()
            .filter(|way| *way != self.way)
            .map(|way| (way, self.expected(way) * benefit))
            .min_by(|a, b| a.1.total_cmp(&b.1))?;
        let measured = self.measured(to);
        // The greater the gain, the less time the present way gets to show that it is better.
        let gain = (expected_ms / was_ms).powi(2);
        let trial = self.tokens - self.since;
        if expected_ms >= was_ms * (1.0 - NOTABLE) || (trial as f64) < gain * TRIAL {
            return None;
        }
        let now = self.length().clone();
        match to {
            Way::Stream => {}
            Way::Turns if measured => self.turns.length = self.turns.length.with_present(&now),
            Way::Ahead if measured => self.ahead.length = self.ahead.length.with_present(&now),
            Way::Turns => self.turns.begin(now),
            Way::Ahead => self.ahead.begin(self.turns.length.with_present(&now)),
        }
        (self.way, self.since, self.behind) = (to, self.tokens, false);
        self.reason = Some(Change { to, was_ms, expected_ms, measured });
        self.reason
    }
}

impl Seen {
    /// A new trial, from what is known elsewhere.
    fn begin(&mut self, length: DraftLength) {
        (self.length, self.ratio, self.rounds) = (length, 1.0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Purpose, Randomness};

    /// A link and two machines whose costs are known.
    #[derive(Clone, Copy)]
    struct World {
        alpha: f64,
        draft: f64,
        link: f64,
        verify: fn(f64) -> f64,
        /// How much slower both sides are while they compute at the same time.
        contention: f64,
    }

    impl World {
        /// One piece of an answer in the way that the planner wants; its tokens and milliseconds.
        fn go(&self, planner: &mut Planner, random: &Randomness, at: &mut u32) -> (f64, f64) {
            let jitter = 1.0 + 0.1 * (random.uniform(Purpose::Bonus, *at, 1) - 0.5);
            *at += 1;
            let mut hit = || {
                *at += 1;
                random.uniform(Purpose::Accept, *at, 0) < self.alpha
            };
            match planner.way() {
                Way::Stream => {
                    let ms = (self.verify)(0.0) * jitter;
                    planner.streamed(Some(ms));
                    (1.0, ms)
                }
                Way::Turns => {
                    let gamma = planner.gamma(Way::Turns);
                    let accepted = (0..gamma).take_while(|_| hit()).count();
                    let verify_ms = (self.verify)(gamma as f64) * jitter;
                    let round_trip_ms = self.link + verify_ms;
                    let draft_ms = self.draft * gamma as f64 * jitter;
                    let times = RoundTimes { draft_ms, round_trip_ms, verify_ms };
                    let ms = draft_ms + round_trip_ms;
                    planner.drafted(Way::Turns, gamma, accepted, times, accepted + 1, Some(ms));
                    (accepted as f64 + 1.0, ms)
                }
                Way::Ahead => {
                    // A whole branch, with its drafts one after the other.
                    let gamma = planner.gamma(Way::Ahead);
                    let slow = jitter * self.contention;
                    let draft_ms = self.draft * gamma as f64 * slow;
                    let verify_ms = (self.verify)(gamma as f64 - 1.0) * slow;
                    let (mut tokens, mut ms) = (0.0, 0.0);
                    loop {
                        let accepted = (0..gamma).take_while(|_| hit()).count();
                        let whole = accepted == gamma;
                        let given = accepted + usize::from(!whole);
                        let round_trip_ms = self.link + verify_ms;
                        let wall = if tokens == 0.0 {
                            draft_ms + round_trip_ms
                        } else {
                            draft_ms.max(verify_ms)
                        };
                        let times = RoundTimes { draft_ms, round_trip_ms, verify_ms };
                        planner.drafted(Way::Ahead, gamma, accepted, times, given, Some(wall));
                        tokens += given as f64;
                        ms += wall;
                        if !whole {
                            return (tokens, ms);
                        }
                    }
                }
            }
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
                (1..=SEEDS).map(|seed| self.write(&mut Planner::new(12), seed, way).0).sum()
            };
            let all = WAYS.map(|way| (way, cost(Some(way))));
            let (best, least) = all.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
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
        let mut wins = [0; 3];
        for alpha in [0.3, 0.6, 0.8, 0.9] {
            for draft in [8.0, 40.0] {
                for link in [0.5, 20.0, 100.0] {
                    for verify in [slow as fn(f64) -> f64, fast] {
                        for contention in [1.0, 1.6] {
                            let world = World { alpha, draft, link, verify, contention };
                            let (best, ratio) = world.compare();
                            wins[best as usize] += 1;
                            assert!(
                                ratio < 1.03,
                                "α {alpha}, draft {draft}, link {link}, contention {contention}: \
                                 {ratio:.3} of {best:?}"
                            );
                        }
                    }
                }
            }
        }
        assert!(wins.iter().all(|n| *n > 3), "each way is best somewhere: {wins:?}");
    }

    #[test]
    fn follows_a_link_that_gets_slow() {
        let near = World { alpha: 0.8, draft: 8.0, link: 1.0, verify: fast, contention: 1.0 };
        let far = World { link: 200.0, ..near };
        let mut planner = Planner::new(12);
        near.write(&mut planner, 1, None);
        assert_ne!(planner.way(), Way::Stream);
        far.write(&mut planner, 2, None);
        assert_eq!(planner.way(), Way::Stream);
    }
}
