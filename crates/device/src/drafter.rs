//! The drafter: a small model on a thread of its own.
//!
//! Requests carry the whole text as ids, and the thread keeps what its KV cache shares with it.
//! That makes roll-back after a rejection, the hole after a full acceptance (the last drafted token
//! has not been through the model yet) and the change between conversations the same simple thing.
//!
//! Even the weights are a cache of their file: they can be given back at any time, and the next draft
//! that is really needed loads them again. Tokenizer and facts stay.

use crate::link::lock;
use crate::policy::{Advice, Reason};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tandem_inference::{KvCache, LoadOptions, Model, ModelInfo, Segment, Tokenizer, Wanted};
use tandem_protocol::{Hello, PROTOCOL_VERSION, SessionId};
use tandem_speculation::{
    Alternative, Distribution, DraftStop, Lookup, Modelled, ProcessError, Purpose, Randomness,
    Sampling, Source, TokenId, common_beginning, confidence, process, two_best,
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
    /// Second tokens for places where the drafter was not sure.
    pub alternatives: Vec<Alternative>,
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

    /// Where it came from, for the planner; `tokens` tokens came of it, of which `accepted` were
    /// drafted.
    pub(crate) fn source(&self, accepted: usize, tokens: usize) -> Source<'_> {
        if let Some(matched) = self.looked_up {
            return Source::Lookup { matched, drafted: self.ids.len() };
        }
        Source::Model(Modelled::of(&self.confidences, &self.alternatives, accepted, tokens))
    }
}

// One command a draft: its size costs nothing.
#[allow(clippy::large_enum_variant)]
enum Command {
    Draft {
        request: DraftRequest,
        cancel: CancellationToken,
        reply: oneshot::Sender<Result<Drafted, DrafterError>>,
    },
    /// Loads the weights, if they are not here.
    Load(Option<oneshot::Sender<Result<(), DrafterError>>>),
    /// Gives back the memory of weights and caches.
    GiveBack,
}

/// A handle to the drafter's thread, which ends with the last handle.
#[derive(Clone)]
pub struct Drafter {
    shared: Arc<Shared>,
    // Commands come one at a time from the answers that run, so a queue without end stays short.
    commands: mpsc::UnboundedSender<Command>,
}

struct Shared {
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    context: usize,
    /// Whether the weights are here.
    loaded: AtomicBool,
    advice: Mutex<Advice>,
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
        let file = path.clone();
        let how = options.clone();
        let model = tokio::task::spawn_blocking(move || Model::load(&file, &how))
            .await
            .map_err(|_| DrafterError::Gone)??;
        let (info, tokenizer) = (model.info().clone(), Arc::clone(model.tokenizer()));
        Self::start((path, options), (info, tokenizer), Some(model), context)
    }

    /// Reads a model file's tokenizer and starts the thread without the weights, with the advice to
    /// let the edge write: for a device whose memory is short.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn open(
        path: PathBuf,
        options: LoadOptions,
        context: usize,
    ) -> Result<Self, DrafterError> {
        let file = path.clone();
        let outline = tokio::task::spawn_blocking(move || Model::outline(&file))
            .await
            .map_err(|_| DrafterError::Gone)??;
        let drafter = Self::start((path, options), outline, None, context)?;
        *lock(&drafter.shared.advice) = Advice::Stream(Reason::Memory);
        Ok(drafter)
    }

    fn start(
        source: (PathBuf, LoadOptions),
        (info, tokenizer): (ModelInfo, Arc<Tokenizer>),
        model: Option<Model>,
        context: usize,
    ) -> Result<Self, DrafterError> {
        let context = context.min(info.max_context);
        let (loaded, advice) = (AtomicBool::new(model.is_some()), Mutex::default());
        let shared = Arc::new(Shared { info, tokenizer, context, loaded, advice });
        let (commands, inbox) = mpsc::unbounded_channel();
        let worker =
            Worker { source, model, shared: Arc::clone(&shared), slots: Vec::new(), clock: 0 };
        std::thread::Builder::new()
            .name("drafter".into())
            .spawn(move || worker.run(inbox))
            .map_err(|_| DrafterError::Gone)?;
        Ok(Self { shared, commands })
    }

    /// The model's tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.shared.tokenizer
    }

    /// Facts about the model.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// How a link introduces this device to an edge; any model of the edge will do.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            app_version: env!("CARGO_PKG_VERSION").into(),
            drafter: self.info().name.clone(),
            tokenizer: self.tokenizer().fingerprint(),
            model: None,
        }
    }

    /// Tokens of a conversation at most.
    #[must_use]
    pub fn context(&self) -> usize {
        self.shared.context
    }

    /// Follows a policy from now on, also in an answer that is being written. Its memory is given
    /// back where that is the reason, and taken again when it is not any more.
    pub fn advise(&self, advice: Advice) {
        let before = std::mem::replace(&mut *lock(&self.shared.advice), advice);
        let memory = Advice::Stream(Reason::Memory);
        // A thread that is gone says so when it is asked to draft.
        if advice == memory && before != memory {
            let _ = self.commands.send(Command::GiveBack);
        } else if advice != memory && before == memory {
            let _ = self.commands.send(Command::Load(None));
        }
    }

    /// How much to draft now. Weights that are not here, or not yet again, are not waited for.
    #[must_use]
    pub fn advice(&self) -> Advice {
        let advice = *lock(&self.shared.advice);
        if self.is_loaded() { advice } else { Advice::Stream(Reason::Memory) }
    }

    /// Whether its memory is given back, or was never taken, because there is little.
    #[must_use]
    pub fn is_given_back(&self) -> bool {
        *lock(&self.shared.advice) == Advice::Stream(Reason::Memory)
    }

    /// Whether the weights are in memory.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.shared.loaded.load(Ordering::Acquire)
    }

    /// Waits until the weights are in memory.
    ///
    /// # Errors
    /// If they cannot be loaded any more.
    pub async fn loaded(&self) -> Result<(), DrafterError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Load(Some(reply))).map_err(|_| DrafterError::Gone)?;
        answer.await.map_err(|_| DrafterError::Gone)?
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
        let command = Command::Draft { request, cancel: cancel.clone(), reply };
        self.commands.send(command).map_err(|_| DrafterError::Gone)?;
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
    source: (PathBuf, LoadOptions),
    /// `None` while its memory is given back.
    model: Option<Model>,
    shared: Arc<Shared>,
    slots: Vec<Slot>,
    clock: u64,
}

