//! What a peer may ask for at most.

/// The WebSocket sub-protocol; its number changes when old and new cannot talk.
pub const SUBPROTOCOL: &str = "tandem.v1";
/// Counts changes of the messages, in `Hello` so that a mismatch can be explained.
pub const PROTOCOL_VERSION: u16 = 4;
/// Tokens drafted in one round (γ) at most.
pub const MAX_DRAFT: usize = 32;
/// Drafts of one generation that wait for their verdict at most.
pub use tandem_speculation::MAX_IN_FLIGHT;
/// Tokens of a context at most, whatever the model allows.
pub const MAX_CONTEXT: usize = 1 << 17;
/// Bytes of a frame from device to edge at most: an `Open` with a full context.
pub const MAX_CLIENT_FRAME: usize = MAX_CONTEXT * 5 + 1024;
/// Bytes of a frame from edge to device at most: a full vector of a large vocabulary.
pub const MAX_SERVER_FRAME: usize = MAX_VOCAB * 4 + 1024;
/// Bytes of a name or a text in a message at most.
pub const MAX_TEXT: usize = 1024;
/// Tokens that the device resolved and the edge has not seen, at most, in one round.
pub const MAX_COMMITTED: usize = 64;
/// Number of a round at most. Each round of an answer gives a token or accepts one, so no answer that fits
/// a context comes near it, and a number that a round is counted on from never overflows.
pub const MAX_ROUND: u32 = 1 << 24;
/// Verdicts of a generation that brought a token, at most: each stands for a token of the context.
pub const MAX_BRANCH: u32 = MAX_CONTEXT as u32;
/// Entries of a vocabulary at most: a whole vector of probabilities fits a frame.
pub const MAX_VOCAB: usize = 1 << 19;
/// Answers that wait for room on an edge at most.
pub const MAX_WAITING: usize = 256;
/// Path of the WebSocket on an edge.
pub const SOCKET_PATH: &str = "/v1/ws";
/// Path of the control socket on an edge.
pub const CONTROL_PATH: &str = "/v1/control";
/// The sub-protocol of the control socket.
pub const CONTROL_SUBPROTOCOL: &str = "tandem.control.v1";
/// Bytes of a frame on the control socket at most.
pub const MAX_CONTROL_FRAME: usize = 8192;
/// Bytes of a device's name at most.
pub const MAX_DEVICE_NAME: usize = 200;
/// What an edge is looked for as by mDNS.
pub const SERVICE_TYPE: &str = "_tandem._tcp.local.";
