//! A box of declared speed with many clients, in virtual time: whenever it is free, all drafts that
//! wait are one forward pass.

use super::{Got, Mode};
use crate::decode::trace::Trace;
use crate::decode::world::Machines;

/// Simulated milliseconds.
const UNTIL: f64 = 120e3;

/// A client between two rounds.
struct Client<'a> {
    trace: &'a Trace,
    at: usize,
    answers: usize,
    /// When its draft arrives.
    ready: f64,
    gamma: usize,
}

/// Lets `n` clients answer one question after the other; prompts take no time.
pub fn run(machines: &Machines, n: usize, mode: Mode, traces: &[Trace]) -> Got {
    let mut got = Got { seconds: UNTIL / 1e3, ..Got::default() };
    let mut clients: Vec<Client<'_>> = (0..n)
        .map(|i| Client {
            trace: &traces[i % traces.len()],
            at: 0,
            answers: i,
            ready: 0.0,
            gamma: 0,
        })
        .collect();
    for client in &mut clients {
        client.draft(mode.gamma(), 0.0, machines);
    }
    let mut now = 0.0;
    while now < UNTIL {
        // The pass begins when there is something to verify.
        let first = clients.iter().map(|c| c.ready).fold(f64::INFINITY, f64::min);
        now = f64::max(now, first);
        let rows: usize = clients.iter().filter(|c| c.ready <= now).map(|c| c.gamma + 1).sum();
        let end = now + machines.verify(rows);
        for client in clients.iter_mut().filter(|c| c.ready <= now) {
            let places = &client.trace.places[client.at..];
            let accepted = places[..client.gamma].iter().take_while(|p| p.greedy).count();
            got.tokens += accepted + 1;
            got.rounds_ms.push(end - client.ready);
            // Ahead, the device has guessed that all is accepted and what follows, and drafted on.
            let ahead = matches!(mode, Mode::Ahead(_));
            let guessed = ahead && accepted == client.gamma && places[accepted].greedy;
            let mut begin = if guessed { client.ready + machines.draft_ms } else { end };
            client.at += accepted + 1;
            if client.at >= client.trace.places.len() {
                client.answers += 1;
                (client.trace, client.at) = (&traces[client.answers % traces.len()], 0);
                begin = end;
            }
            client.draft(mode.gamma(), begin, machines);
            client.ready = client.ready.max(end);
        }
        now = end;
    }
    got
}

impl Client<'_> {
    /// Begins a draft.
    fn draft(&mut self, gamma: usize, now: f64, machines: &Machines) {
        self.gamma = gamma.min(self.trace.places.len() - self.at - 1);
        self.ready = now + machines.draft_ms * self.gamma as f64;
    }
}
