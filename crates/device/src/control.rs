//! The device's side of the control socket: pairing, testing a box, and taking leave of it.

use crate::address::EdgeAddress;
use crate::link::{Failure, Refusal, Socket, open};
use futures_util::{SinkExt, StreamExt};
use std::time::{Duration, Instant};
use tandem_protocol::{
    CONTROL_PATH, CONTROL_SUBPROTOCOL, CertificateId, ControlReply, ControlRequest, EdgeInfo,
    ErrorCode, Exchange, MAX_CONTROL_FRAME, PairingCode, Side, clean_name, decode_reply,
    encode_request, same,
};
use thiserror::Error;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// Time for a connection, and for each reply.
const PATIENCE: Duration = Duration::from_secs(8);
/// Requests whose round trip is measured.
const SAMPLES: usize = 7;

/// Why an edge did not do what was asked. The text says what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ControlError {
    /// It cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// It shows another certificate.
    #[error("{0}")]
    Certificate(String),
    /// It does not know our token any more.
    #[error("{0}")]
    Access(String),
    /// It refuses the code.
    #[error("{0}")]
    Pairing(String),
    /// Whoever answered does not know the code: nothing is kept of this.
    #[error(
        "what answered does not know the code that was typed in, so it may not be your box; nothing \
         was kept. Compare the address with what the box shows"
    )]
    Impostor,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<Failure> for ControlError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(text) => Self::Unreachable(text),
            Failure::Refused(text, Refusal::Certificate) => Self::Certificate(text),
            Failure::Refused(text, Refusal::Access) => Self::Access(text),
            Failure::Refused(text, Refusal::Other) => Self::Other(text),
        }
    }
}

/// What pairing gave.
pub struct Paired {
    /// Where the edge is, with its certificate.
    pub address: EdgeAddress,
    /// Its certificate.
    pub certificate: CertificateId,
    /// This device's id in the edge's list.
    pub device: String,
    /// What opens the edge.
    pub token: String,
    /// The edge.
    pub edge: EdgeInfo,
}

/// How a box is.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The edge.
    pub edge: EdgeInfo,
    /// Time for a message there and back: the middle one of several, in milliseconds.
    pub rtt_ms: f64,
}

/// Pairs with the edge at `address` by a code that it shows. `certificate` is known from a link or a
/// picture; with a typed code it is learnt, and proved by the code.
///
/// # Errors
/// If the edge is not reached, refuses, or is not the one that made the code.
pub async fn pair(
    address: &EdgeAddress,
    certificate: Option<CertificateId>,
    code: &PairingCode,
    device: &str,
) -> Result<Paired, ControlError> {
    let address = address.clone().with_token(None);
    let wanted = match certificate {
        Some(certificate) => address.clone().pinned(certificate),
        None => address.clone().with_any_certificate(),
    };
    let (mut control, seen) = Control::connect(&wanted).await?;
    let seen = seen.ok_or(ControlError::Impostor)?;
    let device = clean_name(device);
    let (exchange, share) = Exchange::start(Side::Device, code);
    let asked = ControlRequest::Pair { device: device.clone(), share };
    let ControlReply::Share { share } = control.ask(&asked).await? else { return Err(odd()) };
    let proofs =
        exchange.finish(&share, &seen, &device).map_err(|e| ControlError::Other(e.to_string()))?;
    let shown = ControlRequest::Prove { proof: proofs.device };
    let ControlReply::Paired(access) = control.ask(&shown).await? else { return Err(odd()) };
    if !same(&access.proof, &proofs.edge) {
        return Err(ControlError::Impostor);
    }
    control.leave().await;
    Ok(Paired {
        address: address.pinned(seen).with_token(Some(access.token.clone())),
        certificate: seen,
        device: access.device,
        token: access.token,
        edge: clean(access.edge),
    })
}

/// Whether a box answers, what it serves, and how far away it is.
///
/// # Errors
/// If it is not reached or refuses.
pub async fn check(address: &EdgeAddress) -> Result<Checked, ControlError> {
    let (mut control, _) = Control::connect(address).await?;
    let mut times = Vec::new();
    loop {
        let sent = Instant::now();
        let ControlReply::Info(edge) = control.ask(&ControlRequest::Info).await? else {
            return Err(odd());
        };
        times.push(sent.elapsed().as_secs_f64() * 1e3);
        if times.len() == SAMPLES {
            control.leave().await;
            times.sort_by(f64::total_cmp);
            return Ok(Checked { edge: clean(edge), rtt_ms: times[SAMPLES / 2] });
        }
    }
}

/// Tells a box to forget this device.
///
/// # Errors
/// If it is not reached or refuses.
pub async fn forget(address: &EdgeAddress) -> Result<(), ControlError> {
    let (mut control, _) = Control::connect(address).await?;
    match control.ask(&ControlRequest::Forget).await? {
        ControlReply::Forgotten => Ok(()),
        _ => Err(odd()),
    }
}

fn odd() -> ControlError {
    let text = "the edge did not answer as it must; update the older of device and edge";
    ControlError::Other(text.into())
}

/// Names from an edge are shown.
fn clean(edge: EdgeInfo) -> EdgeInfo {
    EdgeInfo {
        name: clean_name(&edge.name),
        model: clean_name(&edge.model),
        version: clean_name(&edge.version),
    }
}

struct Control(Socket);

impl Control {
    async fn connect(address: &EdgeAddress) -> Result<(Self, Option<CertificateId>), ControlError> {
        let opened = open(address, CONTROL_PATH, CONTROL_SUBPROTOCOL, MAX_CONTROL_FRAME);
        let (socket, seen) = timeout(PATIENCE, opened).await.map_err(|_| {
            ControlError::Unreachable(format!("the edge at {address} does not answer in time"))
        })??;
        Ok((Self(socket), seen))
    }

    async fn ask(&mut self, request: &ControlRequest) -> Result<ControlReply, ControlError> {
        let exchange = async {
            self.0.send(Message::binary(encode_request(request))).await.ok()?;
            loop {
                match self.0.next().await?.ok()? {
                    Message::Binary(bytes) => return Some(bytes),
                    Message::Ping(_) | Message::Pong(_) => {}
                    _ => return None,
                }
            }
        };
        let bytes = timeout(PATIENCE, exchange).await.ok().flatten().ok_or_else(|| {
            ControlError::Unreachable("the edge closed the connection before it answered".into())
        })?;
        match decode_reply(&bytes) {
            Ok(ControlReply::Refused(refused)) => Err(match refused.code {
                ErrorCode::Pairing => ControlError::Pairing(refused.message),
                ErrorCode::Access => ControlError::Access(refused.message),
                _ => ControlError::Other(refused.message),
            }),
            Ok(reply) => Ok(reply),
            Err(_) => Err(odd()),
        }
    }

    async fn leave(mut self) {
        let _ = timeout(Duration::from_secs(1), self.0.close(None)).await;
    }
}
