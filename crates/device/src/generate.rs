//! One answer, from the prompt's ids to the last token: the loop of rounds.
//!
//! The loop holds the truth (`tokens`); drafter and edge are caches of it. So a lost connection is
//! no special case: the generation is opened again with all tokens and the same seed, the pending
//! draft is sent again under its number, and the edge decides as it did or would have done.
//!
//! # What a seed fixes
//! Every random number belongs to the seed, what it is drawn for, and the place in the text
//! ([`Randomness`]), and never to a time or a round's number. So, with the same models and prompt:
//! - Temperature 0: the text is the verifier's greedy text, whatever mode, draft length, seed and timing.
//! - Above it, with a fixed mode (`dssd`, `edge`, `device`), a fixed draft length and an edge that stays
//!   or comes back: the text is the same for a seed, whatever the timing and the lost connections.
//! - Above it, where something is chosen by measured times (mode `auto`, draft length `auto`, advice from
//!   a hot device, the drafter alone while the edge is away): whether a token is drafted and tested or
//!   drawn plainly depends on these times, and the two use different numbers. The distribution is the
//!   verifier's each time; the text for a seed may be another one.

use crate::drafter::{DraftRequest, Drafted, Drafter, DrafterError};
use crate::link::{Channel, Link, LinkState, lock};
use crate::policy::Advice;
use crate::record::{Ahead, Finish, Gamma, Mode, Pair, RoundRecord, Totals, WhenEdgeLost};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tandem_inference::Detokenizer;
use tandem_protocol::{ClientMessage, Open, SessionId, Welcome};
use tandem_speculation::{DraftStop, Planner, Randomness, Sampling, TokenId, Way};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// The conversation, whose KV caches are reused.
    pub session: SessionId,
    /// The rendered conversation as ids, and those of an answer that is to go on.
    pub prompt: Vec<TokenId>,
    /// How many at the end of `prompt` are of that answer, whose last character may be unfinished.
    pub begun: usize,
    /// How logits are processed, on both sides.
    pub sampling: Sampling,
    /// Seed of every random decision.
    pub seed: u64,
    /// Who writes.
    pub mode: Mode,
    /// Draft length.
    pub gamma: Gamma,
    /// Whether drafting goes on while verdicts are on their way; [`Mode::Auto`] decides itself.
    pub ahead: Ahead,
    /// Tokens of the answer at most.
    pub max_tokens: usize,
    /// What to do when the edge stays away.
    pub when_edge_lost: WhenEdgeLost,
    /// How long a lost edge is waited for.
    pub patience: Duration,
}

/// What happens while an answer is written.
#[derive(Debug)]
// One event a round: its size costs nothing.
#[allow(clippy::large_enum_variant)]
pub enum Event {
    /// The edge reads the prompt.
    Prefill {
        /// Tokens read.
        done: u32,
        /// Tokens of the prompt.
        total: u32,
    },
    /// A round is finished.
    Round {
        /// Its figures.
        record: RoundRecord,
        /// Its tokens.
        tokens: Vec<TokenId>,
        /// Text that became complete with it.
        text: String,
        /// Sums so far.
        totals: Totals,
    },
    /// Something that the reader should know.
    Notice {
        /// Whether it is about a loss.
        warning: bool,
        /// What, for people.
        text: String,
    },
}

/// How it ended.
#[derive(Debug)]
pub struct Answer {
    /// Why.
    pub finish: Finish,
    /// All tokens of the answer, an end token included.
    pub tokens: Vec<TokenId>,
    /// Sums.
    pub totals: Totals,
}

/// Why an answer failed. What was given before stays valid.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The drafter failed.
    #[error(transparent)]
    Drafter(#[from] DrafterError),
    /// Tokens cannot be turned into text.
    #[error(transparent)]
    Model(#[from] tandem_inference::Error),
    /// No edge, and the caller does not want the drafter alone.
    #[error("{0}")]
    EdgeLost(String),
    /// The edge answered something impossible or refused.
    #[error("the edge failed: {0}")]
    Edge(String),
    /// The prompt is too long.
    #[error(
        "the conversation has {tokens} tokens and the context {context}; start a new conversation, \
         or shorten the message"
    )]
    ContextFull {
        /// Of the prompt.
        tokens: usize,
        /// Room.
        context: usize,
    },
    /// Nothing to answer.
    #[error("there is nothing to answer: the prompt is empty")]
    Empty,
}

/// Why a round did not end.
pub(crate) enum Broken {
    /// The connection is gone, or the edge forgot the session: open again.
    Lost,
    /// The edge has a passing problem; as if it were away.
    Away(String),
    /// No use in going on.
    Fatal(GenerateError),
    Cancelled,
}

