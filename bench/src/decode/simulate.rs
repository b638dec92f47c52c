//! The loop of the device in virtual time: tokens and acceptance from a trace, times from a declared
//! world, and the product's own planner for what the product decides.

use super::schemes::Scheme;
use super::trace::{Place, Trace};
use super::world::{Machines, Net};
use std::collections::VecDeque;
use tandem_protocol::MAX_IN_FLIGHT;
use tandem_speculation::{
    DraftStop, FIRST_SAMPLES, MAX_CHOSEN, MAX_SPARSE, MORE_SAMPLES, Modelled, Planner, Purpose,
    Randomness, RoundTimes, Source, TokenId, Way, common_beginning,
};

/// Payload of a message without ids and probabilities, in bytes.
const HEAD: f64 = 24.0;

/// Sums over answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub tokens: f64,
    pub ms: f64,
    /// Payload in bytes.
    pub up: f64,
    /// Payload in bytes.
    pub down: f64,
    pub tested: f64,
    pub accepted: f64,
}

/// One link and two machines over a series of answers.
pub struct Simulation<'a> {
    machines: &'a Machines,
    net: Net,
    vocab: f64,
    scheme: Scheme,
    /// A fixed draft length; the planner's where there is none.
    gamma: Option<usize>,
    planner: Planner,
    /// Of the box's own drafter.
    box_planner: Planner,
    random: Randomness,
    draws: u32,
    sum: Sum,
}

/// An answer as it is written.
struct Text<'a> {
    /// The prompt and the answer.
    ids: Vec<TokenId>,
    /// Tokens of the prompt.
    start: usize,
    places: &'a [Place],
    /// Whether the draft at a place is accepted.
    hit: Vec<bool>,
}

/// A draft of the model, or one that was looked up.
#[derive(Default)]
struct Draft {
    gamma: usize,
    accepted: usize,
    matched: Option<usize>,
    confidences: Vec<f32>,
    /// Places of the draft that have an alternative.
    alternatives: Vec<usize>,
    /// Whether the one at the rejected place is right, if there is one.
    followed: Option<bool>,
}

impl Draft {
    /// As many tokens behind `at` as the rule wants.
    fn by(mut stop: DraftStop, text: &Text<'_>, at: usize) -> Self {
        let mut draft = Self::default();
        while draft.gamma < stop.most() {
            let confidence = text.places[at + draft.gamma].confidence;
            if stop.wants_alternative(confidence) {
                draft.alternatives.push(draft.gamma);
            }
            draft.confidences.push(confidence);
            draft.gamma += 1;
            if !stop.goes_on(confidence) {
                break;
            }
        }
        draft.accepted = (0..draft.gamma).take_while(|i| text.hit[at + i]).count();
        // The alternative is the drafter's best token beside the drafted one, which was wrong.
        let rejected = draft.alternatives.iter().find(|place| **place == draft.accepted);
        draft.followed = rejected.map(|place| {
            let place = &text.places[at + place];
            place.greedy || place.second
        });
        draft
    }

    fn is_whole(&self) -> bool {
        self.accepted == self.gamma
    }

    /// Rows of a pass beside those of the drafted tokens.
    fn beside(&self) -> usize {
        self.alternatives.len()
    }

    /// 1 if the alternative brings a token.
    fn further(&self) -> usize {
        usize::from(self.followed == Some(true))
    }

    fn source(&self) -> Source<'_> {
        match self.matched {
            Some(matched) => Source::Lookup { matched, drafted: self.gamma },
            None => Source::Model(Modelled {
                confidences: &self.confidences,
                alternatives: self.beside(),
                followed: self.followed,
            }),
        }
    }
}

impl<'a> Simulation<'a> {
    pub fn new(
        machines: &'a Machines,
        net: Net,
        vocab: usize,
        scheme: Scheme,
        gamma: Option<usize>,
    ) -> Self {
        let mut planner = Planner::default();
        planner.offer_colocated(scheme == Scheme::AutoBox);
        Self {
            machines,
            net,
            vocab: vocab as f64,
            scheme,
            gamma,
            planner,
            box_planner: Planner::default(),
            random: Randomness::new(7),
            draws: 0,
            sum: Sum::default(),
        }
    }

