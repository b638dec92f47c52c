//! An answer that goes on: from its own ids, on a link that was waited for, after a verdict that was lost.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tandem_device::{Begun, Mode, Request, WhenEdgeLost};
use tandem_edge::{Edge, Limits};
use tandem_inference::LoadOptions;
use tandem_protocol::{ServerMessage, decode_server};
use tandem_tests::{OTHER, answer, drafter, edge, link, model, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The answer to `request` that begins with `begun`.
fn from(request: &Request, begun: &Begun, most: usize) -> Request {
    let mut request = request.clone();
    request.prompt.extend(&begun.ids);
    request.begun = begun.ids.len();
    request.max_tokens = most;
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_answer_goes_on_with_the_tokens_that_it_would_have_had() {
    const TOKENS: usize = 40;
    let drafter = drafter(OTHER).await;
    let tokenizer = drafter.tokenizer();
    let question = request(&drafter, "Repeat the list of signs and words.", Mode::Device, 4);
    let ids = tokenizer.encode("🍕🥨🧁🍄 unbelievably 🍕🥨🧁🍄 unbelievably 🍕🥨", false).unwrap();
    let text = tokenizer.decode(&ids).unwrap();
    let start = Begun { ids, text };
    let (whole, _, rest) =
        answer(&drafter, None, &from(&question, &start, TOKENS), |_| {}).await.unwrap();
    let all = [&start.ids[..], &whole.tokens[..]].concat();
    let said = start.text.clone() + &rest;

    let (mut in_characters, mut other_ids) = (0, 0);
    for cut in start.ids.len()..all.len().min(start.ids.len() + 24) {
        // As the store has it after a stop: the ids, and the characters that were whole.
        let mut stream = tokenizer.detokenizer();
        let kept: String = all[..cut].iter().map(|id| stream.push(*id).unwrap()).collect();
        let encoded = tokenizer.encode(&kept, false).unwrap();
        let half = tokenizer.decode(&all[..cut]).unwrap() != kept;
        in_characters += usize::from(half);
        other_ids += usize::from(!half && encoded != all[..cut]);
        let begun = Begun::of(tokenizer, Some(all[..cut].to_vec()), &kept).unwrap();
        assert_eq!((&begun.ids[..], &begun.text), (&all[..cut], &kept));
        let left = all.len() - cut;
        // Where encoding would give the same ids nothing is at stake.
        if half || encoded != all[..cut] || cut % 8 == 0 {
            let request = from(&question, &begun, left);
            let (more, _, rest) = answer(&drafter, None, &request, |_| {}).await.unwrap();
            assert_eq!(more.tokens, all[cut..], "cut at {cut}: {kept:?}");
            assert_eq!(kept + &rest, said, "cut at {cut}");
        }
    }
    assert!(in_characters > 0, "no token of {said:?} ends within a character");
    eprintln!("{in_characters} cuts in characters, {other_ids} others where the text is other ids");

    // A sign in place of the cut character, as earlier versions kept it.
    let mut stream = tokenizer.detokenizer();
    let letter = tokenizer.encode("𝔘", false).unwrap();
    let ids = [&start.ids[..], &letter[..1]].concat();
    let kept: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
    let old = Begun::of(tokenizer, Some(ids.clone()), &(kept.clone() + "\u{fffd}")).unwrap();
    assert_eq!(old, Begun { ids, text: kept });
    // Without ids, with those of another text or of another model, the text is what there is.
    let plain = Begun { ids: tokenizer.encode("plain", false).unwrap(), text: "plain".into() };
    let foreign = vec![tandem_speculation::TokenId(u32::MAX)];
    for kept in [None, Some(start.ids.clone()), Some(foreign), Some(Vec::new())] {
        assert_eq!(Begun::of(tokenizer, kept, "plain").unwrap(), plain);
    }
}

/// A port of this machine that nothing listens at.
fn free() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn small_edge(port: u16, context: usize) -> Edge {
    let limits = Limits {
        context,
        sessions: 8,
        kv_bytes: 1 << 30,
        idle: Duration::from_secs(60),
        wait: Duration::from_secs(60),
    };
    let at: SocketAddr = ([127, 0, 0, 1], port).into();
    let config = tandem_edge::Config { listen: at, ..tandem_edge::Config::local("test", limits) };
    let model = tandem_inference::Model::load(&tandem_tests::file(OTHER), &LoadOptions::default());
    Edge::start(Arc::new(model.unwrap()), config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_was_waited_for_is_the_one_that_is_written_down() {
    let (drafter, verifier, port) = (drafter(OTHER).await, model(OTHER), free());
    let link = link(&drafter, ([127, 0, 0, 1], port).into());
    let asked = Request { max_tokens: 12, ..request(&drafter, "Count to ten.", Mode::Dssd, 4) };
    let starts = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        edge(&verifier, port).await
    };
    let (answered, edge) = tokio::join!(answer(&drafter, Some(&link), &asked, |_| {}), starts);
    let (_, rounds, _) = answered.unwrap();
    assert!(!rounds.is_empty());
    for round in rounds {
        assert_eq!((round.pair.edge.as_str(), round.pair.verifier.is_empty()), ("local", false));
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_came_back_with_a_smaller_context_is_told_of_in_its_own_words() {
    let (drafter, port) = (drafter(OTHER).await, free());
    let link = link(&drafter, ([127, 0, 0, 1], port).into());
    let asked = request(&drafter, &"Why? ".repeat(60), Mode::Dssd, 4);
    let starts = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        small_edge(port, 64).await
    };
    let (answered, edge) = tokio::join!(answer(&drafter, Some(&link), &asked, |_| {}), starts);
    let said = answered.unwrap_err().to_string();
    assert!(said.contains("the context 64"), "{said}");
    // One that fits ends where the context does.
    let asked = request(&drafter, "Count.", Mode::Dssd, 4);
    let (answered, ..) = answer(&drafter, Some(&link), &asked, |_| {}).await.unwrap();
    assert!(asked.prompt.len() + answered.tokens.len() <= 64);
    edge.stop().await;
}

/// Passes everything on, but for the third verdict, on a connection that otherwise lives on.
async fn forgetful(edge: SocketAddr, swallowed: Arc<AtomicU32>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let verdicts = Arc::new(AtomicU32::new(0));
        while let Ok((device, _)) = listener.accept().await {
            let (verdicts, swallowed) = (Arc::clone(&verdicts), Arc::clone(&swallowed));
            tokio::spawn(async move {
                let (mut up, mut to_device) = device.into_split();
                let (mut down, mut to_edge) =
                    TcpStream::connect(edge).await.expect("the edge").into_split();
                let upward = tokio::io::copy(&mut up, &mut to_edge);
                let downward = async {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(down.read_u8().await?);
                    }
                    to_device.write_all(&head).await?;
                    loop {
                        let mut frame = vec![0; 2];
                        down.read_exact(&mut frame).await?;
                        let longer = match frame[1] & 0x7f {
                            126 => 2,
                            127 => 8,
                            _ => 0,
                        };
                        let mut length = vec![0; longer];
                        down.read_exact(&mut length).await?;
                        let count = length.iter().fold(0, |n, b| n << 8 | usize::from(*b));
                        let count = if longer == 0 { usize::from(frame[1]) } else { count };
                        let mut payload = vec![0; count];
                        down.read_exact(&mut payload).await?;
                        let verdict = frame[0] & 0xf == 2
                            && matches!(decode_server(&payload), Ok(ServerMessage::Verdict(_)));
                        if verdict && verdicts.fetch_add(1, Ordering::Relaxed) == 2 {
                            swallowed.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        to_device.write_all(&[frame, length, payload].concat()).await?;
                    }
                    #[allow(unreachable_code)]
                    Ok::<(), std::io::Error>(())
                };
                tokio::select! {
                    _ = upward => {}
                    _ = downward => {}
                }
            });
        }
    });
    at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_whose_verdict_is_lost_is_asked_for_again() {
    let (drafter, verifier) = (drafter(OTHER).await, model(OTHER));
    let edge = edge(&verifier, 0).await;
    for (mode, ahead) in [
        (Mode::Dssd, tandem_device::Ahead::No),
        (Mode::Dssd, tandem_device::Ahead::Yes),
        (Mode::Edge, tandem_device::Ahead::No),
    ] {
        let asked = Request {
            max_tokens: 32,
            ahead,
            when_edge_lost: WhenEdgeLost::Stop,
            patience: Duration::from_millis(500),
            ..request(&drafter, "Count to twenty.", mode, 2)
        };
        let direct = link(&drafter, edge.address());
        direct.connected(Duration::from_secs(20)).await.unwrap();
        let (undisturbed, ..) = answer(&drafter, Some(&direct), &asked, |_| {}).await.unwrap();
        let swallowed = Arc::new(AtomicU32::new(0));
        let proxy = forgetful(edge.address(), Arc::clone(&swallowed)).await;
        let link = link(&drafter, proxy);
        link.connected(Duration::from_secs(20)).await.unwrap();
        let asked = Request { session: tandem_device::new_session(), ..asked };
        let waited = tokio::time::timeout(
            Duration::from_secs(60),
            answer(&drafter, Some(&link), &asked, |_| {}),
        );
        let (whole, ..) = waited.await.expect("the answer ends").unwrap();
        assert_eq!(swallowed.load(Ordering::Relaxed), 1);
        assert_eq!(whole.tokens, undisturbed.tokens, "{mode:?} {ahead:?}");
    }
    edge.stop().await;
}
