//! One conversation's state on the edge, and the rules of its rounds. No socket, no thread.
//!
//! The edge counts the tokens that it knows: the prompt, then after each round the accepted drafts
//! and, where the edge itself drew it, the token after them (outcomes *bonus* and *token*). After a
//! *sparse*, *sampled* or *full* outcome only the device knows that token, and the next request must
//! carry it in `committed`, and behind it the token that follows it if it was the alternative of its
//! place. `prefix_len` of a request is the number of tokens that the edge knows, or
//! will know when the open drafts before it are accepted.
//!
//! Drafts wait in a queue. All but the last are open; a verdict that brings a token voids the rest.

use crate::colocated::Drafting;
use crate::job::{Finished, Job, LEAD, Rows, Writing, row_after, row_at};
use crate::peer::Peer;
use crate::share::Owner;
use std::collections::VecDeque;
use std::time::Instant;
use tandem_inference::{KvCache, Model};
use tandem_protocol::{
    Draft, ErrorCode, Failure, MAX_DRAFT, MAX_IN_FLIGHT, Open, ServerMessage, SessionId, Stream,
    Verdict, Written, encode_server,
};
use tandem_speculation::{
    Alternative, Correction, Distribution, Randomness, Sampling, TokenId, common_beginning,
    dsd_verify, follow, more, process, verify,
};

/// The last verified round, for a repeated request and for `More`.
struct Last {
    round: u32,
    /// As in the request, for recognising it when it is repeated.
    requested: u32,
    prefix_len: u32,
    accepted: u8,
    /// The verdict as it was sent.
    bytes: Vec<u8>,
    /// `p` at the rejected position, when the device may ask for more of it.
    rejected: Option<Distribution>,
}

pub(crate) struct Session {
    pub id: SessionId,
    pub peer: Option<Peer>,
    /// Stays when the peer is gone.
    pub owner: Owner,
    pub generation: u32,
    pub cache: KvCache,
    /// What waits, in order.
    jobs: VecDeque<Job>,
    /// Verdicts of the generation that brought a token.
    branch: u32,
    pub last_used: Instant,
    /// The edge's knowledge of the text, as ids.
    tokens: Vec<TokenId>,
    /// The device holds the token after `tokens`.
    awaits_residual: bool,
    /// If that is the first of these, the second follows it.
    follows: Option<[TokenId; 2]>,
    /// Tokens of the prompt that were in the cache when it was opened.
    reused: usize,
    sampling: Sampling,
    randomness: Randomness,
    last: Option<Last>,
}

/// A request that does not fit the session's state.
pub(crate) type Refusal = (ErrorCode, String);

impl Session {
    pub(crate) fn new(id: SessionId, cache: KvCache) -> Self {
        Self {
            id,
            peer: None,
            owner: None,
            generation: 0,
            cache,
            jobs: VecDeque::new(),
            branch: 0,
            last_used: Instant::now(),
            tokens: Vec::new(),
            awaits_residual: false,
            follows: None,
            reused: 0,
            sampling: Sampling::GREEDY,
            randomness: Randomness::new(0),
            last: None,
        }
    }

    /// The tokens whose keys and values are in the cache.
    pub(crate) fn computed(&self) -> &[TokenId] {
        &self.tokens[..self.cache.len().min(self.tokens.len())]
    }

    /// Takes over what another session has computed of the first `tokens` tokens of `text`.
    pub(crate) fn begin_as(&mut self, other: &Self, text: &[TokenId], tokens: usize) {
        match self.cache.copy_from(&other.cache, tokens) {
            Ok(()) => self.tokens = text[..tokens].to_vec(),
            // It is computed again.
            Err(e) => {
                tracing::warn!("what was computed could not be copied: {e}");
                self.cache.truncate(0);
                self.tokens.clear();
            }
        }
    }

