//! The open door: OpenAI's `/v1/chat/completions` and `/v1/models`, so that other clients use the box
//! too, on the same port with the same tokens and TLS.
//!
//! **Invariant: of the whole edge only this folder knows text.** It turns messages into ids and ids into
//! text, and asks the scheduler for a stream of ids as a connection of its own (`generation.rs`), beside
//! those of devices and treated like them. Nothing of the text is logged.

mod answer;
mod error;
mod fields;
mod generation;
mod half_closed;
mod refused;
mod request;
mod text;

use crate::access::{Access, Pass};
use crate::half_closed::Ended;
use crate::socket::Shared;
use answer::Answer;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
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
    /// Other names of the model.
    aliases: Arc<[String]>,
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
        aliases: Arc<[String]>,
    ) -> Self {
        let readers = Arc::new(Semaphore::new(READERS));
        let started = crate::state::now_ms() / 1000;
        Self { shared, access, tokenizer, next, aliases, readers, started }
    }

    /// The paths under `/v1` that are no sockets, and what is said where there is nothing.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/v1/models", get(models))
            .route("/v1/models/{*model}", get(model))
            .route("/v1/chat/completions", post(completions))
            .method_not_allowed_fallback(async || ApiError::method())
            .fallback(nothing)
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

    fn served(&self) -> Served<'_> {
        let welcome = &self.shared.welcome;
        let context = welcome.max_context as usize;
        let (model, aliases) = (welcome.model.as_str(), &*self.aliases);
        Served { model, aliases, tokenizer: &self.tokenizer, context }
    }

    /// The model under one of its names, with its context's length as vLLM and llama-server say it.
    fn model(&self, id: &str) -> serde_json::Value {
        let welcome = &self.shared.welcome;
        let context = welcome.max_context;
        json!({
            "id": id,
            "object": "model",
            "created": self.started,
            "owned_by": "tandem",
            "root": welcome.model,
            "max_model_len": context,
            "context_length": context,
            "meta": { "n_ctx": context, "n_vocab": welcome.vocab },
        })
    }

    async fn complete(
        self: Arc<Self>,
        pass: Pass,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response, ApiError> {
        if self.shared.draining.is_cancelled() {
            return Err(ApiError::stopping());
        }
        let places = Arc::clone(&self.shared.places).try_acquire_owned();
        let busy = "the edge has too many connections; try again later";
        let place = places.map_err(|_| ApiError::busy(busy))?;
        let own = Arc::clone(&pass.places).try_acquire_owned();
        let many = "this device has too many connections; wait until an answer ends";
        let own = own.map_err(|_| ApiError::busy(many))?;
        plain(&headers)?;
        let bytes = timeout(BODY, receive(body)).await.map_err(|_| ApiError::too_slow())??;
        let turn = Arc::clone(&self.readers).acquire_owned().await;
        let turn = turn.map_err(|_| ApiError::stopping())?;
        let door = Arc::clone(&self);
        let reading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            request::read(&bytes, &door.served())
        });
        let request =
            reading.await.map_err(|_| ApiError::internal("the text cannot be read"))??;
        let prompt = request.order.prompt.len() as u32;
        let text = Text::new(&self.tokenizer, request.stops, request.order.most);
        let connection = self.next.fetch_add(1, Ordering::Relaxed);
        let generation =
            Generation::start(&self.shared, connection, pass, [place, own], request.order).await?;
        let model = self.shared.welcome.model.clone();
        let answer = Answer::begin(model, generation, text, prompt).await?;
        if request.stream { Ok(answer.stream(request.usage)) } else { answer.whole().await }
    }
}

/// That the body is as it is meant, not compressed.
fn plain(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(encoding) = headers.get(header::CONTENT_ENCODING) else { return Ok(()) };
    let encoding = String::from_utf8_lossy(encoding.as_bytes()).trim().to_ascii_lowercase();
    if matches!(encoding.as_str(), "" | "identity") {
        Ok(())
    } else {
        Err(ApiError::encoded(&encoding))
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

async fn completions(
    State(door): State<Arc<Door>>,
    ended: Option<Extension<Ended>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let ended = ended.map(|Extension(ended)| ended);
    let metrics = Arc::clone(&door.shared.metrics);
    let response = match door.admit(&headers).await {
        Ok(pass) => {
            let work = async move {
                let done = door.complete(pass, headers, body).await;
                done.unwrap_or_else(IntoResponse::into_response)
            };
            half_closed::answered(ended, work).await
        }
        Err(refusal) => refusal,
    };
    metrics.chat_request(response.status().as_u16());
    response
}

async fn models(State(door): State<Arc<Door>>, headers: HeaderMap) -> Response {
    match door.admit(&headers).await {
        Ok(_) => {
            let served = door.served();
            let names =
                std::iter::once(served.model).chain(served.aliases.iter().map(String::as_str));
            let data: Vec<_> = names.map(|name| door.model(name)).collect();
            answer::json(&json!({ "object": "list", "data": data }))
        }
        Err(refusal) => refusal,
    }
}

async fn model(
    State(door): State<Arc<Door>>,
    Path(wanted): Path<String>,
    headers: HeaderMap,
) -> Response {
    let served = door.served();
    match door.admit(&headers).await {
        Ok(_) if request::is_called(&wanted, served.model, served.aliases) => {
            answer::json(&door.model(&wanted))
        }
        Ok(_) => ApiError::unknown_model(&wanted, served.model).into_response(),
        Err(refusal) => refusal,
    }
}

/// Says where there is something. Of what there is nothing is told, so nobody has to show a right.
async fn nothing() -> Response {
    ApiError::not_found().into_response()
}
