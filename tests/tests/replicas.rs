//! Three edges behind HAProxy, as `deploy/haproxy.cfg` sets it up: one is killed and one drained while
//! twelve devices get answers; and chat clients, of which some were at an edge that is killed.

#[allow(dead_code)]
#[path = "boxes/middle.rs"]
mod middle;
#[allow(dead_code)]
mod process;

use process::{Killed, edge};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tandem_device::{
    Drafter, EdgeAddress, Event, Finish, Link, LinkState, Mode, Request, generate, new_session,
};
use tandem_edge::{Identity, StateFolder};
use tandem_protocol::CertificateId;
use tandem_speculation::TokenId;
use tandem_tests::{OTHER, drafter, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Mutex, MutexGuard};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

const DEVICES: usize = 12;
const TOKENS: usize = 64;
const TOKEN: &str = "a-token-of-the-replicas";

/// Gone with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An edge with the others' identity.
struct Replica {
    process: Killed,
    address: SocketAddr,
}

impl Replica {
    fn start(state: &StateFolder) -> Self {
        let more =
            ["--tls", "--threads", "1", "--drain", "1", "--balancer", "127.0.0.1", "--state"];
        let mut command = edge(OTHER, "127.0.0.1:0");
        command.args(more).arg(state.path()).env("TANDEM_EDGE_TOKEN", TOKEN);
        let mut child = command.stderr(Stdio::null()).spawn().expect("an edge");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.split("wss://").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.and_then(|a| a.parse().ok()).expect("an address");
        Self { process: Killed(child), address }
    }

    fn terminate(&self) {
        let id = self.process.0.id().to_string();
        let done = Command::new("kill").args(["-TERM", &id]).status().expect("kill");
        assert!(done.success());
    }
}

/// HAProxy with the configuration that is shipped, but for addresses.
fn balancer(folder: &Folder, listen: SocketAddr, replicas: &[Replica]) -> Killed {
    let mut config = include_str!("../../deploy/haproxy.cfg").to_owned();
    let mut replace = |old: &str, new: String| {
        assert!(config.contains(old), "{old} is not in haproxy.cfg");
        config = config.replace(old, &new);
    };
    replace("bind :7470", format!("bind {listen}"));
    for (i, replica) in replicas.iter().enumerate() {
        replace(&format!("192.0.2.1{}:7470", i + 1), replica.address.to_string());
    }
    let path = folder.0.join("haproxy.cfg");
    std::fs::write(&path, config).expect("a file");
    // Debian has it where only root looks.
    let program = ["/usr/sbin/haproxy", "haproxy"].into_iter();
    let mut start = program.map(|program| {
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn()
    });
    let child: Option<Child> = start.find_map(Result::ok);
    Killed(child.expect("HAProxy; on Debian: apt-get install haproxy"))
}

/// A way to the balancer for one device, with an address of its own, by which it is told from others.
async fn way(source: Ipv4Addr, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut device, _)) = listener.accept().await {
            tokio::spawn(async move {
                let socket = TcpSocket::new_v4().expect("a socket");
                socket.bind((source, 0).into()).expect("an address of its own");
                if let Ok(mut edge) = socket.connect(to).await {
                    let _ = tokio::io::copy_bidirectional(&mut device, &mut edge).await;
                }
            });
        }
    });
    address
}

struct Setup {
    drafter: Drafter,
    links: Vec<Link>,
    requests: Vec<Request>,
}

impl Setup {
    /// All answers at once; counts their tokens as they come.
    async fn answers(&self, count: &Arc<AtomicUsize>) -> Vec<Vec<TokenId>> {
        let mut tasks = Vec::new();
        for (link, request) in self.links.iter().zip(&self.requests) {
            let (drafter, link) = (self.drafter.clone(), link.clone());
            let request = Request { session: new_session(), ..request.clone() };
            let count = Arc::clone(count);
            tasks.push(tokio::spawn(async move {
                let cancel = CancellationToken::new();
                generate(&drafter, Some(&link), &request, &cancel, |event| {
                    if let Event::Round { tokens, .. } = event {
                        count.fetch_add(tokens.len(), Ordering::Relaxed);
                    }
                })
                .await
            }));
        }
        let mut all = Vec::new();
        for task in tasks {
            let answer = task.await.expect("no panic").expect("an answer");
            assert!(matches!(answer.finish, Finish::Stop | Finish::Length), "{:?}", answer.finish);
            all.push(answer.tokens);
        }
        all
    }

