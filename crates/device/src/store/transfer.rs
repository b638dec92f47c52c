//! Conversations as files: JSON with the whole tree and all rounds, and back (`import.rs`).
//!
//! A file to import is hostile: its size, its tree and each value are checked before anything is
//! written.

use super::rounds::tokens;
use super::values::{LATEST, count, figure, ms, pair, small, time};
use super::{Change, Preset, Store, StoreError};
use crate::record::Pair;
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
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
    #[error(
        "this is no file of conversations, or a part of it is missing or was changed; choose one that \
         Tandem exported. Nothing was imported ({0})"
    )]
    Unreadable(String),
    /// Another kind of JSON.
    #[error(
        "this is no file of conversations from Tandem; choose one that it exported. Nothing was imported"
    )]
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
    /// Who took part in rounds, which name them by their place here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) pairs: Vec<Pair>,
    /// All branches; a parent comes before its children.
    pub messages: Vec<SavedMessage>,
    /// Whether the file does not know its times.
    #[serde(skip)]
    pub(super) undated: bool,
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
    pub(super) round: u32,
    pub(super) mode: String,
    pub(super) scheme: String,
    pub(super) gamma: u32,
    pub(super) drafted: u32,
    pub(super) accepted: u32,
    pub(super) ignored: u32,
    #[serde(default)]
    pub(super) alternatives: u32,
    #[serde(default)]
    pub(super) followed: u32,
    pub(super) outcome: String,
    pub(super) draft_ms: f64,
    pub(super) rtt_ms: f64,
    pub(super) queue_ms: f64,
    pub(super) verify_ms: f64,
    pub(super) residual_ms: f64,
    pub(super) uplink_bytes: u64,
    pub(super) downlink_bytes: u64,
    pub(super) started_at: i64,
    /// Who took part, by its place in the conversation's pairs; none where nobody wrote it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pair: Option<usize>,
    /// How to go on and why, where it was decided in this round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) decision: Option<String>,
    /// Its tokens' ids, and the text that each completed. Without them, who made which token is not
    /// known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ids: Vec<TokenId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) pieces: Vec<String>,
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
        if !possible(self.created_at) || !possible(self.updated_at) {
            return Some(IMPOSSIBLE_TIME.into());
        }
        let name = |text: &String| text.len() <= NAME;
        let names = |p: &Pair| [&p.edge, &p.verifier, &p.drafter].into_iter().all(name);
        if self.pairs.len() > 10_000 || !self.pairs.iter().all(names) {
            return Some("who wrote its answers is too long".into());
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
                m.problem(self.pairs.len()).map(|problem| format!("message {n} {problem}"))
            })
        })
    }
}

/// What is said of a time before 1970 or after the year 9999.
const IMPOSSIBLE_TIME: &str = "has a time that no clock shows";
/// Bytes of a name, and of a round's decision, at most.
const NAME: usize = 1024;

fn possible(time: i64) -> bool {
    (0..=LATEST).contains(&time)
}

impl SavedMessage {
    fn problem(&self, pairs: usize) -> Option<&'static str> {
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
        } else if !possible(self.created_at) {
            Some(IMPOSSIBLE_TIME)
        } else if self.role == "user" && !self.rounds.is_empty() {
            Some("has rounds, and is a question")
        } else if !self.rounds.iter().enumerate().all(|(i, r)| r.makes_sense(i, pairs)) {
            Some("has an impossible round")
        } else {
            None
        }
    }
}

impl SavedRound {
    fn makes_sense(&self, at: usize, pairs: usize) -> bool {
        let word =
            |w: &str| (1..=16).contains(&w.len()) && w.bytes().all(|b| b.is_ascii_lowercase());
        let time = |ms: f64| (0.0..1e9).contains(&ms);
        self.round as usize == at
            // One of a round's, not of an answer's.
            && ["dssd", "edge", "device"].contains(&self.mode.as_str())
            && self.pair.is_none_or(|pair| pair < pairs)
            && self.decision.as_ref().is_none_or(|text| text.len() <= NAME)
            && possible(self.started_at)
            && self.uplink_bytes.max(self.downlink_bytes) <= 1 << 40
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
            let mut pairs = Vec::new();
            for row in &rows {
                let mut message = saved_message(row, place)?;
                for row in self.rounds(row.try_get("id")?).await? {
                    let mut round = saved_round(&row)?;
                    round.pair = self.saved_pair(row.try_get("pair")?, &mut pairs).await?;
                    message.rounds.push(round);
                }
                messages.push(message);
            }
            let pairs = pairs.into_iter().map(|(_, pair)| pair).collect();
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
                pairs,
                messages,
                undated: false,
            });
        }
        Ok(Saved::of(conversations))
    }

    /// The place of a pair among those of a file, where it is added; none for one that is not known.
    async fn saved_pair(
        &self,
        id: i64,
        pairs: &mut Vec<(i64, Pair)>,
    ) -> Result<Option<usize>, StoreError> {
        if let Some(at) = pairs.iter().position(|(known, _)| *known == id) {
            return Ok(Some(at));
        }
        let row = sqlx::query("SELECT * FROM pairs WHERE id = ?")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        let Some(found) = row.as_ref().map(pair).transpose()?.filter(|p| *p != Pair::default())
        else {
            return Ok(None);
        };
        pairs.push((id, found));
        Ok(Some(pairs.len() - 1))
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
        tokens: count(row, "tokens")?.cast_signed(),
        ttft_ms: figure(row, "ttft_ms")?,
        tokens_per_s: figure(row, "tokens_per_s")?,
        created_at: time(row, "created_at")?,
        rounds: Vec::new(),
    })
}

fn saved_round(row: &SqliteRow) -> Result<SavedRound, StoreError> {
    let (ids, pieces) = tokens(row)?;
    Ok(SavedRound {
        ids,
        pieces,
        round: small(row, "round")?,
        mode: row.try_get("mode")?,
        scheme: row.try_get("scheme")?,
        gamma: small(row, "gamma")?,
        drafted: small(row, "drafted")?,
        accepted: small(row, "accepted")?,
        ignored: small(row, "ignored")?,
        alternatives: small(row, "alternatives")?,
        followed: small(row, "followed")?,
        outcome: row.try_get("outcome")?,
        draft_ms: ms(row, "draft_ms")?,
        rtt_ms: ms(row, "rtt_ms")?,
        queue_ms: ms(row, "queue_ms")?,
        verify_ms: ms(row, "verify_ms")?,
        residual_ms: ms(row, "residual_ms")?,
        uplink_bytes: count(row, "uplink_bytes")?,
        downlink_bytes: count(row, "downlink_bytes")?,
        started_at: time(row, "started_at")?,
        pair: None,
        decision: row.try_get("decision")?,
    })
}
