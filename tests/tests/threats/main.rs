//! A real edge under fire: each threat of `docs/threat-model.md` that is about connections, tokens and
//! logs. What must hold: the enemy gets nothing, memory is bounded, and others are served meanwhile.

#[path = "../boxes/middle.rs"]
#[allow(dead_code)]
mod middle;
mod places;
#[path = "../boxes/setup.rs"]
#[allow(dead_code)]
mod setup;
mod wire;
mod words;

use setup::Edge;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tandem_device::{EdgeAddress, Paired, pair};
use tandem_edge::{Devices, Pairing};
use tandem_protocol::{
    ClientMessage, ControlReply, ControlRequest, ErrorCode, Exchange, Open, ServerMessage,
    SessionId, Side, Stream, decode_reply, encode_request,
};
use tandem_speculation::{Sampling, TokenId};
use tandem_tests::{OTHER, memory, model};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};
use wire::{ELSEWHERE, HERE, PATIENCE, Tls, Wire, http, http_over, status, tcp, tls};

/// What a few connections and conversations of this small model take, with room.
const MIB: u64 = 160;

fn at(edge: &Edge) -> SocketAddr {
    edge.authority().parse().expect("an address")
}

/// A paired device.
async fn paired(edge: &Edge, name: &str) -> Paired {
    let (_, code) = Pairing::new(edge.folder()).offer(Duration::from_secs(60)).expect("an offer");
    let address: EdgeAddress = edge.address.parse().expect("an address");
    pair(&address, None, &code, name).await.expect("a pairing")
}

fn open(session: u16, generation: u32, tokens: Vec<TokenId>) -> ClientMessage {
    let session = SessionId([session.to_le_bytes(); 8].concat().try_into().expect("16 bytes"));
    let sampling = Sampling::GREEDY;
    ClientMessage::Open(Open { session, generation, tokens, sampling, seed: 1, branch: 0 })
}

fn stream(generation: u32, prefix: usize, max_tokens: u32) -> ClientMessage {
    ClientMessage::Stream(Stream {
        generation,
        round: 0,
        prefix_len: prefix as u32,
        committed: Vec::new(),
        max_tokens,
        drafts: false,
    })
}

