//! Messages between device and edge, their encoding and their limits.
//!
//! **Invariant: knows no model and no socket.** It turns bytes into checked messages and back.
//! Whatever [`decode_client`] or [`decode_server`] returns has bounded sizes and sane numbers; only
//! what depends on the model (is this id in its vocabulary?) is left to [`check_ids`].
//!
//! The transport is a WebSocket with binary frames and the sub-protocol [`SUBPROTOCOL`]; each frame
//! is one message in postcard's encoding. A bearer token, where the edge wants one, is in the
//! `Authorization` header of the upgrade request, so that a stranger never reaches this decoder.
//!
//! A conversation: [`Hello`] → [`Welcome`] or [`Refused`]; then for each answer [`Open`] (always with
//! all tokens: resuming after a lost connection is opening again, and the edge reuses what it still
//! has of the KV cache) → [`Prefill`] reports; then rounds, [`Draft`] → [`Verdict`].

mod codec;
mod control;
mod limits;
mod log;
mod message;
mod pairing;

pub use codec::{
    DecodeError, check_ids, decode_client, decode_server, encode_client, encode_server,
};
pub use control::{
    Access, ControlReply, ControlRequest, EdgeInfo, decode_reply, decode_request, encode_reply,
    encode_request,
};
pub use limits::*;
pub use log::without_words;
pub use message::*;
pub use pairing::{
    CertificateId, Exchange, PairingCode, PairingError, PairingLink, Proofs, Side, clean_name, same,
};
