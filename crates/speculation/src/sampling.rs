//! From logits to a processed distribution: one implementation for both sides.

use crate::{Distribution, TokenId};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use thiserror::Error;

/// How logits become a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// Keep the k most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the most probable tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens with at least this fraction of the best token's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 changes nothing.
    pub repetition_penalty: f32,
    /// How many of the latest tokens count as recent; 0 counts all.
    pub penalty_window: u32,
}

impl Sampling {
    /// Temperature 0: always the most probable token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        penalty_window: 0,
    };

    /// Checks that every number makes sense; a peer's or a user's must be checked before use.
    ///
    /// # Errors
    /// Names the first number that is out of its range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |name, value: f32, low: f32, high: f32| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(SamplingError { name, value, low, high })
            }
        };
        check("temperature", self.temperature, 0.0, 10.0)?;
        check("top-p", self.top_p, f32::MIN_POSITIVE, 1.0)?;
        check("min-p", self.min_p, 0.0, 1.0)?;
        check("repetition penalty", self.repetition_penalty, 0.1, 10.0)
    }
}

impl Default for Sampling {
    /// What the default models' makers recommend: T 0.7, top-k 20, top-p 0.8.
    fn default() -> Self {
        Self { temperature: 0.7, top_k: 20, top_p: 0.8, ..Self::GREEDY }
    }
}

/// A sampling parameter out of its range.
#[derive(Debug, Error, PartialEq)]
#[error("{name} is {value}; it must be between {low} and {high}")]
pub struct SamplingError {
    name: &'static str,
    value: f32,
    low: f32,
    high: f32,
}

/// Why logits give no distribution.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ProcessError {
    /// NaN or +∞: a broken model file or a bug.
    #[error(
        "the model gave a logit that is not a number (token {0}); the model file may be damaged"
    )]
    NotFinite(usize),
    /// No token has a finite logit.
    #[error("the model gave no token a finite logit; the model file may be damaged")]
    NoToken,
}

/// Turns the logits of one position (one for each id of the vocabulary) into the distribution that
/// the next token is drawn from. The penalty changes `logits` in place.
///
/// The order is fixed: repetition penalty, temperature, top-k, top-p, min-p, renormalise. top-p
/// and min-p both look at the distribution that top-k left. Ties are broken by the lower id, so
/// that equal logits give equal results on both sides.
///
/// # Errors
/// If a logit is NaN or +∞, or all are −∞.
pub fn process(
    logits: &mut [f32],
    sampling: &Sampling,
    history: &[TokenId],
) -> Result<Distribution, ProcessError> {
    if let Some(bad) = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY) {
        return Err(ProcessError::NotFinite(bad));
    }
    penalise(logits, sampling, history);
    let best = argmax(logits).ok_or(ProcessError::NoToken)?;
    if sampling.temperature == 0.0 || sampling.top_k == 1 {
        return Ok(Distribution::Point(TokenId(best as u32)));
    }
    let max = logits[best];
    // Subtracting the maximum first keeps the exponent finite at tiny temperatures.
    let weight = |l: f32| ((l - max) / sampling.temperature).exp();

    let truncates = sampling.top_p < 1.0 || sampling.min_p > 0.0;
    let top_k = match sampling.top_k as usize {
        0 => logits.len(),
        k => k.min(logits.len()),
    };
    if top_k == logits.len() && !truncates {
        let weights: Vec<f32> = logits.iter().map(|&l| weight(l)).collect();
        return Ok(dense(weights));
    }

    let (mut kept, total) = if top_k < logits.len() {
        let kept = top(logits, top_k, weight);
        let total = kept.iter().map(|e| f64::from(e.1)).sum();
        (kept, total)
    } else {
        let total = logits.iter().map(|&l| f64::from(weight(l))).sum();
        // Most of the mass is in few tokens: look at a few first, at more only if they are needed.
        let mut n = 256.min(logits.len());
        loop {
            let kept = top(logits, n, weight);
            if n == logits.len() || cut(&kept, sampling, total) < n {
                break (kept, total);
            }
            n = (n * 16).min(logits.len());
        }
    };
    let keep = cut(&kept, sampling, total);
    kept.truncate(keep);
    Ok(sparse(kept))
}

/// The highest probability of the softmax of `logits` as the model gave them: how sure it is of its
/// next token, in (0, 1]. Not a number if a logit is not.
#[must_use]
pub fn confidence(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // What is further below adds less than 1 % even if all tokens of a large vocabulary are there,
    // and without its exponentials this is a tenth of the work.
    let near = logits.iter().filter(|l| **l > max - 17.0);
    1.0 / near.map(|l| (l - max).exp()).sum::<f32>()
}

