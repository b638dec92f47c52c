//! Rounds: one row each, written together with the text that it gave.

use super::{Store, StoreError, found};
use crate::record::{RoundRecord, Totals};

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
        let done = sqlx::query(
            "UPDATE messages SET content = content || ?, tokens = ?, ttft_ms = ?, tokens_per_s = ?
             WHERE id = ?",
        )
        .bind(text)
        .bind(totals.tokens as i64)
        .bind(totals.ttft_ms)
        .bind(totals.tokens_per_s)
        .bind(message)
        .execute(&mut *transaction)
        .await?;
        found(done.rows_affected(), "message")?;
        sqlx::query(
            "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }
}
