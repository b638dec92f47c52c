//! What two real models do on real prompts, token by token: the material of the simulation.
//!
//! The verifier writes an answer; at each place of it both models' distributions are known, so for
//! every scheme the chance is known that a draft would have been accepted there, given that the
//! verifier's own token is the one that was written. Where drafts are cut and when they arrive
//! changes nothing of this, so one trace serves every link, machine and draft length.

use crate::facts;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use tandem_inference::{ChatMessage, Model, Role, Segment, Wanted};
use tandem_speculation::{
    Distribution, Randomness, Sampling, TokenId, confidence, gumbel_draw, process, two_best,
};

/// Prompts of four kinds; the last of each kind asks to work on a given text.
pub const PROMPTS: [(&str, &str); 8] = [
    ("code", "Write a Python function that reverses a linked list."),
    (
        "code",
        "Rename the variable `total` to `sum_of_squares` in this function and give the whole \
         function again:\n\ndef squares(values):\n    total = 0\n    for value in values:\n        \
         if value > 0:\n            total += value * value\n    return total",
    ),
    ("chat", "Explain in three sentences why the sky is blue."),
    ("chat", "Give me five tips for learning to cook at home, with one sentence for each."),
    ("arithmetic", "What is 17 * 23? Show the steps."),
    ("arithmetic", "A train travels 180 km in 2.5 hours. What is its speed? Explain each step."),
    ("translation", "Translate to French: The train leaves at noon and I am late."),
    (
        "translation",
        "Translate to German: We would like to book a table for four on Friday evening.",
    ),
];

/// The three ways of sampling.
pub const SAMPLINGS: [(&str, Sampling); 3] = [
    ("T=0", Sampling::GREEDY),
    ("T=0.7 k=20 p=0.8", Sampling { temperature: 0.7, top_k: 20, top_p: 0.8, ..Sampling::GREEDY }),
    ("T=1", Sampling { temperature: 1.0, ..Sampling::GREEDY }),
];

/// Tokens of the vocabulary of both models, for the size of a whole distribution on the wire.
pub const VOCAB: usize = 151_936;

/// One place of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The verifier's token.
    pub token: u32,
    /// `min(1, q/p)` of that token: the chance that it came from an accepted draft (DSSD, DSD).
    pub coupled: f32,
    /// `Σ min(p, q)`: the acceptance rate here.
    pub alpha: f32,
    /// The drafter's best token is the verifier's draw.
    pub greedy: bool,
    /// The drafter's best token is not, but its second is.
    #[serde(default)]
    pub second: bool,
    /// With the same noise the drafter draws it too.
    pub gumbel: bool,
    /// Tokens with a probability above 0, of p and of q.
    pub support: [u32; 2],
    /// The drafter's highest probability before processing.
    pub confidence: f32,
}

/// One answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trace {
    /// `code`, `chat`, `arithmetic`, `translation`.
    pub kind: String,
    /// One of [`SAMPLINGS`].
    pub sampling: String,
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// The answer.
    pub places: Vec<Place>,
}

/// Writes an answer to every prompt with each sampling, or takes them from `file` if it is there.
///
/// # Errors
/// If a model cannot be loaded or fails, or `file` holds something else.
pub fn all(
    (drafter, verifier): (&Path, &Path),
    samplings: &[(&str, Sampling)],
    tokens: usize,
    file: Option<&Path>,
) -> Result<Vec<Trace>> {
    if let Some(file) = file.filter(|file| file.exists()) {
        let text = std::fs::read(file)?;
        return serde_json::from_slice(&text).with_context(|| format!("{}", file.display()));
    }
    let (drafter, verifier) = (super::load(drafter)?, super::load(verifier)?);
    let mut all = Vec::new();
    for &sampling in samplings {
        for (i, prompt) in PROMPTS.into_iter().enumerate() {
            eprint!("\rwriting answers: {}, {} of {}   ", sampling.0, i + 1, PROMPTS.len());
            all.push(record(&drafter, &verifier, prompt, sampling, tokens)?);
        }
    }
    eprintln!();
    if let Some(file) = file {
        facts::write_json(file, &all)?;
    }
    Ok(all)
}

/// Writes one answer of at most `tokens` tokens.
///
/// # Errors
/// If a model fails.
fn record(
    drafter: &Model,
    verifier: &Model,
    (kind, prompt): (&str, &str),
    (name, sampling): (&str, Sampling),
    tokens: usize,
) -> Result<Trace> {
    let question = ChatMessage { role: Role::User, content: prompt.into() };
    let mut text = verifier.tokenizer().encode_chat(&[question])?;
    let (start, random) = (text.len(), Randomness::new(1));
    let mut cache = verifier.new_cache(start + tokens + 1)?;
    let mut rows = Vec::new();
    let mut new = text.clone();
    while rows.len() < tokens {
        let segment = Segment { cache: &mut cache, tokens: &new, logits: Wanted::Last };
        let mut logits = verifier.forward(&mut [segment])?;
        let p = process(logits.row_mut(0), &sampling, &text)?;
        // With the noise of the place, so that Gumbel coupling can be looked at.
        let token = gumbel_draw(&p, &random, text.len() as u32);
        rows.push(p);
        text.push(token);
        if verifier.tokenizer().is_end(token) {
            break;
        }
        new = vec![token];
    }
    let mut cache = drafter.new_cache(text.len())?;
    let read = |cache: &mut _, tokens: &[TokenId], logits| {
        drafter.forward(&mut [Segment { cache, tokens, logits }])
    };
    read(&mut cache, &text[..start - 1], Wanted::None)?;
    let mut logits = read(&mut cache, &text[start - 1..text.len() - 1], Wanted::All)?;
    let places = rows
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let at = start + i;
            let sure = confidence(logits.row(i));
            let best = two_best(logits.row(i));
            let q = process(logits.row_mut(i), &sampling, &text[..at])?;
            Ok(place(p, &q, text[at], at as u32, (sure, best), &random))
        })
        .collect::<Result<_>>()?;
    let prompt = text[..start].iter().map(|t| t.0).collect();
    Ok(Trace { kind: kind.into(), sampling: name.into(), prompt, places })
}

fn place(
    p: &Distribution,
    q: &Distribution,
    token: TokenId,
    at: u32,
    (confidence, best): (f32, [TokenId; 2]),
    random: &Randomness,
) -> Place {
    Place {
        token: token.0,
        coupled: (q.probability(token) / p.probability(token)).min(1.0),
        alpha: q.support().map(|(id, q)| q.min(p.probability(id))).sum(),
        greedy: best[0] == token,
        second: best[1] == token,
        gumbel: gumbel_draw(q, random, at) == token,
        support: [p.support().count() as u32, q.support().count() as u32],
        confidence,
    }
}
