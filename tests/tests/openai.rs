//! The OpenAI-compatible API as other people's clients meet it: how they name things, what they leave
//! out, what they get wrong.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tandem_edge::{Config, Edge};
use tandem_tests::{OTHER, config, model};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// What an edge calls [`OTHER`].
const NAME: &str = "SmolLM2-135M-Instruct.Q4_1";

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    fn error(&self) -> Value {
        self.json()["error"].clone()
    }
}

/// The answer to these bytes; `half` ends this side of the connection behind them.
async fn exchange(at: SocketAddr, bytes: &[u8], half: bool) -> Answer {
    let mut socket = TcpStream::connect(at).await.expect("a connection");
    // An edge that has heard enough answers before it has all.
    let _ = socket.write_all(bytes).await;
    if half {
        socket.shutdown().await.expect("an end");
    }
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
    let _ = read.expect("an answer in time");
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let head = head.to_lowercase();
    let body =
        if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.into() };
    Answer { status, head, body }
}

fn unchunked(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || more.len() < size {
            break;
        }
        whole.push_str(&more[..size]);
        rest = more[size..].trim_start_matches("\r\n");
    }
    whole
}

async fn get(at: SocketAddr, path: &str, headers: &str) -> Answer {
    let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
    let request = format!("GET {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}\r\n");
    exchange(at, request.as_bytes(), false).await
}

