//! What an enemy says: TLS without asking for a certificate, HTTP by hand, WebSockets with any frame.

use crate::middle;
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tandem_protocol::{
    ClientMessage, Hello, PROTOCOL_VERSION, ServerMessage, decode_server, encode_client,
};
use tandem_speculation::{Correction, TokenId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(40);

pub type Tls = TlsStream<TcpStream>;

/// Two machines as the edge sees them. Only Linux has the second without being asked.
pub const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const ELSEWHERE: IpAddr =
    if cfg!(target_os = "linux") { IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)) } else { HERE };

pub async fn tcp(from: IpAddr, edge: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address");
    socket.connect(edge).await.expect("a connection")
}

pub async fn tls(from: IpAddr, edge: SocketAddr) -> std::io::Result<Tls> {
    tls_over(tcp(from, edge).await).await
}

async fn tls_over(stream: TcpStream) -> std::io::Result<Tls> {
    let connector = TlsConnector::from(Arc::new(middle::client()));
    let name = ServerName::try_from("edge").expect("a name");
    connector.connect(name, stream).await
}

/// The whole answer to a request; empty if the connection is closed without one.
pub async fn http(from: IpAddr, edge: SocketAddr, path: &str, token: Option<&str>) -> String {
    http_over(tcp(from, edge).await, path, token).await
}

/// The same over a connection that stands.
pub async fn http_over(stream: TcpStream, path: &str, token: Option<&str>) -> String {
    let Ok(mut stream) = tls_over(stream).await else { return String::new() };
    let token = token.map_or_else(String::new, |t| format!("Authorization: Bearer {t}\r\n"));
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}\r\n");
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of an answer; 0 without one.
pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
}

/// A WebSocket over TLS.
pub struct Wire(pub WebSocketStream<Tls>);

impl Wire {
    /// The status if it is refused.
    pub async fn open(
        (from, edge): (IpAddr, SocketAddr),
        path: &str,
        protocol: &str,
        token: Option<&str>,
    ) -> Result<Self, u16> {
        let mut request = format!("wss://edge{path}").into_client_request().expect("a request");
        let headers = request.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", protocol.parse().expect("a header"));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().expect("a header");
            headers.insert("Authorization", value);
        }
        let stream = tls(from, edge).await.map_err(|_| 0_u16)?;
        match client_async(request, stream).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(_) => Err(0),
        }
    }

    /// A device's socket that is welcomed, or what the edge said instead.
    pub async fn device(
        at: (IpAddr, SocketAddr),
        token: &str,
        tokenizer: [u8; 32],
    ) -> Result<Self, String> {
        let wire = Self::open(at, "/v1/ws", "tandem.v1", Some(token)).await;
        let mut wire = wire.map_err(|status| format!("status {status}"))?;
        wire.send(&ClientMessage::Hello(Hello {
            protocol: PROTOCOL_VERSION,
            app_version: "threats".into(),
            drafter: "none".into(),
            tokenizer,
            model: None,
        }))
        .await;
        match wire.next().await {
            Some(ServerMessage::Welcome(_)) => Ok(wire),
            Some(ServerMessage::Refused(refused)) => Err(refused.message),
            other => Err(format!("{other:?}")),
        }
    }

    /// Whether it went out.
    pub async fn send(&mut self, message: &ClientMessage) -> bool {
        self.0.send(Message::Binary(encode_client(message).into())).await.is_ok()
    }

    /// The next message; `None` at the end.
    pub async fn next(&mut self) -> Option<ServerMessage> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("an answer in time")? {
                Ok(Message::Binary(bytes)) => return decode_server(&bytes).ok(),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                _ => return None,
            }
        }
    }

    /// So many plain tokens.
    pub async fn tokens(&mut self, most: usize) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        while tokens.len() < most {
            match self.next().await {
                Some(ServerMessage::Verdict(v)) => {
                    if let Correction::Bonus(token) = v.correction {
                        tokens.push(token);
                    }
                }
                Some(ServerMessage::Prefill(_) | ServerMessage::Waiting(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        tokens
    }

    /// The edge closes the connection, whatever it says before.
    pub async fn ends(&mut self) {
        let end = async { while let Some(Ok(_)) = self.0.next().await {} };
        timeout(PATIENCE, end).await.expect("the end of the connection");
    }
}
