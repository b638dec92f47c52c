//! Speculation on the box itself: with a drafter of its own the edge writes streams several tokens
//! at a time. For devices whose drafter is slow, or whose link is.
//!
//! The drafts of all such streams are made together, one token in each step of the compute thread, so
//! that they hold up other devices' rounds by one small forward pass at most.
//!
//! **Exactness.** Both whole distributions are here, so this is speculative sampling as published
//! (Leviathan et al., arXiv 2211.17192). Random numbers belong to places and branches as they do on a
//! device, so drafts that a device made before, and that are void, share none with these.

use crate::job::Writing;
use crate::kv_budget::{Holder, KvBudget, in_blocks};
use crate::pass::forward;
use crate::session::Session;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;
use tandem_inference::{Error, KvCache, Model, Segment, Wanted};
use tandem_protocol::SessionId;
use tandem_speculation::{
    Alternative, Distribution, DraftStop, Modelled, Planner, ProcessError, Purpose, RoundTimes,
    Source, TokenId, Way, common_beginning, confidence, process, two_best,
};

/// Tokens that a draft may begin with in its first step; more are read before, in pieces of this
/// size, while the stream goes on without drafts.
const PIECE: usize = 64;

/// A draft of one stream.
#[derive(Default)]
pub(crate) struct Drafting {
    pub ids: Vec<TokenId>,
    pub q: Vec<Distribution>,
    pub alternatives: Vec<Alternative>,
    confidences: Vec<f32>,
    stop: Option<DraftStop>,
    ms: f64,
    /// It is as long as it gets: to be verified.
    pub done: bool,
}

impl Drafting {
    /// What making it took, in milliseconds.
    pub(crate) fn ms(&self) -> f64 {
        self.ms
    }
}

/// What a drafter has read of one conversation.
struct Read {
    cache: KvCache,
    tokens: Vec<TokenId>,
}

/// A piece of text to read.
struct Piece {
    id: SessionId,
    tokens: Vec<TokenId>,
    /// Whether a token is drawn after it.
    draws: bool,
}

/// The edge's own drafter. It takes only memory that nobody else wants, and what fails costs one stream
/// its drafts.
pub(crate) struct Colocated {
    model: Arc<Model>,
    read: HashMap<SessionId, Read>,
    /// Conversations that it failed for: they go on without drafts.
    failed: HashSet<SessionId>,
    planner: Planner,
}

impl Colocated {
    pub(crate) fn new(model: Arc<Model>) -> Self {
        Self { model, read: HashMap::new(), failed: HashSet::new(), planner: Planner::default() }
    }

    /// Forgets conversations that the edge forgot.
    pub(crate) fn keep(&mut self, sessions: &HashMap<SessionId, Session>, budget: &mut KvBudget) {
        self.failed.retain(|id| sessions.contains_key(id));
        for (id, _) in self.read.extract_if(|id, _| !sessions.contains_key(id)) {
            budget.release(Holder::Drafter(id));
        }
    }

    /// Gives back what it has read of one conversation.
    pub(crate) fn forget(&mut self, id: SessionId, budget: &mut KvBudget) {
        self.read.remove(&id);
        budget.release(Holder::Drafter(id));
    }

    /// Gives back what it has read of some conversation; false if there is nothing.
    pub(crate) fn make_room(&mut self, budget: &mut KvBudget) -> bool {
        let Some(id) = self.read.keys().next().copied() else { return false };
        self.forget(id, budget);
        true
    }

    /// One token for every draft that is not done; true if there was any.
    pub(crate) fn step(
        &mut self,
        sessions: &mut HashMap<SessionId, Session>,
        budget: &mut KvBudget,
    ) -> bool {
        let drafts: Vec<SessionId> =
            sessions.values().filter(|s| s.drafts()).map(|s| s.id).collect();
        if drafts.is_empty() {
            return false;
        }
        let start = Instant::now();
        let mut pieces = Vec::new();
        for id in &drafts {
            let Some(mut stream) = sessions.get_mut(id).and_then(Session::drafting) else {
                continue;
            };
            match self.piece(*id, &mut stream, budget) {
                Ok(Some(piece)) => pieces.push(piece),
                Ok(None) => stream.draft.done = true,
                Err(e) => {
                    stream.draft.done = true;
                    self.give_up(*id, &e.to_string(), budget);
                }
            }
        }
        self.pass(sessions, &pieces, budget);
        let ms = start.elapsed().as_secs_f64() * 1e3;
        for id in &drafts {
            if let Some(stream) = sessions.get_mut(id).and_then(Session::drafting) {
                stream.draft.ms += ms;
            }
        }
        true
    }

    /// Said once for each conversation.
    fn give_up(&mut self, id: SessionId, problem: &str, budget: &mut KvBudget) {
        tracing::warn!("the edge's drafter failed, a conversation goes on without it: {problem}");
        self.failed.insert(id);
        self.forget(id, budget);
    }

