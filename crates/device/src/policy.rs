//! What this device should do when it is hot, low on battery or memory, was asleep, or is in another
//! network. Pure: conditions and times come in, advice goes out, so all of it is tested without a
//! phone. `Drafter::advise` and `Link::reconnect` act on it.
//!
//! **Exactness.** Advice says whether and how long to draft, by the device's state alone. It never
//! looks at a token, and what is drawn is still sent.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How hot the device is. What the systems say is sorted into these by what they ask of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thermal {
    /// Nothing to care for.
    Cool,
    /// Slightly warm; nothing has to change yet.
    Warm,
    /// Programs should do less.
    Hot,
    /// Programs should do as little as they can.
    Critical,
}

/// What a device says of itself; `None` where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conditions {
    /// How hot it is.
    pub thermal: Option<Thermal>,
    /// What is left in the battery, from 0 to 1.
    pub battery: Option<f32>,
    /// Whether it is being charged, or has no need of it.
    pub charging: Option<bool>,
    /// Whether the person asked the system to save power.
    pub power_saver: Option<bool>,
    /// Bytes of memory that this program can still take.
    pub memory: Option<u64>,
    /// The system warns that memory is running out.
    pub memory_low: bool,
}

/// Why a device drafts less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It is hot.
    Heat,
    /// Its battery is low.
    Battery,
    /// The person asked the system to save power.
    Saver,
    /// Its memory is needed for something else.
    Memory,
}

impl Reason {
    /// The name that is stored with a round.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Heat => "heat",
            Self::Battery => "battery",
            Self::Saver => "saver",
            Self::Memory => "memory",
        }
    }
}

/// How much to draft. The edge does the rest; without one the drafter writes all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Advice {
    /// As much as pays.
    #[default]
    Draft,
    /// Drafts of [`SHORT`] tokens at most, and none while a verdict is on its way.
    Short(Reason),
    /// None: the edge writes. For [`Reason::Memory`] the drafter's memory is given back too.
    Stream(Reason),
}

/// Tokens of a short draft: few are drawn for nothing, and the processor rests in between.
pub const SHORT: usize = 3;
/// Battery below which drafts are short, and below which there are none.
const LOW: f32 = 0.20;
const NEARLY_EMPTY: f32 = 0.10;
/// A limit that was passed holds until the battery is this much above it.
const BATTERY_BACK: f32 = 0.03;
/// Memory below which the drafter is given back though the system did not warn.
const SCARCE: u64 = 128 << 20;
/// A drafter that was given back is loaded again when this much more than it takes is free, and not
/// earlier than this after the last warning: loading and giving back in turns would be worse.
const MEMORY_BACK: u64 = 384 << 20;
const MEMORY_REST: Duration = Duration::from_secs(60);

/// The memory of a drafter's weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weights {
    /// Bytes that would have to be taken for it to draft: 0 while they are taken.
    pub missing: u64,
    /// Whether they were given back, or never taken, because memory was short.
    pub given_back: bool,
}

/// Turns conditions into advice, and remembers what it said so that it does not swing.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    battery: Option<Level>,
    /// When memory was last short.
    short_of_memory: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Level {
    Low,
    NearlyEmpty,
}

impl Policy {
    /// What to do from now on. `now` is any clock that only goes forward.
    pub fn judge(&mut self, now: Duration, is: &Conditions, weights: Weights) -> Advice {
        self.battery = self.battery_level(is);
        let thermal = is.thermal.unwrap_or(Thermal::Cool);
        if self.lacks_memory(now, is, weights) {
            Advice::Stream(Reason::Memory)
        } else if thermal >= Thermal::Critical {
            Advice::Stream(Reason::Heat)
        } else if self.battery == Some(Level::NearlyEmpty) {
            Advice::Stream(Reason::Battery)
        } else if thermal >= Thermal::Hot {
            Advice::Short(Reason::Heat)
        } else if self.battery.is_some() {
            Advice::Short(Reason::Battery)
        } else if is.power_saver == Some(true) {
            Advice::Short(Reason::Saver)
        } else {
            Advice::Draft
        }
    }

    fn battery_level(&self, is: &Conditions) -> Option<Level> {
        let level = is.battery.filter(|l| (0.0..=1.0).contains(l))?;
        if is.charging == Some(true) {
            return None;
        }
        let back = |at: Level| if self.battery >= Some(at) { BATTERY_BACK } else { 0.0 };
        if level <= NEARLY_EMPTY + back(Level::NearlyEmpty) {
            Some(Level::NearlyEmpty)
        } else {
            (level <= LOW + back(Level::Low)).then_some(Level::Low)
        }
    }