impl<E: Into<GenerateError>> From<E> for Broken {
    fn from(e: E) -> Self {
        match e.into() {
            GenerateError::Drafter(DrafterError::Cancelled) => Self::Cancelled,
            e => Self::Fatal(e),
        }
    }
}

/// Times a session is opened again without a finished round in between.
const REOPEN: u32 = 4;
/// How long an edge that failed is left alone.
const AGAIN: Duration = Duration::from_secs(5);

pub(crate) struct Run<'a, F> {
    pub drafter: &'a Drafter,
    pub request: &'a Request,
    pub cancel: &'a CancellationToken,
    pub on: F,
    pub channel: Option<Channel>,
    pub tokens: Vec<TokenId>,
    /// Tokens that the edge knows on the connection `opened`.
    pub edge_known: usize,
    pub opened: Option<u32>,
    pub round: u32,
    /// Rounds that brought a token which was not drafted.
    pub branch: u32,
    /// Drafts that were sent and have no verdict yet, kept over a lost connection.
    pub pending: VecDeque<Drafted>,
    /// Costs of this link, and what they say about how to go on.
    pub planner: Arc<Mutex<Planner>>,
    /// The way of the round before, and the advice that it followed.
    pub way: Way,
    pub advice: Advice,
    /// Why the next round goes another way than the one before.
    pub decision: Option<String>,
    /// When the last round ended, if nothing but rounds came since.
    pub ended: Option<Instant>,
    pub randomness: Randomness,
    pub context: usize,
    /// Since when nothing was heard of what the edge was asked for.
    pub waiting_since: Instant,
    /// The longest that it took to answer.
    pub longest: Duration,
    /// The drafter alone, and with the edge of the present connection.
    pairs: [Arc<Pair>; 2],
    detokenizer: Detokenizer,
    totals: Totals,
    started: Instant,
    /// The edge stays away: the drafter writes alone until it is back.
    alone: bool,
    /// An edge that failed is not asked again before, on the same connection.
    again_at: Instant,
    /// The last connection that was used.
    epoch: Option<u32>,
    /// The place in the edge's queue that was told last.
    pub place: Option<u32>,
}

/// Writes an answer; `on` gets each event in order, the text in whole characters.
///
/// # Errors
/// See [`GenerateError`]. Cancelling is no error: the answer then ends with
/// [`Finish::Cancelled`].
pub async fn generate<F: FnMut(Event)>(
    drafter: &Drafter,
    link: Option<&Link>,
    request: &Request,
    cancel: &CancellationToken,
    on: F,
) -> Result<Answer, GenerateError> {
    if request.prompt.is_empty() {
        return Err(GenerateError::Empty);
    }
    let wants_edge = request.mode != Mode::Device;
    let info = drafter.info();
    let alone = Arc::new(Pair::alone(&info.name, info.vocab));
    let mut detokenizer = drafter.tokenizer().detokenizer();
    for &id in &request.prompt[request.prompt.len().saturating_sub(request.begun)..] {
        // This text is there already; bytes of an unfinished character wait for their end.
        detokenizer.push(id)?;
    }
    let mut run = Run {
        drafter,
        request,
        cancel,
        on,
        channel: link.filter(|_| wants_edge).map(Link::channel),
        tokens: request.prompt.clone(),
        edge_known: 0,
        opened: None,
        round: 0,
        branch: 0,
        pending: VecDeque::new(),
        planner: link.map_or_else(Arc::default, |link| Arc::clone(link.planner())),
        way: Way::Turns,
        advice: Advice::Draft,
        decision: None,
        ended: None,
        randomness: Randomness::new(request.seed),
        context: drafter.context(),
        pairs: [Arc::clone(&alone), alone],
        waiting_since: Instant::now(),
        longest: Duration::ZERO,
        detokenizer,
        totals: Totals::default(),
        started: Instant::now(),
        alone: false,
        again_at: Instant::now(),
        epoch: None,
        place: None,
    };
    let finish = run.run().await;
    if let (Some(channel), Some(epoch)) = (&run.channel, run.opened)
        && !matches!(finish, Ok(Finish::Stop))
    {
        // The edge may be in the middle of a stream or a prompt.
        channel.link().send(epoch, &ClientMessage::Cancel { generation: channel.generation });
    }
    Ok(Answer {
        finish: finish?,
        tokens: run.tokens.split_off(request.prompt.len()),
        totals: run.totals,
    })
}

