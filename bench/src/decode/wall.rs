//! By the clock: the product's loop and edge and the peers' over an emulated link, and the same
//! answers simulated with the times that were measured here.

use super::peers::{Ask, Models};
use super::schemes::Scheme;
use super::simulate::{Simulation, Sum};
use super::trace::{self, Trace};
use super::ways::{Ready, Round, Way};
use super::world::{Machines, Net};
use super::{Args, load};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::sync::Arc;
use tandem_device::RoundRecord;
use tandem_inference::{ChatMessage, Role};
use tandem_speculation::TokenId;

/// The part by the clock.
#[derive(Serialize)]
pub struct Wall {
    /// This machine with each sampling, by what its rounds took.
    pub machines: Vec<Machines>,
    pub cells: Vec<Measured>,
}

/// One way over one link.
#[derive(Serialize)]
pub struct Measured {
    pub sampling: &'static str,
    pub rtt_ms: f64,
    pub mbit: f64,
    pub scheme: Scheme,
    pub gamma: Option<usize>,
    /// Without those of each answer's first round, which waits for the prompt; so all that follows.
    pub tokens: usize,
    pub ms_per_token: f64,
    /// Speed by that of the edge alone over the same link.
    pub speedup: f64,
    /// Accepted of the drafted tokens that were tested.
    pub acceptance: Option<f64>,
    /// Payload, in bytes.
    pub up_per_token: f64,
    /// Payload, in bytes.
    pub down_per_token: f64,
    /// With this machine's times.
    pub simulated_ms_per_token: f64,
    pub simulated_acceptance: Option<f64>,
}

/// Ways that are compared over links of one rate.
struct Group {
    /// Which of [`trace::SAMPLINGS`].
    sampling: usize,
    mbit: f64,
    ways: &'static [Way],
}

const GAMMA: Option<usize> = Some(4);

/// At temperature 0 all write the same text, so that all ways can be compared in one short answer.
/// Without truncation whole vectors are what the peers were made for, and a slow link shows them.
const GROUPS: [Group; 2] = [
    Group {
        sampling: 0,
        mbit: 100.0,
        ways: &[
            (Scheme::Stream, None),
            (Scheme::Device, None),
            (Scheme::Colocated, None),
            (Scheme::Dsd, GAMMA),
            (Scheme::Full, GAMMA),
            (Scheme::Greedy, GAMMA),
            (Scheme::Gumbel, GAMMA),
            (Scheme::Turns, GAMMA),
            (Scheme::Turns, None),
            (Scheme::Ahead, GAMMA),
            (Scheme::Ahead, None),
            (Scheme::Auto, None),
        ],
    },
    Group {
        sampling: 2,
        mbit: 10.0,
        ways: &[
            (Scheme::Stream, None),
            (Scheme::Dsd, GAMMA),
            (Scheme::Full, GAMMA),
            (Scheme::Turns, GAMMA),
            (Scheme::Auto, None),
        ],
    },
];

/// All answers of one way over one link.
struct Taken {
    group: usize,
    rtt_ms: f64,
    way: Way,
    answers: Vec<Vec<Round>>,
}

impl Taken {
    /// All rounds but the first of each answer.
    fn rounds(&self) -> impl Iterator<Item = &Round> {
        self.answers.iter().flat_map(|rounds| rounds.iter().skip(1))
    }

    fn records(&self) -> Vec<&RoundRecord> {
        self.rounds().filter_map(|r| r.record.as_ref()).collect()
    }

    fn texts(&self) -> Vec<Vec<TokenId>> {
        let text = |rounds: &Vec<Round>| rounds.iter().flat_map(|r| r.tokens.clone()).collect();
        self.answers.iter().map(text).collect()
    }

    /// From each answer's first round to its last.
    fn ms(&self) -> f64 {
        let took = |rounds: &Vec<Round>| Some(rounds.last()?.at - rounds.first()?.at);
        self.answers.iter().filter_map(took).map(|t| t.as_secs_f64() * 1e3).sum()
    }

    fn sum(&self, of: impl Fn(&Round) -> usize) -> usize {
        self.rounds().map(of).sum()
    }

    fn ms_per_token(&self) -> f64 {
        self.ms() / self.sum(|r| r.tokens.len()) as f64
    }
}

/// Measures every way over every link.
pub fn measure(args: &Args, traces: &[Trace]) -> Result<Wall> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let taken = runtime.worker_threads(2).enable_all().build()?.block_on(all(args))?;
    let mut machines: Vec<Machines> = Vec::new();
    for (at, group) in GROUPS.iter().enumerate() {
        let near: Vec<&Taken> = taken.iter().filter(|t| t.group == at).collect();
        let contention = machines.first().map(|m| m.contention);
        machines.push(this_machine(trace::SAMPLINGS[group.sampling].0, &near, contention)?);
    }
    let cells = taken.iter().map(|t| {
        let stream = taken
            .iter()
            .find(|s| (s.group, s.rtt_ms, s.way.0) == (t.group, t.rtt_ms, Scheme::Stream));
        let stream = stream.context("the edge alone was not measured")?;
        let simulated = simulate(args, traces, t, &machines[t.group]);
        Ok(cell(t, stream.ms_per_token(), simulated))
    });
    let cells = cells.collect::<Result<_>>()?;
    Ok(Wall { machines, cells })
}

