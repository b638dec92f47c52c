//! Conversations, messages, rounds and settings in SQLite.
//!
//! Every round is one transaction that adds its row and its text, so whatever was shown is still
//! there after a crash. Several processes may use one file (write-ahead log, waiting for locks).

use crate::record::{Finish, RoundRecord, Totals};
use crate::{new_session, now_ms};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row, migrate::MigrateError};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tandem_protocol::SessionId;
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

/// A conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Conversation {
    /// Its row.
    pub id: i64,
    /// Its name.
    pub title: String,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Of its last message.
    pub updated_at: i64,
}

/// How a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being written.
    Streaming,
    /// Complete.
    Done,
    /// Stopped by the user.
    Stopped,
    /// The program ended in the middle.
    Interrupted,
    /// Ended by an error.
    Failed,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Streaming => "streaming",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Self {
        [Self::Streaming, Self::Done, Self::Stopped, Self::Interrupted]
            .into_iter()
            .find(|s| s.as_str() == text)
            .unwrap_or(Self::Failed)
    }
}

/// An answer's figures, as they are shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Who wrote it: `dssd`, `edge`, `device` or `mixed`.
    pub mode: String,
    /// Tokens.
    pub tokens: u64,
    /// Rounds.
    pub rounds: u64,
    /// Drafted tokens whose acceptance was tested.
    pub drafted: u64,
    /// Accepted ones among them.
    pub accepted: u64,
    /// Time to the first token.
    pub ttft_ms: Option<f64>,
    /// Speed after the first round.
    pub tokens_per_s: Option<f64>,
    /// Payload sent.
    pub uplink_bytes: u64,
    /// Payload received.
    pub downlink_bytes: u64,
    /// Why it ended: `stop`, `length`, `cancelled`.
    pub finish: Option<String>,
}

