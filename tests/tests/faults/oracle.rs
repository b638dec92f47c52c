//! What an answer must be, from the two models and the random numbers alone: no link, no cache that is
//! rolled back, no thread, no store.

use std::sync::Arc;
use tandem_device::{Ahead, Gamma, Mode, Request, RoundRecord};
use tandem_inference::{KvCache, Logits, Model, Segment, Wanted};
use tandem_speculation::{
    Alternative, Correction, Distribution, Outcome, Purpose, Randomness, Resolution, Resolver,
    Sampling, TokenId, dsd_verify, lookup, more, process, two_best, verify,
};

/// A model that reads a text from left to right, and again from where it became another.
struct Reader {
    model: Arc<Model>,
    cache: KvCache,
    read: Vec<TokenId>,
}

impl Reader {
    fn new(model: &Arc<Model>) -> Self {
        let cache = model.new_cache(CONTEXT).expect("a cache");
        Self { model: Arc::clone(model), cache, read: Vec::new() }
    }

    /// The distribution of what follows `text`.
    fn after(&mut self, text: &[TokenId], sampling: &Sampling) -> Distribution {
        process(self.logits(text).row_mut(0), sampling, text).expect("a distribution")
    }

    fn logits(&mut self, text: &[TokenId]) -> Logits {
        let same = self.read.iter().zip(text).take_while(|(a, b)| a == b).count();
        let keep = same.min(text.len() - 1);
        self.cache.truncate(keep);
        self.read.truncate(keep);
        let tokens = &text[keep..];
        let logits = Wanted::Last;
        let mut segments = [Segment { cache: &mut self.cache, tokens, logits }];
        let logits = self.model.forward(&mut segments).expect("logits");
        self.read.extend_from_slice(tokens);
        logits
    }
}

/// Tokens of a conversation at most, here and on the edge.
pub const CONTEXT: usize = 512;

/// Follows one answer.
pub struct Oracle {
    verifier: Reader,
    drafter: Reader,
    request: Request,
    randomness: Randomness,
    /// Prompt and answer so far.
    text: Vec<TokenId>,
    /// Rounds that brought a token which was not drafted.
    branch: u32,
    /// The whole answer where timing has no part in it.
    whole: Option<Vec<TokenId>>,
    alone: bool,
}

impl Oracle {
    pub fn new(models: &[Arc<Model>; 2], request: &Request) -> Self {
        let mut oracle = Self {
            verifier: Reader::new(&models[0]),
            drafter: Reader::new(&models[1]),
            randomness: Randomness::new(request.seed),
            text: request.prompt.clone(),
            request: request.clone(),
            branch: 0,
            whole: None,
            alone: false,
        };
        oracle.whole = oracle.undisturbed();
        oracle.text.truncate(request.prompt.len());
        oracle.branch = 0;
        oracle
    }

    /// Whether the text is the large model's alone, whatever was drafted.
    fn greedy(&self) -> bool {
        self.request.sampling.temperature == 0.0
    }

    /// The answer of a run in which nothing happens. How many tokens the planner drafts, and who for,
    /// depends on times: then only the greedy text is known before.
    fn undisturbed(&mut self) -> Option<Vec<TokenId>> {
        let greedy = self.greedy();
        while !self.finished() {
            let left = self.left();
            let new = match (self.request.mode, self.request.gamma, self.request.ahead) {
                _ if greedy => vec![self.plain()],
                (Mode::Edge, ..) => vec![self.plain()],
                (Mode::Dssd, Gamma::Fixed(n), Ahead::No) => {
                    let (ids, q) = self.draft(n.min(left - 1));
                    self.round(&ids, &q, false).1
                }
                (Mode::Dssd, Gamma::Fixed(n), Ahead::Yes) => {
                    let (ids, q) = self.draft(n.min(left));
                    self.round(&ids, &q, true).1
                }
                _ => return None,
            };
            self.append(&new);
        }
        Some(self.text[self.request.prompt.len()..].to_vec())
    }

    fn left(&self) -> usize {
        self.request.prompt.len() + self.request.max_tokens - self.text.len()
    }

