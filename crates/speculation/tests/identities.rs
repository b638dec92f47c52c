//! The identity of speculative sampling, on random p and q:
//! `q·min(1, p/q) + rejected mass × residual = p`, for every form of answer.
//!
//! Nothing here is drawn: the code decides by comparing a uniform `u`, so the probability of an
//! outcome is the length of the interval of `u` that leads to it, and that is found by bisection.

use proptest::{prelude::*, test_runner::RngSeed};
use tandem_speculation::{
    Correction, Distribution, Purpose, Randomness, Resolution, Resolver, TokenId, accepts, verify,
};

/// Rounding of `f32` probabilities, several of them added.
const NEAR: f64 = 2e-6;

/// The least `u` in `[0, 1]` from which on `holds` is false; `holds` must not come back.
fn border(holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    if !holds(low) {
        return 0.0;
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if holds(middle) { low = middle } else { high = middle }
    }
    high
}

/// The probability of each token of a draw that maps a uniform number to a token, ids rising in it.
fn masses(vocab: usize, draw: impl Fn(f64) -> TokenId) -> Vec<f64> {
    let ends: Vec<f64> =
        (0..vocab).map(|id| border(|u| u < 1.0 && draw(u).index() <= id)).collect();
    (0..vocab).map(|id| ends[id] - if id == 0 { 0.0 } else { ends[id - 1] }).collect()
}

/// What leaves a position: accepted drafts, and the mass of all rejections spread as `residual`.
fn output(p: &Distribution, q: &Distribution, residual: &[f64]) -> Vec<f64> {
    let vocab = residual.len() as u32;
    let mut accepted = vec![0.0; residual.len()];
    let mut rejected = 0.0;
    for x in (0..vocab).map(TokenId).filter(|&x| q.probability(x) > 0.0) {
        let drafted = f64::from(q.probability(x));
        let passes = border(|u| u < 1.0 && accepts(u, p.probability(x), q.probability(x)));
        accepted[x.index()] = drafted * passes;
        rejected += drafted * (1.0 - passes);
    }
    accepted.iter().zip(residual).map(|(a, r)| a + rejected * r).collect()
}

fn difference(p: &Distribution, output: &[f64]) -> f64 {
    let off = |(i, o): (usize, &f64)| (o - f64::from(p.probability(TokenId(i as u32)))).abs();
    output.iter().enumerate().map(off).fold(0.0, f64::max)
}

fn normalised(weights: &[u32]) -> Vec<f32> {
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    weights.iter().map(|&w| (f64::from(w) / total) as f32).collect()
}

fn sparse(p: &[f32]) -> Distribution {
    let entries = (0..).map(TokenId).zip(p.iter().copied()).filter(|e| e.1 > 0.0);
    Distribution::sparse(entries.collect()).expect("normalised")
}

/// Weights over five orders of magnitude, with zeros, and at least one token.
fn weights(vocab: usize) -> impl Strategy<Value = Vec<u32>> {
    let one = prop_oneof![2 => Just(0u32), 3 => 1..20u32, 2 => 1..100_000u32];
    prop::collection::vec(one, vocab).prop_filter("a token", |w| w.iter().any(|&w| w > 0))
}

