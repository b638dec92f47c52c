//! The compute thread's view of a connection.

use crate::metrics::Metrics;
use crate::share::Owner;
use std::sync::Arc;
use tandem_protocol::{ErrorCode, Failure, ServerMessage, encode_server, short_text};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Where answers go. A peer that does not read them is dropped; it never makes compute wait.
#[derive(Clone)]
pub(crate) struct Peer {
    pub connection: u64,
    pub owner: Owner,
    pub sender: mpsc::Sender<Vec<u8>>,
    pub kill: CancellationToken,
    pub metrics: Arc<Metrics>,
}

impl Peer {
    pub(crate) fn send(&self, message: &ServerMessage) {
        if let ServerMessage::Error(failure) = message {
            self.metrics.error(failure.code);
        }
        self.send_bytes(encode_server(message));
    }

    pub(crate) fn send_bytes(&self, bytes: Vec<u8>) {
        let len = bytes.len() as u64;
        match self.sender.try_send(bytes) {
            Ok(()) => {
                self.metrics.sent.inc_by(len);
            }
            Err(_) => self.kill.cancel(),
        }
    }

    pub(crate) fn fail(
        &self,
        generation: Option<u32>,
        code: ErrorCode,
        message: impl Into<String>,
    ) {
        let message = short_text(message);
        self.send(&ServerMessage::Error(Failure { generation, code, message }));
    }
}
