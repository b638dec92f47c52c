//! When a draft ends: by how sure the drafter was of the tokens that it has drawn.
//!
//! **Exactness.** Whether the draft goes on after a token depends on that token, on those before it
//! and on the past, and all of them are sent. Given that text, the next token is drawn from `p`
//! whether it is drafted and tested, or the bonus token, or begins another draft; so where a draft is
//! cut changes nothing. Throwing away a token that was drawn would (the tests of whole rounds reject
//! it).

/// Edges of the classes of confidence, finer where most tokens are.
const EDGES: [f32; 7] = [0.3, 0.45, 0.6, 0.75, 0.87, 0.95, 0.99];
/// What usual pairs accept of each class, worth a few trials.
const PRIOR: [f64; 8] = [0.3, 0.4, 0.5, 0.65, 0.75, 0.85, 0.92, 0.97];
const PRIOR_TRIALS: f64 = 4.0;
/// How much of a class's weight its next trial leaves.
const MEMORY: f64 = 0.995;

/// How often drafted tokens were accepted, by the drafter's highest probability at their place
/// (before temperature and truncation, so that it says something at temperature 0 too).
#[derive(Clone, Debug)]
pub struct Calibration {
    /// Weighted trials and acceptances.
    classes: [(f64, f64); 8],
}

impl Default for Calibration {
    fn default() -> Self {
        Self { classes: PRIOR.map(|p| (PRIOR_TRIALS, PRIOR_TRIALS * p)) }
    }
}

impl Calibration {
    fn class(confidence: f32) -> usize {
        EDGES.iter().filter(|edge| confidence > **edge).count()
    }

    /// The chance that a token is accepted which was drawn with this confidence.
    #[must_use]
    pub fn acceptance(&self, confidence: f32) -> f64 {
        let (trials, accepted) = self.classes[Self::class(confidence)];
        accepted / trials
    }

    /// Records a token that was tested.
    pub fn record(&mut self, confidence: f32, accepted: bool) {
        let (trials, sum) = &mut self.classes[Self::class(confidence)];
        *trials = *trials * MEMORY + 1.0;
        *sum = *sum * MEMORY + f64::from(u8::from(accepted));
    }
}

/// A rule that one draft follows.
#[derive(Clone, Debug)]
pub struct DraftStop {
    most: usize,
    /// The draft ends when the chance that all of it is accepted is not above this.
    least: f64,
    /// An alternative is sent where it is needed with a chance above this.
    needed: f64,
    reach: f64,
    calibration: Calibration,
}

impl DraftStop {
    /// A draft of `gamma` tokens.
    #[must_use]
    pub fn fixed(gamma: usize) -> Self {
        Self::unlikely(0.0, gamma, Calibration::default())
    }

    /// A draft that ends when all of it is accepted with a chance of at most `least`, at latest
    /// after `most` tokens.
    #[must_use]
    pub fn unlikely(least: f64, most: usize, calibration: Calibration) -> Self {
        Self { most, least, needed: 1.0, reach: 1.0, calibration }
    }

    /// The same with at most `most` tokens.
    #[must_use]
    pub fn at_most(self, most: usize) -> Self {
        Self { most: self.most.min(most), ..self }
    }

    /// The same with an [`Alternative`](crate::Alternative) at each place that is reached and then
    /// rejected with a chance above `needed`.
    #[must_use]
    pub fn with_alternatives(self, needed: f64) -> Self {
        Self { needed, ..self }
    }

    /// Whether the token that was drawn with this confidence needs an alternative. To be asked before
    /// [`Self::goes_on`].
    #[must_use]
    pub fn wants_alternative(&self, confidence: f32) -> bool {
        self.reach * (1.0 - self.calibration.acceptance(confidence)) > self.needed
    }

    /// Tokens of the draft at most.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether to draft another token after one with this confidence. The first is always drafted.
    pub fn goes_on(&mut self, confidence: f32) -> bool {
        self.reach *= self.calibration.acceptance(confidence);
        self.reach > self.least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sure_draft_is_longer_than_an_unsure_one() {
        let length = |confidence: f32| {
            let mut stop = DraftStop::unlikely(0.5, 16, Calibration::default());
            let mut n = 1;
            while n < stop.most() && stop.goes_on(confidence) {
                n += 1;
            }
            n
        };
        assert_eq!(length(0.2), 1);
        assert_eq!(length(0.9), 5);
        assert_eq!(length(0.999), 16);
    }

    #[test]
    fn only_an_unsure_token_that_is_reached_gets_an_alternative() {
        let mut stop = DraftStop::unlikely(0.0, 16, Calibration::default()).with_alternatives(0.3);
        assert!(!stop.wants_alternative(0.999));
        assert!(stop.wants_alternative(0.4));
        while stop.reach > 0.3 {
            assert!(stop.goes_on(0.4));
        }
        assert!(!stop.wants_alternative(0.4));
    }

    #[test]
    fn a_fixed_one_never_stops() {
        let mut stop = DraftStop::fixed(4);
        assert!(!stop.wants_alternative(0.01));
        assert!((0..100).all(|_| stop.goes_on(0.01)));
    }

    #[test]
    fn learns_what_confidence_is_worth() {
        let mut calibration = Calibration::default();
        for i in 0..2000 {
            calibration.record(0.99, i % 2 == 0);
            calibration.record(0.1, true);
        }
        assert!((calibration.acceptance(0.98) - 0.5).abs() < 0.02);
        assert!(calibration.acceptance(0.2) > 0.99);
        // Another class keeps what it had.
        assert!((calibration.acceptance(0.5) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn no_confidence_is_out_of_range() {
        for c in [f32::NAN, f32::INFINITY, -1.0, 0.0, 1.0] {
            assert!(Calibration::default().acceptance(c) > 0.0);
        }
    }
}
