//! The open door and devices on one edge: shared fairly, bounded, and drained.

#[allow(dead_code)]
mod process;
#[allow(dead_code)]
mod raw;

use process::started_with;
use raw::{Raw, draft, get, greeting, open, prompt, refusal, serve};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};
use tandem_edge::Limits;
use tandem_speculation::{Correction, Sampling};
use tandem_tests::{OTHER, config, edge, model};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What [`OTHER`] is called by an edge: the name of its file.
const NAME: &str = "SmolLM2-135M-Instruct.Q4_1";

/// An answer of the door.
struct Answer {
    status: u16,
    head: String,
    body: BufReader<TcpStream>,
}

impl Answer {
    async fn json(mut self) -> Value {
        let mut text = String::new();
        self.body.read_to_string(&mut text).await.expect("a body");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    async fn code(self) -> String {
        self.json().await["error"]["code"].as_str().expect("a code").to_owned()
    }

    /// The next event of a stream, or `None` at its end.
    async fn event(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            let read = tokio::time::timeout(PATIENCE, self.body.read_line(&mut line)).await;
            if read.expect("an event in time").expect("a line") == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.trim_end().to_owned());
            }
        }
    }
}

async fn post(at: SocketAddr, body: &Value) -> Answer {
    let body = body.to_string();
    let mut socket = TcpStream::connect(at).await.expect("a connection");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    socket.write_all(body.as_bytes()).await.expect("sent");
    let mut body = BufReader::new(socket);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = tokio::time::timeout(PATIENCE, body.read_line(&mut head)).await;
        assert_ne!(read.expect("a head in time").expect("a line"), 0, "no answer: {head}");
    }
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    Answer { status, head, body }
}

/// A long story, streamed.
fn story(tokens: usize) -> Value {
    json!({
        "model": NAME,
        "messages": [{ "role": "user", "content": "Tell a very long story about a fox." }],
        "temperature": 0,
        "max_tokens": tokens,
        "stream": true,
    })
}