    /// Writes the trace's answer; `repeat` chooses the draws of acceptance, the same for all schemes.
    pub fn answer(&mut self, trace: &Trace, repeat: u32) {
        let draws = Randomness::new(u64::from(repeat) + 100);
        let hit = |(i, place): (usize, &Place)| match self.scheme {
            Scheme::Greedy => place.greedy,
            Scheme::Gumbel => place.gumbel,
            _ => draws.uniform(Purpose::Accept, i as u32, 0) < f64::from(place.coupled),
        };
        let tokens = trace.places.iter().map(|p| p.token);
        let text = Text {
            ids: trace.prompt.iter().copied().chain(tokens).map(TokenId).collect(),
            start: trace.prompt.len(),
            places: &trace.places,
            hit: trace.places.iter().enumerate().map(hit).collect(),
        };
        // A stream, and both models on the box, are asked once and then come at their own pace.
        let once = match self.scheme {
            Scheme::Stream | Scheme::Colocated => self.round_trip(HEAD, HEAD),
            _ => 0.0,
        };
        self.sum.ms += once;
        let (mut at, mut last) = (0, Way::Turns);
        while at < text.places.len() {
            let way = self.way();
            let alone = matches!(way, Way::Stream | Way::Colocated);
            if self.scheme.chooses() && alone && last != way {
                self.sum.ms += self.round_trip(HEAD, HEAD);
            }
            last = way;
            at += match way {
                _ if self.scheme == Scheme::Device => self.alone(),
                Way::Stream => self.plain(),
                Way::Colocated => self.written(&text, at),
                Way::Turns => self.turn(&text, at),
                Way::Ahead => self.branch(&text, at),
            };
        }
        self.sum.tokens += text.places.len() as f64;
    }

    pub fn sum(&self) -> Sum {
        self.sum
    }

    fn way(&mut self) -> Way {
        match self.scheme {
            Scheme::Stream => Way::Stream,
            Scheme::Ahead => Way::Ahead,
            Scheme::Colocated => Way::Colocated,
            Scheme::Auto | Scheme::AutoBox => {
                self.planner.choose();
                self.planner.way()
            }
            _ => Way::Turns,
        }
    }

    fn one_way(&mut self, bytes: f64) -> f64 {
        let u = [0, 1].map(|i| self.random.uniform(Purpose::Bonus, self.draws, i));
        self.draws += 1;
        self.net.one_way(bytes, u)
    }

    fn round_trip(&mut self, up: f64, down: f64) -> f64 {
        self.one_way(up) + self.one_way(down)
    }

    fn alone(&mut self) -> usize {
        self.sum.ms += self.machines.draft_ms;
        1
    }

    fn plain(&mut self) -> usize {
        let ms = self.machines.verify(1);
        self.sum.ms += ms;
        self.sum.down += HEAD;
        self.planner.streamed(Some(ms));
        1
    }

    fn bytes_up(&self, draft: &Draft) -> f64 {
        let each = match self.scheme {
            Scheme::Dsd => 4.0 + 4.0 * self.vocab,
            Scheme::Greedy | Scheme::Gumbel => 4.0,
            _ => 8.0,
        };
        HEAD + draft.gamma as f64 * each + 4.0 * draft.beside() as f64
    }

    /// Of a verdict: all accepted, or the correction at a place.
    fn bytes_down(&self, rejected: Option<&Place>) -> f64 {
        let Some(place) = rejected else { return HEAD };
        let support = place.support[0] as usize;
        HEAD + match self.scheme {
            Scheme::Full => 4.0 * self.vocab,
            Scheme::Dsd | Scheme::Greedy | Scheme::Gumbel => 0.0,
            _ if support == 1 => 0.0,
            _ if support <= MAX_SPARSE => 8.0 * support as f64,
            _ => 8.0 * FIRST_SAMPLES as f64,
        }
    }

    /// Time of another trip, if none of the samples in the correction is taken.
    fn more(&mut self, rejected: Option<&Place>) -> f64 {
        let ours = self.scheme.is_ours();
        let Some(place) = rejected.filter(|p| ours && p.support[0] as usize > MAX_SPARSE) else {
            return 0.0;
        };
        self.draws += 1;
        let u = self.random.uniform(Purpose::Bonus, self.draws, 2);
        let missed = f64::from(place.alpha.min(1.0)).powi(FIRST_SAMPLES as i32);
        if u < missed { self.round_trip(16.0, 24.0 + 8.0 * MORE_SAMPLES as f64) } else { 0.0 }
    }

    /// A draft by look-up, where the product would take one.
    fn look_up(&self, way: Way, text: &Text<'_>, at: usize, most: usize) -> Option<Draft> {
        let ours = self.scheme.is_ours();
        if !ours || self.gamma.is_some() {
            return None;
        }
        let at = text.start + at;
        let found = self.planner.lookup(way, &text.ids[..at], most)?;
        let accepted = common_beginning(&found.ids, &text.ids[at..]);
        let (gamma, matched) = (found.ids.len(), Some(found.matched));
        Some(Draft { gamma, accepted, matched, ..Draft::default() })
    }

    fn stop(&self, way: Way) -> DraftStop {
        let stop = self.gamma.map_or_else(|| self.planner.draft_stop(way), DraftStop::fixed);
        // The peers' schemes have no alternatives.
        if self.scheme.is_ours() { stop } else { stop.with_alternatives(1.0) }
    }

