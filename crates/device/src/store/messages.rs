//! Questions and answers.

use super::values::{count, figure, time, total};
use super::{Store, StoreError, found};
use crate::record::{Finish, Totals, Writer};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use std::collections::HashMap;

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
    /// Who wrote it.
    pub mode: Writer,
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
            mode: totals.writer()?,
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
    /// The message that it follows.
    pub parent: Option<i64>,
    /// All messages that follow the same one, oldest first, itself included.
    pub siblings: Vec<i64>,
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

impl Store {
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

    /// The messages of a conversation's active branch, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn messages(&self, conversation: i64) -> Result<Vec<Message>, StoreError> {
        let rows = sqlx::query(ACTIVE_MESSAGES).bind(conversation).fetch_all(&self.pool).await?;
        let mut messages = rows.iter().map(message).collect::<Result<Vec<_>, _>>()?;
        let all = sqlx::query("SELECT id, parent FROM messages WHERE conversation = ? ORDER BY id")
            .bind(conversation)
            .fetch_all(&self.pool)
            .await?;
        let mut children: HashMap<Option<i64>, Vec<i64>> = HashMap::new();
        for row in all {
            children.entry(row.try_get("parent")?).or_default().push(row.try_get("id")?);
        }
        for message in &mut messages {
            message.siblings = children.remove(&message.parent).unwrap_or_default();
        }
        Ok(messages)
    }

    /// One message.
    ///
    /// # Errors
    /// If there is none, or the database fails.
    pub async fn message(&self, id: i64) -> Result<Message, StoreError> {
        let row = sqlx::query(ONE_MESSAGE).bind(id).fetch_optional(&self.pool).await?;
        let mut message = message(&row.ok_or(StoreError::Missing("message"))?)?;
        message.siblings = sqlx::query_scalar(
            "SELECT id FROM messages WHERE conversation = ? AND parent IS ? ORDER BY id",
        )
        .bind(message.conversation_id)
        .bind(message.parent)
        .fetch_all(&self.pool)
        .await?;
        Ok(message)
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
}

macro_rules! messages_where {
    ($condition:literal) => {
        concat!(
            "SELECT m.*, count(r.round) AS rounds, ",
            "total(r.drafted - r.ignored) AS drafted, ",
            "total(r.accepted) AS accepted, ",
            "total(r.uplink_bytes) AS uplink_bytes, ",
            "total(r.downlink_bytes) AS downlink_bytes ",
            "FROM messages m LEFT JOIN rounds r ON r.message = m.id WHERE ",
            $condition,
            " GROUP BY m.id ORDER BY m.id"
        )
    };
}
pub(super) use messages_where;

// A child is younger than its parent, so the order of the ids is the order of the path.
const ACTIVE_MESSAGES: &str = messages_where!(
    "m.id IN (
        WITH RECURSIVE path (id, active_child) AS (
            SELECT m.id, m.active_child FROM conversations c
            JOIN messages m ON m.id = c.active_root AND m.conversation = c.id AND m.parent IS NULL
            WHERE c.id = ?
            UNION ALL
            SELECT m.id, m.active_child FROM path p
            JOIN messages m ON m.id = p.active_child AND m.parent = p.id
        ) SELECT id FROM path)"
);
const ONE_MESSAGE: &str = messages_where!("m.id = ?");

pub(super) fn message(row: &SqliteRow) -> Result<Message, StoreError> {
    let rounds = count(row, "rounds")?;
    let stats = if rounds == 0 {
        None
    } else {
        Some(Stats {
            mode: Writer::parse(row.try_get::<Option<&str>, _>("writer")?.unwrap_or_default()),
            tokens: count(row, "tokens")?,
            rounds,
            drafted: total(row, "drafted")?,
            accepted: total(row, "accepted")?,
            ttft_ms: figure(row, "ttft_ms")?,
            tokens_per_s: figure(row, "tokens_per_s")?,
            uplink_bytes: total(row, "uplink_bytes")?,
            downlink_bytes: total(row, "downlink_bytes")?,
            finish: row.try_get("finish")?,
        })
    };
    Ok(Message {
        id: row.try_get("id")?,
        conversation_id: row.try_get("conversation")?,
        parent: row.try_get("parent")?,
        siblings: Vec::new(),
        role: row.try_get("role")?,
        content: row.try_get("content")?,
        status: Status::parse(row.try_get("status")?),
        created_at: time(row, "created_at")?,
        error: row.try_get("error")?,
        stats,
    })
}
