//! Clients that end their side of the connection when the request is sent, and then wait (`nc -N`).
//!
//! To the edge they look like clients that went away, whose answers must not be computed any longer. Only
//! sending tells the two apart: to somebody who left it fails. So from that moment on an empty line goes
//! out every [`BEAT`]; in JSON and in a stream of events it means nothing.

use crate::half_closed::Ended;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

const BEAT: Duration = Duration::from_millis(100);

async fn beat(ended: &Option<Ended>) {
    match ended {
        Some(ended) => ended.cancelled().await,
        None => std::future::pending().await,
    }
    tokio::time::sleep(BEAT).await;
}

type Working = Pin<Box<dyn Future<Output = Response> + Send>>;

/// The response of `work`, which is dropped with it when nobody is there to read.
pub(super) async fn answered(
    ended: Option<Ended>,
    work: impl Future<Output = Response> + Send + 'static,
) -> Response {
    let mut work: Working = Box::pin(work);
    let whole = tokio::select! {
        response = &mut work => response,
        // Its status is not known yet; whoever asks so reads the text.
        () = beat(&ended) => return late(ended, work),
    };
    let (parts, body) = whole.into_parts();
    // What is whole already has no pauses.
    let body = if body.size_hint().exact().is_some() { body } else { beating(ended, body) };
    Response::from_parts(parts, body)
}

fn late(ended: Option<Ended>, work: Working) -> Response {
    let bytes = futures_util::stream::unfold(Some((work, ended)), |state| async {
        let (mut work, ended) = state?;
        let piece = tokio::select! {
            response = &mut work => {
                let body = beating(ended, response.into_body()).into_data_stream();
                return Some((body.boxed(), None));
            }
            () = beat(&ended) => empty_line(),
        };
        Some((futures_util::stream::once(async { Ok(piece) }).boxed(), Some((work, ended))))
    });
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::OK, kind, Body::from_stream(bytes.flatten())).into_response()
}

/// A body with empty lines in its pauses, once the peer has ended its side.
fn beating(ended: Option<Ended>, body: Body) -> Body {
    let pieces = body.into_data_stream();
    Body::from_stream(futures_util::stream::unfold((pieces, ended), |(mut pieces, ended)| async {
        let piece = tokio::select! {
            biased;
            piece = pieces.next() => piece?,
            () = beat(&ended) => Ok(empty_line()),
        };
        Some((piece, (pieces, ended)))
    }))
}

fn empty_line() -> Bytes {
    Bytes::from_static(b"\n")
}
