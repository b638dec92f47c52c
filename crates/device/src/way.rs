//! Which way the next round goes: what the caller asked for, what the planner found to be fastest, and
//! what the device's state allows.

use crate::drafter::Drafted;
use crate::generate::{Event, Run};
use crate::link::lock;
use crate::policy::{Advice, SHORT};
use crate::record::{Ahead, Gamma, Mode};
use std::time::Duration;
use tandem_speculation::{Change, DraftStop, RoundTimes, Way};

/// A change of the way in a stable form: `WAY EXPECTED WAS`, the times in milliseconds a token.
fn describe(change: &Change) -> String {
    format!("{} {:.1} {:.1}", name(change.to), change.expected_ms, change.was_ms)
}

/// The same where the device's state decides: `WAY REASON`, or `WAY recovered`.
fn describe_advice(way: Way, advice: Advice) -> String {
    let reason = match advice {
        Advice::Short(reason) | Advice::Stream(reason) => reason.as_str(),
        Advice::Draft => "recovered",
    };
    format!("{} {reason}", name(way))
}

fn name(way: Way) -> &'static str {
    match way {
        Way::Stream => "stream",
        Way::Turns => "turns",
        Way::Ahead => "ahead",
        Way::Colocated => "colocated",
    }
}

impl<F: FnMut(Event)> Run<'_, F> {
    /// Sets the way of the next round; true if it is another one than before.
    pub(crate) fn choose_way(&mut self) -> bool {
        let before = self.way;
        if !self.pending.is_empty() {
            // Drafts that are on their way keep theirs.
            return false;
        }
        if self.request.mode == Mode::Edge {
            self.way = Way::Stream;
            return self.way != before;
        }
        let advice = self.drafter.advice();
        let mut planner = lock(&self.planner);
        let mut decision = None;
        let planned = match (self.request.mode, self.request.ahead) {
            (_, _) if matches!(advice, Advice::Stream(_)) => match before {
                // A change costs something, and it is not the planner's.
                Way::Stream | Way::Colocated if advice == self.advice => before,
                _ => planner.without_drafter(),
            },
            (Mode::Auto, _) => {
                let change = planner.choose();
                // An answer begins with what the one before found out.
                let reason = change.or(planner.reason().filter(|r| r.to != before));
                decision = reason.as_ref().map(describe);
                planner.way()
            }
            (_, Ahead::Yes) => Way::Ahead,
            (_, Ahead::No) => Way::Turns,
        };
        self.way = match (advice, planned) {
            (Advice::Short(_), Way::Ahead) => Way::Turns,
            _ => planned,
        };
        if advice != self.advice {
            self.advice = advice;
            self.decision = Some(describe_advice(self.way, advice));
        } else if self.way == planned {
            self.decision = decision.or(self.decision.take());
        }
        self.way != before
    }

    /// Whether the device's state asks for an end of drafting ahead.
    pub(crate) fn leaves_ahead(&self) -> bool {
        self.drafter.advice() != Advice::Draft
    }

    /// The rule for the next draft that waits for its verdict, or for the first one after a
    /// correction.
    pub(crate) fn draft_stop(&self) -> DraftStop {
        let stop = match self.request.gamma {
            Gamma::Fixed(n) => DraftStop::fixed(n),
            Gamma::Auto => lock(&self.planner).draft_stop(self.way),
        };
        match self.advice {
            Advice::Short(_) => stop.at_most(SHORT),
            _ => stop,
        }
    }

    /// A draft by look-up of at most `most` tokens behind the present text, where that should be
    /// better than one by the model.
    pub(crate) fn look_up(&self, most: usize) -> Option<Drafted> {
        let found = match self.request.gamma {
            Gamma::Fixed(_) => None,
            Gamma::Auto => lock(&self.planner).lookup(self.way, &self.tokens, most),
        };
        found.map(Drafted::looked_up)
    }

    /// How long after one draft the next one behind it should leave, and the rule for it beside that,
    /// if the length of drafts is free.
    pub(crate) fn pace(&self) -> Option<(Duration, DraftStop)> {
        match self.request.gamma {
            Gamma::Fixed(_) => None,
            Gamma::Auto => {
                let planner = lock(&self.planner);
                let pace = planner.pace()?;
                Some((Duration::from_secs_f64(pace / 1e3), planner.stop_behind()))
            }
        }
    }

    /// γ of a round with a draft of `drafted` tokens, for its record.
    pub(crate) fn wanted(&self, drafted: usize) -> u32 {
        match self.request.gamma {
            Gamma::Fixed(n) => n as u32,
            Gamma::Auto => drafted as u32,
        }
    }

    /// Tells the planner of a finished round that gave `tokens` tokens.
    pub(crate) fn learn(
        &self,
        drafted: &Drafted,
        accepted: usize,
        times: RoundTimes,
        tokens: usize,
    ) {
        let wall = self.wall_ms();
        lock(&self.planner).drafted(
            self.way,
            drafted.source(accepted, tokens),
            accepted,
            times,
            tokens,
            wall,
        );
    }

    /// Tells it of a plain token.
    pub(crate) fn learn_plain(&self) {
        lock(&self.planner).streamed(self.wall_ms());
    }

    /// Tells it of a round of the edge's own.
    pub(crate) fn learn_written(&self, drafted: usize, accepted: usize, tokens: usize) {
        lock(&self.planner).written(drafted, accepted, tokens, self.wall_ms());
    }

    fn wall_ms(&self) -> Option<f64> {
        self.ended.map(|ended| ended.elapsed().as_secs_f64() * 1e3)
    }
}