    fn finished(&self) -> bool {
        let answer = &self.text[self.request.prompt.len()..];
        let ended = answer.last().is_some_and(|t| self.verifier.model.tokenizer().is_end(*t));
        ended || answer.len() >= self.request.max_tokens
    }

    /// Takes tokens until the answer is finished; returns those.
    fn append(&mut self, new: &[TokenId]) -> Vec<TokenId> {
        let before = self.text.len();
        for id in new {
            if self.finished() {
                break;
            }
            self.text.push(*id);
        }
        self.text[before..].to_vec()
    }

    /// A plain token of the edge.
    fn plain(&mut self) -> TokenId {
        let u = self.randomness.uniform(Purpose::Bonus, self.text.len() as u32, 0);
        self.verifier.after(&self.text, &self.request.sampling).sample(u)
    }

    /// Up to `most` tokens of the drafter.
    fn draft(&mut self, most: usize) -> (Vec<TokenId>, Vec<Distribution>) {
        let (mut ids, mut all) = (Vec::new(), Vec::new());
        let mut text = self.text.clone();
        while ids.len() < most {
            let q = self.drafter.after(&text, &self.request.sampling);
            let u = self.randomness.uniform(Purpose::Draft, text.len() as u32, self.branch);
            let id = q.sample(u);
            text.push(id);
            ids.push(id);
            all.push(q);
            if self.verifier.model.tokenizer().is_end(id) {
                break;
            }
        }
        (ids, all)
    }

    /// What follows where the text stood before, with no other token possible.
    fn looked_up(&self, most: usize) -> Result<(Vec<TokenId>, Vec<Distribution>), String> {
        if most == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        let found = lookup(&self.text, most).ok_or("a draft was looked up where nothing is")?;
        let q = found.ids.iter().map(|id| Distribution::Point(*id)).collect();
        Ok((found.ids, q))
    }

    /// A round of distributed speculation: its outcome, its tokens, and how many were accepted.
    fn round(
        &mut self,
        ids: &[TokenId],
        q: &[Distribution],
        open: bool,
    ) -> (Outcome, Vec<TokenId>, usize) {
        let scalars: Vec<f32> = ids.iter().zip(q).map(|(id, q)| q.probability(*id)).collect();
        let text: Vec<TokenId> = self.text.iter().chain(ids).copied().collect();
        let (prefix, sampling) = (self.text.len(), self.request.sampling);
        let mut last = None;
        let row = |i| {
            let p = self.verifier.after(&text[..prefix + i], &sampling);
            last = Some(p.clone());
            Ok(p)
        };
        let verdict = verify(ids, &scalars, open, row, &self.randomness, prefix as u32);
        let verdict = verdict.expect("a verdict");
        let accepted = verdict.accepted;
        let mut new = ids[..accepted].to_vec();
        let mut correction = verdict.correction;
        let mut outcome = correction.outcome();
        if outcome != Outcome::Continue {
            self.branch += 1;
            let vocab = self.verifier.model.info().vocab;
            let at = (prefix + accepted) as u32;
            let mut resolver = Resolver::new(q.get(accepted), &self.randomness, at, vocab);
            let mut asked = 0;
            let token = loop {
                match resolver.resolve(correction).expect("a correction that fits") {
                    Resolution::Token(token) => break token,
                    Resolution::NeedMore => asked += 1,
                }
                let p = last.as_ref().expect("a rejected row");
                correction = more(p, &self.randomness, at, asked, vocab);
                outcome = correction.outcome();
            };
            new.push(token);
        }
        (outcome, new, accepted)
    }

    /// Adds what follows the correction at the end of `new`, which must be the alternative of the
    /// rejected token `drafted`.
    fn follow(&mut self, mut new: Vec<TokenId>, drafted: TokenId) -> Result<Vec<TokenId>, String> {
        let mut text: Vec<TokenId> = self.text.iter().chain(&new).copied().collect();
        let Some(correction) = text.pop() else { return Err("nothing was corrected".into()) };
        let best = two_best(self.drafter.logits(&text).row(0));
        let wanted = Alternative::beside(drafted, 0, best).id;
        if correction != wanted {
            return Err(format!("{correction} counts as the alternative {wanted}"));
        }
        text.push(correction);
        let u = self.randomness.uniform(Purpose::Follow, text.len() as u32, 0);
        new.push(self.verifier.after(&text, &self.request.sampling).sample(u));
        Ok(new)
    }

