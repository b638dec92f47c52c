//! Clients that ask, stop, leave and come back, and know what must be written.

use super::line::{Known, Line, Trouble, token};
use anyhow::{Result, anyhow, ensure};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tandem_device::{Link, new_session};
use tandem_inference::{ChatMessage, Model, Role, Tokenizer};
use tandem_protocol::{ClientMessage, Draft, Hello, PROTOCOL_VERSION, SessionId};
use tandem_speculation::{Sampling, TokenId};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Longer than any round of a loaded edge.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Before an edge that is full is asked again.
const PAUSE: Duration = Duration::from_millis(300);

/// What makes a prompt long.
const TEXT: &str =
    "the lighthouse keeper wrote down what the sea did, each evening, in a thick book; ";
/// Tokens of the answer to a client that is idle: it asks for one in half a minute or so.
const IDLE_TOKENS: usize = 16;

/// What happened, of all clients together.
#[derive(Default)]
pub struct Tally {
    begun: AtomicUsize,
    counts: AtomicBool,
    pub tokens: AtomicU64,
    pub answers: AtomicU64,
    pub cancelled: AtomicU64,
    pub reconnected: AtomicU64,
    /// Rounds of conversations that the edge had forgotten meanwhile.
    pub forgotten: AtomicU64,
    /// Conversations that were filled again, and tokens that were computed again for them.
    pub refills: AtomicU64,
    pub refilled: AtomicU64,
    /// Times that the edge had no room.
    pub busy: AtomicU64,
    pub checked: AtomicU64,
    /// Those of them that were written from what was filled again.
    pub checked_after_refill: AtomicU64,
    pub draft_ms: Mutex<Vec<f64>>,
    pub token_ms: Mutex<Vec<f64>>,
}

impl Tally {
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    pub fn start(&self) {
        self.counts.store(true, Ordering::Relaxed);
    }

    pub fn stop(&self) {
        self.counts.store(false, Ordering::Relaxed);
    }

    pub fn add(&self, what: &AtomicU64, n: usize) {
        if self.counts.load(Ordering::Relaxed) {
            what.fetch_add(n as u64, Ordering::Relaxed);
        }
    }

    fn took(&self, what: &Mutex<Vec<f64>>, since: Instant) {
        if self.counts.load(Ordering::Relaxed) {
            let ms = since.elapsed().as_secs_f64() * 1e3;
            what.lock().unwrap_or_else(PoisonError::into_inner).push(ms);
        }
    }
}

/// What all clients share.
#[derive(Clone)]
pub struct Clients {
    address: SocketAddr,
    hello: Hello,
    /// Of each client its own: where texts begin alike the edge takes over what another conversation has
    /// computed, and nothing would have to be filled again.
    known: Arc<Vec<Vec<Known>>>,
    tokenizer: Arc<Tokenizer>,
}

/// Choices that a seed repeats.
struct Choices(u64);

impl Choices {
    /// A number below `n`; splitmix64.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

impl Clients {
    /// Asks each question once, of an edge that has nothing else to do: three of each client at work, of
    /// which one is short and one is long, and a short one of each that is `idle`.
    pub async fn prepare(
        model: &Model,
        address: SocketAddr,
        (idle, working): (usize, usize),
        tokens: usize,
    ) -> Result<Self> {
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            app_version: env!("CARGO_PKG_VERSION").into(),
            drafter: "known answers".into(),
            tokenizer: model.tokenizer().fingerprint(),
            model: None,
        };
        let tokenizer = Arc::clone(model.tokenizer());
        let mut all = Self { address, hello, known: Arc::default(), tokenizer };
        let mut known = Vec::new();
        for client in 0..idle + working {
            let (repeats, tokens) = match client.checked_sub(idle) {
                None => (vec![1], tokens.min(IDLE_TOKENS)),
                Some(n) => (vec![0, [4, 8][n % 2], [16, 30][n / 2 % 2]], tokens),
            };
            let mut own = Vec::new();
            for (i, repeat) in repeats.into_iter().enumerate() {
                let question = format!(
                    "In the tale of keeper {client}, {}part {i}: what happens next, and why?",
                    TEXT.repeat(repeat)
                );
                own.push(all.ask_alone(model, &question, tokens).await?);
            }
            known.push(own);
        }
        all.known = Arc::new(known);
        Ok(all)
    }