    /// How often devices connected again.
    fn reconnects(&self) -> usize {
        let epochs = self.links.iter().map(|link| match &*link.state().borrow() {
            LinkState::Connected { epoch, .. } => *epoch as usize - 1,
            _ => 0,
        });
        epochs.sum()
    }
}

async fn until(reached: impl Fn() -> bool, what: &str) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect(what);
}

/// One after the other: each has three edges.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Three edges with one identity, and the balancer before them.
struct Cluster {
    certificate: CertificateId,
    replicas: Vec<Replica>,
    listen: SocketAddr,
    _balancer: Killed,
    _folder: Folder,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    async fn start() -> Self {
        let alone = ALONE.lock().await;
        let folder =
            Folder(std::env::temp_dir().join(format!("tandem-replicas-{}", std::process::id())));
        let state =
            |i: usize| StateFolder::open(&folder.0.join(format!("edge{i}"))).expect("a folder");
        let certificate = Identity::load_or_create(&state(0)).expect("one").certificate;
        for i in 1..3 {
            let identity = |i| state(i).path().join("identity.pem");
            std::fs::copy(identity(0), identity(i)).expect("a copy");
        }
        let replicas: Vec<Replica> = (0..3).map(|i| Replica::start(&state(i))).collect();
        let front = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let listen = front.local_addr().expect("an address");
        drop(front);
        let balancer = balancer(&folder, listen, &replicas);
        let listens = async {
            while TcpStream::connect(listen).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), listens).await.expect("the balancer");
        let (_balancer, _folder, _alone) = (balancer, folder, alone);
        Self { certificate, replicas, listen, _balancer, _folder, _alone }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_go_on_when_one_replica_is_killed_and_one_drained() {
    let mut cluster = Cluster::start().await;
    let (certificate, listen) = (cluster.certificate, cluster.listen);
    let replicas = &mut cluster.replicas;

    let drafter = drafter(OTHER).await;
    let (mut links, mut requests) = (Vec::new(), Vec::new());
    for i in 0..DEVICES {
        let at = way(Ipv4Addr::new(127, 0, 7, 1 + i as u8), listen).await;
        let address: EdgeAddress = format!("wss://{at}").parse().expect("an address");
        let address = address.with_token(Some(TOKEN.into())).pinned(certificate);
        let link = Link::start(address, drafter.hello());
        link.connected(Duration::from_secs(20)).await.expect("a connection");
        links.push(link);
        // Long answers, half of them drafted and half streamed.
        let prompt = format!("Tell a long story about the numbers {i} and {}.", i + 3);
        let mode = if i % 2 == 0 { Mode::Dssd } else { Mode::Edge };
        requests.push(Request { max_tokens: TOKENS, ..request(&drafter, &prompt, mode, 3) });
    }
    let setup = Setup { drafter, links, requests };

    let undisturbed = setup.answers(&Arc::default()).await;
    assert_eq!(setup.reconnects(), 0);
    let total: usize = undisturbed.iter().map(Vec::len).sum();
    assert!(total > DEVICES * TOKENS / 2, "answers are too short for this: {total}");

    let count = Arc::new(AtomicUsize::new(0));
    let faults = async {
        until(|| count.load(Ordering::Relaxed) > total / 6, "a beginning").await;
        replicas[0].process.0.kill().expect("a kill");
        until(|| setup.reconnects() > 0, "a device that goes elsewhere").await;
        until(|| count.load(Ordering::Relaxed) > total / 3, "more of the answers").await;
        let killed = setup.reconnects();
        replicas[1].terminate();
        let mut drained = replicas.swap_remove(1).process;
        let ended = tokio::task::spawn_blocking(move || drained.0.wait().expect("an end"));
        assert_eq!(ended.await.expect("no panic").code(), Some(0));
        killed
    };
    let (disturbed, killed) = tokio::join!(setup.answers(&count), faults);
    assert_eq!(disturbed, undisturbed);
    for link in &setup.links {
        link.connected(Duration::from_secs(20)).await.expect("the third edge");
    }
    let drained = setup.reconnects() - killed;
    assert!(drained > 0, "no device was sent away by the drained replica");
    figures(total, killed, drained);
}

/// For who runs it with `--nocapture`.
#[allow(clippy::print_stdout)]
fn figures(total: usize, killed: usize, drained: usize) {
    println!(
        "{DEVICES} answers, {total} tokens; reconnected: {killed} after the kill, {drained} later"
    );
}

/// The whole answer to a request over TLS: its status and its body.
async fn http(source: Ipv4Addr, to: SocketAddr, request: &str, body: &str) -> (u16, String) {
    http_with(TOKEN, source, to, request, body).await
}

async fn http_with(
    token: &str,
    source: Ipv4Addr,
    to: SocketAddr,
    request: &str,
    body: &str,
) -> (u16, String) {
    let connector = TlsConnector::from(Arc::new(middle::client()));
    let name = ServerName::try_from("edge").expect("a name");
    let exchange = async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("an address of its own");
        let mut stream = connector.connect(name, socket.connect(to).await?).await?;
        let length = body.len();
        let head = format!(
            "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\
             Authorization: Bearer {token}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(60), exchange).await.expect("an answer");
    let answer = answer.unwrap_or_else(|e| panic!("{request}: {e}"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// What a chat client with this address is answered.
async fn chat(source: Ipv4Addr, to: SocketAddr) -> String {
    let (_, models) = http(source, to, "GET /v1/models", "").await;
    let models: Value = serde_json::from_str(&models).expect("JSON");
    let body = json!({
        "model": models["data"][0]["id"],
        "messages": [{ "role": "user", "content": "Why is the sea salt?" }],
        "temperature": 0,
        "max_tokens": 12,
    });
    let (status, answer) = http(source, to, "POST /v1/chat/completions", &body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["usage"]["completion_tokens"], 12, "{answer}");
    answer["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_cannot_take_all_connections_of_the_balancer() {
    let cluster = Cluster::start().await;
    let (mut held, mut closed) = (Vec::new(), 0);
    for _ in 0..40 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::new(127, 0, 9, 1), 0).into()).expect("an address of its own");
        match socket.connect(cluster.listen).await {
            Ok(stream) => held.push(stream),
            // Closed before it was looked at.
            Err(_) => closed += 1,
        }
    }
    for stream in &mut held {
        let end = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut [0; 8])).await;
        closed += usize::from(matches!(end, Ok(Ok(0) | Err(_))));
    }
    assert_eq!(closed, 40 - 32);
    assert!(!chat(Ipv4Addr::new(127, 0, 9, 2), cluster.listen).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_tokens_keeps_out_nobody_else_behind_the_balancer() {
    let cluster = Cluster::start().await;
    let ask = |token: &'static str, host| {
        let source = Ipv4Addr::new(127, 0, 10, host);
        http_with(token, source, cluster.listen, "GET /metrics", "")
    };
    let mut refused = 0;
    for _ in 0..30 {
        refused += usize::from(ask("a-guess", 1).await.0 == 429);
    }
    assert!(refused > 0, "nobody slows the guesses down");
    // More than there are edges: some are where the guesser is.
    for host in 2..8 {
        assert_eq!(ask(TOKEN, host).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_clients_are_answered_after_their_replica_is_killed() {
    let mut cluster = Cluster::start().await;
    let clients: Vec<_> = (1..=6).map(|i| Ipv4Addr::new(127, 0, 8, i)).collect();
    let mut texts = Vec::new();
    for client in &clients {
        texts.push(chat(*client, cluster.listen).await);
    }
    assert!(!texts[0].is_empty() && texts.iter().all(|t| *t == texts[0]), "{texts:?}");
    let mut answered = Vec::new();
    for replica in &cluster.replicas {
        let (_, metrics) = http(clients[0], replica.address, "GET /metrics", "").await;
        let count = metrics.lines().find_map(|l| {
            l.strip_prefix("tandem_edge_chat_requests_total{status=\"200\"} ")?.parse().ok()
        });
        answered.push(count.unwrap_or(0_usize));
    }
    assert_eq!(answered.iter().sum::<usize>(), clients.len());
    let most = (0..3).max_by_key(|i| answered[*i]).expect("three");
    assert!(answered[most] < clients.len(), "all are at one replica: {answered:?}");
    // At once, before the balancer has looked: who was at this replica must be sent elsewhere.
    cluster.replicas[most].process.0.kill().expect("a kill");
    for client in &clients {
        assert_eq!(chat(*client, cluster.listen).await, texts[0]);
    }
}
