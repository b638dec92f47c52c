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
//!
//! A session has a KV cache only while memory is reserved for one. Without it, because it waits for its
//! turn or had to make room, nothing is lost but time: the ids are here, and the cache is filled from them.

use crate::job::{Job, LEAD, Rows, Writing};
use crate::peer::Peer;
use crate::share::{Owner, party};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tandem_inference::KvCache;
use tandem_protocol::{
    Draft, ErrorCode, MAX_DRAFT, MAX_IN_FLIGHT, Open, ServerMessage, SessionId, Stream, Verdict,
};
use tandem_speculation::{
    Alternative, Distribution, Randomness, Sampling, TokenId, common_beginning, more,
};

/// The next round of an answer comes within this time, or its session may be forgotten for another's.
const BETWEEN: Duration = Duration::from_secs(5);

/// The last verified round, for a repeated request and for `More`.
pub(crate) struct Last {
    pub round: u32,
    /// As in the request, for recognising it when it is repeated.
    pub requested: u32,
    pub prefix_len: u32,
    pub accepted: u8,
    /// The verdict as it was sent.
    pub bytes: Vec<u8>,
    /// `p` at the rejected position, when the device may ask for more of it.
    pub rejected: Option<Distribution>,
}

pub(crate) struct Session {
    pub id: SessionId,
    pub peer: Option<Peer>,
    /// Stays when the peer is gone.
    pub owner: Owner,
    pub generation: u32,
    /// `None` while it waits for memory.
    pub cache: Option<KvCache>,
    /// Tokens of a context at most.
    pub(super) context: usize,
    /// Counts admissions of all sessions: the highest is the youngest.
    pub admitted: u64,
    /// What waits, in order.
    pub(super) jobs: VecDeque<Job>,
    /// Verdicts of the generation that brought a token.
    pub(super) branch: u32,
    pub last_used: Instant,
    /// The device is about to send the next round.
    pub(super) expects: bool,
    /// The edge's knowledge of the text, as ids.
    pub(super) tokens: Vec<TokenId>,
    /// The device holds the token after `tokens`.
    pub(super) awaits_residual: bool,
    /// If that is the first of these, the second follows it.
    pub(super) follows: Option<[TokenId; 2]>,
    /// Tokens of the prompt that did not have to be computed.
    reused: usize,
    pub(super) sampling: Sampling,
    pub(super) randomness: Randomness,
    pub(super) last: Option<Last>,
}

/// A request that does not fit the session's state.
pub(crate) type Refusal = (ErrorCode, String);

impl Session {
    pub(crate) fn new(id: SessionId, context: usize) -> Self {
        Self {
            id,
            peer: None,
            owner: None,
            generation: 0,
            cache: None,
            context,
            admitted: 0,
            jobs: VecDeque::new(),
            branch: 0,
            last_used: Instant::now(),
            expects: false,
            tokens: Vec::new(),
            awaits_residual: false,
            follows: None,
            reused: 0,
            sampling: Sampling::GREEDY,
            randomness: Randomness::new(0),
            last: None,
        }
    }

    /// Who is to get a fair share for it.
    pub(crate) fn party(&self) -> u64 {
        party(&self.owner, self.peer.as_ref().map_or(0, |peer| peer.connection))
    }

    /// All ids that are known.
    pub(crate) fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// How many tokens have their keys and values in the cache.
    pub(crate) fn known(&self) -> usize {
        self.cache.as_ref().map_or(0, KvCache::len)
    }

    /// The tokens whose keys and values are in the cache.
    pub(crate) fn computed(&self) -> &[TokenId] {
        &self.tokens[..self.known().min(self.tokens.len())]
    }

    /// Forgets what was computed from this token on.
    pub(super) fn keep(&mut self, tokens: usize) {
        if let Some(cache) = &mut self.cache {
            cache.truncate(tokens);
        }
    }