    async fn ask_alone(&self, model: &Model, question: &str, tokens: usize) -> Result<Known> {
        let message = ChatMessage { role: Role::User, content: question.into() };
        let prompt = model.tokenizer().encode_chat(&[message])?;
        let mut line = self.line(new_session()).await?;
        line.open(&prompt, &Sampling::GREEDY);
        line.ask(prompt.len(), tokens);
        let mut answer = Vec::new();
        while answer.len() < tokens && !answer.last().is_some_and(|t| self.tokenizer.is_end(*t)) {
            let verdict = line.verdict(&Tally::default()).await?;
            let verdict = verdict.map_err(|_| anyhow!("the edge does not answer alone"))?;
            answer.push(token(&verdict)?);
        }
        Ok(Known { prompt, answer })
    }

    /// How many questions there are.
    pub fn known(&self) -> usize {
        self.known.iter().map(Vec::len).sum()
    }

    async fn line(&self, session: SessionId) -> Result<Line> {
        let link = Link::start(self.address.to_string().parse()?, self.hello.clone());
        let (_, epoch) = link.connected(PATIENCE).await.map_err(|e| anyhow!(e))?;
        let channel = link.channel();
        Ok(Line { link, epoch, channel, session, round: 0, had: 0, refilled: false })
    }

    /// One answer after the other, in all the ways of which clients ask.
    pub async fn work(
        &self,
        (client, seed): (usize, u64),
        tally: &Tally,
        over: &CancellationToken,
    ) -> Result<()> {
        let mut choices = Choices(seed);
        let mut line = self.line(new_session()).await?;
        let mut first = true;
        while !over.is_cancelled() {
            let own = &self.known[client];
            let known = &own[choices.below(own.len())];
            if choices.percent(60) {
                line.session = new_session();
            }
            // Drafts and plain streams that are compared, and streams that are drawn.
            match choices.below(5) {
                0..=2 => self.drafts(&mut line, known, &mut choices, tally, over).await?,
                3 => self.stream(&mut line, known, &mut choices, true, tally, over).await?,
                _ => self.stream(&mut line, known, &mut choices, false, tally, over).await?,
            }
            if std::mem::take(&mut first) {
                tally.begun.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// One token, a long pause, and again.
    pub async fn idle(
        &self,
        (client, seed): (usize, u64),
        tally: &Tally,
        over: &CancellationToken,
    ) -> Result<()> {
        let mut choices = Choices(seed);
        let mut line = self.line(new_session()).await?;
        let known = &self.known[client][0];
        let mut at = 0;
        let mut open = false;
        loop {
            if !open {
                line.resume(known, at, &Sampling::GREEDY);
                open = true;
            }
            line.ask(known.prompt.len() + at, 1);
            match line.verdict(tally).await? {
                Ok(verdict) => {
                    line.check(known, at, token(&verdict)?, tally)?;
                    at += 1;
                    if at == 1 {
                        tally.begun.fetch_add(1, Ordering::Relaxed);
                    }
                    if at == known.answer.len() {
                        (at, open) = (0, false);
                    }
                }
                Err(trouble) => {
                    self.mend(&mut line, &trouble, tally).await?;
                    open = false;
                    continue;
                }
            }
            let pause = Duration::from_secs(20 + choices.below(40) as u64);
            tokio::select! {
                () = over.cancelled() => return Ok(()),
                () = sleep(pause) => {}
            }
        }
    }

    /// After a round that did not come: what a device does.
    async fn mend(&self, line: &mut Line, trouble: &Trouble, tally: &Tally) -> Result<()> {
        match trouble {
            Trouble::Forgotten => tally.add(&tally.forgotten, 1),
            Trouble::Busy => {
                tally.add(&tally.busy, 1);
                sleep(PAUSE).await;
            }
            Trouble::Lost => self.leave(line, tally).await?,
        }
        Ok(())
    }

    /// Another connection for the same conversation.
    async fn leave(&self, line: &mut Line, tally: &Tally) -> Result<()> {
        tally.add(&tally.reconnected, 1);
        *line = self.line(line.session).await?;
        Ok(())
    }

    async fn drafts(
        &self,
        line: &mut Line,
        known: &Known,
        choices: &mut Choices,
        tally: &Tally,
        over: &CancellationToken,
    ) -> Result<()> {
        let (mut at, mut open) = (0, false);
        while at < known.answer.len() && !over.is_cancelled() {
            if !open {
                line.resume(known, at, &Sampling::GREEDY);
                open = true;
            }
            let gamma = choices.below(7).min(known.answer.len() - at - 1);
            let mut ids = known.answer[at..at + gamma].to_vec();
            for id in &mut ids {
                if choices.percent(20) {
                    *id = TokenId(id.0 ^ 1);
                }
            }
            let sent = Instant::now();
            line.send(&ClientMessage::Draft(Draft {
                generation: line.channel.generation,
                round: line.round,
                prefix_len: (known.prompt.len() + at) as u32,
                committed: Vec::new(),
                q: vec![1.0; gamma],
                alternatives: Vec::new(),
                ids,
                branch: line.round,
                open: false,
            }));
            match line.verdict(tally).await? {
                Ok(verdict) => {
                    tally.took(&tally.draft_ms, sent);
                    let accepted = usize::from(verdict.accepted);
                    ensure!(accepted <= gamma, "more was accepted than drafted");
                    line.check(known, at + accepted, token(&verdict)?, tally)?;
                    at += accepted + 1;
                    tally.add(&tally.tokens, accepted + 1);
                }
                Err(trouble) => {
                    self.mend(line, &trouble, tally).await?;
                    open = false;
                }
            }
            if choices.percent(2) {
                line.cancel();
                tally.add(&tally.cancelled, 1);
                return Ok(());
            }
            if choices.percent(2) {
                self.leave(line, tally).await?;
                open = false;
            }
        }
        tally.add(&tally.answers, 1);
        Ok(())
    }

    async fn stream(
        &self,
        line: &mut Line,
        known: &Known,
        choices: &mut Choices,
        greedy: bool,
        tally: &Tally,
        over: &CancellationToken,
    ) -> Result<()> {
        let sampling = if greedy { Sampling::GREEDY } else { Sampling::default() };
        let most = if greedy { known.answer.len() } else { known.answer.len().min(8) };
        let (mut at, mut open, mut before) = (0, false, Instant::now());
        while at < most && !over.is_cancelled() {
            if !open {
                // One that is drawn begins anew.
                at = if greedy { at } else { 0 };
                line.resume(known, at, &sampling);
                line.ask(known.prompt.len() + at, most - at);
                (open, before) = (true, Instant::now());
            }
            match line.verdict(tally).await? {
                Ok(verdict) => {
                    tally.took(&tally.token_ms, before);
                    before = Instant::now();
                    let token = token(&verdict)?;
                    if greedy {
                        line.check(known, at, token, tally)?;
                    }
                    at += 1;
                    tally.add(&tally.tokens, 1);
                    if !greedy && self.tokenizer.is_end(token) {
                        break;
                    }
                }
                Err(trouble) => {
                    self.mend(line, &trouble, tally).await?;
                    open = false;
                }
            }
            if choices.percent(1) {
                line.cancel();
                tally.add(&tally.cancelled, 1);
                return Ok(());
            }
            if choices.percent(1) {
                self.leave(line, tally).await?;
                open = false;
            }
        }
        line.cancel();
        tally.add(&tally.answers, 1);
        Ok(())
    }
}