/// A device gets an answer, from a connection of its own.
async fn served(edge: &Edge, token: &str, tokenizer: [u8; 32], session: u16) {
    let start = Instant::now();
    let device = Wire::device((ELSEWHERE, at(edge)), token, tokenizer).await;
    let mut device = device.unwrap_or_else(|e| panic!("an honest device is refused: {e}"));
    device.send(&open(session, 1, vec![TokenId(1), TokenId(500), TokenId(900)])).await;
    device.send(&stream(1, 3, 8)).await;
    assert_eq!(device.tokens(8).await.len(), 8);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_paired_gets_nothing() {
    let edge = Edge::start();
    let here = (HERE, at(&edge));
    for path in
        ["/metrics", "/v1/ws", "/v1/models", "/v1/chat/completions", "/", "/../devices.json"]
    {
        let answer = http(HERE, at(&edge), path, None).await;
        assert!((400..500).contains(&status(&answer)), "{path}: {answer}");
        assert!(!answer.contains("tandem_edge_"), "{path}: {answer}");
    }
    for (path, protocol) in [("/v1/ws", "tandem.v1"), ("/v1/ws", "tandem.control.v1")] {
        assert_eq!(Wire::open(here, path, protocol, None).await.err(), Some(401), "{path}");
    }
    // The control socket is open for pairing, and for nothing else.
    for request in
        [ControlRequest::Info, ControlRequest::Forget, ControlRequest::Prove { proof: [0; 32] }]
    {
        let control = Wire::open(here, "/v1/control", "tandem.control.v1", None).await;
        let mut control = control.expect("a control socket");
        assert!(matches!(ask(&mut control, &request).await, Some(ControlReply::Refused(_))));
        control.ends().await;
    }
    // Nor does one who has a right token in another form.
    let device = paired(&edge, "phone").await;
    let token = device.token;
    let upper = token.to_uppercase();
    for wrong in [&token[..token.len() - 1], &upper, &format!("{token}0"), "\u{7f}", "null"] {
        assert!(
            [400, 401].contains(&status(&http(HERE, at(&edge), "/metrics", Some(wrong)).await))
        );
    }
    assert_eq!(status(&http(HERE, at(&edge), "/metrics", Some(&token)).await), 200);
}

async fn ask(control: &mut Wire, request: &ControlRequest) -> Option<ControlReply> {
    use futures_util::{SinkExt, StreamExt};
    control.0.send(Message::Binary(encode_request(request).into())).await.ok()?;
    let answer = timeout(PATIENCE, control.0.next()).await.expect("an answer")?.ok()?;
    decode_reply(&answer.into_data()).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_two_use_at_once_pairs_one() {
    let edge = Edge::start();
    for round in 1..=3 {
        let offers = Pairing::new(edge.folder());
        let (_, code) = offers.offer(Duration::from_secs(60)).expect("an offer");
        let address: EdgeAddress = edge.address.parse().expect("an address");
        let all = (0..6).map(|_| pair(&address, None, &code, "one of six"));
        let good = futures_util::future::join_all(all).await.into_iter().filter(Result::is_ok);
        assert_eq!(good.count(), 1);
        assert_eq!(Devices::new(edge.folder()).list().expect("a list").len(), round);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_tokens_are_slowed_down() {
    let edge = Edge::start();
    let token = paired(&edge, "phone").await.token;
    let guess = |i: usize| format!("tandem_{i:064}");
    let mut answers = Vec::new();
    for i in 0..40 {
        answers.push(http(HERE, at(&edge), "/metrics", Some(&guess(i))).await);
    }
    let count = |s: u16| answers.iter().filter(|a| status(a) == s).count();
    // One more for every five seconds that this took.
    assert!((20..28).contains(&count(401)), "{} were looked at", count(401));
    assert_eq!(count(401) + count(429), 40);
    let late = answers.last().expect("an answer").to_lowercase();
    assert!(late.contains("retry-after: ") && late.contains("too many wrong tokens"), "{late}");
    // A right one passes, here and elsewhere.
    assert_eq!(status(&http(HERE, at(&edge), "/metrics", Some(&token)).await), 200);
    assert_eq!(status(&http(ELSEWHERE, at(&edge), "/metrics", Some(&token)).await), 200);
    // Whoever shows none, to pair, is not a guesser.
    assert_eq!(status(&http(HERE, at(&edge), "/healthz", None).await), 200);
}

/// Pairings that are begun and never proved cost the edge little: an address has a few of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pairings_without_a_proof_are_counted() {
    let edge = Edge::start();
    let offers = Pairing::new(edge.folder());
    let (_, code) = offers.offer(Duration::from_secs(60)).expect("an offer");
    let mut begun = 0;
    let mut refusals = Vec::new();
    for _ in 0..4 {
        let control = Wire::open((HERE, at(&edge)), "/v1/control", "tandem.control.v1", None).await;
        let mut control = control.expect("a control socket");
        for _ in 0..10 {
            let (_, share) = Exchange::start(Side::Device, &code);
            let request = ControlRequest::Pair { device: "loop".into(), share };
            match ask(&mut control, &request).await {
                Some(ControlReply::Share { .. }) => begun += 1,
                Some(ControlReply::Refused(refused)) => {
                    refusals.push(refused.message);
                    break;
                }
                _ => panic!("neither a share nor a refusal"),
            }
        }
    }
    // One more for every five seconds that this took.
    assert!((19..28).contains(&begun), "{begun} were begun");
    assert!(refusals.iter().all(|text| text.contains("try again in")), "{refusals:?}");
    assert!(!refusals.is_empty());
    // The code is still good, and another address may begin.
    let control =
        Wire::open((ELSEWHERE, at(&edge)), "/v1/control", "tandem.control.v1", None).await;
    let (_, share) = Exchange::start(Side::Device, &code);
    let request = ControlRequest::Pair { device: "phone".into(), share };
    let mut control = control.expect("a control socket");
    if ELSEWHERE != HERE {
        let reply = ask(&mut control, &request).await;
        assert!(matches!(reply, Some(ControlReply::Share { .. })), "another address is refused");
    }
}

/// A connection of `balancer` that says first that it is for `of`, or for the balancer itself.
async fn through(balancer: IpAddr, of: Option<Ipv4Addr>, edge: &Edge) -> TcpStream {
    let mut stream = tcp(balancer, at(edge)).await;
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    match of {
        Some(of) => {
            header.extend([0x21, 0x11, 0, 12]);
            header.extend([of.octets(), [192, 0, 2, 1]].concat());
            header.extend([0, 80, 29, 46]);
        }
        None => header.extend([0x20, 0, 0, 0]),
    }
    stream.write_all(&header).await.expect("a header");
    stream
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_says_whose_a_connection_is_and_nobody_else_does() {
    let edge = Edge::start_with(&["--balancer", &ELSEWHERE.to_string()]);
    let token = paired(&edge, "phone").await.token;
    let (one, other) = (Ipv4Addr::new(203, 0, 113, 7), Ipv4Addr::new(203, 0, 113, 8));
    let mut looked_at = 0;
    for i in 0..40 {
        let stream = through(ELSEWHERE, Some(one), &edge).await;
        let guess = format!("tandem_{i:064}");
        looked_at += usize::from(status(&http_over(stream, "/metrics", Some(&guess)).await) == 401);
    }
    assert!((20..28).contains(&looked_at), "{looked_at} were looked at");
    let mut statuses = Vec::new();
    for (of, shown) in
        [(Some(one), "wrong"), (Some(other), "wrong"), (None, "wrong"), (Some(one), &token)]
    {
        let stream = through(ELSEWHERE, of, &edge).await;
        statuses.push(status(&http_over(stream, "/metrics", Some(shown)).await));
    }
    assert_eq!(statuses, [429, 401, 401, 200], "each has tries of its own");
    // Nothing else is taken from the balancer, and it may not be silent; others speak for themselves.
    assert_eq!(http(ELSEWHERE, at(&edge), "/healthz", None).await, "");
    let mut silent = tcp(ELSEWHERE, at(&edge)).await;
    let end = timeout(PATIENCE, silent.read(&mut [0; 8])).await.expect("an end");
    assert!(matches!(end, Ok(0) | Err(_)));
    assert_eq!(status(&http(HERE, at(&edge), "/metrics", Some(&token)).await), 200);
    let lie = through(HERE, Some(other), &edge).await;
    assert_eq!(http_over(lie, "/healthz", None).await, "");
}

/// Connections that say nothing, or one byte after the other, from one address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_and_slow_connections_keep_nobody_out() {
    let edge = Edge::start();
    let tokenizer = model(OTHER).tokenizer().fingerprint();
    let token = paired(&edge, "phone").await.token;
    let before = memory(edge.id());
    let start = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..40 {
        if let Ok(mut half) = tls(HERE, at(&edge)).await {
            let _ = half.write_all(b"GET /v1/ws HTTP/1.1\r\nHost: ").await;
            slow.push(half);
        }
    }
    assert!(slow.len() >= 30, "{}", slow.len());
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(tcp(HERE, at(&edge)).await);
    }
    // The last is beyond the places of its address: it is closed before its time for a handshake is over.
    let mut last = silent.pop().expect("a connection");
    let end = timeout(Duration::from_secs(4), last.read(&mut [0; 64])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
    for session in 0..3 {
        served(&edge, &token, tokenizer, session).await;
    }
    // All are closed: those beyond the places of their address at once, the others in time.
    for stream in &mut slow {
        for byte in [b'x'; 3] {
            let _ = stream.write_all(&[byte]).await;
        }
        closed(stream).await;
    }
    for mut stream in silent {
        let end = timeout(PATIENCE, stream.read(&mut [0; 64])).await;
        assert!(matches!(end.expect("an end"), Ok(0) | Err(_)), "a silent one got an answer");
    }
    assert!(start.elapsed() < 2 * PATIENCE, "{:?}", start.elapsed());
    served(&edge, &token, tokenizer, 9).await;
    if let (Some(before), Some(after)) = (before, memory(edge.id())) {
        assert!(after < before + MIB, "{before} MiB, then {after}");
    }
}

async fn closed(stream: &mut Tls) {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.is_empty() || (400..500).contains(&status(&answer)), "{answer}");
}

/// Heads, frames and messages that have no end, or say that they have none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giant_heads_and_frames_take_no_memory() {
    let edge = Edge::start();
    let tokenizer = model(OTHER).tokenizer().fingerprint();
    let token = paired(&edge, "phone").await.token;
    let before = memory(edge.id());

    let mut endless = tls(HERE, at(&edge)).await.expect("a connection");
    let _ = endless.write_all(b"GET / HTTP/1.1\r\nX: ").await;
    let part = vec![b'a'; 1 << 16];
    let mut sent = 0;
    while sent < 64 << 20 && endless.write_all(&part).await.is_ok() {
        sent += part.len();
    }
    assert!(sent < 32 << 20, "{} MiB of a head were taken", sent >> 20);
    let mut fields = tls(HERE, at(&edge)).await.expect("a connection");
    let many: String = (0..2000).map(|i| format!("X-{i}: 1\r\n")).collect();
    let _ = fields.write_all(format!("GET /healthz HTTP/1.1\r\n{many}\r\n").as_bytes()).await;
    closed(&mut fields).await;

    // A frame that claims 2^62 bytes, and messages in parts that never end.
    for control in [false, true] {
        let device = || async {
            if control {
                let open = Wire::open((HERE, at(&edge)), "/v1/control", "tandem.control.v1", None);
                open.await.map_err(|s| s.to_string()).expect("a socket")
            } else {
                Wire::device((HERE, at(&edge)), &token, tokenizer).await.expect("a socket")
            }
        };
        let mut wire = device().await;
        let mut head = vec![0x82, 0xff];
        head.extend((1u64 << 62).to_be_bytes());
        head.extend([1, 2, 3, 4]);
        let stream = wire.0.get_mut();
        stream.write_all(&head).await.expect("a head");
        let mut sent = 0;
        while sent < 64 << 20 && stream.write_all(&part).await.is_ok() {
            sent += part.len();
        }
        assert!(sent < 32 << 20, "{} MiB of a frame were taken", sent >> 20);
        wire.ends().await;

        let mut wire = device().await;
        let mut sent = 0;
        let mut code = OpCode::Data(Data::Binary);
        while sent < 64 << 20 {
            use futures_util::SinkExt;
            let header = FrameHeader { is_final: false, opcode: code, ..FrameHeader::default() };
            let frame = Frame::from_payload(header, part.clone().into());
            if wire.0.send(Message::Frame(frame)).await.is_err() {
                break;
            }
            (sent, code) = (sent + part.len(), OpCode::Data(Data::Continue));
        }
        assert!(sent < 32 << 20, "{} MiB of a message were taken", sent >> 20);
        wire.ends().await;
    }
    served(&edge, &token, tokenizer, 1).await;
    if let (Some(before), Some(after)) = (before, memory(edge.id())) {
        assert!(after < before + MIB, "{before} MiB, then {after}");
    }
}

/// One device with every connection that it can have, and a new conversation in every message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_device_with_thousands_of_conversations_leaves_room_for_others() {
    let edge = Edge::start_with(&["--kv-memory", "64", "--max-sessions", "32"]);
    let tokenizer = model(OTHER).tokenizer().fingerprint();
    let (greedy, honest) =
        (paired(&edge, "greedy").await.token, paired(&edge, "honest").await.token);
    let here = (HERE, at(&edge));
    let before = memory(edge.id());

    let mut wires = Vec::new();
    let refused = loop {
        match Wire::device(here, &greedy, tokenizer).await {
            Ok(wire) => wires.push(wire),
            Err(said) => break said,
        }
        assert!(wires.len() < 100, "one device has a hundred connections");
    };
    assert!(refused.contains("too many connections"), "{refused}");
    served(&edge, &honest, tokenizer, 1).await;

    let over = Instant::now() + Duration::from_secs(6);
    let floods = wires.into_iter().zip(1..).map(|(wire, number)| {
        tokio::spawn(flood((wire, number), (here, greedy.clone(), tokenizer), over))
    });
    let floods: Vec<_> = floods.collect();
    for session in 2..5 {
        sleep(Duration::from_millis(700)).await;
        served(&edge, &honest, tokenizer, session).await;
    }
    let metrics = http(HERE, at(&edge), "/metrics", Some(&honest)).await;
    let figure = |name: &str| -> u64 {
        let line = metrics.lines().find_map(|l| l.strip_prefix(&format!("{name} ")));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{name}: {metrics}"))
    };
    assert!(figure("tandem_edge_sessions") <= 32);
    assert!(figure("tandem_edge_kv_cache_bytes") <= 64 << 20);
    let (mut opened, mut refused) = (0, 0);
    for flood in floods {
        let (o, r) = flood.await.expect("a flood");
        (opened, refused) = (opened + o, refused + r);
    }
    assert!(opened > 100 && refused > 20, "{opened} opened, {refused} refused");
    if let (Some(before), Some(after)) = (before, memory(edge.id())) {
        assert!(after < before + 64 + MIB, "{before} MiB, then {after}");
    }
}

