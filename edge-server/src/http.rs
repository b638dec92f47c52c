//! What the edge answers: WebSocket upgrade, `/healthz`, `/readyz`, `/metrics`.

use crate::access::{Access, Pass, from_a_page, shows_token};
use crate::control::Control;
use crate::socket::{Shared, serve};
use crate::strangers::Stranger;
use axum::extract::{State, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tandem_protocol::{
    CONTROL_PATH, CONTROL_SUBPROTOCOL, MAX_CLIENT_FRAME, MAX_CONTROL_FRAME, SOCKET_PATH,
    SUBPROTOCOL,
};

/// What the answers need.
pub(crate) struct App {
    pub shared: Arc<Shared>,
    pub access: Arc<Access>,
    pub control: Control,
    pub next: Arc<AtomicU64>,
}

/// What was not meant for this edge goes no further.
pub(crate) async fn meant(
    State(access): State<Arc<Access>>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    match access.meant(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => crate::openai::refusal(request.uri().path(), *refused).await,
    }
}

/// Whether a path is answered without a look at who asks.
pub(crate) fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/health" | "/readyz")
}

/// Everything but the open door.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(SOCKET_PATH, get(upgrade))
        .route(CONTROL_PATH, get(upgrade_control))
        .route("/", get(hint))
        // Both names are usual.
        .route("/healthz", get(health))
        .route("/health", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(app)
}

async fn upgrade(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let pass = match app.access.admit(&headers) {
        Ok(pass) => pass,
        Err(denied) => return *denied,
    };
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
    if app.shared.draining.is_cancelled() {
        let text = "this edge is stopping; connect to another one, or again in a moment\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    let connection = app.next.fetch_add(1, Ordering::Relaxed);
    let shared = Arc::clone(&app.shared);
    // A frame somewhat above the limit is read and refused with a reason. A larger one ends the
    // connection unread, and the reason may be lost with it.
    upgrade.max_message_size(2 * MAX_CLIENT_FRAME).max_frame_size(2 * MAX_CLIENT_FRAME).on_upgrade(
        move |socket| async move {
            app.access.seen(&pass);
            serve(socket, shared, connection, pass).await;
        },
    )
}

/// A device without a token may come here to pair; one with a wrong token may not.
async fn upgrade_control(
    State(app): State<Arc<App>>,
    stranger: Option<Extension<Stranger>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let stranger = stranger.map(|Extension(stranger)| stranger);
    // Whoever pairs is not admitted, and no page either.
    if let Err(refused) = from_a_page(&headers) {
        return *refused;
    }
    let pass: Option<Pass> = match app.access.admit(&headers) {
        Ok(pass) => Some(pass),
        Err(_) if !shows_token(&headers) => None,
        Err(denied) => return *denied,
    };
    let upgrade = match upgrade.map(|u| u.protocols([CONTROL_SUBPROTOCOL])) {
        Ok(upgrade) if upgrade.selected_protocol().is_some() => upgrade,
        _ => {
            let text = format!(
                "this edge (version {}) speaks {CONTROL_SUBPROTOCOL} here; update the older of \
                 device and edge\n",
                env!("CARGO_PKG_VERSION")
            );
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    upgrade
        .max_message_size(MAX_CONTROL_FRAME)
        .max_frame_size(MAX_CONTROL_FRAME)
        .on_upgrade(move |socket| async move { app.control.serve(socket, pass, stranger).await })
}

/// For somebody who opens the address in a browser.
async fn hint() -> (StatusCode, &'static str) {
    let text = "This is a Tandem edge. Use it from the app or with `tandem chat`; other programs find its \
                OpenAI-compatible API under /v1 (base URL: http(s)://ADDRESS:PORT/v1), and /health says \
                whether it is up.\n";
    (StatusCode::NOT_FOUND, text)
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let shared = &app.shared;
    let body = serde_json::json!({
        "status": "ok",
        "model": shared.welcome.model,
        "version": shared.welcome.edge_version,
        "batch_invariant": shared.welcome.batch_invariant,
        "sessions": shared.metrics.sessions.get(),
    });
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Whether new work should come here; for balancers.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let shared = &app.shared;
    let (status, text) = if shared.draining.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if shared.work.is_closed() {
        (StatusCode::SERVICE_UNAVAILABLE, "the model's thread has ended")
    } else {
        (StatusCode::OK, "ready")
    };
    let body = serde_json::json!({ "status": text }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn metrics_text(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if let Err(denied) = app.access.admit(&headers) {
        return *denied;
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.shared.metrics.text()).into_response()
}
