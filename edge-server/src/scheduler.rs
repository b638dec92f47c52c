//! The compute thread: owns the model and all sessions, and turns all waiting work into one ragged
//! batch per step.
//!
//! Rounds go first and together. Prompts are computed in pieces between them: a large piece when
//! nothing else waits, a small one of each connection beside waiting rounds, so that a long prompt
//! delays nobody by more than a small piece. Connections get equal shares of both (`share.rs`), and
//! what was computed of a text is not computed again for another that begins alike.

use crate::colocated::Colocated;
use crate::job::Rows;
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::session::{Refusal, Session, context_full, micros};
use crate::share::{donor, prompt_budget, prompt_rows, take_turns};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tandem_inference::{Model, Segment, Wanted};
use tandem_protocol::{ClientMessage, ErrorCode, Open, SessionId, check_ids};
use tandem_speculation::common_beginning;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Sequences in one step at most; the others wait for the next.
const MAX_BATCH: usize = 64;

/// Conversations of one connection that compute at once, or an eighth of all: the others' find a place.
const BUSY_EACH: usize = 4;

/// Limits of the sessions.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Tokens of a context at most.
    pub context: usize,
    /// Sessions kept at most.
    pub sessions: usize,
    /// Bytes of KV cache of all sessions at most.
    pub kv_bytes: usize,
    /// A session that was idle for this long is forgotten.
    pub idle: Duration,
}

/// What a connection asks of the compute thread.
pub(crate) enum Work {
    /// A message, checked by the protocol crate. The permit bounds a connection's waiting messages.
    Message { peer: Peer, message: ClientMessage, arrived: Instant, permit: OwnedSemaphorePermit },
    /// The connection is gone; its sessions stay for a while.
    Gone { connection: u64 },
    /// Time has passed: idle sessions may be forgotten.
    Tick,
    /// Finish running rounds, tell everyone, and end.
    Stop,
}

pub(crate) struct Scheduler {
    model: Arc<Model>,
    limits: Limits,
    metrics: Arc<Metrics>,
    /// The edge's own drafter, if it has one.
    colocated: Option<Colocated>,
    sessions: HashMap<SessionId, Session>,
    by_generation: HashMap<(u64, u32), SessionId>,
    stopping: bool,
}

