//! Full-text search in titles and messages, whatever branch they are on.

use super::{Store, StoreError};
use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hit {
    /// In which conversation.
    pub conversation_id: i64,
    /// Its title.
    pub title: String,
    /// In which message; none if in the title.
    pub message_id: Option<i64>,
    /// `user` or `assistant`.
    pub role: Option<String>,
    /// Milliseconds since the epoch: of the message, or of the conversation's last one.
    pub at: i64,
    /// The place, with what was looked for marked.
    pub snippet: Vec<Piece>,
}

/// A piece of a snippet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// Its text.
    pub text: String,
    /// Whether it is what was looked for.
    pub hit: bool,
}

/// Around a match within a snippet; control characters that no text has any use for.
const MARKS: [char; 2] = ['\u{2}', '\u{3}'];

const TITLES: &str = "
    SELECT c.id AS conversation, c.title, NULL AS message, NULL AS role, c.updated_at AS at,
        highlight(title_text, 0, char(2), char(3)) AS snippet
    FROM title_text JOIN conversations c ON c.id = title_text.rowid
    WHERE title_text MATCH ? AND c.deleted_at IS NULL ORDER BY title_text.rank LIMIT ?";
const TEXTS: &str = "
    SELECT c.id AS conversation, c.title, m.id AS message, m.role, m.created_at AS at,
        snippet(message_text, 0, char(2), char(3), '…', 14) AS snippet
    FROM message_text JOIN messages m ON m.id = message_text.rowid
    JOIN conversations c ON c.id = m.conversation
    WHERE message_text MATCH ? AND c.deleted_at IS NULL ORDER BY message_text.rank LIMIT ?";
/// For scripts without spaces, whose words the index does not know.
const SCAN: &str = "
    SELECT c.id AS conversation, c.title, m.id AS message, m.role, m.created_at AS at,
        substr(m.content, max(1, instr(m.content, ?1) - 24), 80) AS snippet
    FROM messages m JOIN conversations c ON c.id = m.conversation
    WHERE instr(m.content, ?1) > 0 AND c.deleted_at IS NULL ORDER BY m.id DESC LIMIT ?2";

impl Store {
    /// Finds what has all words of `query`, the last of which may be unfinished: titles first,
    /// then messages, the best first. Nothing in `query` is syntax.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn search(&self, query: &str, limit: u32) -> Result<Vec<Hit>, StoreError> {
        let query: String = query.chars().take(200).collect();
        let Some(expression) = expression(&query) else { return Ok(Vec::new()) };
        let mut hits = Vec::new();
        for source in [TITLES, TEXTS] {
            let rows =
                sqlx::query(source).bind(&expression).bind(limit).fetch_all(&self.pool).await?;
            for row in rows {
                hits.push(hit(&row, |text| pieces(&text))?);
            }
        }
        if hits.is_empty() && query.chars().any(without_spaces) {
            let wanted = query.trim();
            let rows = sqlx::query(SCAN).bind(wanted).bind(limit).fetch_all(&self.pool).await?;
            for row in rows {
                hits.push(hit(&row, |text| around(&text, wanted))?);
            }
        }
        Ok(hits)
    }
}

/// Each word as a quoted phrase, so that nothing in it means anything to FTS5.
fn expression(query: &str) -> Option<String> {
    // FTS5 reads up to the first NUL, so that ends a word too.
    let words = query.split(|c: char| c.is_whitespace() || c.is_control());
    let words = words.filter(|w| w.chars().any(char::is_alphanumeric));
    let quoted: Vec<String> = words.map(|w| format!("\"{}\"", w.replace('"', "\"\""))).collect();
    (!quoted.is_empty()).then(|| quoted.join(" ") + "*")
}

fn without_spaces(c: char) -> bool {
    // Thai to Khmer, kana, CJK ideographs, Hangul.
    matches!(c, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

fn hit(row: &SqliteRow, cut: impl Fn(String) -> Vec<Piece>) -> Result<Hit, StoreError> {
    Ok(Hit {
        conversation_id: row.try_get("conversation")?,
        title: row.try_get("title")?,
        message_id: row.try_get("message")?,
        role: row.try_get("role")?,
        at: row.try_get("at")?,
        snippet: cut(row.try_get("snippet")?),
    })
}

fn pieces(marked: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut hit = false;
    for text in marked.split(MARKS) {
        if !text.is_empty() {
            pieces.push(Piece { text: text.to_owned(), hit });
        }
        hit = !hit;
    }
    pieces
}

fn around(text: &str, wanted: &str) -> Vec<Piece> {
    let marked = format!("{}{wanted}{}", MARKS[0], MARKS[1]);
    pieces(&text.replacen(wanted, &marked, 1))
}
