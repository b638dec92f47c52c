//! The listener: WebSocket upgrade, `/healthz`, `/metrics`, and the edge's life.

use crate::metrics::Metrics;
use crate::scheduler::{Limits, Scheduler, Work};
use crate::socket::{Shared, serve};
use axum::Router;
use axum::extract::{State, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tandem_inference::Model;
use tandem_protocol::{MAX_CLIENT_FRAME, MAX_DRAFT, SOCKET_PATH, SUBPROTOCOL, Welcome};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// How an edge listens.
#[derive(Clone)]
pub struct Config {
    /// Address; port 0 picks one.
    pub listen: SocketAddr,
    /// What devices must show; needed beyond loopback.
    pub token: Option<String>,
    /// Limits of the sessions.
    pub limits: Limits,
    /// Connections at most.
    pub connections: usize,
}

/// Why an edge does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Open to the network without a token.
    #[error(
        "{0} can be reached from other machines: give a token with --token (or TANDEM_EDGE_TOKEN) \
         that devices must show, or listen on 127.0.0.1 only"
    )]
    NeedsToken(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}; choose another port with --listen")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// No thread for the model.
    #[error("cannot start the compute thread: {0}")]
    Thread(std::io::Error),
}

/// An address that is ours, before there is a model: what is wrong with it is known at once.
/// Devices that connect meanwhile wait in the system's queue.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    config: Config,
}

/// A running edge.
pub struct Edge {
    address: SocketAddr,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

struct App {
    shared: Arc<Shared>,
    token: Option<String>,
    next: AtomicU64,
}

impl Bound {
    /// Takes the address.
    ///
    /// # Errors
    /// If it is open to the network without a token, or cannot be had.
    pub async fn new(config: Config) -> Result<Self, StartError> {
        if !config.listen.ip().is_loopback() && config.token.as_deref().unwrap_or("").is_empty() {
            return Err(StartError::NeedsToken(config.listen));
        }
        let listen = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address, config })
    }

    /// Serves `model` until [`Edge::stop`].
    ///
    /// # Errors
    /// If there is no thread for the model.
    pub fn serve(self, model: Arc<Model>) -> Result<Edge, StartError> {
        let Self { listener, address, config } = self;
        let metrics = Arc::new(Metrics::new());
        let mut limits = config.limits;
        limits.context = limits.context.clamp(2, model.info().max_context);
        let welcome = Welcome {
            edge_version: env!("CARGO_PKG_VERSION").to_owned(),
            model: model.info().name.clone(),
            vocab: model.info().vocab as u32,
            max_context: limits.context as u32,
            max_draft: MAX_DRAFT as u32,
            tokenizer: model.tokenizer().fingerprint(),
        };
        let (work, inbox) = mpsc::channel(1024);
        let every = (limits.idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(60));
        let scheduler = Scheduler::new(model, limits, Arc::clone(&metrics));
        let compute = std::thread::Builder::new()
            .name("compute".into())
            .spawn(move || scheduler.run(inbox))
            .map_err(StartError::Thread)?;
        // `stop` ends listening and asks compute to finish; `over` ends the connections after that.
        let (stop, over) = (CancellationToken::new(), CancellationToken::new());
        let places = Arc::new(Semaphore::new(config.connections));
        let shared = Arc::new(Shared { welcome, work, metrics, stop: over.clone(), places });
        let app = Arc::new(App {
            shared: Arc::clone(&shared),
            token: config.token.filter(|t| !t.is_empty()),
            next: AtomicU64::new(1),
        });
        let router = Router::new()
            .route(SOCKET_PATH, get(upgrade))
            .route("/healthz", get(health))
            .route("/metrics", get(metrics_text))
            .with_state(app);
        // Rounds are small frames that must not wait for more.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let stopped = stop.clone();
        let server = tokio::spawn(async move {
            let ending = over.clone();
            let serving = axum::serve(listener, router)
                .with_graceful_shutdown(async move { ending.cancelled().await });
            let serving = tokio::spawn(serving.into_future());
            let mut clock = tokio::time::interval(every);
            loop {
                tokio::select! {
                    () = stopped.cancelled() => break,
                    // A full inbox is awake anyway.
                    _ = clock.tick() => { let _ = shared.work.try_send(Work::Tick); }
                }
            }
            let _ = shared.work.send(Work::Stop).await;
            let _ = tokio::task::spawn_blocking(move || compute.join()).await;
            over.cancel();
            let grace = Duration::from_secs(3);
            let _ = tokio::time::timeout(grace, serving).await;
        });
        Ok(Edge { address, stop, server })
    }
}

impl Edge {
    /// Listens and serves `model` until [`Edge::stop`].
    ///
    /// # Errors
    /// As [`Bound::new`] and [`Bound::serve`].
    pub async fn start(model: Arc<Model>, config: Config) -> Result<Self, StartError> {
        Bound::new(config).await?.serve(model)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Finishes running rounds, tells devices, and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.server.await;
    }
}

/// `None` when the request may pass.
fn denied(app: &App, headers: &HeaderMap) -> Option<Response> {
    let Some(token) = &app.token else { return None };
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "))
        .unwrap_or("");
    if same(shown.as_bytes(), token.as_bytes()) {
        return None;
    }
    let text = "this edge wants a token, and the one shown is missing or wrong; \
                use the token that the edge was started with\n";
    Some((StatusCode::UNAUTHORIZED, text).into_response())
}

/// Compares without telling by its time where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (a, b)| d | (a ^ b)) == 0
}

async fn upgrade(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    if let Some(denied) = denied(&app, &headers) {
        return denied;
    }
    if headers.contains_key(header::ORIGIN) {
        // A browser sends it; a web page has no business with an edge in the local network.
        return (StatusCode::FORBIDDEN, "web pages may not use this edge\n").into_response();
    }
    let Ok(upgrade) = upgrade else {
        let text =
            "this is the WebSocket of a Tandem edge; connect with the app or `tandem chat`\n";
        return (StatusCode::UPGRADE_REQUIRED, text).into_response();
    };
    let upgrade = upgrade.protocols([SUBPROTOCOL]);
    if upgrade.selected_protocol().is_none() {
        let text = format!(
            "this edge (version {}) speaks {SUBPROTOCOL}; update the older of device and edge\n",
            env!("CARGO_PKG_VERSION")
        );
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let connection = app.next.fetch_add(1, Ordering::Relaxed);
    let shared = Arc::clone(&app.shared);
    // A frame somewhat above the limit is read and refused with a reason. A larger one ends the
    // connection unread, and the reason may be lost with it.
    upgrade
        .max_message_size(2 * MAX_CLIENT_FRAME)
        .max_frame_size(2 * MAX_CLIENT_FRAME)
        .on_upgrade(move |socket| serve(socket, shared, connection))
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let shared = &app.shared;
    let body = serde_json::json!({
        "status": "ok",
        "model": shared.welcome.model,
        "version": shared.welcome.edge_version,
        "sessions": shared.metrics.sessions.get(),
    });
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn metrics_text(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if let Some(denied) = denied(&app, &headers) {
        return denied;
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.shared.metrics.text()).into_response()
}
