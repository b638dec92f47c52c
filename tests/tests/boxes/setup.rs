//! A second edge process with TLS on loopback, a pairing that it shows, and the device's command.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tandem_device::{Link, LinkState, Refusal};
use tandem_edge::StateFolder;
use tandem_protocol::PairingLink;
use tandem_tests::OTHER;

/// A folder of its own for a test.
pub fn folder(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("tandem-boxes-{}-{number}-{name}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    let path = test.parent().and_then(Path::parent).expect("a build folder").join(name);
    assert!(path.exists(), "build it first: cargo build --release -p tandem-edge -p tandem-cli");
    path
}

pub fn edge_command(args: &[&str], state: &Path) -> Command {
    let mut command = Command::new(program("tandem-edge"));
    command.args(args).arg("--state").arg(state).env_remove("TANDEM_EDGE_TOKEN");
    command.stdin(Stdio::null());
    command
}

/// Runs `tandem`; whether it was content, and what it said.
pub fn tandem(args: &[&str], db: &Path) -> (bool, String) {
    let mut command = Command::new(program("tandem"));
    command.args(args).arg("--db").arg(db).env("TANDEM_KEY_STORE", "file");
    command.env_remove("TANDEM_EDGE").env_remove("TANDEM_EDGE_TOKEN").stdin(Stdio::null());
    let done = command.output().expect("the program");
    let text = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    (done.status.success(), text.into_owned())
}

pub struct Edge {
    pub state: PathBuf,
    /// Its URL.
    pub address: String,
    process: Option<Child>,
    more: Vec<String>,
}

impl Edge {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more arguments.
    pub fn start_with(more: &[&str]) -> Self {
        let more = more.iter().map(|&m| m.to_owned()).collect();
        let mut edge = Self { state: folder("edge"), address: String::new(), process: None, more };
        edge.run("127.0.0.1:0");
        edge
    }

    /// Its process.
    #[allow(dead_code, reason = "one of the tests uses it")]
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("a running edge").id()
    }

    fn run(&mut self, listen: &str) {
        let args = ["serve", "--model", OTHER, "--listen", listen, "--tls", "--name", "attic"];
        let mut command = edge_command(&args, &self.state);
        command.args(&self.more).stdout(Stdio::piped());
        // Everything that it can say, for tests that read it.
        let log = std::fs::File::create(self.log()).expect("a log");
        let mut process = command.env("RUST_LOG", "trace").stderr(log).spawn().expect("an edge");
        let mut line = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        self.process = Some(process);
        let url = line.split("ready at ").nth(1).and_then(|rest| rest.split(' ').next());
        self.address = url.expect("a URL").to_owned();
        assert!(self.address.starts_with("wss://"), "{line}");
    }

    /// Where it writes what it says of itself.
    pub fn log(&self) -> PathBuf {
        self.state.with_extension("log")
    }

    pub fn authority(&self) -> String {
        self.address.trim_start_matches("wss://").to_owned()
    }

    pub fn folder(&self) -> StateFolder {
        StateFolder::open(&self.state).expect("a folder")
    }

    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// On the same port.
    pub fn start_again(&mut self) {
        let listen = self.authority();
        self.run(&listen);
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.state);
        let _ = std::fs::remove_file(self.log());
    }
}

pub struct Shown {
    pub link: PairingLink,
    pub process: Running,
}

/// Ends with the test, however that ends.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `tandem-edge pair`, as far as what it shows.
pub fn pairing(edge: &Edge) -> Shown {
    let mut command = edge_command(&["pair"], &edge.state);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Running(command.spawn().expect("a pairing"));
    let lines = BufReader::new(process.0.stdout.take().expect("its output")).lines();
    let (mut qr, mut code) = (false, None);
    for line in lines.map_while(Result::ok) {
        qr |= line.contains('█');
        if let Some(text) = line.trim().strip_prefix("code ") {
            code = text.trim().parse().ok();
        }
        if let Some(text) = line.trim().strip_prefix("link ") {
            let link: PairingLink = text.trim().parse().expect("a link");
            assert!(qr && code.as_ref() == Some(&link.code), "no picture, or another code");
            return Shown { link, process };
        }
    }
    panic!("it ended without a link");
}

/// How a process ended, and its errors.
pub fn finished(mut process: Running) -> (ExitStatus, String) {
    let mut text = String::new();
    process.0.stderr.take().expect("errors").read_to_string(&mut text).expect("text");
    (process.0.wait().expect("an end"), text)
}

/// Waits until a link is refused.
pub async fn refusal_of(link: &Link) -> (String, Refusal) {
    let mut state = link.state();
    let refused = state.wait_for(|s| matches!(s, LinkState::Refused { .. }));
    let refused = tokio::time::timeout(Duration::from_secs(30), refused).await;
    match refused.expect("a refusal in time").expect("a link").clone() {
        LinkState::Refused { problem, why } => (problem, why),
        other => panic!("{other:?}"),
    }
}

/// This machine's address beyond loopback, if it has one. Nothing is sent.
pub fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}
