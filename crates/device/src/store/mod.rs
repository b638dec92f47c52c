//! Conversations, messages, rounds and settings in SQLite.
//!
//! Every round is one transaction that adds its row and its text, so whatever was shown is still
//! there after a crash. Several processes may use one file (write-ahead log, waiting for locks).

mod benchmarks;
mod boxes;
mod branches;
mod conversations;
mod export;
mod import;
mod markdown;
mod messages;
mod metrics;
mod preset;
mod rounds;
mod search;
mod settings;
mod split;
#[cfg(test)]
mod tests;
mod transfer;
#[cfg(test)]
mod transfer_tests;
mod values;

pub use boxes::{BoxRow, PairedBox};
pub use conversations::{Change, Conversation};
pub use export::Format;
pub use import::Imported;
pub use messages::{Message, Stats, Status};
pub use metrics::{
    Acceptance, Bytes, Choices, Compared, Filter, Metrics, Position, Speed, Time, Tokens, Trips,
};
pub use preset::Preset;
pub use search::{Hit, Piece};
pub use split::{Origin, Split, SplitRound, SplitToken};
pub use transfer::{
    FILE_LIMIT, ImportError, MESSAGE_LIMIT, Saved, SavedConversation, SavedMessage,
};

use sqlx::Connection;
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
    #[error("cannot open the database {path}: {reason}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the system or SQLite said.
        reason: String,
    },
    /// A newer version wrote it.
    #[error("the database {0} is from a newer version of Tandem; update this program")]
    Newer(PathBuf),
    /// No room for what was to be written.
    #[error("the disk is full; free some space and try again, what was stored is safe")]
    Full,
    /// The file, or its folder, may only be read.
    #[error("the database may not be written to; allow this program to write to it and its folder")]
    ReadOnly,
    /// The file is no database, or parts of it are broken.
    #[error(
        "the database is damaged ({0}); put a copy in its place, or move it away to start anew"
    )]
    Damaged(String),
    /// SQLite failed.
    #[error("the database failed: {0}")]
    Database(sqlx::Error),
    /// There is no such row.
    #[error("this {0} does not exist any more")]
    Missing(&'static str),
    /// An export that cannot be written.
    #[error("the export cannot be written: {0}; check the place and the free space")]
    Export(String),
    /// Settings that cannot be kept.
    #[error("{0}")]
    Settings(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // The low byte of SQLite's extended result code is the kind.
        let code = error.as_database_error().and_then(|e| e.code()?.parse().ok());
        match code.map(|code: u32| code & 0xff) {
            Some(8) => Self::ReadOnly,
            Some(11 | 26) => Self::Damaged(error.to_string()),
            Some(13) => Self::Full,
            _ => Self::Database(error),
        }
    }
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
            std::fs::create_dir_all(folder).map_err(|e| {
                failed(format!("its folder cannot be made ({e}); check who may write there"))
            })?;
        }
        if is_cut_off(path) {
            return Err(StoreError::Damaged("its file is cut off".into()));
        }
        keep_private(path);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With a write-ahead log this survives a crash of the program at any point.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let explained = |e: sqlx::Error| match StoreError::from(e) {
            StoreError::Database(e) => failed(e.to_string()),
            plain => failed(plain.to_string()),
        };
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            // After a full disk SQLite has rolled back by itself; sqlx still counts the transaction
            // and would refuse the next one on this connection for good.
            .before_acquire(|connection, _| {
                let sound = !connection.is_in_transaction();
                Box::pin(async move { Ok(sound) })
            })
            .connect_with(options)
            .await
            .map_err(explained)?;
        sqlx::migrate!("./migrations").run(&pool).await.map_err(|e| match e {
            MigrateError::VersionMissing(_) | MigrateError::VersionMismatch(_) => {
                StoreError::Newer(path.to_owned())
            }
            MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => explained(e),
            e => failed(e.to_string()),
        })?;
        // Better now than at the first message.
        let writes = pool.begin_with("BEGIN IMMEDIATE").await.map_err(explained)?;
        writes.rollback().await.map_err(explained)?;
        Ok(Self { pool })
    }

    /// The connections, for tests that take a program's disk or lock away.
    #[doc(hidden)]
    #[must_use]
    pub fn connections(&self) -> &SqlitePool {
        &self.pool
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Whether there is less of a database than its header, though one was here: SQLite would take it for a
/// new one, throw its log away, and show no conversations.
fn is_cut_off(path: &Path) -> bool {
    /// Bytes of the smallest page that SQLite has.
    const LEAST: u64 = 512;
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    match length(path) {
        0 => length(Path::new(&log)) > 0,
        n => n < LEAST,
    }
}

/// Makes the file its owner's alone, before SQLite writes to it: conversations are nobody else's
/// business. SQLite gives its log the same rights. What fails here is told when the file is opened.
fn keep_private(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        let mut options = std::fs::OpenOptions::new();
        // A file that is there is not opened: closing it would take away the locks that SQLite holds
        // on it in this process.
        if options.write(true).create_new(true).mode(0o600).open(path).is_err()
            && std::fs::metadata(path)
                .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o077 != 0)
        {
            let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

fn found(rows: u64, what: &'static str) -> Result<(), StoreError> {
    if rows == 0 { Err(StoreError::Missing(what)) } else { Ok(()) }
}
