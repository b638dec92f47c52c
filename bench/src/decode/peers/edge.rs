//! The edge's loop: one forward pass for each draft, and the scheme's verdict on it.

use super::wire::{self, Received, Wire};
use super::{Ask, Peer, Sequence};
use anyhow::{Result, ensure};
use tandem_inference::{Model, Wanted};
use tandem_speculation::{
    Distribution, Randomness, Verdict, dsd_verify, greedy_verify, gumbel_verify, more, process,
    verify,
};

/// Answers drafts of at most `most` tokens until the device hangs up.
pub fn run(model: &Model, mut wire: Wire, peer: Peer, (ask, most): (&Ask, usize)) -> Result<()> {
    let (random, vocab) = (Randomness::new(ask.seed), model.info().vocab);
    let Some(prompt) = wire.receive()? else { return Ok(()) };
    let mut text = wire::get_ids(&prompt, vocab)?;
    let mut read = Sequence::begin(model, &text, ask.max_tokens + most + 1)?;
    while let Some(frame) = wire.receive()? {
        let draft = Received::decode(&frame, peer, vocab)?;
        // The text so far is what was accepted, and the token that came after it.
        let before = draft.position.wrapping_sub(1);
        ensure!(before <= text.len() && before <= read.len(), "a draft from another text");
        text.truncate(before);
        read.keep(before);
        text.push(draft.last);
        text.extend(&draft.ids);
        let mut logits = read.read(&text[before..], Wanted::All)?;
        let row = |i| process(logits.row_mut(i), &ask.sampling, &text[..draft.position + i]);
        let p = (0..=draft.ids.len()).map(row).collect::<Result<Vec<_>, _>>()?;
        wire.send(&wire::encode(&decide(&draft, &p, peer, &random, vocab)?)?)?;
    }
    Ok(())
}

fn decide(
    draft: &Received,
    p: &[Distribution],
    peer: Peer,
    random: &Randomness,
    vocab: usize,
) -> Result<Verdict> {
    let (ids, at) = (&draft.ids[..], draft.position as u32);
    Ok(match peer {
        Peer::Dsd => dsd_verify(ids, &draft.q, p, random, at),
        Peer::Greedy => greedy_verify(ids, p, random, at),
        Peer::Gumbel => gumbel_verify(ids, p, random, at),
        Peer::Full => {
            let row = |i: usize| Ok(p[i].clone());
            let mut verdict = verify(ids, &draft.scalars, false, row, random, at)?;
            let accepted = verdict.accepted;
            if accepted < ids.len() {
                // The second request for more is answered with all of `p`.
                verdict.correction = more(&p[accepted], random, at + accepted as u32, 2, vocab);
            }
            verdict
        }
    })
}
