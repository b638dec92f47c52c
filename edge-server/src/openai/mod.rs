//! The open door: OpenAI's `/v1/chat/completions` and `/v1/models`, so that other clients use the box
//! too, on the same port with the same tokens and TLS.
//!
//! **Invariant: of the whole edge only this folder knows text.** It turns messages into ids and ids into
//! text, and asks the scheduler for a stream of ids as a connection of its own (`generation.rs`), beside
//! those of devices and treated like them. Nothing of the text is logged.

mod answer;
mod error;
mod generation;
mod request;
mod text;

use crate::access::{Access, Pass};
use crate::socket::Shared;
use answer::Answer;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use error::ApiError;
use futures_util::StreamExt;
use generation::Generation;
use request::{MAX_BODY, Served};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tandem_inference::Tokenizer;
use tandem_protocol::{CONTROL_PATH, SOCKET_PATH};
use text::Text;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Time for a request's body.
const BODY: Duration = Duration::from_secs(20);
/// A body that is too large is read up to so many times the limit, so that its sender sees the answer.
const DRAINED: usize = 8;
/// Texts that are turned into ids at once.
const READERS: usize = 2;

/// What the door needs of the edge.
pub(crate) struct Door {
    pub shared: Arc<Shared>,
    pub access: Arc<Access>,
    pub tokenizer: Arc<Tokenizer>,
    /// Numbers connections, together with those of devices.
    pub next: Arc<AtomicU64>,
    readers: Arc<Semaphore>,
    /// Seconds since the epoch.
    started: u64,
}

impl Door {
    pub(crate) fn new(
        shared: Arc<Shared>,
        access: Arc<Access>,
        tokenizer: Arc<Tokenizer>,
        next: Arc<AtomicU64>,
    ) -> Self {
        let readers = Arc::new(Semaphore::new(READERS));
        let started = crate::state::now_ms() / 1000;
        Self { shared, access, tokenizer, next, readers, started }
    }

    /// The paths under `/v1` that are no sockets.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/v1/models", get(models))
            .route("/v1/models/{model}", get(model))
            .route("/v1/chat/completions", post(completions))
            .route("/v1/{*rest}", get(nothing).fallback(nothing))
            .method_not_allowed_fallback(async || ApiError::method())
            .with_state(Arc::new(self))
    }

    async fn admit(&self, headers: &HeaderMap) -> Result<Pass, Response> {
        match self.access.admit(headers) {
            Ok(pass) => {
                self.access.seen(&pass);
                Ok(pass)
            }
            Err(refusal) => Err(ApiError::denied(*refusal).await),
        }
    }

    fn model(&self) -> serde_json::Value {
        let (id, created) = (&self.shared.welcome.model, self.started);
        json!({ "id": id, "object": "model", "created": created, "owned_by": "tandem" })
    }

    async fn complete(&self, pass: Pass, body: Body) -> Result<Response, ApiError> {
        if self.shared.draining.is_cancelled() {
            return Err(ApiError::stopping());
        }
        let places = Arc::clone(&self.shared.places).try_acquire_owned();
        let busy = "the edge has too many connections; try again later";
        let place = places.map_err(|_| ApiError::busy(busy))?;
        let own = Arc::clone(&pass.places).try_acquire_owned();
        let many = "this device has too many connections; wait until an answer ends";
        let own = own.map_err(|_| ApiError::busy(many))?;
        let bytes = timeout(BODY, receive(body)).await.map_err(|_| ApiError::too_slow())??;
        let welcome = &self.shared.welcome;
        let (model, context) = (welcome.model.clone(), welcome.max_context as usize);
        let tokenizer = Arc::clone(&self.tokenizer);
        let turn = Arc::clone(&self.readers).acquire_owned().await;
        let turn = turn.map_err(|_| ApiError::stopping())?;
        let reading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let served = Served { model: &model, tokenizer: &tokenizer, context };
            request::read(&bytes, &served)
        });
        let request =
            reading.await.map_err(|_| ApiError::internal("the text cannot be read"))??;
        let prompt = request.order.prompt.len() as u32;
        let text = Text::new(&self.tokenizer, request.stops, request.order.most);
        let connection = self.next.fetch_add(1, Ordering::Relaxed);
        let generation =
            Generation::start(&self.shared, connection, pass, [place, own], request.order).await?;
        let answer = Answer::begin(welcome.model.clone(), generation, text, prompt).await?;
        if request.stream { Ok(answer.stream(request.usage)) } else { answer.whole().await }
    }
}

/// A refusal of the listener to a request for `path`, which is plain text, in the form that OpenAI's
/// clients read if the path is one of theirs.
pub(crate) async fn refusal(path: &str, refusal: Response) -> Response {
    let sockets = [SOCKET_PATH, CONTROL_PATH];
    if path.starts_with("/v1/") && !sockets.contains(&path) {
        ApiError::denied(refusal).await
    } else {
        refusal
    }
}

/// A body of bounded size.
async fn receive(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut pieces = body.into_data_stream();
    let (mut bytes, mut total) = (Vec::new(), 0);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| ApiError::broken_body())?;
        total += piece.len();
        if total > MAX_BODY * DRAINED {
            break;
        }
        if total <= MAX_BODY {
            bytes.extend_from_slice(&piece);
        }
    }
    if total > MAX_BODY { Err(ApiError::too_large(MAX_BODY)) } else { Ok(bytes) }
}

async fn completions(State(door): State<Arc<Door>>, headers: HeaderMap, body: Body) -> Response {
    let response = match door.admit(&headers).await {
        Ok(pass) => door.complete(pass, body).await.unwrap_or_else(IntoResponse::into_response),
        Err(refusal) => refusal,
    };
    door.shared.metrics.chat_request(response.status().as_u16());
    response
}

async fn models(State(door): State<Arc<Door>>, headers: HeaderMap) -> Response {
    match door.admit(&headers).await {
        Ok(_) => answer::json(&json!({ "object": "list", "data": [door.model()] })),
        Err(refusal) => refusal,
    }
}

async fn model(
    State(door): State<Arc<Door>>,
    Path(wanted): Path<String>,
    headers: HeaderMap,
) -> Response {
    let served = &door.shared.welcome.model;
    match door.admit(&headers).await {
        Ok(_) if wanted == *served => answer::json(&door.model()),
        Ok(_) => ApiError::unknown_model(&wanted, served).into_response(),
        Err(refusal) => refusal,
    }
}

async fn nothing(State(door): State<Arc<Door>>, headers: HeaderMap) -> Response {
    match door.admit(&headers).await {
        Ok(_) => ApiError::not_found().into_response(),
        Err(refusal) => refusal,
    }
}