    fn lacks_memory(&mut self, now: Duration, is: &Conditions, weights: Weights) -> bool {
        if is.memory_low || is.memory.is_some_and(|free| free < SCARCE) {
            self.short_of_memory = Some(now);
            return true;
        }
        if !weights.given_back {
            return false;
        }
        let rests = self.short_of_memory.is_some_and(|at| now.saturating_sub(at) < MEMORY_REST);
        let wanted = weights.missing.saturating_add(MEMORY_BACK);
        rests || is.memory.is_some_and(|free| free < wanted)
    }
}

/// A model file that could draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Bytes of memory that it takes with one conversation.
    pub memory: u64,
}

/// The drafter to load: the wanted one where it fits into the memory that is free, else the largest
/// of the others that does. `None` if none fits; then the edge writes alone. A fifth stays free for
/// the window and for what the estimate does not know.
#[must_use]
pub fn choose_drafter<'a>(
    wanted: &'a Candidate,
    others: &'a [Candidate],
    free: Option<u64>,
) -> Option<&'a Candidate> {
    let fits = |c: &Candidate| free.is_none_or(|free| c.memory <= free / 5 * 4);
    if fits(wanted) {
        return Some(wanted);
    }
    others.iter().filter(|c| fits(c)).max_by_key(|c| c.memory)
}

/// Finds out that the device was asleep: then the clock on the wall went on and the one that counts
/// the program's time did not, or by less.
#[derive(Clone, Copy, Debug)]
pub struct Sleep {
    running: Duration,
    wall: Duration,
}

/// Less is a clock that was set right.
const NAP: Duration = Duration::from_secs(8);

impl Sleep {
    /// Begins to watch: time that the program ran, and since the epoch.
    #[must_use]
    pub fn new(running: Duration, wall: Duration) -> Self {
        Self { running, wall }
    }