    /// Checks a round of the device as it comes.
    pub fn check(&mut self, record: &RoundRecord, tokens: &[TokenId]) -> Result<(), String> {
        if tokens.is_empty() {
            return Err(format!("round {} has no tokens", record.round));
        }
        self.alone |= record.mode == "device";
        let at = self.text.len() - self.request.prompt.len();
        if let Some(whole) = self.whole.as_ref().filter(|_| !self.alone)
            && whole.get(at..at + tokens.len()) != Some(tokens)
        {
            return Err(format!(
                "tokens {at} to {} are {tokens:?}, undisturbed they are {:?}: {record:?}",
                at + tokens.len(),
                &whole[at.min(whole.len())..whole.len().min(at + tokens.len())]
            ));
        }
        let accepted = record.accepted as usize;
        let (new, outcome) = match (record.mode, record.scheme) {
            ("device", _) => {
                let (ids, _) = self.draft(1);
                self.branch += 1;
                (ids, Outcome::Token)
            }
            ("edge", "stream") => {
                self.branch += 1;
                (vec![self.plain()], Outcome::Bonus)
            }
            _ if self.greedy() => {
                // Whatever was drafted, and by whom: each token is the most likely one.
                for _ in 0..tokens.len() {
                    let token = self.plain();
                    self.append(&[token]);
                }
                let new = self.text.split_off(self.request.prompt.len() + at);
                // What it was drawn by plays no part.
                self.branch += u32::from(record.outcome != "continue");
                (new, outcome_of(record))
            }
            ("edge", _) => {
                let (ids, q) = self.draft(record.drafted as usize);
                let mut text = self.text.clone();
                let mut p = vec![self.verifier.after(&text, &self.request.sampling)];
                for id in &ids {
                    text.push(*id);
                    p.push(self.verifier.after(&text, &self.request.sampling));
                }
                let verdict = dsd_verify(&ids, &q, &p, &self.randomness, self.text.len() as u32);
                self.branch += 1;
                let mut new = ids[..verdict.accepted].to_vec();
                if let Correction::Bonus(token) | Correction::Token(token) = verdict.correction {
                    new.push(token);
                }
                if record.followed > 0 {
                    new = self.follow(new, ids[verdict.accepted])?;
                }
                (new, Outcome::Bonus)
            }
            _ => {
                let rejected = !matches!(record.outcome, "bonus" | "continue");
                let most = accepted + usize::from(rejected);
                let (ids, q) = match record.scheme {
                    "lookup" => self.looked_up(most)?,
                    _ => self.draft(most),
                };
                let open = record.outcome == "continue";
                let (outcome, mut new, found) = self.round(&ids, &q, open);
                if record.followed > 0 {
                    new = self.follow(new, ids[accepted])?;
                }
                if found != accepted {
                    return Err(format!("{found} drafts are to be accepted: {record:?}"));
                }
                (new, outcome)
            }
        };
        let new = self.append(&new);
        if new != tokens || outcome.as_str() != record.outcome {
            return Err(format!(
                "round {} must give {new:?} by {}: {record:?} gave {tokens:?}",
                record.round,
                outcome.as_str()
            ));
        }
        Ok(())
    }

    /// Checks that an answer that ended by itself is whole.
    pub fn check_end(&self, tokens: &[TokenId]) -> Result<(), String> {
        let text = &self.text[self.request.prompt.len()..];
        if text != tokens || !self.finished() {
            return Err(format!("an answer ends with {tokens:?}, its rounds gave {text:?}"));
        }
        Ok(())
    }
}

fn outcome_of(record: &RoundRecord) -> Outcome {
    let all = [
        Outcome::Bonus,
        Outcome::Token,
        Outcome::Sparse,
        Outcome::Sampled,
        Outcome::Full,
        Outcome::Continue,
    ];
    all.into_iter().find(|o| o.as_str() == record.outcome).unwrap_or(Outcome::Full)
}
