//! Conversations as files: JSON with the whole tree and all rounds, and back.
//!
//! A file to import is hostile: its size, its tree and each value are checked before anything is
//! written, and all of it is written in one transaction.

use super::conversations::{clip, preset_text};
use super::rounds::{insert_tokens, tokens};
use super::{Change, Preset, Store, StoreError};
use crate::{new_session, now_ms};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};
use tandem_speculation::TokenId;
use thiserror::Error;

/// Bytes of a file at most.
pub const FILE_LIMIT: u64 = 128 << 20;
/// Bytes of a message at most.
pub const MESSAGE_LIMIT: usize = 4 << 20;
const FORMAT: &str = "tandem-conversations";
const VERSION: u32 = 1;

/// Why a file cannot be imported. Nothing of it was.
#[derive(Debug, Error)]
pub enum ImportError {
    /// Too large to be one of ours.
    #[error("the file is larger than 128 MiB; nothing was imported")]
    TooLarge,
    /// Not what it should be.
    #[error("the file cannot be read: {0}; nothing was imported")]
    Unreadable(String),
    /// Another kind of JSON.
    #[error("this is no file of conversations from Tandem; nothing was imported")]
    Foreign,
    /// Newer than this program.
    #[error("the file is of version {0}, from a newer Tandem; update this program")]
    Newer(u32),
    /// A value that makes no sense.
    #[error("conversation {0} in the file is damaged: {1}; nothing was imported")]
    Damaged(usize, String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A file of conversations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    format: String,
    version: u32,
    /// What it holds.
    pub conversations: Vec<SavedConversation>,
}

/// A conversation in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedConversation {
    /// Its name.
    pub title: String,
    #[serde(default)]
    pub(super) auto_title: bool,
    #[serde(default)]
    pub(super) pinned: bool,
    #[serde(default)]
    pub(super) system_prompt: Option<String>,
    #[serde(default)]
    pub(super) sampling: Option<Preset>,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
    /// Place of the active first message in `messages`.
    #[serde(default)]
    pub(super) active_root: Option<usize>,
    /// All branches; a parent comes before its children.
    pub messages: Vec<SavedMessage>,
}

/// A message in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedMessage {
    #[serde(default)]
    pub(super) parent: Option<usize>,
    #[serde(default)]
    pub(super) active_child: Option<usize>,
    /// `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
    pub(super) status: String,
    #[serde(default)]
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) finish: Option<String>,
    #[serde(default)]
    pub(super) tokens: i64,
    #[serde(default)]
    pub(super) ttft_ms: Option<f64>,
    #[serde(default)]
    pub(super) tokens_per_s: Option<f64>,
    pub(super) created_at: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) rounds: Vec<SavedRound>,
}

/// A round in a file: the columns of `rounds`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedRound {
    round: u32,
    mode: String,
    scheme: String,
    gamma: u32,
    drafted: u32,
    accepted: u32,
    ignored: u32,
    #[serde(default)]
    alternatives: u32,
    #[serde(default)]
    followed: u32,
    outcome: String,
    draft_ms: f64,
    rtt_ms: f64,
    queue_ms: f64,
    verify_ms: f64,
    residual_ms: f64,
    uplink_bytes: u32,
    downlink_bytes: u32,
    started_at: i64,
    /// Its tokens' ids, and the text that each completed. Without them, who made which token is not
    /// known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ids: Vec<TokenId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pieces: Vec<String>,
}

impl Saved {
    pub(super) fn of(conversations: Vec<SavedConversation>) -> Self {
        Self { format: FORMAT.into(), version: VERSION, conversations }
    }

    /// Reads and checks a file's bytes.
    ///
    /// # Errors
    /// If they are not a file that [`Store::export`] could have written.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ImportError> {
        /// First of all, whose file it is.
        #[derive(Deserialize)]
        struct Head {
            format: Option<String>,
            version: Option<u32>,
        }
        if bytes.len() as u64 > FILE_LIMIT {
            return Err(ImportError::TooLarge);
        }
        let unreadable = |e: serde_json::Error| {
            ImportError::Unreadable(match e.classify() {
                Category::Eof => "it ends too early".into(),
                Category::Syntax | Category::Io => format!("it is no JSON in line {}", e.line()),
                Category::Data => format!("line {} is not as Tandem writes it", e.line()),
            })
        };
        let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
        match (head.format.as_deref(), head.version) {
            (Some(FORMAT), Some(1..=VERSION)) => {}
            (Some(FORMAT), Some(version)) => return Err(ImportError::Newer(version)),
            _ => return Err(ImportError::Foreign),
        }
        let saved: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        saved.check()?;
        Ok(saved)
    }

    pub(super) fn check(&self) -> Result<(), ImportError> {
        for (i, conversation) in self.conversations.iter().enumerate() {
            conversation.problem().map_or(Ok(()), |p| Err(ImportError::Damaged(i + 1, p)))?;
        }
        Ok(())
    }
}

