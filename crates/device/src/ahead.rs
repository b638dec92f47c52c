//! Drafting ahead: the device goes on drafting while verdicts are on their way.
//!
//! Drafts are *open*: each begins where the one before it ends, on the guess that all of that is
//! accepted, and there is no bonus token to guess. A right guess costs nothing; a wrong one voids the
//! drafts behind it, on both sides by the same verdict. The drafter needs no roll-back of its own,
//! as every request carries the text that it shall go on with.
//!
//! **Exactness.** Every token of the text is a drafted one that was tested once, or a correction.
//! Where the drafts are cut depends on timing and on what was drafted, but never on the token that
//! comes after the cut, which is not drawn yet; and void drafts share no random number with those
//! that take their place (`Randomness` has the proof). What a seed fixes is said in `generate.rs`.

use crate::drafter::{DraftRequest, Drafted, DrafterError};
use crate::generate::{Broken, Event, Run};
use crate::record::RoundRecord;
use crate::rounds::{Received, edges_own, impossible, ms};
use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Instant;
use tandem_protocol::{ClientMessage, Draft, MAX_IN_FLIGHT};
use tandem_speculation::{Correction, RoundTimes, TokenId};
use tokio_util::sync::CancellationToken;

/// A draft on its way.
struct Sent {
    drafted: Drafted,
    at: Instant,
    started_at: i64,
    bytes: usize,
}

/// A draft that is being made.
struct Drafting {
    work: Pin<Box<dyn Future<Output = Result<Drafted, DrafterError>> + Send>>,
    stop: CancellationToken,
    started_at: i64,
}

#[derive(Default)]
struct Flight {
    sent: VecDeque<Sent>,
    drafting: Option<Drafting>,
}

impl Flight {
    /// Tokens that are drafted and not verified.
    fn ids(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.sent.iter().flat_map(|s| s.drafted.ids.iter().copied())
    }

    /// A rejection: what was drafted behind it is void.
    fn clear(&mut self) {
        self.sent.clear();
        if let Some(drafting) = self.drafting.take() {
            drafting.stop.cancel();
        }
    }
}

