//! Conversations from files, in one transaction. What is here already is not added again.

use super::conversations::{clip, preset_text};
use super::rounds::{insert_tokens, pair_id};
use super::transfer::{ImportError, Saved, SavedConversation, SavedMessage, SavedRound};
use super::{Store, StoreError};
use crate::record::{Pair, Writer};
use crate::{new_session, now_ms};
use serde::Serialize;
use sqlx::{Row, Sqlite, Transaction};

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Rows of the new conversations.
    pub added: Vec<i64>,
    /// How many were here already, with all their messages.
    pub known: usize,
}

impl Store {
    /// Adds the conversations of a file that are not here yet as new ones, or none of them.
    ///
    /// # Errors
    /// If something in it makes no sense, or the database fails.
    pub async fn import(&self, saved: &Saved) -> Result<Imported, ImportError> {
        saved.check()?;
        let mut transaction =
            self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(StoreError::from)?;
        // Two of one file are not taken for each other, and each that is here stands for one.
        let mut used = Vec::new();
        let mut imported = Imported::default();
        for conversation in &saved.conversations {
            match known(&mut transaction, conversation, &used).await? {
                Some(row) => {
                    used.push(row);
                    imported.known += 1;
                }
                None => {
                    let row = insert(&mut transaction, conversation).await?;
                    used.push(row);
                    imported.added.push(row);
                }
            }
        }
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(imported)
    }
}

fn title(c: &SavedConversation) -> String {
    let title = c.title.trim();
    clip(if title.is_empty() { "–" } else { title })
}

