//! The results as tables and as JSON.

use super::schemes::Scheme;
use super::simulate::Sum;
use super::trace::{self, Trace};
use super::wall::Wall;
use super::world::{Machines, Net};
use crate::facts::{Run, short};
use anyhow::Result;
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One scheme with one draft length in one world.
pub struct Cell {
    machines: String,
    sampling: &'static str,
    net: Net,
    scheme: Scheme,
    /// A fixed draft length; absent where it is chosen.
    gamma: Option<usize>,
    ms_per_token: f64,
    /// Accepted of the drafted tokens that were tested.
    acceptance: Option<f64>,
    /// Payload, in bytes.
    up_per_token: f64,
    /// Payload, in bytes.
    down_per_token: f64,
    /// Speed by that of the edge alone over the same link.
    speedup: f64,
    /// Of auto: its time by that of the product's best single way, with its best draft length.
    by_best: Option<f64>,
}

impl Cell {
    pub fn new(
        machines: &Machines,
        sampling: &'static str,
        net: Net,
        scheme: Scheme,
        gamma: Option<usize>,
        sum: Sum,
    ) -> Self {
        Self {
            machines: machines.name.clone(),
            sampling,
            net,
            scheme,
            gamma,
            ms_per_token: sum.ms / sum.tokens,
            acceptance: (sum.tested > 0.0).then(|| sum.accepted / sum.tested),
            up_per_token: sum.up / sum.tokens,
            down_per_token: sum.down / sum.tokens,
            speedup: 0.0,
            by_best: None,
        }
    }

    /// Sets what needs the other cells of the same world.
    pub fn compare(cells: &mut [Self]) {
        let of = |cells: &[Self], at: usize, which: &dyn Fn(&Self) -> bool| {
            let world = cells[at].world();
            let same = cells.iter().filter(|c| c.world() == world && which(c));
            same.map(|c| c.ms_per_token).fold(f64::INFINITY, f64::min)
        };
        for at in 0..cells.len() {
            let stream = of(cells, at, &|c| c.scheme == Scheme::Stream);
            let both = cells[at].scheme == Scheme::AutoBox;
            let best =
                of(cells, at, &|c| c.scheme.in_product() || both && c.scheme == Scheme::Colocated);
            let cell = &mut cells[at];
            cell.speedup = stream / cell.ms_per_token;
            cell.by_best = cell.scheme.chooses().then(|| cell.ms_per_token / best);
        }
    }

    fn row(&self) -> Row {
        (
            self.scheme,
            self.gamma,
            short(self.ms_per_token),
            self.acceptance.map(short),
            short(self.up_per_token),
            short(self.down_per_token),
            short(self.speedup),
            self.by_best.map(short),
        )
    }

    fn world(&self) -> (&str, &str, u64, u64) {
        (&self.machines, self.sampling, self.net.rtt_ms.to_bits(), self.net.mbit.to_bits())
    }
}

/// What the models do, of all answers with one sampling.
#[derive(Serialize)]
struct Texts {
    sampling: &'static str,
    tokens: usize,
    /// Mean of `Σ min(p, q)`.
    alpha: f64,
    /// Of greedy drafts.
    greedy: f64,
    /// With Gumbel coupling.
    gumbel: f64,
    /// How often the draft was wrong and the drafter's second choice right: what a second branch of
    /// a tree of drafts could save.
    second: f64,
}

impl Texts {
    fn of(sampling: &'static str, traces: &[Trace]) -> Self {
        let places: Vec<_> =
            traces.iter().filter(|t| t.sampling == sampling).flat_map(|t| &t.places).collect();
        let mean = |of: &dyn Fn(&trace::Place) -> f64| {
            places.iter().map(|p| of(p)).sum::<f64>() / places.len() as f64
        };
        Self {
            sampling,
            tokens: places.len(),
            alpha: mean(&|p| f64::from(p.alpha)),
            greedy: mean(&|p| f64::from(u8::from(p.greedy))),
            gumbel: mean(&|p| f64::from(u8::from(p.gumbel))),
            second: mean(&|p| f64::from(u8::from(p.second))),
        }
    }
}

/// What [`World::rows`] are, in order.
pub const COLUMNS: [&str; 8] = [
    "scheme",
    "gamma",
    "ms_per_token",
    "acceptance",
    "up_per_token",
    "down_per_token",
    "speedup",
    "by_best",
];

/// All cells of one world. There are thousands of cells, so what they have in common is said once.
#[derive(Serialize)]
struct World<'a> {
    machines: &'a str,
    sampling: &'a str,
    net: Net,
    rows: Vec<Row>,
}

type Row = (Scheme, Option<usize>, f64, Option<f64>, f64, f64, f64, Option<f64>);