    /// Starts or resumes an answer; keeps what the cache shares with the new tokens.
    pub(crate) fn open(&mut self, open: Open, peer: Peer) {
        let shared = common_beginning(&self.tokens, &open.tokens);
        // The last token is left to the first round: its logits are the first that are needed.
        self.cache.truncate(shared.min(open.tokens.len() - 1));
        self.reused = self.cache.len();
        self.tokens = open.tokens;
        (self.awaits_residual, self.follows) = (false, None);
        self.generation = open.generation;
        self.sampling = open.sampling;
        self.randomness = Randomness::new(open.seed);
        self.owner = peer.owner.clone();
        self.peer = Some(peer);
        self.jobs.clear();
        self.branch = open.branch;
        self.last = None;
        self.last_used = Instant::now();
    }

    /// Takes a draft, or answers a repeated one with the stored verdict. One that was sent before
    /// the device knew of a rejection is dropped.
    pub(crate) fn draft(&mut self, m: Draft, arrived: Instant) -> Result<Option<Vec<u8>>, Refusal> {
        if let Some(bytes) = self.repeated(m.round, m.prefix_len) {
            return Ok(Some(bytes));
        }
        if m.branch < self.branch {
            return Ok(None);
        }
        if m.branch > self.branch {
            let text = format!("branch {} has not begun; the edge is at {}", m.branch, self.branch);
            return Err((ErrorCode::State, text));
        }
        self.begin(m.round, m.prefix_len, &m.committed, m.ids.len())?;
        let Draft { round, prefix_len: requested, ids, q, alternatives, open, .. } = m;
        self.jobs.push_back(Job::Draft { round, requested, ids, q, alternatives, open, arrived });
        Ok(None)
    }

    /// Takes a request for plain tokens.
    pub(crate) fn stream(
        &mut self,
        m: Stream,
        arrived: Instant,
        drafts: bool,
    ) -> Result<(), Refusal> {
        self.begin(m.round, m.prefix_len, &m.committed, 0)?;
        let Stream { round, prefix_len: requested, max_tokens: left, .. } = m;
        let draft = (drafts && m.drafts).then(Box::default);
        self.jobs.push_back(Job::Stream { round, requested, left, arrived, draft });
        Ok(())
    }

    fn repeated(&self, round: u32, prefix_len: u32) -> Option<Vec<u8>> {
        let last = self.last.as_ref()?;
        (last.round == round && last.requested == prefix_len).then(|| last.bytes.clone())
    }

