//! The edge: serves a verifier to devices over WebSockets.
//!
//! **Invariant: sockets never compute, and the compute thread never waits for a socket.** Connections
//! (`socket.rs`) hand checked messages to one thread (`scheduler.rs`) that owns the model and all
//! sessions (`session.rs`); answers go back through bounded channels, and a peer that does not read
//! them is dropped. All of that knows token ids and probabilities, never text; text is known in
//! `openai/` alone, the door for other clients.

mod access;
mod admission;
mod announce;
mod balancer;
mod colocated;
mod control;
mod devices;
mod edge;
mod finish;
mod half_closed;
mod http;
mod job;
mod kv_budget;
mod listen;
#[cfg(test)]
#[allow(dead_code, clippy::unwrap_used, reason = "shared with the tests of the engine")]
#[path = "../../crates/inference/tests/common/made.rs"]
mod made;
mod metrics;
mod openai;
mod pairing;
mod pass;
mod peer;
mod scheduler;
mod session;
mod share;
mod socket;
mod state;
mod step;
mod strangers;
mod tls;

pub use devices::{Device, Devices};
pub use edge::{Bound, Config, Edge, ServingNote, StartError};
pub use metrics::Metrics;
pub use pairing::{Offer, Outcome, Pairing};
pub use scheduler::Limits;
pub use state::{StateError, StateFolder};
pub use tls::Identity;
