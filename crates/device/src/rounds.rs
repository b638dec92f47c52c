//! The rounds that need the edge.

use crate::drafter::Drafted;
use crate::generate::{Broken, Event, GenerateError, Run};
use crate::link::{Incoming, LinkState};
use crate::record::RoundRecord;
use std::time::{Duration, Instant};
use tandem_protocol::{
    ClientMessage, Draft, ErrorCode, More, ServerMessage, Stream, Verdict, Written,
};
use tandem_speculation::{
    Correction, MORE_SAMPLES, Resolution, Resolver, RoundTimes, TokenId, alternative_at,
};

/// A round without a sign of life is waited for so long at least and at most.
const SHORTEST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// How long a link takes to leave its connection.
const RECONNECT: Duration = Duration::from_secs(1);

/// A verdict and what it took.
pub(crate) struct Received {
    pub verdict: Verdict,
    pub bytes: usize,
    pub at: Instant,
}

/// What the edge answers to a round.
enum Reply {
    Verdict(Verdict),
    Written(Written),
}

/// How many tokens behind the accepted ones the edge knows: it drew what ends the round.
pub(crate) fn edges_own(record: &RoundRecord) -> usize {
    if matches!(record.outcome, "bonus" | "token") { 1 + record.followed as usize } else { 0 }
}

pub(crate) fn impossible(text: impl Into<String>) -> Broken {
    Broken::Fatal(GenerateError::Edge(text.into()))
}

pub(crate) fn ms(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3
}

