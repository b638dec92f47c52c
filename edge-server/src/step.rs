//! One step of the compute thread: what is computed is planned, computed together, and given out.

use crate::finish::Timing;
use crate::job::Rows;
use crate::pass::{Passed, forward};
use crate::scheduler::Scheduler;
use crate::session::micros;
use crate::share::{Reading, STEP_ROWS, behind, choose_rounds, prompt_budget, prompt_rows};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;
use tandem_inference::{Segment, Wanted};
use tandem_protocol::{ErrorCode, SessionId};

/// What one session computes, and whether it is a round.
struct Part {
    rows: Rows,
    round: bool,
}

impl Scheduler {
    /// One forward pass over what waits; false if nothing could be computed.
    pub(super) fn step(&mut self) -> bool {
        let start = Instant::now();
        self.end_unsound();
        let (plan, starved) = self.plan();
        self.starved = !starved.is_empty();
        if plan.is_empty() {
            return starved.first().is_some_and(|oldest| self.make_way(*oldest));
        }
        let mut order = Vec::with_capacity(plan.len());
        let mut segments = Vec::with_capacity(plan.len());
        for session in self.sessions.values_mut() {
            let (Some(Part { rows, round }), Some(cache)) =
                (plan.get(&session.id), &mut session.cache)
            else {
                continue;
            };
            let Rows { tokens, from, alternatives } = rows;
            let logits = if *round { Wanted::From(*from, alternatives) } else { Wanted::None };
            order.push((session.id, *round));
            segments.push(Segment { cache, tokens, logits });
        }
        let mut passed = forward(&mut segments, |segments| self.model.forward(segments));
        drop(segments);
        self.metrics.batch.observe(order.len() as f64);
        for (number, (id, round)) in order.into_iter().enumerate() {
            if round {
                self.finish(id, number, &mut passed, start);
            } else {
                self.has_read(id, plan[&id].rows.tokens.len(), passed.rows(number).err());
            }
        }
        true
    }

    /// Ends sessions whose parts do not fit each other, before they can break a computation.
    fn end_unsound(&mut self) {
        let unsound = self.sessions.values().filter(|s| s.works() && !s.sound());
        let unsound: Vec<SessionId> = unsound.map(|s| s.id).collect();
        for id in unsound {
            let text = "the edge lost its place in this conversation; open it again";
            self.end(id, (ErrorCode::Internal, text.into()));
        }
    }

    /// What is computed in this step, with memory for it; and who found none, the oldest first.
    fn plan(&mut self) -> (HashMap<SessionId, Part>, Vec<SessionId>) {
        let prompts = self.prompts();
        // The oldest request first.
        let mut ready: Vec<(Instant, SessionId, Rows)> = self
            .sessions
            .values()
            .filter(|s| s.cache.is_some())
            .filter_map(|s| Some((s.arrived()?, s.id, s.round_rows()?)))
            .collect();
        ready.sort_by_key(|r| r.0);
        let wants: Vec<(u64, usize)> = prompts
            .iter()
            .map(|id| (self.sessions[id].party(), self.sessions[id].prompt_left().len()))
            .collect();
        let shares = prompt_rows(&wants, prompt_budget(&wants, !ready.is_empty()));
        let left = STEP_ROWS.saturating_sub(shares.iter().sum());
        let rounds: Vec<(u64, usize)> =
            ready.iter().map(|(_, id, rows)| (self.sessions[id].party(), rows.rows())).collect();
        let mut chosen = choose_rounds(&rounds, left);
        chosen.sort_unstable();
        let mut parts: Vec<(SessionId, Part)> = Vec::new();
        for (i, (_, id, rows)) in ready.into_iter().enumerate() {
            if chosen.binary_search(&i).is_ok() {
                parts.push((id, Part { rows, round: true }));
            }
        }
        for (id, rows) in prompts.into_iter().zip(shares).filter(|(_, rows)| *rows > 0) {
            let tokens = self.sessions[&id].prompt_left()[..rows].to_vec();
            let rows = Rows { tokens, from: 0, alternatives: Vec::new() };
            parts.push((id, Part { rows, round: false }));
        }
        let (mut plan, mut starved) = (HashMap::new(), Vec::new());
        for (id, part) in parts {
            // An alternative may stand behind the last token.
            let wanted = self.sessions[&id].known() + part.rows.tokens.len() + 1;
            if self.grow(id, wanted) {
                plan.insert(id, part);
            } else {
                starved.push(id);
            }
        }
        (plan, starved)
    }

