//! What happens in a run: all of it follows from the seed.

use std::collections::BTreeMap;
use tandem_device::{Ahead, Gamma, Mode, WhenEdgeLost};
use tandem_speculation::Sampling;
use tandem_tests::Belief;

/// Frames from the device, or to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Up = 0,
    Down = 1,
}

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The device's program, at once.
    Device,
    /// The edge's program, at once.
    Edge,
    /// The edge is told to stop, and says good-bye.
    EdgeStops,
}

/// What happens to a frame.
#[derive(Clone, Debug)]
pub enum FrameFault {
    /// It and those behind it come later.
    Delay { ms: u64 },
    /// From here on the reader takes a few bytes at a time.
    Slow,
    /// It comes twice, the second time behind so many others.
    Twice { behind: u32 },
    /// It is lost with its connection.
    Drop { reset: bool },
    /// Half of it comes, and the connection is gone.
    Cut { reset: bool },
    /// Somebody dies when it is on its way, or when it has come.
    Kill { what: Victim, delivered: bool },
}

impl FrameFault {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Delay { .. } => "frame delayed",
            Self::Slow => "slow reader",
            Self::Twice { .. } => "frame duplicated",
            Self::Drop { .. } => "frame dropped with its connection",
            Self::Cut { .. } => "frame cut in the middle",
            Self::Kill { what, .. } => killed(*what),
        }
    }
}

pub fn killed(what: Victim) -> &'static str {
    match what {
        Victim::Device => "device killed",
        Victim::Edge => "edge killed",
        Victim::EdgeStops => "edge stopped",
    }
}

/// What happens at a step of the device's program: before and after it writes to its store.
#[derive(Clone, Debug)]
pub enum StepFault {
    Kill,
    /// The user stops the answer (and wants the rest of it later).
    Cancel,
    /// The machine sleeps.
    Sleep {
        ms: u64,
    },
    /// The clock on the wall is put forward or back. Times are only ever kept in the store, so it
    /// is the same as if all that are there were moved the other way.
    Clock {
        ms: i64,
    },
    /// Another program holds the database's lock for a moment.
    Busy {
        ms: u64,
    },
    /// It holds it for longer than the device waits.
    Locked,
    /// The disk is full until the answer has failed.
    Full,
}

impl StepFault {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill => "device killed",
            Self::Cancel => "answer stopped by the user",
            Self::Sleep { .. } => "device asleep",
            Self::Clock { .. } => "clock jumped",
            Self::Busy { .. } => "database busy",
            Self::Locked => "database locked for too long",
            Self::Full => "disk full",
        }
    }
}

/// What happens to the database's files after the device was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    /// The log ends early; where, in thousandths of its length.
    LogCut(u64),
    /// A part of the log is overwritten.
    LogOverwritten(u64),
    /// The file ends early.
    FileCut(u64),
    /// A page of the file is overwritten.
    PageOverwritten(u64),
}

impl Torn {
    pub fn kind(self) -> &'static str {
        match self {
            Self::LogCut(_) => "database log cut",
            Self::LogOverwritten(_) => "database log overwritten",
            Self::FileCut(_) => "database file cut",
            Self::PageOverwritten(_) => "database page overwritten",
        }
    }
}

/// All kinds of faults; each must happen in a few hundred seeds.
pub const KINDS: [&str; 19] = [
    "frame delayed",
    "slow reader",
    "frame duplicated",
    "frame dropped with its connection",
    "frame cut in the middle",
    "device killed",
    "edge killed",
    "edge stopped",
    "answer stopped by the user",
    "device asleep",
    "clock jumped",
    "database busy",
    "database locked for too long",
    "disk full",
    "write refused by the database",
    "database log cut",
    "database log overwritten",
    "database file cut",
    "database page overwritten",
];

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub mode: Mode,
    pub ahead: Ahead,
    pub gamma: Gamma,
    /// The edge has a drafter of its own.
    pub colocated: bool,
    /// What the planner is made to believe as an answer begins, so that each way is gone.
    pub belief: Option<Belief>,
    pub sampling: Sampling,
    /// The drafter is seldom wrong.
    pub near: bool,
    pub questions: usize,
    pub max_tokens: usize,
    pub when_edge_lost: WhenEdgeLost,
    /// Milliseconds that a lost edge is waited for.
    pub patience_ms: u64,
    /// Milliseconds after which the edge forgets an idle session.
    pub idle_ms: u64,
    /// Milliseconds until a dead edge is back.
    pub down_ms: u64,
    /// An unfinished answer is written on; else the question is answered again.
    pub rest: bool,
    pub frames: BTreeMap<(Direction, u32), FrameFault>,
    pub steps: BTreeMap<u32, StepFault>,
    pub torn: Option<Torn>,
}