impl<F: FnMut(Event)> Run<'_, F> {
    /// One round of DSSD: draft, send, receive, resolve.
    pub(crate) async fn speculate(&mut self, epoch: u32) -> Result<(), Broken> {
        let started_at = crate::now_ms();
        // The last token needs no draft: a round gives one more than it drafts.
        let left = self.left();
        let room = self.context - self.tokens.len();
        let stop = self.draft_stop().at_most((left - 1).min(room - 1));
        let gamma = stop.most();
        let drafted = match self.pending.pop_front() {
            // Sent before the connection was lost: its verdict may already be decided.
            Some(drafted) => drafted,
            None if gamma == 0 => Drafted::default(),
            None => match self.look_up(gamma) {
                Some(drafted) => drafted,
                None => self.draft(stop).await?,
            },
        };
        let prefix = self.tokens.len();
        let result = self.verify(epoch, &drafted).await;
        let (mut record, new) = match result {
            Ok(done) => done,
            Err(broken) => {
                self.pending.push_front(drafted);
                return Err(broken);
            }
        };
        record.gamma = self.wanted(drafted.ids.len());
        record.draft_ms = drafted.ms;
        if drafted.looked_up.is_some() {
            record.scheme = "lookup";
        }
        record.started_at = started_at;
        let accepted = record.accepted as usize;
        self.edge_known = prefix + accepted + edges_own(&record);
        let times = RoundTimes {
            draft_ms: drafted.ms,
            // The first round also waits for the prompt, which is no cost of drafting.
            round_trip_ms: record.rtt_ms - if self.round == 0 { record.queue_ms } else { 0.0 },
            verify_ms: record.verify_ms,
        };
        self.learn(&drafted, accepted, times, new.len());
        self.commit(record, &new)?;
        Ok(())
    }

    /// Sends a draft and finishes its round: the record, and the tokens that it gives.
    async fn verify(
        &mut self,
        epoch: u32,
        drafted: &Drafted,
    ) -> Result<(RoundRecord, Vec<TokenId>), Broken> {
        let Some(channel) = self.channel.as_ref() else { return Err(Broken::Lost) };
        let (generation, link) = (channel.generation, channel.link().clone());
        let message = ClientMessage::Draft(Draft {
            generation,
            round: self.round,
            prefix_len: self.edge_known as u32,
            committed: self.tokens[self.edge_known..].to_vec(),
            ids: drafted.ids.clone(),
            q: drafted.scalars(),
            alternatives: drafted.alternatives.clone(),
            branch: self.branch,
            open: false,
        });
        let sent = Instant::now();
        let uplink = link.send(epoch, &message);
        self.waiting_since = sent;
        let first = self.verdict().await?;
        self.resolve(epoch, drafted, first, sent, uplink).await
    }

    /// Finishes a round whose verdict brings a token.
    pub(crate) async fn resolve(
        &mut self,
        epoch: u32,
        drafted: &Drafted,
        first: Received,
        sent: Instant,
        mut uplink: usize,
    ) -> Result<(RoundRecord, Vec<TokenId>), Broken> {
        let Some(channel) = self.channel.as_ref() else { return Err(Broken::Lost) };
        let (generation, link) = (channel.generation, channel.link().clone());
        let (mut downlink, arrived) = (first.bytes, first.at);
        let rtt_ms = ms(sent, arrived);
        let accepted = usize::from(first.verdict.accepted);
        if accepted > drafted.ids.len() {
            return Err(impossible("it accepted more than was drafted"));
        }
        let q = drafted.q.get(accepted);
        let randomness = self.randomness.clone();
        let vocab = self.drafter.info().vocab;
        let at = (self.tokens.len() + accepted) as u32;
        let mut resolver = Resolver::new(q, &randomness, at, vocab);
        let mut correction = first.verdict.correction;
        let mut asked = 0;
        let (token, outcome) = loop {
            let outcome = correction.outcome();
            match resolver.resolve(correction).map_err(|e| impossible(e.to_string()))? {
                Resolution::Token(token) => break (token, outcome),
                Resolution::NeedMore => {}
            }
            asked += 1;
            let more = More { generation, round: self.round, asked };
            let sent = Instant::now();
            uplink += link.send(epoch, &ClientMessage::More(more));
            self.waiting_since = sent;
            // A copy of an earlier answer to this round is not the next one. (To take samples twice would
            // be to redraw with the same numbers.) Only the first request is answered by samples, and by
            // more than a verdict has.
            let next = loop {
                let next = self.verdict().await?;
                match &next.verdict.correction {
                    Correction::Sampled(samples) if asked > 1 || samples.len() != MORE_SAMPLES => {}
                    _ => break next,
                }
            };
            tracing::trace!("more samples took {} ms", ms(sent, next.at));
            downlink += next.bytes;
            let fits = matches!(next.verdict.correction, Correction::Sampled(_) if asked < 2)
                || matches!(next.verdict.correction, Correction::Full(_));
            if asked > 2 || !fits || usize::from(next.verdict.accepted) != accepted {
                return Err(impossible(
                    "it answered a request for more samples with something else",
                ));
            }
            correction = next.verdict.correction;
        };
        let mut new = drafted.ids[..accepted].to_vec();
        new.push(token);
        // It is about a text that ends with the alternative: for any other it says nothing.
        let right = alternative_at(&drafted.alternatives, accepted) == Some(token);
        if right {
            let next = first.verdict.next.filter(|next| next.index() < vocab);
            new.push(next.ok_or_else(|| impossible("it left out what follows an alternative"))?);
        }
        let tested = accepted + usize::from(accepted < drafted.ids.len());
        let record = RoundRecord {
            drafted: drafted.ids.len() as u32,
            accepted: accepted as u32,
            ignored: (drafted.ids.len() - tested) as u32,
            alternatives: drafted.alternatives.len() as u32,
            followed: u32::from(right),
            rtt_ms,
            queue_ms: f64::from(first.verdict.queued_us) / 1e3,
            verify_ms: f64::from(first.verdict.verify_us) / 1e3,
            residual_ms: ms(arrived, Instant::now()),
            uplink_bytes: uplink as u64,
            downlink_bytes: downlink as u64,
            ..self.record("dssd", "dssd", outcome.as_str(), 0)
        };
        Ok((record, new))
    }

    /// Tokens that the edge writes alone, as many as are left or until another way should be faster;
    /// with drafts of its own where it has a drafter and `drafts` asks for it.
    pub(crate) async fn stream(&mut self, epoch: u32, drafts: bool) -> Result<(), Broken> {
        let Some(channel) = self.channel.as_ref() else { return Err(Broken::Lost) };
        let left = self.left();
        let room = self.context - self.tokens.len();
        let mut expected = left.min(room);
        let message = ClientMessage::Stream(Stream {
            generation: channel.generation,
            round: self.round,
            prefix_len: self.edge_known as u32,
            committed: self.tokens[self.edge_known..].to_vec(),
            max_tokens: expected as u32,
            drafts,
        });
        let mut since = Instant::now();
        let mut uplink = channel.link().send(epoch, &message);
        self.waiting_since = since;
        let vocab = self.drafter.info().vocab;
        while expected > 0 {
            let started_at = crate::now_ms();
            let (reply, bytes, at) = self.reply().await?;
            let (mut record, tokens) = match reply {
                Reply::Verdict(verdict) => match verdict.correction {
                    Correction::Bonus(token) if verdict.accepted == 0 => {
                        let record = RoundRecord {
                            queue_ms: f64::from(verdict.queued_us) / 1e3,
                            verify_ms: f64::from(verdict.verify_us) / 1e3,
                            ..self.record("edge", "stream", "bonus", started_at)
                        };
                        (record, vec![token])
                    }
                    _ => return Err(impossible("a stream has one token a round")),
                },
                Reply::Written(written) => (self.written(&written, started_at), written.tokens),
            };
            if tokens.iter().any(|t| t.index() >= vocab) || tokens.len() > expected {
                return Err(impossible(
                    "a stream has tokens of the vocabulary, as many as asked for",
                ));
            }
            record.rtt_ms = ms(since, at);
            record.uplink_bytes = std::mem::take(&mut uplink) as u64;
            record.downlink_bytes = bytes as u64;
            since = at;
            expected -= tokens.len();
            if drafts {
                self.learn_written(record.drafted as usize, record.accepted as usize, tokens.len());
            } else {
                self.learn_plain();
            }
            self.commit(record, &tokens)?;
            self.edge_known = self.tokens.len();
            if self.finished().is_some() {
                break;
            }
            if expected > 0 && self.choose_way() {
                self.leave_stream();
                break;
            }
        }
        Ok(())
    }

    /// The record of a round of which the edge did all.
    fn written(&self, written: &Written, started_at: i64) -> RoundRecord {
        let drafted = u32::from(written.drafted);
        let (accepted, tokens) = (u32::from(written.accepted), written.tokens.len() as u32);
        RoundRecord {
            gamma: drafted,
            drafted,
            accepted,
            ignored: drafted - (accepted + 1).min(drafted),
            alternatives: u32::from(written.alternatives),
            followed: u32::from(tokens > accepted + 1),
            draft_ms: f64::from(written.draft_us) / 1e3,
            queue_ms: f64::from(written.queued_us) / 1e3,
            verify_ms: f64::from(written.verify_us) / 1e3,
            ..self.record("edge", "colocated", "bonus", started_at)
        }
    }

    /// The verdict of the present round.
    pub(crate) async fn verdict(&mut self) -> Result<Received, Broken> {
        match self.reply().await? {
            (Reply::Verdict(verdict), bytes, at) => Ok(Received { verdict, bytes, at }),
            (Reply::Written(_), ..) => Err(impossible("it writes although nobody asked for that")),
        }
    }

    /// How long the edge may say nothing of what it was asked for: far longer than it ever took, and than
    /// a lost edge would be waited for. The prompt's first part has no measure yet.
    fn allowed(&self) -> Duration {
        let times = if self.round == 0 { 8 } else { 4 };
        let patience = self.request.patience.saturating_mul(times);
        patience.max(self.longest.saturating_mul(10)).clamp(SHORTEST_WAIT, LONGEST_WAIT)
    }

    /// The link carries pings and not this round: it is taken for dead, and connected anew.
    async fn unanswered<T>(&mut self) -> Result<T, Broken> {
        let Some(channel) = self.channel.as_ref() else { return Err(Broken::Lost) };
        tracing::warn!("round {} has no answer; connecting anew", self.round);
        let (link, epoch) = (channel.link().clone(), self.opened);
        link.reconnect();
        let mut state = link.state();
        let gone = state.wait_for(
            |s| !matches!(s, LinkState::Connected { epoch: now, .. } if Some(*now) == epoch),
        );
        let _ = tokio::time::timeout(RECONNECT, gone).await;
        Err(Broken::Lost)
    }

    /// What the edge says of the present round.
    async fn reply(&mut self) -> Result<(Reply, usize, Instant), Broken> {
        let before = self.tokens.len() as u32;
        loop {
            let deadline = tokio::time::Instant::from_std(self.waiting_since) + self.allowed();
            let Some(channel) = self.channel.as_mut() else { return Err(Broken::Lost) };
            let incoming = tokio::select! {
                () = self.cancel.cancelled() => return Err(Broken::Cancelled),
                incoming = channel.next() => incoming,
                () = tokio::time::sleep_until(deadline) => return self.unanswered().await,
            };
            // Whatever it says of this answer, that it reads the prompt or has no room yet: it works on it.
            self.longest = self.longest.max(self.waiting_since.elapsed());
            self.waiting_since = Instant::now();
            match incoming {
                Incoming::Lost => return Err(Broken::Lost),
                Incoming::Message { message: ServerMessage::Prefill(p), .. } => {
                    if self.round == 0 {
                        (self.on)(Event::Prefill { done: p.done, total: p.total });
                    }
                }
                Incoming::Message { message: ServerMessage::Waiting(waiting), .. } => {
                    // Not every step of a long queue is worth a line.
                    if self.place.is_none_or(|told| waiting.place <= told / 2) {
                        self.place = Some(waiting.place);
                        let text = format!(
                            "the edge is full; this answer waits for its turn (place {})",
                            waiting.place
                        );
                        (self.on)(Event::Notice { warning: false, text });
                    }
                }
                Incoming::Message { message: ServerMessage::Verdict(verdict), bytes, at } => {
                    // Bound to its round: a late answer to an older request is not for us.
                    if verdict.round == self.round && verdict.prefix_len == before {
                        return Ok((Reply::Verdict(verdict), bytes, at));
                    }
                    if verdict.round > self.round {
                        // The one before it was lost on the way.
                        return self.unanswered().await;
                    }
                    if verdict.round == self.round {
                        return Err(impossible("its verdict is about another text"));
                    }
                }
                Incoming::Message { message: ServerMessage::Written(written), bytes, at } => {
                    if written.round == self.round && written.prefix_len == before {
                        return Ok((Reply::Written(written), bytes, at));
                    }
                    if written.round > self.round {
                        return self.unanswered().await;
                    }
                    if written.round == self.round {
                        return Err(impossible("what it writes is about another text"));
                    }
                }
                Incoming::Message { message: ServerMessage::Error(failure), .. } => {
                    if failure.code == ErrorCode::ShuttingDown {
                        // The connection closes in a moment, and then the edge is waited for.
                        continue;
                    }
                    return Err(match failure.code {
                        ErrorCode::State => {
                            tracing::debug!("the edge wants a new start: {}", failure.message);
                            Broken::Lost
                        }
                        ErrorCode::Busy | ErrorCode::Internal => Broken::Away(failure.message),
                        _ => impossible(failure.message),
                    });
                }
                Incoming::Message { .. } => {}
            }
        }
    }
}
