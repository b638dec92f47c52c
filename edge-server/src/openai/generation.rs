//! One answer as the scheduler sees it: a connection of its own with one generation, which streams.
//! Ids only. Whoever drops it ends it: nothing is computed for a client that went away.

use super::error::ApiError;
use crate::access::Pass;
use crate::peer::Peer;
use crate::scheduler::Work;
use crate::socket::{OUTBOUND, Shared};
use crate::state::random;
use std::sync::Arc;
use std::time::Instant;
use tandem_protocol::{
    ClientMessage, Open, ServerMessage, SessionId, Stream, Verdict, decode_server,
};
use tandem_speculation::{Correction, Sampling, TokenId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The only generation of its connection.
const NUMBER: u32 = 1;

/// What is to be written.
#[derive(Debug)]
pub(super) struct Order {
    pub prompt: Vec<TokenId>,
    pub sampling: Sampling,
    /// With one the answer is repeatable, without one drawn anew.
    pub seed: Option<u64>,
    /// Tokens at most; with the prompt they fit the context.
    pub most: u32,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Piece {
    /// The prompt is being read; so many of its tokens were in the cache.
    Prompt { cached: u32 },
    /// New tokens, at least one.
    Tokens(Vec<TokenId>),
}

pub(super) struct Generation {
    inbox: mpsc::Receiver<Vec<u8>>,
    /// What was sent is not read.
    kill: CancellationToken,
    revoked: CancellationToken,
    _end: DropGuard,
}

impl Generation {
    /// Puts the order among the edge's other work. The places are kept until the end.
    pub(super) async fn start(
        shared: &Arc<Shared>,
        connection: u64,
        pass: Pass,
        places: [OwnedSemaphorePermit; 2],
        order: Order,
    ) -> Result<Self, ApiError> {
        let (sender, inbox) = mpsc::channel(OUTBOUND);
        let (kill, end) = (CancellationToken::new(), CancellationToken::new());
        let (owner, metrics) = (pass.owner(), Arc::clone(&shared.metrics));
        let peer = Peer { connection, owner, sender, kill: kill.clone(), metrics };
        tokio::spawn(watch(Arc::clone(shared), peer.clone(), pass.clone(), end.clone(), places));
        // From here on, whatever ends this ends the work.
        let generation = Self { inbox, kill, revoked: pass.revoked, _end: end.drop_guard() };
        let Order { prompt, sampling, seed, most } = order;
        let prefix_len = prompt.len() as u32;
        // Where the edge's own drafts end depends on what it has measured, and with that which random
        // numbers a token is drawn with: the same distribution, but not the same text for a seed.
        let drafts = seed.is_none() || sampling.temperature == 0.0;
        let seed = seed.unwrap_or_else(|| u64::from_le_bytes(random()));
        // A session of its own. Requests of one owner share what was computed of a common beginning, no more.
        let session = SessionId(random());
        let open = Open { session, generation: NUMBER, tokens: prompt, sampling, seed, branch: 0 };
        let stream = Stream {
            generation: NUMBER,
            round: 0,
            prefix_len,
            committed: Vec::new(),
            max_tokens: most,
            drafts,
        };
        for message in [ClientMessage::Open(open), ClientMessage::Stream(stream)] {
            send(shared, &peer, message).await.ok_or_else(ApiError::stopping)?;
        }
        Ok(generation)
    }

    /// What comes next.
    ///
    /// # Errors
    /// What the scheduler says, if it gives up; nothing comes after that.
    pub(super) async fn next(&mut self) -> Result<Piece, ApiError> {
        let message = loop {
            let bytes = tokio::select! {
                biased;
                () = self.revoked.cancelled() => return Err(ApiError::revoked()),
                () = self.kill.cancelled() => {
                    return Err(ApiError::internal("the answer was not read in time"));
                }
                bytes = self.inbox.recv() => bytes.ok_or_else(ApiError::stopping)?,
            };
            let message = decode_server(&bytes);
            // Whoever asked over HTTP waits without a word.
            if !matches!(message, Ok(ServerMessage::Waiting(_))) {
                break message;
            }
        };
        match message {
            Ok(ServerMessage::Prefill(report)) => Ok(Piece::Prompt { cached: report.cached }),
            Ok(ServerMessage::Verdict(Verdict {
                correction: Correction::Bonus(token), ..
            })) => Ok(Piece::Tokens(vec![token])),
            Ok(ServerMessage::Written(written)) => Ok(Piece::Tokens(written.tokens)),
            Ok(ServerMessage::Error(failure)) => {
                Err(ApiError::from_edge(failure.code, failure.message))
            }
            Ok(_) | Err(_) => Err(ApiError::internal("the edge's stream holds no tokens")),
        }
    }
}

async fn send(shared: &Shared, peer: &Peer, message: ClientMessage) -> Option<()> {
    // There is one connection for two or three messages, so nothing has to be held back.
    let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.ok()?;
    let work = Work::Message { peer: peer.clone(), message, arrived: Instant::now(), permit };
    shared.work.send(work).await.ok()
}

/// Waits for the end and tells the compute thread.
async fn watch(
    shared: Arc<Shared>,
    peer: Peer,
    pass: Pass,
    end: CancellationToken,
    places: [OwnedSemaphorePermit; 2],
) {
    shared.metrics.connections.inc();
    tokio::select! {
        () = end.cancelled() => {}
        () = pass.revoked.cancelled() => {}
        () = peer.kill.cancelled() => {
            tracing::info!("dropped a client that does not read its answer");
        }
    }
    // The first stops a prompt that is still being read, the second forgets the connection. The
    // session stays among the idle ones, as those of devices do.
    let _ = send(&shared, &peer, ClientMessage::Cancel { generation: NUMBER }).await;
    let _ = shared.work.send(Work::Gone { connection: peer.connection }).await;
    shared.metrics.connections.dec();
    drop(places);
}
