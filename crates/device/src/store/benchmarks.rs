//! Benchmarks that were run.

use super::rounds::pair_id;
use super::values::{count, figure, ms, pair, small_or_none, time};
use super::{Store, StoreError, found};
use crate::benchmark::{Benchmark, BenchmarkRun};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// How many are listed.
const LISTED: i64 = 50;

impl Store {
    /// Keeps a benchmark; returns its row.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_benchmark(&self, b: &Benchmark) -> Result<i64, StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let pair_row = pair_id(&mut transaction, &b.pair).await?;
        let id = sqlx::query(
            "INSERT INTO benchmarks (started_at, pair, version, max_tokens) VALUES (?, ?, ?, ?)",
        )
        .bind(b.started_at)
        .bind(pair_row)
        .bind(&b.version)
        .bind(b.max_tokens as i64)
        .execute(&mut *transaction)
        .await?
        .last_insert_rowid();
        for r in &b.runs {
            sqlx::query(
                "INSERT INTO benchmark_runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(id)
            .bind(&r.mode)
            .bind(r.gamma)
            .bind(&r.prompt)
            .bind(r.tokens as i64)
            .bind(r.later_tokens as i64)
            .bind(r.later_ms)
            .bind(r.ttft_ms)
            .bind(r.rounds as i64)
            .bind(r.tested as i64)
            .bind(r.accepted as i64)
            .bind(r.bytes as i64)
            .bind(r.same)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(id)
    }

    /// The last benchmarks, the newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn benchmarks(&self) -> Result<Vec<Benchmark>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.*, p.edge, p.verifier, p.drafter, p.vocab FROM benchmarks b
             JOIN pairs p ON p.id = b.pair ORDER BY b.id DESC LIMIT ?",
        )
        .bind(LISTED)
        .fetch_all(&self.pool)
        .await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let id: i64 = row.try_get("id")?;
            let runs =
                sqlx::query("SELECT * FROM benchmark_runs WHERE benchmark = ? ORDER BY rowid")
                    .bind(id)
                    .fetch_all(&self.pool)
                    .await?;
            all.push(Benchmark {
                id,
                started_at: time(&row, "started_at")?,
                pair: pair(&row)?,
                version: row.try_get("version")?,
                max_tokens: count(&row, "max_tokens")?,
                runs: runs.iter().map(run).collect::<Result<_, _>>()?,
            });
        }
        Ok(all)
    }

    /// Deletes a benchmark.
    ///
    /// # Errors
    /// If there is none, or the database fails.
    pub async fn delete_benchmark(&self, id: i64) -> Result<(), StoreError> {
        let done =
            sqlx::query("DELETE FROM benchmarks WHERE id = ?").bind(id).execute(&self.pool).await?;
        found(done.rows_affected(), "benchmark")
    }
}

fn run(row: &SqliteRow) -> Result<BenchmarkRun, StoreError> {
    let count = |name: &str| count(row, name);
    Ok(BenchmarkRun {
        mode: row.try_get("mode")?,
        gamma: small_or_none(row, "gamma")?,
        prompt: row.try_get("prompt")?,
        tokens: count("tokens")?,
        later_tokens: count("later_tokens")?,
        later_ms: ms(row, "later_ms")?,
        ttft_ms: figure(row, "ttft_ms")?,
        rounds: count("rounds")?,
        tested: count("tested")?,
        accepted: count("accepted")?,
        bytes: count("bytes")?,
        same: row.try_get("same")?,
    })
}