    /// Takes over what another session has computed of the first `tokens` tokens, which both have.
    pub(crate) fn adopt(&mut self, other: &Self, tokens: usize) {
        let (Some(cache), Some(from)) = (&mut self.cache, &other.cache) else { return };
        let known = cache.len();
        match cache.copy_from(from, tokens) {
            Ok(()) => self.reused += tokens - known,
            // It is computed again.
            Err(e) => {
                tracing::warn!("what was computed could not be copied: {e}");
                cache.truncate(0);
            }
        }
    }

    /// Starts or resumes an answer; keeps what the cache shares with the new tokens.
    pub(crate) fn open(&mut self, open: Open, peer: Peer) {
        let shared = common_beginning(&self.tokens, &open.tokens);
        // The last token is left to the first round: its logits are the first that are needed.
        self.keep(shared.min(open.tokens.len().saturating_sub(1)));
        self.reused = self.known();
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
        self.expects = true;
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

    /// Whether it has memory and something to compute.
    pub(crate) fn works(&self) -> bool {
        self.cache.is_some() && self.runs()
    }

    /// Whether it may be forgotten for another: its answer has ended, or the device is away.
    pub(crate) fn idles(&self) -> bool {
        let coming = self.expects && self.peer.is_some() && self.last_used.elapsed() < BETWEEN;
        self.cache.is_some() && !self.runs() && !coming
    }

    /// Whether its parts fit each other; what does not could only fail in a computation.
    pub(crate) fn sound(&self) -> bool {
        let least = self.known() + usize::from(self.waits());
        (least..=self.context).contains(&self.tokens.len())
    }

    /// Whether the device is about to send a round.
    pub(crate) fn expects(&self) -> bool {
        self.expects
    }

    /// Whether plain tokens are being drawn.
    pub(crate) fn streams(&self) -> bool {
        matches!(self.jobs.front(), Some(Job::Stream { .. }))
    }

    /// Drops what waits.
    pub(crate) fn drop_jobs(&mut self) {
        self.jobs.clear();
        self.expects = false;
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
        if wanted > self.context {
            return Err((ErrorCode::ContextFull, context_full(wanted, self.context)));
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
                last.prefix_len.saturating_add(last.accepted.into()),
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
        let left = self.tokens.get(self.known()..end).unwrap_or_default();
        if left.len() < LEAD { &[] } else { left }
    }

    /// Gives up computing the prompt: only what is in the cache is known.
    pub(crate) fn abandon_prompt(&mut self) {
        if !self.prompt_left().is_empty() {
            self.tokens.truncate(self.known());
        }
    }

    /// The report after a piece of the prompt.
    pub(crate) fn prefill_report(&self) -> ServerMessage {
        let total = self.tokens.len() as u32;
        let done = if self.prompt_left().is_empty() { total } else { self.known() as u32 };
        ServerMessage::Prefill(tandem_protocol::Prefill {
            generation: self.generation,
            done,
            total,
            cached: (self.reused as u32).min(total),
        })
    }

    /// The next round's forward pass: the last known tokens and the drafted ones. The logits after
    /// the last token of an open draft belong to the next round.
    pub(crate) fn round_rows(&self) -> Option<Rows> {
        if !self.prompt_left().is_empty() {
            return None;
        }
        let mut tokens = self.tokens.get(self.known()..)?.to_vec();
        let lead = tokens.len();
        let from = lead.checked_sub(1)?;
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
        Some(Rows { tokens, from, alternatives })
    }

    /// Whether the edge's own drafter has something to do here.
    pub(crate) fn drafts(&self) -> bool {
        self.cache.is_some()
            && self.prompt_left().is_empty()
            && matches!(self.jobs.front(), Some(Job::Stream { draft: Some(d), .. }) if !d.done)
    }

    /// What the edge's own drafter goes on with.
    pub(crate) fn drafting(&mut self) -> Option<Writing<'_>> {
        let capacity = self.context;
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
