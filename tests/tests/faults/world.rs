//! What all parts of a run share, and the steps of the device's program at which something happens.

use crate::ledger::{Ledger, Missing, connect, rows};
use crate::plan::{Plan, StepFault, Victim};
use sqlx::sqlite::SqliteConnection;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tandem_device::store::Store;
use tandem_inference::Model;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How long the database is locked when that is too long for the device.
const TOO_LONG: Duration = Duration::from_millis(5800);

/// Something for whoever starts and ends the programs.
pub struct Action {
    pub what: Victim,
    /// Told when it is done.
    pub done: Option<oneshot::Sender<()>>,
}

/// Counts by kind.
#[derive(Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Tally {
    pub fn count(&self, kind: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }

    pub fn take(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One run.
pub struct World {
    pub plan: Plan,
    /// The link's address.
    pub edge: String,
    pub drafter: PathBuf,
    /// Verifier and drafter, for the oracle.
    pub models: [Arc<Model>; 2],
    pub actions: mpsc::UnboundedSender<Action>,
    pub tally: Tally,
    /// Steps so far, over all lives of the device.
    steps: AtomicU32,
    /// Answers begun.
    pub answers: AtomicU64,
    /// Tokens that were compared.
    pub tokens: AtomicU64,
    ledger: Mutex<Ledger>,
    /// The database is locked or full, so that it may fail.
    pub store_may_fail: AtomicBool,
    lock: Mutex<Option<JoinHandle<()>>>,
    /// The connection of the last comparison, and its file.
    reader: Mutex<Option<(PathBuf, SqliteConnection)>>,
}

impl World {
    pub fn new(
        plan: Plan,
        edge: String,
        drafter: PathBuf,
        models: [Arc<Model>; 2],
        actions: mpsc::UnboundedSender<Action>,
        tally: Tally,
    ) -> Self {
        Self {
            plan,
            edge,
            drafter,
            models,
            actions,
            tally,
            steps: AtomicU32::new(0),
            answers: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            ledger: Mutex::default(),
            store_may_fail: AtomicBool::new(false),
            lock: Mutex::default(),
            reader: Mutex::default(),
        }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares the file with what was shown.
    pub async fn check(&self, path: &Path) -> Result<(), String> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut db = match reader.filter(|(of, _)| of == path) {
            Some((_, db)) => db,
            None => connect(path).await.map_err(|e| e.to_string())?,
        };
        let rows = rows(&mut db).await?;
        let reader = Some((path.to_owned(), db));
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = reader;
        self.ledger().settle(rows, Missing::Nothing)
    }

    /// A step of the device's program: does what the plan says. True if the user stops the answer.
    pub async fn step(&self, store: &Store, path: &Path) -> Result<bool, String> {
        let at = self.steps.fetch_add(1, Ordering::Relaxed);
        let Some(fault) = self.plan.steps.get(&at) else { return Ok(false) };
        self.tally.count(fault.kind());
        let failed = |e: sqlx::Error| format!("a fault cannot be made: {e}");
        match fault {
            StepFault::Kill => {
                let _ = self.actions.send(Action { what: Victim::Device, done: None });
                std::future::pending().await
            }
            StepFault::Cancel => return Ok(true),
            // Nothing of the program goes on meanwhile.
            StepFault::Sleep { ms } => std::thread::sleep(Duration::from_millis(*ms)),
            StepFault::Clock { ms } => {
                let mut db = connect(path).await.map_err(failed)?;
                for sql in [
                    "UPDATE conversations SET created_at = created_at + ?1, updated_at = updated_at + ?1",
                    "UPDATE messages SET created_at = created_at + ?1",
                    "UPDATE rounds SET started_at = started_at + ?1",
                ] {
                    sqlx::query(sql).bind(-ms).execute(&mut db).await.map_err(failed)?;
                }
            }
            StepFault::Busy { ms } => {
                self.hold(path, Duration::from_millis(*ms)).await.map_err(failed)?
            }
            StepFault::Locked => {
                self.store_may_fail.store(true, Ordering::Relaxed);
                self.hold(path, TOO_LONG).await.map_err(failed)?;
            }
            StepFault::Full => {
                self.store_may_fail.store(true, Ordering::Relaxed);
                limit(store, true).await.map_err(failed)?;
            }
        }
        Ok(false)
    }

    /// Holds the database's write lock for some time.
    async fn hold(&self, path: &Path, time: Duration) -> sqlx::Result<()> {
        let mut db = connect(path).await?;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut db).await?;
        let task = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let _ = sqlx::query("ROLLBACK").execute(&mut db).await;
        });
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(())
    }

    /// The user frees space, or waits until the database can be written to again.
    pub async fn mend(&self, store: &Store) -> Result<(), String> {
        let task = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
        self.store_may_fail.store(false, Ordering::Relaxed);
        limit(store, false).await.map_err(|e| format!("a fault cannot be ended: {e}"))
    }
}

/// Lets the file not grow any more, or grow again. The limit belongs to a connection, so each of the
/// store's gets it.
async fn limit(store: &Store, full: bool) -> sqlx::Result<()> {
    let pool = store.connections();
    let mut all = Vec::new();
    for _ in 0..pool.options().get_max_connections() {
        let mut one = pool.acquire().await?;
        // SQLite takes the file's length when the limit is less.
        let sql =
            if full { "PRAGMA max_page_count = 1" } else { "PRAGMA max_page_count = 1000000" };
        sqlx::query(sql).execute(&mut *one).await?;
        all.push(one);
    }
    Ok(())
}