    /// Whose prompts are computed now: those that nobody is computing the beginning of.
    fn prompts(&mut self) -> Vec<SessionId> {
        let reading = self.sessions.values().filter(|s| s.works() && !s.prompt_left().is_empty());
        let mut reading: Vec<(u64, SessionId)> = reading.map(|s| (s.admitted, s.id)).collect();
        reading.sort_unstable_by_key(|r| r.0);
        let texts = |(_, id): &(u64, SessionId)| {
            let session = &self.sessions[id];
            Reading { owner: &session.owner, tokens: session.tokens(), known: session.known() }
        };
        let wait = behind(&reading.iter().map(texts).collect::<Vec<_>>());
        let mut prompts = Vec::new();
        for ((_, id), waits) in reading.into_iter().zip(wait) {
            if waits {
                continue;
            }
            if self.adopt(id) {
                self.report_if_read(id);
            }
            if self.sessions.get(&id).is_some_and(|s| !s.prompt_left().is_empty()) {
                prompts.push(id);
            }
        }
        prompts
    }

    /// Gives out a round, or the reason why there is none.
    fn finish(&mut self, id: SessionId, number: usize, passed: &mut Passed, start: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let arrived = session.arrived().unwrap_or(start);
        let queued = start.saturating_duration_since(arrived);
        let queued_us = u32::try_from(queued.as_micros()).unwrap_or(u32::MAX);
        let timing = Timing { queued_us, start };
        let finish = || {
            let mut rows =
                passed.rows(number).map_err(|e| (ErrorCode::Internal, failed_here(e)))?;
            session.finish_round(&self.model, timing, &mut rows)
        };
        let done = catch_unwind(AssertUnwindSafe(finish)).unwrap_or_else(|_| {
            Err((ErrorCode::Internal, failed_here("the acceptance test broke off")))
        });
        self.metrics.rounds.inc();
        self.metrics.queued.observe(queued.as_secs_f64());
        self.metrics.verified.observe(f64::from(micros(start)) / 1e6);
        let done = match done {
            Ok(done) => done,
            Err(refusal) => {
                tracing::warn!("a conversation ended: {}", refusal.1);
                return self.end(id, refusal);
            }
        };
        self.metrics.drafted.inc_by(done.drafted as u64);
        self.metrics.accepted.inc_by(done.accepted as u64);
        if let Some(peer) = &session.peer {
            peer.send_bytes(done.bytes);
        }
        if let (Some(own), Some(drafting)) = (&mut self.colocated, &done.own) {
            let ms = start.elapsed().as_secs_f64() * 1e3;
            own.learn(drafting, done.accepted, done.tokens, ms);
        }
    }

    /// Notes a piece of a prompt, or the reason why it was not computed.
    fn has_read(&mut self, id: SessionId, tokens: usize, problem: Option<&str>) {
        if let Some(problem) = problem {
            tracing::warn!("a conversation ended: {problem}");
            return self.end(id, (ErrorCode::Internal, failed_here(problem)));
        }
        self.metrics.prefilled.inc_by(tokens as u64);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.last_used = Instant::now();
        if let Some(peer) = &session.peer {
            peer.send(&session.prefill_report());
        }
    }
}

/// For people; other conversations are not concerned.
fn failed_here(problem: &str) -> String {
    format!("the edge's model failed in this conversation: {problem}")
}
