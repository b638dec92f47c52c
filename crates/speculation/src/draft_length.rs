//! How many tokens to draft next, and what a token then costs: from measured figures.

/// What one finished round measured, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundTimes {
    /// Drafting all tokens of the round.
    pub draft_ms: f64,
    /// From sending the draft to receiving the verdict, the edge's verification included.
    pub round_trip_ms: f64,
    /// The edge's own forward pass.
    pub verify_ms: f64,
}

/// Chooses γ so that the expected time per token is least.
///
/// A round of γ drafts gives `E(γ) = (1 − α^(γ+1)) / (1 − α)` tokens and takes
/// `γ·t_d + R + t_v(γ)` (design of synchronous DSSD). α, t_d and R are exponential averages;
/// `t_v(γ) = a + b·γ` is a weighted least-squares line through what was seen.
///
/// The choice uses only *past* rounds, so exactness is untouched.
#[derive(Clone, Debug)]
pub struct DraftLength {
    max: usize,
    /// Weighted trials and successes of the acceptance test, older ones weighing less.
    trials: f64,
    successes: f64,
    draft_ms: f64,
    link_ms: f64,
    verify: Line,
    rounds: u32,
}

/// Exponentially weighted least squares of `y = a + b·x`.
#[derive(Clone, Debug, Default)]
struct Line {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

/// How much of a round's weight the next one leaves, for times.
const FORGET: f64 = 0.92;
/// The same for one trial of acceptance: an estimate from about a thousand drafted tokens.
/// A shorter one is noise that makes near ties swing.
const ACCEPTANCE_MEMORY: f64 = 0.999;

impl Line {
    fn add(&mut self, x: f64, y: f64) {
        for (sum, value) in [
            (&mut self.n, 1.0),
            (&mut self.x, x),
            (&mut self.y, y),
            (&mut self.xx, x * x),
            (&mut self.xy, x * y),
        ] {
            *sum = *sum * FORGET + value;
        }
    }