async fn told(mut answer: Answer) -> (String, String) {
    assert_eq!(answer.status, 200, "{}", answer.head);
    let (mut text, mut last) = (String::new(), String::new());
    while let Some(event) = answer.event().await {
        if let Ok(chunk) = serde_json::from_str::<Value>(&event) {
            text += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        }
        last = event;
    }
    (text, last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_clients_and_devices_share_the_edge() {
    let model = model(OTHER);
    let edge = edge(&model, 0).await;
    let at = edge.address();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = post(at, &story(3000)).await;
        assert_eq!(stream.status, 200);
        stream.event().await.expect("a beginning");
        streams.push(stream);
    }
    // A device with drafts that are wrong: each round gives one token.
    let mut device = Raw::connect(at, None, greeting(&model)).await;
    let tokens = prompt(&model, "Hello");
    let mut known = tokens.len();
    device.send(&open(1, 1, tokens, Sampling::GREEDY)).await;
    let before = Instant::now();
    for round in 0..20 {
        device.send(&draft(1, round, known, &[], &[1, 1], &[1.0, 1.0])).await;
        let verdict = device.verdict().await;
        let ends = matches!(verdict.correction, Correction::Token(_) | Correction::Bonus(_));
        assert!(ends, "{verdict:?}");
        known += usize::from(verdict.accepted) + 1;
    }
    let device_took = before.elapsed();
    // The streams went on meanwhile, each as often as the device or more: one step serves all.
    let mut counts = Vec::new();
    for stream in &mut streams {
        let mut count = 0;
        while count < 15 {
            let event = stream.event().await.expect("they are far from their ends");
            assert!(!event.contains("error"), "{event}");
            count += 1;
        }
        counts.push(count);
    }
    let all_took = before.elapsed();
    assert!(all_took < device_took * 3, "{all_took:?} beside {device_took:?}: {counts:?}");
    drop(streams);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_edge_lets_wait_and_then_says_when_to_come_again() {
    let model = model(OTHER);
    let usual = config(([127, 0, 0, 1], 0).into());
    let wait = Duration::from_secs(1);
    let limits = Limits { sessions: 1, wait, ..usual.limits.clone() };
    let edge = serve(&model, tandem_edge::Config { limits, ..usual }).await;
    let mut first = post(edge.address(), &story(3000)).await;
    first.event().await.expect("a beginning");
    for stream in [true, false] {
        let mut wanted = story(5);
        wanted["stream"] = stream.into();
        let second = post(edge.address(), &wanted).await;
        assert_eq!(second.status, 503, "{}", second.head);
        assert!(second.head.to_lowercase().contains("retry-after: 1"), "{}", second.head);
        assert_eq!(second.code().await, "overloaded");
    }
    // The place is free as soon as the first client is gone, and one that waits has it.
    let at = edge.address();
    let waits = tokio::spawn(async move { told(post(at, &story(5)).await).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(first);
    let (text, last) = waits.await.expect("a place");
    assert!(!text.is_empty());
    assert_eq!(last, "[DONE]");
    edge.stop().await;
}

/// More requests at once than conversations: all are answered, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_once_wait_their_turn() {
    let model = model(OTHER);
    let usual = config(([127, 0, 0, 1], 0).into());
    let limits = Limits { sessions: 4, wait: PATIENCE, ..usual.limits.clone() };
    let edge = serve(&model, tandem_edge::Config { limits, connections: 64, ..usual }).await;
    let at = edge.address();
    let all: Vec<_> =
        (0..40).map(|_| tokio::spawn(async move { post(at, &story(4)).await })).collect();
    let mut texts = Vec::new();
    for one in all {
        let (text, last) = told(one.await.expect("an answer")).await;
        assert_eq!(last, "[DONE]");
        texts.push(text);
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "all are the same");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_texts_take_bounded_time() {
    let model = model(OTHER);
    let edge = edge(&model, 0).await;
    for piece in ["<|im_end|>", "<|im_start", "a", " ", "\n \t", "é\u{301}", "{{ 7 * 7 }}", "9"] {
        let text = piece.repeat((2 << 20) / piece.len() - 200);
        let message = json!({ "role": "user", "content": text });
        let started = Instant::now();
        let answer = post(edge.address(), &json!({ "model": NAME, "messages": [message] })).await;
        let (status, took) = (answer.status, started.elapsed());
        assert!(took < Duration::from_secs(30), "{piece:?} took {took:?}");
        // What JSON escapes is larger than it looks.
        let large = [(400, "context_length_exceeded"), (413, "request_too_large")];
        let code = answer.code().await;
        assert!(large.contains(&(status, code.as_str())), "{piece:?}: {status} {code}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_edge_ends_what_it_has_and_takes_nothing_new() {
    let (mut running, at) = started_with(OTHER, "127.0.0.1:0", &["--drain", "60"]);
    assert!(get(at, "/readyz").await.starts_with("HTTP/1.1 200"));
    let (whole, end) = told(post(at, &story(300)).await).await;
    assert_eq!(end, "[DONE]");
    let mut stream = post(at, &story(300)).await;
    stream.event().await.expect("a beginning");
    let id = running.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill").success());
    let draining = async {
        while !get(at, "/readyz").await.starts_with("HTTP/1.1 503") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), draining).await.expect("it says so");
    assert!(get(at, "/healthz").await.starts_with("HTTP/1.1 200"));
    let refused = post(at, &story(5)).await;
    assert_eq!((refused.status, refused.code().await.as_str()), (503, "shutting_down"));
    let (status, text) = refusal(at, None, Some("tandem.v1"), None).await;
    assert_eq!(status, 503, "{text}");
    let (rest, end) = told(stream).await;
    assert_eq!((rest, end.as_str()), (whole, "[DONE]"));
    let ended = tokio::task::spawn_blocking(move || running.0.wait().expect("an end"));
    let ended = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("soon");
    assert_eq!(ended.expect("no panic").code(), Some(0));
}
