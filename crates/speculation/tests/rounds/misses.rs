//! Samples that are all missed: how often, and that what follows (more samples, then the vector)
//! completes the same residual.

use crate::{AGREES, DIFFERS, statistics::chi_square};
use tandem_speculation::{
    Correction, Distribution, FIRST_SAMPLES, MORE_SAMPLES, Outcome, Purpose, Randomness,
    Resolution, Resolver, TokenId, more, verify,
};

/// Two dense distributions over 12 tokens at a total variation distance near `apart`. The mass that
/// p has more than q is spread unevenly: a common token is seldom taken, a rare one often.
fn near(apart: f64) -> (Distribution, Distribution) {
    let p = [12, 1, 1, 1, 1, 1, 3, 2, 3, 2, 3, 2].map(|w| f64::from(w) / 32.0);
    let shift = |i: usize| [0.5, 0.3, 0.1, 0.05, 0.05].get(i).copied().unwrap_or(-1.0 / 7.0);
    let q = p.iter().enumerate().map(|(i, p)| (p - apart * shift(i)) as f32).collect();
    let p = p.iter().map(|&p| p as f32).collect();
    (Distribution::dense(p).unwrap_or_else(fail), Distribution::dense(q).unwrap_or_else(fail))
}

fn fail<E: std::fmt::Display, T>(e: E) -> T {
    panic!("not a distribution: {e}")
}

fn residual(p: &Distribution, q: &Distribution) -> Vec<f64> {
    let over = |id| (f64::from(p.probability(id)) - f64::from(q.probability(id))).max(0.0);
    let over: Vec<f64> = (0..12).map(|i| over(TokenId(i))).collect();
    let total: f64 = over.iter().sum();
    over.iter().map(|o| o / total).collect()
}

/// What the device and the edge may do wrong when samples are missed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    /// The edge answers `More` with the samples that it sent before.
    SameSamples,
    /// The device starts again with the random numbers that it used before.
    SameNumbers,
    /// A token of p ends the round in place of the residual.
    TakesP,
}

/// Counts of the token that followed a rejection, by how many answers it took (1, 2 or 3).
fn rounds(p: &Distribution, q: &Distribution, wrong: Wrong, n: u32) -> [Vec<u64>; 3] {
    let random = Randomness::new(17);
    let mut counts = [(); 3].map(|()| vec![0; 12]);
    for round in 0..n {
        let x = q.sample(random.uniform(Purpose::Draft, round, 0));
        let verdict = verify(&[x], &[q.probability(x)], false, |_| Ok(p.clone()), &random, round)
            .unwrap_or_else(fail);
        if verdict.accepted == 1 {
            continue;
        }
        let first = verdict.correction;
        let mut resolver = Resolver::new(Some(q), &random, round, 12);
        let mut answer = first.clone();
        for asked in 1.. {
            let answers = asked as usize - 1;
            match resolver.resolve(answer).unwrap_or_else(fail) {
                Resolution::Token(token) => {
                    counts[answers][token.index()] += 1;
                    break;
                }
                Resolution::NeedMore => {}
            }
            if wrong == Wrong::TakesP {
                let token = p.sample(random.uniform(Purpose::Correct, round, 999));
                counts[answers + 1][token.index()] += 1;
                break;
            }
            answer = more(p, &random, round, asked, 12);
            if wrong == Wrong::SameSamples && asked == 1 {
                answer = first.clone();
            }
            if wrong == Wrong::SameNumbers {
                resolver = Resolver::new(Some(q), &random, round, 12);
            }
        }
    }
    counts
}

#[test]
fn after_any_number_of_misses_the_residual_is_complete() {
    // Further apart, the vector is never needed; nearer, the first samples hardly ever suffice.
    for (apart, n, answers) in [(0.01, 1_000_000, 1..=2), (0.001, 3_000_000, 3..=3)] {
        let (p, q) = near(apart);
        let residual = residual(&p, &q);
        let counts = rounds(&p, &q, Wrong::Nothing, n);
        for answer in answers {
            let counts = &counts[answer - 1];
            let n: u64 = counts.iter().sum();
            let z = chi_square(counts, &residual);
            println!("{n} rounds ended with answer {answer}: {z:.2}");
            assert!(n > 1000 && z < AGREES, "answer {answer}, {n} rounds: {z}");
        }
    }
}

