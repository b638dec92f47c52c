//! A device without manners: sends what it is told to, and hands out what comes.

use futures_util::{SinkExt, StreamExt};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tandem_edge::{Config, Edge};
use tandem_inference::{ChatMessage, Model, Role};
use tandem_protocol::{
    ClientMessage, Draft, Failure, Hello, Open, PROTOCOL_VERSION, Prefill, ServerMessage,
    SessionId, Stream, Verdict, decode_server, encode_client,
};
use tandem_speculation::{Correction, Sampling, TokenId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::Request;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn serve(model: &Arc<Model>, config: Config) -> Edge {
    Edge::start(Arc::clone(model), config).await.expect("an edge")
}

/// What a drafter with the verifier's own tokenizer says first.
pub fn greeting(model: &Model) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        app_version: "test".into(),
        drafter: "raw".into(),
        tokenizer: model.tokenizer().fingerprint(),
        model: None,
    }
}

pub fn prompt(model: &Model, text: &str) -> Vec<TokenId> {
    let message = ChatMessage { role: Role::User, content: text.into() };
    model.tokenizer().encode_chat(&[message]).expect("ids")
}

pub fn open(
    session: u8,
    generation: u32,
    tokens: Vec<TokenId>,
    sampling: Sampling,
) -> ClientMessage {
    let session = SessionId([session; 16]);
    ClientMessage::Open(Open { session, generation, tokens, sampling, seed: 3, branch: 0 })
}

pub fn draft(
    generation: u32,
    round: u32,
    prefix: usize,
    committed: &[u32],
    ids: &[u32],
    q: &[f32],
) -> ClientMessage {
    ClientMessage::Draft(Draft {
        generation,
        round,
        prefix_len: prefix as u32,
        committed: committed.iter().copied().map(TokenId).collect(),
        ids: ids.iter().copied().map(TokenId).collect(),
        q: q.to_vec(),
        alternatives: Vec::new(),
        branch: round,
        open: false,
    })
}

pub fn stream(generation: u32, round: u32, prefix: usize, max_tokens: u32) -> ClientMessage {
    let (prefix_len, committed) = (prefix as u32, Vec::new());
    let drafts = false;
    ClientMessage::Stream(Stream { generation, round, prefix_len, committed, max_tokens, drafts })
}

fn request(
    at: SocketAddr,
    token: Option<&str>,
    protocol: Option<&str>,
    origin: Option<&str>,
) -> Request<()> {
    let mut request = format!("ws://{at}/v1/ws").into_client_request().expect("a request");
    let token = token.map(|token| format!("Bearer {token}"));
    for (name, value) in [
        ("Authorization", token.as_deref()),
        ("Sec-WebSocket-Protocol", protocol),
        ("Origin", origin),
    ] {
        if let Some(value) = value {
            request.headers_mut().insert(name, value.parse().expect("a header"));
        }
    }
    request
}

/// Status and text of an upgrade that is refused.
pub async fn refusal(
    at: SocketAddr,
    token: Option<&str>,
    protocol: Option<&str>,
    origin: Option<&str>,
) -> (u16, String) {
    match connect_async(request(at, token, protocol, origin)).await {
        Err(Error::Http(response)) => {
            let text = response.body().clone().unwrap_or_default();
            (response.status().as_u16(), String::from_utf8_lossy(&text).into_owned())
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// Body of a plain request.
pub async fn get(at: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(at).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("text");
    answer
}

pub struct Raw(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Raw {
    /// Connects and says nothing.
    pub async fn open(at: SocketAddr, token: Option<&str>) -> Self {
        let request = request(at, token, Some("tandem.v1"), None);
        Self(connect_async(request).await.expect("a socket").0)
    }

    /// Connects and is welcomed.
    pub async fn connect(at: SocketAddr, token: Option<&str>, hello: Hello) -> Self {
        let mut raw = Self::open(at, token).await;
        raw.send(&ClientMessage::Hello(hello)).await;
        let answer = raw.next().await;
        assert!(matches!(answer, ServerMessage::Welcome(_)), "{answer:?}");
        raw
    }

    pub async fn send(&mut self, message: &ClientMessage) {
        self.send_bytes(encode_client(message)).await;
    }

    pub async fn send_bytes(&mut self, bytes: Vec<u8>) {
        // An edge that has heard enough of a large frame closes before it has all of it.
        let _ = self.0.send(Message::Binary(bytes.into())).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.0.send(Message::Text(text.into())).await.expect("sent");
    }

    /// The next message, or `None` after this time or at the end.
    pub async fn within(&mut self, time: Duration) -> Option<ServerMessage> {
        let message = async {
            loop {
                match self.0.next().await? {
                    Ok(Message::Binary(bytes)) => {
                        return Some(decode_server(&bytes).expect("a message"));
                    }
                    Ok(Message::Ping(_) | Message::Pong(_)) => {}
                    Ok(_) | Err(_) => return None,
                }
            }
        };
        tokio::time::timeout(time, message).await.ok()?
    }

    /// The next message; that there is no room yet is passed over.
    pub async fn next(&mut self) -> ServerMessage {
        loop {
            match self.within(PATIENCE).await.expect("a message") {
                ServerMessage::Waiting(_) => {}
                message => return message,
            }
        }
    }

    /// The next failure; reports of prompts and verdicts before it are passed over.
    pub async fn failure(&mut self) -> Failure {
        loop {
            match self.next().await {
                ServerMessage::Error(failure) => return failure,
                ServerMessage::Prefill(_) | ServerMessage::Verdict(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub async fn prefill(&mut self) -> Prefill {
        match self.next().await {
            ServerMessage::Prefill(report) => report,
            other => panic!("{other:?}"),
        }
    }

    pub async fn verdict(&mut self) -> Verdict {
        loop {
            match self.next().await {
                ServerMessage::Verdict(verdict) => return verdict,
                ServerMessage::Prefill(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// So many plain tokens.
    pub async fn tokens(&mut self, most: usize) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        while tokens.len() < most {
            let verdict = self.verdict().await;
            let Correction::Bonus(token) = verdict.correction else { panic!("{verdict:?}") };
            tokens.push(token);
        }
        tokens
    }

    /// The edge closes the connection.
    pub async fn ends(&mut self) {
        let end = tokio::time::timeout(PATIENCE, async {
            while let Some(Ok(message)) = self.0.next().await {
                assert!(!message.is_binary(), "more came");
            }
        });
        end.await.expect("the end of the connection");
    }
}