/// `SplitMix64`: small, and its sequence never changes.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True in so many of a hundred.
    fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let (mode, ahead, colocated) = match dice.below(20) {
            0..7 => (Mode::Dssd, Ahead::No, false),
            7..12 => (Mode::Dssd, Ahead::Yes, false),
            12..15 => (Mode::Edge, Ahead::No, false),
            15..17 => (Mode::Auto, Ahead::No, false),
            _ => (Mode::Auto, Ahead::No, true),
        };
        let sampling = match dice.below(8) {
            0..3 => Sampling::GREEDY,
            3..5 => Sampling { temperature: 1.0, ..Sampling::GREEDY },
            5..7 => Sampling { temperature: 0.9, top_k: 20, top_p: 0.9, ..Sampling::GREEDY },
            _ => Sampling {
                temperature: 1.2,
                repetition_penalty: 1.2,
                penalty_window: 16,
                ..Sampling::GREEDY
            },
        };
        let gamma = if sampling == Sampling::GREEDY && dice.percent(30) {
            Gamma::Auto
        } else {
            Gamma::Fixed(1 + dice.below(5) as usize)
        };
        // Seldom: what the drafter writes alone is not the large model's text.
        let alone = dice.percent(12);
        let mut plan = Self {
            seed,
            mode,
            ahead,
            gamma,
            colocated,
            belief: colocated.then_some(Belief::Colocated),
            sampling,
            near: dice.percent(35),
            questions: 1 + dice.below(2) as usize,
            max_tokens: 8 + dice.below(20) as usize,
            when_edge_lost: if alone { WhenEdgeLost::Continue } else { WhenEdgeLost::Stop },
            patience_ms: if alone { 30 + dice.below(150) } else { 60_000 },
            idle_ms: if dice.percent(40) { 60_000 } else { 150 + dice.below(250) },
            down_ms: dice.below(80),
            rest: dice.percent(65),
            frames: BTreeMap::new(),
            steps: BTreeMap::new(),
            torn: None,
        };
        for _ in 0..1 + dice.below(4) {
            let direction = if dice.percent(50) { Direction::Up } else { Direction::Down };
            // Plain streams have many more frames down than up.
            let most = match direction {
                Direction::Up if mode == Mode::Edge => 9,
                Direction::Up => 18,
                Direction::Down => 24,
            };
            let (at, fault) = (dice.below(most) as u32, frame_fault(&mut dice));
            plan.frames.insert((direction, at), fault);
        }
        for _ in 0..dice.below(4) {
            let (at, fault) = (dice.below(36) as u32, step_fault(&mut dice));
            plan.steps.insert(at, fault);
        }
        if dice.percent(12) {
            let at = dice.below(1000);
            plan.torn = Some(match dice.below(8) {
                0..3 => Torn::LogCut(at),
                3..5 => Torn::LogOverwritten(at),
                5 => Torn::FileCut(at),
                _ => Torn::PageOverwritten(at),
            });
            // Files are torn when the program dies.
            plan.steps.insert(1 + dice.below(18) as u32, StepFault::Kill);
        }
        // Last, so that the other plans are what they were before there was this one.
        if dice.percent(45) {
            plan.as_shipped(&mut dice);
        }
        plan
    }

    /// The product as it comes: every setting that a user does not touch.
    fn as_shipped(&mut self, dice: &mut Dice) {
        (self.mode, self.ahead, self.gamma) = (Mode::Auto, Ahead::No, Gamma::Auto);
        self.sampling = Sampling::default();
        self.colocated = dice.percent(40);
        let n = dice.below(6 + u64::from(self.colocated)) as usize;
        // The last two are left to what is measured.
        let led = [Belief::Turns, Belief::Lookup, Belief::Ahead, Belief::Stream, Belief::Colocated];
        self.belief = match n {
            4 if !self.colocated => None,
            n => led.get(n).copied(),
        };
        self.max_tokens = 16 + dice.below(24) as usize;
    }
}

fn frame_fault(dice: &mut Dice) -> FrameFault {
    let reset = dice.percent(50);
    match dice.below(100) {
        0..14 => FrameFault::Delay { ms: 1 + dice.below(40) },
        14..18 => FrameFault::Slow,
        18..42 => FrameFault::Twice { behind: dice.below(4) as u32 },
        42..56 => FrameFault::Drop { reset },
        56..70 => FrameFault::Cut { reset },
        n => {
            let what = match n {
                70..82 => Victim::Device,
                82..95 => Victim::Edge,
                _ => Victim::EdgeStops,
            };
            FrameFault::Kill { what, delivered: dice.percent(50) }
        }
    }
}

fn step_fault(dice: &mut Dice) -> StepFault {
    match dice.below(200) {
        0..60 => StepFault::Kill,
        60..84 => StepFault::Cancel,
        84..104 => StepFault::Sleep { ms: 10 + dice.below(60) },
        104..130 => {
            let size = [3_600_000, 86_400_000, 315_576_000_000][dice.below(3) as usize];
            StepFault::Clock { ms: if dice.percent(50) { size } else { -size } }
        }
        130..168 => StepFault::Busy { ms: 5 + dice.below(60) },
        168..170 => StepFault::Locked,
        _ => StepFault::Full,
    }
}
