//! A connection whose peer has ended its side while it waits for an answer.
//!
//! The HTTP library takes the end of what it reads for a client that went away, and drops the request.
//! Some clients (`nc -N`) end their side when the request is sent and then wait. So the end is kept from
//! the library while a request is worked on, and told to whoever works on it instead.

use futures_util::task::AtomicWaker;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// What the reader of a connection and those who answer its requests share.
#[derive(Default)]
pub(crate) struct Line {
    ended: CancellationToken,
    working: AtomicUsize,
    reader: AtomicWaker,
}

/// Held while a request is worked on; travels with the request.
pub(crate) struct Ended(Arc<Line>);

impl Ended {
    pub(crate) fn new(line: &Arc<Line>) -> Self {
        line.working.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(line))
    }

    /// Waits until the peer ends its side.
    pub(crate) async fn cancelled(&self) {
        self.0.ended.cancelled().await;
    }
}

impl Clone for Ended {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if self.0.working.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.reader.wake();
        }
    }
}

/// A connection that tells its `line` when its peer has ended its side.
pub(crate) struct Watched<S> {
    stream: S,
    line: Arc<Line>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, line: Arc<Line>) -> Self {
        Self { stream, line }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.line.ended.is_cancelled() {
            let before = buffer.filled().len();
            let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
            let end = matches!(read, Poll::Ready(Ok(())))
                && buffer.filled().len() == before
                && buffer.remaining() > 0;
            if !end {
                return read;
            }
            self.line.ended.cancel();
        }
        // Registered before the look, so that no end of the work is missed.
        self.line.reader.register(cx.waker());
        if self.line.working.load(Ordering::Acquire) > 0 {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