    fn at(&self, x: f64) -> f64 {
        let spread = self.n * self.xx - self.x * self.x;
        let mean = self.y / self.n.max(1e-9);
        if spread < 1e-3 * self.n * self.n {
            // Only one γ seen so far: assume that each row costs a third of a single step, as a
            // verifier that is partly bound by memory does, until other lengths are measured.
            let mean_x = self.x / self.n.max(1e-9);
            return mean * (3.0 + x) / (3.0 + mean_x);
        }
        let slope = ((self.n * self.xy - self.x * self.y) / spread).max(0.0);
        (mean + slope * (x - self.x / self.n)).max(0.05 * mean)
    }
}

impl DraftLength {
    /// Chooses between 1 and `max` tokens.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            // A prior worth four trials: what a usual pair reaches.
            trials: 4.0,
            successes: 3.0,
            draft_ms: 0.0,
            link_ms: 0.0,
            verify: Line::default(),
            rounds: 0,
        }
    }

    /// γ for the next round.
    #[must_use]
    pub fn next(&self) -> usize {
        if self.rounds == 0 {
            return self.max.min(4);
        }
        let best = self.best_in_turns().0;
        // Once in a while a neighbour, so that the line sees more than one γ.
        if self.rounds % 8 == 7 {
            if best < self.max { best + 1 } else { best.max(2) - 1 }
        } else {
            best
        }
    }

    /// γ for the next draft when drafting goes on while verdicts are on their way.
    #[must_use]
    pub fn next_ahead(&self) -> usize {
        if self.rounds == 0 { self.max.min(3) } else { self.best_ahead().0 }
    }

    /// The best γ when each draft waits for its verdict, and what a token then takes, in
    /// milliseconds: `(γ·t_d + R + t_v(γ)) / E(γ)`.
    #[must_use]
    pub fn best_in_turns(&self) -> (usize, f64) {
        let a = self.acceptance();
        self.least(|g| {
            let tokens = (1.0 - a.powf(g + 1.0)) / (1.0 - a);
            (g * self.draft_ms + self.link_ms + self.verify.at(g)) / tokens
        })
    }

    /// The best γ when drafting goes on, and what a token then takes, in milliseconds.
    ///
    /// A branch of the text, from one correction to the next, has `1/(1 − α)` tokens on average and
    /// `n = 1/(1 − α^γ)` drafts up to the one with the rejection. The first is waited for, the others
    /// come one by one at the pace of the slower side, and the verdict of the last takes a round
    /// trip: `γ·t_d + (n − 1)·max(γ·t_d, t_v) + R + t_v`.
    #[must_use]
    pub fn best_ahead(&self) -> (usize, f64) {
        self.ahead(f64::max)
    }

    /// The same where both sides compute on one machine: each takes from the other, so the pace is
    /// `γ·t_d + t_v`.
    #[must_use]
    pub fn best_ahead_shared(&self) -> (usize, f64) {
        self.ahead(|draft, verify| draft + verify)
    }

    fn ahead(&self, pace: impl Fn(f64, f64) -> f64) -> (usize, f64) {
        let a = self.acceptance();
        self.least(|g| {
            // The last drafted token's row belongs to the next draft.
            let (draft, verify) = (g * self.draft_ms, self.verify.at(g - 1.0));
            let drafts = 1.0 / (1.0 - a.powf(g));
            let branch = draft + (drafts - 1.0) * pace(draft, verify) + self.link_ms + verify;
            branch * (1.0 - a)
        })
    }

    /// What each further row of a forward pass takes, in milliseconds.
    #[must_use]
    pub fn row(&self) -> f64 {
        (self.verify.at(5.0) - self.verify.at(1.0)) / 4.0
    }

    /// A usual forward pass of late, in milliseconds.
    #[must_use]
    pub fn pass(&self) -> f64 {
        self.verify.y / self.verify.n.max(1e-9)
    }

    /// What a token of the edge alone takes, in milliseconds, by what verifying took.
    #[must_use]
    pub fn plain(&self) -> f64 {
        self.verify.at(0.0)
    }

    /// Time of the network in a round trip, in milliseconds.
    #[must_use]
    pub fn link(&self) -> f64 {
        self.link_ms
    }

    /// Drafting one token, in milliseconds.
    #[must_use]
    pub fn draft(&self) -> f64 {
        self.draft_ms
    }

    /// Rounds that were recorded.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// The same costs with what another estimate knows of the text and the network.
    #[must_use]
    pub fn with_present(&self, now: &Self) -> Self {
        let mut new = self.clone();
        (new.trials, new.successes, new.link_ms) = (now.trials, now.successes, now.link_ms);
        new
    }

    /// The same verifier with a drafter beside it that takes `draft_ms` a token, and no link between.
    #[must_use]
    pub(crate) fn with_drafter_beside(&self, draft_ms: f64) -> Self {
        Self { draft_ms, link_ms: 0.0, ..self.clone() }
    }

    /// What a round of `gamma` drafts should take that waits for its verdict, in milliseconds.
    #[must_use]
    pub fn round(&self, gamma: usize) -> f64 {
        let g = gamma as f64;
        g * self.draft_ms + self.link_ms + self.verify.at(g)
    }

    /// The edge's own part of a round of `gamma` drafts.
    #[must_use]
    pub(crate) fn round_verify(&self, gamma: usize) -> f64 {
        self.verify.at(gamma as f64)
    }

    /// The same for a round behind another one: the last drafted token's row belongs to the next draft.
    #[must_use]
    pub(crate) fn round_ahead(&self, gamma: usize) -> f64 {
        self.verify.at(gamma as f64 - 1.0)
    }

    fn least(&self, cost: impl Fn(f64) -> f64) -> (usize, f64) {
        (1..=self.max)
            .map(|gamma| (gamma, cost(gamma as f64)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap_or((1, f64::INFINITY))
    }

    /// Records a finished round: `drafted` tokens of which `accepted` were accepted, verified with
    /// `beside` further rows.
    pub fn record(&mut self, drafted: usize, accepted: usize, beside: usize, times: RoundTimes) {
        if drafted == 0 {
            return;
        }
        self.record_acceptance(drafted, accepted);
        let weight = self.weight();
        self.draft_ms += weight * (times.draft_ms / drafted as f64 - self.draft_ms);
        self.record_edge(drafted + beside, times);
        self.rounds += 1;
    }

    /// Records what a round says of the text alone.
    pub(crate) fn record_acceptance(&mut self, drafted: usize, accepted: usize) {
        // Every accepted token and the rejected one, if any, were a trial.
        let trials = accepted + usize::from(accepted < drafted);
        let keep = ACCEPTANCE_MEMORY.powi(trials as i32);
        self.trials = self.trials * keep + trials as f64;
        self.successes = self.successes * keep + accepted as f64;
    }

    /// Records what a round of `rows` drafted tokens and alternatives says of the link and the edge.
    pub(crate) fn record_edge(&mut self, rows: usize, times: RoundTimes) {
        let link = (times.round_trip_ms - times.verify_ms).max(0.0);
        self.link_ms += self.weight() * (link - self.link_ms);
        self.verify.add(rows as f64, times.verify_ms.max(0.0));
    }

    fn weight(&self) -> f64 {
        match self.rounds {
            0 => 1.0,
            1..8 => 1.0 / f64::from(self.rounds + 2),
            _ => 0.1,
        }
    }

    /// The present estimate of the acceptance rate of one token.
    #[must_use]
    pub fn acceptance(&self) -> f64 {
        (self.successes / self.trials).clamp(0.01, 0.99)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds rounds of a machine whose best γ is known from the closed form.
    fn settle(alpha: f64, t_d: f64, link: f64, verify: impl Fn(f64) -> f64) -> (f64, usize) {
        let mut d = DraftLength::new(16);
        let random = crate::Randomness::new(5);
        for round in 0..300u32 {
            let gamma = d.next();
            let accepted = (0..gamma as u32)
                .take_while(|&i| random.uniform(crate::Purpose::Accept, round, i) < alpha)
                .count();
            let verify_ms = verify(gamma as f64);
            let times = RoundTimes {
                draft_ms: t_d * gamma as f64,
                round_trip_ms: link + verify_ms,
                verify_ms,
            };
            d.record(gamma, accepted, 0, times);
        }
        let cost = |g: usize| {
            let e = (1.0 - alpha.powi(g as i32 + 1)) / (1.0 - alpha);
            (g as f64 * t_d + link + verify(g as f64)) / e
        };
        let least = (1..=16).map(cost).fold(f64::INFINITY, f64::min);
        (cost(d.next()) / least, d.next())
    }

    #[test]
    fn costs_little_more_than_the_closed_form_optimum() {
        for (alpha, t_d, link) in [(0.78, 20.0, 2.0), (0.9, 5.0, 80.0), (0.4, 20.0, 2.0)] {
            let (ratio, found) = settle(alpha, t_d, link, |g| 60.0 + 8.0 * g);
            assert!(ratio < 1.06, "α {alpha}: γ {found} costs {ratio} of the least");
        }
    }

    #[test]
    fn a_hopeless_drafter_gets_the_shortest_draft() {
        let (ratio, found) = settle(0.05, 30.0, 1.0, |g| 60.0 + 20.0 * g);
        assert_eq!((ratio, found), (1.0, 1));
    }

    #[test]
    fn ahead_drafts_are_short_when_drafting_is_slow_and_long_when_verifying_is() {
        let settled = |t_d: f64, t_v: f64| {
            let mut d = DraftLength::new(12);
            for (drafted, accepted) in [(4, 4), (3, 2), (5, 3), (4, 2), (3, 3)].repeat(20) {
                let (n, verify_ms) = (f64::from(drafted), t_v + 2.0 * f64::from(drafted));
                let round_trip_ms = 20.0 + verify_ms;
                let times = RoundTimes { draft_ms: t_d * n, round_trip_ms, verify_ms };
                d.record(drafted as usize, accepted, 0, times);
            }
            d.next_ahead()
        };
        assert_eq!(settled(100.0, 5.0), 1);
        assert!(settled(1.0, 200.0) > 8);
    }

    #[test]
    fn never_outside_its_limits() {
        let mut d = DraftLength::new(3);
        for _ in 0..50 {
            assert!((1..=3).contains(&d.next()));
            let t = RoundTimes { draft_ms: 0.0, round_trip_ms: 0.0, verify_ms: 0.0 };
            d.record(d.next(), d.next(), 0, t);
        }
    }
}