fn penalise(logits: &mut [f32], sampling: &Sampling, history: &[TokenId]) {
    if sampling.repetition_penalty == 1.0 {
        return;
    }
    let recent = match sampling.penalty_window as usize {
        0 => history,
        window => &history[history.len().saturating_sub(window)..],
    };
    // Each token once, however often it occurs.
    let mut ids: Vec<usize> = recent.iter().map(|t| t.index()).collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        if let Some(l) = logits.get_mut(id) {
            *l = if *l > 0.0 {
                *l / sampling.repetition_penalty
            } else {
                *l * sampling.repetition_penalty
            };
        }
    }
}

fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best = None;
    let mut max = f32::NEG_INFINITY;
    for (i, &l) in logits.iter().enumerate() {
        if l > max {
            max = l;
            best = Some(i);
        }
    }
    best
}

/// The `n` tokens of the highest logits with their weights, best first, ties by lower id.
fn top(logits: &[f32], n: usize, weight: impl Fn(f32) -> f32) -> Vec<(TokenId, f32)> {
    let order =
        |a: &(u32, f32), b: &(u32, f32)| -> Ordering { b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)) };
    let mut best: Vec<(u32, f32)>;
    if n <= 512 && n * 8 < logits.len() {
        // One pass with a bar that rises: far cheaper than selecting among the whole vocabulary.
        best = Vec::with_capacity(4 * n);
        let mut bar = f32::NEG_INFINITY;
        for (i, &l) in logits.iter().enumerate() {
            if l >= bar {
                best.push((i as u32, l));
                if best.len() == 4 * n {
                    best.select_nth_unstable_by(n - 1, order);
                    best.truncate(n);
                    bar = best[n - 1].1;
                }
            }
        }
    } else {
        best = logits.iter().enumerate().map(|(i, &l)| (i as u32, l)).collect();
    }
    if best.len() > n {
        best.select_nth_unstable_by(n - 1, order);
        best.truncate(n);
    }
    best.sort_unstable_by(order);
    best.into_iter().map(|(i, l)| (TokenId(i), weight(l))).collect()
}

/// How many of `kept` (best first) top-p and min-p leave; at least one.
fn cut(kept: &[(TokenId, f32)], sampling: &Sampling, total: f64) -> usize {
    let mut sum = 0.0;
    let floor = f64::from(sampling.min_p) * f64::from(kept[0].1);
    for (i, &(_, w)) in kept.iter().enumerate() {
        let w = f64::from(w);
        let enough = sampling.top_p < 1.0 && sum >= f64::from(sampling.top_p) * total;
        if i > 0 && (enough || w < floor) {
            return i;
        }
        sum += w;
    }
    kept.len()
}

fn dense(mut weights: Vec<f32>) -> Distribution {
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    for w in &mut weights {
        *w = (f64::from(*w) / total) as f32;
    }
    // q = 1 on the wire means a point mass (see `verify`), so what rounds to 1 must be one.
    match weights.iter().position(|&w| w == 1.0) {
        Some(i) => Distribution::Point(TokenId(i as u32)),
        None => Distribution::Dense(weights),
    }
}