/// The negative controls, on what ends after the first answer. p and q are further apart here, so
/// that single samples are often taken and a number that is used twice tells.
#[test]
fn wrong_ways_to_go_on_after_misses_are_noticed() {
    let (p, q) = near(0.05);
    let residual = residual(&p, &q);
    let z = |wrong| {
        let [first, second, third] = rounds(&p, &q, wrong, 1_000_000);
        let later: Vec<u64> = second.iter().zip(&third).map(|(a, b)| a + b).collect();
        println!(
            "{wrong:?}: {} first, {} later",
            first.iter().sum::<u64>(),
            later.iter().sum::<u64>()
        );
        chi_square(&later, &residual)
    };
    let right = z(Wrong::Nothing);
    assert!(right < AGREES, "{right}");
    for wrong in [Wrong::SameNumbers, Wrong::TakesP, Wrong::SameSamples] {
        let z = z(wrong);
        println!("{wrong:?}: {z:.1}");
        assert!(z > DIFFERS, "{wrong:?} passed: {z}");
    }
}

/// A rejection (1 - α) and then K misses in a row (α^K): below 1/(e·K), whatever α is.
#[test]
fn rounds_that_need_more_are_as_rare_as_promised() {
    let k = FIRST_SAMPLES as i32;
    let most = (0..1000).map(|a| f64::from(a) / 1000.0).map(|a| (1.0 - a) * a.powi(k));
    let most = most.fold(0.0, f64::max);
    assert!((0.9..1.0).contains(&(most * std::f64::consts::E * f64::from(k))), "{most}");
    for apart in [0.003, 0.01, 0.03, 0.1] {
        let (p, q) = near(apart);
        let alpha: f64 = (0..12)
            .map(|i| p.probability(TokenId(i)).min(q.probability(TokenId(i))))
            .map(f64::from)
            .sum();
        let n = 400_000;
        let counts = rounds(&p, &q, Wrong::Nothing, n).map(|c| c.iter().sum::<u64>() as f64);
        let n = f64::from(n);
        let check = |what: &str, seen: f64, probability: f64| {
            let deviation = (n * probability * (1.0 - probability)).sqrt();
            println!("α {alpha:.3}, {what}: {seen} of {n}, {:.1} expected", n * probability);
            assert!((seen - n * probability).abs() < 4.0 * deviation.max(1.0), "α {alpha}, {what}");
        };
        let l = (FIRST_SAMPLES + MORE_SAMPLES) as i32;
        check("rejected", counts.iter().sum(), 1.0 - alpha);
        check("more samples", counts[1] + counts[2], (1.0 - alpha) * alpha.powi(k));
        check("the vector", counts[2], (1.0 - alpha) * alpha.powi(l));
    }
}

#[test]
fn more_samples_are_new_ones_and_the_same_when_asked_again() {
    let vocab = 100_000;
    let p = Distribution::dense(vec![1e-5; vocab]).unwrap();
    let random = Randomness::new(3);
    let first =
        verify(&[TokenId(vocab as u32)], &[0.5], false, |_| Ok(p.clone()), &random, 4).unwrap();
    let (Correction::Sampled(first), Correction::Sampled(second)) =
        (first.correction, more(&p, &random, 4, 1, vocab))
    else {
        panic!("not samples")
    };
    assert_eq!((first.len(), second.len()), (FIRST_SAMPLES, MORE_SAMPLES));
    assert_eq!(more(&p, &random, 4, 1, vocab), Correction::Sampled(second.clone()));
    let mut ids: Vec<TokenId> = first.iter().chain(&second).map(|e| e.0).collect();
    ids.sort_unstable();
    ids.dedup();
    // Of 1056 draws from 100,000 tokens about six are repeats; 32, as if the first came again, never.
    assert!(ids.len() >= FIRST_SAMPLES + MORE_SAMPLES - 20, "{} different samples", ids.len());
    let full = more(&p, &random, 4, 2, vocab);
    assert_eq!(full.outcome(), Outcome::Full);
    assert_eq!(full, Correction::Full(vec![1e-5; vocab]));
}