impl Scheduler {
    pub(crate) fn new(
        model: Arc<Model>,
        drafter: Option<Arc<Model>>,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            model,
            limits,
            metrics,
            colocated: drafter.map(Colocated::new),
            sessions: HashMap::new(),
            by_generation: HashMap::new(),
            stopping: false,
        }
    }

    /// Runs until `Stop` or until nobody can send work any more.
    pub(crate) fn run(mut self, mut work: mpsc::Receiver<Work>) {
        loop {
            if !self.busy() {
                if self.stopping {
                    break;
                }
                match work.blocking_recv() {
                    Some(item) => self.take(item),
                    None => break,
                }
            }
            while let Ok(item) = work.try_recv() {
                self.take(item);
            }
            let step = || {
                self.step();
                self.draft();
            };
            if catch_unwind(AssertUnwindSafe(step)).is_err() {
                self.drop_all("the edge failed in a computation; open the conversation again");
            }
            self.forget_idle();
            self.metrics.sessions.set(self.sessions.len() as i64);
            self.metrics.running.set(self.sessions.values().filter(|s| s.runs()).count() as i64);
            self.metrics.kv_bytes.set(self.kv_bytes() as i64);
        }
        for session in self.sessions.values() {
            if let Some(peer) = &session.peer {
                let text = "the edge is stopping; the answer can go on when it is back";
                peer.fail(Some(session.generation), ErrorCode::ShuttingDown, text);
            }
        }
    }

    fn busy(&self) -> bool {
        self.sessions.values().any(Session::runs)
    }

    fn kv_bytes(&self) -> usize {
        let own = self.colocated.as_ref().map_or(0, Colocated::kv_bytes);
        self.sessions.values().map(|s| s.cache.bytes()).sum::<usize>() + own
    }

    /// One token of the edge's own drafts.
    fn draft(&mut self) {
        let Some(colocated) = &mut self.colocated else { return };
        colocated.keep(&self.sessions);
        let verifying: usize = self.sessions.values().map(|s| s.cache.bytes()).sum();
        colocated.step(&mut self.sessions, self.limits.kv_bytes.saturating_sub(verifying));
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Message { peer, message, arrived, permit } => {
                self.message(&peer, message, arrived);
                drop(permit);
            }
            Work::Gone { connection } => {
                self.by_generation.retain(|key, _| key.0 != connection);
                for session in self.sessions.values_mut() {
                    if session.peer.as_ref().is_some_and(|p| p.connection == connection) {
                        session.peer = None;
                        session.drop_jobs();
                    }
                }
            }
            Work::Tick => {}
            Work::Stop => {
                self.stopping = true;
                for session in self.sessions.values_mut() {
                    // A round finishes; a prompt or a stream would take too long.
                    if session.streams() || !session.prompt_left().is_empty() {
                        session.drop_jobs();
                        session.abandon_prompt();
                    }
                }
            }
        }
    }

    fn message(&mut self, peer: &Peer, message: ClientMessage, arrived: Instant) {
        let vocab = self.model.info().vocab;
        let generation = match &message {
            ClientMessage::Open(m) => Some(m.generation),
            ClientMessage::Draft(m) => Some(m.generation),
            ClientMessage::Stream(m) => Some(m.generation),
            ClientMessage::More(m) => Some(m.generation),
            ClientMessage::Cancel { generation } => Some(*generation),
            ClientMessage::Hello(_) | ClientMessage::Close { .. } => None,
        };
        let ids = match &message {
            ClientMessage::Open(m) => check_ids(&m.tokens, vocab),
            ClientMessage::Draft(m) => {
                let alternatives = m.alternatives.iter().map(|a| &a.id);
                check_ids(m.committed.iter().chain(&m.ids).chain(alternatives), vocab)
            }
            ClientMessage::Stream(m) => check_ids(&m.committed, vocab),
            _ => Ok(()),
        };
        if let Err(e) = ids {
            peer.fail(generation, ErrorCode::BadMessage, e.to_string());
            return;
        }
        let drafts = self.colocated.is_some();
        let done = match message {
            ClientMessage::Open(open) => self.open(peer, open),
            ClientMessage::Close { session } => {
                if let Some(old) = self.sessions.remove(&session) {
                    self.unlink(&old);
                }
                Ok(())
            }
            ClientMessage::Hello(_) => Err((ErrorCode::State, "Hello came twice".into())),
            message => match self.find(peer, generation) {
                Err(e) => Err(e),
                Ok(session) => match message {
                    ClientMessage::Draft(m) => session.draft(m, arrived).map(|stored| {
                        if let Some(bytes) = stored {
                            peer.send_bytes(bytes);
                        }
                    }),
                    ClientMessage::Stream(m) => session.stream(m, arrived, drafts),
                    ClientMessage::More(m) => {
                        session.more(m.round, m.asked, vocab).map(|answer| peer.send(&answer))
                    }
                    _ => {
                        session.drop_jobs();
                        session.abandon_prompt();
                        Ok(())
                    }
                },
            },
        };
        if let Err((code, text)) = done {
            peer.fail(generation, code, text);
        }
    }

    fn find(&mut self, peer: &Peer, generation: Option<u32>) -> Result<&mut Session, Refusal> {
        let key = (peer.connection, generation.unwrap_or_default());
        let id = self.by_generation.get(&key);
        id.and_then(|id| self.sessions.get_mut(id)).ok_or_else(|| {
            (ErrorCode::State, "the edge does not know this generation; open it again".into())
        })
    }

    /// Who is to get a fair share for this session: its connection.
    fn party(&self, id: SessionId) -> u64 {
        self.sessions[&id].peer.as_ref().map_or(0, |peer| peer.connection)
    }

    /// Forgets which generation of which connection a session belongs to.
    fn unlink(&mut self, session: &Session) {
        if let Some(peer) = &session.peer {
            self.by_generation.remove(&(peer.connection, session.generation));
        }
    }

    fn open(&mut self, peer: &Peer, open: Open) -> Result<(), Refusal> {
        if self.stopping {
            return Err((ErrorCode::ShuttingDown, "the edge is stopping".into()));
        }
        let wanted = open.tokens.len() + 1;
        if wanted > self.limits.context {
            return Err((ErrorCode::ContextFull, context_full(wanted, self.limits.context)));
        }
        let (id, generation) = (open.session, open.generation);
        let busy = self.sessions.values().filter(|s| {
            let own = s.peer.as_ref().is_some_and(|p| p.connection == peer.connection);
            own && s.id != id && s.runs()
        });
        if busy.count() >= (self.limits.sessions / 8).max(BUSY_EACH) {
            let text = "this connection has too many answers at once; wait until one of them ends";
            return Err((ErrorCode::Busy, text.into()));
        }
        let mut session = match self.sessions.remove(&id) {
            Some(session) => {
                self.unlink(&session);
                if let Some(old) = session.peer.as_ref().filter(|p| p.connection != peer.connection)
                {
                    let text = "this conversation was continued from another connection";
                    old.fail(Some(session.generation), ErrorCode::State, text);
                }
                session
            }
            None => {
                let cache = self.model.new_cache(self.limits.context);
                Session::new(id, cache.map_err(|e| (ErrorCode::Internal, e.to_string()))?)
            }
        };
        let new_bytes = wanted * self.model.cache_bytes_per_token();
        if !self.make_room(new_bytes.max(session.cache.bytes())) {
            return Err((
                ErrorCode::Busy,
                "the edge is full: too many conversations at once; try again later".into(),
            ));
        }
        let known = common_beginning(session.computed(), &open.tokens);
        let others = self.sessions.values().map(|s| (s.id, &s.owner, s.computed()));
        if let Some((other, shared)) = donor(others, &peer.owner, &open.tokens, known) {
            session.begin_as(&self.sessions[&other], &open.tokens, shared);
        }
        session.open(open, peer.clone());
        self.metrics.reused.inc_by(session.reused() as u64);
        if session.prompt_left().is_empty() {
            peer.send(&session.prefill_report());
        }
        // A number that is used again takes the place of the older generation.
        if let Some(older) = self.by_generation.insert((peer.connection, generation), id)
            && let Some(older) = self.sessions.get_mut(&older)
        {
            older.peer = None;
            older.drop_jobs();
        }
        self.sessions.insert(id, session);
        Ok(())
    }

    /// Forgets idle sessions, oldest first, until one more with `bytes` fits.
    fn make_room(&mut self, bytes: usize) -> bool {
        loop {
            let fits = self.sessions.len() < self.limits.sessions
                && self.kv_bytes() + bytes <= self.limits.kv_bytes;
            if fits {
                return true;
            }
            let idle = self.sessions.values().filter(|s| !s.runs());
            let Some(id) = idle.min_by_key(|s| s.last_used).map(|s| s.id) else { return false };
            self.forget(id);
        }
    }

    fn forget(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            self.unlink(&session);
        }
    }

    fn forget_idle(&mut self) {
        let idle: Vec<SessionId> = self
            .sessions
            .values()
            .filter(|s| !s.waits() && s.last_used.elapsed() > self.limits.idle)
            .map(|s| s.id)
            .collect();
        for id in idle {
            self.forget(id);
        }
    }

    fn drop_all(&mut self, text: &str) {
        for session in std::mem::take(&mut self.sessions).into_values() {
            if let Some(peer) = &session.peer {
                peer.fail(Some(session.generation), ErrorCode::Internal, text);
            }
        }
        self.by_generation.clear();
        if let Some(colocated) = &mut self.colocated {
            colocated.clear();
        }
    }

    /// One forward pass over everything that waits.
    fn step(&mut self) {
        let start = Instant::now();
        // The oldest request first.
        let mut ready: Vec<(Instant, SessionId)> = self
            .sessions
            .values()
            .filter_map(|s| s.round_rows().and_then(|_| Some((s.arrived()?, s.id))))
            .collect();
        ready.sort_by_key(|e| e.0);
        let mut ready: Vec<(u64, SessionId)> =
            ready.into_iter().map(|(_, id)| (self.party(id), id)).collect();
        take_turns(&mut ready);
        ready.truncate(MAX_BATCH);
        let prompts: Vec<SessionId> =
            self.sessions.values().filter(|s| !s.prompt_left().is_empty()).map(|s| s.id).collect();
        let wants: Vec<(u64, usize)> = prompts
            .iter()
            .map(|id| (self.party(*id), self.sessions[id].prompt_left().len()))
            .collect();

        let budget = prompt_budget(&wants, !ready.is_empty());
        // What each session computes, and whether it is a round.
        let mut plan: HashMap<SessionId, (Rows, bool)> = HashMap::new();
        for (_, id) in ready {
            if let Some(rows) = self.sessions[&id].round_rows() {
                plan.insert(id, (rows, true));
            }
        }
        for (id, rows) in prompts.into_iter().zip(prompt_rows(&wants, budget)) {
            if rows > 0 {
                let tokens = self.sessions[&id].prompt_left()[..rows].to_vec();
                plan.insert(id, (Rows { tokens, from: 0, alternatives: Vec::new() }, false));
            }
        }
        if plan.is_empty() {
            return;
        }

        let mut order = Vec::with_capacity(plan.len());
        let mut segments = Vec::with_capacity(plan.len());
        for session in self.sessions.values_mut() {
            if let Some((rows, round)) = plan.get(&session.id) {
                let Rows { tokens, from, alternatives } = rows;
                let (count, logits) = if *round {
                    (rows.wanted(), Wanted::From(*from, alternatives))
                } else {
                    (tokens.len(), Wanted::None)
                };
                order.push((session.id, count, *round));
                segments.push(Segment { cache: &mut session.cache, tokens, logits });
            }
        }
        let forward = self.model.forward(&mut segments);
        drop(segments);
        let logits = match forward {
            Ok(logits) => logits,
            Err(e) => {
                tracing::error!("forward pass failed: {e}");
                self.drop_all(&format!("the edge's model failed: {e}"));
                return;
            }
        };
        self.metrics.batch.observe(order.len() as f64);
        let mut first = 0;
        for (id, count, round) in order {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            if round {
                let rows = first..first + count;
                first += count;
                let arrived = session.arrived().unwrap_or(start);
                let queued = start.saturating_duration_since(arrived);
                let queued_us = u32::try_from(queued.as_micros()).unwrap_or(u32::MAX);
                let row = |i: usize| logits.row(rows.start + i).to_vec();
                let done = session.finish_round(&self.model, queued_us, start, row);
                self.metrics.rounds.inc();
                self.metrics.queued.observe(queued.as_secs_f64());
                self.metrics.verified.observe(f64::from(micros(start)) / 1e6);
                match done {
                    Ok(done) => {
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
                    Err(refusal) => {
                        if let Some(peer) = &session.peer {
                            peer.send(&session.failure(refusal));
                        }
                    }
                }
            } else {
                self.metrics.prefilled.inc_by(count as u64);
                session.last_used = Instant::now();
                if let Some(peer) = &session.peer {
                    peer.send(&session.prefill_report());
                }
            }
        }
    }
}