fn pair() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    (2..12usize)
        .prop_flat_map(|vocab| (weights(vocab), weights(vocab)))
        .prop_map(|(p, q)| (normalised(&p), normalised(&q)))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn sampling_gives_each_token_its_mass((p, _) in pair()) {
        for d in [Distribution::dense(p.clone()).unwrap(), sparse(&p)] {
            prop_assert!(difference(&d, &masses(p.len(), |u| d.sample(u))) < NEAR);
        }
    }

    #[test]
    fn full_and_sparse_answers_complete_p((p, q) in pair()) {
        for p in [Distribution::dense(p.clone()).unwrap(), sparse(&p)] {
            for q in [Distribution::dense(q.clone()).unwrap(), sparse(&q)] {
                let residual = masses(12, |u| p.sample_residual(&q, u));
                let off = difference(&p, &output(&p, &q, &residual));
                prop_assert!(off < NEAR, "off by {off}");
            }
        }
    }

    #[test]
    fn a_token_answer_to_a_point_mass_completes_p((p, _) in pair(), x in 0..12usize) {
        let q = Distribution::Point(TokenId((x % p.len()) as u32));
        let p = Distribution::dense(p).unwrap();
        let residual = masses(12, |u| p.sample_residual(&q, u));
        prop_assert!(difference(&p, &output(&p, &q, &residual)) < NEAR);
    }

    #[test]
    fn a_point_mass_p_is_completed_by_its_own_token((q, _) in pair(), x in 0..12u32, seed: u64) {
        let vocab = q.len() as u32;
        let p = Distribution::Point(TokenId(x % vocab));
        let q = Distribution::dense(q).unwrap();
        let mut residual = vec![0.0; vocab as usize];
        for drafted in (0..vocab).map(TokenId).filter(|&t| t.0 != x % vocab) {
            let verdict =
                verify(&[drafted], &[0.5], false, |_| Ok(p.clone()), &Randomness::new(seed), 0).unwrap();
            let Correction::Token(token) = verdict.correction else { panic!("{verdict:?}") };
            residual[token.index()] = 1.0;
        }
        prop_assert!(difference(&p, &output(&p, &q, &residual)) < NEAR);
    }

    /// A sample `y ~ p` is taken while `u < 1 - q/p`, a share max(0, 1 - q(y)/p(y)) of all u; times
    /// p(y) that is max(0, p(y) - q(y)), the residual's own mass, so a first taken sample is it.
    #[test]
    fn a_sampled_answer_completes_p((p, q) in pair(), seed: u64, at: u32) {
        let (vocab, randomness) = (p.len(), Randomness::new(seed));
        let p = Distribution::dense(p).unwrap();
        let q = Distribution::dense(q).unwrap();
        let u = randomness.uniform(Purpose::Residual, at, 1);
        for (y, mass) in p.support() {
            let mut resolver = Resolver::new(Some(&q), &randomness, at, vocab);
            let taken = match resolver.resolve(Correction::Sampled(vec![(y, mass)])).unwrap() {
                Resolution::Token(token) => { prop_assert_eq!(token, y); true }
                Resolution::NeedMore => false,
            };
            let share = 1.0 - f64::from(q.probability(y)) / f64::from(mass);
            prop_assert!(taken == (u < share) || (u - share).abs() < 1e-12, "u {u}, share {share}");
        }
        let taken = |y| (f64::from(p.probability(y)) - f64::from(q.probability(y))).max(0.0);
        let residual: Vec<f64> = (0..vocab as u32).map(|y| taken(TokenId(y))).collect();
        let total: f64 = residual.iter().sum();
        // Where p = q nothing is ever rejected, and the residual does not matter.
        let residual: Vec<f64> = residual.iter().map(|r| r / total.max(1e-9)).collect();
        prop_assert!(difference(&p, &output(&p, &q, &residual)) < NEAR);
    }

    /// The negative control: with the sign of the residual turned, or the ratio of the acceptance
    /// test swapped, the same sum is not p. (Where p and q nearly agree no test can tell.)
    #[test]
    fn a_wrong_sign_or_a_swapped_ratio_breaks_the_identity((p, q) in pair()) {
        let apart: f32 = p.iter().zip(&q).map(|(p, q)| (p - q).abs()).sum();
        prop_assume!(apart > 0.01);
        let vocab = p.len();
        let (p, q) = (Distribution::dense(p).unwrap(), Distribution::dense(q).unwrap());
        let turned = masses(vocab, |u| q.sample_residual(&p, u));
        prop_assert!(difference(&p, &output(&p, &q, &turned)) > 100.0 * NEAR);
        let right = masses(vocab, |u| p.sample_residual(&q, u));
        let swapped: Vec<f64> = (0..vocab as u32).map(TokenId).map(|x| {
            let (p, q) = (p.probability(x), q.probability(x));
            f64::from(q) * border(|u| u < 1.0 && q > 0.0 && accepts(u, q, p))
        }).collect();
        let rejected = 1.0 - swapped.iter().sum::<f64>();
        let out: Vec<f64> = swapped.iter().zip(&right).map(|(a, r)| a + rejected * r).collect();
        prop_assert!(difference(&p, &out) > 100.0 * NEAR);
    }
}
