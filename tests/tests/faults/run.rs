//! One run: starts both programs and the link, kills what the plan says, and looks at what is left.

use crate::app::{CONVERSATION, Life, live};
use crate::ledger::{Missing, Pending, connect, read};
use crate::oracle::CONTEXT;
use crate::plan::{FrameFault, Plan, Torn, Victim};
use crate::wire::Wire;
use crate::world::{Action, Tally, World};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tandem_device::store::{Store, StoreError};
use tandem_edge::{Config, Edge, Limits};
use tandem_inference::Model;
use tandem_protocol::{ClientMessage, SessionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

#[allow(dead_code, reason = "shared with the tests of the edge")]
#[path = "../raw/mod.rs"]
mod raw;

/// Longer than any run takes.
const LONGEST: Duration = Duration::from_secs(60);
/// Until an edge whose device is gone has forgotten it, on a busy machine.
const FORGET: Duration = Duration::from_secs(20);

/// Bytes of a page of the database.
const PAGE: u64 = 1024;
/// The device's program is started at most so often.
const LIVES: u32 = 30;

/// What came of a run.
pub struct Outcome {
    pub result: Result<(), String>,
    pub answers: u64,
    pub tokens: u64,
    pub faults: BTreeMap<&'static str, u64>,
}

/// A program: all of its tasks die with its runtime.
struct Program(Option<Runtime>);

impl Program {
    fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self(Some(runtime.expect("a runtime")))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("a program that lives")
    }

    /// Returns when nothing of it runs any more.
    async fn kill(&mut self) {
        if let Some(runtime) = self.0.take() {
            let end = move || runtime.shutdown_timeout(Duration::from_secs(10));
            let _ = tokio::task::spawn_blocking(end).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

struct EdgeProgram {
    program: Program,
    edge: Edge,
    address: SocketAddr,
}

impl EdgeProgram {
    /// A new one, that knows nothing.
    async fn start(plan: &Plan, models: &[Arc<Model>; 2]) -> Result<Self, String> {
        let limits = Limits {
            context: CONTEXT,
            sessions: 4,
            kv_bytes: 64 << 20,
            idle: Duration::from_millis(plan.idle_ms),
            wait: Duration::from_secs(10),
        };
        let drafter = plan.colocated.then(|| Arc::clone(&models[1]));
        let config = Config { drafter, ..Config::local("faults", limits) };
        let program = Program::new();
        let start = program.runtime().spawn(Edge::start(Arc::clone(&models[0]), config));
        let edge = start.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let address = edge.address();
        Ok(Self { program, edge, address })
    }

    async fn end(self, politely: bool) {
        let Self { mut program, edge, .. } = self;
        if politely {
            let _ = program.runtime().spawn(edge.stop()).await;
        }
        program.kill().await;
    }
}

/// The file that all runs begin with: an empty conversation.
pub fn first_database(folder: &Path) -> PathBuf {
    let path = folder.join("first.db");
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        // Small pages, so that a disk without room for one more is noticed soon.
        let mut db = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        db = db.page_size(PAGE as u32);
        let mut db = db.connect().await.expect("a database");
        sqlx::query("VACUUM").execute(&mut db).await.expect("a first page");
        db.close().await.expect("a closed database");
        let store = Store::open(&path).await.expect("a store");
        let made = store.create_conversation("faults").await.expect("a conversation");
        assert_eq!(made.id, CONVERSATION);
        store.close().await;
        // A connection may end a moment later than it says, and leaves the log behind: what damages
        // the log must not take the conversation away.
        let mut db = connect(&path).await.expect("a database");
        for _ in 0..100 {
            let taken: (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)")
                .fetch_one(&mut db)
                .await
                .expect("a log");
            if taken.0 == 0 {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        db.close().await.expect("a closed database");
    });
    let left = std::fs::metadata(log(&path)).map_or(0, |log| log.len());
    assert_eq!(left, 0, "the log was not taken over");
    path
}

/// Plays a plan.
pub fn run(
    plan: &Plan,
    models: &[Arc<Model>; 2],
    drafter: &Path,
    begun: &Path,
    folder: &Path,
) -> Outcome {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tally = Tally::default();
    let (answers, tokens, result) = runtime.block_on(async {
        let (sender, actions) = mpsc::unbounded_channel();
        let wire = match Wire::start(plan, sender.clone(), tally.clone()).await {
            Ok(wire) => wire,
            Err(e) => return (0, 0, Err(format!("no link: {e}"))),
        };
        let (edge, models) = (wire.address.to_string(), models.clone());
        let (drafter, tally) = (drafter.to_owned(), tally.clone());
        let world = World::new(plan.clone(), edge, drafter, models, sender, tally);
        let world = Arc::new(world);
        let torn = plan.torn;
        let play =
            Play { world: Arc::clone(&world), wire, actions, folder, lives: 0, torn, anchor: None };
        let played = timeout(LONGEST, play.play(begun)).await;
        let result = played.unwrap_or_else(|_| Err("the run hangs".into()));
        (world.answers.load(Ordering::Relaxed), world.tokens.load(Ordering::Relaxed), result)
    });
    runtime.shutdown_background();
    let _ = std::fs::remove_dir_all(folder);
    Outcome { result, answers, tokens, faults: tally.take() }
}

struct Play<'a> {
    world: Arc<World>,
    wire: Wire,
    actions: mpsc::UnboundedReceiver<Action>,
    folder: &'a Path,
    lives: u32,
    torn: Option<Torn>,
    /// Another connection to the present file: without it the last of a dying program would take the
    /// log over, which a killed one does not.
    anchor: Option<SqliteConnection>,
}

impl Play<'_> {
    async fn play(mut self, begun: &Path) -> Result<(), String> {
        let (plan, models) = (self.world.plan.clone(), self.world.models.clone());
        let mut edge = Some(EdgeProgram::start(&plan, &models).await?);
        self.wire.aim(edge.as_ref().map(|e| e.address));
        let mut path = self.copy(begun)?;
        self.hold(&path).await?;
        let mut device = Program::new();
        let mut life = device.runtime().spawn(live(Arc::clone(&self.world), Arc::clone(&path)));
        loop {
            tokio::select! {
                ended = &mut life => {
                    device.kill().await;
                    match ended.map_err(|e| format!("the device's program ended: {e}"))?? {
                        Life::Done => break,
                        Life::Again => self.lives += 1,
                    }
                }
                Some(Action { what, done }) = self.actions.recv() => {
                    if what == Victim::Device {
                        device.kill().await;
                        path = self.copy(&path)?;
                        path = self.tear(path).await?;
                        self.hold(&path).await?;
                    } else {
                        self.wire.aim(None);
                        if let Some(edge) = edge.take() {
                            edge.end(what == Victim::EdgeStops).await;
                        }
                        let down = sleep(Duration::from_millis(plan.down_ms));
                        // The device goes on meanwhile, and may see that nobody answers.
                        if let Some(done) = done { let _ = done.send(()); }
                        down.await;
                        edge = Some(EdgeProgram::start(&plan, &models).await?);
                        self.wire.aim(edge.as_ref().map(|e| e.address));
                        continue;
                    }
                    if let Some(done) = done { let _ = done.send(()); }
                }
            }
            if self.lives > LIVES {
                return Err("the device's program does not come to its end".into());
            }
            device = Program::new();
            life = device.runtime().spawn(live(Arc::clone(&self.world), Arc::clone(&path)));
        }
        let Some(edge) = edge else { return Err("the edge is gone".into()) };
        self.left_on_the_edge(&edge).await?;
        edge.end(true).await;
        self.left_in_the_store(&path).await
    }

    /// The files as a killed program leaves them: nothing was closed, and the log not taken over. (The
    /// log never grows so large that SQLite would take it over by itself, so that a copy of the file
    /// and then of the log is a state that once was.)
    fn copy(&mut self, path: &Path) -> Result<Arc<Path>, String> {
        self.lives += 1;
        let folder = self.folder.join(format!("{}", self.lives));
        let failed = |e: std::io::Error| format!("the database cannot be copied: {e}");
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let to = folder.join("tandem.db");
        std::fs::copy(path, &to).map_err(failed)?;
        if log(path).exists() {
            std::fs::copy(log(path), log(&to)).map_err(failed)?;
        }
        Ok(to.into())
    }

    async fn hold(&mut self, path: &Path) -> Result<(), String> {
        let failed = |e: sqlx::Error| e.to_string();
        let mut anchor = connect(path).await.map_err(failed)?;
        sqlx::query("SELECT count(*) FROM messages").execute(&mut anchor).await.map_err(failed)?;
        self.anchor = Some(anchor);
        Ok(())
    }

    /// Damages a copy of the files, if that is planned, and tries to use it. The program must say what
    /// is wrong, or have what was stored before. Returns the file to go on with.
    async fn tear(&mut self, path: Arc<Path>) -> Result<Arc<Path>, String> {
        let Some(torn) = self.torn.take() else { return Ok(path) };
        // What is read and closed is not what a killed program leaves, so each use has its own copy.
        let whole = read(&self.copy(&path)?).await?;
        self.world.ledger().settle(whole, Missing::Nothing)?;
        let damaged = self.copy(&path)?;
        if !damage(&damaged, torn)? {
            return Ok(path);
        }
        self.world.tally.count(torn.kind());
        let log_only = matches!(torn, Torn::LogCut(_) | Torn::LogOverwritten(_));
        let program = Program::new();
        let file = Arc::clone(&damaged);
        let opened = program.runtime().spawn(async move {
            let store = Store::open(&file).await?;
            store.recover().await?;
            let messages = store.messages(CONVERSATION).await?;
            if !log_only {
                // Where nothing was found, writing must not panic either.
                store.ask_after(CONVERSATION, messages.last().map(|m| m.id), "more").await?;
            }
            store.close().await;
            Ok::<_, StoreError>(())
        });
        let opened = opened.await.map_err(|e| format!("a torn database: {e}"))?;
        let rows = read(&damaged).await;
        if log_only {
            // Its checksums tell what is whole: all before the damage is there.
            opened.map_err(|e| format!("a torn log keeps the store from opening: {e}"))?;
            let mut ledger = self.world.ledger();
            let settled = rows.and_then(|rows| ledger.settle(rows, Missing::Tail));
            settled.map_err(|e| format!("a torn log gives wrong rows: {e}"))?;
            return Ok(damaged);
        }
        // The file itself has none, but what is read must be right, or the damage be told. The user
        // goes on with a copy.
        match (opened, rows) {
            (Err(e), _) if !e.to_string().contains("damaged") => {
                Err(format!("a torn database is not told as one: {e}"))
            }
            (Err(_), _) => {
                self.world.tally.count("torn database: told");
                Ok(path)
            }
            (Ok(()), Err(e)) if e.contains("cannot be read") => Ok(path),
            (Ok(()), Err(e)) => Err(format!("a torn database gives wrong rows: {e}")),
            (Ok(()), Ok(rows)) => {
                let mut with = self.world.ledger().clone();
                // With the question from above.
                with.pending = Pending::Ask("more".into());
                with.settle(rows, Missing::Nothing)
                    .map_err(|e| format!("a torn database gives wrong rows: {e}"))?;
                Ok(path)
            }
        }
    }

    /// When the device is gone, so is all that the edge held for it.
    async fn left_on_the_edge(&self, edge: &EdgeProgram) -> Result<(), String> {
        let verifier = &self.world.models[0];
        let most = (CONTEXT * verifier.cache_bytes_per_token()) as u64 * 2;
        let (sessions, bytes, _, refused) = figures(edge.address).await?;
        // Whatever else breaks, the device knows what the edge knows: only a copied frame or a
        // session that was forgotten makes it ask for something that does not fit.
        let twice = |f: &FrameFault| matches!(f, FrameFault::Twice { .. });
        let plan = &self.world.plan;
        if refused > 0 && plan.idle_ms > 1000 && !plan.frames.values().any(twice) {
            return Err(format!("the edge refused {refused} requests that did not fit its state"));
        }
        if sessions > 1 || bytes > most {
            return Err(format!("one conversation has {sessions} sessions of {bytes} bytes"));
        }
        if self.world.plan.idle_ms > 1000 && sessions > 0 {
            // It would keep it for a minute: a device says so when it does not want it any more.
            let hello = raw::greeting(verifier);
            let mut device = raw::Raw::connect(edge.address, None, hello).await;
            let session = self.session().await?;
            device.send(&ClientMessage::Close { session }).await;
        }
        let start = Instant::now();
        loop {
            let left = figures(edge.address).await?;
            if (left.0, left.1, left.2) == (0, 0, 0) {
                return Ok(());
            }
            if start.elapsed() > FORGET {
                return Err(format!("left on the edge (sessions, bytes, connections): {left:?}"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn session(&self) -> Result<SessionId, String> {
        let path = self.folder.join("1").join("tandem.db");
        let store = Store::open(&path).await.map_err(|e| e.to_string())?;
        let session = store.session(CONVERSATION).await.map_err(|e| e.to_string())?;
        store.close().await;
        Ok(session)
    }

    /// At the end: all is stored, the product's own view is the same, and the file is sound.
    async fn left_in_the_store(&self, path: &Path) -> Result<(), String> {
        self.world.check(path).await?;
        let failed = |e: sqlx::Error| e.to_string();
        let mut db = connect(path).await.map_err(failed)?;
        let sound: String = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_one(&mut db)
            .await
            .map_err(failed)?;
        if sound != "ok" {
            return Err(format!("the database is damaged: {sound}"));
        }
        let store = Store::open(path).await.map_err(|e| e.to_string())?;
        let messages = store.messages(CONVERSATION).await.map_err(|e| e.to_string())?;
        store.close().await;
        let questions = messages.iter().filter(|m| m.role == "user").map(|m| &m.content);
        let asked =
            (0..self.world.plan.questions).map(|n| crate::app::question(self.world.plan.seed, n));
        if !questions.eq(asked.collect::<Vec<_>>().iter()) {
            return Err(format!("lost questions: {messages:?}"));
        }
        Ok(())
    }
}

/// The write-ahead log of a database.
fn log(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

/// Damages a file; false if there is nothing of that kind to damage.
fn damage(path: &Path, torn: Torn) -> Result<bool, String> {
    let part = |length: u64, at: u64| length * at / 1000;
    let target = match torn {
        Torn::LogCut(_) | Torn::LogOverwritten(_) => log(path),
        Torn::FileCut(_) | Torn::PageOverwritten(_) => path.to_owned(),
    };
    let Ok(mut bytes) = std::fs::read(&target) else { return Ok(false) };
    let length = bytes.len() as u64;
    if length == 0 {
        return Ok(false);
    }
    match torn {
        Torn::LogCut(at) | Torn::FileCut(at) => bytes.truncate(part(length, at) as usize),
        Torn::LogOverwritten(at) => {
            let from = part(length, at) as usize;
            let to = bytes.len().min(from + 600);
            bytes[from..to].fill(0xa5);
        }
        Torn::PageOverwritten(at) => {
            let from = part(length / PAGE, at) * PAGE;
            bytes[from as usize..(from + PAGE) as usize].fill(0xa5);
        }
    }
    std::fs::write(&target, bytes).map_err(|e| e.to_string())?;
    Ok(true)
}

/// Sessions, bytes of KV cache, connections and refused requests, by the edge's own figures.
async fn figures(edge: SocketAddr) -> Result<(u64, u64, u64, u64), String> {
    let text = async {
        let mut socket = TcpStream::connect(edge).await?;
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let text = text.await.map_err(|e| format!("the edge's figures: {e}"))?;
    let figure = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok());
        line.ok_or_else(|| format!("the edge has no figure {name}: {text}"))
    };
    Ok((
        figure("tandem_edge_sessions ")?,
        figure("tandem_edge_kv_cache_bytes ")?,
        figure("tandem_edge_connections ")?,
        figure("tandem_edge_errors_total{code=\"State\"} ").unwrap_or(0),
    ))
}
