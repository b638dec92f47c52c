//! Who has memory for keys and values. A conversation computes only with a reservation (`kv_budget.rs`);
//! without one it waits in a queue, and hears its place.
//!
//! Room is made in this order: conversations whose answer has ended are forgotten, the longest idle first;
//! what the edge's own drafter has read is given back; and for a party that has nothing at work one with
//! several gives up its youngest. Who is at work and finds no room to grow waits too, and nobody new is let
//! in meanwhile; when all at work wait, the youngest makes way. Whoever makes way goes to the front of the
//! queue and is computed again from its ids.

use crate::kv_budget::{Holder, in_blocks};
use crate::scheduler::Scheduler;
use crate::session::{Refusal, Session};
use crate::share::donor;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tandem_protocol::{ErrorCode, MAX_WAITING, ServerMessage, SessionId, Waiting};

/// Conversations of one connection that compute at once, or an eighth of all: the others' find a place.
const BUSY_EACH: usize = 4;
/// Conversations of one connection that wait at most.
const WAITING_EACH: usize = 32;
/// Who waits hears its place so often, also where it is the same.
const TELL: Duration = Duration::from_secs(2);

/// A conversation without memory.
pub(crate) struct Waiter {
    pub id: SessionId,
    /// Since when; one that made way for others waits for as long as it takes.
    since: Option<Instant>,
    told: Option<(usize, Instant)>,
}

impl Scheduler {
    /// Bytes for the cache of a text of so many tokens.
    fn bytes(&self, tokens: usize) -> usize {
        let context = self.limits.context;
        self.model.cache_bytes(in_blocks(tokens, context), context)
    }

    /// Whether a text of so many tokens fits if nothing else is here.
    pub(super) fn could_fit(&self, tokens: usize) -> bool {
        self.bytes(tokens) <= self.budget.limit()
    }

