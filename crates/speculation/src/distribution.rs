//! Probability distributions over a vocabulary.

use crate::TokenId;
use thiserror::Error;

/// A processed distribution: what a model's next token is drawn from.
///
/// Probabilities are `f32` because that is what crosses the wire: both sides must use the very
/// numbers that were sent. They sum to 1 within rounding; sampling divides by the true sum.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// All mass on one token: temperature 0, top-k 1, or a probability that rounds to 1.
    Point(TokenId),
    /// A small support: ids in rising order, each with its probability (all above 0).
    Sparse(Vec<(TokenId, f32)>),
    /// One probability for each id of the vocabulary.
    Dense(Vec<f32>),
}

/// Why numbers are not a distribution.
#[derive(Debug, Error, PartialEq)]
pub enum DistributionError {
    /// There is nothing to draw.
    #[error("a distribution needs at least one token with a probability above 0")]
    Empty,
    /// NaN, infinite, negative or above 1.
    #[error("token {id} has probability {probability}, which is not in [0, 1]")]
    Probability {
        /// The token with the bad number.
        id: u32,
        /// The number.
        probability: f32,
    },
    /// Ids repeat or are not in rising order.
    #[error("the ids of a sparse distribution must rise; {0} does not")]
    Order(u32),
    /// The sum is not near 1.
    #[error("probabilities sum to {0}, not to 1")]
    Sum(f64),
}

impl Distribution {
    /// A sparse distribution from parts that may come from a peer; everything is checked.
    ///
    /// # Errors
    /// If ids do not rise, a probability is outside (0, 1], or the sum is not 1 within 1e-3.
    pub fn sparse(entries: Vec<(TokenId, f32)>) -> Result<Self, DistributionError> {
        let mut sum = 0.0;
        for (i, &(id, p)) in entries.iter().enumerate() {
            if !(p > 0.0 && p <= 1.0) {
                return Err(DistributionError::Probability { id: id.0, probability: p });
            }
            if i > 0 && entries[i - 1].0 >= id {
                return Err(DistributionError::Order(id.0));
            }
            sum += f64::from(p);
        }
        Self::check_sum(entries.is_empty(), sum)?;
        Ok(Self::Sparse(entries))
    }

    /// A dense distribution from parts that may come from a peer; everything is checked.
    ///
    /// # Errors
    /// If a probability is outside [0, 1] or the sum is not 1 within 1e-3.
    pub fn dense(probabilities: Vec<f32>) -> Result<Self, DistributionError> {
        let mut sum = 0.0;
        for (id, &p) in probabilities.iter().enumerate() {
            if !(0.0..=1.0).contains(&p) {
                return Err(DistributionError::Probability { id: id as u32, probability: p });
            }
            sum += f64::from(p);
        }
        Self::check_sum(probabilities.is_empty(), sum)?;
        Ok(Self::Dense(probabilities))
    }

    fn check_sum(empty: bool, sum: f64) -> Result<(), DistributionError> {
        if empty {
            return Err(DistributionError::Empty);
        }
        if (sum - 1.0).abs() > 1e-3 {
            return Err(DistributionError::Sum(sum));
        }
        Ok(())
    }

    /// The probability of `id`; 0 outside the support.
    #[must_use]
    pub fn probability(&self, id: TokenId) -> f32 {
        match self {
            Self::Point(token) => f32::from(*token == id),
            Self::Sparse(entries) => {
                entries.binary_search_by_key(&id, |e| e.0).map_or(0.0, |i| entries[i].1)
            }
            Self::Dense(p) => p.get(id.index()).copied().unwrap_or(0.0),
        }
    }

