//! The results of a long run as text and as JSON, and whether they are good.

use super::Args;
use super::client::Tally;
use crate::facts::{Run, percentile};
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const MIB: f64 = (1 << 20) as f64;
/// Memory of the last fifth above that of the second: of its share, and in MiB beside that.
const GROWTH: f64 = 1.05;
const NOISE_MIB: f64 = 8.0;
/// What a whole run takes, in seconds.
const WHOLE: f64 = 600.0;

/// The edge's memory over time.
#[derive(Default, Serialize)]
pub struct Memory {
    /// Seconds from the start, and resident MiB.
    samples: Vec<(f64, f64)>,
}

impl Memory {
    pub fn push(&mut self, at: Duration, bytes: u64) {
        let rounded = |x: f64| (x * 10.0).round() / 10.0;
        self.samples.push((rounded(at.as_secs_f64()), rounded(bytes as f64 / MIB)));
    }

    /// The median of each fifth of the time, in MiB.
    fn fifths(&self) -> Option<[f64; 5]> {
        let n = self.samples.len();
        let fifth = |i: usize| {
            let part = &self.samples[i * n / 5..(i + 1) * n / 5];
            percentile(&part.iter().map(|s| s.1).collect::<Vec<_>>(), 50.0)
        };
        Some([fifth(0)?, fifth(1)?, fifth(2)?, fifth(3)?, fifth(4)?])
    }

    /// So many samples, for a file that people read.
    fn thinned(&mut self, most: usize) {
        let step = self.samples.len().div_ceil(most).max(1);
        self.samples = self.samples.iter().copied().step_by(step).collect();
    }
}

/// Whether memory stays as it is after a first fifth for warming up.
fn is_flat(fifths: &[f64; 5]) -> bool {
    fifths[4] <= GROWTH * fifths[1] + NOISE_MIB
}

#[derive(Serialize)]
struct Rounds {
    count: usize,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
}

impl Rounds {
    fn of(all: &Mutex<Vec<f64>>) -> Option<Self> {
        let all = all.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |p| percentile(&all, p);
        let (p50_ms, p95_ms, p99_ms) = (at(50.0)?, at(95.0)?, at(99.0)?);
        Some(Self { count: all.len(), p50_ms, p95_ms, p99_ms })
    }
}

/// All results.
#[derive(Serialize)]
pub struct Report {
    run: Run,
    model: String,
    clients: usize,
    idle: usize,
    kv_mib: usize,
    seconds: f64,
    /// A run of ten minutes, and not one to try it out.
    whole: bool,
    tokens: u64,
    tokens_per_s: f64,
    answers: u64,
    cancelled: u64,
    reconnected: u64,
    busy: u64,
    /// Rounds of conversations whose state the edge had dropped for others.
    evicted: u64,
    refills: u64,
    refilled_tokens: u64,
    /// Tokens that were compared with what the edge writes alone; a wrong one ends the run without a result.
    compared_tokens: u64,
    /// Those of them that were written from a conversation that was filled again.
    compared_after_refill: u64,
    /// From a draft to its verdict.
    drafts: Rounds,
    /// From a plain token to the next.
    plain: Rounds,
    memory_fifths_mib: [f64; 5],
    memory_is_flat: bool,
    memory: Memory,
}

impl Report {
    pub fn new(
        args: &Args,
        model: &str,
        seconds: f64,
        tally: &Tally,
        mut memory: Memory,
    ) -> Result<Self> {
        let count = |what: &AtomicU64| what.load(Ordering::Relaxed);
        let fifths = memory.fifths().context("too few samples of the memory")?;
        memory.thinned(120);
        let nothing = "no round was finished";
        Ok(Self {
            run: Run::now()?,
            model: model.to_owned(),
            clients: args.clients,
            idle: args.idle,
            kv_mib: args.kv,
            seconds,
            whole: seconds >= WHOLE,
            tokens: count(&tally.tokens),
            tokens_per_s: count(&tally.tokens) as f64 / seconds,
            answers: count(&tally.answers),
            cancelled: count(&tally.cancelled),
            reconnected: count(&tally.reconnected),
            busy: count(&tally.busy),
            evicted: count(&tally.forgotten),
            refills: count(&tally.refills),
            refilled_tokens: count(&tally.refilled),
            compared_tokens: count(&tally.checked),
            compared_after_refill: count(&tally.checked_after_refill),
            drafts: Rounds::of(&tally.draft_ms).context(nothing)?,
            plain: Rounds::of(&tally.token_ms).context(nothing)?,
            memory_fifths_mib: fifths,
            memory_is_flat: is_flat(&fifths),
            memory,
        })
    }

    /// Why the run was not good.
    pub fn problem(&self) -> Option<String> {
        if self.whole && self.compared_after_refill == 0 {
            return Some("no conversation was filled again: take less --kv".into());
        }
        (!self.memory_is_flat).then(|| {
            format!(
                "the edge's memory grows: medians of the fifths {:?} MiB",
                self.memory_fifths_mib
            )
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clients, idle, seconds) = (self.clients, self.idle, self.seconds);
        writeln!(f, "{}: {clients} clients and {idle} idle ones for {seconds:.0} s", self.model)?;
        writeln!(
            f,
            "{:.1} tokens/s; {} answers, {} stopped, {} came back, {} times busy",
            self.tokens_per_s, self.answers, self.cancelled, self.reconnected, self.busy
        )?;
        writeln!(
            f,
            "{} found their conversation evicted; {} refills of {} tokens",
            self.evicted, self.refills, self.refilled_tokens
        )?;
        for (name, r) in [("drafts", &self.drafts), ("plain tokens", &self.plain)] {
            writeln!(
                f,
                "{name}: {} rounds, p50 {:.0}, p95 {:.0}, p99 {:.0} ms",
                r.count, r.p50_ms, r.p95_ms, r.p99_ms
            )?;
        }
        writeln!(
            f,
            "{} tokens compared, {} of them after a refill, none wrong",
            self.compared_tokens, self.compared_after_refill
        )?;
        let flat = if self.memory_is_flat { "flat" } else { "GROWS" };
        writeln!(f, "memory by fifths: {:.0?} MiB, {flat}", self.memory_fifths_mib)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(of: impl Fn(f64) -> f64) -> Memory {
        Memory {
            samples: (0..1200).map(|i| (f64::from(i) / 2.0, of(f64::from(i) / 1200.0))).collect(),
        }
    }

    #[test]
    fn growth_is_told_from_noise_and_from_warming_up() {
        let noise = |t: f64| (t * 977.0).sin();
        let flat = memory(|t| 400.0 * t.min(0.15) / 0.15 + 4.0 * noise(t)).fifths();
        assert!(is_flat(&flat.expect("fifths")));
        let grows = memory(|t| 400.0 + 60.0 * t + 4.0 * noise(t)).fifths();
        assert!(!is_flat(&grows.expect("fifths")));
        assert!(Memory::default().fifths().is_none());
    }

    #[test]
    fn thinned_samples_span_the_run() {
        let mut memory = memory(|t| t);
        memory.thinned(120);
        assert_eq!(memory.samples.len(), 120);
        assert!(memory.samples.last().is_some_and(|s| s.0 > 590.0));
    }
}
