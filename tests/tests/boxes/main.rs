//! Boxes: pairing with a real edge process, and everything that must not work.

mod middle;
mod setup;

use setup::{Edge, edge_command, finished, pairing, refusal_of, tandem};
use std::time::{Duration, Instant};
use tandem_device::{ControlError, EdgeAddress, Link, Mode, Refusal, check, forget, pair};
use tandem_edge::{Devices, Pairing};
use tandem_tests::{OTHER, answer, drafter, request};
use tokio::io::AsyncReadExt;

/// A code that is not the one shown.
const WRONG: &str = "0000-0000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_pairs_once_and_its_token_opens_the_edge() {
    let edge = Edge::start();
    let address: EdgeAddress = edge.address.parse().expect("an address");
    let shown = pairing(&edge);
    let code = shown.link.code.clone();

    let paired = pair(&address, None, &code, "Ann's\nphone").await.expect("a pairing");
    assert_eq!(paired.certificate, shown.link.certificate);
    let (status, text) = finished(shown.process);
    assert!(status.success() && text.contains("Ann's phone"), "{text}");
    let found = check(&paired.address).await.expect("an edge that knows us");
    assert!(found.edge.name == "attic" && found.rtt_ms > 0.0, "{found:?}");

    let again = pair(&address, None, &code, "thief").await.err().expect("a refusal");
    assert!(matches!(&again, ControlError::Pairing(t) if t.contains("not waiting")), "{again}");

    // The edge keeps no token, and its files are its owner's.
    let list = std::fs::read_to_string(edge.state.join("devices.json")).expect("a list");
    assert!(!list.contains(&paired.token) && list.contains("Ann's phone"));
    #[cfg(unix)]
    for name in ["devices.json", "identity.pem", "serving.json"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(edge.state.join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    let almost = paired.token[..paired.token.len() - 1].to_owned() + "x";
    for token in [None, Some(String::new()), Some(almost), Some("x".into())] {
        let stranger = paired.address.clone().with_token(token);
        let error = check(&stranger).await.expect_err("a refusal");
        assert!(matches!(error, ControlError::Access(_)), "{error}");
    }
    forget(&paired.address).await.expect("forgotten");
    assert!(matches!(check(&paired.address).await, Err(ControlError::Access(_))));
    assert!(Devices::new(edge.folder()).list().expect("a list").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_die_by_time_and_by_guesses() {
    let edge = Edge::start();
    let address: EdgeAddress = edge.address.parse().expect("an address");
    let offers = Pairing::new(edge.folder());

    let (_, late) = offers.offer(Duration::from_millis(1)).expect("an offer");
    tokio::time::sleep(Duration::from_millis(20)).await;
    let error = pair(&address, None, &late, "late").await.err().expect("a refusal");
    assert!(matches!(&error, ControlError::Pairing(t) if t.contains("too old")), "{error}");

    let shown = pairing(&edge);
    let wrong = WRONG.parse().expect("a code");
    for guess in 1..=5 {
        let error = pair(&address, None, &wrong, "guesser").await.err().expect("a refusal");
        let word = if guess < 5 { "is wrong" } else { "is void" };
        assert!(matches!(&error, ControlError::Pairing(t) if t.contains(word)), "{guess}: {error}");
    }
    // The right code is of no use any more, and the box says why.
    let code = &shown.link.code;
    assert!(pair(&address, None, code, "owner").await.is_err());
    let (status, text) = finished(shown.process);
    assert!(!status.success() && text.contains("too many wrong codes"), "{text}");
    assert!(Devices::new(edge.folder()).list().expect("a list").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_in_the_middle_learns_nothing_and_is_refused() {
    let edge = Edge::start();
    let middle = middle::start(&edge.address).await;
    let address: EdgeAddress = middle.address.parse().expect("an address");
    let shown = pairing(&edge);

    // It passes everything on, but its certificate is not the one in the edge's proof.
    let error = pair(&address, None, &shown.link.code, "victim").await.err().expect("a refusal");
    assert!(matches!(&error, ControlError::Pairing(t) if t.contains("between")), "{error}");
    assert!(Devices::new(edge.folder()).list().expect("a list").is_empty());
    // With a link the device knows the certificate beforehand and says nothing at all.
    let before = middle.bytes();
    assert!(before > 0);
    let pinned = Some(shown.link.certificate);
    let error = pair(&address, pinned, &shown.link.code, "victim").await.err().expect("a refusal");
    assert!(matches!(error, ControlError::Certificate(_)), "{error}");
    assert_eq!(middle.bytes(), before);

    // Nor does it get the token of a paired device.
    let honest: EdgeAddress = edge.address.parse().expect("an address");
    let paired = pair(&honest, None, &shown.link.code, "victim").await.expect("a pairing");
    let through = address.pinned(paired.certificate).with_token(Some(paired.token));
    assert!(matches!(check(&through).await, Err(ControlError::Certificate(_))));
    assert_eq!(middle.bytes(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_certificate_stops_the_connection_and_is_explained() {
    let mut edge = Edge::start();
    let address: EdgeAddress = edge.address.parse().expect("an address");
    let shown = pairing(&edge);
    let paired = pair(&address, None, &shown.link.code, "phone").await.expect("a pairing");
    let drafter = drafter(OTHER).await;
    let link = Link::start(paired.address.clone(), drafter.hello());
    link.connected(Duration::from_secs(10)).await.expect("a connection");

    edge.stop();
    std::fs::remove_file(edge.state.join("identity.pem")).expect("no identity");
    edge.start_again();
    let (problem, why) = refusal_of(&link).await;
    assert_eq!(why, Refusal::Certificate);
    assert!(problem.contains("another certificate") && problem.contains("pair"), "{problem}");
    // Paired again it works.
    let shown = pairing(&edge);
    let paired = pair(&address, None, &shown.link.code, "phone").await.expect("a pairing");
    check(&paired.address).await.expect("an edge that knows us");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_device_is_out_in_the_middle_of_an_answer() {
    let edge = Edge::start();
    let address: EdgeAddress = edge.address.parse().expect("an address");
    let shown = pairing(&edge);
    let paired = pair(&address, None, &shown.link.code, "phone").await.expect("a pairing");
    let drafter = drafter(OTHER).await;
    let link = Link::start(paired.address.clone(), drafter.hello());
    let mut wanted = request(&drafter, "Tell me a long story about a lighthouse.", Mode::Edge, 1);
    wanted.max_tokens = 3000;
    let mut revoked = None;
    let error = answer(&drafter, Some(&link), &wanted, |record| {
        if record.round == 3 {
            let done = edge_command(&["devices", "revoke", "phone"], &edge.state).output();
            assert!(done.expect("a command").status.success());
            revoked = Some(Instant::now());
        }
    })
    .await
    .expect_err("an answer that was cut");
    let after = revoked.expect("three rounds").elapsed();
    assert!(after < Duration::from_secs(5), "{after:?}");
    assert!(error.to_string().contains("revoked"), "{error}");
    assert_eq!(refusal_of(&link).await.1, Refusal::Access);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_stays_on_loopback() {
    let edge = Edge::start();
    let drafter = drafter(OTHER).await;
    let plain: EdgeAddress = format!("ws://{}", edge.authority()).parse().expect("an address");
    let link = Link::start(plain.with_token(Some("secret".into())), drafter.hello());
    let (problem, _) = refusal_of(&link).await;
    assert!(problem.contains("status") || problem.contains("TLS"), "{problem}");

    // Another machine's address: this machine's own or, without a network, one that no rule takes for
    // loopback although it leads there.
    let own = setup::outward().unwrap_or(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().into());
    let listener = tokio::net::TcpListener::bind((own, 0)).await.expect("a port");
    let address = format!("ws://{}", listener.local_addr().expect("its address"));
    let address: EdgeAddress = address.parse().expect("an address");
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        bytes.len()
    });
    let link = Link::start(address.with_token(Some("secret".into())), drafter.hello());
    let (problem, _) = refusal_of(&link).await;
    assert!(problem.contains("plain text is for this machine only"), "{problem}");
    assert_eq!(heard.await.expect("a count"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_pairs_chats_and_takes_leave() {
    let edge = Edge::start();
    let db = edge.state.join("device.db");
    let shown = pairing(&edge);
    let code = shown.link.code.to_string();
    let place = edge.authority();
    let (good, text) = tandem(&["pair", "--edge", &place, "--code", WRONG], &db);
    assert!(!good && text.contains("the code is wrong"), "{text}");
    let (good, text) =
        tandem(&["pair", "--edge", &place, "--code", &code, "--name", "laptop"], &db);
    assert!(good && text.contains("paired with attic") && !text.contains(&code), "{text}");
    let (good, text) = tandem(&["boxes", "rename", "attic", "Cellar"], &db);
    assert!(good, "{text}");
    let (good, text) = tandem(&["boxes", "list"], &db);
    assert!(good && text.contains("Cellar") && text.contains("This machine"), "{text}");
    let (good, text) = tandem(&["boxes", "test", "cellar"], &db);
    assert!(good && text.contains("round trip"), "{text}");
    let chat = ["chat", "--box", "Cellar", "--drafter", OTHER, "--mode", "dssd", "--json"];
    let (good, text) =
        tandem(&[&chat[..], &["--max-tokens", "8", "--prompt", "Hello"]].concat(), &db);
    assert!(good && text.contains("\"mode\":\"dssd\""), "{text}");
    let (good, text) = tandem(&["boxes", "remove", "Cellar"], &db);
    assert!(good && text.contains("forgotten"), "{text}");
    assert!(Devices::new(edge.folder()).list().expect("a list").is_empty());
    let (good, text) = tandem(&["chat", "--box", "Cellar", "--prompt", "Hello"], &db);
    assert!(!good && text.contains("no box is called"), "{text}");
}

#[test]
fn a_second_edge_in_the_same_folder_and_a_missing_one_are_explained() {
    let edge = Edge::start();
    assert!(edge.folder().serve().is_err_and(|e| e.to_string().contains("--state")));
    let empty = setup::folder("empty");
    let done = edge_command(&["pair"], &empty).output().expect("a command");
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && text.contains("no edge serves"), "{text}");
    std::fs::remove_dir_all(empty).expect("cleaned");
}
