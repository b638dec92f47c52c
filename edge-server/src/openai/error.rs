//! Errors in the form that OpenAI's clients read: `{"error": {message, type, param, code}}`.

use axum::body::to_bytes;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::borrow::Cow;
use tandem_protocol::ErrorCode;

/// Seconds after which a client may try a busy edge again.
const AGAIN: HeaderValue = HeaderValue::from_static("1");
/// Bytes of a refusal's text at most.
const MAX_REFUSAL: usize = 4096;

/// Why a request has no answer, with what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub status: StatusCode,
    message: String,
    /// The field that is wrong.
    param: Option<Cow<'static, str>>,
    /// For programs.
    code: Option<&'static str>,
    retry: bool,
}

/// As it is sent.
#[derive(Serialize)]
struct Form<'a> {
    error: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code, retry: false }
    }

    /// A request that cannot be understood or asks for what is not offered; `param` is the field.
    pub(super) fn invalid(param: Option<&'static str>, message: impl Into<String>) -> Self {
        let param = param.map(Cow::Borrowed);
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, None, message) }
    }

    /// A field that is not offered, of whatever name.
    pub(super) fn refused(param: &str, message: impl Into<String>) -> Self {
        let param = Some(Cow::Owned(param.to_owned()));
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, None, message) }
    }

    pub(super) fn unknown_model(wanted: &str, served: &str) -> Self {
        // What was asked for may be long and is the client's own.
        let wanted: String = wanted.chars().take(100).collect();
        let text = format!("the model `{wanted}` is not here; this edge serves `{served}`");
        let error = Self::new(StatusCode::NOT_FOUND, Some("model_not_found"), text);
        Self { param: Some("model".into()), ..error }
    }

    pub(super) fn not_found() -> Self {
        let text = "There is nothing at this path. The OpenAI-compatible API of this edge is under /v1 \
                    (base URL: http(s)://ADDRESS:PORT/v1): /v1/models and /v1/chat/completions; \
                    /health says whether it is up.";
        Self::new(StatusCode::NOT_FOUND, Some("unknown_url"), text)
    }

    pub(super) fn method() -> Self {
        let text = "this method is not for this path; completions are POST, models are GET";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_allowed"), text)
    }

    pub(super) fn encoded(encoding: &str) -> Self {
        let encoding: String = encoding.chars().take(40).collect();
        let text = format!(
            "the request's body is encoded ({encoding}), which this edge does not read; send it as \
             plain JSON, without `Content-Encoding`"
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("unsupported_encoding"), text)
    }

    pub(super) fn too_large(most: usize) -> Self {
        let text = format!("the request has more than {} KiB; shorten it", most >> 10);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Some("request_too_large"), text)
    }

    pub(super) fn too_slow() -> Self {
        let text = "the request did not come in time; send it again";
        Self::new(StatusCode::REQUEST_TIMEOUT, Some("request_timeout"), text)
    }

    pub(super) fn broken_body() -> Self {
        Self::invalid(None, "the request's body ended too early or is no HTTP body")
    }

    pub(super) fn context_full(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, Some("context_length_exceeded"), message);
        Self { param: Some("messages".into()), ..error }
    }

    pub(super) fn busy(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("overloaded"), message);
        Self { retry: true, ..error }
    }

    pub(super) fn stopping() -> Self {
        let text = "the edge is stopping; ask again, at another edge or when it is back";
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("shutting_down"), text);
        Self { retry: true, ..error }
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Some("internal_error"), message)
    }

    pub(super) fn revoked() -> Self {
        let text = "this device's access was revoked on the box";
        Self::new(StatusCode::UNAUTHORIZED, Some("invalid_api_key"), text)
    }

    /// From what the scheduler says.
    pub(super) fn from_edge(code: ErrorCode, message: String) -> Self {
        match code {
            ErrorCode::ContextFull => Self::context_full(message),
            ErrorCode::Busy => Self::busy(message),
            ErrorCode::ShuttingDown => Self::stopping(),
            ErrorCode::Access => Self::revoked(),
            ErrorCode::BadMessage => Self::invalid(None, message),
            _ => Self::internal(message),
        }
    }

    /// A refusal of access or of the listener, which is plain text, in this form; its status and headers stay.
    pub(super) async fn denied(refusal: Response) -> Response {
        let (mut parts, body) = refusal.into_parts();
        let text = to_bytes(body, MAX_REFUSAL).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let code = match parts.status {
            StatusCode::UNAUTHORIZED => "invalid_api_key",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
            StatusCode::FORBIDDEN => "origin_not_allowed",
            _ => "access_denied",
        };
        let mut response = Self::new(parts.status, Some(code), text.trim()).into_response();
        for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
            parts.headers.remove(name);
        }
        response.headers_mut().extend(parts.headers);
        response
    }

    /// The JSON text, as a body or as an event in a stream.
    pub(super) fn json(&self) -> String {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let Self { message, param, code, .. } = self;
        let error = Fields { message, kind, param: param.as_deref(), code: *code };
        serde_json::to_string(&Form { error }).unwrap_or_default()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind: (HeaderName, &str) = (header::CONTENT_TYPE, "application/json");
        let mut response = (self.status, [kind], self.json()).into_response();
        if self.retry {
            response.headers_mut().insert(header::RETRY_AFTER, AGAIN);
        }
        response
    }
}
