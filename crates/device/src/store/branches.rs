//! The tree of messages: new ones at any place, and which branch is active.

use super::messages::{message, messages_where};
use super::{Message, Store, StoreError, found};
use crate::now_ms;
use sqlx::{Row, Sqlite, Transaction};

const ANCESTORS: &str = messages_where!(
    "m.id IN (
        WITH RECURSIVE path (id, parent) AS (
            SELECT id, parent FROM messages WHERE id = ?
            UNION ALL
            SELECT m.id, m.parent FROM path p JOIN messages m ON m.id = p.parent
        ) SELECT id FROM path)"
);

impl Store {
    /// A question at the end of the active branch, and the still empty answer to it.
    ///
    /// # Errors
    /// If there is no such conversation, or the database fails.
    pub async fn ask(
        &self,
        conversation: i64,
        text: &str,
    ) -> Result<(Message, Message), StoreError> {
        let end = self.messages(conversation).await?.last().map(|m| m.id);
        self.ask_after(conversation, end, text).await
    }

    /// A question after `parent`, or as another beginning; it and its still empty answer become
    /// the active branch.
    ///
    /// # Errors
    /// If conversation or parent do not exist, or the database fails.
    pub async fn ask_after(
        &self,
        conversation: i64,
        parent: Option<i64>,
        text: &str,
    ) -> Result<(Message, Message), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        touch(&mut transaction, conversation).await?;
        let question = add(&mut transaction, conversation, parent, "user", text, "done").await?;
        let answer =
            add(&mut transaction, conversation, Some(question), "assistant", "", "streaming")
                .await?;
        transaction.commit().await?;
        Ok((self.message(question).await?, self.message(answer).await?))
    }

    /// One more, still empty answer beside `answer`. An answer that failed before its first word
    /// makes room for it.
    ///
    /// # Errors
    /// If there is no such answer, or the database fails.
    pub async fn answer_again(&self, answer: i64) -> Result<Message, StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let row = sqlx::query(
            "SELECT conversation, parent FROM messages WHERE id = ? AND role = 'assistant'",
        )
        .bind(answer)
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or(StoreError::Missing("answer"))?;
        let (conversation, parent) = (row.try_get("conversation")?, row.try_get("parent")?);
        touch(&mut transaction, conversation).await?;
        let new = add(&mut transaction, conversation, parent, "assistant", "", "streaming").await?;
        sqlx::query(
            "DELETE FROM messages WHERE id = ?1 AND content = '' AND status = 'failed'
             AND NOT EXISTS (SELECT 1 FROM messages WHERE parent = ?1)",
        )
        .bind(answer)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        self.message(new).await
    }

    /// Takes up an answer that ended early, to be written on behind `text`, which is what of it goes on.
    ///
    /// # Errors
    /// If it is complete, or does not exist, or the database fails.
    pub async fn resume(&self, answer: i64, text: &str) -> Result<Message, StoreError> {
        let done = sqlx::query(
            "UPDATE messages SET status = 'streaming', error = NULL, finish = NULL, content = ?
             WHERE id = ? AND role = 'assistant'
             AND (status IN ('stopped', 'interrupted', 'failed') OR finish = 'length')",
        )
        .bind(text)
        .bind(answer)
        .execute(&self.pool)
        .await?;
        found(done.rows_affected(), "unfinished answer")?;
        self.message(answer).await
    }

    /// Makes the branch with this message the active one.
    ///
    /// # Errors
    /// If there is no such message, or the database fails.
    pub async fn choose(&self, message: i64) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let path = sqlx::query(ANCESTORS).bind(message).fetch_all(&mut *transaction).await?;
        if path.is_empty() {
            return Err(StoreError::Missing("message"));
        }
        for row in path {
            let (conversation, parent) = (row.try_get("conversation")?, row.try_get("parent")?);
            activate(&mut transaction, conversation, parent, row.try_get("id")?).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// A message and all that it follows, oldest first. Their `siblings` are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn path_to(&self, id: i64) -> Result<Vec<Message>, StoreError> {
        let rows = sqlx::query(ANCESTORS).bind(id).fetch_all(&self.pool).await?;
        rows.iter().map(message).collect()
    }
}

async fn touch(
    transaction: &mut Transaction<'_, Sqlite>,
    conversation: i64,
) -> Result<(), StoreError> {
    let touched =
        sqlx::query("UPDATE conversations SET updated_at = ? WHERE id = ? AND deleted_at IS NULL")
            .bind(now_ms())
            .bind(conversation)
            .execute(&mut **transaction)
            .await?;
    found(touched.rows_affected(), "conversation")
}

async fn activate(
    transaction: &mut Transaction<'_, Sqlite>,
    conversation: i64,
    parent: Option<i64>,
    child: i64,
) -> Result<(), StoreError> {
    let (query, of) = match parent {
        Some(parent) => ("UPDATE messages SET active_child = ? WHERE id = ?", parent),
        None => ("UPDATE conversations SET active_root = ? WHERE id = ?", conversation),
    };
    sqlx::query(query).bind(child).bind(of).execute(&mut **transaction).await?;
    Ok(())
}

async fn add(
    transaction: &mut Transaction<'_, Sqlite>,
    conversation: i64,
    parent: Option<i64>,
    role: &str,
    content: &str,
    status: &str,
) -> Result<i64, StoreError> {
    if let Some(parent) = parent {
        let there: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM messages WHERE id = ? AND conversation = ?")
                .bind(parent)
                .bind(conversation)
                .fetch_optional(&mut **transaction)
                .await?;
        there.ok_or(StoreError::Missing("message"))?;
    }
    let id = sqlx::query(
        "INSERT INTO messages (conversation, parent, role, content, status, created_at)
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(conversation)
    .bind(parent)
    .bind(role)
    .bind(content)
    .bind(status)
    .bind(now_ms())
    .execute(&mut **transaction)
    .await?
    .last_insert_rowid();
    activate(transaction, conversation, parent, id).await?;
    Ok(id)
}
