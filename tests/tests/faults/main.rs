//! Faults: the real device and the real edge, a link that breaks as a seed says, and what must hold
//! whatever happens. `docs/faults.md` says what is simulated and how a seed is played again.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod app;
mod ledger;
mod model;
mod oracle;
mod plan;
mod run;
mod wire;
mod world;

use plan::Plan;
use run::Outcome;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tandem_inference::{DeviceChoice, LoadOptions, Model};

/// Runs at the same time: most of the time they wait for one another's sockets and clocks.
const TOGETHER: u64 = 16;
/// After so many failed seeds the others are not worth the time.
const ENOUGH: usize = 10;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    answers: u64,
    tokens: u64,
    faults: BTreeMap<&'static str, u64>,
    failed: Vec<(u64, String)>,
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[test]
fn whatever_happens_the_answer_is_the_same_and_stored_once() {
    let one = number("TANDEM_FAULT_SEED");
    let first = one.or(number("TANDEM_FAULT_FIRST")).unwrap_or(1);
    let seeds = if one.is_some() { 1 } else { number("TANDEM_FAULT_SEEDS").unwrap_or(500) };
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
        show(info);
    }));
    let start = Instant::now();
    let folder = std::env::temp_dir().join(format!("tandem-faults-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let files = model::write();
    let options =
        LoadOptions { threads: Some(1), device: DeviceChoice::Cpu, ..LoadOptions::default() };
    let load = |path: &PathBuf| Arc::new(Model::load(path, &options).unwrap());
    let begun = run::first_database(&folder);
    let next = AtomicU64::new(first);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..TOGETHER.min(seeds) {
            // A model's forward passes have one thread, so several edges share one.
            let (next, sum, begun, folder, files, load) =
                (&next, &sum, &begun, &folder, &files, &load);
            scope.spawn(move || {
                let [verifier, far, near] = [0, 1, 2].map(|i| load(&files[i]));
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let failed = sum.lock().unwrap_or_else(PoisonError::into_inner).failed.len();
                    if seed >= first + seeds || failed >= ENOUGH {
                        break;
                    }
                    let plan = Plan::new(seed);
                    let folder = folder.join(format!("{seed}"));
                    let (drafter, file) = if plan.near { (&near, 2) } else { (&far, 1) };
                    let models = [&verifier, drafter].map(Arc::clone);
                    let outcome = run::run(&plan, &models, &files[file], begun, &folder);
                    add(&mut sum.lock().unwrap_or_else(PoisonError::into_inner), &plan, outcome);
                }
            });
        }
    });
    let _ = std::fs::remove_dir_all(&folder);
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    report(&sum, first, start.elapsed().as_secs_f64(), panics.len());
    assert!(panics.is_empty(), "something panicked: {panics:?}");
    assert!(sum.failed.is_empty(), "{} seeds failed, see above", sum.failed.len());
    assert_eq!(sum.seeds, seeds);
    if seeds >= 500 {
        // A simulation that injects nothing would pass.
        for kind in plan::KINDS {
            assert!(sum.faults.contains_key(kind), "never happened: {kind}");
        }
    }
}

fn add(sum: &mut Sum, plan: &Plan, outcome: Outcome) {
    sum.seeds += 1;
    sum.answers += outcome.answers;
    sum.tokens += outcome.tokens;
    for (kind, n) in &outcome.faults {
        *sum.faults.entry(kind).or_default() += n;
    }
    if let Err(problem) = outcome.result {
        println!(
            "seed {} failed: {problem}\n  again with TANDEM_FAULT_SEED={}\n  {plan:?}\n  injected: {:?}",
            plan.seed, plan.seed, outcome.faults
        );
        sum.failed.push((plan.seed, problem));
    }
    if sum.seeds.is_multiple_of(500) {
        println!("{} seeds, {} failed", sum.seeds, sum.failed.len());
    }
}

fn report(sum: &Sum, first: u64, seconds: f64, panics: usize) {
    let of = |kind: &str| sum.failed.iter().filter(|f| f.1.contains(kind)).count();
    let report = json!({
        "first_seed": first,
        "seeds": sum.seeds,
        "seconds": seconds.round(),
        "answers": sum.answers,
        "tokens_checked": sum.tokens,
        "faults": sum.faults,
        "seeds_with_wrong_tokens": of("wrong tokens"),
        "seeds_with_lost_tokens": of("lost"),
        "seeds_failed": sum.failed.iter().map(|f| f.0).collect::<Vec<_>>(),
        "panics": panics,
    });
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
    if let Some(path) = std::env::var_os("TANDEM_FAULT_REPORT") {
        std::fs::write(path, serde_json::to_string_pretty(&report).unwrap()).unwrap();
    }
}