    /// One round that waits for its verdict.
    fn turn(&mut self, text: &Text<'_>, at: usize) -> usize {
        let most = text.places.len() - at - 1;
        let draft = self.look_up(Way::Turns, text, at, most);
        let draft =
            draft.unwrap_or_else(|| Draft::by(self.stop(Way::Turns).at_most(most), text, at));
        let rejected = (!draft.is_whole()).then(|| &text.places[at + draft.accepted]);
        let (up, down) = (self.bytes_up(&draft), self.bytes_down(rejected));
        let each = if draft.matched.is_some() { 0.0 } else { self.machines.draft_ms };
        let draft_ms = each * draft.gamma as f64;
        let verify_ms = self.machines.verify(draft.gamma + 1 + draft.beside());
        let link = self.round_trip(up, down);
        let ms = draft_ms + link + verify_ms + self.more(rejected);
        self.sum.ms += ms;
        self.count(&draft, up, down);
        let times = RoundTimes { draft_ms, round_trip_ms: link + verify_ms, verify_ms };
        let new = draft.accepted + 1 + draft.further();
        self.planner.drafted(Way::Turns, draft.source(), draft.accepted, times, new, Some(ms));
        new
    }

    /// One round of the box alone, with a draft of its own.
    fn written(&mut self, text: &Text<'_>, at: usize) -> usize {
        let most = text.places.len() - at - 1;
        let chosen = || self.box_planner.draft_stop(Way::Turns);
        let stop = self.gamma.map_or_else(chosen, DraftStop::fixed).at_most(most);
        let draft = Draft::by(stop, text, at);
        let draft_ms = self.machines.box_draft_ms * draft.gamma as f64;
        let verify_ms = self.machines.verify(draft.gamma + 1 + draft.beside());
        let ms = draft_ms + verify_ms;
        self.sum.ms += ms;
        self.count(&draft, 0.0, HEAD + 4.0 * draft.accepted as f64);
        let times = RoundTimes { draft_ms, round_trip_ms: verify_ms, verify_ms };
        let (accepted, new) = (draft.accepted, draft.accepted + 1 + draft.further());
        self.box_planner.drafted(Way::Turns, draft.source(), accepted, times, new, Some(ms));
        self.planner.written(draft.gamma, accepted, new, Some(ms));
        new
    }

    fn count(&mut self, draft: &Draft, up: f64, down: f64) {
        self.sum.tested += (draft.accepted + usize::from(!draft.is_whole())) as f64;
        self.sum.accepted += draft.accepted as f64;
        self.sum.up += up;
        self.sum.down += down;
    }

    /// From one correction to the next, with every draft on its way in between.
    fn branch(&mut self, text: &Text<'_>, at: usize) -> usize {
        let left = text.places.len() - at;
        let slow = self.machines.contention;
        let each = self.machines.draft_ms * slow;
        let mut sent = 0;
        // Times since the branch began: the device is ready for the next draft, the last one left,
        // the edge is free, the last verdict came; and when each verdict came.
        let (mut ready, mut departed, mut free, mut last) = (0.0, 0.0, 0.0, 0.0);
        let mut verdicts = VecDeque::new();
        while sent < left {
            if verdicts.len() == MAX_IN_FLIGHT {
                ready = f64::max(ready, verdicts.pop_front().unwrap_or_default());
            }
            let looked_up = if sent == 0 { self.look_up(Way::Ahead, text, at, left) } else { None };
            let here = at + sent;
            let draft = looked_up.unwrap_or_else(|| {
                let stop = match self.planner.pace().filter(|_| sent > 0 && self.gamma.is_none()) {
                    Some(pace) => {
                        let until: f64 = (departed + pace - ready) / each;
                        let most = (until.ceil().max(1.0) as usize).min(MAX_CHOSEN);
                        self.planner.stop_behind().at_most(most)
                    }
                    None => self.stop(Way::Ahead),
                };
                Draft::by(stop.at_most(left - sent), text, here)
            });
            let draft_ms = if draft.matched.is_some() { 0.0 } else { each * draft.gamma as f64 };
            ready += draft_ms;
            departed = ready;
            let rejected = (!draft.is_whole()).then(|| &text.places[here + draft.accepted]);
            let (up, down) = (self.bytes_up(&draft), self.bytes_down(rejected));
            let arrived = departed + self.one_way(up);
            let verify_ms = self.machines.verify(draft.gamma + draft.beside()) * slow;
            let begun = arrived.max(free);
            free = begun + verify_ms;
            let back = f64::max(free + self.one_way(down) + self.more(rejected), last);
            self.count(&draft, up, down);
            let round_trip_ms = back - departed - (begun - arrived);
            let times = RoundTimes { draft_ms, round_trip_ms, verify_ms };
            let whole = draft.is_whole();
            // What would follow the last token of the answer is not wanted.
            let further = draft.further().min(left - sent - draft.accepted - usize::from(!whole));
            let new = draft.accepted + usize::from(!whole) + further;
            let (source, accepted) = (draft.source(), draft.accepted);
            self.planner.drafted(Way::Ahead, source, accepted, times, new, Some(back - last));
            last = back;
            verdicts.push_back(back);
            sent += new;
            if !whole {
                break;
            }
        }
        self.sum.ms += last;
        sent
    }
}
