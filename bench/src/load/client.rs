//! Clients that play written answers against a real edge.

use super::{Got, Mode};
use crate::decode::trace::Trace;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tandem_device::{Channel, Incoming, Link, new_session};
use tandem_inference::Model;
use tandem_protocol::{
    ClientMessage, Draft, Hello, Open, PROTOCOL_VERSION, ServerMessage, Stream, Verdict,
};
use tandem_speculation::{Correction, Sampling, TokenId};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Longer than any round of a loaded edge.
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer to play.
struct Answer {
    prompt: Vec<TokenId>,
    tokens: Vec<TokenId>,
    /// Whether the drafter found the token.
    hit: Vec<bool>,
}

/// The time that counts, and what came in it.
struct Window {
    /// Clients that have not begun.
    waiting: AtomicUsize,
    counted: Duration,
    /// When the last one began.
    from: OnceLock<Instant>,
    tokens: AtomicUsize,
    rounds_ms: Mutex<Vec<f64>>,
}

impl Window {
    fn new(clients: usize, counted: Duration) -> Self {
        Self {
            waiting: AtomicUsize::new(clients),
            counted,
            from: OnceLock::new(),
            tokens: AtomicUsize::new(0),
            rounds_ms: Mutex::default(),
        }
    }

    fn is_over(&self) -> bool {
        self.from.get().is_some_and(|from| from.elapsed() >= self.counted)
    }

