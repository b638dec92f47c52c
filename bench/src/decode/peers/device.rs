//! The device's loop: draft, send, wait, go on with what the verdict leads to.

use super::super::ways::Round;
use super::wire::{self, Draft, Wire};
use super::{Ask, Peer, Sequence};
use anyhow::{Context, Result, bail};
use std::time::Instant;
use tandem_inference::{Model, Wanted};
use tandem_speculation::{
    Correction, Purpose, Randomness, Resolution, Resolver, Sampling, TokenId, gumbel_draw, process,
};

/// Writes an answer with drafts of at most `most` tokens.
pub fn run(
    model: &Model,
    mut wire: Wire,
    peer: Peer,
    (ask, most): (&Ask, usize),
) -> Result<Vec<Round>> {
    let (random, vocab) = (Randomness::new(ask.seed), model.info().vocab);
    wire.send(&wire::ids(&ask.prompt))?;
    let mut text = ask.prompt.clone();
    let mut read = Sequence::begin(model, &text, ask.max_tokens)?;
    let (mut rounds, end) = (Vec::<Round>::new(), text.len() + ask.max_tokens);
    while text.len() < end && !text_ended(model, &rounds) {
        // Every round adds a token that is in no draft: as many tokens as that are no drafts.
        let branch = rounds.len() as u32;
        let gamma = most.min(end - text.len() - 1);
        let draft = draft(&mut read, peer, ask, &text, gamma, (&random, branch))?;
        let up = wire.send(&draft.encode(peer, vocab))?;
        let reply = wire.receive()?.context("the peer's edge went away")?;
        let verdict = wire::decode(&reply, draft.ids.len(), vocab)?;
        let accepted = verdict.accepted;
        let at = (text.len() + accepted) as u32;
        let next = match verdict.correction {
            Correction::Bonus(token) | Correction::Token(token) => token,
            correction => {
                let mut resolver = Resolver::new(draft.q.get(accepted), &random, at, vocab);
                match resolver.resolve(correction)? {
                    Resolution::Token(token) => token,
                    Resolution::NeedMore => bail!("a whole vector leaves nothing to ask for"),
                }
            }
        };
        // What has been read beyond the accepted tokens is void.
        read.keep(read.len().min(text.len() + accepted));
        let mut tokens = draft.ids[..accepted].to_vec();
        // Nothing follows an end token.
        if !tokens.last().is_some_and(|t| model.tokenizer().is_end(*t)) {
            tokens.push(next);
        }
        text.extend(&tokens);
        rounds.push(Round {
            drafted: draft.ids.len(),
            accepted,
            tokens,
            up,
            down: reply.len(),
            at: Instant::now(),
            record: None,
        });
    }
    Ok(rounds)
}

fn text_ended(model: &Model, rounds: &[Round]) -> bool {
    let last = rounds.last().and_then(|r| r.tokens.last());
    last.is_some_and(|t| model.tokenizer().is_end(*t))
}

/// Draws up to `gamma` tokens behind the text, none after an end token.
fn draft(
    read: &mut Sequence<'_>,
    peer: Peer,
    ask: &Ask,
    text: &[TokenId],
    gamma: usize,
    (random, branch): (&Randomness, u32),
) -> Result<Draft> {
    let sampling = match peer {
        Peer::Greedy => Sampling { temperature: 0.0, ..ask.sampling },
        _ => ask.sampling,
    };
    let last = *text.last().context("there is no text")?;
    let (mut ids, mut q) = (Vec::new(), Vec::new());
    let mut all = text.to_vec();
    while ids.len() < gamma && !ids.last().is_some_and(|t| read.model.tokenizer().is_end(*t)) {
        let mut logits = read.read(&all[read.len()..], Wanted::Last)?;
        let drawn_from = process(logits.row_mut(0), &sampling, &all)?;
        let at = all.len() as u32;
        let id = match peer {
            Peer::Gumbel => gumbel_draw(&drawn_from, random, at),
            _ => drawn_from.sample(random.uniform(Purpose::Draft, at, branch)),
        };
        ids.push(id);
        q.push(drawn_from);
        all.push(id);
    }
    Ok(Draft { position: text.len() as u32, last, ids, q })
}
