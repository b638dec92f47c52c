//! Connections through a balancer: the PROXY protocol, version 2, by which the balancer says first whose
//! a connection is. Otherwise all who come through it would be one address, with one address's limits.

use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX};
use std::io;
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The fixed part: a prefix, what it is, and how long the rest is.
const FIXED: usize = 16;
/// Bytes after the fixed part, at most: addresses take up to 216, and some balancers add remarks.
const MORE: usize = 1024;

/// The address of whom a connection is for, from its first bytes; `None` if it is the balancer's own,
/// as a look at the edge's health.
///
/// # Errors
/// If the connection begins with anything else or ends.
pub(crate) async fn origin(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut bytes = vec![0; FIXED];
    stream.read_exact(&mut bytes).await?;
    let more = usize::from(u16::from_be_bytes([bytes[FIXED - 2], bytes[FIXED - 1]]));
    // Anything else is no header, and its length may be a wish for much.
    if !bytes.starts_with(PROTOCOL_PREFIX) || more > MORE {
        return Err(wrong("no header of the PROXY protocol, version 2".into()));
    }
    bytes.resize(FIXED + more, 0);
    stream.read_exact(&mut bytes[FIXED..]).await?;
    let header = Header::try_from(bytes.as_slice()).map_err(|e| wrong(e.to_string()))?;
    match (header.command, header.addresses) {
        (Command::Local, _) => Ok(None),
        (_, Addresses::IPv4(of)) => Ok(Some(of.source_address.into())),
        (_, Addresses::IPv6(of)) => Ok(Some(of.source_address.into())),
        (_, Addresses::Unix(_) | Addresses::Unspecified) => {
            Err(wrong("a header of the PROXY protocol without an address".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = (addresses.len() as u16).to_be_bytes();
        [PROTOCOL_PREFIX, &[0x20 | command, family], &length, addresses].concat()
    }

    #[tokio::test]
    async fn the_source_is_read_and_what_follows_is_left() {
        let v4 = [203, 0, 113, 7, 192, 0, 2, 1, 0, 80, 29, 46];
        let bytes = [header(1, 0x11, &v4), b"more".to_vec()].concat();
        let mut stream = bytes.as_slice();
        let from = origin(&mut stream).await.expect("a header");
        assert_eq!(from, Some([203, 0, 113, 7].into()));
        assert_eq!(stream, b"more");

        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        let from = origin(&mut header(1, 0x21, &v6).as_slice()).await.expect("a header");
        assert_eq!(from, Some("2001:db8::9".parse().expect("an address")));
        // Remarks after the addresses.
        let remarks = [&v4[..], &[4, 0, 2, 0, 0]].concat();
        let from = origin(&mut header(1, 0x11, &remarks).as_slice()).await.expect("a header");
        assert_eq!(from, Some([203, 0, 113, 7].into()));
        // A look at the health.
        assert_eq!(origin(&mut header(0, 0, &[]).as_slice()).await.expect("a header"), None);
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let v4 = [203, 0, 113, 7, 192, 0, 2, 1, 0, 80, 29, 46];
        let whole = header(1, 0x11, &v4);
        for end in 0..whole.len() {
            assert!(origin(&mut &whole[..end]).await.is_err(), "{end}");
        }
        let version = [PROTOCOL_PREFIX, &[0x11, 0x11, 0, 12], &v4].concat();
        let short = header(1, 0x11, &v4[..11]);
        let long = [PROTOCOL_PREFIX, &[0x21, 0x11, 0xff, 0xff], &[0; 70_000][..]].concat();
        let hello = [&[22, 3, 1, 2, 0, 1][..], &[0; 600]].concat();
        let text = b"PROXY TCP4 203.0.113.7 192.0.2.1 80 7470\r\n\r\n".to_vec();
        for bytes in
            [version, short, long, hello, text, header(1, 0, &[]), header(1, 0x31, &[0; 216])]
        {
            assert!(origin(&mut bytes.as_slice()).await.is_err(), "{bytes:?}");
        }
    }
}
