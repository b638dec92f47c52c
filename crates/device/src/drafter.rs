//! The drafter: a small model on a thread of its own.
//!
//! Requests carry the whole text as ids, and the thread keeps what its KV cache shares with it.
//! That makes roll-back after a rejection, the hole after a full acceptance (the last drafted token
//! has not been through the model yet) and the change between conversations the same simple thing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tandem_inference::{KvCache, LoadOptions, Model, Segment, Wanted};
use tandem_protocol::{Hello, PROTOCOL_VERSION, SessionId};
use tandem_speculation::{
    Distribution, DraftStop, Lookup, ProcessError, Purpose, Randomness, Sampling, Source, TokenId,
    confidence, process,
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Conversations whose KV cache is kept.
const SLOTS: usize = 2;
/// Prompt tokens between two looks at whether the answer was cancelled.
const PREFILL_PIECE: usize = 64;

/// Why drafting failed.
#[derive(Debug, Error)]
pub enum DrafterError {
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Model(#[from] tandem_inference::Error),
    /// The model gives no distribution: the file is damaged.
    #[error(
        "the drafter gives no usable numbers ({0}); its file may be damaged, download it again"
    )]
    Numbers(#[from] ProcessError),
    /// The request was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The thread is gone.
    #[error("the drafter stopped working; start the program again")]
    Gone,
}

/// What to draft.
#[derive(Clone, Debug)]
pub struct DraftRequest {
    /// Whose KV cache to use.
    pub session: SessionId,
    /// The text so far; at least one token.
    pub tokens: Vec<TokenId>,
    /// When the draft ends, if no end token is drawn before.
    pub stop: DraftStop,
    /// It also ends after the first token that is drawn at this time or later.
    pub until: Option<Instant>,
    /// How logits are processed.
    pub sampling: Sampling,
    /// Where the draws come from.
    pub randomness: Randomness,
    /// Which branch of the text, for the draws: see [`Randomness`].
    pub branch: u32,
}

/// A draft.
#[derive(Clone, Debug, Default)]
pub struct Drafted {
    /// The drafted tokens.
    pub ids: Vec<TokenId>,
    /// The distribution that each was drawn from.
    pub q: Vec<Distribution>,
    /// How sure the drafter was at each: see [`confidence`].
    pub confidences: Vec<f32>,
    /// How many tokens matched, if it was looked up in the text and no model drew it.
    pub looked_up: Option<usize>,
    /// Time of the drafting alone, without a prompt's prefill, in milliseconds.
    pub ms: f64,
}

impl Drafted {
    /// `q_i(x_i)` of each token.
    #[must_use]
    pub fn scalars(&self) -> Vec<f32> {
        self.ids.iter().zip(&self.q).map(|(id, q)| q.probability(*id)).collect()
    }

    /// A draft by look-up: nothing was drawn, so each `q` is a point mass.
    #[must_use]
    pub fn looked_up(found: Lookup) -> Self {
        let q = found.ids.iter().map(|id| Distribution::Point(*id)).collect();
        Self { q, ids: found.ids, looked_up: Some(found.matched), ..Self::default() }
    }

    /// Where it came from, for the planner.
    pub(crate) fn source(&self) -> Source<'_> {
        match self.looked_up {
            Some(matched) => Source::Lookup { matched, drafted: self.ids.len() },
            None => Source::Model(&self.confidences),
        }
    }
}

struct Command {
    request: DraftRequest,
    cancel: CancellationToken,
    reply: oneshot::Sender<Result<Drafted, DrafterError>>,
}

/// A handle to the drafter's thread, which ends with the last handle.
#[derive(Clone)]
pub struct Drafter {
    model: Arc<Model>,
    context: usize,
    commands: mpsc::Sender<Command>,
}

impl Drafter {
    /// Loads a model file and starts the thread. A conversation has at most `context` tokens.
    ///
    /// # Errors
    /// If the file is missing or not a usable model.
    pub async fn load(
        path: PathBuf,
        options: LoadOptions,
        context: usize,
    ) -> Result<Self, DrafterError> {
        let model = tokio::task::spawn_blocking(move || Model::load(&path, &options))
            .await
            .map_err(|_| DrafterError::Gone)??;
        let context = context.min(model.info().max_context);
        let model = Arc::new(model);
        let (commands, inbox) = mpsc::channel(4);
        let worker = Worker { model: Arc::clone(&model), context, slots: Vec::new(), clock: 0 };
        std::thread::Builder::new()
            .name("drafter".into())
            .spawn(move || worker.run(inbox))
            .map_err(|_| DrafterError::Gone)?;
        Ok(Self { model, context, commands })
    }

