//! The schemes that Tandem is compared with, built for the clock: a loop of the device and one of
//! the edge with the real models, and frames on a real connection over the emulated link.
//!
//! They are as plain as their papers: one answer a connection, one draft at a time, a fixed draft
//! length. What they send is all there, so that it takes its time on the link: γ whole vectors up
//! for DSD, a whole vector down at a rejection for DSSD as published. Each side computes and blocks
//! on a thread of its own; only the emulated link is on the runtime.

mod device;
mod edge;
#[cfg(test)]
mod tests;
mod wire;

use super::emulator::Emulator;
use super::schemes::Scheme;
use super::ways::Round;
use super::world::Net;
use anyhow::{Context, Result};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use tandem_inference::{KvCache, Logits, Model, Segment, Wanted};
use tandem_speculation::{Sampling, TokenId};
use tokio::sync::oneshot;
use wire::Wire;

/// Who sends what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// All of each `q` goes up; the edge does the rest.
    Dsd,
    /// `q` of the drafted tokens goes up, all of `p` comes down at a rejection.
    Full,
    /// The drafter's best tokens go up and are compared with the edge's draws.
    Greedy,
    /// Both draw with the same noise, and the draws are compared.
    Gumbel,
}

impl Peer {
    /// The peer that is this scheme, if it is one.
    pub fn of(scheme: Scheme) -> Option<Self> {
        match scheme {
            Scheme::Dsd => Some(Self::Dsd),
            Scheme::Full => Some(Self::Full),
            Scheme::Greedy => Some(Self::Greedy),
            Scheme::Gumbel => Some(Self::Gumbel),
            _ => None,
        }
    }
}

/// The two models, which have one vocabulary.
#[derive(Clone)]
pub struct Models {
    pub drafter: Arc<Model>,
    pub verifier: Arc<Model>,
}

/// What is asked. A peer's edge knows all of it but the prompt before the first frame.
#[derive(Clone)]
pub struct Ask {
    pub prompt: Vec<TokenId>,
    pub sampling: Sampling,
    pub seed: u64,
    /// Tokens of the answer, at most.
    pub max_tokens: usize,
}

/// Writes one answer with drafts of `gamma` tokens over a link of its own.
///
/// # Errors
/// If a model or the connection fails.
pub async fn answer(
    models: &Models,
    net: Net,
    peer: Peer,
    ask: &Ask,
    gamma: usize,
) -> Result<Vec<Round>> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let link = Emulator::start(listener.local_addr()?, net).await?;
    // Connected before anyone waits for a connection, so that nobody waits for ever.
    let socket = TcpStream::connect(link.address())?;
    let (verifier, asked) = (Arc::clone(&models.verifier), ask.clone());
    let edge = on_thread("the peer's edge", move || {
        edge::run(&verifier, Wire::new(listener.accept()?.0)?, peer, (&asked, gamma))
    })?;
    let (drafter, asked) = (Arc::clone(&models.drafter), ask.clone());
    let device = on_thread("the peer's device", move || {
        device::run(&drafter, Wire::new(socket)?, peer, (&asked, gamma))
    })?;
    // Each ends when the other hangs up; why the edge did so says more than that it did.
    let (rounds, edge) = (device.await, edge.await);
    edge.context("the peer's edge panicked")??;
    rounds.context("the peer's device panicked")?
}

/// Runs `work` on a new thread.
fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<oneshot::Receiver<Result<T>>> {
    let (done, result) = oneshot::channel();
    // A caller that is gone needs no result.
    thread::Builder::new().name(name.into()).spawn(move || done.send(work()).is_ok())?;
    Ok(result)
}

/// A model and what it has read of a text.
struct Sequence<'a> {
    model: &'a Model,
    cache: KvCache,
}

impl<'a> Sequence<'a> {
    /// Reads a prompt but for its last token, whose logits the first round needs.
    fn begin(model: &'a Model, prompt: &[TokenId], room: usize) -> Result<Self> {
        let (_, before) = prompt.split_last().context("the prompt is empty")?;
        let mut new = Self { model, cache: model.new_cache(prompt.len() + room)? };
        if !before.is_empty() {
            new.read(before, Wanted::None)?;
        }
        Ok(new)
    }

    fn len(&self) -> usize {
        self.cache.len()
    }

    /// Forgets what follows the first `len` tokens.
    fn keep(&mut self, len: usize) {
        self.cache.truncate(len);
    }

    fn read(&mut self, tokens: &[TokenId], logits: Wanted) -> Result<Logits> {
        let segment = Segment { cache: &mut self.cache, tokens, logits };
        Ok(self.model.forward(&mut [segment])?)
    }
}
