//! The command `tandem`: its JSON, its database, what it says when something is wrong, what it costs.

#[allow(dead_code)]
mod process;

use process::{Killed, complaint, program, started};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tandem_device::store::Store;
use tandem_tests::{DRAFTER, OTHER, VERIFIER, file};

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tandem-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn chat(folder: &Folder, args: &[&str]) -> Command {
    let mut command = Command::new(program("tandem"));
    command.arg("chat").args(args);
    command.env_remove("TANDEM_EDGE").env_remove("TANDEM_EDGE_TOKEN");
    command.env("TANDEM_DATA_DIR", &folder.0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The largest resident memory of a running process, in bytes.
fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

fn size(model: &str) -> f64 {
    std::fs::metadata(file(model)).expect("a file").len() as f64
}

#[tokio::test]
async fn json_has_every_figure_and_the_database_has_the_same() {
    let folder = Folder::new("json");
    let (edge, address) = started(VERIFIER, "127.0.0.1:0");
    let url = format!("ws://{address}");
    let args = [
        "--edge",
        &url,
        "--prompt",
        "Name three colours.",
        "--json",
        "--max-tokens",
        "40",
        "--temperature",
        "0",
        "--gamma",
        "4",
        "--mode",
        "dssd",
    ];
    let child = chat(&folder, &args).spawn().expect("the command");
    let pid = child.id();
    let mut peak = 0;
    let watch = std::thread::spawn(move || {
        while let Some(now) = peak_memory(pid) {
            peak = now.max(peak);
            std::thread::sleep(Duration::from_millis(20));
        }
        peak
    });
    let output = child.wait_with_output().expect("its output");
    let (device, serving) = (watch.join().expect("a figure"), peak_memory(edge.0.id()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");

    let tokens = json["tokens"].as_array().expect("ids");
    assert!(!json["text"].as_str().expect("text").is_empty());
    assert_eq!(json["mode"], "dssd");
    let length = tokens.len() == 40;
    assert_eq!(json["finish"], if length { "length" } else { "stop" });
    let totals = json["totals"].as_object().expect("totals");
    let names = [
        "tokens",
        "drafted",
        "accepted",
        "ttft_ms",
        "tokens_per_s",
        "uplink_bytes",
        "downlink_bytes",
    ];
    assert!(names.iter().all(|n| totals[*n].is_number()), "{totals:?}");
    assert_eq!(totals["tokens"], tokens.len());
    let rounds = json["rounds"].as_array().expect("rounds");
    let sum = |name: &str| -> u64 {
        rounds.iter().map(|r| r[name].as_u64().expect("a whole number")).sum()
    };
    for name in ["drafted", "accepted", "uplink_bytes", "downlink_bytes"] {
        assert_eq!(totals[name].as_u64(), Some(sum(name)), "{name}");
    }
    // Every round gives one token more than it accepts; a last one may be cut by the limit.
    let given = sum("accepted") + rounds.len() as u64;
    assert!((tokens.len() as u64..=tokens.len() as u64 + 4).contains(&given), "{given}");

    let store = Store::open(&folder.0.join("tandem.db")).await.expect("the database");
    let conversation = store.conversations().await.expect("rows")[0].id;
    let messages = store.messages(conversation).await.expect("rows");
    let answer = messages.last().expect("an answer");
    assert_eq!(answer.content, json["text"].as_str().expect("text"));
    let stats = answer.stats.as_ref().expect("figures");
    assert_eq!(stats.rounds, rounds.len() as u64);
    assert_eq!((stats.uplink_bytes, stats.accepted), (sum("uplink_bytes"), sum("accepted")));
    for r in rounds {
        assert_eq!(r["message"], answer.id);
        assert!(["mode", "scheme", "outcome"].iter().all(|n| r[*n].is_string()), "{r}");
        let times = ["draft_ms", "rtt_ms", "queue_ms", "verify_ms", "residual_ms"];
        assert!(times.iter().all(|n| r[*n].as_f64().is_some_and(|v| v >= 0.0)), "{r}");
        assert!(r["started_at"].as_i64().is_some_and(|t| t > 1_700_000_000_000), "{r}");
    }

    if cfg!(target_os = "linux") {
        let (device, edge) = (device as f64 / size(DRAFTER), serving.expect("a figure") as f64);
        let edge = edge / size(VERIFIER);
        eprintln!("peak memory: device {device:.2} × its file, edge {edge:.2} × its file");
        assert!(device < 1.35 && edge < 1.35, "device {device}, edge {edge}");
    }
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let folder = Folder::new("wrong");
    let (_edge, address) = started(OTHER, "127.0.0.1:0");
    let url = format!("ws://{address}");
    let text = complaint(chat(&folder, &["--edge", &url, "--prompt", "Hi."]));
    assert!(text.contains("SmolLM2") && text.contains("qwen2.5-coder-0.5b"), "{text}");
    assert!(text.contains("choose a drafter"), "{text}");

    let text = complaint(chat(&folder, &["--edge", "ws://127.0.0.1:9", "--prompt", "Hi."]));
    assert!(text.contains("127.0.0.1:9") && text.contains("is it running"), "{text}");
    let text = complaint(chat(&folder, &["--mode", "dssd", "--prompt", "Hi."]));
    assert!(text.contains("--edge"), "{text}");
    let args = ["--mode", "device", "--drafter", "no-such-model", "--prompt", "Hi."];
    let text = complaint(chat(&folder, &args));
    assert!(text.contains("no-such-model") && text.contains("tandem models list"), "{text}");
    let long = "word ".repeat(400);
    let args = ["--mode", "device", "--context", "256", "--prompt", &long];
    let text = complaint(chat(&folder, &args));
    assert!(text.contains("the context 256") && text.contains("shorten the message"), "{text}");
}

#[test]
fn a_wrong_token_is_refused_and_the_right_one_is_not() {
    let folder = Folder::new("token");
    let (_edge, address) = process::started_with(VERIFIER, "127.0.0.1:0", &["--token", "right"]);
    let url = format!("ws://{address}");
    let text = complaint(chat(&folder, &["--edge", &url, "--token", "wrong", "--prompt", "Hi."]));
    assert!(text.contains("refuses the token"), "{text}");
    let args = ["--edge", &url, "--token", "right", "--prompt", "Say hi.", "--max-tokens", "4"];
    let output = chat(&folder, &args).output().expect("the command");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!output.stdout.is_empty());
}

#[cfg(unix)]
#[test]
fn an_interrupt_stops_at_once_and_keeps_what_came() {
    let folder = Folder::new("interrupt");
    let args = ["--mode", "device", "--json", "--max-tokens", "2000", "--prompt"];
    let mut command = chat(&folder, &args);
    command.arg("Count from 1 to 1000 in words.");
    let mut child = Killed(command.spawn().expect("the command"));
    let database = folder.0.join("tandem.db");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rounds = || {
        runtime.block_on(async {
            let store = Store::open(&database).await.ok()?;
            let conversation = store.conversations().await.ok()?.first()?.id;
            let messages = store.messages(conversation).await.ok()?;
            Some(messages.last()?.stats.as_ref()?.rounds)
        })
    };
    let start = Instant::now();
    while !database.exists() || rounds().unwrap_or(0) < 5 {
        assert!(start.elapsed() < Duration::from_secs(60), "no answer began");
        std::thread::sleep(Duration::from_millis(100));
    }
    let stop = Instant::now();
    let interrupt = Command::new("kill").args(["-INT", &child.0.id().to_string()]).status();
    assert!(interrupt.expect("kill").success());
    let status = child.0.wait().expect("an end");
    let took = stop.elapsed();
    assert_eq!(status.code(), Some(130));
    assert!(took < Duration::from_secs(2), "{took:?}");
    let mut output = String::new();
    std::io::Read::read_to_string(&mut child.0.stdout.take().expect("output"), &mut output)
        .expect("text");
    let json: serde_json::Value = serde_json::from_str(&output).expect("one object");
    assert_eq!(json["finish"], "cancelled");
    assert!(json["tokens"].as_array().is_some_and(|t| t.len() >= 5));
}
