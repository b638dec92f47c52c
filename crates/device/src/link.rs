//! The link to an edge: one WebSocket that is kept open, and opened again when it is lost.
//!
//! A task owns the socket. An answer registers for its generation and gets what the edge says about
//! it, or [`Incoming::Lost`]; what it does then (resume, go on alone, stop) is its own business.

use crate::address::EdgeAddress;
use crate::policy::Sleep;
use crate::tls::{self, ConnectError, Stream};
use futures_util::{SinkExt, StreamExt};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tandem_protocol::{
    CertificateId, ClientMessage, ErrorCode, Hello, MAX_SERVER_FRAME, Refused, SOCKET_PATH,
    SUBPROTOCOL, ServerMessage, Welcome, decode_server, encode_client,
};
use tandem_speculation::Planner;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) type Socket = WebSocketStream<Box<dyn Stream>>;

/// Time for connecting and for the edge's `Welcome`.
const CONNECT: Duration = Duration::from_secs(5);
/// A ping is sent this often; after three of them without a sign the edge is gone.
const PING: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// What an edge that refused is asked again after: someone may have changed its model or token, or
/// this device is back in the network where the address belongs to the right machine.
const REFUSED_WAIT: Duration = Duration::from_secs(15);
/// Messages of one generation that wait to be read at most; more are a broken edge.
const WAITING: usize = 4096;

/// How the link is.
#[derive(Clone, Debug)]
pub enum LinkState {
    /// Trying; `problem` says why the last attempt failed.
    Connecting {
        /// Why the last attempt failed, for people.
        problem: Option<String>,
    },
    /// Usable.
    Connected {
        /// What the edge offers.
        welcome: Arc<Welcome>,
        /// Counts connections; what was sent for an older one is dropped.
        epoch: u32,
    },
    /// The edge answers and does not want us; asked again now and then.
    Refused {
        /// Why, and what to do.
        problem: String,
        /// The same for programs.
        why: Refusal,
    },
}

/// Why an edge does not want us, or we do not want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It shows another certificate than the one it was paired with.
    Certificate,
    /// It does not know our token, or this device was never paired.
    Access,
    /// Anything else.
    Other,
}

/// What an answer hears from the link.
#[derive(Debug)]
pub enum Incoming {
    /// The edge said something about this generation.
    Message {
        /// What.
        message: ServerMessage,
        /// Bytes of its frame's payload.
        bytes: usize,
        /// When it came.
        at: Instant,
    },
    /// The connection is gone.
    Lost,
}

type Listeners = Arc<Mutex<HashMap<u32, mpsc::Sender<Incoming>>>>;

/// A handle to the link; the connection closes with the last one.
#[derive(Clone)]
pub struct Link {
    address: EdgeAddress,
    outgoing: mpsc::Sender<(u32, Vec<u8>)>,
    state: watch::Receiver<LinkState>,
    listeners: Listeners,
    next_generation: Arc<AtomicU32>,
    planner: Arc<Mutex<Planner>>,
    anew: Arc<Notify>,
    _guard: Arc<DropGuard>,
}

/// One generation's side of the link.
pub struct Channel {
    /// Its number on this link.
    pub generation: u32,
    link: Link,
    incoming: mpsc::Receiver<Incoming>,
}