fn cell(taken: &Taken, stream_ms: f64, simulated: Sum) -> Measured {
    let tokens = taken.sum(|r| r.tokens.len());
    let tested = taken.sum(Round::tested);
    let group = &GROUPS[taken.group];
    let ms_per_token = taken.ms_per_token();
    let share = |accepted, tested| (tested > 0.0).then_some(accepted / tested);
    Measured {
        sampling: trace::SAMPLINGS[group.sampling].0,
        rtt_ms: taken.rtt_ms,
        mbit: group.mbit,
        scheme: taken.way.0,
        gamma: taken.way.1,
        tokens,
        ms_per_token,
        speedup: stream_ms / ms_per_token,
        acceptance: share(taken.sum(|r| r.accepted) as f64, tested as f64),
        up_per_token: taken.sum(|r| r.up) as f64 / tokens as f64,
        down_per_token: taken.sum(|r| r.down) as f64 / tokens as f64,
        simulated_ms_per_token: simulated.ms / simulated.tokens,
        simulated_acceptance: share(simulated.accepted, simulated.tested),
    }
}

/// The same answers with this machine's times; where acceptance is drawn, the mean of many draws.
fn simulate(args: &Args, traces: &[Trace], taken: &Taken, machine: &Machines) -> Sum {
    let group = &GROUPS[taken.group];
    let (name, sampling) = trace::SAMPLINGS[group.sampling];
    let net = Net { rtt_ms: taken.rtt_ms, mbit: group.mbit, ..Net::default() };
    let repeats = if sampling.temperature == 0.0 { 1 } else { args.repeat };
    let mut sum = Sum::default();
    for repeat in 0..repeats {
        // A link of its own for each, as by the clock.
        let (scheme, gamma) = taken.way;
        let mut simulation = Simulation::new(machine, net, trace::VOCAB, scheme, gamma);
        for trace in traces.iter().filter(|t| t.sampling == name).take(args.wall_prompts) {
            let mut trace = trace.clone();
            trace.places.truncate(args.wall_tokens);
            simulation.answer(&trace, repeat);
        }
        let one = simulation.sum();
        sum.tokens += one.tokens;
        sum.ms += one.ms;
        sum.tested += one.tested;
        sum.accepted += one.accepted;
    }
    sum
}

async fn all(args: &Args) -> Result<Vec<Taken>> {
    let models = Models {
        drafter: Arc::new(load(&args.drafter)?),
        verifier: Arc::new(load(&args.verifier)?),
    };
    let tokenizer = Arc::clone(models.verifier.tokenizer());
    let ready = Ready::start(&args.drafter, models).await?;
    let mut all: Vec<Taken> = Vec::new();
    for (at, group) in GROUPS.iter().enumerate() {
        let (name, sampling) = trace::SAMPLINGS[group.sampling];
        let ask = |(_, prompt): (&str, &str)| {
            let message = ChatMessage { role: Role::User, content: prompt.into() };
            let prompt = tokenizer.encode_chat(&[message])?;
            Ok(Ask { prompt, sampling, seed: 1, max_tokens: args.wall_tokens })
        };
        let asks = trace::PROMPTS.into_iter().take(args.wall_prompts).map(ask);
        let asks = asks.collect::<Result<Vec<_>>>()?;
        for &rtt_ms in &args.wall {
            let net = Net { rtt_ms, mbit: group.mbit, ..Net::default() };
            for &way in group.ways {
                eprint!("\rby the clock: {name}, round trip {rtt_ms} ms, {}      ", way.0.title());
                let answers = ready.answers(way, net, &asks).await?;
                let taken = Taken { group: at, rtt_ms, way, answers };
                let stream = all.iter().find(|t| t.group == at && t.way.0 == Scheme::Stream);
                // The drafter alone writes another text, and at a temperature so does every way.
                if let Some(stream) = stream
                    && sampling.temperature == 0.0
                    && way.0 != Scheme::Device
                {
                    ensure!(
                        taken.texts() == stream.texts(),
                        "{} wrote another text than the edge alone",
                        way.0.title()
                    );
                }
                all.push(taken);
            }
        }
    }
    eprintln!();
    ready.stop().await;
    Ok(all)
}

/// This machine's times from its rounds over the nearest link. Both sides compute at once only while
/// drafting ahead; where that was not measured, `contention` is from where it was.
fn this_machine(sampling: &str, taken: &[&Taken], contention: Option<f64>) -> Result<Machines> {
    let find = |way| taken.iter().find(|t| t.way == way).map(|t| t.records());
    let rounds = |way| find(way).filter(|r| !r.is_empty()).context("no rounds");
    let mean = |rounds: &[&RoundRecord], of: &dyn Fn(&RoundRecord) -> f64| {
        rounds.iter().map(|r| of(r)).sum::<f64>() / rounds.len() as f64
    };
    let verify_ms = mean(&rounds((Scheme::Stream, None))?, &|r| r.verify_ms);
    let turns = rounds((Scheme::Turns, GAMMA))?;
    let drafted = mean(&turns, &|r| f64::from(r.drafted));
    let draft =
        |r: &RoundRecord| r.draft_ms / f64::from((r.drafted - r.ignored.min(r.drafted)).max(1));
    let draft_ms = mean(&turns, &|r| r.draft_ms) / drafted;
    let row_ms = ((mean(&turns, &|r| r.verify_ms) - verify_ms) / drafted).max(0.0);
    // Rounds of which all was accepted drafted just what is in their record.
    let mut whole = find((Scheme::Ahead, GAMMA)).unwrap_or_default();
    whole.retain(|r| r.outcome == "continue");
    let measured = (!whole.is_empty()).then(|| mean(&whole, &draft) / draft_ms);
    Ok(Machines {
        name: format!("this machine, {sampling}"),
        draft_ms,
        verify_ms,
        row_ms,
        box_draft_ms: draft_ms,
        contention: measured.or(contention).unwrap_or(1.0).max(1.0),
    })
}
