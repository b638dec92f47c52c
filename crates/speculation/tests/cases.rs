//! Small cases with known answers, the ones by which implementations of speculative decoding are
//! usually checked.
#![allow(clippy::unwrap_used)]

use tandem_speculation::{
    Correction, Distribution, Purpose, Randomness, Resolution, Resolver, Sampling, TokenId,
    Verdict, greedy_verify, process, verify,
};

fn points(ids: &[u32]) -> Vec<Distribution> {
    ids.iter().map(|&id| Distribution::Point(TokenId(id))).collect()
}

fn ids(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().copied().map(TokenId).collect()
}

fn verdict(x: &[TokenId], q: &[f32], p: &[Distribution], seed: u64) -> Verdict {
    verify(x, q, false, |i| Ok(p[i].clone()), &Randomness::new(seed), 0).unwrap()
}

/// How often a draft of one token from `q` is accepted.
fn acceptance(p: &[f32], q: &[f32], rounds: u64) -> f64 {
    let p = vec![Distribution::dense(p.to_vec()).unwrap(); 2];
    let q = Distribution::dense(q.to_vec()).unwrap();
    let accepted = (0..rounds).filter(|&seed| {
        let x = q.sample(Randomness::new(seed).uniform(Purpose::Draft, 0, 0));
        verdict(&[x], &[q.probability(x)], &p, seed).accepted == 1
    });
    accepted.count() as f64 / rounds as f64
}

#[test]
fn greedy_drafts_are_accepted_up_to_the_first_difference() {
    let (draft, target) = (ids(&[1, 2, 3]), points(&[1, 5, 3, 4]));
    let expected = Verdict { accepted: 1, correction: Correction::Token(TokenId(5)) };
    assert_eq!(verdict(&draft, &[1.0; 3], &target, 1), expected);
    assert_eq!(greedy_verify(&draft, &target, &Randomness::new(1), 0), expected);
    let whole = verdict(&ids(&[1, 5, 3]), &[1.0; 3], &target, 1);
    assert_eq!(whole, Verdict { accepted: 3, correction: Correction::Bonus(TokenId(4)) });
}

#[test]
fn an_empty_draft_gives_one_token() {
    let empty = verdict(&[], &[], &points(&[7]), 1);
    assert_eq!(empty, Verdict { accepted: 0, correction: Correction::Bonus(TokenId(7)) });
}

#[test]
fn equal_distributions_accept_every_draft_and_disjoint_ones_none() {
    let p = Distribution::dense(vec![0.5, 0.25, 0.25, 0.0, 0.0]).unwrap();
    let other = Distribution::dense(vec![0.0, 0.0, 0.0, 0.5, 0.5]).unwrap();
    for seed in 0..500 {
        for (q, accepted) in [(&p, 4), (&other, 0)] {
            let random = Randomness::new(seed);
            let x: Vec<_> =
                (0..4).map(|i| q.sample(random.uniform(Purpose::Draft, i, 0))).collect();
            let scalars: Vec<_> = x.iter().map(|&x| q.probability(x)).collect();
            let verdict = verdict(&x, &scalars, &vec![p.clone(); 5], seed);
            assert_eq!(verdict.accepted, accepted);
            assert_eq!(matches!(verdict.correction, Correction::Bonus(_)), accepted == 4);
        }
    }
}

#[test]
fn the_acceptance_rate_is_the_overlap() {
    // 0.1 + 0.2 + 0.1 of p = [.7, .2, .1] against q = [.1, .2, .7].
    let rate = acceptance(&[0.7, 0.2, 0.1], &[0.1, 0.2, 0.7], 40_000);
    assert!((rate - 0.4).abs() < 0.012, "{rate}: five standard deviations off");
    let rate = acceptance(&[0.9, 0.1], &[0.5, 0.5], 40_000);
    assert!((rate - 0.6).abs() < 0.013, "{rate}");
}

#[test]
fn no_vocabulary_gives_an_id_outside() {
    for vocab in [100_usize, 8193, 10_000, 151_936] {
        for seed in 0..20 {
            let random = Randomness::new(seed);
            // Rough logits of both sides from the same generator.
            let row = |shift: u32| {
                let mut logits: Vec<f32> = (0..vocab as u32)
                    .map(|i| (i.wrapping_mul(2_654_435_761).rotate_left(shift) % 97) as f32 / 16.0)
                    .collect();
                process(&mut logits, &Sampling { temperature: 1.0, ..Sampling::GREEDY }, &[])
            };
            let (p, q) = (row(seed as u32).unwrap(), row(seed as u32 + 1).unwrap());
            // The border cases of inversion, not only the middle.
            for u in [0.0, 0.5, 1.0 - f64::EPSILON / 2.0] {
                assert!(p.sample(u).index() < vocab && p.probability(p.sample(u)) > 0.0);
                assert!(p.sample_residual(&q, u).index() < vocab);
            }
            let x = q.sample(random.uniform(Purpose::Draft, 0, 0));
            let verdict = verdict(&[x], &[q.probability(x)], &[p.clone(), p.clone()], seed);
            let rejected = (verdict.accepted == 0).then_some(&q);
            let token = Resolver::new(rejected, &random, 0, vocab).resolve(verdict.correction);
            if let Resolution::Token(token) = token.unwrap() {
                assert!(token.index() < vocab && p.probability(token) > 0.0);
            }
        }
    }
}