    /// Whether the device was asleep since the last look. A connection may be dead then, and the
    /// other side does not say so.
    pub fn woke(&mut self, running: Duration, wall: Duration) -> bool {
        let before = std::mem::replace(self, Self { running, wall });
        let (ran, passed) =
            (running.saturating_sub(before.running), wall.saturating_sub(before.wall));
        passed.saturating_sub(ran) > NAP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;
    const DRAFTER: u64 = 500 * MB;
    const HERE: Weights = Weights { missing: 0, given_back: false };
    const AWAY: Weights = Weights { missing: DRAFTER, given_back: true };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn judge(is: Conditions) -> Advice {
        Policy::default().judge(at(0), &is, HERE)
    }

    #[test]
    fn nothing_known_changes_nothing() {
        assert_eq!(judge(Conditions::default()), Advice::Draft);
        let nonsense = Conditions { battery: Some(f32::NAN), ..Conditions::default() };
        assert_eq!(judge(nonsense), Advice::Draft);
        let nonsense = Conditions { battery: Some(-1.0), ..Conditions::default() };
        assert_eq!(judge(nonsense), Advice::Draft);
    }

    #[test]
    fn heat_makes_drafts_short_and_then_ends_them() {
        let hot = |thermal| judge(Conditions { thermal: Some(thermal), ..Conditions::default() });
        assert_eq!(hot(Thermal::Cool), Advice::Draft);
        assert_eq!(hot(Thermal::Warm), Advice::Draft);
        assert_eq!(hot(Thermal::Hot), Advice::Short(Reason::Heat));
        assert_eq!(hot(Thermal::Critical), Advice::Stream(Reason::Heat));
    }

    #[test]
    fn an_empty_battery_makes_drafts_short_and_then_ends_them() {
        let left = |battery, charging| Conditions {
            battery: Some(battery),
            charging: Some(charging),
            ..Conditions::default()
        };
        assert_eq!(judge(left(0.5, false)), Advice::Draft);
        assert_eq!(judge(left(0.2, false)), Advice::Short(Reason::Battery));
        assert_eq!(judge(left(0.1, false)), Advice::Stream(Reason::Battery));
        assert_eq!(judge(left(0.05, true)), Advice::Draft);
        // A level that moves around a limit does not make it swing.
        let mut policy = Policy::default();
        let mut said: Vec<Advice> = Vec::new();
        for level in [0.21, 0.20, 0.21, 0.20, 0.21, 0.10, 0.11, 0.10, 0.12, 0.14, 0.21, 0.24] {
            let advice = policy.judge(at(0), &left(level, false), HERE);
            if said.last() != Some(&advice) {
                said.push(advice);
            }
        }
        let (short, stream) = (Advice::Short(Reason::Battery), Advice::Stream(Reason::Battery));
        assert_eq!(said, [Advice::Draft, short, stream, short, Advice::Draft]);
        // Being plugged in ends it at once.
        policy.judge(at(0), &left(0.05, false), HERE);
        assert_eq!(policy.judge(at(0), &left(0.05, true), HERE), Advice::Draft);
    }

    #[test]
    fn saving_power_makes_drafts_short() {
        let is = Conditions { power_saver: Some(true), ..Conditions::default() };
        assert_eq!(judge(is), Advice::Short(Reason::Saver));
    }

    #[test]
    fn the_strictest_reason_counts() {
        let all = Conditions {
            thermal: Some(Thermal::Critical),
            battery: Some(0.01),
            charging: Some(false),
            power_saver: Some(true),
            memory: Some(10 * MB),
            memory_low: true,
        };
        assert_eq!(judge(all), Advice::Stream(Reason::Memory));
        let without = Conditions { memory: None, memory_low: false, ..all };
        assert_eq!(judge(without), Advice::Stream(Reason::Heat));
        let hot = Conditions { thermal: Some(Thermal::Hot), ..without };
        assert_eq!(judge(hot), Advice::Stream(Reason::Battery));
    }

    #[test]
    fn the_drafter_comes_back_when_there_is_room_for_a_while() {
        let mut policy = Policy::default();
        let has = |memory: u64| Conditions { memory: Some(memory), ..Conditions::default() };
        let warned = Conditions { memory_low: true, ..has(300 * MB) };
        let memory = Advice::Stream(Reason::Memory);
        assert_eq!(policy.judge(at(0), &has(300 * MB), HERE), Advice::Draft);
        assert_eq!(policy.judge(at(10), &warned, HERE), memory);
        // What was given back is free now; that alone brings it not back.
        assert_eq!(policy.judge(at(12), &has(800 * MB), AWAY), memory);
        assert_eq!(policy.judge(at(80), &has(800 * MB), AWAY), memory);
        assert_eq!(policy.judge(at(81), &has(900 * MB), AWAY), Advice::Draft);
        // It is being loaded, and takes what was free.
        assert_eq!(policy.judge(at(83), &has(400 * MB), HERE), Advice::Draft);
        // Room, but too early; then a second warning begins anew.
        assert_eq!(policy.judge(at(90), &has(100 * MB), HERE), memory);
        assert_eq!(policy.judge(at(120), &has(2000 * MB), AWAY), memory);
        assert_eq!(policy.judge(at(140), &warned, AWAY), memory);
        assert_eq!(policy.judge(at(160), &has(2000 * MB), AWAY), memory);
        assert_eq!(policy.judge(at(200), &has(2000 * MB), AWAY), Advice::Draft);
        // One that did not fit at the start waits for room alone.
        let mut policy = Policy::default();
        assert_eq!(policy.judge(at(1), &has(550 * MB), AWAY), memory);
        assert_eq!(policy.judge(at(2), &has(950 * MB), AWAY), Advice::Draft);
    }

    #[test]
    fn the_wanted_drafter_if_it_fits_or_the_largest_smaller_one() {
        let of = |name: &str, mb: u64| Candidate { name: name.into(), memory: mb * MB };
        let wanted = of("1.5b", 1500);
        let others = [of("0.1b", 150), of("0.5b", 600), of("3b", 3000)];
        let name = |free: Option<u64>| {
            choose_drafter(&wanted, &others, free.map(|mb| mb * MB)).map(|c| c.name.as_str())
        };
        assert_eq!(name(None), Some("1.5b"));
        assert_eq!(name(Some(10_000)), Some("1.5b"));
        assert_eq!(name(Some(1875)), Some("1.5b"));
        assert_eq!(name(Some(1870)), Some("0.5b"));
        assert_eq!(name(Some(700)), Some("0.1b"));
        assert_eq!(name(Some(150)), None);
    }

    #[test]
    fn a_sleep_is_a_gap_between_the_clocks() {
        let epoch = 1_700_000_000;
        let mut sleep = Sleep::new(at(5), at(epoch));
        assert!(!sleep.woke(at(10), at(epoch + 5)));
        assert!(!sleep.woke(at(12), at(epoch + 12)), "a clock that is set right");
        assert!(sleep.woke(at(17), at(epoch + 600)));
        assert!(!sleep.woke(at(22), at(epoch + 605)), "once");
        assert!(!sleep.woke(at(27), at(epoch - 9000)), "a clock that is set back");
        assert!(!sleep.woke(at(3027), at(epoch - 6000)), "a busy program");
    }
}
