//! The results as tables and as JSON.

use super::{Got, Mode};
use crate::facts::{Run, percentile};
use anyhow::Result;
use serde::Serialize;
use std::fmt;

/// One number of clients in one mode.
#[derive(Clone, Serialize)]
pub struct Cell {
    /// A declared machine, where it is simulated.
    machines: Option<String>,
    clients: usize,
    mode: &'static str,
    gamma: usize,
    tokens_per_s: f64,
    /// Tokens a second of one client.
    per_client: f64,
    /// From a draft to its verdict, or from a token to the next.
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    /// Tokens a second by those of as many clients that stream.
    by_stream: f64,
}

impl Cell {
    /// `None` if nothing came.
    pub fn new(
        machines: Option<&str>,
        clients: usize,
        mode: Mode,
        got: &Got,
        stream: f64,
    ) -> Option<Self> {
        let tokens_per_s = got.tokens as f64 / got.seconds;
        let percent = |p| percentile(&got.rounds_ms, p);
        Some(Self {
            machines: machines.map(str::to_owned),
            clients,
            mode: mode.name(),
            gamma: mode.gamma(),
            tokens_per_s,
            per_client: tokens_per_s / clients as f64,
            p50_ms: percent(50.0)?,
            p95_ms: percent(95.0)?,
            p99_ms: percent(99.0)?,
            by_stream: if mode == Mode::Stream { 1.0 } else { tokens_per_s / stream },
        })
    }

    pub fn tokens_per_s(&self) -> f64 {
        self.tokens_per_s
    }
}

/// All results.
#[derive(Serialize)]
pub struct Report {
    run: Run,
    verifier: String,
    /// Declared.
    draft_ms: f64,
    cells: Vec<Cell>,
    simulated: Vec<Cell>,
}

impl Report {
    pub fn new(
        verifier: String,
        draft_ms: f64,
        cells: Vec<Cell>,
        simulated: Vec<Cell>,
    ) -> Result<Self> {
        Ok(Self { run: Run::now()?, verifier, draft_ms, cells, simulated })
    }

    /// Of each number of clients the stream and the best draft length.
    pub fn best(cells: Vec<Cell>) -> Vec<Cell> {
        let mut best: Vec<Cell> = Vec::new();
        for cell in cells {
            let same = |c: &&mut Cell| {
                (&c.machines, c.clients, c.mode) == (&cell.machines, cell.clients, cell.mode)
            };
            match best.iter_mut().find(same) {
                Some(before) if before.tokens_per_s >= cell.tokens_per_s => {}
                Some(before) => *before = cell,
                None => best.push(cell),
            }
        }
        best
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, drafting {} ms a token (declared)", self.verifier, self.draft_ms)?;
        for (title, cells) in [("Measured", &self.cells), ("Simulated", &self.simulated)] {
            writeln!(
                f,
                "\n{title}: clients | mode | tokens/s | each | p50 | p95 | p99 ms | by stream"
            )?;
            for c in cells {
                writeln!(
                    f,
                    "{:>3} | {}{} | {:.1} | {:.2} | {:.0} | {:.0} | {:.0} | {:.2}{}",
                    c.clients,
                    c.mode,
                    if c.gamma > 0 { format!(" γ {}", c.gamma) } else { String::new() },
                    c.tokens_per_s,
                    c.per_client,
                    c.p50_ms,
                    c.p95_ms,
                    c.p99_ms,
                    c.by_stream,
                    c.machines.as_ref().map_or_else(String::new, |m| format!(" | {m}")),
                )?;
            }
        }
        Ok(())
    }
}
