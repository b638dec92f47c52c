//! The control socket: pairing, and what a paired device may ask about itself.
//!
//! It is a WebSocket of its own at [`crate::CONTROL_PATH`], so that a stranger who wants to pair
//! never reaches the decoder of rounds. Each request has one reply.

use crate::codec::{decode, encode, length};
use crate::{DecodeError, MAX_CONTROL_FRAME, MAX_DEVICE_NAME, MAX_TEXT, Refused};
use serde::{Deserialize, Serialize};

/// From device to edge.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlRequest {
    /// Begins pairing.
    Pair {
        /// The name under which the device wants to be known.
        device: String,
        /// Its part of the exchange.
        share: Vec<u8>,
    },
    /// Shows that the device knows the code and saw the edge's certificate.
    Prove {
        /// See [`crate::Proofs`].
        proof: [u8; 32],
    },
    /// What is at the other end; also to measure the round trip.
    Info,
    /// Forget this device's token.
    Forget,
}

/// From edge to device.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlReply {
    /// Answer to `Pair`.
    Share {
        /// The edge's part of the exchange.
        share: Vec<u8>,
    },
    /// Answer to `Prove`.
    Paired(Access),
    /// Answer to `Info`.
    Info(EdgeInfo),
    /// Answer to `Forget`.
    Forgotten,
    /// The request is refused; after it the connection closes.
    Refused(Refused),
}

/// What pairing gives.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Shows that the edge knows the code; see [`crate::Proofs`].
    pub proof: [u8; 32],
    /// The device's name in the edge's list.
    pub device: String,
    /// What opens the edge from now on. Only the device keeps it.
    pub token: String,
    /// The edge.
    pub edge: EdgeInfo,
}

/// An edge, as it presents itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeInfo {
    /// Its name, for people.
    pub name: String,
    /// Name of its model.
    pub model: String,
    /// Its version.
    pub version: String,
}

/// The bytes of a request.
#[must_use]
pub fn encode_request(request: &ControlRequest) -> Vec<u8> {
    encode(request)
}

/// The bytes of a reply.
#[must_use]
pub fn encode_reply(reply: &ControlReply) -> Vec<u8> {
    encode(reply)
}

/// A checked request.
///
/// # Errors
/// If the bytes are no request, or one that breaks a limit.
pub fn decode_request(bytes: &[u8]) -> Result<ControlRequest, DecodeError> {
    let request: ControlRequest = decode(bytes, MAX_CONTROL_FRAME)?;
    if let ControlRequest::Pair { device, share } = &request {
        length("the device's name", device.len(), 0, MAX_DEVICE_NAME)?;
        length("the share", share.len(), 1, MAX_SHARE)?;
    }
    Ok(request)
}

/// A checked reply.
///
/// # Errors
/// As [`decode_request`].
pub fn decode_reply(bytes: &[u8]) -> Result<ControlReply, DecodeError> {
    let reply: ControlReply = decode(bytes, MAX_CONTROL_FRAME)?;
    match &reply {
        ControlReply::Share { share } => length("the share", share.len(), 1, MAX_SHARE)?,
        ControlReply::Paired(access) => {
            length("the device's name", access.device.len(), 1, MAX_DEVICE_NAME)?;
            length("the token", access.token.len(), 16, MAX_TEXT)?;
            check(&access.edge)?;
        }
        ControlReply::Info(edge) => check(edge)?,
        ControlReply::Refused(refused) => {
            length("the message", refused.message.len(), 0, MAX_TEXT)?
        }
        ControlReply::Forgotten => {}
    }
    Ok(reply)
}

/// Bytes of one side's part of the exchange at most.
const MAX_SHARE: usize = 64;

fn check(edge: &EdgeInfo) -> Result<(), DecodeError> {
    length("the edge's name", edge.name.len(), 0, MAX_TEXT)?;
    length("the model's name", edge.model.len(), 0, MAX_TEXT)?;
    length("the edge's version", edge.version.len(), 0, MAX_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info() -> EdgeInfo {
        EdgeInfo { name: "attic".into(), model: "m".into(), version: "1".into() }
    }

    #[test]
    fn messages_survive() {
        for request in [
            ControlRequest::Pair { device: "phone".into(), share: vec![1; 33] },
            ControlRequest::Prove { proof: [3; 32] },
            ControlRequest::Info,
            ControlRequest::Forget,
        ] {
            assert!(decode_request(&encode_request(&request)).is_ok_and(|r| r == request));
        }
        let access =
            Access { proof: [1; 32], device: "id".into(), token: "t".repeat(43), edge: info() };
        for reply in [
            ControlReply::Share { share: vec![2; 33] },
            ControlReply::Paired(access),
            ControlReply::Info(info()),
            ControlReply::Forgotten,
        ] {
            assert!(decode_reply(&encode_reply(&reply)).is_ok_and(|r| r == reply));
        }
    }

    #[test]
    fn what_breaks_a_limit_is_refused() {
        let long = ControlRequest::Pair { device: "x".repeat(MAX_DEVICE_NAME + 1), share: vec![1] };
        assert!(matches!(decode_request(&encode_request(&long)), Err(DecodeError::Length { .. })));
        let huge = ControlRequest::Pair { device: String::new(), share: vec![0; MAX_SHARE + 1] };
        assert!(matches!(decode_request(&encode_request(&huge)), Err(DecodeError::Length { .. })));
        let frame = vec![0; MAX_CONTROL_FRAME + 1];
        assert!(matches!(decode_request(&frame), Err(DecodeError::TooLarge(..))));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_request(&bytes);
            let _ = decode_reply(&bytes);
        }
    }
}
