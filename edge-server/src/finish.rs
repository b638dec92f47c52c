//! The end of a round: from logits to a verdict. Everything that can fail is done before anything is
//! changed, so that a session is sound whatever comes of it.

use crate::colocated::Drafting;
use crate::job::{Finished, Job, row_after, row_at};
use crate::pass::Rows;
use crate::session::{Last, Refusal, Session, micros};
use std::time::Instant;
use tandem_inference::Model;
use tandem_protocol::{ErrorCode, ServerMessage, Verdict, Written, encode_server};
use tandem_speculation::{
    Alternative, Correction, Distribution, TokenId, dsd_verify, follow, process, verify,
};

/// When a round came and was begun.
#[derive(Clone, Copy)]
pub(crate) struct Timing {
    pub queued_us: u32,
    pub start: Instant,
}

/// What the logits say of a round.
struct Decided {
    accepted: usize,
    correction: Correction,
    /// The alternative at the rejected place and the token after it.
    follows: Option<[TokenId; 2]>,
    /// `p` at the rejected place.
    rejected: Option<Distribution>,
}

fn internal(problem: impl ToString) -> Refusal {
    (ErrorCode::Internal, problem.to_string())
}

impl Session {
    /// Finishes the next round, whose logits are `rows`, in the order of [`Session::round_rows`].
    ///
    /// # Errors
    /// If the logits are broken; the session is then as before the round, without the rounds that wait.
    pub(crate) fn finish_round(
        &mut self,
        model: &Model,
        timing: Timing,
        rows: &mut Rows<'_>,
    ) -> Result<Finished, Refusal> {
        let done = match self.jobs.pop_front() {
            Some(Job::Stream { round, left, draft: Some(draft), .. }) => {
                self.finish_written(model, timing, (round, left, draft), rows)
            }
            Some(job) => self.finish_verdict(model, timing, &job, rows),
            None => Err(internal("no round was waiting")),
        };
        if done.is_err() {
            self.drop_jobs();
            self.keep(self.tokens.len().saturating_sub(1));
        }
        self.last_used = Instant::now();
        done
    }

    fn decide(
        &self,
        job: &Job,
        (ids, q, open): (&[TokenId], &[f32], bool),
        rows: &mut Rows<'_>,
    ) -> Result<Decided, Refusal> {
        let alternatives = job.alternatives();
        let prefix = self.tokens.len();
        let mut history = self.tokens.clone();
        history.extend_from_slice(ids);
        let mut rejected = None;
        let row = |i: usize| {
            let p =
                process(rows.row(row_at(alternatives, i)), &self.sampling, &history[..prefix + i])?;
            rejected = Some(p.clone());
            Ok(p)
        };
        let verdict =
            verify(ids, q, open, row, &self.randomness, prefix as u32).map_err(internal)?;
        let text = &history[..prefix + verdict.accepted];
        let follows = self.follow(&verdict, text, alternatives, rows)?;
        let rejected = rejected.filter(|_| matches!(verdict.correction, Correction::Sampled(_)));
        Ok(Decided {
            accepted: verdict.accepted,
            correction: verdict.correction,
            follows,
            rejected,
        })
    }

    fn finish_verdict(
        &mut self,
        model: &Model,
        timing: Timing,
        job: &Job,
        rows: &mut Rows<'_>,
    ) -> Result<Finished, Refusal> {
        let (round, requested, ids, q, open) = match job {
            Job::Draft { round, requested, ids, q, open, .. } => {
                (*round, *requested, ids.as_slice(), q.as_slice(), *open)
            }
            Job::Stream { round, requested, .. } => (*round, *requested, &[][..], &[][..], false),
        };
        let Decided { accepted, correction, follows, rejected } =
            self.decide(job, (ids, q, open), rows)?;

        let prefix = self.tokens.len();
        // Rows of rejected drafts are forgotten; everything that stays was computed from the text.
        self.keep(prefix + accepted);
        self.tokens.extend_from_slice(&ids[..accepted]);
        match correction {
            Correction::Bonus(token) | Correction::Token(token) => {
                self.tokens.push(token);
                self.tokens.extend(follows.map(|[_, next]| next));
            }
            Correction::Continue => {}
            _ => (self.awaits_residual, self.follows) = (true, follows),
        }
        if correction != Correction::Continue {
            self.branch = self.branch.saturating_add(1);
            self.jobs.clear();
        }
        let end = self.tokens.last().is_some_and(|t| model.tokenizer().is_end(*t));
        let full = self.tokens.len() + 1 > self.context;
        self.expects = matches!(job, Job::Draft { .. }) && !full && (self.awaits_residual || !end);
        if let Job::Stream { left, .. } = job
            && *left > 1
            && !end
            && !full
        {
            // A request of its own that nobody has to send.
            self.jobs.push_back(Job::Stream {
                round: round.saturating_add(1),
                requested: self.tokens.len() as u32,
                left: left - 1,
                arrived: Instant::now(),
                draft: None,
            });
        }
        let message = Verdict {
            generation: self.generation,
            round,
            prefix_len: prefix as u32,
            accepted: accepted as u8,
            correction,
            next: follows.map(|[_, next]| next),
            queued_us: timing.queued_us,
            verify_us: micros(timing.start),
        };
        let bytes = encode_server(&ServerMessage::Verdict(message));
        self.last = Some(Last {
            round,
            requested,
            prefix_len: prefix as u32,
            accepted: accepted as u8,
            bytes: bytes.clone(),
            rejected,
        });
        let tokens = self.tokens.len() - prefix;
        Ok(Finished { bytes, drafted: ids.len(), accepted, tokens, own: None })
    }

