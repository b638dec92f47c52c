//! The loop of the device in virtual time: tokens and acceptance from a trace, times from a declared
//! world, and the product's own planner for what the product decides.

use super::schemes::Scheme;
use super::trace::{Place, Trace};
use super::world::{Machines, Net};
use std::collections::VecDeque;
use std::ops::Range;
use tandem_protocol::MAX_IN_FLIGHT;
use tandem_speculation::{
    DraftStop, FIRST_SAMPLES, MAX_CHOSEN, MAX_SPARSE, MORE_SAMPLES, Planner, Purpose, Randomness,
    RoundTimes, Source, TokenId, Way, common_beginning,
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

    fn bytes_up(&self, gamma: usize) -> f64 {
        let each = match self.scheme {
            Scheme::Dsd => 4.0 + 4.0 * self.vocab,
            Scheme::Greedy | Scheme::Gumbel => 4.0,
            _ => 8.0,
        };
        HEAD + gamma as f64 * each
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

    /// A draft by look-up, where the product would take one: its tokens and those accepted.
    fn look_up(
        &self,
        way: Way,
        text: &Text<'_>,
        at: usize,
        most: usize,
    ) -> Option<(usize, Range<usize>)> {
        let ours = self.scheme.is_ours();
        if !ours || self.gamma.is_some() {
            return None;
        }
        let at = text.start + at;
        let found = self.planner.lookup(way, &text.ids[..at], most)?;
        let accepted = common_beginning(&found.ids, &text.ids[at..]);
        Some((found.matched, accepted..found.ids.len()))
    }

    fn stop(&self, way: Way) -> DraftStop {
        self.gamma.map_or_else(|| self.planner.draft_stop(way), DraftStop::fixed)
    }

    /// How many tokens the rule drafts, and their confidences.
    fn drafted(mut stop: DraftStop, text: &Text<'_>, at: usize) -> Vec<f32> {
        let mut confidences = Vec::new();
        while confidences.len() < stop.most() {
            let confidence = text.places[at + confidences.len()].confidence;
            confidences.push(confidence);
            if !stop.goes_on(confidence) {
                break;
            }
        }
        confidences
    }

    /// One round that waits for its verdict.
    fn turn(&mut self, text: &Text<'_>, at: usize) -> usize {
        let most = text.places.len() - at - 1;
        let looked_up = self.look_up(Way::Turns, text, at, most);
        let (gamma, accepted, confidences) = match &looked_up {
            Some((_, n)) => (n.end, n.start, Vec::new()),
            None => {
                let confidences = Self::drafted(self.stop(Way::Turns).at_most(most), text, at);
                let gamma = confidences.len();
                (gamma, (0..gamma).take_while(|i| text.hit[at + i]).count(), confidences)
            }
        };
        let rejected = (accepted < gamma).then(|| &text.places[at + accepted]);
        let (up, down) = (self.bytes_up(gamma), self.bytes_down(rejected));
        let each = if looked_up.is_some() { 0.0 } else { self.machines.draft_ms };
        let draft_ms = each * gamma as f64;
        let verify_ms = self.machines.verify(gamma + 1);
        let link = self.round_trip(up, down);
        let ms = draft_ms + link + verify_ms + self.more(rejected);
        self.sum.ms += ms;
        self.count(gamma, accepted, up, down);
        let times = RoundTimes { draft_ms, round_trip_ms: link + verify_ms, verify_ms };
        let source = match looked_up {
            Some((matched, _)) => Source::Lookup { matched, drafted: gamma },
            None => Source::Model(&confidences),
        };
        self.planner.drafted(Way::Turns, source, accepted, times, accepted + 1, Some(ms));
        accepted + 1
    }

    /// One round of the box alone, with a draft of its own.
    fn written(&mut self, text: &Text<'_>, at: usize) -> usize {
        let most = text.places.len() - at - 1;
        let chosen = || self.box_planner.draft_stop(Way::Turns);
        let stop = self.gamma.map_or_else(chosen, DraftStop::fixed);
        let confidences = Self::drafted(stop.at_most(most), text, at);
        let gamma = confidences.len();
        let accepted = (0..gamma).take_while(|i| text.hit[at + i]).count();
        let draft_ms = self.machines.box_draft_ms * gamma as f64;
        let verify_ms = self.machines.verify(gamma + 1);
        let ms = draft_ms + verify_ms;
        self.sum.ms += ms;
        self.count(gamma, accepted, 0.0, HEAD + 4.0 * accepted as f64);
        let times = RoundTimes { draft_ms, round_trip_ms: verify_ms, verify_ms };
        let source = Source::Model(&confidences);
        self.box_planner.drafted(Way::Turns, source, accepted, times, accepted + 1, Some(ms));
        self.planner.written(gamma, accepted + 1, Some(ms));
        accepted + 1
    }

    fn count(&mut self, drafted: usize, accepted: usize, up: f64, down: f64) {
        self.sum.tested += (accepted + usize::from(accepted < drafted)) as f64;
        self.sum.accepted += accepted as f64;
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
            let (gamma, accepted, confidences) = if let Some((_, n)) = &looked_up {
                (n.end, n.start, Vec::new())
            } else {
                let stop = match self.planner.pace().filter(|_| sent > 0 && self.gamma.is_none()) {
                    Some(pace) => {
                        let until: f64 = (departed + pace - ready) / each;
                        DraftStop::fixed((until.ceil().max(1.0) as usize).min(MAX_CHOSEN))
                    }
                    None => self.stop(Way::Ahead),
                };
                let confidences = Self::drafted(stop.at_most(left - sent), text, here);
                let gamma = confidences.len();
                (gamma, (0..gamma).take_while(|i| text.hit[here + i]).count(), confidences)
            };
            let draft_ms = if looked_up.is_some() { 0.0 } else { each * gamma as f64 };
            ready += draft_ms;
            departed = ready;
            let whole = accepted == gamma;
            let rejected = (!whole).then(|| &text.places[here + accepted]);
            let (up, down) = (self.bytes_up(gamma), self.bytes_down(rejected));
            let arrived = departed + self.one_way(up);
            let verify_ms = self.machines.verify(gamma) * slow;
            let begun = arrived.max(free);
            free = begun + verify_ms;
            let back = f64::max(free + self.one_way(down) + self.more(rejected), last);
            self.count(gamma, accepted, up, down);
            let round_trip_ms = back - departed - (begun - arrived);
            let times = RoundTimes { draft_ms, round_trip_ms, verify_ms };
            let new = accepted + usize::from(!whole);
            let source = match looked_up {
                Some((matched, _)) => Source::Lookup { matched, drafted: gamma },
                None => Source::Model(&confidences),
            };
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