/// Opens one conversation after the other and asks each for a long text, on a new connection when the
/// edge has enough of the old one. How many were opened, and how often the edge refused.
async fn flood(
    (mut wire, number): (Wire, u16),
    (at, token, tokenizer): ((IpAddr, SocketAddr), String, [u8; 32]),
    over: Instant,
) -> (u32, u32) {
    let (mut opened, mut refused) = (0_u32, 0_u32);
    let prompt = vec![TokenId(5); 40];
    while Instant::now() < over {
        opened += 1;
        let session = 1000 * number + (opened % 1000) as u16;
        wire.send(&open(session, opened, prompt.clone())).await;
        wire.send(&stream(opened, prompt.len(), 3000)).await;
        loop {
            match wire.next().await {
                Some(ServerMessage::Prefill(_) | ServerMessage::Waiting(_)) => continue,
                Some(ServerMessage::Error(e)) => refused += u32::from(e.code == ErrorCode::Busy),
                Some(_) => {}
                None => {
                    refused += 1;
                    sleep(Duration::from_millis(20)).await;
                    if let Ok(new) = Wire::device(at, &token, tokenizer).await {
                        wire = new;
                    }
                }
            }
            break;
        }
    }
    (opened, refused)
}

/// All bytes that a device sent, sent again by somebody who listened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_bytes_open_nothing() {
    let edge = Edge::start();
    let token = paired(&edge, "phone").await.token;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let spied = listener.local_addr().expect("its address");
    let real = at(&edge);
    let recorder = tokio::spawn(async move {
        let (mut device, _) = listener.accept().await.expect("a connection");
        let mut edge = tcp(HERE, real).await;
        let (mut heard, mut up, mut down) = (Vec::new(), [0; 4096], [0; 4096]);
        loop {
            tokio::select! {
                n = device.read(&mut up) => match n {
                    Ok(n) if n > 0 => {
                        heard.extend_from_slice(&up[..n]);
                        if edge.write_all(&up[..n]).await.is_err() { break }
                    }
                    _ => break,
                },
                n = edge.read(&mut down) => match n {
                    Ok(n) if n > 0 => if device.write_all(&down[..n]).await.is_err() { break },
                    _ => break,
                },
            }
        }
        heard
    });
    let answer = http(HERE, spied, "/metrics", Some(&token)).await;
    assert_eq!(status(&answer), 200);
    let heard = recorder.await.expect("a recording");
    assert!(heard.len() > 300 && !heard.windows(token.len()).any(|w| w == token.as_bytes()));
    let mut again = tcp(HERE, real).await;
    let _ = again.write_all(&heard).await;
    let mut told = Vec::new();
    let _ = timeout(PATIENCE, again.read_to_end(&mut told)).await.expect("an end");
    assert!(!String::from_utf8_lossy(&told).contains("tandem_edge_"));
    // A TLS record of application data begins with 23; the edge sends none that says more than an alert.
    let told = told.len();
    assert!(told < answer.len(), "{told} bytes");
}
