//! The built programs as processes.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A built program, beside the tests' own folder.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    let path = test.parent().and_then(Path::parent).expect("a build folder").join(name);
    assert!(path.exists(), "build it first: cargo build --release -p tandem-edge -p tandem-cli");
    path
}

pub fn edge(model: &str, listen: &str) -> Command {
    let mut command = Command::new(program("tandem-edge"));
    command.args(["serve", "--model", model, "--listen", listen]).env_remove("TANDEM_EDGE_TOKEN");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Ends with the test, however that ends.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running edge and its address.
pub fn started(model: &str, listen: &str) -> (Killed, SocketAddr) {
    started_with(model, listen, &[])
}

/// The same with more arguments.
pub fn started_with(model: &str, listen: &str, more: &[&str]) -> (Killed, SocketAddr) {
    started_logged(model, listen, more, Stdio::null())
}

/// The same with a place for its log.
pub fn started_logged(
    model: &str,
    listen: &str,
    more: &[&str],
    log: Stdio,
) -> (Killed, SocketAddr) {
    let mut command = edge(model, listen);
    let mut child = command.args(more).stderr(log).spawn().expect("an edge");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    let address = line.split("ws://").nth(1).and_then(|rest| rest.split(' ').next());
    (Killed(child), address.and_then(|a| a.parse().ok()).expect("an address"))
}

/// What a start that fails says; it must fail with a message, not with a panic, and soon.
pub fn complaint(mut command: Command) -> String {
    let started = std::time::Instant::now();
    let mut child = Killed(command.spawn().expect("the program"));
    let mut text = String::new();
    child.0.stderr.take().expect("errors").read_to_string(&mut text).expect("text");
    let status = child.0.wait().expect("an end");
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    text
}
