//! Frames of the peers: the length of the payload, then the payload, which is numbers of four bytes.
//! How many of each kind there are follows from the length.

use super::Peer;
use anyhow::{Context, Result, bail, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tandem_speculation::{Correction, Distribution, TokenId, Verdict};

/// Longer than any frame takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// No frame is longer: 32 vectors of a large vocabulary.
const MAX_FRAME: usize = 64 << 20;

/// One end of a connection.
pub struct Wire(TcpStream);

impl Wire {
    pub fn new(socket: TcpStream) -> Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Sends a payload; its length in bytes.
    pub fn send(&mut self, payload: &[u8]) -> Result<usize> {
        let mut frame = (payload.len() as u32).to_le_bytes().to_vec();
        frame.extend_from_slice(payload);
        self.0.write_all(&frame)?;
        Ok(payload.len())
    }

    /// The next payload; `None` if the other side hung up.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        let mut length = [0; 4];
        match self.0.read_exact(&mut length) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let length = u32::from_le_bytes(length) as usize;
        ensure!(length <= MAX_FRAME, "a frame of {length} bytes");
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).context("the connection broke in a frame")?;
        Ok(Some(payload))
    }
}

/// One draft, on its way up.
#[derive(Debug, PartialEq)]
pub struct Draft {
    /// Tokens before it.
    pub position: u32,
    /// The token before it, which in DSSD only the device knows.
    pub last: TokenId,
    pub ids: Vec<TokenId>,
    pub q: Vec<Distribution>,
}

impl Draft {
    /// What this scheme sends of it.
    pub fn encode(&self, peer: Peer, vocab: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        put_ids(&mut payload, &[TokenId(self.position), self.last]);
        put_ids(&mut payload, &self.ids);
        match peer {
            Peer::Dsd => self.q.iter().for_each(|q| put(&mut payload, &vector(q, vocab))),
            Peer::Full => {
                let scalars = self.ids.iter().zip(&self.q).map(|(id, q)| q.probability(*id));
                put(&mut payload, &scalars.collect::<Vec<_>>());
            }
            Peer::Greedy | Peer::Gumbel => {}
        }
        payload
    }
}

/// A draft as it arrives.
pub struct Received {
    pub position: usize,
    pub last: TokenId,
    pub ids: Vec<TokenId>,
    /// Of DSD: whole vectors.
    pub q: Vec<Distribution>,
    /// Of DSSD: `q` of the drafted tokens.
    pub scalars: Vec<f32>,
}

impl Received {
    pub fn decode(payload: &[u8], peer: Peer, vocab: usize) -> Result<Self> {
        let (head, rest) = payload.split_at_checked(8).context("a draft without its head")?;
        let each = match peer {
            Peer::Dsd => 4 + 4 * vocab,
            Peer::Full => 8,
            Peer::Greedy | Peer::Gumbel => 4,
        };
        ensure!(rest.len() % each == 0, "a draft of a wrong length");
        let (ids, numbers) = rest.split_at(rest.len() / each * 4);
        let (head, numbers) = (get_ids(head, u32::MAX as usize)?, floats(numbers));
        let (q, scalars) = match peer {
            Peer::Dsd => {
                let rows = numbers.chunks_exact(vocab).map(|q| Distribution::dense(q.to_vec()));
                (rows.collect::<Result<_, _>>()?, Vec::new())
            }
            _ => (Vec::new(), numbers),
        };
        let ids = get_ids(ids, vocab)?;
        Ok(Self { position: head[0].index(), last: head[1], ids, q, scalars })
    }
}

/// The edge's answer: the length of the accepted prefix, then a token or a whole vector.
pub fn encode(verdict: &Verdict) -> Result<Vec<u8>> {
    let mut payload = Vec::new();
    put_ids(&mut payload, &[TokenId(verdict.accepted as u32)]);
    match &verdict.correction {
        Correction::Bonus(token) | Correction::Token(token) => put_ids(&mut payload, &[*token]),
        Correction::Full(p) => put(&mut payload, p),
        other => bail!("no peer answers with {other:?}"),
    }
    Ok(payload)
}

/// The same, of a draft of `drafted` tokens.
pub fn decode(payload: &[u8], drafted: usize, vocab: usize) -> Result<Verdict> {
    let (accepted, rest) = payload.split_at_checked(4).context("an empty verdict")?;
    let accepted = get_ids(accepted, drafted + 1)?[0].index();
    let correction = if rest.len() == 4 {
        let token = get_ids(rest, vocab)?[0];
        if accepted == drafted { Correction::Bonus(token) } else { Correction::Token(token) }
    } else {
        Correction::Full(floats(rest))
    };
    Ok(Verdict { accepted, correction })
}

/// A frame of ids alone: the prompt.
pub fn ids(ids: &[TokenId]) -> Vec<u8> {
    let mut payload = Vec::new();
    put_ids(&mut payload, ids);
    payload
}

/// Numbers below `end`.
pub fn get_ids(payload: &[u8], end: usize) -> Result<Vec<TokenId>> {
    ensure!(payload.len().is_multiple_of(4), "a frame that ends within a number");
    let id = |bytes: &[u8]| {
        let id = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        ensure!((id as usize) < end, "{id} is out of range");
        Ok(TokenId(id))
    };
    payload.chunks_exact(4).map(id).collect()
}

fn floats(payload: &[u8]) -> Vec<f32> {
    let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    payload.chunks_exact(4).map(number).collect()
}

fn put_ids(payload: &mut Vec<u8>, ids: &[TokenId]) {
    payload.extend(ids.iter().flat_map(|id| id.0.to_le_bytes()));
}

fn put(payload: &mut Vec<u8>, numbers: &[f32]) {
    payload.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
}

/// One probability for each id, also of a distribution on few tokens: what DSD sends.
fn vector(distribution: &Distribution, vocab: usize) -> Vec<f32> {
    let mut vector = vec![0.0; vocab];
    for (id, probability) in distribution.support() {
        vector[id.index()] = probability;
    }
    vector
}