    /// What the drafter reads of a stream now; `None` where it has no room, or nothing to draft.
    fn piece(
        &mut self,
        id: SessionId,
        stream: &mut Writing<'_>,
        budget: &mut KvBudget,
    ) -> Result<Option<Piece>, Error> {
        let text = stream.whole();
        // The drafter's context may be smaller than the verifier's.
        let context = stream.capacity.min(self.model.info().max_context);
        if self.failed.contains(&id) || text.len() > context {
            self.forget(id, budget);
            return Ok(None);
        }
        let shared = self.read.get(&id).map_or(0, |read| common_beginning(&read.tokens, &text));
        let keep = shared.min(text.len().saturating_sub(1));
        let left = &text[keep..];
        let tokens = left[..left.len().min(PIECE)].to_vec();
        let blocks = in_blocks(keep + tokens.len(), context);
        if !budget.reserve(Holder::Drafter(id), self.model.cache_bytes(blocks, context)) {
            return Ok(None);
        }
        let read = match self.read.entry(id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(Read { cache: self.model.new_cache(context)?, tokens: Vec::new() })
            }
        };
        read.cache.truncate(keep);
        read.tokens.truncate(keep);
        let planner = &self.planner;
        let stop = stream
            .draft
            .stop
            .get_or_insert_with(|| planner.draft_stop(Way::Turns).at_most(stream.most));
        // One that has much to read must not hold up its stream.
        stream.draft.done = left.len() > PIECE || stop.most() == 0;
        Ok(Some(Piece { id, tokens, draws: !stream.draft.done }))
    }

    fn pass(
        &mut self,
        sessions: &mut HashMap<SessionId, Session>,
        pieces: &[Piece],
        budget: &mut KvBudget,
    ) {
        let mut order = Vec::new();
        let mut segments = Vec::new();
        for (id, read) in &mut self.read {
            if let Some(piece) = pieces.iter().find(|piece| piece.id == *id) {
                let logits = if piece.draws { Wanted::Last } else { Wanted::None };
                segments.push(Segment { cache: &mut read.cache, tokens: &piece.tokens, logits });
                order.push(piece);
            }
        }
        if segments.is_empty() {
            return;
        }
        let mut passed = forward(&mut segments, |segments| self.model.forward(segments));
        drop(segments);
        for (number, piece) in order.into_iter().enumerate() {
            let stream = sessions.get_mut(&piece.id).and_then(Session::drafting);
            let drawn = match passed.rows(number) {
                Err(problem) => Err(problem.to_owned()),
                Ok(_) if !piece.draws => Ok(()),
                Ok(mut rows) => stream.map_or(Ok(()), |stream| {
                    draw(&self.model, stream, rows.row(0)).map_err(|e| e.to_string())
                }),
            };
            match drawn {
                Ok(()) => {
                    if let Some(read) = self.read.get_mut(&piece.id) {
                        read.tokens.extend_from_slice(&piece.tokens);
                    }
                }
                Err(problem) => {
                    if let Some(stream) = sessions.get_mut(&piece.id).and_then(Session::drafting) {
                        stream.draft.done = true;
                    }
                    self.give_up(piece.id, &problem, budget);
                }
            }
        }
    }

    /// Learns from a finished round that gave `tokens` tokens.
    pub(crate) fn learn(
        &mut self,
        drafting: &Drafting,
        accepted: usize,
        tokens: usize,
        verify_ms: f64,
    ) {
        if drafting.ids.is_empty() {
            return;
        }
        let times = RoundTimes { draft_ms: drafting.ms, round_trip_ms: verify_ms, verify_ms };
        let Drafting { confidences, alternatives, .. } = drafting;
        let source = Source::Model(Modelled::of(confidences, alternatives, accepted, tokens));
        let wall = drafting.ms + verify_ms;
        self.planner.drafted(Way::Turns, source, accepted, times, tokens, Some(wall));
    }
}

/// Draws the next token of a draft.
fn draw(model: &Model, stream: Writing<'_>, logits: &mut [f32]) -> Result<(), ProcessError> {
    let text = stream.whole();
    let sure = confidence(logits);
    let draft = stream.draft;
    let unsure = draft.stop.as_ref().is_some_and(|stop| stop.wants_alternative(sure));
    let best = unsure.then(|| two_best(logits));
    let q = process(logits, stream.sampling, &text)?;
    let at = text.len() as u32;
    let token = q.sample(stream.randomness.uniform(Purpose::Draft, at, stream.branch));
    let beside = best.map(|best| Alternative::beside(token, draft.ids.len(), best));
    draft.alternatives.extend(beside);
    draft.ids.push(token);
    draft.q.push(q);
    draft.confidences.push(sure);
    let length = draft.ids.len();
    let goes_on = draft.stop.as_mut().is_some_and(|s| length < s.most() && s.goes_on(sure));
    draft.done = !goes_on || model.tokenizer().is_end(token);
    Ok(())
}
