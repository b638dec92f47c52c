//! The link: carries connections between device and edge frame by frame, and does to the n-th frame
//! what the plan says.
//!
//! Faults belong to numbers of frames and not to times. The edge computes on a thread of its own,
//! which no simulated clock (`turmoil`, or tokio's paused one) can hold, and the product would have to
//! be built on a simulated socket; so a time would hit another frame each time, and a number hits the
//! same one. Frames are counted over all connections of a run, one count for each direction; the head
//! of the HTTP upgrade is a frame as well. Pings are carried and not counted.

use crate::plan::{Direction, FrameFault, Plan};
use crate::world::{Action, Tally};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tandem_protocol::{ClientMessage, Open, SessionId, encode_client};
use tandem_speculation::Sampling;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Longer heads and frames are not sent by our programs.
const LONGEST: usize = 1 << 20;

/// What all connections share.
struct Shared {
    plan: Plan,
    counts: [AtomicU32; 2],
    target: Mutex<Option<SocketAddr>>,
    actions: mpsc::UnboundedSender<Action>,
    tally: Tally,
}

/// The link; ends with the last handle.
pub struct Wire {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

impl Wire {
    pub async fn start(
        plan: &Plan,
        actions: mpsc::UnboundedSender<Action>,
        tally: Tally,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (plan, target, counts) = (plan.clone(), Mutex::default(), Default::default());
        let shared = Arc::new(Shared { plan, counts, target, actions, tally });
        let (mut task, all) = (JoinSet::new(), Arc::clone(&shared));
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(connection(near, Arc::clone(&all)));
            }
        });
        Ok(Self { address, shared, _task: task })
    }

    /// Where new connections go; `None`: nowhere.
    pub fn aim(&self, target: Option<SocketAddr>) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }
}

/// How a connection ends.
enum End {
    Closed,
    /// With what is in the buffers thrown away.
    Reset,
}

async fn connection(near: TcpStream, shared: Arc<Shared>) {
    let target = *shared.target.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(target) = target else { return };
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_read, mut near_write) = near.into_split();
    let (far_read, mut far_write) = far.into_split();
    let end = tokio::select! {
        end = carry(Direction::Up, near_read, &mut far_write, &shared) => end,
        end = carry(Direction::Down, far_read, &mut near_write, &shared) => end,
    };
    if matches!(end, End::Reset) {
        let _ = (near_write.as_ref().set_zero_linger(), far_write.as_ref().set_zero_linger());
    }
}

/// Carries one direction until it ends.
async fn carry(
    direction: Direction,
    from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
) -> End {
    let mut frames = Frames { from, buffer: Vec::new(), upgraded: false };
    let mut slowly = false;
    // Copies, each with the number of frames that go before it.
    let mut copies: VecDeque<(u32, Vec<u8>)> = VecDeque::new();
    loop {
        let head = !frames.upgraded;
        let Some((frame, counted)) = frames.next().await else { return End::Closed };
        let n = shared.counts[direction as usize].fetch_add(u32::from(counted), Ordering::Relaxed);
        let fault = shared.plan.frames.get(&(direction, n)).filter(|_| counted);
        if let Some(fault) = fault
            && !(head && matches!(fault, FrameFault::Twice { .. }))
        {
            shared.tally.count(fault.kind());
        }
        let mut sent = frame.len();
        let mut end = None;
        let mut action = None;
        match fault {
            None => {}
            Some(FrameFault::Delay { ms }) => sleep(Duration::from_millis(*ms)).await,
            Some(FrameFault::Slow) => slowly = true,
            Some(FrameFault::Twice { .. }) if head => {}
            Some(FrameFault::Twice { behind }) => {
                let behind =
                    if direction == Direction::Up && is_open(&frame) { 0 } else { *behind };
                copies.push_back((behind, frame.clone()));
            }
            Some(FrameFault::Drop { reset }) => (sent, end) = (0, Some(*reset)),
            Some(FrameFault::Cut { reset }) => (sent, end) = (frame.len() / 2, Some(*reset)),
            Some(FrameFault::Kill { what, delivered }) => {
                action = Some(*what);
                sent = if *delivered { frame.len() } else { 0 };
                end = Some(true);
            }
        }
        if write(to, &frame[..sent], slowly).await.is_err() {
            return End::Closed;
        }
        if let Some(what) = action {
            // The frame after this one never comes while the side that dies is alive.
            let (done, wait) = oneshot::channel();
            let _ = shared.actions.send(Action { what, done: Some(done) });
            let _ = wait.await;
        }
        match end {
            Some(true) => return End::Reset,
            Some(false) => return End::Closed,
            None => {}
        }
        let before = copies.len();
        for (behind, _) in copies.iter_mut().take(before) {
            *behind = behind.saturating_sub(u32::from(counted));
        }
        while copies.front().is_some_and(|c| c.0 == 0) {
            let Some((_, copy)) = copies.pop_front() else { break };
            if write(to, &copy, slowly).await.is_err() {
                return End::Closed;
            }
        }
    }
}

/// Whether a frame of the device holds `Open`. A copy of it comes at once or not at all: a late one is
/// a request to begin anew, after which the edge rightly knows nothing of what waited.
fn is_open(frame: &[u8]) -> bool {
    let head = match frame.get(1).map(|b| b & 0x7f) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    // The payload follows the mask; it begins with the number of the message's kind.
    let kind = frame.get(head + 4).zip(frame.get(head)).map(|(byte, mask)| byte ^ mask);
    let open = ClientMessage::Open(Open {
        session: SessionId([0; 16]),
        generation: 0,
        tokens: Vec::new(),
        sampling: Sampling::GREEDY,
        seed: 0,
        branch: 0,
    });
    kind.is_some() && kind == encode_client(&open).first().copied()
}

/// A slow reader takes a few bytes at a time.
async fn write(to: &mut OwnedWriteHalf, bytes: &[u8], slowly: bool) -> std::io::Result<()> {
    if !slowly {
        return to.write_all(bytes).await;
    }
    for piece in bytes.chunks(16) {
        to.write_all(piece).await?;
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Cuts a stream of bytes into the head of the upgrade and WebSocket frames.
struct Frames {
    from: OwnedReadHalf,
    buffer: Vec<u8>,
    upgraded: bool,
}

impl Frames {
    /// The next frame, and whether it is counted.
    async fn next(&mut self) -> Option<(Vec<u8>, bool)> {
        loop {
            if let Some((length, counted)) = self.whole() {
                self.upgraded = true;
                let rest = self.buffer.split_off(length);
                return Some((std::mem::replace(&mut self.buffer, rest), counted));
            }
            if self.buffer.len() > LONGEST || self.from.read_buf(&mut self.buffer).await.ok()? == 0
            {
                return None;
            }
        }
    }

    /// Length of what the buffer begins with, if all of it is there.
    fn whole(&self) -> Option<(usize, bool)> {
        let bytes = &self.buffer;
        if !self.upgraded {
            return bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| (at + 4, true));
        }
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (payload, head) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
            short => (usize::from(short), 2),
        };
        let length = head + mask + payload;
        // Opcodes from 8 on are pings, pongs and the end.
        (bytes.len() >= length).then_some((length, first & 0x0f < 8))
    }
}