fn request(body: &str, headers: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn post(at: SocketAddr, body: &Value) -> Answer {
    exchange(at, request(&body.to_string(), "").as_bytes(), false).await
}

/// A short question without a model's name.
fn question(changes: Value) -> Value {
    let mut body = json!({
        "messages": [{ "role": "user", "content": "Say hello." }],
        "temperature": 0,
        "max_tokens": 4,
    });
    for (key, value) in changes.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

async fn serving(change: impl FnOnce(&mut Config)) -> Edge {
    let mut usual = config(([127, 0, 0, 1], 0).into());
    change(&mut usual);
    Edge::start(model(OTHER), usual).await.expect("an edge")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_name_the_model_and_find_their_way() {
    let edge = serving(|c| c.aliases = vec!["gpt-4o".into()]).await;
    let at = edge.address();
    let plain = post(at, &question(json!({}))).await;
    assert_eq!(plain.status, 200, "{}", plain.body);
    let text = plain.json()["choices"][0]["message"]["content"].clone();
    for name in [NAME.to_owned(), format!("{NAME}.gguf"), format!("openai/{NAME}"), "gpt-4o".into()]
    {
        let named = post(at, &question(json!({ "model": name }))).await;
        assert_eq!(named.json()["choices"][0]["message"]["content"], text, "{name}");
        assert_eq!(get(at, &format!("/v1/models/{name}"), "").await.status, 200, "{name}");
    }
    let other = post(at, &question(json!({ "model": "gpt-5" }))).await;
    assert_eq!((other.status, other.error()["code"].as_str()), (404, Some("model_not_found")));
    let list = get(at, "/v1/models", "").await.json();
    let ids: Vec<&str> =
        list["data"].as_array().expect("a list").iter().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(ids, [NAME, "gpt-4o"]);
    for model in list["data"].as_array().expect("a list") {
        assert_eq!(model["max_model_len"], 4096, "{model}");
        assert_eq!(model["meta"]["n_ctx"], 4096, "{model}");
    }
    assert!(get(at, "/", "").await.body.contains("/v1"));
    assert_eq!(get(at, "/health", "").await.json()["status"], "ok");
    for path in ["/v1", "/v1/", "/models", "/chat/completions", "/v1/embeddings", "/x"] {
        let lost = get(at, path, "").await;
        assert_eq!(lost.status, 404, "{path}");
        let text = lost.error()["message"].as_str().expect("a sentence").to_owned();
        assert!(text.contains("/v1/chat/completions"), "{path}: {text}");
    }
    let wrong = get(at, "/v1/chat/completions", "").await;
    assert_eq!((wrong.status, wrong.error()["code"].as_str()), (405, Some("method_not_allowed")));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_beyond_the_context_are_refused_in_the_words_that_clients_read() {
    let edge = serving(|c| c.limits.context = 64).await;
    let at = edge.address();
    let of = |text: String| question(json!({ "messages": [{ "role": "user", "content": text }] }));
    let refused = post(at, &of("one two three ".repeat(20))).await;
    assert_eq!(
        (refused.status, refused.error()["code"].as_str()),
        (400, Some("context_length_exceeded"))
    );
    let text = refused.error()["message"].as_str().expect("a sentence").to_owned();
    assert!(
        text.starts_with(
            "This model's maximum context length is 64 tokens. However, your messages \
        resulted in "
        ),
        "{text}"
    );
    assert!(text.ends_with(" tokens. Please reduce the length of the messages."), "{text}");
    // A text that is far too long is not encoded to its end: so the count is a least one, and small.
    let body = of("a b ".repeat((19 << 20) / 10 / 4));
    let short = question(json!({}));
    let (many, hello) = tokio::join!(
        futures_util::future::join_all((0..8).map(|_| post(at, &body))),
        post(at, &short),
    );
    assert_eq!(hello.status, 200, "{}", hello.body);
    for refused in many {
        let text = refused.error()["message"].as_str().expect("a sentence").to_owned();
        let count = text.split("at least ").nth(1).and_then(|t| t.split(' ').next());
        let count: usize = count.and_then(|c| c.parse().ok()).unwrap_or_else(|| panic!("{text}"));
        assert!((65..2000).contains(&count), "{text}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_come_compressed_marked_and_from_half_closed_sockets() {
    let edge = serving(|_| {}).await;
    let at = edge.address();
    let body = question(json!({ "max_tokens": 60 })).to_string();
    let zipped = exchange(at, request(&body, "Content-Encoding: gzip\r\n").as_bytes(), false).await;
    assert_eq!(
        (zipped.status, zipped.error()["code"].as_str()),
        (415, Some("unsupported_encoding"))
    );
    let marked = exchange(at, request(&format!("\u{feff}{body}"), "").as_bytes(), false).await;
    assert_eq!(marked.status, 200, "{}", marked.body);
    let whole = marked.json()["choices"][0]["message"]["content"].clone();
    let half = exchange(at, request(&body, "").as_bytes(), true).await;
    assert_eq!(half.status, 200, "{}", half.body);
    assert_eq!(half.json()["choices"][0]["message"]["content"], whole);
    let streamed = question(json!({ "max_tokens": 60, "stream": true })).to_string();
    let half = exchange(at, request(&streamed, "").as_bytes(), true).await;
    assert!(half.body.trim_end().ends_with("[DONE]"), "{}", half.body);
    edge.stop().await;
}

/// A client that is gone costs nothing, although a half-closed one is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_is_not_computed() {
    let edge = serving(|_| {}).await;
    let at = edge.address();
    let running = async |wanted: bool| {
        let seen = async {
            loop {
                let text = get(at, "/metrics", "").await.body;
                let line = text
                    .lines()
                    .find(|l| l.starts_with("tandem_edge_running_sessions "))
                    .expect("the gauge")
                    .to_owned();
                if line.ends_with(" 0") != wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(20), seen).await.expect("the gauge to follow");
    };
    for stream in [false, true] {
        let body = question(json!({ "max_tokens": 4000, "stream": stream,
            "messages": [{ "role": "user", "content": "Tell a very long story about a fox." }] }));
        let mut socket = TcpStream::connect(at).await.expect("a connection");
        socket.write_all(request(&body.to_string(), "").as_bytes()).await.expect("sent");
        running(true).await;
        drop(socket);
        running(false).await;
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_name_reaches_nothing_of_an_open_edge() {
    let edge = serving(|_| {}).await;
    let at = edge.address();
    for path in ["/metrics", "/v1/models", "/v1/ws", "/v1/control", "/healthz", "/", "/nothing"] {
        let rebound = get(at, path, "Host: evil.example:7470\r\n").await;
        assert_eq!(rebound.status, 421, "{path}: {}", rebound.body);
        assert!(!rebound.body.contains(NAME), "{}", rebound.body);
    }
    let own = get(at, "/v1/models", &format!("Host: {at}\r\n")).await;
    assert_eq!(own.status, 200);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_token_passes_beside_any_number_of_wrong_ones() {
    let edge = serving(|c| c.token = Some("right".into())).await;
    let at = edge.address();
    let denied = get(at, "/v1/models", "").await;
    assert_eq!(denied.status, 401);
    assert!(denied.head.contains("www-authenticate: bearer"), "{}", denied.head);
    for shown in [
        "Authorization: bearer right",
        "Authorization: BEARER   right",
        "x-api-key: right",
        "api-key: right",
    ] {
        assert_eq!(get(at, "/v1/models", &format!("{shown}\r\n")).await.status, 200, "{shown}");
    }
    let wrong = |i: usize| async move {
        get(at, "/v1/models", &format!("Authorization: Bearer stale-{i}\r\n")).await.status
    };
    let mut statuses = Vec::new();
    for i in 0..19 {
        statuses.push(wrong(i).await);
    }
    assert!(statuses.iter().all(|s| *s == 401), "{statuses:?}");
    let guesses = futures_util::future::join_all((0..16).map(wrong));
    let right = async {
        let mut passed = Vec::new();
        for _ in 0..32 {
            passed.push(get(at, "/v1/models", "Authorization: Bearer right\r\n").await.status);
        }
        passed
    };
    let (guesses, right) = tokio::join!(guesses, right);
    assert!(guesses.iter().filter(|s| **s == 429).count() >= 10, "{guesses:?}");
    assert!(right.iter().all(|s| *s == 200), "{right:?}");
    edge.stop().await;
}