    /// Whether a round waits.
    pub(crate) fn waits(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Whether there is anything to compute.
    pub(crate) fn runs(&self) -> bool {
        self.waits() || !self.prompt_left().is_empty()
    }

    /// Whether plain tokens are being drawn.
    pub(crate) fn streams(&self) -> bool {
        matches!(self.jobs.front(), Some(Job::Stream { .. }))
    }

    /// Drops what waits.
    pub(crate) fn drop_jobs(&mut self) {
        self.jobs.clear();
    }

    fn begin(
        &mut self,
        round: u32,
        prefix_len: u32,
        committed: &[TokenId],
        drafted: usize,
    ) -> Result<(), Refusal> {
        let state = |text: String| Err((ErrorCode::State, text));
        let before = match self.jobs.back() {
            None => self.last.as_ref().map(|last| last.round),
            Some(Job::Draft { round, open: true, .. }) if self.jobs.len() < MAX_IN_FLIGHT => {
                Some(*round)
            }
            Some(_) => {
                return state(
                    "a round of this generation is still running; wait for its verdict".into(),
                );
            }
        };
        if let Some(before) = before
            && Some(round) != before.checked_add(1)
        {
            return state(format!("round {round} cannot follow round {before}"));
        }
        let waiting: usize = self.jobs.iter().map(Job::drafted).sum();
        if prefix_len as usize != self.tokens.len() + waiting {
            return state(format!(
                "the prefix has {prefix_len} tokens, the edge knows {}; open the generation again",
                self.tokens.len() + waiting
            ));
        }
        let fits = match committed {
            [] => !self.awaits_residual,
            [y] => self.awaits_residual && self.follows.is_none_or(|[a, _]| a != *y),
            [y, z] => self.awaits_residual && self.follows == Some([*y, *z]),
            _ => false,
        };
        if !fits {
            return state(format!(
                "{} committed tokens came, or others than must",
                committed.len()
            ));
        }
        let wanted = self.tokens.len() + waiting + committed.len() + drafted + 1;
        if wanted > self.cache.capacity() {
            return Err((ErrorCode::ContextFull, context_full(wanted, self.cache.capacity())));
        }
        self.tokens.extend_from_slice(committed);
        (self.awaits_residual, self.follows) = (false, None);
        self.last_used = Instant::now();
        Ok(())
    }

    /// The answer to a device that took none of the samples.
    pub(crate) fn more(
        &self,
        round: u32,
        asked: u8,
        vocab: usize,
    ) -> Result<ServerMessage, Refusal> {
        let last = self.last.as_ref().filter(|l| l.round == round);
        let Some((last, p)) = last.and_then(|l| Some((l, l.rejected.as_ref()?))) else {
            return Err((ErrorCode::State, format!("there are no samples of round {round}")));
        };
        Ok(ServerMessage::Verdict(Verdict {
            generation: self.generation,
            round,
            prefix_len: last.prefix_len,
            accepted: last.accepted,
            correction: more(
                p,
                &self.randomness,
                last.prefix_len + u32::from(last.accepted),
                u32::from(asked),
                vocab,
            ),
            next: None,
            queued_us: 0,
            verify_us: 0,
        }))
    }

    /// Tokens of the prompt that must be computed before a round can be.
    pub(crate) fn prompt_left(&self) -> &[TokenId] {
        let end = self.tokens.len().saturating_sub(1);
        let left = self.tokens.get(self.cache.len()..end).unwrap_or_default();
        if left.len() < LEAD { &[] } else { left }
    }

    /// Gives up computing the prompt: only what is in the cache is known.
    pub(crate) fn abandon_prompt(&mut self) {
        if !self.prompt_left().is_empty() {
            self.tokens.truncate(self.cache.len());
        }
    }

    /// Tokens of the prompt that were known when the answer was opened.
    pub(crate) fn reused(&self) -> usize {
        self.reused
    }

    /// The report after a piece of the prompt.
    pub(crate) fn prefill_report(&self) -> ServerMessage {
        let total = self.tokens.len() as u32;
        let done = if self.prompt_left().is_empty() { total } else { self.cache.len() as u32 };
        ServerMessage::Prefill(tandem_protocol::Prefill {
            generation: self.generation,
            done,
            total,
            cached: self.reused as u32,
        })
    }

    /// The next round's forward pass: the last known tokens and the drafted ones. The logits after
    /// the last token of an open draft belong to the next round.
    pub(crate) fn round_rows(&self) -> Option<Rows> {
        if !self.prompt_left().is_empty() {
            return None;
        }
        let mut tokens = self.tokens[self.cache.len()..].to_vec();
        let lead = tokens.len();
        let job = self.jobs.front()?;
        match job {
            Job::Draft { ids, open, .. } => {
                tokens.extend_from_slice(&ids[..ids.len() - usize::from(*open)]);
            }
            Job::Stream { draft: Some(drafting), .. } => {
                if !drafting.done {
                    return None;
                }
                tokens.extend_from_slice(&drafting.ids);
            }
            Job::Stream { draft: None, .. } => {}
        }
        let place = |a: &Alternative| (lead + usize::from(a.at), a.id);
        let alternatives = job.alternatives().iter().map(place).collect();
        Some(Rows { tokens, from: lead - 1, alternatives })
    }

    /// Whether the edge's own drafter has something to do here.
    pub(crate) fn drafts(&self) -> bool {
        self.prompt_left().is_empty()
            && matches!(self.jobs.front(), Some(Job::Stream { draft: Some(d), .. }) if !d.done)
    }

    /// What the edge's own drafter goes on with.
    pub(crate) fn drafting(&mut self) -> Option<Writing<'_>> {
        let capacity = self.cache.capacity();
        let room = capacity.saturating_sub(self.tokens.len() + 1);
        let Some(Job::Stream { draft: Some(draft), left, .. }) = self.jobs.front_mut() else {
            return None;
        };
        Some(Writing {
            text: &self.tokens,
            draft,
            // A round gives one token more than it drafts.
            most: (*left as usize).saturating_sub(1).min(room).min(MAX_DRAFT),
            capacity,
            sampling: &self.sampling,
            randomness: &self.randomness,
            branch: self.branch,
        })
    }