impl SavedConversation {
    /// What is wrong with it, for people.
    fn problem(&self) -> Option<String> {
        let change = Change {
            system_prompt: Some(self.system_prompt.clone()),
            sampling: Some(self.sampling),
            ..Change::default()
        };
        if let Some(problem) = change.problem() {
            return Some(problem);
        }
        let parent = |i: usize| self.messages.get(i).map(|m| m.parent);
        if self.active_root.is_some_and(|root| parent(root) != Some(None)) {
            return Some("its active branch begins nowhere".into());
        }
        let shape = self.messages.iter().enumerate().find_map(|(i, m)| {
            let n = i + 1;
            let expected = match m.parent {
                None => "user",
                Some(parent) if parent >= i => {
                    return Some(format!("message {n} follows one that is not before it"));
                }
                Some(parent) if self.messages[parent].role == "user" => "assistant",
                Some(_) => "user",
            };
            (m.role != expected).then(|| format!("message {n} should be the {expected}'s"))
        });
        shape.or_else(|| {
            self.messages.iter().enumerate().find_map(|(i, m)| {
                let n = i + 1;
                if m.active_child.is_some_and(|child| parent(child) != Some(Some(i))) {
                    return Some(format!("the branch after message {n} does not exist"));
                }
                m.problem().map(|problem| format!("message {n} {problem}"))
            })
        })
    }
}

impl SavedMessage {
    fn problem(&self) -> Option<&'static str> {
        let number = |n: Option<f64>| n.is_none_or(|n| n.is_finite() && n >= 0.0);
        let finish = self.finish.as_deref();
        if self.content.len() > MESSAGE_LIMIT {
            Some("is too long")
        } else if !["done", "stopped", "interrupted", "failed"].contains(&self.status.as_str()) {
            Some("has a status that does not exist")
        } else if !matches!(finish, None | Some("stop" | "length" | "cancelled")) {
            Some("ends in a way that does not exist")
        } else if !(0..=1 << 32).contains(&self.tokens)
            || !number(self.ttft_ms)
            || !number(self.tokens_per_s)
        {
            Some("has impossible figures")
        } else if self.role == "user" && !self.rounds.is_empty() {
            Some("has rounds, and is a question")
        } else if !self.rounds.iter().enumerate().all(|(i, r)| r.makes_sense(i)) {
            Some("has an impossible round")
        } else {
            None
        }
    }
}

impl SavedRound {
    fn makes_sense(&self, at: usize) -> bool {
        let word =
            |w: &str| (1..=16).contains(&w.len()) && w.bytes().all(|b| b.is_ascii_lowercase());
        let time = |ms: f64| (0.0..1e9).contains(&ms);
        self.round as usize == at
            && word(&self.mode)
            && word(&self.scheme)
            && word(&self.outcome)
            && u64::from(self.accepted) + u64::from(self.ignored) <= u64::from(self.drafted)
            && self.drafted <= 1024
            && self.gamma <= 1024
            && self.ids.len() == self.pieces.len()
            && self.alternatives <= self.drafted
            && self.followed <= self.alternatives.min(1)
            && self.ids.len() <= (self.accepted + 1 + self.followed) as usize
            && [self.draft_ms, self.rtt_ms, self.queue_ms, self.verify_ms, self.residual_ms]
                .into_iter()
                .all(time)
    }
}

impl Store {
    /// Conversations as a file holds them; all of them if none is named. An answer that is being
    /// written is taken as interrupted.
    ///
    /// # Errors
    /// If one does not exist, or the database fails.
    pub async fn export(&self, only: Option<i64>) -> Result<Saved, StoreError> {
        let list = match only {
            Some(id) => vec![self.conversation(id).await?],
            None => self.conversations().await?,
        };
        let mut conversations = Vec::with_capacity(list.len());
        for c in list {
            let rows = sqlx::query("SELECT * FROM messages WHERE conversation = ? ORDER BY id")
                .bind(c.id)
                .fetch_all(&self.pool)
                .await?;
            let ids: Vec<i64> = rows.iter().map(|r| r.try_get("id")).collect::<Result<_, _>>()?;
            let place = |id: Option<i64>| id.and_then(|id| ids.binary_search(&id).ok());
            let mut messages = Vec::with_capacity(rows.len());
            for row in &rows {
                let mut message = saved_message(row, place)?;
                let rounds = self.rounds(row.try_get("id")?).await?;
                message.rounds = rounds.iter().map(saved_round).collect::<Result<_, _>>()?;
                messages.push(message);
            }
            let root: Option<i64> =
                sqlx::query_scalar("SELECT active_root FROM conversations WHERE id = ?")
                    .bind(c.id)
                    .fetch_one(&self.pool)
                    .await?;
            conversations.push(SavedConversation {
                title: c.title,
                auto_title: c.auto_title,
                pinned: c.pinned,
                system_prompt: c.system_prompt,
                sampling: c.sampling,
                created_at: c.created_at,
                updated_at: c.updated_at,
                active_root: place(root),
                messages,
            });
        }
        Ok(Saved::of(conversations))
    }

