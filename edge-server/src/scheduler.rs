//! The compute thread: owns the model and all sessions, takes what connections ask for, and turns all
//! waiting work into one ragged batch per step (`step.rs`), for those that have memory (`admission.rs`).
//!
//! Rounds go first and together. Prompts are computed in pieces between them: a large piece when
//! nothing else waits, a small one of each party beside waiting rounds, so that a long prompt
//! delays nobody by more than a small piece. Parties get equal shares of both (`share.rs`), and
//! what was computed of a text is not computed again for another that begins alike.
//!
//! **Invariant: what fails in one session ends that session and no other.** Messages, passes and the ends
//! of rounds are each guarded, and a session that failed is gone with all that it held.

use crate::admission::Waiter;
use crate::colocated::Colocated;
use crate::kv_budget::{Holder, KvBudget};
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::session::{Refusal, Session, context_full};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tandem_inference::Model;
use tandem_protocol::{ClientMessage, ErrorCode, Open, SessionId, check_ids};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

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
    /// An answer that found no room for this long is told that the edge is busy.
    pub wait: Duration,
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
    pub(super) model: Arc<Model>,
    pub(super) limits: Limits,
    pub(super) metrics: Arc<Metrics>,
    /// The edge's own drafter, if it has one.
    pub(super) colocated: Option<Colocated>,
    pub(super) sessions: HashMap<SessionId, Session>,
    pub(super) by_generation: HashMap<(u64, u32), SessionId>,
    /// Memory for keys and values.
    pub(super) budget: KvBudget,
    /// Who has no memory, in order.
    pub(super) waiting: VecDeque<Waiter>,
    /// Counts admissions.
    pub(super) admissions: u64,
    /// A session at work found no memory to grow: nobody new is let in.
    pub(super) starved: bool,
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
            colocated: drafter.map(Colocated::new),
            sessions: HashMap::new(),
            by_generation: HashMap::new(),
            budget: KvBudget::new(limits.kv_bytes),
            waiting: VecDeque::new(),
            admissions: 0,
            starved: false,
            stopping: false,
            limits,
            metrics,
        }
    }

    /// Runs until `Stop` or until nobody can send work any more.
    pub(crate) fn run(mut self, mut work: mpsc::Receiver<Work>) {
        // Whether the last step computed anything; what waits for memory is looked at again with every
        // tick.
        let mut goes_on = false;
        loop {
            if !goes_on {
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
                self.admit_waiting();
                let stepped = self.step();
                self.draft() || stepped
            };
            goes_on = catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
                // Nothing that a session brings is outside the guards, so this is the edge's own fault.
                self.drop_all("the edge failed; open the conversation again");
                false
            });
            self.forget_idle();
            self.metrics.sessions.set(self.sessions.len() as i64);
            self.metrics.running.set(self.sessions.values().filter(|s| s.works()).count() as i64);
            self.metrics.waiting.set(self.waiting.len() as i64);
            self.metrics.kv_bytes.set(self.budget.total() as i64);
        }
        for session in self.sessions.values() {
            if let Some(peer) = &session.peer {
                let text = "the edge is stopping; the answer can go on when it is back";
                peer.fail(Some(session.generation), ErrorCode::ShuttingDown, text);
            }
        }
    }

    /// One token of the edge's own drafts; true if there was any to make.
    fn draft(&mut self) -> bool {
        let Some(colocated) = &mut self.colocated else { return false };
        colocated.keep(&self.sessions, &mut self.budget);
        colocated.step(&mut self.sessions, &mut self.budget)
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Message { peer, message, arrived, permit } => {
                let about = (generation(&message), opened(&message));
                let taken = AssertUnwindSafe(|| self.message(&peer, message, arrived));
                if catch_unwind(taken).is_err() {
                    self.broken(&peer, about);
                }
                drop(permit);
            }
            Work::Gone { connection } => {
                self.by_generation.retain(|key, _| key.0 != connection);
                for session in self.sessions.values_mut() {
                    if session.peer.as_ref().is_some_and(|p| p.connection == connection) {
                        session.peer = None;
                        session.drop_jobs();
                        session.abandon_prompt();
                    }
                }
                self.forget_gone();
            }
            Work::Tick => {}
            Work::Stop => {
                self.stopping = true;
                // Who waits for memory is told with all others.
                self.waiting.clear();
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
        let generation = generation(&message);
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
                self.forget(session);
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
                        self.forget_gone();
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
        if !self.could_fit(wanted) {
            let text = "the text does not fit into the memory that the edge has for conversations; \
                        start a new one, or give the edge more --kv-memory";
            return Err((ErrorCode::ContextFull, text.into()));
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
            None => Session::new(id, self.limits.context),
        };
        session.open(open, peer.clone());
        // A number that is used again takes the place of the older generation.
        if let Some(older) = self.by_generation.insert((peer.connection, generation), id)
            && let Some(older) = self.sessions.get_mut(&older)
        {
            older.peer = None;
            older.drop_jobs();
        }
        self.sessions.insert(id, session);
        self.enqueue(id)
    }

    /// Ends what a message was about, whose handling panicked.
    fn broken(&mut self, peer: &Peer, (generation, opened): (Option<u32>, Option<SessionId>)) {
        let key = generation.map(|generation| (peer.connection, generation));
        let found = key.and_then(|key| self.by_generation.get(&key).copied());
        let text = "the edge failed over a message; open the conversation again";
        for id in found.into_iter().chain(opened) {
            self.forget(id);
        }
        peer.fail(generation, ErrorCode::Internal, text);
    }

    /// Ends a session and tells its device why.
    pub(super) fn end(&mut self, id: SessionId, (code, text): Refusal) {
        if let Some(session) = self.sessions.get(&id)
            && let Some(peer) = &session.peer
        {
            peer.fail(Some(session.generation), code, text);
        }
        self.forget(id);
    }

    /// Forgets a session and gives its memory back.
    pub(super) fn forget(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            self.unlink(&session);
        }
        self.waiting.retain(|waiter| waiter.id != id);
        self.budget.release(Holder::Verifier(id));
        if let Some(colocated) = &mut self.colocated {
            colocated.forget(id, &mut self.budget);
        }
    }

    fn forget_idle(&mut self) {
        let idle: Vec<SessionId> = self
            .sessions
            .values()
            .filter(|s| s.cache.is_some() && !s.waits() && s.last_used.elapsed() > self.limits.idle)
            .map(|s| s.id)
            .collect();
        for id in idle {
            self.forget(id);
        }
    }

    /// Forgets sessions that have neither memory nor anything to wait for.
    fn forget_gone(&mut self) {
        let gone = self.sessions.values().filter(|s| s.cache.is_none() && !s.waits());
        let gone: Vec<SessionId> =
            gone.filter(|s| s.peer.is_none() || !s.expects()).map(|s| s.id).collect();
        for id in gone {
            self.forget(id);
        }
    }

    fn drop_all(&mut self, text: &str) {
        let all: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in all {
            self.end(id, (ErrorCode::Internal, text.into()));
        }
    }
}

/// The generation that a message is about.
fn generation(message: &ClientMessage) -> Option<u32> {
    match message {
        ClientMessage::Open(m) => Some(m.generation),
        ClientMessage::Draft(m) => Some(m.generation),
        ClientMessage::Stream(m) => Some(m.generation),
        ClientMessage::More(m) => Some(m.generation),
        ClientMessage::Cancel { generation } => Some(*generation),
        ClientMessage::Hello(_) | ClientMessage::Close { .. } => None,
    }
}

/// The session that a message opens.
fn opened(message: &ClientMessage) -> Option<SessionId> {
    if let ClientMessage::Open(m) = message { Some(m.session) } else { None }
}
