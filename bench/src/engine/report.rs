//! The results as a table and as JSON.

use super::llama;
use crate::facts::{self, Run, Spread};
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt;
use tandem_inference::Wanted;

/// One kind of pass of one model.
#[derive(Serialize)]
pub struct Cell {
    model: String,
    context: usize,
    rows: usize,
    logits: &'static str,
    ours_ms: Spread,
    candle_ms: Option<Spread>,
    llama_ms: Option<Spread>,
    /// Our median over llama.cpp's: below 1 ours is faster.
    ratio_llama: Option<f64>,
    /// Our median over stock candle's.
    ratio_candle: Option<f64>,
    /// Our median over our median of one row after the same context.
    ratio_m1: Option<f64>,
    /// Of the processor, taken by other programs meanwhile; from a few percent on the milliseconds
    /// are not to be trusted, nor the ratios much.
    pub others_percent: Option<f64>,
}

impl Cell {
    /// From the milliseconds of ours, stock candle and llama.cpp; `before` are the cells measured
    /// so far of the same model and context.
    pub fn new(
        model: &str,
        context: usize,
        rows: usize,
        logits: Wanted,
        [ours, candle, llama]: &[Vec<f64>; 3],
        before: &[Self],
    ) -> Result<Self> {
        let ours_ms = Spread::of(ours).context("no passes")?;
        let over = |other: Spread| ours_ms.median / other.median;
        let (candle_ms, llama_ms) = (Spread::of(candle), Spread::of(llama));
        let single = before.iter().find(|c| c.rows == 1).map(|c| c.ours_ms);
        let single = single.or((rows == 1).then_some(ours_ms));
        Ok(Self {
            model: model.to_owned(),
            context,
            rows,
            logits: if logits == Wanted::All { "all" } else { "last" },
            ours_ms,
            candle_ms,
            llama_ms,
            ratio_llama: llama_ms.map(over),
            ratio_candle: candle_ms.map(over),
            ratio_m1: single.map(over),
            others_percent: None,
        })
    }
}

const HEAD: &str = "context rows logits |     ours    (min) |   candle    (min) | llama.cpp    (min) | \
                    /llama /candle   /M=1 | others";

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |s: Option<Spread>| {
            s.map_or_else(
                || format!("{:>8} {:>8}", "-", ""),
                |s| format!("{:>8.1} {:>8}", s.median, format!("({:.1})", s.min)),
            )
        };
        let ratio = |r: Option<f64>| r.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
        write!(
            f,
            "{:>7} {:>4} {:>6} | {} | {} |  {} | {:>6} {:>7} {:>6} | {:>6}",
            self.context,
            self.rows,
            self.logits,
            ms(Some(self.ours_ms)),
            ms(self.candle_ms),
            ms(self.llama_ms),
            ratio(self.ratio_llama),
            ratio(self.ratio_candle),
            ratio(self.ratio_m1),
            self.others_percent.map_or_else(|| "-".to_owned(), |p| format!("{p:.0} %")),
        )
    }
}

/// All that is published of a run.
#[derive(Serialize)]
pub struct Report {
    engine: Vec<Cell>,
    #[serde(flatten)]
    run: Run,
    repeat: usize,
    candle_repeat: usize,
    /// Versions.
    candle: Option<&'static str>,
    llama_cpp: Option<String>,
}

impl Report {
    /// With the circumstances of this run.
    pub fn new(engine: Vec<Cell>, repeat: usize, candle_repeat: usize) -> Result<Self> {
        let candle = facts::crate_version("candle-transformers");
        let llama_cpp = llama::version();
        Ok(Self { engine, run: Run::now()?, repeat, candle_repeat, candle, llama_cpp })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Milliseconds of a forward pass: median (min) of {}; our ratios", self.repeat)?;
        writeln!(f, "candle-transformers {}", self.candle.unwrap_or("unknown"))?;
        let absent = "no llama.cpp in this build: it takes `--features llama`, cmake and clang";
        writeln!(f, "{}", self.llama_cpp.as_deref().unwrap_or(absent))?;
        for cells in self.engine.chunk_by(|a, b| a.model == b.model) {
            writeln!(f, "\n{}\n{HEAD}", cells[0].model)?;
            cells.iter().try_for_each(|cell| writeln!(f, "{cell}"))?;
        }
        Ok(())
    }
}