impl Stats {
    /// The figures of an answer that is being written.
    #[must_use]
    pub fn of(totals: &Totals, finish: Option<Finish>) -> Option<Self> {
        Some(Self {
            mode: totals.mode()?.to_owned(),
            tokens: totals.tokens,
            rounds: totals.rounds,
            drafted: totals.drafted - totals.ignored,
            accepted: totals.accepted,
            ttft_ms: totals.ttft_ms,
            tokens_per_s: totals.tokens_per_s,
            uplink_bytes: totals.uplink_bytes,
            downlink_bytes: totals.downlink_bytes,
            finish: finish.map(|f| f.as_str().to_owned()),
        })
    }
}

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Its row.
    pub id: i64,
    /// Whose.
    pub conversation_id: i64,
    /// `user` or `assistant`.
    pub role: String,
    /// Its text so far.
    pub content: String,
    /// How it is.
    pub status: Status,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// What went wrong and what to do.
    pub error: Option<String>,
    /// Of an answer with at least one round.
    pub stats: Option<Stats>,
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

    /// Marks answers that a crash left in the middle. For the program that owns the conversations,
    /// at its start.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn recover(&self) -> Result<u64, StoreError> {
        let text = "The program ended before this answer was complete. What was received is kept.";
        let done = sqlx::query(
            "UPDATE messages SET status = 'interrupted', error = ? WHERE status = 'streaming'",
        )
        .bind(text)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// All conversations, the last used first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn conversations(&self) -> Result<Vec<Conversation>, StoreError> {
        let rows = sqlx::query("SELECT * FROM conversations ORDER BY updated_at DESC, id DESC")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(conversation).collect()
    }

    /// A new conversation.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn create_conversation(&self, title: &str) -> Result<Conversation, StoreError> {
        let row = sqlx::query(
            "INSERT INTO conversations (title, session, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?3) RETURNING *",
        )
        .bind(clip(title))
        .bind(new_session().0.as_slice())
        .bind(now_ms())
        .fetch_one(&self.pool)
        .await?;
        conversation(&row)
    }

    /// Gives another name.
    ///
    /// # Errors
    /// If there is no such conversation, or the database fails.
    pub async fn rename_conversation(&self, id: i64, title: &str) -> Result<(), StoreError> {
        let done = sqlx::query("UPDATE conversations SET title = ? WHERE id = ?")
            .bind(clip(title))
            .bind(id)
            .execute(&self.pool)
            .await?;
        found(done.rows_affected(), "conversation")
    }

    /// Deletes with all messages and rounds.
    ///
    /// # Errors
    /// If there is no such conversation, or the database fails.
    pub async fn delete_conversation(&self, id: i64) -> Result<(), StoreError> {
        let done = sqlx::query("DELETE FROM conversations WHERE id = ?")
            .bind(id)
            .execute(&self.pool)
            .await?;
        found(done.rows_affected(), "conversation")
    }

    /// The name of a conversation's KV cache.
    ///
    /// # Errors
    /// If there is no such conversation, or the database fails.
    pub async fn session(&self, id: i64) -> Result<SessionId, StoreError> {
        let row = sqlx::query("SELECT session FROM conversations WHERE id = ?")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or(StoreError::Missing("conversation"))?;
        let bytes: Vec<u8> = row.try_get("session")?;
        let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| StoreError::Missing("conversation"))?;
        Ok(SessionId(bytes))
    }

    /// Messages of a conversation, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn messages(&self, conversation: i64) -> Result<Vec<Message>, StoreError> {
        let rows =
            sqlx::query(MESSAGES_OF_CONVERSATION).bind(conversation).fetch_all(&self.pool).await?;
        rows.iter().map(message).collect()
    }

    /// One message.
    ///
    /// # Errors
    /// If there is none, or the database fails.
    pub async fn message(&self, id: i64) -> Result<Message, StoreError> {
        let row = sqlx::query(ONE_MESSAGE).bind(id).fetch_optional(&self.pool).await?;
        message(&row.ok_or(StoreError::Missing("message"))?)
    }

    /// A question, and the still empty answer to it; returns both.
    ///
    /// # Errors
    /// If there is no such conversation, or the database fails.
    pub async fn ask(
        &self,
        conversation: i64,
        text: &str,
    ) -> Result<(Message, Message), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let now = now_ms();
        let touched = sqlx::query("UPDATE conversations SET updated_at = ? WHERE id = ?")
            .bind(now)
            .bind(conversation)
            .execute(&mut *transaction)
            .await?;
        found(touched.rows_affected(), "conversation")?;
        let mut ids = [0; 2];
        for (id, (role, content, status)) in
            ids.iter_mut().zip([("user", text, "done"), ("assistant", "", "streaming")])
        {
            *id = sqlx::query(
                "INSERT INTO messages (conversation, role, content, status, created_at)
                 VALUES (?, ?, ?, ?, ?)",
            )
            .bind(conversation)
            .bind(role)
            .bind(content)
            .bind(status)
            .bind(now)
            .execute(&mut *transaction)
            .await?
            .last_insert_rowid();
        }
        transaction.commit().await?;
        Ok((self.message(ids[0]).await?, self.message(ids[1]).await?))
    }

    /// Adds a round and its text to an answer.
    ///
    /// # Errors
    /// If the message is gone, or the database fails.
    pub async fn add_round(
        &self,
        message: i64,
        r: &RoundRecord,
        text: &str,
        totals: &Totals,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let done = sqlx::query(
            "UPDATE messages SET content = content || ?, tokens = ?, ttft_ms = ?, tokens_per_s = ?
             WHERE id = ?",
        )
        .bind(text)
        .bind(totals.tokens as i64)
        .bind(totals.ttft_ms)
        .bind(totals.tokens_per_s)
        .bind(message)
        .execute(&mut *transaction)
        .await?;
        found(done.rows_affected(), "message")?;
        sqlx::query(
            "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(message)
        .bind(r.round)
        .bind(r.mode)
        .bind(r.scheme)
        .bind(r.gamma)
        .bind(r.drafted)
        .bind(r.accepted)
        .bind(r.ignored)
        .bind(r.outcome)
        .bind(r.draft_ms)
        .bind(r.rtt_ms)
        .bind(r.queue_ms)
        .bind(r.verify_ms)
        .bind(r.residual_ms)
        .bind(r.uplink_bytes as i64)
        .bind(r.downlink_bytes as i64)
        .bind(r.started_at)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Ends an answer.
    ///
    /// # Errors
    /// If the message is gone, or the database fails.
    pub async fn finish(
        &self,
        message: i64,
        status: Status,
        finish: Option<Finish>,
        rest: &str,
        error: Option<&str>,
    ) -> Result<Message, StoreError> {
        let done = sqlx::query(
            "UPDATE messages SET status = ?, finish = ?, content = content || ?, error = ?
             WHERE id = ?",
        )
        .bind(status.as_str())
        .bind(finish.map(Finish::as_str))
        .bind(rest)
        .bind(error)
        .bind(message)
        .execute(&self.pool)
        .await?;
        found(done.rows_affected(), "message")?;
        self.message(message).await
    }

    /// A setting's value.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn setting(&self, key: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT value FROM settings WHERE key = ?")
            .bind(key)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|r| r.try_get("value")).transpose()?)
    }

    /// Keeps a setting.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_setting(&self, key: &str, value: &str) -> Result<(), StoreError> {
        sqlx::query("INSERT OR REPLACE INTO settings VALUES (?, ?)")
            .bind(key)
            .bind(value)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