/// The cells, which come world by world.
fn worlds<S: Serializer>(cells: &[Cell], serializer: S) -> Result<S::Ok, S::Error> {
    let worlds = cells.chunk_by(|a, b| a.world() == b.world()).map(|cells| World {
        machines: &cells[0].machines,
        sampling: cells[0].sampling,
        net: cells[0].net,
        rows: cells.iter().map(Cell::row).collect(),
    });
    serializer.collect_seq(worlds)
}

/// All results.
#[derive(Serialize)]
pub struct Report {
    run: Run,
    texts: Vec<Texts>,
    /// Simulated: declared, not measured.
    machines: Vec<Machines>,
    /// Of the rows of `worlds`.
    columns: [&'static str; COLUMNS.len()],
    /// Simulated.
    #[serde(rename = "worlds", serialize_with = "worlds")]
    cells: Vec<Cell>,
    wall: Option<Wall>,
}

impl Report {
    pub fn new(
        traces: &[Trace],
        machines: Vec<Machines>,
        cells: Vec<Cell>,
        wall: Option<Wall>,
    ) -> Result<Self> {
        let texts = trace::SAMPLINGS.map(|(name, _)| Texts::of(name, traces)).into();
        Ok(Self { run: Run::now()?, texts, machines, columns: COLUMNS, cells, wall })
    }

    /// The best of a scheme's draft lengths in each world.
    fn best(&self, scheme: Scheme) -> BTreeMap<(&str, &str, u64, u64), &Cell> {
        let mut best = BTreeMap::new();
        for cell in self.cells.iter().filter(|c| c.scheme == scheme) {
            let entry = best.entry(cell.world()).or_insert(cell);
            if cell.ms_per_token < entry.ms_per_token {
                *entry = cell;
            }
        }
        best
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for t in &self.texts {
            writeln!(
                f,
                "{}: {} tokens, acceptance {:.3}, greedy drafts {:.3}, Gumbel {:.3}, second choice \
                 right {:.3}",
                t.sampling, t.tokens, t.alpha, t.greedy, t.gumbel, t.second
            )?;
        }
        writeln!(
            f,
            "\nSimulated: speed by that of the edge alone, each scheme's best draft length"
        )?;
        let all = Scheme::ALL.map(|scheme| self.best(scheme));
        let worlds: BTreeSet<_> = self.cells.iter().map(Cell::world).collect();
        let mut last = ("", "");
        for world in worlds {
            if (world.0, world.1) != last {
                last = (world.0, world.1);
                write!(f, "\n{}, {}\nRTT Mbit", world.0, world.1)?;
                for scheme in Scheme::ALL {
                    write!(f, " | {}", scheme.title())?;
                }
                writeln!(f)?;
            }
            write!(f, "{:>3} {:>4}", f64::from_bits(world.2), f64::from_bits(world.3))?;
            for (scheme, best) in Scheme::ALL.iter().zip(&all) {
                if let Some(cell) = best.get(&world) {
                    write!(f, " | {:>1$.2}", cell.speedup, scheme.title().len())?;
                }
            }
            writeln!(f)?;
        }
        let worst = self.cells.iter().filter_map(|c| Some((c.by_best?, c)));
        if let Some((ratio, c)) = worst.max_by(|a, b| a.0.total_cmp(&b.0)) {
            writeln!(
                f,
                "\nauto takes at most {ratio:.3} of the best single way's time ({}, {}, round trip {} ms, \
                 {} Mbit/s)",
                c.machines, c.sampling, c.net.rtt_ms, c.net.mbit
            )?;
        }
        let Some(wall) = &self.wall else { return Ok(()) };
        for m in &wall.machines {
            writeln!(
                f,
                "\nBy the clock on {}: drafting {:.1} ms, verifying {:.1} ms and {:.1} ms a row, {:.2} \
                 times slower while both compute",
                m.name, m.draft_ms, m.verify_ms, m.row_ms, m.contention
            )?;
        }
        writeln!(
            f,
            "sampling | RTT | Mbit | scheme | ms a token | by the edge alone | acceptance | bytes a token \
             up | down | simulated ms | acceptance | simulated by measured"
        )?;
        let share = |share: Option<f64>| share.map_or_else(|| "-".into(), |a| format!("{a:.2}"));
        for c in &wall.cells {
            let gamma = c.gamma.map_or_else(String::new, |g| format!(" γ {g}"));
            writeln!(
                f,
                "{} | {:>3} | {:>3} | {}{gamma} | {:.1} | {:.2} | {} | {:.0} | {:.0} | {:.1} | {} | {:.2}",
                c.sampling,
                c.rtt_ms,
                c.mbit,
                c.scheme.title(),
                c.ms_per_token,
                c.speedup,
                share(c.acceptance),
                c.up_per_token,
                c.down_per_token,
                c.simulated_ms_per_token,
                share(c.simulated_acceptance),
                c.simulated_ms_per_token / c.ms_per_token
            )?;
        }
        Ok(())
    }
}
