//! Full-text search in titles and messages, whatever branch they are on.
//!
//! The index knows groups of three characters, so a word is found wherever it stands: inside a sentence
//! of a script without spaces, as a sign, as a part of a word. A word of one or two characters is looked
//! up as all the groups that begin with it. Where those are too many nearly every text has one, and the
//! texts themselves are read, the newest first, which soon finds enough. Case and the accents of Latin
//! letters do not count.

use super::values::time;
use super::{Store, StoreError};
use futures_util::TryStreamExt;
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};
use unicode_normalization::UnicodeNormalization;

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

/// Characters and words of a query at most.
const QUERY: usize = 200;
const WORDS: usize = 16;
/// Characters of a group.
const GROUP: usize = 3;
/// Groups that a short word is looked up as, at most.
const GROUPS: usize = 500;
/// Characters of a snippet before the first mark, and in all.
const BEFORE: usize = 24;
const SNIPPET: usize = 90;

/// Where is searched.
struct Source {
    /// Its index, and the groups that are in it.
    index: &'static str,
    groups: &'static str,
    /// The columns of a [`Hit`] and the `text`.
    columns: &'static str,
    /// The rows that have the text, and what they are found with in the index.
    rows: &'static str,
    id: &'static str,
    /// The rest of the query.
    condition: &'static str,
}

const SOURCES: [Source; 2] = [
    Source {
        index: "title_text",
        groups: "title_groups",
        columns: "SELECT c.id AS conversation, c.title, NULL AS message, NULL AS role,
            c.updated_at AS at, c.title AS text FROM ",
        rows: "conversations c",
        id: "c.id",
        condition: " WHERE c.deleted_at IS NULL",
    },
    Source {
        index: "message_text",
        groups: "message_groups",
        columns: "SELECT c.id AS conversation, c.title, m.id AS message, m.role,
            m.created_at AS at, m.content AS text FROM ",
        rows: "messages m",
        id: "m.id",
        condition: " CROSS JOIN conversations c ON c.id = m.conversation
            WHERE c.deleted_at IS NULL AND m.status <> 'streaming'",
    },
];

impl Store {
    /// Finds what has all words of `query` or begins or goes on with them: titles first, then messages,
    /// the newest first. Nothing in `query` is syntax.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn search(&self, query: &str, limit: u32) -> Result<Vec<Hit>, StoreError> {
        let words = words(query);
        let mut hits = Vec::new();
        if words.is_empty() {
            return Ok(hits);
        }
        for source in &SOURCES {
            let Source { index, rows, id, condition, .. } = source;
            let mut sql = QueryBuilder::new(source.columns);
            match self.expression(source, &words).await? {
                Wanted::Nothing => continue,
                Wanted::All => {
                    sql.push(rows).push(condition).push(" ORDER BY ").push(id).push(" DESC");
                }
                Wanted::Matching(expression) => {
                    sql.push(index).push(" x CROSS JOIN ").push(rows).push(" ON ").push(id);
                    sql.push(" = x.rowid").push(condition).push(" AND x.").push(index);
                    sql.push(" MATCH ").push_bind(expression).push(" ORDER BY x.rowid DESC");
                }
            }
            hits.extend(self.matching(sql, &words, limit as usize).await?);
        }
        Ok(hits)
    }

    /// The first rows whose text really has all words.
    async fn matching(
        &self,
        mut sql: QueryBuilder<Sqlite>,
        words: &[Vec<char>],
        limit: usize,
    ) -> Result<Vec<Hit>, StoreError> {
        let mut hits = Vec::new();
        let mut rows = sql.build().fetch(&self.pool);
        while hits.len() < limit {
            let Some(row) = rows.try_next().await? else { break };
            if let Some(snippet) = snippet(row.try_get("text")?, words) {
                hits.push(hit(&row, snippet)?);
            }
        }
        Ok(hits)
    }

    /// What the index is asked for.
    async fn expression(&self, source: &Source, words: &[Vec<char>]) -> Result<Wanted, StoreError> {
        let mut parts = Vec::new();
        for word in words {
            if word.len() >= GROUP {
                parts.push(quoted(&word.iter().collect::<String>()));
                continue;
            }
            let begin: String = word.iter().collect();
            let mut sql = QueryBuilder::new("SELECT term FROM ");
            sql.push(source.groups).push(" WHERE term >= ").push_bind(begin.clone());
            sql.push(" AND term < ").push_bind(begin + "\u{10ffff}");
            sql.push(" LIMIT ").push_bind(GROUPS as i64 + 1);
            let groups = sql.build().fetch_all(&self.pool).await?;
            if groups.is_empty() {
                return Ok(Wanted::Nothing);
            }
            if groups.len() <= GROUPS {
                let groups = groups.iter().map(|row| Ok(quoted(row.try_get("term")?)));
                let groups = groups.collect::<Result<Vec<_>, StoreError>>()?;
                parts.push(format!("({})", groups.join(" OR ")));
            }
        }
        Ok(if parts.is_empty() { Wanted::All } else { Wanted::Matching(parts.join(" AND ")) })
    }
}

