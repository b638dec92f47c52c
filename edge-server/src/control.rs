//! The control socket: pairing by code, and what a paired device asks about itself.

use crate::access::{Access, Pass};
use crate::pairing::{Pairing, Refusal};
use crate::state::StateError;
use crate::strangers::Stranger;
use axum::extract::ws::{Message, WebSocket};
use std::sync::Arc;
use std::time::Duration;
use tandem_protocol::{
    Access as Granted, CertificateId, ControlReply, ControlRequest, EdgeInfo, ErrorCode, Exchange,
    Proofs, Refused, Side, clean_name, decode_request, encode_reply,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A control socket may be silent this long.
const SILENCE: Duration = Duration::from_secs(20);
/// Time for all of a pairing: a person types the code before it begins.
const PAIRING: Duration = Duration::from_secs(60);
/// Control sockets at once; more than one address may have that are nobody's.
const MOST: usize = 64;
/// Pairings begun at once.
const BEGINS: usize = 2;

/// What all control sockets share.
pub(crate) struct Control {
    pub access: Arc<Access>,
    /// Only on an edge with TLS: the proofs are over its certificate.
    pub pairing: Option<(Arc<Pairing>, CertificateId)>,
    pub info: EdgeInfo,
    pub stop: CancellationToken,
    pub places: Semaphore,
    /// Pairings that are begun at once: each reads a file and computes on a curve.
    pub begins: Semaphore,
}

/// A device in the middle of pairing.
struct Run {
    offer: String,
    device: String,
    proofs: Proofs,
}

impl Control {
    pub(crate) fn places() -> [Semaphore; 2] {
        [Semaphore::new(MOST), Semaphore::new(BEGINS)]
    }

    /// Until the peer leaves, asks for something that it may not have, or is silent. `pass` is what
    /// its token opens, if it has one; without one the peer stays a `stranger` and is counted as such.
    pub(crate) async fn serve(
        &self,
        mut socket: WebSocket,
        pass: Option<Pass>,
        stranger: Option<Stranger>,
    ) {
        // Who is known holds no place of a stranger.
        let stranger = stranger.map(|mut stranger| {
            if pass.is_some() {
                stranger.let_in();
            }
            stranger
        });
        let patience = if pass.is_none() { PAIRING } else { Duration::MAX };
        let Ok(_place) = self.places.try_acquire() else {
            let text = "the edge is busy with other devices; try again";
            let _ = send(&mut socket, &refused(ErrorCode::Busy, text)).await;
            return;
        };
        let mut run = None;
        let over = tokio::time::sleep(patience);
        tokio::pin!(over);
        loop {
            let frame = tokio::select! {
                () = self.stop.cancelled() => break,
                () = &mut over => break,
                frame = timeout(SILENCE, socket.recv()) => frame,
            };
            let reply = match frame {
                Ok(Some(Ok(Message::Binary(bytes)))) => match decode_request(&bytes) {
                    Ok(request) => {
                        self.answer(request, pass.as_ref(), stranger.as_ref(), &mut run).await
                    }
                    Err(e) => refused(ErrorCode::BadMessage, &e.to_string()),
                },
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => continue,
                _ => break,
            };
            let last = matches!(reply, ControlReply::Refused(_) | ControlReply::Forgotten);
            if !send(&mut socket, &reply).await || last {
                break;
            }
        }
        let _ = socket.send(Message::Close(None)).await;
    }

    async fn answer(
        &self,
        request: ControlRequest,
        pass: Option<&Pass>,
        stranger: Option<&Stranger>,
        run: &mut Option<Run>,
    ) -> ControlReply {
        match (request, pass) {
            (ControlRequest::Pair { device, share }, _) => {
                // One that is not proved costs a try of its address.
                if let Some(wait) = stranger.and_then(Stranger::must_wait_to_pair) {
                    let text = format!(
                        "too many pairings were begun from this address; try again in {} seconds",
                        wait.as_secs() + 1
                    );
                    return refused(ErrorCode::Busy, &text);
                }
                stranger.map(Stranger::began).unwrap_or_default();
                match self.begin(device, share).await {
                    Ok((begun, share)) => {
                        *run = Some(begun);
                        ControlReply::Share { share }
                    }
                    Err(reply) => *reply,
                }
            }
            (ControlRequest::Prove { proof }, _) => match run.take() {
                Some(run) => {
                    let reply = self.prove(run, proof).await;
                    if matches!(reply, ControlReply::Paired(_)) {
                        stranger.map(Stranger::proved).unwrap_or_default();
                    }
                    reply
                }
                None => refused(ErrorCode::State, "there is nothing to prove yet"),
            },
            (ControlRequest::Info, Some(pass)) if !pass.revoked.is_cancelled() => {
                ControlReply::Info(self.info.clone())
            }
            (ControlRequest::Forget, Some(pass)) => self.forget(pass).await,
            (ControlRequest::Info | ControlRequest::Forget, _) => {
                refused(ErrorCode::Access, "this needs the token of a paired device")
            }
        }
    }

    async fn begin(
        &self,
        device: String,
        share: Vec<u8>,
    ) -> Result<(Run, Vec<u8>), Box<ControlReply>> {
        fn no(code: ErrorCode, text: &str) -> Box<ControlReply> {
            Box::new(refused(code, text))
        }
        let Some((pairing, certificate)) = self.pairing.clone() else {
            let text = "this edge serves its own machine only, without TLS, and pairs with nothing; \
                        start it with --listen 0.0.0.0:7470 or with --tls";
            return Err(no(ErrorCode::Pairing, text));
        };
        let turn = self.begins.acquire().await;
        let _turn = turn.map_err(|e| no(ErrorCode::Internal, &internal(&e)))?;
        // Reads a file and computes.
        let begun = tokio::task::spawn_blocking(move || {
            let (offer, code) = pairing
                .begin()
                .map_err(|e| no(ErrorCode::Internal, &internal(&e)))?
                .map_err(|refusal| no(ErrorCode::Pairing, refusal.text()))?;
            let (exchange, own) = Exchange::start(Side::Edge, &code);
            let proofs = exchange
                .finish(&share, &certificate, &device)
                .map_err(|e| no(ErrorCode::BadMessage, &e.to_string()))?;
            Ok((Run { offer, device, proofs }, own))
        });
        begun.await.map_err(|e| no(ErrorCode::Internal, &internal(&e)))?
    }

    async fn prove(&self, run: Run, shown: [u8; 32]) -> ControlReply {
        let (Some((pairing, _)), Some(devices)) = (&self.pairing, self.access.devices()) else {
            return refused(ErrorCode::State, "this edge pairs with nothing");
        };
        let (pairing, devices) = (Arc::clone(pairing), devices.clone());
        // Files are locked and written.
        let done = tokio::task::spawn_blocking(move || {
            let verdict = pairing.settle(&run.offer, &run.device, &shown, &run.proofs.device)?;
            Ok::<_, StateError>(match verdict {
                Ok(()) => Ok((devices.add(&run.device)?, run.proofs.edge)),
                Err(refusal) => Err(refusal),
            })
        });
        match done.await {
            Ok(Ok(Ok(((device, token), proof)))) => {
                self.access.refresh();
                tracing::info!("paired with {}", clean_name(&device.name));
                let edge = self.info.clone();
                ControlReply::Paired(Granted { proof, device: device.id, token, edge })
            }
            Ok(Ok(Err(refusal))) => {
                if matches!(refusal, Refusal::Wrong | Refusal::Guessed) {
                    tracing::warn!("a device showed a wrong pairing code");
                }
                refused(ErrorCode::Pairing, refusal.text())
            }
            Ok(Err(full @ StateError::Full(_))) => refused(ErrorCode::Pairing, &full.to_string()),
            Ok(Err(e)) => refused(ErrorCode::Internal, &internal(&e)),
            Err(e) => refused(ErrorCode::Internal, &internal(&e)),
        }
    }

    async fn forget(&self, pass: &Pass) -> ControlReply {
        let (Some(device), Some(devices)) = (pass.device.clone(), self.access.devices()) else {
            let text = "the edge's static token is not a paired device's; it ends with the edge";
            return refused(ErrorCode::Access, text);
        };
        let devices = devices.clone();
        let done = tokio::task::spawn_blocking(move || devices.revoke(&device.id));
        match done.await {
            // Whoever was faster: it is forgotten.
            Ok(Ok(_) | Err(StateError::NoDevice(_))) => {
                self.access.refresh();
                ControlReply::Forgotten
            }
            Ok(Err(e)) => refused(ErrorCode::Internal, &internal(&e)),
            Err(e) => refused(ErrorCode::Internal, &internal(&e)),
        }
    }
}

/// The log has the reason; a stranger needs no paths of this machine.
fn internal(e: &dyn std::fmt::Display) -> String {
    tracing::error!("{e}");
    "the edge cannot use its own files; its log says why".into()
}

fn refused(code: ErrorCode, message: &str) -> ControlReply {
    let message = message.chars().take(500).collect();
    ControlReply::Refused(Refused { code, message })
}

async fn send(socket: &mut WebSocket, reply: &ControlReply) -> bool {
    socket.send(Message::Binary(encode_reply(reply).into())).await.is_ok()
}
