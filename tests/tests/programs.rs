//! The built programs: the edge killed in the middle of an answer, and starts that cannot work.

#[allow(dead_code)]
mod process;

use process::{complaint, edge, started};
use std::net::TcpListener;
use tandem_device::{Mode, new_session};
use tandem_tests::{DRAFTER, OTHER, VERIFIER, answer, drafter, file, link, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_edge_that_comes_back_goes_on_with_the_same_text() {
    let drafter = drafter(DRAFTER).await;
    let (mut running, address) = started(VERIFIER, "127.0.0.1:0");
    let link = link(&drafter, address);
    let mut wanted = request(&drafter, "Write a haiku about rain.", Mode::Edge, 1);
    wanted.max_tokens = 30;
    let (whole, ..) = answer(&drafter, Some(&link), &wanted, |_| {}).await.expect("an answer");

    for mode in [Mode::Dssd, Mode::Edge] {
        (wanted.mode, wanted.session) = (mode, new_session());
        let (sender, mut third) = tokio::sync::mpsc::unbounded_channel();
        let restart = tokio::spawn(async move {
            third.recv().await;
            running.0.kill().expect("a kill");
            running.0.wait().expect("an end");
            let listen = address.to_string();
            let start = tokio::task::spawn_blocking(move || started(VERIFIER, &listen).0);
            start.await.expect("a second edge")
        });
        let (resumed, rounds, _) = answer(&drafter, Some(&link), &wanted, |r| {
            if r.round == 2 {
                let _ = sender.send(());
            }
        })
        .await
        .expect("an answer that goes on");
        assert_eq!(resumed.tokens, whole.tokens, "{mode:?}");
        assert!(rounds.len() > 3, "the answer was over before the kill");
        running = restart.await.expect("a restart");
    }
}

#[test]
fn addresses_that_cannot_be_had_are_explained() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let text = complaint(edge(OTHER, &address));
    assert!(text.contains(&address) && text.contains("choose another port"), "{text}");
    let mut nowhere = edge(OTHER, "0.0.0.0:0");
    nowhere.args(["--no-mdns", "--state", "/dev/null/edge"]);
    let text = complaint(nowhere);
    assert!(text.contains("--state"), "{text}");
}

#[test]
fn files_that_are_no_usable_model_are_explained() {
    let folder = std::env::temp_dir().join(format!("tandem-bad-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let good = std::fs::read(file(OTHER)).expect("a model");
    let place = |text: &[u8]| {
        good.windows(text.len()).position(|w| w == text).expect("a key of every GGUF file")
    };
    let alter = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    };
    let architecture = place(b"general.architecture") + 20 + 4 + 8;
    assert_eq!(&good[architecture..architecture + 5], b"llama");
    let blocks = place(b"llama.block_count") + 17 + 4;
    let cases = [
        (alter("text.gguf", &|b| *b = b"this is no model".to_vec()), "GGUF"),
        (alter("empty.gguf", &|b| b.clear()), "GGUF"),
        (alter("short.gguf", &|b| b.truncate(20_000_000)), "Download the model again"),
        (alter("header.gguf", &|b| b.truncate(4_000)), "GGUF"),
        // As many tensors as a u64 can count: nothing may be reserved for them.
        (alter("tensors.gguf", &|b| b[8..16].fill(0xff)), "GGUF"),
        (alter("entries.gguf", &|b| b[16..24].fill(0xff)), "GGUF"),
        (
            alter("mamba.gguf", &|b| b[architecture..architecture + 5].copy_from_slice(b"mamba")),
            "mamba",
        ),
        (alter("deep.gguf", &|b| b[blocks..blocks + 4].fill(0x7f)), "deep.gguf"),
        (folder.join("absent.gguf"), "absent.gguf"),
    ];
    for (path, word) in cases {
        let text = complaint(edge(&path.to_string_lossy(), "127.0.0.1:0"));
        assert!(text.contains(word), "{}: {text}", path.display());
    }
    let text = complaint(edge("no-such-model", "127.0.0.1:0"));
    assert!(text.contains("no-such-model") && text.contains("tandem models"), "{text}");
    std::fs::remove_dir_all(&folder).expect("cleaned");
}