impl<F: FnMut(Event)> Run<'_, F> {
    async fn run(&mut self) -> Result<Finish, GenerateError> {
        if self.request.mode == Mode::Device {
            self.alone = true;
        } else if self.channel.is_none() {
            self.edge_is_away("no edge is given")?;
        }
        self.check_context(self.context)?;
        let mut reopened = 0;
        loop {
            if let Some(finish) = self.finished() {
                return Ok(finish);
            }
            if self.cancel.is_cancelled() {
                return Ok(Finish::Cancelled);
            }
            let before = self.round;
            let result = match self.edge().await {
                // An edge that came back may read less than the text has now.
                Ok(Some(_)) if self.finished().is_some() => continue,
                Ok(Some(epoch)) => self.with_edge(epoch).await,
                Ok(None) => self.step_alone().await,
                Err(broken) => Err(broken),
            };
            if self.round != before {
                reopened = 0;
            }
            match result {
                Ok(()) => {}
                Err(Broken::Cancelled) => return Ok(Finish::Cancelled),
                Err(Broken::Fatal(e)) => return Err(e),
                Err(Broken::Away(problem)) => {
                    self.opened = None;
                    self.edge_is_away(&problem)?;
                }
                Err(Broken::Lost) => {
                    self.opened = None;
                    reopened += 1;
                    if reopened > REOPEN {
                        self.edge_is_away(
                            "the edge forgets this conversation again and again, or does not answer in it",
                        )?;
                    }
                }
            }
        }
    }

    pub(crate) fn finished(&self) -> Option<Finish> {
        let answer = &self.tokens[self.request.prompt.len()..];
        if answer.last().is_some_and(|t| self.drafter.tokenizer().is_end(*t)) {
            Some(Finish::Stop)
        } else if self.left() == 0 || self.tokens.len() >= self.context {
            Some(Finish::Length)
        } else {
            None
        }
    }

    /// Tokens that the answer may still get, the context aside.
    pub(crate) fn left(&self) -> usize {
        self.request.max_tokens.saturating_sub(self.tokens.len() - self.request.prompt.len())
    }

    fn check_context(&self, context: usize) -> Result<(), GenerateError> {
        let tokens = self.request.prompt.len();
        if tokens < context { Ok(()) } else { Err(GenerateError::ContextFull { tokens, context }) }
    }

    /// Goes on alone, if that is wanted.
    fn edge_is_away(&mut self, problem: &str) -> Result<(), GenerateError> {
        if self.request.when_edge_lost == WhenEdgeLost::Stop {
            return Err(GenerateError::EdgeLost(problem.to_owned()));
        }
        self.alone = true;
        self.again_at = Instant::now() + AGAIN;
        self.pending.clear();
        let text = format!("{problem}; the small model on this device goes on alone");
        (self.on)(Event::Notice { warning: true, text });
        Ok(())
    }

    /// The connection to use, waiting for one if it was just lost; `None` says to go on alone.
    async fn edge(&mut self) -> Result<Option<u32>, Broken> {
        let Some(channel) = self.channel.as_ref() else { return Ok(None) };
        let state = channel.link().state().borrow().clone();
        let same =
            !matches!(state, LinkState::Connected { epoch, .. } if Some(epoch) != self.epoch);
        if self.alone && same && Instant::now() < self.again_at {
            return Ok(None);
        }
        if let LinkState::Connected { epoch, welcome } = state {
            return self.take_over(epoch, &welcome);
        }
        if self.alone {
            return Ok(None);
        }
        if self.round > 0 {
            let text = "the connection to the edge is lost; trying again".to_owned();
            (self.on)(Event::Notice { warning: true, text });
        }
        let link = channel.link().clone();
        tokio::select! {
            () = self.cancel.cancelled() => Err(Broken::Cancelled),
            found = link.connected(self.request.patience) => match found {
                Ok((welcome, epoch)) => self.take_over(epoch, &welcome),
                Err(problem) => Err(Broken::Away(problem)),
            },
        }
    }

    /// Uses a connection, whether it was there or was waited for: what its edge offers holds from now on.
    fn take_over(&mut self, epoch: u32, welcome: &Welcome) -> Result<Option<u32>, Broken> {
        let Some(channel) = self.channel.as_ref() else { return Ok(None) };
        self.epoch = Some(epoch);
        if self.opened != Some(epoch) {
            lock(&self.planner).offer_colocated(welcome.drafts);
            self.pairs[1] = Arc::new(self.pairs[0].with(channel.link().address(), welcome));
        }
        if self.alone && self.round > 0 {
            let text = "the edge is back".to_owned();
            (self.on)(Event::Notice { warning: false, text });
        }
        self.alone = false;
        let context = self.drafter.context().min(welcome.max_context as usize);
        self.check_context(context)?;
        if context < self.context {
            // Another edge than the one that these were sent to, and they may not fit into this one.
            self.pending.clear();
        }
        self.context = context;
        Ok(Some(epoch))
    }

    /// Opens the generation if that is not done on this connection, then writes a round (or, in
    /// the mode `edge`, all that is left).
    async fn with_edge(&mut self, epoch: u32) -> Result<(), Broken> {
        if self.opened != Some(epoch) {
            let Some(channel) = self.channel.as_mut() else { return Err(Broken::Lost) };
            // A number of its own: verdicts that are still on their way to the one before may be of
            // drafts that are not sent again in the same order.
            let link = channel.link().clone();
            *channel = link.channel();
            // A channel hears of a loss that comes after it.
            if !matches!(*link.state().borrow(), LinkState::Connected { epoch: now, .. } if now == epoch)
            {
                return Err(Broken::Lost);
            }
            let open = Open {
                session: self.request.session,
                generation: channel.generation,
                tokens: self.tokens.clone(),
                sampling: self.request.sampling,
                seed: self.request.seed,
                branch: self.branch,
            };
            link.send(epoch, &ClientMessage::Open(open));
            self.waiting_since = Instant::now();
            self.edge_known = self.tokens.len();
            self.opened = Some(epoch);
            self.ended = None;
        }
        self.choose_way();
        match self.way {
            Way::Stream => self.stream(epoch, false).await,
            Way::Colocated => self.stream(epoch, true).await,
            Way::Ahead => self.draft_ahead(epoch).await,
            Way::Turns => self.speculate(epoch).await,
        }
    }

    /// Leaves a stream whose last tokens may still be on their way: they belong to a generation
    /// that nobody listens to any more.
    pub(crate) fn leave_stream(&mut self) {
        let (Some(channel), Some(epoch)) = (self.channel.as_mut(), self.opened.take()) else {
            return;
        };
        let (link, generation) = (channel.link().clone(), channel.generation);
        link.send(epoch, &ClientMessage::Cancel { generation });
        *channel = link.channel();
    }

    /// One token of the drafter.
    async fn step_alone(&mut self) -> Result<(), Broken> {
        let started_at = crate::now_ms();
        let drafted = self.draft(DraftStop::fixed(1)).await?;
        let record = RoundRecord {
            draft_ms: drafted.ms,
            ..self.record("device", "drafter", "token", started_at)
        };
        self.commit(record, &drafted.ids)?;
        Ok(())
    }

    /// Drafts after the present text.
    pub async fn draft(&mut self, stop: DraftStop) -> Result<Drafted, DrafterError> {
        let request = DraftRequest {
            session: self.request.session,
            tokens: self.tokens.clone(),
            stop,
            until: None,
            sampling: self.request.sampling,
            randomness: self.randomness.clone(),
            branch: self.branch,
        };
        let work = self.drafter.draft(request, self.cancel);
        tokio::select! {
            () = self.cancel.cancelled() => Err(DrafterError::Cancelled),
            drafted = work => drafted,
        }
    }

    /// A record with everything at zero that is not said.
    pub fn record(
        &self,
        mode: &'static str,
        scheme: &'static str,
        outcome: &'static str,
        started_at: i64,
    ) -> RoundRecord {
        RoundRecord {
            message: 0,
            round: self.round,
            mode,
            scheme,
            gamma: 0,
            drafted: 0,
            accepted: 0,
            ignored: 0,
            alternatives: 0,
            followed: 0,
            outcome,
            draft_ms: 0.0,
            rtt_ms: 0.0,
            queue_ms: 0.0,
            verify_ms: 0.0,
            residual_ms: 0.0,
            uplink_bytes: 0,
            downlink_bytes: 0,
            started_at,
            decision: self.decision.clone(),
            pair: Arc::clone(&self.pairs[usize::from(mode != "device")]),
            tokens: Vec::new(),
            pieces: Vec::new(),
        }
    }

    /// Ends a round: its tokens, up to an end token or the wanted number, become part of the text.
    pub fn commit(
        &mut self,
        mut record: RoundRecord,
        new: &[TokenId],
    ) -> Result<(), GenerateError> {
        let mut kept = Vec::with_capacity(new.len());
        for &id in new {
            if self.finished().is_some() {
                break;
            }
            self.tokens.push(id);
            kept.push(id);
            record.pieces.push(if self.drafter.tokenizer().is_end(id) {
                String::new()
            } else {
                self.detokenizer.push(id)?
            });
        }
        self.ended = Some(Instant::now());
        self.decision = None;
        let text = record.pieces.concat();
        record.tokens.clone_from(&kept);
        self.round += 1;
        self.branch += u32::from(record.outcome != "continue");
        self.totals.add(&record, kept.len(), self.started);
        let totals = self.totals.clone();
        (self.on)(Event::Round { record, tokens: kept, text, totals });
        Ok(())
    }
}