    /// When the next round's request came.
    pub(crate) fn arrived(&self) -> Option<Instant> {
        match self.jobs.front()? {
            Job::Draft { arrived, .. } | Job::Stream { arrived, .. } => Some(*arrived),
        }
    }

    /// Finishes the next round; `row(i)` gives the i-th of the wanted logits of
    /// [`Self::round_rows`]. Returns the verdict, whose times the caller knows.
    pub(crate) fn finish_round(
        &mut self,
        model: &Model,
        queued_us: u32,
        start: Instant,
        mut row: impl FnMut(usize) -> Vec<f32>,
    ) -> Result<Finished, Refusal> {
        let job = match self.jobs.pop_front() {
            Some(Job::Stream { round, left, draft: Some(draft), .. }) => {
                return self.finish_written(model, queued_us, start, (round, left, draft), row);
            }
            Some(job) => job,
            None => return Err((ErrorCode::Internal, "no round was waiting".into())),
        };
        let alternatives = job.alternatives();
        let (round, requested, ids, q, open) = match &job {
            Job::Draft { round, requested, ids, q, open, .. } => {
                (*round, *requested, ids.as_slice(), q.as_slice(), *open)
            }
            Job::Stream { round, requested, .. } => (*round, *requested, &[][..], &[][..], false),
        };
        let prefix = self.tokens.len();
        let mut history = self.tokens.clone();
        history.extend_from_slice(ids);
        let mut rejected = None;
        let verdict = verify(
            ids,
            q,
            open,
            |i| {
                let logits = &mut row(row_at(alternatives, i));
                let p = process(logits, &self.sampling, &history[..prefix + i])?;
                rejected = Some(p.clone());
                Ok(p)
            },
            &self.randomness,
            prefix as u32,
        )
        .map_err(|e| (ErrorCode::Internal, e.to_string()))?;
        let text = &history[..prefix + verdict.accepted];
        let follows = self.follow(&verdict, text, alternatives, &mut row)?;

        // Rows of rejected drafts are forgotten; everything that stays was computed from the text.
        self.cache.truncate(prefix + verdict.accepted);
        self.tokens.extend_from_slice(&ids[..verdict.accepted]);
        match verdict.correction {
            Correction::Bonus(token) | Correction::Token(token) => {
                self.tokens.push(token);
                self.tokens.extend(follows.map(|[_, next]| next));
            }
            Correction::Continue => {}
            _ => (self.awaits_residual, self.follows) = (true, follows),
        }
        if verdict.correction != Correction::Continue {
            self.branch += 1;
            self.jobs.clear();
        }
        let sampled = matches!(verdict.correction, Correction::Sampled(_));
        let message = Verdict {
            generation: self.generation,
            round,
            prefix_len: prefix as u32,
            accepted: verdict.accepted as u8,
            correction: verdict.correction,
            next: follows.map(|[_, next]| next),
            queued_us,
            verify_us: micros(start),
        };
        let (drafted, accepted) = (ids.len(), verdict.accepted);
        if let Job::Stream { round, left, .. } = job {
            let end = self.tokens.last().is_some_and(|t| model.tokenizer().is_end(*t));
            let full = self.tokens.len() + 1 > self.cache.capacity();
            if left > 1 && !end && !full {
                // A request of its own that nobody has to send.
                self.jobs.push_back(Job::Stream {
                    round: round + 1,
                    requested: self.tokens.len() as u32,
                    left: left - 1,
                    arrived: Instant::now(),
                    draft: None,
                });
            }
        }
        let bytes = encode_server(&ServerMessage::Verdict(message));
        self.last = Some(Last {
            round,
            requested,
            prefix_len: prefix as u32,
            accepted: accepted as u8,
            bytes: bytes.clone(),
            rejected: rejected.filter(|_| sampled),
        });
        self.last_used = Instant::now();
        let tokens = self.tokens.len() - prefix;
        Ok(Finished { bytes, drafted, accepted, tokens, own: None })
    }