    /// Adds all conversations of a file as new ones, or none of them; returns their rows.
    ///
    /// # Errors
    /// If something in it makes no sense, or the database fails.
    pub async fn import(&self, saved: &Saved) -> Result<Vec<i64>, ImportError> {
        saved.check()?;
        let mut transaction =
            self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(StoreError::from)?;
        let mut rows = Vec::with_capacity(saved.conversations.len());
        for conversation in &saved.conversations {
            rows.push(insert(&mut transaction, conversation).await?);
        }
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(rows)
    }
}

fn saved_message(
    row: &SqliteRow,
    place: impl Fn(Option<i64>) -> Option<usize>,
) -> Result<SavedMessage, StoreError> {
    let status: String = row.try_get("status")?;
    Ok(SavedMessage {
        parent: place(row.try_get("parent")?),
        active_child: place(row.try_get("active_child")?),
        role: row.try_get("role")?,
        content: row.try_get("content")?,
        status: if status == "streaming" { "interrupted".into() } else { status },
        error: row.try_get("error")?,
        finish: row.try_get("finish")?,
        tokens: row.try_get("tokens")?,
        ttft_ms: row.try_get("ttft_ms")?,
        tokens_per_s: row.try_get("tokens_per_s")?,
        created_at: row.try_get("created_at")?,
        rounds: Vec::new(),
    })
}

fn saved_round(row: &SqliteRow) -> Result<SavedRound, StoreError> {
    let (ids, pieces) = tokens(row)?;
    Ok(SavedRound {
        ids,
        pieces,
        round: row.try_get("round")?,
        mode: row.try_get("mode")?,
        scheme: row.try_get("scheme")?,
        gamma: row.try_get("gamma")?,
        drafted: row.try_get("drafted")?,
        accepted: row.try_get("accepted")?,
        ignored: row.try_get("ignored")?,
        alternatives: row.try_get("alternatives")?,
        followed: row.try_get("followed")?,
        outcome: row.try_get("outcome")?,
        draft_ms: row.try_get("draft_ms")?,
        rtt_ms: row.try_get("rtt_ms")?,
        queue_ms: row.try_get("queue_ms")?,
        verify_ms: row.try_get("verify_ms")?,
        residual_ms: row.try_get("residual_ms")?,
        uplink_bytes: row.try_get("uplink_bytes")?,
        downlink_bytes: row.try_get("downlink_bytes")?,
        started_at: row.try_get("started_at")?,
    })
}

async fn insert(
    transaction: &mut Transaction<'_, Sqlite>,
    c: &SavedConversation,
) -> Result<i64, StoreError> {
    let title = if c.title.trim().is_empty() { "–" } else { c.title.trim() };
    let conversation = sqlx::query(
        "INSERT INTO conversations (title, auto_title, pinned, system_prompt, sampling, session,
             created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(clip(title))
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
    let mut ids: Vec<i64> = Vec::with_capacity(c.messages.len());
    for m in &c.messages {
        let id = sqlx::query(
            "INSERT INTO messages (conversation, parent, role, content, status, error, finish,
                 tokens, ttft_ms, tokens_per_s, created_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(conversation)
        .bind(m.parent.map(|p| ids[p]))
        .bind(&m.role)
        .bind(&m.content)
        .bind(&m.status)
        .bind(&m.error)
        .bind(&m.finish)
        .bind(m.tokens)
        .bind(m.ttft_ms)
        .bind(m.tokens_per_s)
        .bind(m.created_at)
        .execute(&mut **transaction)
        .await?
        .last_insert_rowid();
        ids.push(id);
        for r in &m.rounds {
            insert_round(transaction, id, r).await?;
        }
        if !m.rounds.is_empty() {
            // As `add_round` would have left them; who took part is not known here.
            sqlx::query(
                "UPDATE messages SET pair = 1, writer = (
                     SELECT CASE WHEN min(mode) = max(mode) THEN min(mode) ELSE 'mixed' END
                     FROM rounds WHERE message = ?1
                 ), gamma = (
                     SELECT CASE WHEN min(gamma) = max(gamma) THEN min(gamma) END
                     FROM rounds WHERE message = ?1
                 ) WHERE id = ?1",
            )
            .bind(id)
            .execute(&mut **transaction)
            .await?;
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

async fn insert_round(
    transaction: &mut Transaction<'_, Sqlite>,
    message: i64,
    r: &SavedRound,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO rounds (message, round, mode, scheme, gamma, drafted, accepted, ignored,
             outcome, draft_ms, rtt_ms, queue_ms, verify_ms, residual_ms, uplink_bytes,
             downlink_bytes, started_at, alternatives, followed)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
    .bind(r.uplink_bytes)
    .bind(r.downlink_bytes)
    .bind(r.started_at)
    .bind(r.alternatives)
    .bind(r.followed)
    .execute(&mut **transaction)
    .await?;
    if !r.ids.is_empty() {
        insert_tokens(transaction, message, r.round, &r.ids, &r.pieces).await?;
    }
    Ok(())
}