    /// All tokens with a probability above 0, ids rising.
    pub fn support(&self) -> Box<dyn Iterator<Item = (TokenId, f32)> + '_> {
        match self {
            Self::Point(token) => Box::new(std::iter::once((*token, 1.0))),
            Self::Sparse(entries) => Box::new(entries.iter().copied()),
            Self::Dense(p) => Box::new(
                p.iter().enumerate().filter(|e| *e.1 > 0.0).map(|(i, &p)| (TokenId(i as u32), p)),
            ),
        }
    }

    /// The token at which the cumulated probability passes `u` (in `[0, 1)`).
    #[must_use]
    pub fn sample(&self, u: f64) -> TokenId {
        self.sample_many(&[u])[0]
    }

    /// One token for each `u`, independent of each other; a single pass over the vocabulary.
    #[must_use]
    pub fn sample_many(&self, u: &[f64]) -> Vec<TokenId> {
        match self {
            Self::Point(token) => vec![*token; u.len()],
            Self::Sparse(entries) => walk(entries.iter().map(|e| (e.0, f64::from(e.1))), u),
            Self::Dense(p) => {
                walk(p.iter().enumerate().map(|(i, &p)| (TokenId(i as u32), f64::from(p))), u)
            }
        }
    }

    /// Draws from `norm(max(0, self - q))`, the residual of speculative decoding.
    ///
    /// When rounding leaves no mass (then `p` and `q` agree to the last bits), draws from `self`.
    #[must_use]
    pub fn sample_residual(&self, q: &Self, u: f64) -> TokenId {
        let residual: Vec<(TokenId, f64)> = self
            .support()
            .map(|(id, p)| (id, f64::from(p) - f64::from(q.probability(id))))
            .filter(|e| e.1 > 0.0)
            .collect();
        if residual.is_empty() { self.sample(u) } else { walk(residual.into_iter(), &[u])[0] }
    }
}

/// Inverts the cumulated weights at each `u`; weights need not sum to 1.
///
/// A `u` that rounding carries past the end gets the last token with a weight above 0, never one
/// of weight 0.
fn walk(weights: impl Iterator<Item = (TokenId, f64)> + Clone, u: &[f64]) -> Vec<TokenId> {
    let total: f64 = weights.clone().map(|w| w.1).sum();
    let mut order: Vec<usize> = (0..u.len()).collect();
    order.sort_by(|&a, &b| u[a].total_cmp(&u[b]));
    let mut picked = vec![TokenId(0); u.len()];
    let mut waiting = order.into_iter().peekable();
    let mut cumulated = 0.0;
    let mut last = TokenId(0);
    for (id, weight) in weights.filter(|w| w.1 > 0.0) {
        cumulated += weight;
        last = id;
        while let Some(i) = waiting.next_if(|&i| u[i] * total < cumulated) {
            picked[i] = id;
        }
        if waiting.peek().is_none() {
            return picked;
        }
    }
    for i in waiting {
        picked[i] = last;
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_inverts_the_cumulated_probabilities() {
        let d = Distribution::dense(vec![0.25, 0.0, 0.5, 0.25]).unwrap();
        let ids = d.sample_many(&[0.99, 0.0, 0.2499, 0.25, 0.7499, 0.75]);
        assert_eq!(ids.iter().map(|t| t.0).collect::<Vec<_>>(), [3, 0, 0, 2, 2, 3]);
        let sparse = Distribution::sparse(vec![(TokenId(5), 0.5), (TokenId(9), 0.5)]).unwrap();
        assert_eq!(sparse.sample(0.5), TokenId(9));
        assert_eq!(sparse.sample(1.0 - 1e-17), TokenId(9));
    }

    #[test]
    fn a_token_without_mass_is_never_drawn() {
        let d = Distribution::Dense(vec![0.0, 0.999_999, 0.0]);
        assert_eq!(d.sample(1.0 - f64::EPSILON / 2.0), TokenId(1));
        assert_eq!(d.sample(0.0), TokenId(1));
    }

    #[test]
    fn what_a_peer_sends_is_checked() {
        let t = TokenId;
        for bad in [
            vec![],
            vec![(t(1), f32::NAN)],
            vec![(t(1), -0.5), (t(2), 1.0)],
            vec![(t(2), 0.5), (t(1), 0.5)],
            vec![(t(1), 0.5), (t(1), 0.5)],
            vec![(t(1), 0.5)],
            vec![(t(1), f32::INFINITY)],
        ] {
            assert!(Distribution::sparse(bad.clone()).is_err(), "{bad:?}");
        }
        assert!(Distribution::dense(vec![0.5, f32::NAN]).is_err());
        assert!(Distribution::dense(vec![0.5, 0.4]).is_err());
    }
}