    /// Gives an opened conversation memory, or a place in the queue.
    ///
    /// # Errors
    /// If too many wait; it is then forgotten.
    pub(super) fn enqueue(&mut self, id: SessionId) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(&id) else { return Ok(()) };
        let tokens = session.tokens().len() + 1;
        let has_cache = session.cache.is_some();
        if has_cache && self.grow(id, tokens) {
            self.begin(id);
            return Ok(());
        }
        if has_cache {
            self.take_memory(id);
        }
        if !self.waiting.iter().any(|waiter| waiter.id == id) {
            self.waiting.push_back(Waiter { id, since: Some(Instant::now()), told: None });
        }
        self.admit_waiting();
        let connection = self.connection(id);
        let own = self.waiting.iter().filter(|w| self.connection(w.id) == connection).count();
        let waits = self.waiting.iter().any(|waiter| waiter.id == id);
        if waits && (own > WAITING_EACH || self.waiting.len() > MAX_WAITING) {
            self.forget(id);
            let text = "the edge is full: too many conversations wait already; try again later";
            return Err((ErrorCode::Busy, text.into()));
        }
        Ok(())
    }

    fn connection(&self, id: SessionId) -> Option<u64> {
        self.sessions.get(&id).and_then(|s| s.peer.as_ref()).map(|peer| peer.connection)
    }

    /// Lets in who waits, in order, for as long as there is room.
    pub(super) fn admit_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        self.send_late_away();
        while !self.starved
            && let Some(id) = self.order().into_iter().find(|id| !self.is_at_its_limit(*id))
            && self.admit(id)
        {}
        self.tell_places();
    }

    /// Who waited for too long is told, and who is gone is forgotten.
    fn send_late_away(&mut self) {
        let late = |w: &Waiter| w.since.is_some_and(|since| since.elapsed() > self.limits.wait);
        let (mut away, mut gone) = (Vec::new(), Vec::new());
        for waiter in &self.waiting {
            if self.connection(waiter.id).is_none() {
                gone.push(waiter.id);
            } else if late(waiter) {
                away.push(waiter.id);
            }
        }
        for id in away {
            let text = "the edge is full: too many conversations at once; try again later";
            self.end(id, (ErrorCode::Busy, text.into()));
        }
        for id in gone {
            self.forget(id);
        }
    }

    /// Conversations with memory of each party, those that have ended aside.
    fn shares(&self) -> HashMap<u64, usize> {
        let mut shares = HashMap::new();
        for session in self.sessions.values().filter(|s| s.cache.is_some() && !s.idles()) {
            *shares.entry(session.party()).or_default() += 1;
        }
        shares
    }

    /// Who waits, the next first: who made way, then whose party has the least at work, then who came first.
    fn order(&self) -> Vec<SessionId> {
        let shares = self.shares();
        let share = |id: &SessionId| {
            self.sessions.get(id).and_then(|s| shares.get(&s.party())).copied().unwrap_or(0)
        };
        let mut order: Vec<&Waiter> = self.waiting.iter().collect();
        order.sort_by_key(|w| (w.since.is_some() && share(&w.id) > 0, share(&w.id)));
        order.into_iter().map(|w| w.id).collect()
    }

    /// Whether its connection has as much at work as one may have.
    fn is_at_its_limit(&self, id: SessionId) -> bool {
        let connection = self.connection(id);
        let of = |s: &Session| s.peer.as_ref().map(|peer| peer.connection);
        let own = |s: &&Session| s.id != id && s.works() && of(s) == connection;
        self.sessions.values().filter(own).count() >= (self.limits.sessions / 8).max(BUSY_EACH)
    }

    /// Gives one that waits memory for its text, if room can be made.
    fn admit(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(&id) else {
            self.forget(id);
            return true;
        };
        let (bytes, party) = (self.bytes(session.tokens().len() + 1), session.party());
        loop {
            let held = self.sessions.values().filter(|s| s.cache.is_some()).count();
            let has_place = held < self.limits.sessions;
            if has_place && self.budget.reserve(Holder::Verifier(id), bytes) {
                break;
            }
            let made =
                self.forget_idlest() || has_place && self.free_drafts() || self.yield_to(party);
            if !made {
                return false;
            }
        }
        match self.model.new_cache(self.limits.context) {
            Ok(cache) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.cache = Some(cache);
                }
                self.begin(id);
            }
            Err(e) => self.end(id, (ErrorCode::Internal, e.to_string())),
        }
        true
    }

    /// From here on it computes.
    fn begin(&mut self, id: SessionId) {
        self.waiting.retain(|waiter| waiter.id != id);
        self.admissions += 1;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.admitted = self.admissions;
        session.last_used = Instant::now();
        self.metrics.reused.inc_by(session.known() as u64);
        self.adopt(id);
        self.report_if_read(id);
    }

    /// Says that there is nothing to compute of a prompt.
    pub(super) fn report_if_read(&self, id: SessionId) {
        if let Some(session) = self.sessions.get(&id).filter(|s| s.prompt_left().is_empty())
            && let Some(peer) = &session.peer
        {
            peer.send(&session.prefill_report());
        }
    }

    /// Takes over the longest beginning of its text that one of its owner's sessions has computed; true if
    /// there was one.
    pub(super) fn adopt(&mut self, id: SessionId) -> bool {
        let Some(mut session) = self.sessions.remove(&id) else { return false };
        let known = session.known();
        // The last token is left to the first round.
        let text = session.tokens().split_last().map_or(&[][..], |(_, text)| text);
        let others = self.sessions.values().map(|s| (s.id, &s.owner, s.computed()));
        let found = donor(others, &session.owner, text, known);
        if let Some((other, shared)) = found {
            session.adopt(&self.sessions[&other], shared);
            self.metrics.reused.inc_by(session.known().saturating_sub(known) as u64);
        }
        self.sessions.insert(id, session);
        found.is_some()
    }

    /// Reserves memory for so many tokens of one that has a cache.
    pub(super) fn grow(&mut self, id: SessionId, tokens: usize) -> bool {
        let bytes = self.bytes(tokens);
        loop {
            if self.budget.reserve(Holder::Verifier(id), bytes) {
                return true;
            }
            if !(self.forget_idlest() || self.free_drafts()) {
                return false;
            }
        }
    }

    /// All at work wait for memory, this one for the longest. False if there is nothing to do but to wait.
    pub(super) fn make_way(&mut self, oldest: SessionId) -> bool {
        let others = || self.sessions.values().filter(|s| s.id != oldest && s.cache.is_some());
        let shares = self.shares();
        let rank = |s: &&Session| (shares.get(&s.party()).copied(), s.admitted);
        if let Some(youngest) = others().filter(|s| s.works()).max_by_key(rank).map(|s| s.id) {
            self.preempt(youngest);
            return true;
        }
        if others().next().is_some() {
            // Their devices are about to send a round, or are away.
            return false;
        }
        let text = "the conversation has outgrown the memory that the edge has for conversations; start \
                    a new one, or give the edge more --kv-memory";
        self.end(oldest, (ErrorCode::ContextFull, text.into()));
        true
    }

    /// Forgets the conversation that ended the longest ago.
    fn forget_idlest(&mut self) -> bool {
        let idle = self.sessions.values().filter(|s| s.idles()).min_by_key(|s| s.last_used);
        let Some(id) = idle.map(|s| s.id) else { return false };
        self.forget(id);
        true
    }

    /// Takes back some of what the edge's own drafter has read.
    fn free_drafts(&mut self) -> bool {
        self.colocated.as_mut().is_some_and(|own| own.make_room(&mut self.budget))
    }

    /// Makes one give way to a party that has nothing at work, if another has several.
    fn yield_to(&mut self, party: u64) -> bool {
        let shares = self.shares();
        if shares.contains_key(&party) {
            return false;
        }
        let share = |s: &Session| shares.get(&s.party()).copied().unwrap_or(0);
        let several = self.sessions.values().filter(|s| s.works() && share(s) > 1);
        let Some(id) = several.max_by_key(|s| (share(s), s.admitted)).map(|s| s.id) else {
            return false;
        };
        self.preempt(id);
        true
    }

    /// Takes its memory; it waits at the front of the queue to be computed again.
    fn preempt(&mut self, id: SessionId) {
        self.take_memory(id);
        self.waiting.push_front(Waiter { id, since: None, told: None });
        self.metrics.preempted.inc();
    }

    fn take_memory(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.cache = None;
        }
        self.budget.release(Holder::Verifier(id));
        if let Some(colocated) = &mut self.colocated {
            colocated.forget(id, &mut self.budget);
        }
    }

    fn tell_places(&mut self) {
        let order = self.order();
        let places: HashMap<SessionId, usize> = order.into_iter().zip(1..).collect();
        for waiter in &mut self.waiting {
            let place = places.get(&waiter.id).copied().unwrap_or(1).min(MAX_WAITING);
            let known = |(told, at): (usize, Instant)| told == place && at.elapsed() < TELL;
            if waiter.told.is_some_and(known) {
                continue;
            }
            waiter.told = Some((place, Instant::now()));
            if let Some(session) = self.sessions.get(&waiter.id)
                && let Some(peer) = &session.peer
            {
                let (generation, place) = (session.generation, place as u32);
                peer.send(&ServerMessage::Waiting(Waiting { generation, place }));
            }
        }
    }
}