    /// The alternative at the rejected place and the token after it, if there is one and it may be
    /// the correction; `text` ends before the place.
    fn follow(
        &self,
        verdict: &tandem_speculation::Verdict,
        text: &[TokenId],
        alternatives: &[Alternative],
        rows: &mut Rows<'_>,
    ) -> Result<Option<[TokenId; 2]>, Refusal> {
        let found = alternatives.iter().position(|a| usize::from(a.at) == verdict.accepted);
        let Some(n) = found else { return Ok(None) };
        let (id, at) = (alternatives[n].id, text.len() as u32);
        let p = || {
            let text = [text, &[id]].concat();
            process(rows.row(row_after(alternatives, n)), &self.sampling, &text)
        };
        follow(&verdict.correction, id, p, &self.randomness, at)
            .map(|next| next.map(|next| [id, next]))
            .map_err(internal)
    }

    /// Finishes a round of a stream that the edge drafted for.
    fn finish_written(
        &mut self,
        model: &Model,
        timing: Timing,
        (round, left, drafting): (u32, u32, Box<Drafting>),
        rows: &mut Rows<'_>,
    ) -> Result<Finished, Refusal> {
        let prefix = self.tokens.len();
        let mut text = self.tokens.clone();
        text.extend_from_slice(&drafting.ids);
        let p = (0..=drafting.ids.len())
            .map(|i| {
                let logits = rows.row(row_at(&drafting.alternatives, i));
                process(logits, &self.sampling, &text[..prefix + i])
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(internal)?;
        let verdict = dsd_verify(&drafting.ids, &drafting.q, &p, &self.randomness, prefix as u32);
        let accepted = verdict.accepted;
        text.truncate(prefix + accepted);
        let (Correction::Bonus(token) | Correction::Token(token)) = verdict.correction else {
            return Err(internal("a round of the edge's own ends with a token"));
        };
        let follows = self.follow(&verdict, &text, &drafting.alternatives, rows)?;
        text.push(token);
        text.extend(follows.map(|[_, next]| next));
        let is_end = |t: &TokenId| model.tokenizer().is_end(*t);
        // Nothing follows an end token.
        let end = text[prefix..].iter().position(is_end);
        text.truncate(end.map_or(text.len(), |end| prefix + end + 1));
        self.keep((prefix + accepted).min(text.len() - 1));
        self.tokens = text;
        self.branch = self.branch.saturating_add(1);
        self.expects = false;
        let new = self.tokens[prefix..].to_vec();
        let left = left.saturating_sub(new.len() as u32);
        if left > 0 && end.is_none() && self.tokens.len() < self.context {
            self.jobs.push_back(Job::Stream {
                round: round.saturating_add(1),
                requested: self.tokens.len() as u32,
                left,
                arrived: Instant::now(),
                draft: Some(Box::default()),
            });
        }
        let bytes = encode_server(&ServerMessage::Written(Written {
            generation: self.generation,
            round,
            prefix_len: prefix as u32,
            tokens: new,
            drafted: drafting.ids.len() as u8,
            accepted: accepted.min(self.tokens.len() - prefix) as u8,
            alternatives: drafting.alternatives.len() as u8,
            draft_us: (drafting.ms() * 1e3) as u32,
            queued_us: timing.queued_us,
            verify_us: micros(timing.start),
        }));
        self.last = Some(Last {
            round,
            requested: prefix as u32,
            prefix_len: prefix as u32,
            accepted: accepted as u8,
            bytes: bytes.clone(),
            rejected: None,
        });
        let drafted = drafting.ids.len();
        let tokens = self.tokens.len() - prefix;
        Ok(Finished { bytes, drafted, accepted, tokens, own: Some(drafting) })
    }
}
