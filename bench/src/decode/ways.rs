//! One answer by the clock, whichever way it is written: by the product's own loop, by the box with
//! both models, by a peer.

use super::emulator::Emulator;
use super::peers::{self, Ask, Models, Peer};
use super::schemes::Scheme;
use super::world::Net;
use anyhow::{Context, Result, anyhow, bail};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tandem_device::{
    Ahead, Drafter, Event, Gamma, Incoming, Link, Mode, Request, RoundRecord, WhenEdgeLost,
    generate, new_session,
};
use tandem_edge::{Config, Edge, Limits};
use tandem_inference::{DeviceChoice, LoadOptions};
use tandem_protocol::{ClientMessage, Open, ServerMessage, Stream};
use tandem_speculation::{Correction, TokenId};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const CONTEXT: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(60);

/// A scheme, and its draft length where that is fixed.
pub type Way = (Scheme, Option<usize>);

/// One round, as the device saw it.
#[derive(Debug)]
pub struct Round {
    pub drafted: usize,
    pub accepted: usize,
    /// What it added to the answer.
    pub tokens: Vec<TokenId>,
    /// Payload in bytes.
    pub up: usize,
    /// Payload in bytes.
    pub down: usize,
    /// When its tokens were known.
    pub at: Instant,
    /// What the product notes of a round.
    pub record: Option<RoundRecord>,
}

impl Round {
    /// Drafted tokens up to the first rejection.
    pub fn tested(&self) -> usize {
        (self.accepted + 1).min(self.drafted)
    }
}

/// Both sides, ready to answer.
pub struct Ready {
    drafter: Drafter,
    models: Models,
    edge: Edge,
    /// With a drafter of its own.
    box_drafts: Edge,
}

impl Ready {
    pub async fn start(drafter: &Path, models: Models) -> Result<Self> {
        let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
        let edge = |own| Edge::start(Arc::clone(&models.verifier), config(own));
        Ok(Self {
            drafter: Drafter::load(drafter.into(), options, CONTEXT).await?,
            edge: edge(None).await?,
            box_drafts: edge(Some(Arc::clone(&models.drafter))).await?,
            models,
        })
    }

    pub async fn stop(self) {
        self.edge.stop().await;
        self.box_drafts.stop().await;
    }

    /// Answers one question after the other over one link, the product's planner learning meanwhile.
    pub async fn answers(
        &self,
        (scheme, gamma): Way,
        net: Net,
        asks: &[Ask],
    ) -> Result<Vec<Vec<Round>>> {
        let mut all = Vec::new();
        if let Some(peer) = Peer::of(scheme) {
            let gamma = gamma.context("peers have a fixed draft length")?;
            for ask in asks {
                all.push(peers::answer(&self.models, net, peer, ask, gamma).await?);
            }
            return Ok(all);
        }
        let colocated = scheme == Scheme::Colocated;
        let edge = if colocated { &self.box_drafts } else { &self.edge };
        let emulator = Emulator::start(edge.address(), net).await?;
        let address = emulator.address().to_string().parse().context("an address")?;
        let link = Link::start(address, self.drafter.hello());
        for ask in asks {
            all.push(match colocated {
                true => self.written(&link, ask).await?,
                false => self.generated(&link, (scheme, gamma), ask).await?,
            });
        }
        Ok(all)
    }

    /// By the product's device.
    async fn generated(&self, link: &Link, (scheme, gamma): Way, ask: &Ask) -> Result<Vec<Round>> {
        let request = Request {
            session: new_session(),
            prompt: ask.prompt.clone(),
            sampling: ask.sampling,
            seed: ask.seed,
            mode: match scheme {
                Scheme::Stream => Mode::Edge,
                Scheme::Device => Mode::Device,
                Scheme::Auto => Mode::Auto,
                _ => Mode::Dssd,
            },
            gamma: gamma.map_or(Gamma::Auto, Gamma::Fixed),
            ahead: if scheme == Scheme::Ahead { Ahead::Yes } else { Ahead::No },
            begun: 0,
            max_tokens: ask.max_tokens,
            when_edge_lost: WhenEdgeLost::Stop,
            patience: PATIENCE,
        };
        let mut rounds = Vec::new();
        let on = |event| {
            if let Event::Round { record, tokens, .. } = event {
                rounds.push(Round {
                    drafted: record.drafted as usize,
                    accepted: record.accepted as usize,
                    tokens,
                    up: record.uplink_bytes as usize,
                    down: record.downlink_bytes as usize,
                    at: Instant::now(),
                    record: Some(record),
                });
            }
        };
        generate(&self.drafter, Some(link), &request, &CancellationToken::new(), on).await?;
        Ok(rounds)
    }

    /// By the box, which has both models. The product's device leaves that to its planner; here it is
    /// asked for.
    async fn written(&self, link: &Link, ask: &Ask) -> Result<Vec<Round>> {
        let (_, epoch) = link.connected(PATIENCE).await.map_err(|e| anyhow!(e))?;
        let mut channel = link.channel();
        let generation = channel.generation;
        let open = Open {
            session: new_session(),
            generation,
            tokens: ask.prompt.clone(),
            sampling: ask.sampling,
            seed: ask.seed,
            branch: 0,
        };
        link.send(epoch, &ClientMessage::Open(open));
        let stream = Stream {
            generation,
            round: 0,
            prefix_len: ask.prompt.len() as u32,
            committed: Vec::new(),
            max_tokens: ask.max_tokens as u32,
            drafts: true,
        };
        let mut up = link.send(epoch, &ClientMessage::Stream(stream));
        let (mut rounds, mut left) = (Vec::new(), ask.max_tokens);
        while left > 0 {
            let next = timeout(PATIENCE, channel.next()).await.context("the edge is silent")?;
            let Incoming::Message { message, bytes, at } = next else { bail!("the link broke") };
            let (drafted, accepted, tokens) = match message {
                ServerMessage::Written(w) => {
                    (usize::from(w.drafted), usize::from(w.accepted), w.tokens)
                }
                ServerMessage::Verdict(v) => match v.correction {
                    Correction::Bonus(token) => (0, 0, vec![token]),
                    other => bail!("{other:?} in a stream"),
                },
                ServerMessage::Error(e) => bail!(e.message),
                _ => continue,
            };
            let last = *tokens.last().context("a round without tokens")?;
            left = left.saturating_sub(tokens.len());
            let (up, down) = (std::mem::take(&mut up), bytes);
            rounds.push(Round { drafted, accepted, tokens, up, down, at, record: None });
            if self.drafter.tokenizer().is_end(last) {
                break;
            }
        }
        link.send(epoch, &ClientMessage::Cancel { generation });
        Ok(rounds)
    }
}

fn config(drafter: Option<Arc<tandem_inference::Model>>) -> Config {
    let idle = Duration::from_secs(600);
    let limits = Limits { context: CONTEXT, sessions: 8, kv_bytes: 1 << 30, idle, wait: idle };
    Config { drafter, ..Config::local("bench", limits) }
}
