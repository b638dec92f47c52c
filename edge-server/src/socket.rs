//! One connection: handshake, then frames in and out. Nothing here computes.

use crate::access::Pass;
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::scheduler::Work;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::{SinkExt, StreamExt};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tandem_protocol::{
    ClientMessage, ErrorCode, Failure, Hello, PROTOCOL_VERSION, Refused, ServerMessage, Welcome,
    clean_name, decode_client, encode_server, short_text,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Time for the first message.
const HELLO: Duration = Duration::from_secs(10);
/// A ping is sent after this silence; a peer silent for three of them is gone.
const PING: Duration = Duration::from_secs(20);
/// Answers waiting for a slow reader at most.
pub(crate) const OUTBOUND: usize = 256;
/// Messages of one connection that wait for compute at most. The next is read when one of them is taken:
/// a device may have more answers and drafts on their way than this, and then the network holds them back.
const INBOUND: usize = 8;

/// What all connections share.
pub(crate) struct Shared {
    pub welcome: Welcome,
    pub work: mpsc::Sender<Work>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
    /// Nothing new is begun here any more.
    pub draining: CancellationToken,
    /// Places for connections.
    pub places: Arc<Semaphore>,
}

pub(crate) async fn serve(mut socket: WebSocket, shared: Arc<Shared>, connection: u64, pass: Pass) {
    let Ok(_place) = Arc::clone(&shared.places).try_acquire_owned() else {
        refuse(&mut socket, ErrorCode::Busy, "the edge has too many connections; try again later")
            .await;
        return;
    };
    let Ok(_own) = Arc::clone(&pass.places).try_acquire_owned() else {
        let text = "this device has too many connections; close some of its programs";
        refuse(&mut socket, ErrorCode::Busy, text).await;
        return;
    };
    shared.metrics.connections.inc();
    if hello(&mut socket, &shared).await {
        run(socket, &shared, connection, &pass).await;
    }
    shared.metrics.connections.dec();
}

async fn refuse(socket: &mut WebSocket, code: ErrorCode, message: impl Into<String>) {
    let refused = ServerMessage::Refused(Refused { code, message: short_text(message) });
    let _ = socket.send(Message::Binary(encode_server(&refused).into())).await;
    let _ = socket.send(Message::Close(None)).await;
}

/// Whether the peer may stay.
async fn hello(socket: &mut WebSocket, shared: &Shared) -> bool {
    let first = match timeout(HELLO, socket.recv()).await {
        Ok(Some(Ok(Message::Binary(bytes)))) => bytes,
        Ok(Some(Ok(_))) => {
            refuse(socket, ErrorCode::BadMessage, "the first message must be a binary Hello").await;
            return false;
        }
        Ok(_) => return false,
        Err(_) => {
            refuse(socket, ErrorCode::BadMessage, "no Hello came within ten seconds").await;
            return false;
        }
    };
    shared.metrics.received.inc_by(first.len() as u64);
    let refusal = match decode_client(&first) {
        Ok(ClientMessage::Hello(hello)) => check(&hello, &shared.welcome),
        Ok(_) => Some((ErrorCode::State, "the first message must be Hello".to_owned())),
        Err(e) => Some((ErrorCode::BadMessage, e.to_string())),
    };
    if let Some((code, text)) = refusal {
        tracing::info!("refused a device: {text}");
        shared.metrics.error(code);
        refuse(socket, code, text).await;
        return false;
    }
    let bytes = encode_server(&ServerMessage::Welcome(shared.welcome.clone()));
    socket.send(Message::Binary(bytes.into())).await.is_ok()
}

/// Why a device cannot be served, with what to do.
fn check(hello: &Hello, welcome: &Welcome) -> Option<(ErrorCode, String)> {
    if hello.protocol != PROTOCOL_VERSION {
        return Some((
            ErrorCode::Protocol,
            format!(
                "the device speaks protocol {}, this edge (version {}) speaks {PROTOCOL_VERSION}; \
                 update the older of the two",
                hello.protocol, welcome.edge_version
            ),
        ));
    }
    if let Some(wanted) = hello.model.as_ref().filter(|wanted| **wanted != welcome.model) {
        return Some((
            ErrorCode::Model,
            format!(
                "the device wants the model {}, this edge has {}",
                clean_name(wanted),
                welcome.model
            ),
        ));
    }
    if hello.tokenizer != welcome.tokenizer {
        return Some((
            ErrorCode::Tokenizer,
            format!(
                "the drafter {} and the verifier {} have different tokenizers and cannot work \
                 together; choose a drafter of the verifier's family",
                clean_name(&hello.drafter),
                welcome.model
            ),
        ));
    }
    None
}

async fn run(socket: WebSocket, shared: &Shared, connection: u64, pass: &Pass) {
    let (mut sink, mut stream) = socket.split();
    let (sender, mut outbound) = mpsc::channel::<Vec<u8>>(OUTBOUND);
    let kill = CancellationToken::new();
    let (owner, metrics) = (pass.owner(), Arc::clone(&shared.metrics));
    let peer = Peer { connection, owner, sender, kill: kill.clone(), metrics };
    let inbound = Arc::new(Semaphore::new(INBOUND));
    let mut ping = tokio::time::interval(PING);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            () = kill.cancelled() => {
                tracing::info!("dropped a device that does not read its answers");
                break;
            }
            () = pass.revoked.cancelled() => {
                let text = "this device's access was revoked on the box; pair it again to use it";
                end(&mut sink, shared, ErrorCode::Access, text).await;
                break;
            }
            () = shared.stop.cancelled() => {
                // What compute said before it ended goes out first.
                while let Ok(Some(bytes)) = timeout(Duration::from_secs(2), outbound.recv()).await {
                    let last = outbound.is_empty();
                    if sink.send(Message::Binary(bytes.into())).await.is_err() || last { break }
                }
                let frame = CloseFrame { code: 1001, reason: "the edge is stopping".into() };
                let _ = sink.send(Message::Close(Some(frame))).await;
                break;
            }
            bytes = outbound.recv() => {
                let Some(bytes) = bytes else { break };
                let sent = timeout(PING, sink.send(Message::Binary(bytes.into()))).await;
                if !matches!(sent, Ok(Ok(()))) { break }
            }
            _ = ping.tick() => {
                if inbound.available_permits() == 0 {
                    // It is not read from, so it may have said something.
                    heard = Instant::now();
                }
                if heard.elapsed() > 3 * PING || sink.send(Message::Ping(Vec::new().into())).await.is_err() {
                    break;
                }
            }
            (permit, frame) = next(&inbound, &mut stream) => {
                heard = Instant::now();
                let bytes = match frame {
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Text(_))) => {
                        let text = "text frames are not part of this protocol";
                        violation(&mut sink, shared, text).await;
                        break;
                    }
                    Some(Ok(Message::Close(_))) | None => break,
                    Some(Err(e)) => {
                        // A frame above the limit, or bytes that are no frame; or the peer is gone.
                        violation(&mut sink, shared, &e.to_string()).await;
                        break;
                    }
                };
                shared.metrics.received.inc_by(bytes.len() as u64);
                let message = match decode_client(&bytes) {
                    Ok(message) => message,
                    Err(e) => {
                        violation(&mut sink, shared, &e.to_string()).await;
                        break;
                    }
                };
                if matches!(message, ClientMessage::Open(_)) && shared.draining.is_cancelled() {
                    // The device opens the same answer again where it connects next.
                    let text = "the edge is stopping; go on at another one";
                    end(&mut sink, shared, ErrorCode::ShuttingDown, text).await;
                    break;
                }
                let arrived = Instant::now();
                let work = Work::Message { peer: peer.clone(), message, arrived, permit };
                if shared.work.send(work).await.is_err() { break }
            }
        }
    }
    let _ = shared.work.send(Work::Gone { connection }).await;
}