impl Link {
    /// Starts connecting. Needs a tokio runtime.
    #[must_use]
    pub fn start(address: EdgeAddress, hello: Hello) -> Self {
        let (outgoing, orders) = mpsc::channel(64);
        let (report, state) = watch::channel(LinkState::Connecting { problem: None });
        let stop = CancellationToken::new();
        let listeners = Listeners::default();
        let anew = Arc::new(Notify::new());
        let mut planner = Planner::default();
        planner.share_machine(address.is_loopback());
        let task = Task {
            address: address.clone(),
            hello,
            orders,
            report,
            listeners: Arc::clone(&listeners),
            anew: Arc::clone(&anew),
            epoch: 0,
        };
        let ended = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = task.run() => {}
                () = ended.cancelled() => {}
            }
        });
        Self {
            address,
            outgoing,
            state,
            listeners,
            next_generation: Arc::new(AtomicU32::new(1)),
            planner: Arc::new(Mutex::new(planner)),
            anew,
            _guard: Arc::new(stop.drop_guard()),
        }
    }

    /// Where it leads.
    #[must_use]
    pub fn address(&self) -> &EdgeAddress {
        &self.address
    }

    /// What was measured of this link and the machines at its ends: an answer helps the next one.
    #[must_use]
    pub fn planner(&self) -> &Arc<Mutex<Planner>> {
        &self.planner
    }

    /// Follows the state.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// Waits until the edge is connected.
    ///
    /// # Errors
    /// If it refuses, or is not reached in `patience`: why, for people.
    pub async fn connected(&self, patience: Duration) -> Result<(Arc<Welcome>, u32), String> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|s| !matches!(s, LinkState::Connecting { .. }));
        let found = match timeout(patience, settled).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) => return Err("the link is closed".into()),
            Err(_) => self.state.borrow().clone(),
        };
        match found {
            LinkState::Connected { welcome, epoch } => Ok((welcome, epoch)),
            LinkState::Refused { problem, .. } => Err(problem),
            LinkState::Connecting { problem } => Err(problem.unwrap_or_else(|| {
                format!("the edge at {} does not answer; is it running?", self.address)
            })),
        }
    }

    /// Connects anew at once: the network is another one, or the device was asleep. A connection that
    /// still seems to be there may be dead without anybody saying so.
    pub fn reconnect(&self) {
        self.anew.notify_one();
    }

    /// Registers a new generation.
    #[must_use]
    pub fn channel(&self) -> Channel {
        let generation = self.next_generation.fetch_add(1, Ordering::Relaxed);
        let (sender, incoming) = mpsc::channel(WAITING);
        lock(&self.listeners).insert(generation, sender);
        Channel { generation, link: self.clone(), incoming }
    }

    /// Sends a message on the connection `epoch`; if that is gone the message is dropped, and
    /// [`Incoming::Lost`] tells. Returns the bytes of the frame's payload.
    pub fn send(&self, epoch: u32, message: &ClientMessage) -> usize {
        let bytes = encode_client(message);
        let length = bytes.len();
        // Full only while nothing is connected, when the message would be dropped anyway.
        let _ = self.outgoing.try_send((epoch, bytes));
        length
    }
}

impl Channel {
    /// The link.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The next thing that the edge says about this generation.
    pub async fn next(&mut self) -> Incoming {
        self.incoming.recv().await.unwrap_or(Incoming::Lost)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        lock(&self.link.listeners).remove(&self.generation);
    }
}

/// The clock on the wall.
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why there is no connection, for people.
pub(crate) enum Failure {
    /// Worth trying again soon.
    Unreachable(String),
    /// The edge answered and will not have us.
    Refused(String, Refusal),
}

impl Failure {
    fn refused(problem: impl Into<String>) -> Self {
        Self::Refused(problem.into(), Refusal::Other)
    }
}

struct Task {
    address: EdgeAddress,
    hello: Hello,
    orders: mpsc::Receiver<(u32, Vec<u8>)>,
    report: watch::Sender<LinkState>,
    listeners: Listeners,
    /// Asks for a new connection, and ends every wait for one.
    anew: Arc<Notify>,
    epoch: u32,
}