    /// The model, for its tokenizer and its facts.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// How a link introduces this device to an edge; any model of the edge will do.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            app_version: env!("CARGO_PKG_VERSION").into(),
            drafter: self.model().info().name.clone(),
            tokenizer: self.model().tokenizer().fingerprint(),
            model: None,
        }
    }

    /// Tokens of a conversation at most.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// Drafts. Cancelling ends the work within one small forward pass.
    ///
    /// # Errors
    /// If it was cancelled, or the model fails.
    pub async fn draft(
        &self,
        request: DraftRequest,
        cancel: &CancellationToken,
    ) -> Result<Drafted, DrafterError> {
        let (reply, answer) = oneshot::channel();
        let command = Command { request, cancel: cancel.clone(), reply };
        self.commands.send(command).await.map_err(|_| DrafterError::Gone)?;
        answer.await.map_err(|_| DrafterError::Gone)?
    }
}

/// One conversation's cache and the tokens in it.
struct Slot {
    session: SessionId,
    cache: KvCache,
    tokens: Vec<TokenId>,
    used: u64,
}

struct Worker {
    model: Arc<Model>,
    context: usize,
    slots: Vec<Slot>,
    clock: u64,
}

impl Worker {
    fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(Command { request, cancel, reply }) = inbox.blocking_recv() {
            let result = self.draft(&request, &cancel);
            let _ = reply.send(result);
        }
    }

    fn slot(&mut self, session: SessionId) -> Result<usize, DrafterError> {
        self.clock += 1;
        let known = self.slots.iter().position(|s| s.session == session);
        let at = match known {
            Some(at) => at,
            None => {
                if self.slots.len() == SLOTS {
                    let oldest = (0..SLOTS).min_by_key(|&i| self.slots[i].used).unwrap_or(0);
                    self.slots.swap_remove(oldest);
                }
                let cache = self.model.new_cache(self.context)?;
                self.slots.push(Slot { session, cache, tokens: Vec::new(), used: 0 });
                self.slots.len() - 1
            }
        };
        self.slots[at].used = self.clock;
        Ok(at)
    }

    fn draft(
        &mut self,
        request: &DraftRequest,
        cancel: &CancellationToken,
    ) -> Result<Drafted, DrafterError> {
        let at = self.slot(request.session)?;
        let slot = &mut self.slots[at];
        let shared = slot.tokens.iter().zip(&request.tokens).take_while(|(a, b)| a == b).count();
        // The last token's logits are needed, so it is always computed.
        let keep = shared.min(request.tokens.len().saturating_sub(1));
        slot.cache.truncate(keep);
        slot.tokens.truncate(keep);
        let last = request.tokens.len().saturating_sub(1);
        // After a usual round one or two tokens are new: they are part of the first step.
        while last.saturating_sub(slot.tokens.len()) > 2 {
            if cancel.is_cancelled() {
                return Err(DrafterError::Cancelled);
            }
            let from = slot.tokens.len();
            let piece = &request.tokens[from..last.min(from + PREFILL_PIECE)];
            forward(&self.model, slot, piece, Wanted::None)?;
        }
        let start = Instant::now();
        let mut text = request.tokens.clone();
        let mut drafted = Drafted::default();
        let mut stop = request.stop.clone();
        while drafted.ids.len() < stop.most() {
            if cancel.is_cancelled() {
                return Err(DrafterError::Cancelled);
            }
            let new = text[slot.tokens.len()..].to_vec();
            let mut logits = forward(&self.model, slot, &new, Wanted::Last)?;
            let sure = confidence(logits.row_mut(0));
            let q = process(logits.row_mut(0), &request.sampling, &text)?;
            let at = text.len() as u32;
            let u = request.randomness.uniform(Purpose::Draft, at, request.branch);
            let id = q.sample(u);
            drafted.ids.push(id);
            drafted.q.push(q);
            drafted.confidences.push(sure);
            text.push(id);
            // Whether to go on depends only on tokens that are already drawn and will be sent, and
            // on the time, so the text's distribution is untouched (`DraftStop`). What follows an
            // accepted end token is never used.
            if self.model.tokenizer().is_end(id)
                || !stop.goes_on(sure)
                || request.until.is_some_and(|until| Instant::now() >= until)
            {
                break;
            }
        }
        drafted.ms = start.elapsed().as_secs_f64() * 1e3;
        Ok(drafted)
    }
}

fn forward(
    model: &Model,
    slot: &mut Slot,
    tokens: &[TokenId],
    logits: Wanted,
) -> Result<tandem_inference::Logits, DrafterError> {
    let result = model.forward(&mut [Segment { cache: &mut slot.cache, tokens, logits }])?;
    slot.tokens.extend_from_slice(tokens);
    Ok(result)
}