macro_rules! messages_where {
    ($condition:literal) => {
        concat!(
            "SELECT m.*, count(r.round) AS rounds, ",
            "coalesce(sum(r.drafted - r.ignored), 0) AS drafted, ",
            "coalesce(sum(r.accepted), 0) AS accepted, ",
            "coalesce(sum(r.uplink_bytes), 0) AS uplink_bytes, ",
            "coalesce(sum(r.downlink_bytes), 0) AS downlink_bytes, ",
            "CASE WHEN min(r.mode) = max(r.mode) THEN min(r.mode) ELSE 'mixed' END AS mode ",
            "FROM messages m LEFT JOIN rounds r ON r.message = m.id WHERE ",
            $condition,
            " GROUP BY m.id ORDER BY m.id"
        )
    };
}
const MESSAGES_OF_CONVERSATION: &str = messages_where!("m.conversation = ?");
const ONE_MESSAGE: &str = messages_where!("m.id = ?");

/// Characters of a title at most.
const TITLE: usize = 200;

fn clip(title: &str) -> String {
    title.chars().take(TITLE).collect()
}

fn found(rows: u64, what: &'static str) -> Result<(), StoreError> {
    if rows == 0 { Err(StoreError::Missing(what)) } else { Ok(()) }
}

fn conversation(row: &SqliteRow) -> Result<Conversation, StoreError> {
    Ok(Conversation {
        id: row.try_get("id")?,
        title: row.try_get("title")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

fn message(row: &SqliteRow) -> Result<Message, StoreError> {
    let count = |name: &str| row.try_get::<i64, _>(name).map(|n| n.max(0) as u64);
    let rounds = count("rounds")?;
    let stats = if rounds == 0 {
        None
    } else {
        Some(Stats {
            mode: row.try_get("mode")?,
            tokens: count("tokens")?,
            rounds,
            drafted: count("drafted")?,
            accepted: count("accepted")?,
            ttft_ms: row.try_get("ttft_ms")?,
            tokens_per_s: row.try_get("tokens_per_s")?,
            uplink_bytes: count("uplink_bytes")?,
            downlink_bytes: count("downlink_bytes")?,
            finish: row.try_get("finish")?,
        })
    };
    Ok(Message {
        id: row.try_get("id")?,
        conversation_id: row.try_get("conversation")?,
        role: row.try_get("role")?,
        content: row.try_get("content")?,
        status: Status::parse(row.try_get("status")?),
        created_at: row.try_get("created_at")?,
        error: row.try_get("error")?,
        stats,
    })
}
