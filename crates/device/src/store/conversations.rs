//! Conversations.

use super::{Store, StoreError, found};
use crate::{new_session, now_ms};
use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use tandem_protocol::SessionId;

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

impl Store {
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
}

/// Characters of a title at most.
const TITLE: usize = 200;

fn clip(title: &str) -> String {
    title.chars().take(TITLE).collect()
}

fn conversation(row: &SqliteRow) -> Result<Conversation, StoreError> {
    Ok(Conversation {
        id: row.try_get("id")?,
        title: row.try_get("title")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}