impl Task {
    async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        loop {
            while self.orders.try_recv().is_ok() {}
            let connected = tokio::select! {
                connected = self.connect() => connected,
                // What is being tried belongs to the old network.
                () = self.anew.notified() => continue,
            };
            match connected {
                Ok((socket, welcome)) => {
                    wait = FIRST_WAIT;
                    self.epoch += 1;
                    tracing::debug!("connected to {}", self.address);
                    let welcome = Arc::new(welcome);
                    let epoch = self.epoch;
                    self.report.send_replace(LinkState::Connected { welcome, epoch });
                    let problem = self.serve(socket).await;
                    tracing::debug!("lost {}: {problem}", self.address);
                    let problem = Some(problem);
                    self.report.send_replace(LinkState::Connecting { problem });
                    for listener in lock(&self.listeners).values() {
                        // A full queue is read to its end and then found to be lost.
                        let _ = listener.try_send(Incoming::Lost);
                    }
                }
                Err(Failure::Unreachable(problem)) => {
                    let problem = Some(problem);
                    self.report.send_replace(LinkState::Connecting { problem });
                }
                Err(Failure::Refused(problem, why)) => {
                    wait = REFUSED_WAIT;
                    self.report.send_replace(LinkState::Refused { problem, why });
                }
            }
            let pause = tokio::time::sleep(wait.mul_f64(0.8 + 0.4 * crate::random_fraction()));
            tokio::select! {
                () = pause => wait = (wait * 2).min(LONGEST_WAIT),
                () = self.anew.notified() => wait = FIRST_WAIT,
            }
        }
    }

    async fn connect(&self) -> Result<(Socket, Welcome), Failure> {
        let silent = || {
            Failure::Unreachable(format!("the edge at {} does not answer in time", self.address))
        };
        let mut socket = timeout(CONNECT, self.open()).await.map_err(|_| silent())??;
        let hello = encode_client(&ClientMessage::Hello(self.hello.clone()));
        let exchange = async {
            // Within the time that the answer to it has.
            socket.send(Message::binary(hello)).await.ok()?;
            loop {
                match socket.next().await?.ok()? {
                    Message::Binary(bytes) => return Some(bytes),
                    Message::Ping(_) | Message::Pong(_) => {}
                    _ => return None,
                }
            }
        };
        let bytes = timeout(CONNECT, exchange).await.map_err(|_| silent())?;
        let bytes = bytes.ok_or_else(|| {
            Failure::Unreachable(format!("the edge at {} closed the connection", self.address))
        })?;
        match decode_server(&bytes) {
            Ok(ServerMessage::Welcome(welcome)) if welcome.tokenizer == self.hello.tokenizer => {
                Ok((socket, welcome))
            }
            Ok(ServerMessage::Welcome(welcome)) => Err(Failure::refused(format!(
                "the drafter {} and the verifier {} have different tokenizers and cannot work \
                 together; choose a drafter of the verifier's family",
                self.hello.drafter, welcome.model
            ))),
            // These pass, and behind a balancer the next one may be free.
            Ok(ServerMessage::Refused(Refused {
                code: ErrorCode::Busy | ErrorCode::ShuttingDown,
                message,
            })) => Err(Failure::Unreachable(message)),
            Ok(ServerMessage::Refused(refused)) => Err(Failure::refused(refused.message)),
            Ok(_) => Err(Failure::refused("the edge did not answer Hello as it must")),
            Err(e) => Err(Failure::refused(format!(
                "the edge at {} sent something that is not understood ({e}); update the older of \
                 device and edge",
                self.address
            ))),
        }
    }

    async fn open(&self) -> Result<Socket, Failure> {
        let limit = MAX_SERVER_FRAME;
        open(&self.address, SOCKET_PATH, SUBPROTOCOL, limit).await.map(|(socket, _)| socket)
    }

    /// Until the connection is lost; returns why.
    async fn serve(&mut self, mut socket: Socket) -> String {
        let mut ping = tokio::time::interval(PING);
        let mut heard = Instant::now();
        let begun = heard;
        let mut sleep = Sleep::new(Duration::ZERO, wall());
        loop {
            tokio::select! {
                () = self.anew.notified() => {
                    // The pause after a loss is not for this one.
                    self.anew.notify_one();
                    return "the network changed".into();
                }
                order = self.orders.recv() => {
                    let Some((epoch, bytes)) = order else { return "closed".into() };
                    if epoch != self.epoch { continue }
                    match timeout(PING, socket.send(Message::binary(bytes))).await {
                        Ok(Ok(())) => {}
                        Ok(Err(e)) => return format!("the connection to the edge broke: {e}"),
                        Err(_) => return "the edge does not take what is sent".into(),
                    }
                }
                frame = socket.next() => {
                    heard = Instant::now();
                    match frame {
                        Some(Ok(Message::Binary(bytes))) => {
                            if let Err(problem) = self.hand_out(&bytes) { return problem }
                        }
                        Some(Ok(Message::Close(_))) | None => {
                            return "the edge closed the connection".into();
                        }
                        Some(Ok(_)) => {}
                        Some(Err(e)) => return format!("the connection to the edge broke: {e}"),
                    }
                }
                _ = ping.tick() => {
                    if sleep.woke(begun.elapsed(), wall()) {
                        self.anew.notify_one();
                        return "this device was asleep".into();
                    }
                    if heard.elapsed() > 3 * PING {
                        return "the edge went silent".into();
                    }
                    match timeout(PING, socket.send(Message::Ping(Default::default()))).await {
                        Ok(Ok(())) => {}
                        Ok(Err(e)) => return format!("the connection to the edge broke: {e}"),
                        Err(_) => return "the edge does not take what is sent".into(),
                    }
                }
            }
        }
    }

    fn hand_out(&self, bytes: &[u8]) -> Result<(), String> {
        let at = Instant::now();
        let message = decode_server(bytes)
            .map_err(|e| format!("the edge sent something that is not understood: {e}"))?;
        let generation = match &message {
            ServerMessage::Prefill(m) => Some(m.generation),
            ServerMessage::Waiting(m) => Some(m.generation),
            ServerMessage::Verdict(m) => Some(m.generation),
            ServerMessage::Written(m) => Some(m.generation),
            ServerMessage::Error(m) => m.generation,
            ServerMessage::Welcome(_) | ServerMessage::Refused(_) => {
                return Err("the edge sent a greeting in the middle".into());
            }
        };
        let Some(generation) = generation else {
            if let ServerMessage::Error(failure) = message {
                return Err(failure.message);
            }
            return Ok(());
        };
        let listeners = lock(&self.listeners);
        if let Some(listener) = listeners.get(&generation) {
            let incoming = Incoming::Message { message, bytes: bytes.len(), at };
            if let Err(mpsc::error::TrySendError::Full(_)) = listener.try_send(incoming) {
                return Err("the edge sends more than was asked for".into());
            }
        }
        Ok(())
    }
}

