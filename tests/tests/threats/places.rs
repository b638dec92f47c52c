//! Places that are taken and not used: by whoever says nothing, and by sockets that only stay open.

use crate::setup::Edge;
use crate::wire::{HERE, PATIENCE, Wire, tcp};
use crate::{ask, at, paired, served};
use futures_util::{SinkExt, StreamExt};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};
use tandem_protocol::{ControlReply, ControlRequest};
use tandem_tests::{OTHER, model};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

const CONTROL: (&str, &str) = ("/v1/control", "tandem.control.v1");

/// Sockets that a process holds.
fn sockets(process: u32) -> usize {
    let all = std::fs::read_dir(format!("/proc/{process}/fd")).expect("its files");
    let targets = all.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// Each address alone may have so many, but there are many addresses.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_of_many_addresses_are_bounded_and_end() {
    let edge = Edge::start_with(&["--max-connections", "4"]);
    let tokenizer = model(OTHER).tokenizer().fingerprint();
    let token = paired(&edge, "phone").await.token;
    let before = sockets(edge.id());
    let mut silent = Vec::new();
    for host in 1..=6 {
        for _ in 0..40 {
            silent.push(tcp(IpAddr::V4(Ipv4Addr::new(127, 0, 6, host)), at(&edge)).await);
        }
    }
    sleep(Duration::from_millis(500)).await;
    let held = sockets(edge.id()) - before;
    // 128 of strangers, and 4 of devices.
    assert!((100..=132).contains(&held), "{held} of {} are held", silent.len());
    // Whoever comes now waits until those before are over, and is served.
    let served = timeout(PATIENCE, served(&edge, &token, tokenizer, 1)).await;
    served.expect("silent connections end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_does_not_say_hello_gives_its_place_back() {
    let edge = Edge::start_with(&["--max-connections", "2"]);
    let tokenizer = model(OTHER).tokenizer().fingerprint();
    let (one, other) = (paired(&edge, "one").await.token, paired(&edge, "other").await.token);
    let here = (HERE, at(&edge));
    let silent = Wire::open(here, "/v1/ws", "tandem.v1", Some(&one)).await;
    let mut silent = silent.map_err(|status| status.to_string()).expect("a socket");
    let start = Instant::now();
    let _second = Wire::device(here, &one, tokenizer).await.expect("a place");
    // A device that is not at its own limit.
    let refused = Wire::device(here, &other, tokenizer).await.err().expect("no place");
    assert!(refused.contains("the edge has too many connections"), "{refused}");
    silent.ends().await;
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    served(&edge, &other, tokenizer, 1).await;
}

/// What pings is alive, but has no business there for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_sockets_are_bounded_and_end() {
    let edge = Edge::start();
    let token = paired(&edge, "phone").await.token;
    let here = (HERE, at(&edge));
    let control = async |token| {
        let wire = Wire::open(here, CONTROL.0, CONTROL.1, token).await;
        wire.map_err(|status| status.to_string()).expect("a socket")
    };
    let start = Instant::now();
    let mut stranger = control(None).await;
    // An unpaired one that only keeps the connection alive.
    let stranger = tokio::spawn(async move {
        loop {
            let _ = stranger.0.send(Message::Ping(Vec::new().into())).await;
            let next = timeout(Duration::from_secs(3), stranger.0.next()).await;
            if matches!(next, Ok(None | Some(Err(_) | Ok(Message::Close(_))))) {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
    });
    let mut silent = Vec::new();
    while silent.len() < 63 {
        silent.push(control(Some(token.as_str())).await);
    }
    let refused = ask(&mut control(Some(token.as_str())).await, &ControlRequest::Info).await;
    assert!(matches!(refused, Some(ControlReply::Refused(_))), "a 65th was taken");
    for wire in &mut silent {
        wire.ends().await;
    }
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    let answer = ask(&mut control(Some(token.as_str())).await, &ControlRequest::Info).await;
    assert!(matches!(answer, Some(ControlReply::Info(_))), "places did not come back");
    let ended = timeout(Duration::from_secs(70), stranger).await;
    ended.expect("pairing ends").expect("no panic");
    assert!(start.elapsed() > Duration::from_secs(55), "{:?}", start.elapsed());
}