/// The conversation that `c` is, perhaps continued since: one of the same time, or of the same name where
/// the file knows no time, whose first messages are all of it.
async fn known(
    transaction: &mut Transaction<'_, Sqlite>,
    c: &SavedConversation,
    used: &[i64],
) -> Result<Option<i64>, StoreError> {
    let same = if c.undated { "title = ?1" } else { "created_at = ?2" };
    let sql = format!(
        "SELECT id FROM conversations WHERE {same} AND deleted_at IS NULL AND ?1 = ?1 AND ?2 = ?2"
    );
    let rows: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(title(c))
        .bind(c.created_at)
        .fetch_all(&mut **transaction)
        .await?;
    for row in rows.into_iter().filter(|row| !used.contains(row)) {
        let messages = sqlx::query(
            "SELECT id, parent, role, content FROM messages WHERE conversation = ? ORDER BY id LIMIT ?",
        )
        .bind(row)
        .bind(i64::try_from(c.messages.len()).unwrap_or(i64::MAX))
        .fetch_all(&mut **transaction)
        .await?;
        let ids: Vec<i64> = messages.iter().map(|m| m.try_get("id")).collect::<Result<_, _>>()?;
        let mut same = messages.len() == c.messages.len();
        for (here, there) in messages.iter().zip(&c.messages) {
            let parent: Option<i64> = here.try_get("parent")?;
            same &= parent == there.parent.map(|p| ids[p])
                && here.try_get::<&str, _>("role")? == there.role
                && here.try_get::<&str, _>("content")? == there.content;
        }
        if same {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

async fn insert(
    transaction: &mut Transaction<'_, Sqlite>,
    c: &SavedConversation,
) -> Result<i64, StoreError> {
    let conversation = sqlx::query(
        "INSERT INTO conversations (title, auto_title, pinned, system_prompt, sampling, session,
             created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(title(c))
    .bind(c.auto_title)
    .bind(c.pinned)
    .bind(&c.system_prompt)
    .bind(c.sampling.as_ref().map(preset_text))
    .bind(new_session().0.as_slice())
    .bind(c.created_at)
    // One from the future would stay on top of the list.
    .bind(c.updated_at.min(now_ms()))
    .execute(&mut **transaction)
    .await?
    .last_insert_rowid();
    let mut pairs = Vec::with_capacity(c.pairs.len());
    for pair in &c.pairs {
        pairs.push(pair_id(transaction, pair).await?);
    }
    let pair_row = |r: &SavedRound| r.pair.map_or(NOT_KNOWN, |pair| pairs[pair]);
    let mut ids: Vec<i64> = Vec::with_capacity(c.messages.len());
    for m in &c.messages {
        let parent = m.parent.map(|p| ids[p]);
        let pair = pair_of(m, &c.pairs).map(pair_row);
        let id = insert_message(transaction, conversation, parent, m, pair).await?;
        ids.push(id);
        for r in &m.rounds {
            insert_round(transaction, id, pair_row(r), r).await?;
        }
    }
    for (id, m) in ids.iter().zip(&c.messages) {
        if let Some(child) = m.active_child {
            sqlx::query("UPDATE messages SET active_child = ? WHERE id = ?")
                .bind(ids[child])
                .bind(id)
                .execute(&mut **transaction)
                .await?;
        }
    }
    sqlx::query("UPDATE conversations SET active_root = ? WHERE id = ?")
        .bind(c.active_root.map(|root| ids[root]))
        .bind(conversation)
        .execute(&mut **transaction)
        .await?;
    Ok(conversation)
}

/// The row of the pair of which nothing is known.
const NOT_KNOWN: i64 = 1;

/// The round whose pair is the answer's, as `add_round` would have chosen it: the last with a box, or the
/// first.
fn pair_of<'a>(m: &'a SavedMessage, pairs: &[Pair]) -> Option<&'a SavedRound> {
    let with_box = |r: &&SavedRound| r.pair.is_some_and(|pair| !pairs[pair].edge.is_empty());
    m.rounds.iter().rfind(with_box).or(m.rounds.first())
}

async fn insert_message(
    transaction: &mut Transaction<'_, Sqlite>,
    conversation: i64,
    parent: Option<i64>,
    m: &SavedMessage,
    pair: Option<i64>,
) -> Result<i64, StoreError> {
    let writer = m.rounds.iter().map(|r| Writer::parse(&r.mode)).reduce(Writer::with);
    let gamma = m.rounds.first().map(|r| r.gamma);
    let gamma = gamma.filter(|gamma| m.rounds.iter().all(|r| r.gamma == *gamma));
    let id = sqlx::query(
        "INSERT INTO messages (conversation, parent, role, content, status, error, finish,
             tokens, ttft_ms, tokens_per_s, created_at, writer, gamma, pair)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(conversation)
    .bind(parent)
    .bind(&m.role)
    .bind(&m.content)
    .bind(&m.status)
    .bind(&m.error)
    .bind(&m.finish)
    .bind(m.tokens)
    .bind(m.ttft_ms)
    .bind(m.tokens_per_s)
    .bind(m.created_at)
    .bind(writer.map(Writer::as_str))
    .bind(gamma)
    .bind(pair)
    .execute(&mut **transaction)
    .await?
    .last_insert_rowid();
    Ok(id)
}

async fn insert_round(
    transaction: &mut Transaction<'_, Sqlite>,
    message: i64,
    pair: i64,
    r: &SavedRound,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO rounds (message, round, mode, scheme, gamma, drafted, accepted, ignored,
             outcome, draft_ms, rtt_ms, queue_ms, verify_ms, residual_ms, uplink_bytes,
             downlink_bytes, started_at, alternatives, followed, pair, decision)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(message)
    .bind(r.round)
    .bind(&r.mode)
    .bind(&r.scheme)
    .bind(r.gamma)
    .bind(r.drafted)
    .bind(r.accepted)
    .bind(r.ignored)
    .bind(&r.outcome)
    .bind(r.draft_ms)
    .bind(r.rtt_ms)
    .bind(r.queue_ms)
    .bind(r.verify_ms)
    .bind(r.residual_ms)
    .bind(r.uplink_bytes.cast_signed())
    .bind(r.downlink_bytes.cast_signed())
    .bind(r.started_at)
    .bind(r.alternatives)
    .bind(r.followed)
    .bind(pair)
    .bind(&r.decision)
    .execute(&mut **transaction)
    .await?;
    if !r.ids.is_empty() {
        insert_tokens(transaction, message, r.round, &r.ids, &r.pieces).await?;
    }
    Ok(())
}