/// Connects to a WebSocket of an edge; also says which certificate it showed.
pub(crate) async fn open(
    address: &EdgeAddress,
    path: &str,
    subprotocol: &'static str,
    limit: usize,
) -> Result<(Socket, Option<CertificateId>), Failure> {
    let mut request = format!("{address}{path}")
        .into_client_request()
        .map_err(|e| Failure::refused(format!("{address} is not an edge's address: {e}")))?;
    let headers = request.headers_mut();
    headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static(subprotocol));
    if let Some(token) = address.token() {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| Failure::refused("the token holds characters that none can hold"))?;
        value.set_sensitive(true);
        headers.insert("Authorization", value);
    }
    let (stream, certificate) = tls::connect(address).await.map_err(|e| {
        let problem = e.to_string();
        match e {
            ConnectError::Unreachable(..) => Failure::Unreachable(problem),
            ConnectError::Changed(_) => Failure::Refused(problem, Refusal::Certificate),
            ConnectError::NotPaired(_) => Failure::Refused(problem, Refusal::Access),
            ConnectError::Plain(_) | ConnectError::Tls(..) => Failure::refused(problem),
        }
    })?;
    let config =
        WebSocketConfig::default().max_message_size(Some(limit)).max_frame_size(Some(limit));
    match client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok((socket, certificate)),
        Err(error) => Err(explain(address, error)),
    }
}

fn explain(at: &EdgeAddress, error: WsError) -> Failure {
    match error {
        WsError::Http(response) => {
            let says = response.body().as_deref().map(String::from_utf8_lossy);
            let says: String = says.unwrap_or_default().trim().chars().take(300).collect();
            match response.status().as_u16() {
                401 => {
                    let what = if at.is_secure() {
                        "does not know this device, or its access was revoked on the box; pair it \
                         again: run `tandem-edge pair` there"
                    } else {
                        "refuses the token: give the one that it was started with"
                    };
                    Failure::Refused(format!("the edge at {at} {what}"), Refusal::Access)
                }
                // Somebody who reaches the edge through the same address is guessing; that passes.
                429 => {
                    Failure::Unreachable(format!("the edge at {at} does not listen now: {says}"))
                }
                404 | 200 => Failure::refused(format!(
                    "something answers at {at}, but it is not a Tandem edge"
                )),
                426 => Failure::refused(format!(
                    "the edge at {at} speaks TLS only: pair this device with it, run \
                     `tandem-edge pair` on the box"
                )),
                // An edge that stops, or a balancer that has none at the moment.
                502..=504 => Failure::Unreachable(format!(
                    "the edge at {at} is not ready (status {}): {says}",
                    response.status().as_u16()
                )),
                status => Failure::refused(format!(
                    "the edge at {at} refuses with status {status}: {says}"
                )),
            }
        }
        // Cut off in the middle, as by an edge that is being started again or a network that changes.
        WsError::Protocol(ProtocolError::HandshakeIncomplete) => Failure::Unreachable(format!(
            "cannot reach the edge at {at}: the connection broke before it answered; is it running \
             and in this network?"
        )),
        WsError::Protocol(e) => Failure::refused(format!(
            "what answers at {at} does not speak {SUBPROTOCOL} ({e}); is the address right, and \
             are device and edge of the same version?"
        )),
        WsError::Io(e) => Failure::Unreachable(format!(
            "cannot reach the edge at {at}: {e}; is it running and in this network?"
        )),
        e => Failure::Unreachable(format!("cannot reach the edge at {at}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_hangs_up_is_asked_again_soon_and_a_stranger_is_not() {
        let at: EdgeAddress = "127.0.0.1:7470".parse().unwrap();
        let cut = explain(&at, WsError::Protocol(ProtocolError::HandshakeIncomplete));
        assert!(matches!(cut, Failure::Unreachable(_)));
        let stranger = explain(&at, WsError::Protocol(ProtocolError::WrongHttpVersion));
        assert!(matches!(stranger, Failure::Refused(..)));
    }
}