impl<F: FnMut(Event)> Run<'_, F> {
    /// Rounds until the answer is finished, or until another way should be faster.
    pub(crate) async fn draft_ahead(&mut self, epoch: u32) -> Result<(), Broken> {
        let mut flight = Flight::default();
        let result = self.run_ahead(epoch, &mut flight).await;
        if let Some(drafting) = flight.drafting.take() {
            drafting.stop.cancel();
        }
        if result.is_err() {
            self.pending = flight.sent.into_iter().map(|s| s.drafted).collect();
        }
        result
    }

    async fn run_ahead(&mut self, epoch: u32, flight: &mut Flight) -> Result<(), Broken> {
        // Sent before the connection was lost: their verdicts may already be decided.
        for drafted in std::mem::take(&mut self.pending) {
            self.send(epoch, flight, drafted, crate::now_ms())?;
        }
        loop {
            if self.finished().is_some() {
                return Ok(());
            }
            let leaves = self.leaves_ahead();
            if flight.drafting.is_none() && flight.sent.len() < MAX_IN_FLIGHT && !leaves {
                flight.drafting = self.begin(flight);
            }
            if flight.drafting.is_none() && flight.sent.is_empty() {
                if leaves {
                    return Ok(());
                }
                // No room for a draft: one plain token.
                return self.speculate(epoch).await;
            }
            // What a verdict says may void the draft that is being made, so it is looked at first.
            tokio::select! {
                biased;
                received = self.verdict(), if !flight.sent.is_empty() => {
                    self.receive(epoch, flight, received?).await?;
                    // After a correction no draft is on its way.
                    let free = flight.sent.is_empty() && flight.drafting.is_none();
                    if free && self.choose_way() {
                        return Ok(());
                    }
                }
                drafted = wait(&mut flight.drafting), if flight.drafting.is_some() => {
                    let Some(made) = flight.drafting.take() else { continue };
                    self.send(epoch, flight, drafted?, made.started_at)?;
                }
            }
        }
    }

    /// Begins the next draft, if there is anything to draft.
    fn begin(&self, flight: &Flight) -> Option<Drafting> {
        let mut tokens = self.tokens.clone();
        tokens.extend(flight.ids());
        let ended = !flight.sent.is_empty()
            && tokens.last().is_some_and(|t| self.drafter.tokenizer().is_end(*t));
        let left = self.left().checked_sub(tokens.len() - self.tokens.len());
        // The edge keeps a place for one token more.
        let room = self.context.saturating_sub(tokens.len() + 1);
        let (stop, until) = match (flight.sent.back(), self.pace()) {
            // The edge is busy with the one before until then, so more tokens cost nothing.
            (Some(before), Some((pace, stop))) => (stop, Some(before.at + pace)),
            _ => (self.draft_stop(), None),
        };
        let stop = stop.at_most(left.unwrap_or(0)).at_most(room);
        if ended || stop.most() == 0 {
            return None;
        }
        if flight.sent.is_empty()
            && let Some(drafted) = self.look_up(stop.most())
        {
            let work = Box::pin(std::future::ready(Ok(drafted)));
            let stop = self.cancel.child_token();
            return Some(Drafting { work, stop, started_at: crate::now_ms() });
        }
        let request = DraftRequest {
            session: self.request.session,
            tokens,
            stop,
            until,
            sampling: self.request.sampling,
            randomness: self.randomness.clone(),
            branch: self.branch,
        };
        let (drafter, stop) = (self.drafter.clone(), self.cancel.child_token());
        let cancel = stop.clone();
        let work = Box::pin(async move { drafter.draft(request, &cancel).await });
        Some(Drafting { work, stop, started_at: crate::now_ms() })
    }

    fn send(
        &mut self,
        epoch: u32,
        flight: &mut Flight,
        drafted: Drafted,
        started_at: i64,
    ) -> Result<(), Broken> {
        let Some(channel) = self.channel.as_ref() else { return Err(Broken::Lost) };
        let first = flight.sent.is_empty();
        let (prefix_len, committed) = if first {
            (self.edge_known, self.tokens[self.edge_known..].to_vec())
        } else {
            (self.tokens.len() + flight.ids().count(), Vec::new())
        };
        let message = ClientMessage::Draft(Draft {
            generation: channel.generation,
            round: self.round + flight.sent.len() as u32,
            prefix_len: prefix_len as u32,
            committed,
            ids: drafted.ids.clone(),
            q: drafted.scalars(),
            alternatives: drafted.alternatives.clone(),
            branch: self.branch,
            open: true,
        });
        let at = Instant::now();
        let bytes = channel.link().send(epoch, &message);
        if first {
            self.waiting_since = at;
        }
        flight.sent.push_back(Sent { drafted, at, started_at, bytes });
        Ok(())
    }

    /// The verdict of the oldest draft.
    async fn receive(
        &mut self,
        epoch: u32,
        flight: &mut Flight,
        received: Received,
    ) -> Result<(), Broken> {
        let Some(front) = flight.sent.front() else {
            return Err(impossible("it answered a draft that was not sent"));
        };
        let prefix = self.tokens.len();
        let drafted = front.drafted.ids.len();
        let verdict = &received.verdict;
        let (mut record, new) = if verdict.correction == Correction::Continue {
            if usize::from(verdict.accepted) != drafted {
                return Err(impossible("it goes on after a draft that it did not accept"));
            }
            let record = RoundRecord {
                drafted: drafted as u32,
                accepted: drafted as u32,
                alternatives: front.drafted.alternatives.len() as u32,
                rtt_ms: ms(front.at, received.at),
                queue_ms: f64::from(verdict.queued_us) / 1e3,
                verify_ms: f64::from(verdict.verify_us) / 1e3,
                uplink_bytes: front.bytes as u64,
                downlink_bytes: received.bytes as u64,
                ..self.record("dssd", "ahead", "continue", 0)
            };
            (record, front.drafted.ids.clone())
        } else {
            let (mut record, new) =
                self.resolve(epoch, &front.drafted, received, front.at, front.bytes).await?;
            // Void drafts were sent for nothing: they count as drafted and never tested.
            for void in flight.sent.iter().skip(1) {
                record.drafted += void.drafted.ids.len() as u32;
                record.ignored += void.drafted.ids.len() as u32;
                record.alternatives += void.drafted.alternatives.len() as u32;
                record.uplink_bytes += void.bytes as u64;
            }
            record.scheme = "ahead";
            (record, new)
        };
        let Some(front) = flight.sent.pop_front() else { return Err(Broken::Lost) };
        if front.drafted.looked_up.is_some() {
            record.scheme = "lookup";
        }
        (record.gamma, record.draft_ms) = (self.wanted(drafted), front.drafted.ms);
        record.started_at = front.started_at;
        let accepted = record.accepted as usize;
        if record.outcome != "continue" {
            flight.clear();
        }
        self.edge_known = prefix + accepted + edges_own(&record);
        let times = RoundTimes {
            draft_ms: front.drafted.ms,
            // It waits behind the drafts before it, which is no cost of the link.
            round_trip_ms: record.rtt_ms - record.queue_ms,
            verify_ms: record.verify_ms,
        };
        self.learn(&front.drafted, accepted, times, new.len());
        self.commit(record, &new)?;
        Ok(())
    }
}

async fn wait(drafting: &mut Option<Drafting>) -> Result<Drafted, DrafterError> {
    match drafting {
        Some(drafting) => drafting.work.as_mut().await,
        None => std::future::pending().await,
    }
}
