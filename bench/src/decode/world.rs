//! Machines and links of the simulation, declared: what nobody has here can still be compared.

use serde::Serialize;

/// What computing takes, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Machines {
    /// What it stands for.
    pub name: String,
    /// Drafting one token on the device.
    pub draft_ms: f64,
    /// A step of the verifier with one row.
    pub verify_ms: f64,
    /// Each further row.
    pub row_ms: f64,
    /// Drafting one token on the box, for co-located speculation.
    pub box_draft_ms: f64,
    /// How much slower both sides are while they compute at the same time: above 1 if they share a
    /// machine.
    pub contention: f64,
}

impl Machines {
    /// One forward pass of the verifier.
    pub fn verify(&self, rows: usize) -> f64 {
        self.verify_ms + self.row_ms * (rows.max(1) - 1) as f64
    }
}

/// A link, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Net {
    /// Milliseconds there and back, without the time that the bytes take.
    pub rtt_ms: f64,
    /// Megabits per second.
    pub mbit: f64,
    /// Up to this many milliseconds more in each direction, uniformly distributed.
    pub jitter_ms: f64,
    /// The chance that a message is held up, as by a lost packet, in parts of 1.
    pub loss: f64,
}

impl Default for Net {
    fn default() -> Self {
        Self { rtt_ms: 0.0, mbit: 100.0, jitter_ms: 0.0, loss: 0.0 }
    }
}

/// How long a lost packet holds up what follows: the least retransmission time-out of TCP.
pub const STALL_MS: f64 = 200.0;
/// What the frame of a message needs beside its payload: WebSocket, TLS, TCP and IP.
const FRAME_BYTES: f64 = 75.0;

impl Net {
    /// One way of `bytes` of payload; `u` are two uniform numbers.
    pub fn one_way(&self, bytes: f64, u: [f64; 2]) -> f64 {
        let stall = if u[1] < self.loss { STALL_MS } else { 0.0 };
        self.rtt_ms / 2.0
            + (bytes + FRAME_BYTES) * 8.0 / (self.mbit * 1e3)
            + u[0] * self.jitter_ms
            + stall
    }
}

/// Declared profiles. The times of a step are those of a machine that reads a 4-bit model once for
/// each token; further rows cost little where compute is plenty and a fifth of a step where it is not.
pub fn declared() -> Vec<Machines> {
    let profile = |name: &str, draft_ms, verify_ms, row_ms, box_draft_ms| Machines {
        name: name.into(),
        draft_ms,
        verify_ms,
        row_ms,
        box_draft_ms,
        contention: 1.0,
    };
    vec![
        // The comparison of the issue: a verifier five times slower than the drafter.
        profile("verifier 5 times slower per step", 20.0, 100.0, 2.0, 20.0),
        profile("phone, 7B on a box's CPU", 25.0, 250.0, 40.0, 12.0),
        profile("phone, 32B on a GPU", 25.0, 35.0, 0.4, 4.0),
        profile("laptop, 70B on a GPU", 10.0, 75.0, 0.8, 4.0),
    ]
}