fn sparse(mut kept: Vec<(TokenId, f32)>) -> Distribution {
    let total: f64 = kept.iter().map(|e| f64::from(e.1)).sum();
    for e in &mut kept {
        e.1 = (f64::from(e.1) / total) as f32;
    }
    if let Some(e) = kept.iter().find(|e| e.1 == 1.0) {
        return Distribution::Point(e.0);
    }
    kept.retain(|e| e.1 > 0.0);
    kept.sort_unstable_by_key(|e| e.0);
    Distribution::Sparse(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(d: &Distribution) -> Vec<u32> {
        d.support().map(|e| e.0.0).collect()
    }

    fn free(temperature: f32) -> Sampling {
        Sampling { temperature, ..Sampling::GREEDY }
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_best() {
        let d = process(&mut [1.0, 3.0, 3.0], &Sampling::GREEDY, &[]).unwrap();
        assert_eq!(d, Distribution::Point(TokenId(1)));
    }

    #[test]
    fn softmax_with_temperature() {
        let d = process(&mut [0.0, 2.0f32.ln() * 0.5, f32::NEG_INFINITY], &free(0.5), &[]).unwrap();
        assert!((d.probability(TokenId(0)) - 1.0 / 3.0).abs() < 1e-6);
        assert!((d.probability(TokenId(1)) - 2.0 / 3.0).abs() < 1e-6);
        assert_eq!(d.probability(TokenId(2)), 0.0);
    }

    #[test]
    fn confidence_is_the_highest_probability() {
        let logits: Vec<f32> = [0.1f32, 0.6, 0.3].iter().map(|p| p.ln() + 5.0).collect();
        assert!((confidence(&logits) - 0.6).abs() < 1e-6);
        let mut flat = vec![1.0; 10_000];
        assert!((confidence(&flat) - 1e-4).abs() < 1e-7);
        flat[7] = 40.0;
        assert_eq!(confidence(&flat), 1.0);
    }

    #[test]
    fn each_filter_keeps_what_its_name_says() {
        let logits: Vec<f32> = [0.4f32, 0.3, 0.2, 0.1].iter().map(|p| p.ln()).collect();
        let run = |s: Sampling| ids(&process(&mut logits.clone(), &s, &[]).unwrap());
        assert_eq!(run(Sampling { top_k: 2, ..free(1.0) }), [0, 1]);
        assert_eq!(run(Sampling { top_p: 0.65, ..free(1.0) }), [0, 1]);
        assert_eq!(run(Sampling { top_p: 0.75, ..free(1.0) }), [0, 1, 2]);
        assert_eq!(run(Sampling { min_p: 0.4, ..free(1.0) }), [0, 1, 2]);
        // top-p looks at what top-k left: 0.4 / 0.7 reaches 0.55.
        assert_eq!(run(Sampling { top_k: 2, top_p: 0.55, ..free(1.0) }), [0]);
    }

    #[test]
    fn the_penalty_counts_a_token_once_and_only_in_its_window() {
        let s = Sampling { repetition_penalty: 2.0, penalty_window: 2, ..free(1.0) };
        let mut logits = [4.0, -4.0, 4.0, 0.0];
        let t = TokenId;
        process(&mut logits, &s, &[t(2), t(0), t(1), t(0), t(0)]).unwrap();
        assert_eq!(logits, [2.0, -4.0, 4.0, 0.0]);
        process(&mut logits, &s, &[t(1), t(99)]).unwrap();
        assert_eq!(logits, [2.0, -8.0, 4.0, 0.0]);
    }

    #[test]
    fn broken_logits_are_an_error() {
        assert_eq!(process(&mut [0.0, f32::NAN], &free(1.0), &[]), Err(ProcessError::NotFinite(1)));
        assert_eq!(process(&mut [f32::INFINITY], &free(0.0), &[]), Err(ProcessError::NotFinite(0)));
        assert_eq!(process(&mut [f32::NEG_INFINITY], &free(1.0), &[]), Err(ProcessError::NoToken));
        assert_eq!(process(&mut [], &free(1.0), &[]), Err(ProcessError::NoToken));
    }

    #[test]
    fn large_vocabularies_agree_with_a_full_sort_and_stay_inside() {
        for vocab in [100usize, 8193, 10_000, 151_936] {
            let mut state = vocab as u64;
            let logits: Vec<f32> = (0..vocab)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 40) as f32 / 1e6
                })
                .collect();
            for s in [
                Sampling { top_k: 20, top_p: 0.8, ..free(0.7) },
                Sampling { top_p: 0.99, ..free(1.0) },
                Sampling { top_k: 3000, ..free(3.0) },
                Sampling { min_p: 0.01, ..free(1.0) },
            ] {
                let d = process(&mut logits.clone(), &s, &[]).unwrap();
                let kept: Vec<(TokenId, f32)> = d.support().collect();
                let sum: f64 = kept.iter().map(|e| f64::from(e.1)).sum();
                assert!((sum - 1.0).abs() < 1e-5);
                let mut sorted: Vec<(usize, f32)> = logits.iter().copied().enumerate().collect();
                sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                let mut expected: Vec<u32> =
                    sorted[..kept.len()].iter().map(|e| e.0 as u32).collect();
                expected.sort_unstable();
                assert_eq!(ids(&d), expected, "vocabulary {vocab} {s:?}");
                assert!(kept.iter().all(|e| e.0.index() < vocab));
            }
        }
    }

    #[test]
    fn out_of_range_parameters_are_named() {
        let bad = Sampling { top_p: 0.0, ..Sampling::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("top-p"));
        for s in [
            Sampling { temperature: f32::NAN, ..Sampling::default() },
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { min_p: 1.5, ..Sampling::default() },
            Sampling { repetition_penalty: 0.0, ..Sampling::default() },
        ] {
            assert!(s.validate().is_err(), "{s:?}");
        }
        assert!(Sampling::default().validate().is_ok());
    }
}
