//! Conversations, messages, rounds and settings in SQLite.
//!
//! Every round is one transaction that adds its row and its text, so whatever was shown is still
//! there after a crash. Several processes may use one file (write-ahead log, waiting for locks).

mod conversations;
mod messages;
mod metrics;
mod rounds;
mod settings;
mod split;

pub use conversations::Conversation;
pub use messages::{Message, Stats, Status};
pub use metrics::{
    Acceptance, Bytes, Choices, Compared, Filter, Metrics, Position, Speed, Time, Tokens, Trips,
};
pub use split::{Origin, Split, SplitRound, SplitToken};

use sqlx::migrate::MigrateError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Why the store cannot be used. The text says what to do.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Folder or file cannot be made or opened.
    #[error("cannot open the database {path}: {reason}; check that the folder may be written to")]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the system or SQLite said.
        reason: String,
    },
    /// A newer version wrote it.
    #[error("the database {0} is from a newer version of Tandem; update this program")]
    Newer(PathBuf),
    /// SQLite failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// There is no such row.
    #[error("this {0} does not exist any more")]
    Missing(&'static str),
    /// Settings that cannot be kept.
    #[error("{0}")]
    Settings(String),
}

/// The open database; clones share it.
#[derive(Clone)]
pub struct Store {
    pool: SqlitePool,
}

/// The database's usual place: `TANDEM_DATA_DIR`, or the platform's folder for data.
#[must_use]
pub fn default_path() -> PathBuf {
    let folder = std::env::var_os("TANDEM_DATA_DIR").filter(|v| !v.is_empty());
    let folder = folder.map(PathBuf::from).or_else(|| {
        let dirs = directories::ProjectDirs::from("", "", "tandem")?;
        Some(dirs.data_dir().to_owned())
    });
    folder.unwrap_or_default().join("tandem.db")
}

impl Store {
    /// Opens the file, makes it if it is missing, and brings it up to date.
    ///
    /// # Errors
    /// If it cannot be opened, or a newer version wrote it.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |reason: String| StoreError::Open { path: path.to_owned(), reason };
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| failed(e.to_string()))?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With a write-ahead log this survives a crash of the program at any point.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await
            .map_err(|e| failed(e.to_string()))?;
        sqlx::migrate!("./migrations").run(&pool).await.map_err(|e| match e {
            MigrateError::VersionMissing(_) | MigrateError::VersionMismatch(_) => {
                StoreError::Newer(path.to_owned())
            }
            e => failed(e.to_string()),
        })?;
        Ok(Self { pool })
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn found(rows: u64, what: &'static str) -> Result<(), StoreError> {
    if rows == 0 { Err(StoreError::Missing(what)) } else { Ok(()) }
}
