//! Accepts connections, speaks TLS where the edge has it, and hands them to the router.
//!
//! A stranger costs little: handshakes and the wait for a request are short, and there is a limit on
//! connections that have not become a device's yet.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use std::sync::Arc;
use std::time::Duration;
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
const STRANGERS: usize = 64;
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
    over: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(devices + STRANGERS));
    let tls = tls.map(TlsAcceptor::from);
    let tasks = TaskTracker::new();
    loop {
        let place = tokio::select! {
            () = over.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let stream = tokio::select! {
            () = over.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
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
        tasks.spawn(async move {
            // Held until the request is answered or has become a WebSocket, which has its own limit.
            let _place = place;
            match tls {
                None => http(stream, router, over).await,
                Some(tls) => {
                    if let Ok(Some(stream)) = timeout(HANDSHAKE, handshake(tls, stream)).await {
                        http(stream, router, over).await;
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

async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    over: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
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
