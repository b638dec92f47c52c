//! A link with delay, jitter, a rate and stalls, between two real sockets of one process.

use super::world::{Net, STALL_MS};
use anyhow::Result;
use std::net::SocketAddr;
use std::time::Duration;
use tandem_speculation::{Purpose, Randomness};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Forwards every connection to `target` until it is dropped.
pub struct Emulator {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Emulator {
    /// Listens on a free port of loopback.
    pub async fn start(target: SocketAddr, net: Net) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Err(e) = connect(near, target, net).await {
                        eprintln!("the emulated link broke: {e}");
                    }
                });
            }
        });
        Ok(Self { address, _tasks: tasks })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn connect(near: TcpStream, target: SocketAddr, net: Net) -> std::io::Result<()> {
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::join!(direction(near_read, far_write, net, 1), direction(far_read, near_write, net, 2));
    Ok(())
}

/// Carries bytes one way: each piece waits for those before it, for its own time on the wire, and
/// for the delay.
async fn direction(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, net: Net, seed: u64) {
    let (queue, mut wire) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let reader = async move {
        let random = Randomness::new(seed);
        let mut buffer = vec![0; 64 << 10];
        let (mut free, mut last) = (Instant::now(), Instant::now());
        for n in 0.. {
            let Ok(read @ 1..) = from.read(&mut buffer).await else { break };
            let u = [0, 1].map(|i| random.uniform(Purpose::Bonus, n, i));
            free = free.max(Instant::now()) + ms(read as f64 * 8.0 / (net.mbit * 1e3));
            let stall = if u[1] < net.loss { STALL_MS } else { 0.0 };
            last = last.max(free + ms(net.rtt_ms / 2.0 + u[0] * net.jitter_ms + stall));
            if queue.send((last, buffer[..read].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let writer = async move {
        while let Some((at, bytes)) = wire.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(reader, writer);
}

fn ms(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_arrive_unchanged_after_the_delay() {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let net = Net { rtt_ms: 60.0, mbit: 8.0, ..Net::default() };
        let link = Emulator::start(server.local_addr().unwrap(), net).await.unwrap();
        let mut near = TcpStream::connect(link.address()).await.unwrap();
        let (mut far, _) = server.accept().await.unwrap();
        let sent: Vec<u8> = (0..20_000).map(|i| (i * 7 % 251) as u8).collect();
        let start = Instant::now();
        near.write_all(&sent).await.unwrap();
        let mut received = vec![0; sent.len()];
        far.read_exact(&mut received).await.unwrap();
        assert_eq!(received, sent);
        // 30 ms one way, and 20 kB at 1 MB/s.
        let took = start.elapsed().as_secs_f64() * 1e3;
        assert!((49.0..90.0).contains(&took), "{took} ms");
    }
}
