//! The device's half of a round: from the edge's answer to the next token.

use crate::{
    Correction, Distribution, DistributionError, FIRST_SAMPLES, MORE_SAMPLES, Purpose, Randomness,
    TokenId,
};
use thiserror::Error;

/// What an answer leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The token that follows the accepted prefix.
    Token(TokenId),
    /// None of the samples was taken: ask the edge for more.
    NeedMore,
}

/// Why an answer is refused. The edge is broken or hostile; nothing of the answer was used.
#[derive(Debug, Error, PartialEq)]
pub enum ResolveError {
    /// A token id outside the vocabulary.
    #[error("token {0} is outside the vocabulary")]
    OutsideVocabulary(u32),
    /// Numbers that are no distribution.
    #[error(transparent)]
    Distribution(#[from] DistributionError),
    /// A bonus without full acceptance, a correction without rejection, or too many samples.
    #[error("the answer does not fit the draft: {0}")]
    Shape(&'static str),
}

/// Finishes one round; keeps count over `More` answers so that no random number is used twice.
#[derive(Debug)]
pub struct Resolver<'a> {
    /// `q` at the rejected position; `None` when the draft was fully accepted.
    q: Option<&'a Distribution>,
    randomness: &'a Randomness,
    at: u32,
    vocab: usize,
    samples_seen: usize,
}

impl<'a> Resolver<'a> {
    /// `q` is the distribution that the first rejected token was drawn from, or `None` when every
    /// drafted token was accepted. `randomness` is the device's own; `at` is the place in the text
    /// of the token that the answer leads to.
    #[must_use]
    pub fn new(
        q: Option<&'a Distribution>,
        randomness: &'a Randomness,
        at: u32,
        vocab: usize,
    ) -> Self {
        Self { q, randomness, at, vocab, samples_seen: 0 }
    }

    /// The next token, or the need for more samples.
    ///
    /// **Samples are exact**: the device takes `y ~ p` with probability `max(0, 1 - q(y)/p(y))`, so
    /// that P(take y) = p(y)·max(0, 1 − q(y)/p(y)) = max(0, p(y) − q(y)): what is taken first among
    /// independent samples is distributed as the residual, however many are missed before.
    ///
    /// # Errors
    /// If the answer does not fit the round or its numbers are no distribution.
    pub fn resolve(&mut self, correction: Correction) -> Result<Resolution, ResolveError> {
        let Some(q) = self.q else {
            return match correction {
                Correction::Bonus(token) => self.token(token),
                _ => Err(ResolveError::Shape("a correction although all drafts were accepted")),
            };
        };
        match correction {
            Correction::Bonus(_) => Err(ResolveError::Shape("a bonus token after a rejection")),
            Correction::Continue => Err(ResolveError::Shape("no token after a rejection")),
            Correction::Token(token) => self.token(token),
            Correction::Sparse(entries) => {
                if let Some(e) = entries.iter().find(|e| e.0.index() >= self.vocab) {
                    return Err(ResolveError::OutsideVocabulary(e.0.0));
                }
                let p = Distribution::sparse(entries)?;
                Ok(Resolution::Token(p.sample_residual(q, self.uniform(0))))
            }
            Correction::Sampled(samples) => self.take(q, &samples),
            Correction::Full(vector) => {
                if vector.len() != self.vocab {
                    return Err(ResolveError::Shape(
                        "a vector of another length than the vocabulary",
                    ));
                }
                let p = Distribution::dense(vector)?;
                Ok(Resolution::Token(p.sample_residual(q, self.uniform(self.samples_seen + 1))))
            }
        }
    }

    fn token(&self, token: TokenId) -> Result<Resolution, ResolveError> {
        if token.index() < self.vocab {
            Ok(Resolution::Token(token))
        } else {
            Err(ResolveError::OutsideVocabulary(token.0))
        }
    }

    fn take(
        &mut self,
        q: &Distribution,
        samples: &[(TokenId, f32)],
    ) -> Result<Resolution, ResolveError> {
        if samples.is_empty() || self.samples_seen + samples.len() > FIRST_SAMPLES + MORE_SAMPLES {
            return Err(ResolveError::Shape("no samples, or more than the protocol knows"));
        }
        for &(y, p) in samples {
            if y.index() >= self.vocab {
                return Err(ResolveError::OutsideVocabulary(y.0));
            }
            if !(p > 0.0 && p <= 1.0) {
                return Err(DistributionError::Probability { id: y.0, probability: p }.into());
            }
        }
        for &(y, p) in samples {
            // Index 0 belongs to the draw from a sparse residual.
            let u = self.uniform(self.samples_seen + 1);
            self.samples_seen += 1;
            if u * f64::from(p) < f64::from(p) - f64::from(q.probability(y)) {
                return Ok(Resolution::Token(y));
            }
        }
        Ok(Resolution::NeedMore)
    }

    fn uniform(&self, index: usize) -> f64 {
        self.randomness.uniform(Purpose::Residual, self.at, index as u32)
    }
}