/// Which rows can have all words.
enum Wanted {
    Nothing,
    All,
    /// Those that match this.
    Matching(String),
}

/// A text that means nothing else to FTS5.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The words of a query, folded.
fn words(query: &str) -> Vec<Vec<char>> {
    let query: String = query.chars().take(QUERY).collect();
    // FTS5 reads up to the first NUL, so that ends a word too.
    let words = query.split(|c: char| c.is_whitespace() || c.is_control());
    let folded = words.map(|word| word.chars().flat_map(folded).collect::<Vec<_>>());
    folded.filter(|word| !word.is_empty()).take(WORDS).collect()
}

/// A character as it is compared: small, without an accent.
fn folded(c: char) -> impl Iterator<Item = char> {
    // As FTS5 does: accents of other scripts make other letters.
    let base = c.nfd().next().filter(char::is_ascii).unwrap_or(c);
    Some(base).filter(|c| !is_accent(*c)).into_iter().flat_map(char::to_lowercase)
}

/// The marks that FTS5 leaves out.
fn is_accent(c: char) -> bool {
    const MARKS: u64 = 0x0003_61f8_0802_9fdf;
    matches!(c, '\u{300}'..='\u{331}') && MARKS >> (c as u32 - 0x300) & 1 == 1
}

/// The surroundings of the first mark in `text`, with all words in it marked; `None` where a word is
/// missing.
fn snippet(text: &str, words: &[Vec<char>]) -> Option<Vec<Piece>> {
    // Each folded character, and the one in the text that it came from.
    let chars: Vec<char> = text.chars().collect();
    let mut flat = Vec::with_capacity(chars.len());
    let mut from = Vec::with_capacity(chars.len());
    for (i, c) in chars.iter().enumerate() {
        for c in folded(*c) {
            flat.push(c);
            from.push(i);
        }
    }
    let mut first = usize::MAX;
    for word in words {
        first = first.min(*from.get(find(&flat, word, 0)?)?);
    }
    let begin = first.saturating_sub(BEFORE);
    let end = chars.len().min(begin + SNIPPET);
    let mut marked = vec![false; end - begin];
    for word in words {
        let mut at = from.partition_point(|i| *i < begin);
        while let Some(found) = find(&flat, word, at).filter(|found| from[*found] < end) {
            let last = from[found + word.len() - 1];
            marked[from[found] - begin..(last + 1 - begin).min(end - begin)].fill(true);
            at = found + word.len();
        }
    }
    // A mark above a letter belongs to it.
    for i in 1..marked.len() {
        marked[i] |= marked[i - 1] && is_accent(chars[begin + i]);
    }
    let mut pieces: Vec<Piece> = Vec::new();
    let mut push = |text: String, hit| match pieces.last_mut() {
        Some(last) if last.hit == hit => last.text += &text,
        _ => pieces.push(Piece { text, hit }),
    };
    if begin > 0 {
        push("…".into(), false);
    }
    chars[begin..end].iter().zip(marked).for_each(|(c, hit)| push(c.to_string(), hit));
    if end < chars.len() {
        push("…".into(), false);
    }
    Some(pieces)
}

fn find(text: &[char], word: &[char], from: usize) -> Option<usize> {
    let windows = text.get(from..)?.windows(word.len());
    windows.enumerate().find(|(_, w)| *w == word).map(|(i, _)| i + from)
}

fn hit(row: &SqliteRow, snippet: Vec<Piece>) -> Result<Hit, StoreError> {
    Ok(Hit {
        conversation_id: row.try_get("conversation")?,
        title: row.try_get("title")?,
        message_id: row.try_get("message")?,
        role: row.try_get("role")?,
        at: time(row, "at")?,
        snippet,
    })
}
