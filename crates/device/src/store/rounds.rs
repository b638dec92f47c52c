//! Rounds: one row each, written together with the text that it gave.

use super::{Store, StoreError, found};
use crate::record::{Pair, RoundRecord, Totals, Writer};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use tandem_speculation::TokenId;

impl Store {
    /// Adds a round and its text to an answer.
    ///
    /// # Errors
    /// If the message is gone, or the database fails.
    pub async fn add_round(
        &self,
        message: i64,
        r: &RoundRecord,
        text: &str,
        totals: &Totals,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let pair = pair_id(&mut transaction, &r.pair).await?;
        let before: Option<Option<String>> =
            sqlx::query_scalar("SELECT writer FROM messages WHERE id = ?")
                .bind(message)
                .fetch_optional(&mut *transaction)
                .await?;
        let now = Writer::parse(r.mode);
        let writer = before.flatten().map_or(now, |before| Writer::parse(&before).with(now));
        let done = sqlx::query(
            "UPDATE messages SET content = content || ?1, tokens = ?2, ttft_ms = ?3,
                 tokens_per_s = ?4, writer = ?5,
                 gamma = CASE WHEN writer IS NULL OR gamma = ?6 THEN ?6 END,
                 pair = CASE WHEN pair IS NULL OR ?7 THEN ?8 ELSE pair END
             WHERE id = ?9",
        )
        .bind(text)
        .bind(totals.tokens as i64)
        .bind(totals.ttft_ms)
        .bind(totals.tokens_per_s)
        .bind(writer.as_str())
        .bind(r.gamma)
        // An answer belongs to the box that took part in it, be it only in some rounds.
        .bind(!r.pair.edge.is_empty())
        .bind(pair)
        .bind(message)
        .execute(&mut *transaction)
        .await?;
        found(done.rows_affected(), "message")?;
        sqlx::query(
            "INSERT INTO rounds (message, round, mode, scheme, gamma, drafted, accepted, ignored,
                 outcome, draft_ms, rtt_ms, queue_ms, verify_ms, residual_ms, uplink_bytes,
                 downlink_bytes, started_at, pair, decision, alternatives, followed)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(message)
        .bind(r.round)
        .bind(r.mode)
        .bind(r.scheme)
        .bind(r.gamma)
        .bind(r.drafted)
        .bind(r.accepted)
        .bind(r.ignored)
        .bind(r.outcome)
        .bind(r.draft_ms)
        .bind(r.rtt_ms)
        .bind(r.queue_ms)
        .bind(r.verify_ms)
        .bind(r.residual_ms)
        .bind(r.uplink_bytes as i64)
        .bind(r.downlink_bytes as i64)
        .bind(r.started_at)
        .bind(pair)
        .bind(r.decision.as_deref())
        .bind(r.alternatives)
        .bind(r.followed)
        .execute(&mut *transaction)
        .await?;
        insert_tokens(&mut transaction, message, r.round, &r.tokens, &r.pieces).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// All tokens of an answer, as they came; `None` where a round did not keep them, as before the
    /// database had a place for them.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn answer_ids(&self, message: i64) -> Result<Option<Vec<TokenId>>, StoreError> {
        let mut all = Vec::new();
        for row in self.rounds(message).await? {
            if row.try_get::<Option<&[u8]>, _>("ids")?.is_none() {
                return Ok(None);
            }
            all.extend(tokens(&row)?.0);
        }
        Ok(Some(all))
    }

    /// The rounds of an answer, in order, each with what [`tokens`] reads.
    pub(super) async fn rounds(&self, message: i64) -> Result<Vec<SqliteRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT r.*, t.ids, t.pieces FROM rounds r
             LEFT JOIN round_tokens t ON t.message = r.message AND t.round = r.round
             WHERE r.message = ? ORDER BY r.round",
        )
        .bind(message)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }
}

/// Keeps the tokens of a round, and the text that each completed.
pub(super) async fn insert_tokens(
    connection: &mut SqliteConnection,
    message: i64,
    round: u32,
    ids: &[TokenId],
    pieces: &[String],
) -> Result<(), StoreError> {
    let ids: Vec<u8> = ids.iter().flat_map(|id| id.0.to_le_bytes()).collect();
    sqlx::query("INSERT INTO round_tokens VALUES (?, ?, ?, ?)")
        .bind(message)
        .bind(round)
        .bind(ids)
        .bind(serde_json::to_string(pieces).unwrap_or_default())
        .execute(connection)
        .await?;
    Ok(())
}

/// The tokens of a round from a row of [`Store::rounds`], and the text that each completed: as many of
/// both, and none where they were not kept.
pub(super) fn tokens(row: &SqliteRow) -> Result<(Vec<TokenId>, Vec<String>), StoreError> {
    let ids: Option<Vec<u8>> = row.try_get("ids")?;
    let pieces: Option<String> = row.try_get("pieces")?;
    let (ids, _) = ids.as_deref().unwrap_or_default().as_chunks();
    let ids: Vec<TokenId> = ids.iter().map(|id| TokenId(u32::from_le_bytes(*id))).collect();
    let mut pieces: Vec<String> =
        pieces.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    pieces.resize(ids.len(), String::new());
    Ok((ids, pieces))
}

/// The row of a pair, made when it is new.
pub(super) async fn pair_id(
    connection: &mut SqliteConnection,
    pair: &Pair,
) -> Result<i64, StoreError> {
    let bound = |sql| {
        sqlx::query(sql).bind(&pair.edge).bind(&pair.verifier).bind(&pair.drafter).bind(pair.vocab)
    };
    let known =
        "SELECT id FROM pairs WHERE edge = ? AND verifier = ? AND drafter = ? AND vocab = ?";
    if let Some(row) = bound(known).fetch_optional(&mut *connection).await? {
        return Ok(row.try_get("id")?);
    }
    let new = "INSERT INTO pairs (edge, verifier, drafter, vocab) VALUES (?, ?, ?, ?)";
    Ok(bound(new).execute(connection).await?.last_insert_rowid())
}
