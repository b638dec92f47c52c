//! What the user was shown and what is in the database's file: read on a connection of its own, as
//! another program would, and compared.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, Row};
use std::path::Path;
use tandem_speculation::TokenId;

/// A message as the user knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    pub id: i64,
    pub question: bool,
    /// The tokens of each round of an answer.
    pub rounds: Vec<Vec<TokenId>>,
    pub text: String,
    pub status: String,
}

/// What is being written and may be there or not when the program dies.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Pending {
    #[default]
    Nothing,
    /// A question and its still empty answer.
    Ask(String),
    /// One more answer.
    Again,
    /// A round of the last message: its tokens and its text.
    Round(Vec<TokenId>, String),
    /// The end of the last message, with the text that was held back.
    Finish(String),
}

/// All messages of the conversation, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub said: Vec<Said>,
    pub pending: Pending,
}

/// What a database may lack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Nothing that was shown.
    Nothing,
    /// The last things that were written: its log was torn.
    Tail,
}

/// Opens the file as another program would.
pub async fn connect(path: &Path) -> sqlx::Result<SqliteConnection> {
    SqliteConnectOptions::new().filename(path).connect().await
}

/// Reads all messages.
pub async fn read(path: &Path) -> Result<Vec<Said>, String> {
    let mut db = connect(path).await.map_err(|e| format!("the database cannot be read: {e}"))?;
    let said = rows(&mut db).await;
    let _ = db.close().await;
    said
}

/// The same on an open connection.
pub async fn rows(db: &mut SqliteConnection) -> Result<Vec<Said>, String> {
    let failed = |e: sqlx::Error| format!("the database cannot be read: {e}");
    let messages =
        sqlx::query("SELECT id, role, content, status, tokens FROM messages ORDER BY id");
    let messages = messages.fetch_all(&mut *db).await.map_err(failed)?;
    let rounds = sqlx::query(
        "SELECT r.message, r.round, t.ids, t.pieces FROM rounds r
         LEFT JOIN round_tokens t ON t.message = r.message AND t.round = r.round
         ORDER BY r.message, r.round",
    );
    let rounds = rounds.fetch_all(db).await.map_err(failed)?;
    let mut all = Vec::new();
    let mut stored = 0;
    for row in messages {
        let mut said = Said {
            id: row.get("id"),
            question: row.get::<&str, _>("role") == "user",
            text: row.get("content"),
            status: row.get("status"),
            rounds: Vec::new(),
        };
        let mut pieces = String::new();
        for row in rounds.iter().filter(|r| r.get::<i64, _>("message") == said.id) {
            let (n, at) = (row.get::<i64, _>("round"), said.rounds.len() as i64);
            if n != at {
                return Err(format!("message {}: round {n} is stored where {at} belongs", said.id));
            }
            let Some(ids) = row.get::<Option<Vec<u8>>, _>("ids") else {
                return Err(format!("message {}: round {n} is stored without tokens", said.id));
            };
            let (ids, _) = ids.as_chunks();
            said.rounds.push(ids.iter().map(|id| TokenId(u32::from_le_bytes(*id))).collect());
            let texts: Vec<String> =
                serde_json::from_str(row.get("pieces")).map_err(|e| e.to_string())?;
            pieces.push_str(&texts.concat());
        }
        stored += said.rounds.len();
        let tokens: usize = said.rounds.iter().map(Vec::len).sum();
        if tokens as i64 != row.get::<i64, _>("tokens") {
            return Err(format!(
                "message {}: its rounds have {tokens} tokens, its row says {}",
                said.id,
                row.get::<i64, _>("tokens")
            ));
        }
        // Text that was held back for a character that never came stands between rounds.
        let held = |text: &str| text.chars().filter(|c| *c != '\u{fffd}').collect::<String>();
        if !said.question && held(&pieces) != held(&said.text) {
            return Err(format!(
                "message {}: its rounds give {pieces:?}, its text is {:?}",
                said.id, said.text
            ));
        }
        all.push(said);
    }
    if stored != rounds.len() {
        return Err("there are rounds of no message".into());
    }
    Ok(all)
}

impl Ledger {
    /// Compares, and then takes over what the database has.
    pub fn settle(&mut self, rows: Vec<Said>, missing: Missing) -> Result<(), String> {
        let mut found = rows.iter().peekable();
        let pending = std::mem::take(&mut self.pending);
        let last = self.said.len();
        for (i, said) in self.said.iter().enumerate() {
            // An answer that failed before its first word makes room for the next one.
            let gone = pending == Pending::Again && said.text.is_empty() && !said.question;
            if gone && found.peek().is_none_or(|row| row.id != said.id) {
                continue;
            }
            let Some(row) = found.next() else {
                if missing == Missing::Tail {
                    break;
                }
                return Err(format!("message {} is lost: {said:?}", said.id));
            };
            let newest = i + 1 == last;
            if !agrees(said, row, if newest { &pending } else { &Pending::Nothing }) {
                if missing == Missing::Tail && is_earlier(said, row) && found.peek().is_none() {
                    break;
                }
                return Err(format!("stored is {row:?}, shown was {said:?}, with {pending:?}"));
            }
        }
        let more: Vec<&Said> = found.collect();
        let empty = |row: &Said| !row.question && row.text.is_empty() && row.rounds.is_empty();
        let expected = match (&pending, &more[..]) {
            (_, []) => true,
            (Pending::Ask(text), [q, a]) => q.question && q.text == *text && empty(a),
            (Pending::Again, [a]) => empty(a),
            _ => false,
        };
        if !expected {
            return Err(format!("there are messages that nobody wrote: {more:?}"));
        }
        self.said = rows;
        Ok(())
    }
}

fn agrees(said: &Said, row: &Said, pending: &Pending) -> bool {
    let same = |rounds: &[Vec<TokenId>], text: &str| row.rounds == rounds && row.text == text;
    let with = |more: &str| format!("{}{more}", said.text);
    said.id == row.id
        && said.question == row.question
        && (same(&said.rounds, &said.text)
            || match pending {
                Pending::Round(tokens, text) => {
                    let mut rounds = said.rounds.clone();
                    rounds.push(tokens.clone());
                    same(&rounds, &with(text))
                }
                Pending::Finish(rest) => same(&said.rounds, &with(rest)),
                _ => false,
            })
}

/// Whether a row is what it was some writes before.
fn is_earlier(said: &Said, row: &Said) -> bool {
    said.id == row.id
        && said.question == row.question
        && said.rounds.starts_with(&row.rounds)
        && said.text.starts_with(&row.text)
}
