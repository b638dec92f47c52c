//! Accepts connections, speaks TLS where the edge has it, and hands them to the router.
//!
//! A stranger costs little: handshakes and the wait for a request are short, and there are limits on
//! connections that have not become a device's yet, in all and for each address (`strangers.rs`), which
//! a balancer tells where there is one (`balancer.rs`).

use crate::access::shows_token;
use crate::balancer;
use crate::half_closed::{Ended, Line, Watched};
use crate::http::is_public;
use crate::openai;
use crate::strangers::{Stranger, Strangers};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tandem_protocol::CONTROL_PATH;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Time for a request's head.
const HEAD: Duration = Duration::from_secs(10);
/// Connections that are no device's yet, at most, beyond those of devices.
const STRANGERS: usize = 128;
/// Bytes of a request's head at most, and fields in it.
const HEAD_BYTES: usize = 64 << 10;
const HEAD_FIELDS: usize = 64;
/// How long the answer to a wrong token is held back, from an address that has shown many.
const PAUSE: Duration = Duration::from_millis(500);
/// Time for open requests at the end.
const GRACE: Duration = Duration::from_secs(3);
/// The first byte of a TLS connection.
const TLS_RECORD: u8 = 22;

/// What someone gets who speaks plain text to an edge with TLS.
fn plain() -> String {
    let text = "this edge speaks TLS only: pair this device with it (run `tandem-edge pair` on the \
                box), and use wss:// instead of ws://\n";
    format!(
        "HTTP/1.1 426 Upgrade Required\r\nContent-Type: text/plain\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{text}",
        text.len()
    )
}

/// Serves until `over`.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    devices: usize,
    balancers: Arc<[IpAddr]>,
    over: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(devices + STRANGERS));
    let tls = tls.map(TlsAcceptor::from);
    let strangers = Arc::new(Strangers::default());
    let tasks = TaskTracker::new();
    loop {
        let place = tokio::select! {
            () = over.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let (mut stream, from) = tokio::select! {
            () = over.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    // Too many open files, say: it passes.
                    tracing::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            },
        };
        // Rounds are small frames that must not wait for more.
        let _ = stream.set_nodelay(true);
        let (tls, router, over) = (tls.clone(), router.clone(), over.clone());
        let (strangers, balancers) = (Arc::clone(&strangers), Arc::clone(&balancers));
        tasks.spawn(async move {
            // Held until the request is answered or has become a WebSocket, which has its own limit.
            let _place = place;
            let mut from = from.ip().to_canonical();
            if balancers.contains(&from) {
                match timeout(HANDSHAKE, balancer::origin(&mut stream)).await {
                    Ok(Ok(origin)) => from = origin.unwrap_or(from),
                    Ok(Err(e)) => {
                        tracing::warn!("{from} is to say whose a connection is, but sent {e}");
                        return;
                    }
                    Err(_) => return,
                }
            }
            // Without TLS there is nobody beyond this machine.
            let Some(stranger) = strangers.arrive(from, tls.is_some()) else {
                tracing::debug!("{from} has too many connections that say nothing");
                return;
            };
            match tls {
                None => http(stream, router, stranger, over).await,
                Some(tls) => {
                    if let Ok(Some(stream)) = timeout(HANDSHAKE, handshake(tls, stream)).await {
                        http(stream, router, stranger, over).await;
                    }
                }
            }
        });
    }
    tasks.close();
    let _ = timeout(GRACE, tasks.wait()).await;
}

async fn handshake(
    tls: TlsAcceptor,
    mut stream: TcpStream,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await.ok()? == 1 && first[0] != TLS_RECORD {
        if first[0] == ppp::v2::PROTOCOL_PREFIX[0]
            && let Ok(from) = stream.peer_addr()
        {
            let ip = from.ip().to_canonical();
            tracing::warn!("if {ip} is a balancer that sends the PROXY protocol: --balancer {ip}");
        }
        // What was not read when the connection closes would take the answer with it.
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(plain().as_bytes()).await;
        let _ = stream.shutdown().await;
        return None;
    }
    match tls.accept(stream).await {
        Ok(stream) => Some(stream),
        Err(e) => {
            tracing::debug!("no TLS: {e}");
            None
        }
    }
}

/// Answers a request, and learns from the answer who asks.
///
/// A token is always looked at, so a right one passes whatever others guess at its address. Once an
/// address has used up its tries the answer to each further wrong one is held back for [`PAUSE`].
async fn answer(
    router: TowerToHyperService<Router>,
    stranger: Arc<Mutex<Stranger>>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let known = || stranger.lock().unwrap_or_else(PoisonError::into_inner);
    let shows = shows_token(request.headers());
    let path = request.uri().path().to_owned();
    let pairs = path == CONTROL_PATH && !shows;
    // Held by whoever serves the connection after it became a WebSocket, or not.
    request.extensions_mut().insert(known().clone());
    let response = router.call(request).await?;
    match response.status() {
        StatusCode::UNAUTHORIZED if shows => {
            let wait = known().must_wait();
            known().guessed();
            if let Some(wait) = wait {
                tokio::time::sleep(PAUSE).await;
                return Ok(openai::refusal(&path, too_many(wait)).await);
            }
        }
        StatusCode::SWITCHING_PROTOCOLS if !pairs => known().let_in(),
        // What anyone may see says nothing about who asks.
        status if shows && status.is_success() && !is_public(&path) => known().let_in(),
        _ => {}
    }
    Ok(response)
}

fn too_many(wait: Duration) -> Response<Body> {
    let seconds = wait.as_secs() + 1;
    let text = format!(
        "this token is wrong, and too many wrong tokens came from this address: wait {seconds} seconds \
         before you show another. A right token is served all the same\n"
    );
    let wait = [(header::RETRY_AFTER, seconds.to_string())];
    (StatusCode::TOO_MANY_REQUESTS, wait, text).into_response()
}

async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    stranger: Stranger,
    over: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    // What is left of it with the connection is dropped with the connection.
    let stranger = Arc::new(Mutex::new(stranger));
    let line = Arc::new(Line::default());
    let stream = Watched::new(stream, Arc::clone(&line));
    let service = service_fn(move |mut request: Request<Incoming>| {
        // Here and not in what is awaited: the end may be read before that begins.
        request.extensions_mut().insert(Ended::new(&line));
        answer(router.clone(), Arc::clone(&stranger), request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let mut ending = false;
    loop {
        tokio::select! {
            done = &mut connection => {
                if let Err(e) = done {
                    tracing::debug!("a connection broke: {e}");
                }
                break;
            }
            () = over.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
