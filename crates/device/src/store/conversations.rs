//! Conversations: names, choices, deletion with a way back.

use super::values::time;
use super::{Preset, Store, StoreError, found};
use crate::{new_session, now_ms};
use serde::{Deserialize, Deserializer, Serialize};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use tandem_protocol::SessionId;

/// A conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Conversation {
    /// Its row.
    pub id: i64,
    /// Its name.
    pub title: String,
    /// Whether the program chose the name.
    pub auto_title: bool,
    /// Whether it stays on top of the list.
    pub pinned: bool,
    /// What the models are told first; none for the settings'.
    pub system_prompt: Option<String>,
    /// How answers are drawn; none for the settings'.
    pub sampling: Option<Preset>,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Of its last message.
    pub updated_at: i64,
}

/// What to change in a conversation; what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Change {
    /// A name of the person's own.
    pub title: Option<String>,
    /// Whether it stays on top.
    pub pinned: Option<bool>,
    /// Inner none: the settings'.
    #[serde(deserialize_with = "given")]
    pub system_prompt: Option<Option<String>>,
    /// Inner none: the settings'.
    #[serde(deserialize_with = "given")]
    pub sampling: Option<Option<Preset>>,
}

/// A value that is there, be it null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    input: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(input).map(Some)
}

/// Bytes of a system prompt at most.
const SYSTEM_PROMPT: usize = 64 << 10;

impl Change {
    /// What is wrong with it, for people.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if self.title.as_ref().is_some_and(|t| t.trim().is_empty()) {
            return Some("a conversation needs a title".into());
        }
        if self.system_prompt.iter().flatten().any(|p| p.len() > SYSTEM_PROMPT) {
            return Some("the system prompt is longer than 64 KiB".into());
        }
        let preset = self.sampling.iter().flatten().next()?;
        preset.sampling().validate().err().map(|e| e.to_string())
    }
}

impl Store {
    /// All conversations, the last used first; deleted ones are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn conversations(&self) -> Result<Vec<Conversation>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM conversations WHERE deleted_at IS NULL
             ORDER BY updated_at DESC, id DESC",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(conversation).collect()
    }

    /// One conversation.
    ///
    /// # Errors
    /// If there is none, or the database fails.
    pub async fn conversation(&self, id: i64) -> Result<Conversation, StoreError> {
        let row = sqlx::query("SELECT * FROM conversations WHERE id = ? AND deleted_at IS NULL")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        conversation(&row.ok_or(StoreError::Missing("conversation"))?)
    }

    /// A new conversation. Its title is taken as the program's choice: [`Self::change`] gives it a
    /// name for good.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn create_conversation(&self, title: &str) -> Result<Conversation, StoreError> {
        let row = sqlx::query(
            "INSERT INTO conversations (title, auto_title, session, created_at, updated_at)
             VALUES (?1, 1, ?2, ?3, ?3) RETURNING *",
        )
        .bind(clip(title))
        .bind(new_session().0.as_slice())
        .bind(now_ms())
        .fetch_one(&self.pool)
        .await?;
        conversation(&row)
    }

    /// Changes what a person chooses about a conversation.
    ///
    /// # Errors
    /// If the change makes no sense, there is no such conversation, or the database fails.
    pub async fn change(&self, id: i64, change: &Change) -> Result<Conversation, StoreError> {
        if let Some(problem) = change.problem() {
            return Err(StoreError::Settings(problem));
        }
        let sampling = change.sampling.map(|s| s.map(|s| preset_text(&s)));
        let row = sqlx::query(
            "UPDATE conversations SET
                 title = coalesce(?2, title), auto_title = CASE WHEN ?2 IS NULL THEN auto_title ELSE 0 END,
                 pinned = coalesce(?3, pinned),
                 system_prompt = CASE WHEN ?4 THEN ?5 ELSE system_prompt END,
                 sampling = CASE WHEN ?6 THEN ?7 ELSE sampling END
             WHERE id = ?1 AND deleted_at IS NULL RETURNING *",
        )
        .bind(id)
        .bind(change.title.as_deref().map(|t| clip(t.trim())))
        .bind(change.pinned)
        .bind(change.system_prompt.is_some())
        .bind(change.system_prompt.as_ref().and_then(Option::as_deref))
        .bind(sampling.is_some())
        .bind(sampling.flatten())
        .fetch_optional(&self.pool)
        .await?;
        conversation(&row.ok_or(StoreError::Missing("conversation"))?)
    }

    /// Takes a conversation out of sight; [`Self::restore_conversation`] brings it back until
    /// [`Self::purge`] has been there.
    ///
    /// # Errors
    /// If there is no such conversation, or the database fails.
    pub async fn delete_conversation(&self, id: i64) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE conversations SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL",
        )
        .bind(now_ms())
        .bind(id)
        .execute(&self.pool)
        .await?;
        found(done.rows_affected(), "conversation")
    }

    /// Undoes a deletion.
    ///
    /// # Errors
    /// If it is too late, or the database fails.
    pub async fn restore_conversation(&self, id: i64) -> Result<Conversation, StoreError> {
        let row =
            sqlx::query("UPDATE conversations SET deleted_at = NULL WHERE id = ? RETURNING *")
                .bind(id)
                .fetch_optional(&self.pool)
                .await?;
        conversation(&row.ok_or(StoreError::Missing("conversation"))?)
    }

    /// Removes for good what was deleted at least `age_ms` milliseconds ago, with all messages and
    /// rounds; returns how many conversations that were.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn purge(&self, age_ms: i64) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM conversations WHERE deleted_at <= ?")
            .bind(now_ms().saturating_sub(age_ms))
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
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

pub(super) fn clip(title: &str) -> String {
    title.chars().take(TITLE).collect()
}

pub(super) fn preset_text(preset: &Preset) -> String {
    // A plain enum of numbers: there is nothing that could fail.
    serde_json::to_string(preset).unwrap_or_default()
}

pub(super) fn conversation(row: &SqliteRow) -> Result<Conversation, StoreError> {
    let sampling: Option<String> = row.try_get("sampling")?;
    Ok(Conversation {
        id: row.try_get("id")?,
        title: row.try_get("title")?,
        auto_title: row.try_get("auto_title")?,
        pinned: row.try_get("pinned")?,
        system_prompt: row.try_get("system_prompt")?,
        // One that is not understood any more counts as none.
        sampling: sampling.and_then(|text| serde_json::from_str(&text).ok()),
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}
