//! Speculation on the box itself: with a drafter of its own the edge writes streams several tokens
//! at a time. For devices whose drafter is slow, or whose link is.
//!
//! The drafts of all such streams are made together, one token in each step of the compute thread, so
//! that they hold up other devices' rounds by one small forward pass at most.
//!
//! **Exactness.** Both whole distributions are here, so this is speculative sampling as published
//! (Leviathan et al., arXiv 2211.17192). Random numbers belong to places and branches as they do on a
//! device, so drafts that a device made before, and that are void, share none with these.

use crate::session::Session;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tandem_inference::{Error, KvCache, Model, Segment, Wanted};
use tandem_protocol::SessionId;
use tandem_speculation::{
    Alternative, Distribution, DraftStop, Modelled, Planner, Purpose, RoundTimes, Source, TokenId,
    Way, common_beginning, confidence, process, two_best,
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

/// The edge's own drafter.
pub(crate) struct Colocated {
    model: Arc<Model>,
    read: HashMap<SessionId, Read>,
    planner: Planner,
}

impl Colocated {
    pub(crate) fn new(model: Arc<Model>) -> Self {
        Self { model, read: HashMap::new(), planner: Planner::default() }
    }

    /// Bytes of its KV caches.
    pub(crate) fn kv_bytes(&self) -> usize {
        self.read.values().map(|r| r.cache.bytes()).sum()
    }

    /// Forgets conversations that the edge forgot.
    pub(crate) fn keep(&mut self, sessions: &HashMap<SessionId, Session>) {
        self.read.retain(|id, _| sessions.contains_key(id));
    }

    /// Forgets everything: the drafts of streams are computed again.
    pub(crate) fn clear(&mut self) {
        self.read.clear();
    }

    /// One token for every draft that is not done; true if there was any. Conversations beyond
    /// `room` bytes of KV cache go on without drafts.
    pub(crate) fn step(&mut self, sessions: &mut HashMap<SessionId, Session>, room: usize) -> bool {
        let drafts: Vec<SessionId> =
            sessions.values().filter(|s| s.drafts()).map(|s| s.id).collect();
        if drafts.is_empty() {
            return false;
        }
        let start = Instant::now();
        if let Err(e) = self.pass(sessions, &drafts, room) {
            tracing::warn!("the edge's drafter failed, streams go on without it: {e}");
            for id in &drafts {
                self.read.remove(id);
                if let Some(stream) = sessions.get_mut(id).and_then(Session::drafting) {
                    stream.draft.done = true;
                }
            }
        }
        let ms = start.elapsed().as_secs_f64() * 1e3;
        for id in &drafts {
            if let Some(stream) = sessions.get_mut(id).and_then(Session::drafting) {
                stream.draft.ms += ms;
            }
        }
        true
    }

    fn pass(
        &mut self,
        sessions: &mut HashMap<SessionId, Session>,
        drafts: &[SessionId],
        room: usize,
    ) -> Result<(), Error> {
        // What each reads now, and whether a token is drawn after it.
        let mut pieces: HashMap<SessionId, (Vec<TokenId>, bool)> = HashMap::new();
        for id in drafts {
            let Some(stream) = sessions.get_mut(id).and_then(Session::drafting) else { continue };
            let text = stream.whole();
            if !self.read.contains_key(id) {
                let bytes = text.len() * self.model.cache_bytes_per_token();
                if self.kv_bytes() + bytes > room {
                    stream.draft.done = true;
                    continue;
                }
                let cache = self.model.new_cache(stream.capacity)?;
                self.read.insert(*id, Read { cache, tokens: Vec::new() });
            }
            let Some(read) = self.read.get_mut(id) else { continue };
            let shared = common_beginning(&read.tokens, &text);
            let keep = shared.min(text.len() - 1);
            read.cache.truncate(keep);
            read.tokens.truncate(keep);
            let planner = &self.planner;
            let stop = stream
                .draft
                .stop
                .get_or_insert_with(|| planner.draft_stop(Way::Turns).at_most(stream.most));
            let left = &text[keep..];
            // One that has much to read must not hold up its stream.
            stream.draft.done = left.len() > PIECE || stop.most() == 0;
            let piece = left[..left.len().min(PIECE)].to_vec();
            pieces.insert(*id, (piece, !stream.draft.done));
        }
        let mut order = Vec::new();
        let mut segments = Vec::new();
        for (id, read) in &mut self.read {
            if let Some((tokens, draws)) = pieces.get(id) {
                read.tokens.extend_from_slice(tokens);
                let logits = if *draws { Wanted::Last } else { Wanted::None };
                segments.push(Segment { cache: &mut read.cache, tokens, logits });
                if *draws {
                    order.push(*id);
                }
            }
        }
        if segments.is_empty() {
            return Ok(());
        }
        let mut logits = self.model.forward(&mut segments)?;
        drop(segments);
        for (row, id) in order.into_iter().enumerate() {
            let Some(stream) = sessions.get_mut(&id).and_then(Session::drafting) else { continue };
            let text = stream.whole();
            let sure = confidence(logits.row_mut(row));
            let draft = stream.draft;
            let unsure = draft.stop.as_ref().is_some_and(|stop| stop.wants_alternative(sure));
            let best = unsure.then(|| two_best(logits.row(row)));
            let Ok(q) = process(logits.row_mut(row), stream.sampling, &text) else {
                draft.done = true;
                continue;
            };
            let at = text.len() as u32;
            let token = q.sample(stream.randomness.uniform(Purpose::Draft, at, stream.branch));
            let beside = best.map(|best| Alternative::beside(token, draft.ids.len(), best));
            draft.alternatives.extend(beside);
            draft.ids.push(token);
            draft.q.push(q);
            draft.confidences.push(sure);
            let length = draft.ids.len();
            let goes_on = draft.stop.as_mut().is_some_and(|s| length < s.most() && s.goes_on(sure));
            draft.done = !goes_on || self.model.tokenizer().is_end(token);
        }
        Ok(())
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
