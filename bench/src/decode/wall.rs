//! By the clock: the product's loop and edge over an emulated link, and the same answers simulated
//! with the times that were measured here.

use super::emulator::Emulator;
use super::schemes::Scheme;
use super::simulate::Simulation;
use super::trace::{self, Trace};
use super::world::{Machines, Net};
use super::{Args, load};
use anyhow::{Context, Result};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tandem_device::{
    Ahead, Drafter, Event, Gamma, Link, Mode, Request, RoundRecord, WhenEdgeLost, generate,
    new_session,
};
use tandem_edge::{Config, Edge, Limits};
use tandem_inference::{ChatMessage, DeviceChoice, LoadOptions, Role};
use tandem_speculation::Sampling;
use tokio_util::sync::CancellationToken;

/// The part by the clock.
#[derive(Serialize)]
pub struct Wall {
    /// This machine, by what its rounds took.
    pub machine: Machines,
    pub cells: Vec<Measured>,
}

/// One scheme over one link.
#[derive(Serialize)]
pub struct Measured {
    pub scheme: Scheme,
    pub gamma: Option<usize>,
    pub rtt_ms: f64,
    pub ms_per_token: f64,
    /// With this machine's times.
    pub simulated_ms_per_token: f64,
}

const WAYS: [(Scheme, Option<usize>); 6] = [
    (Scheme::Stream, None),
    (Scheme::Turns, Some(4)),
    (Scheme::Turns, None),
    (Scheme::Ahead, Some(4)),
    (Scheme::Ahead, None),
    (Scheme::Auto, None),
];

/// What one scheme took: all rounds but the first of each answer, which waits for the prompt.
#[derive(Default)]
struct Taken {
    tokens: usize,
    ms: f64,
    rounds: Vec<RoundRecord>,
}

/// Measures every way over every link, at temperature 0, where all write the same tokens.
pub fn measure(args: &Args, traces: &[Trace]) -> Result<Wall> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let taken = runtime.worker_threads(2).enable_all().build()?.block_on(all(args))?;
    let machine = this_machine(&taken)?;
    let greedy: Vec<&Trace> = traces
        .iter()
        .filter(|t| t.sampling == trace::SAMPLINGS[0].0)
        .take(args.wall_prompts)
        .collect();
    let cells = taken
        .iter()
        .map(|(rtt_ms, (scheme, gamma), taken)| {
            let net = Net { rtt_ms: *rtt_ms, mbit: MBIT, ..Net::default() };
            let mut simulation = Simulation::new(&machine, net, trace::VOCAB, *scheme, *gamma);
            for trace in &greedy {
                simulation.answer(trace, 0);
            }
            let sum = simulation.sum();
            Measured {
                scheme: *scheme,
                gamma: *gamma,
                rtt_ms: *rtt_ms,
                ms_per_token: taken.ms / taken.tokens as f64,
                simulated_ms_per_token: sum.ms / sum.tokens,
            }
        })
        .collect();
    Ok(Wall { machine, cells })
}

/// Megabits per second of the emulated links.
const MBIT: f64 = 100.0;

type Ways = Vec<(f64, (Scheme, Option<usize>), Taken)>;

async fn all(args: &Args) -> Result<Ways> {
    let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    let drafter = Drafter::load(args.drafter.clone(), options, CONTEXT).await?;
    let limits =
        Limits { context: CONTEXT, sessions: 8, kv_bytes: 1 << 30, idle: Duration::from_secs(600) };
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        state: None,
        token: None,
        name: "bench".into(),
        announce: false,
        limits,
        connections: 16,
        drafter: None,
    };
    let edge = Edge::start(Arc::new(load(&args.verifier)?), config).await?;
    let mut all = Vec::new();
    for &rtt_ms in &args.wall {
        let net = Net { rtt_ms, mbit: MBIT, ..Net::default() };
        let emulator = Emulator::start(edge.address(), net).await?;
        for way in WAYS {
            eprint!("\rby the clock: round trip {rtt_ms} ms, {}          ", way.0.title());
            // A link of its own, so that no way learns from the one before.
            let address = emulator.address().to_string().parse().context("an address")?;
            let link = Link::start(address, drafter.hello());
            let mut taken = Taken::default();
            for (_, prompt) in trace::PROMPTS.into_iter().take(args.wall_prompts) {
                answer(&drafter, &link, prompt, way, args.tokens, &mut taken).await?;
            }
            all.push((rtt_ms, way, taken));
        }
    }
    eprintln!();
    edge.stop().await;
    Ok(all)
}

const CONTEXT: usize = 4096;

async fn answer(
    drafter: &Drafter,
    link: &Link,
    prompt: &str,
    (scheme, gamma): (Scheme, Option<usize>),
    max_tokens: usize,
    taken: &mut Taken,
) -> Result<()> {
    let message = ChatMessage { role: Role::User, content: prompt.into() };
    let request = Request {
        session: new_session(),
        prompt: drafter.tokenizer().encode_chat(&[message])?,
        sampling: Sampling::GREEDY,
        seed: 1,
        mode: match scheme {
            Scheme::Stream => Mode::Edge,
            Scheme::Auto => Mode::Auto,
            _ => Mode::Dssd,
        },
        gamma: gamma.map_or(Gamma::Auto, Gamma::Fixed),
        ahead: if scheme == Scheme::Ahead { Ahead::Yes } else { Ahead::No },
        max_tokens,
        when_edge_lost: WhenEdgeLost::Stop,
        patience: Duration::from_secs(20),
    };
    let mut begun: Option<Instant> = None;
    let on = |event| {
        if let Event::Round { record, tokens, .. } = event {
            match begun {
                None => begun = Some(Instant::now()),
                Some(_) => {
                    taken.tokens += tokens.len();
                    taken.rounds.push(record);
                }
            }
        }
    };
    generate(drafter, Some(link), &request, &CancellationToken::new(), on).await?;
    taken.ms += begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// This machine's times from its rounds over the nearest link.
fn this_machine(taken: &Ways) -> Result<Machines> {
    let rounds = |way| {
        let found = taken.iter().find(|(_, w, _)| *w == way);
        found.map(|(.., taken)| &taken.rounds).filter(|r| !r.is_empty()).context("no rounds")
    };
    let mean = |rounds: &[RoundRecord], of: &dyn Fn(&RoundRecord) -> f64| {
        rounds.iter().map(of).sum::<f64>() / rounds.len() as f64
    };
    let [stream, turns, ahead] =
        [(Scheme::Stream, None), (Scheme::Turns, Some(4)), (Scheme::Ahead, Some(4))];
    let verify_ms = mean(rounds(stream)?, &|r| r.verify_ms);
    let turns = rounds(turns)?;
    let drafted = mean(turns, &|r| f64::from(r.drafted));
    let draft =
        |r: &RoundRecord| r.draft_ms / f64::from((r.drafted - r.ignored.min(r.drafted)).max(1));
    let draft_ms = mean(turns, &|r| r.draft_ms) / drafted;
    let row_ms = ((mean(turns, &|r| r.verify_ms) - verify_ms) / drafted).max(0.0);
    // Rounds of which all was accepted drafted just what is in their record.
    let whole: Vec<RoundRecord> =
        rounds(ahead)?.iter().filter(|r| r.outcome == "continue").cloned().collect();
    let contention =
        if whole.is_empty() { 1.0 } else { (mean(&whole, &draft) / draft_ms).max(1.0) };
    Ok(Machines {
        name: "this machine, as measured".into(),
        draft_ms,
        verify_ms,
        row_ms,
        box_draft_ms: draft_ms,
        contention,
    })
}