    /// The alternative at the rejected place and the token after it, if there is one and it may be
    /// the correction; `text` ends before the place.
    fn follow(
        &self,
        verdict: &tandem_speculation::Verdict,
        text: &[TokenId],
        alternatives: &[Alternative],
        row: &mut impl FnMut(usize) -> Vec<f32>,
    ) -> Result<Option<[TokenId; 2]>, Refusal> {
        let found = alternatives.iter().position(|a| usize::from(a.at) == verdict.accepted);
        let Some(n) = found else { return Ok(None) };
        let (id, at) = (alternatives[n].id, text.len() as u32);
        let p = || {
            let text = [text, &[id]].concat();
            process(&mut row(row_after(alternatives, n)), &self.sampling, &text)
        };
        follow(&verdict.correction, id, p, &self.randomness, at)
            .map(|next| next.map(|next| [id, next]))
            .map_err(|e| (ErrorCode::Internal, e.to_string()))
    }

    /// Finishes a round of a stream that the edge drafted for.
    fn finish_written(
        &mut self,
        model: &Model,
        queued_us: u32,
        start: Instant,
        (round, left, drafting): (u32, u32, Box<Drafting>),
        mut row: impl FnMut(usize) -> Vec<f32>,
    ) -> Result<Finished, Refusal> {
        let prefix = self.tokens.len();
        let mut text = self.tokens.clone();
        text.extend_from_slice(&drafting.ids);
        let p = (0..=drafting.ids.len())
            .map(|i| {
                let logits = &mut row(row_at(&drafting.alternatives, i));
                process(logits, &self.sampling, &text[..prefix + i])
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| (ErrorCode::Internal, e.to_string()))?;
        let verdict = dsd_verify(&drafting.ids, &drafting.q, &p, &self.randomness, prefix as u32);
        let accepted = verdict.accepted;
        text.truncate(prefix + accepted);
        let (Correction::Bonus(token) | Correction::Token(token)) = verdict.correction else {
            return Err((
                ErrorCode::Internal,
                "a round of the edge's own ends with a token".into(),
            ));
        };
        let follows = self.follow(&verdict, &text, &drafting.alternatives, &mut row)?;
        text.push(token);
        text.extend(follows.map(|[_, next]| next));
        let is_end = |t: &TokenId| model.tokenizer().is_end(*t);
        // Nothing follows an end token.
        let end = text[prefix..].iter().position(is_end);
        text.truncate(end.map_or(text.len(), |end| prefix + end + 1));
        self.cache.truncate((prefix + accepted).min(text.len() - 1));
        self.tokens = text;
        self.branch += 1;
        let new = self.tokens[prefix..].to_vec();
        let left = left.saturating_sub(new.len() as u32);
        if left > 0 && end.is_none() && self.tokens.len() < self.cache.capacity() {
            self.jobs.push_back(Job::Stream {
                round: round + 1,
                requested: self.tokens.len() as u32,
                left,
                arrived: Instant::now(),
                draft: Some(Box::default()),
            });
        }
        let bytes = encode_server(&ServerMessage::Written(Written {
            generation: self.generation,
            round,
            prefix_len: prefix as u32,
            tokens: new,
            drafted: drafting.ids.len() as u8,
            accepted: accepted.min(self.tokens.len() - prefix) as u8,
            alternatives: drafting.alternatives.len() as u8,
            draft_us: (drafting.ms() * 1e3) as u32,
            queued_us,
            verify_us: micros(start),
        }));
        self.last = Some(Last {
            round,
            requested: prefix as u32,
            prefix_len: prefix as u32,
            accepted: accepted as u8,
            bytes: bytes.clone(),
            rejected: None,
        });
        self.last_used = Instant::now();
        let drafted = drafting.ids.len();
        let tokens = self.tokens.len() - prefix;
        Ok(Finished { bytes, drafted, accepted, tokens, own: Some(drafting) })
    }

    /// A failure of this session's generation.
    pub(crate) fn failure(&self, (code, message): Refusal) -> ServerMessage {
        ServerMessage::Error(Failure { generation: Some(self.generation), code, message })
    }
}

/// The text for a context without room.
pub(crate) fn context_full(wanted: usize, capacity: usize) -> String {
    format!(
        "{wanted} tokens do not fit into the edge's context of {capacity}; start a new conversation \
         or give the edge a larger --context"
    )
}

pub(crate) fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}