impl Worker {
    fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        while let Some(command) = inbox.blocking_recv() {
            match command {
                Command::Draft { request, cancel, reply } => {
                    let _ = reply.send(self.draft(&request, &cancel));
                }
                Command::Load(reply) => {
                    let loaded = self.model();
                    if let Err(e) = &loaded {
                        tracing::warn!("the drafter cannot be loaded again: {e}");
                    }
                    if let Some(reply) = reply {
                        let _ = reply.send(loaded.map(|_| ()));
                    }
                }
                Command::GiveBack => {
                    self.shared.loaded.store(false, Ordering::Release);
                    self.slots = Vec::new();
                    self.model = None;
                }
            }
        }
    }

    /// The model, loaded again if it is not here.
    fn model(&mut self) -> Result<&Model, DrafterError> {
        let model = match self.model.take() {
            Some(model) => model,
            None => {
                let (path, options) = &self.source;
                Model::load_with(path, &self.shared.tokenizer, options)?
            }
        };
        self.shared.loaded.store(true, Ordering::Release);
        Ok(self.model.insert(model))
    }

    fn slot(&mut self, session: SessionId) -> Result<(&Model, &mut Slot), DrafterError> {
        self.clock += 1;
        let known = self.slots.iter().position(|s| s.session == session);
        let at = match known {
            Some(at) => at,
            None => {
                if self.slots.len() == SLOTS {
                    let oldest = (0..SLOTS).min_by_key(|&i| self.slots[i].used).unwrap_or(0);
                    self.slots.swap_remove(oldest);
                }
                let context = self.shared.context;
                let cache = self.model()?.new_cache(context)?;
                self.slots.push(Slot { session, cache, tokens: Vec::new(), used: 0 });
                self.slots.len() - 1
            }
        };
        self.slots[at].used = self.clock;
        let model = self.model.as_ref().ok_or(DrafterError::Gone)?;
        Ok((model, &mut self.slots[at]))
    }

    fn draft(
        &mut self,
        request: &DraftRequest,
        cancel: &CancellationToken,
    ) -> Result<Drafted, DrafterError> {
        let (model, slot) = self.slot(request.session)?;
        let shared = common_beginning(&slot.tokens, &request.tokens);
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
            forward(model, slot, piece, Wanted::None)?;
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
            let mut logits = forward(model, slot, &new, Wanted::Last)?;
            let sure = confidence(logits.row_mut(0));
            let best = stop.wants_alternative(sure).then(|| two_best(logits.row(0)));
            let q = process(logits.row_mut(0), &request.sampling, &text)?;
            let at = text.len() as u32;
            let u = request.randomness.uniform(Purpose::Draft, at, request.branch);
            let id = q.sample(u);
            let beside = best.map(|best| Alternative::beside(id, drafted.ids.len(), best));
            drafted.alternatives.extend(beside);
            drafted.ids.push(id);
            drafted.q.push(q);
            drafted.confidences.push(sure);
            text.push(id);
            // Whether to go on depends only on tokens that are already drawn and will be sent, and
            // on the time, so the text's distribution is untouched (`DraftStop`). What follows an
            // accepted end token is never used.
            if model.tokenizer().is_end(id)
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