/// The next frame, once there is a place for what it holds. Nothing is lost when this is dropped.
async fn next(inbound: &Arc<Semaphore>, stream: &mut Frames) -> (OwnedSemaphorePermit, Frame) {
    let permit = match Arc::clone(inbound).acquire_owned().await {
        Ok(permit) => permit,
        // It is never closed.
        Err(_) => std::future::pending().await,
    };
    (permit, stream.next().await)
}

type Frames = futures_util::stream::SplitStream<WebSocket>;
type Frame = Option<Result<Message, axum::Error>>;
type Sink = futures_util::stream::SplitSink<WebSocket, Message>;

/// Says what was wrong with what came; the connection ends after it.
async fn violation(sink: &mut Sink, shared: &Shared, text: &str) {
    end(sink, shared, ErrorCode::BadMessage, text).await;
}

/// Says why the connection ends now.
async fn end(sink: &mut Sink, shared: &Shared, code: ErrorCode, text: &str) {
    let failure = Failure { generation: None, code, message: short_text(text) };
    let bytes = encode_server(&ServerMessage::Error(failure));
    if sink.send(Message::Binary(bytes.into())).await.is_ok() {
        shared.metrics.error(code);
    }
    let frame = CloseFrame { code: 1008, reason: "see the message before".into() };
    let _ = sink.send(Message::Close(Some(frame))).await;
}
