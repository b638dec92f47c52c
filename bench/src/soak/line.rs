//! One client's connection, and what is asked and written on it.

use super::client::{PATIENCE, Tally};
use anyhow::{Context, Result, bail, ensure};
use tandem_device::{Channel, Incoming, Link};
use tandem_protocol::{ClientMessage, ErrorCode, Open, ServerMessage, SessionId, Stream, Verdict};
use tandem_speculation::{Correction, Sampling, TokenId};
use tokio::time::timeout;

/// A question and what the edge answers alone.
pub struct Known {
    pub prompt: Vec<TokenId>,
    pub answer: Vec<TokenId>,
}

/// Why a round did not come.
pub enum Trouble {
    /// The edge does not know the conversation any more.
    Forgotten,
    Busy,
    Lost,
}

/// One client's connection, and the answer on it.
pub struct Line {
    pub link: Link,
    pub epoch: u32,
    pub channel: Channel,
    pub session: SessionId,
    /// Rounds since it was opened.
    pub round: u32,
    /// Tokens that the edge has had of what is open.
    pub had: u32,
    /// Whether some of them were computed again.
    pub refilled: bool,
}

impl Line {
    pub fn send(&self, message: &ClientMessage) {
        self.link.send(self.epoch, message);
    }

    pub fn open(&mut self, tokens: &[TokenId], sampling: &Sampling) {
        self.channel = self.link.channel();
        (self.round, self.refilled) = (0, false);
        self.send(&ClientMessage::Open(Open {
            session: self.session,
            generation: self.channel.generation,
            tokens: tokens.to_vec(),
            sampling: *sampling,
            seed: 1,
            branch: 0,
        }));
    }

    /// Opens an answer of which so many tokens are there.
    pub fn resume(&mut self, known: &Known, at: usize, sampling: &Sampling) {
        let tokens = [&known.prompt[..], &known.answer[..at]].concat();
        self.open(&tokens, sampling);
        // The last token is for the first round, and the one before it may have been.
        self.had = if at > 0 { (tokens.len() - 2) as u32 } else { 0 };
    }

    /// Asks for plain tokens.
    pub fn ask(&mut self, prefix: usize, most: usize) {
        self.send(&ClientMessage::Stream(Stream {
            generation: self.channel.generation,
            round: self.round,
            prefix_len: prefix as u32,
            committed: Vec::new(),
            max_tokens: most as u32,
            drafts: false,
        }));
    }

    pub fn cancel(&self) {
        self.send(&ClientMessage::Cancel { generation: self.channel.generation });
    }

    /// Whatever others do meanwhile, and whatever was forgotten, the edge must write what it wrote alone.
    pub fn check(&self, known: &Known, at: usize, token: TokenId, tally: &Tally) -> Result<()> {
        ensure!(known.answer.get(at) == Some(&token), "the edge wrote another text under load");
        tally.add(&tally.checked, 1);
        if self.refilled {
            tally.add(&tally.checked_after_refill, 1);
        }
        Ok(())
    }

    /// The next round's verdict.
    pub async fn verdict(&mut self, tally: &Tally) -> Result<Result<Verdict, Trouble>> {
        loop {
            let incoming = timeout(PATIENCE, self.channel.next()).await;
            match incoming.context("the edge does not answer")? {
                Incoming::Message { message: ServerMessage::Verdict(v), .. } => {
                    ensure!(v.round == self.round, "round {} came as {}", self.round, v.round);
                    self.round += 1;
                    return Ok(Ok(v));
                }
                Incoming::Message { message: ServerMessage::Prefill(p), .. } => {
                    let missing = std::mem::take(&mut self.had).saturating_sub(p.cached);
                    if missing > 0 {
                        self.refilled = true;
                        tally.add(&tally.refills, 1);
                        tally.add(&tally.refilled, missing as usize);
                    }
                }
                Incoming::Message { message: ServerMessage::Error(e), .. } => match e.code {
                    ErrorCode::Busy => return Ok(Err(Trouble::Busy)),
                    ErrorCode::State if e.message.contains("open it again") => {
                        return Ok(Err(Trouble::Forgotten));
                    }
                    _ => bail!("the edge says: {}", e.message),
                },
                Incoming::Message { .. } => {}
                Incoming::Lost => return Ok(Err(Trouble::Lost)),
            }
        }
    }
}

/// The token that a verdict of the edge's own choice ends with.
pub fn token(verdict: &Verdict) -> Result<TokenId> {
    match verdict.correction {
        Correction::Bonus(token) | Correction::Token(token) => Ok(token),
        _ => bail!("the edge did not choose the token"),
    }
}
