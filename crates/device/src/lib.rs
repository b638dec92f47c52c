//! The device's side of Tandem: the draft loop, the link to the edge, the store of conversations.
//!
//! **Invariant: knows no window.** A terminal and an app are equal users of it; what happens is told
//! in plain values. Models compute on threads of their own, never on the async runtime.

mod address;
mod ahead;
mod begun;
mod benchmark;
mod boxes;
mod control;
mod discovery;
mod drafter;
mod generate;
mod link;
pub mod policy;
mod record;
mod rounds;
mod secrets;
pub mod store;
mod tls;
mod way;

pub use address::{AddressError, EdgeAddress};
pub use begun::Begun;
pub use benchmark::{
    Benchmark, BenchmarkError, BenchmarkRun, PROMPTS, Plan, Progress, Way, benchmark,
};
pub use boxes::{BoxError, Boxes, Target, device_name};
pub use control::{Checked, ControlError, Paired, check, forget, pair};
pub use discovery::{Found, discover};
pub use drafter::{DraftRequest, Drafted, Drafter, DrafterError};
pub use generate::{Answer, Event, GenerateError, Request, generate};
pub use link::{Channel, Incoming, Link, LinkState, Refusal};
pub use record::{Ahead, Finish, Gamma, Mode, Pair, RoundRecord, Totals, WhenEdgeLost, Writer};
pub use secrets::{Kept, SecretError};

use std::time::{SystemTime, UNIX_EPOCH};
use tandem_protocol::SessionId;

/// Random bytes from the system.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Fails only where the system has no randomness at all, and then nothing here can work.
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// A number in [0, 1), for spreading retries.
pub(crate) fn random_fraction() -> f64 {
    f64::from(u32::from_le_bytes(random())) / (f64::from(u32::MAX) + 1.0)
}

/// A new conversation's name on the edge.
#[must_use]
pub fn new_session() -> SessionId {
    SessionId(random())
}

/// A seed for an answer.
#[must_use]
pub fn new_seed() -> u64 {
    u64::from_le_bytes(random())
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
