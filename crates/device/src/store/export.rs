//! Rounds as CSV or JSON, for other programs. No text of a conversation goes out.

use super::values::{ms, pair};
use super::{Filter, Store, StoreError};
use crate::record::Pair;
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row};
use std::collections::HashMap;
use std::io::{BufWriter, Write};

/// Columns of an export, in order; the first [`TEXTS`] are text.
const COLUMNS: [&str; 26] = [
    "edge",
    "verifier",
    "drafter",
    "mode",
    "scheme",
    "outcome",
    "decision",
    "conversation",
    "message",
    "round",
    "vocab",
    "gamma",
    "drafted",
    "accepted",
    "ignored",
    "alternatives",
    "followed",
    "draft_ms",
    "rtt_ms",
    "queue_ms",
    "verify_ms",
    "residual_ms",
    "uplink_bytes",
    "downlink_bytes",
    "started_at",
    "tokens",
];
const TEXTS: usize = 7;

/// Form of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One line a round, with a head line.
    Csv,
    /// One object with the filter, the view's figures and the rounds.
    Json,
}

impl Store {
    /// Writes the rounds that are meant; returns how many.
    ///
    /// # Errors
    /// If the database fails, or the file cannot be written.
    pub async fn export_rounds(
        &self,
        filter: &Filter,
        format: Format,
        out: impl Write,
    ) -> Result<u64, StoreError> {
        let broken = |e: std::io::Error| StoreError::Export(e.to_string());
        let mut out = BufWriter::new(out);
        match format {
            Format::Csv => writeln!(out, "{}", COLUMNS.join(",")).map_err(broken)?,
            Format::Json => {
                let metrics = json!(self.metrics(filter).await?);
                let filter = json!(filter);
                write!(out, "{{\"filter\":{filter},\"metrics\":{metrics},\"rounds\":[")
                    .map_err(broken)?;
            }
        }
        let pairs = self.pairs().await?;
        let mut sql = QueryBuilder::new(
            "SELECT r.*, min(max(r.accepted, 0), 1 << 20) + (r.followed = 1) + (r.outcome <> 'continue') AS tokens,
             (SELECT conversation FROM messages WHERE id = r.message) AS conversation",
        );
        filter.rounds(&mut sql, "rounds_in_time");
        let mut rows = sql.build().fetch(&self.pool);
        let (mut count, unknown) = (0, Pair::default());
        while let Some(row) = rows.try_next().await? {
            let who = pairs.get(&row.try_get("pair")?).unwrap_or(&unknown);
            let line = match format {
                Format::Csv => csv(&row, who)?,
                Format::Json => {
                    format!("{}\n{}", if count > 0 { "," } else { "" }, object(&row, who)?)
                }
            };
            out.write_all(line.as_bytes()).map_err(broken)?;
            count += 1;
        }
        if format == Format::Json {
            out.write_all(b"\n]}\n").map_err(broken)?;
        }
        out.flush().map_err(broken)?;
        Ok(count)
    }

    async fn pairs(&self) -> Result<HashMap<i64, Pair>, StoreError> {
        let rows = sqlx::query("SELECT * FROM pairs").fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, pair(row)?))).collect()
    }
}

/// The value of a column; text, number or null.
fn value(row: &SqliteRow, pair: &Pair, column: &str) -> Result<Value, StoreError> {
    Ok(match column {
        "edge" => json!(pair.edge),
        "verifier" => json!(pair.verifier),
        "drafter" => json!(pair.drafter),
        "vocab" => json!(pair.vocab),
        _ if COLUMNS[..TEXTS].contains(&column) => {
            json!(row.try_get::<Option<String>, _>(column)?)
        }
        _ if column.ends_with("_ms") => json!(ms(row, column)?),
        _ => json!(row.try_get::<Option<i64>, _>(column)?),
    })
}

fn csv(row: &SqliteRow, pair: &Pair) -> Result<String, StoreError> {
    let mut line = String::new();
    for (i, column) in COLUMNS.iter().enumerate() {
        if i > 0 {
            line.push(',');
        }
        match value(row, pair, column)? {
            Value::Null => {}
            Value::String(text) => line.push_str(&cell(&text)),
            number => line.push_str(&number.to_string()),
        }
    }
    line.push('\n');
    Ok(line)
}

/// A text in quotes. A box chooses its model's name, and a spreadsheet would run one that begins as
/// a formula does.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    format!("\"{}{}\"", if formula { "'" } else { "" }, text.replace('"', "\"\""))
}

fn object(row: &SqliteRow, pair: &Pair) -> Result<Value, StoreError> {
    let mut object = serde_json::Map::new();
    for column in COLUMNS {
        object.insert(column.into(), value(row, pair, column)?);
    }
    Ok(Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn a_cell_is_text_whatever_it_says() {
        assert_eq!(cell("plain"), "\"plain\"");
        assert_eq!(cell("a \"b\", c"), "\"a \"\"b\"\", c\"");
        assert_eq!(cell("=1+1"), "\"'=1+1\"");
    }
}
