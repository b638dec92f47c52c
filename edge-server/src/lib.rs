//! The edge: serves a verifier to devices over WebSockets.
//!
//! **Invariant: sockets never compute, and the compute thread never waits for a socket.** Connections
//! (`socket.rs`) hand checked messages to one thread (`scheduler.rs`) that owns the model and all
//! sessions (`session.rs`); answers go back through bounded channels, and a peer that does not read
//! them is dropped. The edge knows token ids and probabilities, never text.

mod http;
mod metrics;
mod peer;
mod scheduler;
mod session;
mod socket;

pub use http::{Bound, Config, Edge, StartError};
pub use metrics::Metrics;
pub use scheduler::Limits;