    /// A verdict came: the `first` one of a client says that it has begun.
    fn round(&self, first: bool, tokens: usize, sent: Instant) {
        if first {
            if self.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.from.get_or_init(Instant::now);
            }
        } else if self.from.get().is_some() && !self.is_over() {
            self.tokens.fetch_add(tokens, Ordering::Relaxed);
            if let Ok(mut rounds) = self.rounds_ms.lock() {
                rounds.push(sent.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
}

/// Everything that clients share.
#[derive(Clone)]
pub struct Clients {
    address: SocketAddr,
    hello: Hello,
    draft: Duration,
    answers: Arc<Vec<Answer>>,
}

impl Clients {
    pub fn new(verifier: &Model, address: SocketAddr, draft_ms: f64, traces: &[Trace]) -> Self {
        let answer = |t: &Trace| Answer {
            prompt: t.prompt.iter().copied().map(TokenId).collect(),
            tokens: t.places.iter().map(|p| TokenId(p.token)).collect(),
            hit: t.places.iter().map(|p| p.greedy).collect(),
        };
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            app_version: env!("CARGO_PKG_VERSION").into(),
            drafter: "written answers".into(),
            tokenizer: verifier.tokenizer().fingerprint(),
            model: None,
        };
        let draft = Duration::from_secs_f64(draft_ms / 1e3);
        Self { address, hello, draft, answers: Arc::new(traces.iter().map(answer).collect()) }
    }

    /// Lets `n` clients answer one question after the other, for `counted` from when all have begun.
    pub async fn measure(&self, n: usize, mode: Mode, counted: Duration) -> Result<Got> {
        let window = Arc::new(Window::new(n, counted));
        let mut clients = JoinSet::new();
        for i in 0..n {
            let (all, window) = (self.clone(), Arc::clone(&window));
            clients.spawn(async move { all.client(i, mode, &window).await });
        }
        while let Some(done) = clients.join_next().await {
            done??;
        }
        let rounds_ms = window.rounds_ms.lock().map_err(|_| anyhow!("a client panicked"))?;
        let tokens = window.tokens.load(Ordering::Relaxed);
        Ok(Got { tokens, seconds: counted.as_secs_f64(), rounds_ms: rounds_ms.clone() })
    }

    async fn client(&self, number: usize, mode: Mode, window: &Window) -> Result<()> {
        let address = self.address.to_string().parse().context("an address")?;
        let link = Link::start(address, self.hello.clone());
        let (_, epoch) = link.connected(PATIENCE).await.map_err(|e| anyhow!(e))?;
        for turn in number.. {
            if window.is_over() {
                break;
            }
            let first = turn == number;
            let answer = &self.answers[turn % self.answers.len()];
            let mut channel = link.channel();
            link.send(
                epoch,
                &ClientMessage::Open(Open {
                    session: new_session(),
                    generation: channel.generation,
                    tokens: answer.prompt.clone(),
                    sampling: Sampling::GREEDY,
                    seed: 1,
                    branch: 0,
                }),
            );
            match mode {
                Mode::Stream => stream(&link, epoch, &mut channel, answer, first, window).await?,
                Mode::Ahead(_) => bail!("simulated only"),
                Mode::Drafts(gamma) => {
                    self.drafts(&link, epoch, &mut channel, answer, gamma, first, window).await?;
                }
            }
            let generation = channel.generation;
            link.send(epoch, &ClientMessage::Cancel { generation });
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "one loop, named parts")]
    async fn drafts(
        &self,
        link: &Link,
        epoch: u32,
        channel: &mut Channel,
        answer: &Answer,
        gamma: usize,
        first: bool,
        window: &Window,
    ) -> Result<()> {
        let (mut at, mut round) = (0, 0);
        while at < answer.tokens.len() && !window.is_over() {
            let gamma = gamma.min(answer.tokens.len() - at - 1);
            sleep(self.draft * gamma as u32).await;
            let ids: Vec<TokenId> = (at..at + gamma)
                .map(|i| match answer.hit[i] {
                    true => answer.tokens[i],
                    // Any other token will do.
                    false => TokenId(answer.tokens[i].0 ^ 1),
                })
                .collect();
            let sent = Instant::now();
            link.send(
                epoch,
                &ClientMessage::Draft(Draft {
                    generation: channel.generation,
                    round,
                    prefix_len: (answer.prompt.len() + at) as u32,
                    committed: Vec::new(),
                    q: vec![1.0; gamma],
                    alternatives: Vec::new(),
                    ids,
                    branch: round,
                    open: false,
                }),
            );
            let verdict = verdict(channel, round).await?;
            let accepted = usize::from(verdict.accepted);
            check(answer, at + accepted, &verdict)?;
            at += accepted + 1;
            window.round(first && round == 0, accepted + 1, sent);
            round += 1;
        }
        Ok(())
    }
}

async fn stream(
    link: &Link,
    epoch: u32,
    channel: &mut Channel,
    answer: &Answer,
    first: bool,
    window: &Window,
) -> Result<()> {
    link.send(
        epoch,
        &ClientMessage::Stream(Stream {
            generation: channel.generation,
            round: 0,
            prefix_len: answer.prompt.len() as u32,
            committed: Vec::new(),
            max_tokens: answer.tokens.len() as u32,
            drafts: false,
        }),
    );
    let mut before = Instant::now();
    for at in 0..answer.tokens.len() {
        let verdict = verdict(channel, at as u32).await?;
        check(answer, at, &verdict)?;
        window.round(first && at == 0, 1, before);
        before = Instant::now();
        if window.is_over() {
            break;
        }
    }
    Ok(())
}

async fn verdict(channel: &mut Channel, round: u32) -> Result<Verdict> {
    loop {
        match timeout(PATIENCE, channel.next()).await.context("the edge does not answer")? {
            Incoming::Message { message: ServerMessage::Verdict(v), .. } if v.round == round => {
                return Ok(v);
            }
            Incoming::Message { message: ServerMessage::Error(e), .. } => bail!(e.message),
            Incoming::Lost => bail!("the connection is lost"),
            Incoming::Message { .. } => {}
        }
    }
}

/// Batched with whatever the others sent, the edge must write what it wrote alone.
fn check(answer: &Answer, at: usize, verdict: &Verdict) -> Result<()> {
    let (Correction::Bonus(token) | Correction::Token(token)) = verdict.correction else {
        bail!("at temperature 0 the edge answers with a token");
    };
    ensure!(answer.tokens.get(at) == Some(&token), "the edge wrote another text under load");
    Ok(())
}
